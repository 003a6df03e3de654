"""The lens on a training: its reports in figures, and kept in the run directory."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

from unrolled.errors import RunError
from unrolled.lens import Report
from unrolled.lens.formatting import plain
from unrolled.training.files import append, replace
from unrolled.training.loop import Callback, Step
from unrolled.training.scores import Scores

RECORDS, PAGE = "lens.jsonl", "lens.html"
BEGINS = re.compile(rb'\{"step": (\d{1,18}), "record": \{')  # a line of ``History``


class History:
    """Every report as a line of ``lens.jsonl``: the step, and the report's record."""

    def __init__(self, file: RawIOBase, path: Path, told: Callable[[Report], Report]) -> None:
        self.file = file
        self.path = path
        self.told = told

    def step(self, step: Step) -> None:
        """Nothing: reports alone are kept."""

    def evaluated(self, step: int, scores: Scores) -> None:
        """Nothing."""

    def seen(self, step: int, report: Report) -> None:
        line = json.dumps({"step": step, "record": self.told(report).record()}, ensure_ascii=False)
        append(self.file, self.path, line.encode() + b"\n")


@contextmanager
def history(
    directory: Path,
    step: int,
    told: Callable[[Report], Report] = lambda report: report,
    said: Callable[[str], str] = str,
) -> Iterator[list[Callback]]:
    """Keep the reports of the run in ``directory``, which has come to ``step``; at the end, the page.

    Each report is kept as ``told`` has it, which may name the remedies of the one who asked for it, and
    each text of the page is as ``said`` has it.

    What was kept of later steps is dropped: the training comes there again. The page, ``lens.html``, is
    written whichever way the block is left; if an error is under way, one of the page is a note on it.

    Raises:
        RunError: a file cannot be written, or the one there is damaged.
        MissingExtraError: the packages that draw the page are not installed.
    """
    from unrolled.lens.render import require

    require()
    path = directory / RECORDS
    with _opened(path, sum(len(line) for _, at, line in _lines(path) if at <= step)) as file:
        try:
            yield [History(file, path, told)]
        except BaseException as error:
            try:
                write_page(directory, said)
            except Exception as second:
                error.add_note(f"there is no new page: {second}")
            raise
        write_page(directory, said)


def write_page(directory: Path, said: Callable[[str], str] = str) -> None:
    """``lens.html`` from ``lens.jsonl``, if there is a report in it.

    Raises:
        RunError: a file cannot be read or written, or is damaged.
    """
    from unrolled.lens.render import charts
    from unrolled.lens.render.page import page
    from unrolled.pages.document import encoded

    path = directory / RECORDS
    steps = [at for _, at, _ in _lines(path)]
    chosen = set(charts.evenly(steps, charts.MOST))
    records = {at: _record(path, n, line) for n, at, line in _lines(path) if at in chosen}
    if records:
        title = f"The gradient through time, in {directory.name}"
        replace(directory / PAGE, encoded(page(records, None, title, len(steps), said=said)))


def _opened(path: Path, size: int) -> RawIOBase:
    """``path`` to write on, after its first ``size`` bytes."""
    try:
        file = path.open("ab", buffering=0)
        file.truncate(size)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    return file


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The whole lines of ``path``: number, step, all of it. None if there is no such file."""
    last = -1
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # a kill came while it was being written
                begins = BEGINS.match(line)
                if begins is None or not line.endswith(b"}}\n"):
                    raise _damaged(path, number, 'expected {"step": …, "record": {…}}')
                if int(begins[1]) <= last:
                    raise _damaged(path, number, f"step {int(begins[1])} after {last}")
                last = int(begins[1])
                yield number, last, line
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from None


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    from unrolled.lens.render.form import check

    try:
        return check(json.loads(line, parse_constant=_refused)["record"])
    except (ValueError, OverflowError, RecursionError) as error:
        raise _damaged(path, number, str(error)) from None


def _refused(name: str) -> None:
    raise ValueError(f"got {name}, expected a finite number or null")


def _damaged(path: Path, number: int, why: str) -> RunError:
    return RunError(
        f"{path}: line {number} is damaged ({why}); remove the file to continue without it"
    )


def figures(report: Report) -> dict[str, dict[str, Any]]:
    """Of each scan, by a name such as "layers.0.backward": state, growth, horizon, norm_ratio.

    ``norm_ratio``: the gradient's norm at the scan's first step over that at its last, of those that a
    gradient came to. To five digits; what is not known or not finite
    is ``None``.
    """
    by_scan = {}
    for row in report.rows:
        name = f"{row.layer or 'layer'}.{row.level}{'.backward' if row.direction else ''}"
        known = row.norms[row.norms > 0].tolist()[:: -1 if row.direction else 1]
        by_scan[name] = {
            "state": None if row.verdict is None else row.verdict.state,
            "growth": None if row.verdict is None else row.verdict.growth,
            "horizon": None if row.verdict is None else row.verdict.horizon,
            "norm_ratio": known[0] / known[-1] if known else None,
        }
    figures: dict[str, dict[str, Any]] = plain(by_scan)
    return figures
