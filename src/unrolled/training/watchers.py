"""Followers of a training: a progress bar, a log in JSON lines, TensorBoard."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from unrolled.errors import MissingExtraError, RunError
from unrolled.lens import Report
from unrolled.training.files import append
from unrolled.training.history import figures
from unrolled.training.loop import Step, Watcher
from unrolled.training.measures import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 10  # steps


class Speed:
    """Tokens a second since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.tokens = 0

    def after(self, step: Step) -> float:
        """Tokens a second, ``step`` included."""
        self.tokens += step.tokens
        return self.tokens / max(time.monotonic() - self.start, 1e-9)


class ProgressBar:
    """A bar with loss, gradient norm, tokens a second and the time left."""

    def __init__(self, progress: Progress, steps: int, done: int) -> None:
        self.progress = progress
        self.speed = Speed()
        self.task = progress.add_task("training", total=steps, completed=done, figures="")
        self.loss: float | None = None
        self.validation = ""
        self.verdict = ""

    def step(self, step: Step) -> None:
        self.loss = step.loss if self.loss is None else 0.98 * self.loss + 0.02 * step.loss
        figures = (
            f"loss {self.loss:.3f}{self.validation}  |gradient| {step.gradient_norm:.2f}  "
            f"{self.verdict}{self.speed.after(step):,.0f} tokens/s"
        )
        self.progress.update(self.task, completed=step.step, figures=figures)

    def evaluated(self, step: int, scores: Scores) -> None:  # noqa: ARG002, the step is on the bar
        self.validation = f" (validation {scores.nats:.3f})"

    def seen(self, step: int, report: Report) -> None:  # noqa: ARG002
        found = report.verdict
        self.verdict = "" if found is None else f"{found.state} {found.growth:.2f}/step  "


class Gain:
    """What the last evaluation gained on the one before, in nats per token, and in how many steps."""

    def __init__(self) -> None:
        self.before: tuple[int, float] | None = None
        self.nats, self.steps = 0.0, 0

    def step(self, step: Step) -> None:
        """A step alone shows nothing."""

    def evaluated(self, step: int, scores: Scores) -> None:
        if self.before is not None:
            self.steps, self.nats = step - self.before[0], self.before[1] - scores.nats
        self.before = step, scores.nats

    def seen(self, step: int, report: Report) -> None:
        """Nor does where its gradient went."""


class JsonLog:
    """One JSON object a line: every ``LOG_EVERY`` steps, every evaluation, every report of the lens."""

    def __init__(self, file: RawIOBase, path: Path) -> None:
        self.file = file
        self.path = path
        self.speed = Speed()

    def step(self, step: Step) -> None:
        speed = self.speed.after(step)
        if step.step % LOG_EVERY == 0:
            self._write({**asdict(step), "tokens_per_second": round(speed, 1)})

    def evaluated(self, step: int, scores: Scores) -> None:
        self._write({"step": step, "validation": asdict(scores)})

    def seen(self, step: int, report: Report) -> None:
        self._write({"step": step, "lens": figures(report)})

    def _write(self, row: dict[str, object]) -> None:
        append(self.file, self.path, json.dumps(row).encode() + b"\n")


class TensorBoard:
    """Scalars for TensorBoard (the extra ``tensorboard``)."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self.writer = writer
        self.speed = Speed()

    def step(self, step: Step) -> None:
        speed = self.speed.after(step)
        if step.step % LOG_EVERY == 0:
            for name in ("loss", "gradient_norm", "learning_rate"):
                self.writer.add_scalar(f"training/{name}", getattr(step, name), step.step)
            self.writer.add_scalar("training/tokens_per_second", speed, step.step)

    def evaluated(self, step: int, scores: Scores) -> None:
        for name in ("nats", "top1", "top5"):
            self.writer.add_scalar(f"validation/{name}", getattr(scores, name), step)

    def seen(self, step: int, report: Report) -> None:
        for scan, found in figures(report).items():
            for name in ("growth", "horizon", "norm_ratio"):
                if found[name] is not None:
                    self.writer.add_scalar(f"lens/{name}/{scan}", found[name], step)


@contextmanager
def logs(*, log: Path | None = None, tensorboard: Path | None = None) -> Iterator[list[Watcher]]:
    """The logs that were asked for, open.

    Raises:
        RunError: one cannot be written.
        MissingExtraError: TensorBoard is not installed.
    """
    with ExitStack() as stack:
        found: list[Watcher] = []
        try:
            if log is not None:
                found.append(JsonLog(stack.enter_context(log.open("ab", buffering=0)), log))
            if tensorboard is not None:
                found.append(TensorBoard(stack.enter_context(_summary_writer(tensorboard))))
        except OSError as error:
            place = error.filename or log
            raise RunError(f"{place}: cannot be written ({error.strerror or error})") from None
        yield found


@contextmanager
def progress_bar(steps: int, done: int) -> Iterator[list[Watcher]]:
    """A progress bar, if standard error is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield []
        return
    columns = (
        TextColumn("{task.completed}/{task.total}", table_column=Column()),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}", table_column=Column()),  # which wraps
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield [ProgressBar(progress, steps, done)]


def _summary_writer(directory: Path) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("--tensorboard", "tensorboard", "tensorboard") from None
    return SummaryWriter(str(directory))
