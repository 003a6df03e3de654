"""Followers of a training: a progress bar, a log in JSON lines, TensorBoard."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from unrolled.errors import MissingExtraError, RunError
from unrolled.lens import Report
from unrolled.training.files import append, read_json, write_json
from unrolled.training.history import figures
from unrolled.training.loop import Callback, Step
from unrolled.training.scores import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 10  # steps
TIME = "time.json"
EVERY, AT_LEAST = 10.0, 60.0  # seconds between two lines


class Speed:
    """What is read a second since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.count = 0

    def after(self, step: Step) -> float:
        """How much a second, ``step`` included."""
        self.count += step.count
        return self.count / max(time.monotonic() - self.start, 1e-9)


class ProgressBar:
    """A bar with loss, gradient norm, what is read a second and the time left."""

    def __init__(
        self, progress: Progress, steps: int, done: int, told: Callable[[str], str] = str
    ) -> None:
        self.progress = progress
        self.told = told
        self.speed = Speed()
        self.task = progress.add_task("training", total=steps, completed=done, figures="")
        self.loss: float | None = None
        self.validation = ""
        self.verdict = ""

    def step(self, step: Step) -> None:
        self.loss = step.loss if self.loss is None else 0.98 * self.loss + 0.02 * step.loss
        figures = (
            f"loss {self.loss:.3f}{self.validation}  |gradient| {step.gradient_norm:.2f}  "
            f"{self.verdict}{self.speed.after(step):,.0f} {step.unit}/s"
        )
        self.progress.update(self.task, completed=step.step, figures=self.told(figures))

    def evaluated(self, step: int, scores: Scores) -> None:  # noqa: ARG002, the step is on the bar
        self.validation = f" (validation {scores.loss:.3f})"

    def seen(self, step: int, report: Report) -> None:  # noqa: ARG002
        worst = report.verdict
        self.verdict = "" if worst is None else f"{worst.state} {worst.growth:.2f}/step  "


class ProgressLines:
    """What ``ProgressBar`` shows, as a line now and then.

    After ``EVERY`` seconds, if the training has come on by a hundredth of its steps, or ``AT_LEAST`` have
    passed; so a short training has none.
    """

    def __init__(
        self, file: TextIO, steps: int, done: int, told: Callable[[str], str] = str
    ) -> None:
        self.file, self.steps, self.first = file, steps, done
        self.told = told
        self.speed = Speed()
        self.loss: float | None = None
        self.validation = ""
        self.said, self.at = time.monotonic(), done

    def step(self, step: Step) -> None:
        self.loss = step.loss if self.loss is None else 0.98 * self.loss + 0.02 * step.loss
        speed, now = self.speed.after(step), time.monotonic()
        waited = now - self.said
        if waited < EVERY or (waited < AT_LEAST and step.step - self.at < self.steps / 100):
            return
        self.said, self.at = now, step.step
        left = (now - self.speed.start) * (self.steps - step.step) / (step.step - self.first)
        text = (
            f"step {step.step:,} of {self.steps:,}: loss {self.loss:.3f}{self.validation}, "
            f"|gradient| {step.gradient_norm:.2f}, {speed:,.0f} {step.unit}/s, {duration(left)} left"
        )
        print(self.told(text), file=self.file, flush=True)

    def evaluated(self, step: int, scores: Scores) -> None:  # noqa: ARG002, it is in the next line
        self.validation = f" (validation {scores.loss:.3f})"

    def seen(self, step: int, report: Report) -> None:
        """Nothing: the log has the reports."""


def duration(seconds: float) -> str:
    """A time in the words of the progress bar.

    >>> duration(59.7), duration(3700)
    ('1:00', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class JsonLog:
    """One JSON object a line: every ``LOG_EVERY`` steps, every evaluation, every report of the lens."""

    def __init__(self, file: RawIOBase, path: Path) -> None:
        self.file = file
        self.path = path
        self.speed = Speed()

    def step(self, step: Step) -> None:
        speed = self.speed.after(step)
        if step.step % LOG_EVERY == 0:
            row = asdict(step)
            unit = row.pop("unit")
            row |= {unit: row.pop("count"), f"{unit}_per_second": round(speed, 1)}
            self._write(row)

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
            self.writer.add_scalar(f"training/{step.unit}_per_second", speed, step.step)

    def evaluated(self, step: int, scores: Scores) -> None:
        for name, value in scores.figures().items():
            self.writer.add_scalar(f"validation/{name}", value, step)

    def seen(self, step: int, report: Report) -> None:
        for scan, values in figures(report).items():
            for name in ("growth", "horizon", "norm_ratio"):
                if values[name] is not None:
                    self.writer.add_scalar(f"lens/{name}/{scan}", values[name], step)


@contextmanager
def logs(*, log: Path | None = None, tensorboard: Path | None = None) -> Iterator[list[Callback]]:
    """The logs that were asked for, open.

    Raises:
        RunError: one cannot be written.
        MissingExtraError: TensorBoard is not installed.
    """
    with ExitStack() as stack:
        opened: list[Callback] = []
        try:
            if log is not None:
                opened.append(JsonLog(stack.enter_context(log.open("ab", buffering=0)), log))
            if tensorboard is not None:
                opened.append(TensorBoard(stack.enter_context(_summary_writer(tensorboard))))
        except OSError as error:
            place = error.filename or log
            raise RunError(f"{place}: cannot be written ({error.strerror or error})") from None
        yield opened


@contextmanager
def progress_bar(
    steps: int, done: int, said: Callable[[str], str] = str
) -> Iterator[list[Callback]]:
    """A progress bar, if standard error is a terminal, or else a line now and then; as ``said`` has it."""
    if sys.stderr is None:
        yield []
        return
    if not sys.stderr.isatty():
        yield [ProgressLines(sys.stderr, steps, done, said)]
        return
    columns = (
        TextColumn("{task.completed}/{task.total}", table_column=Column()),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}", table_column=Column()),  # which wraps
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield [ProgressBar(bar, steps, done, said)]


class Clock:
    """How many seconds a run was trained for in all, kept in its directory; pauses do not count."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.before, self.start = seconds_of(directory) or 0.0, time.monotonic()
        self.has_run = False

    def step(self, step: Step) -> None:  # noqa: ARG002
        self.has_run = True

    def evaluated(self, step: int, scores: Scores) -> None:  # noqa: ARG002
        self.write()

    def seen(self, step: int, report: Report) -> None:
        """Nothing."""

    def write(self) -> None:
        """Keep the time until now."""
        write_json(self.directory / TIME, {"seconds": self.before + time.monotonic() - self.start})


@contextmanager
def clock(directory: Path) -> Iterator[list[Callback]]:
    """Keep the time that the run in ``directory`` is trained for."""
    timer = Clock(directory)
    try:
        yield [timer]
    finally:
        if timer.has_run:
            with suppress(RunError):  # a full disk has its own error
                timer.write()


def seconds_of(directory: Path) -> float | None:
    """How long the run in ``directory`` was trained for, if that was kept."""
    try:
        seconds = read_json(directory / TIME).get("seconds")
    except RunError:
        return None
    return seconds if isinstance(seconds, float) else None


def _summary_writer(directory: Path) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("--tensorboard", "tensorboard", "tensorboard") from None
    return SummaryWriter(str(directory))
