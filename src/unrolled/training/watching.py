"""The lens on a training: its reports in figures, and kept in the run directory."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import RawIOBase
from pathlib import Path
from typing import Any

from unrolled.errors import RunError
from unrolled.lens import Report
from unrolled.training.files import replace
from unrolled.training.loop import Step, Watcher
from unrolled.training.measures import Scores

RECORDS, PAGE = "lens.jsonl", "lens.html"


class History:
    """Every report as a line of ``lens.jsonl``: the step, and the report's record."""

    def __init__(self, file: RawIOBase, path: Path) -> None:
        self.file = file
        self.path = path

    def step(self, step: Step) -> None:
        """Nothing: reports alone are kept."""

    def evaluated(self, step: int, scores: Scores) -> None:
        """Nothing."""

    def seen(self, step: int, report: Report) -> None:
        line = json.dumps({"step": step, "record": report.record()}, ensure_ascii=False)
        try:
            self.file.write(line.encode() + b"\n")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def history(directory: Path, step: int) -> Iterator[list[Watcher]]:
    """Keep the reports of the run in ``directory``, which has come to ``step``; at the end, the page.

    What was kept of later steps is dropped: the training comes there again. The page, ``lens.html``, is
    written whichever way the block is left.

    Raises:
        RunError: a file cannot be written, or the one there is damaged.
        MissingExtraError: the packages that draw the page are not installed.
    """
    require_page()
    path = directory / RECORDS
    replace(path, b"".join(line for line, at in _lines(path) if at <= step))
    try:
        with path.open("ab", buffering=0) as file:
            yield [History(file, path)]
    finally:
        write_page(directory)


def require_page() -> None:
    """Refuse where no page can be drawn.

    Raises:
        MissingExtraError: a package of the extra ``report`` is not installed.
    """
    import_module("unrolled.report")


def write_page(directory: Path) -> None:
    """``lens.html`` from ``lens.jsonl``, if there is a report in it."""
    from unrolled.report.page import page

    records = {at: json.loads(line)["record"] for line, at in _lines(directory / RECORDS)}
    if records:
        title = f"The gradient through time, in {directory.name}"
        replace(directory / PAGE, page(records, None, title).encode())


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """The whole lines of ``path``, each with its step; none if there is no such file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return  # a kill came while it was being written
        try:
            yield line, int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: line {number} is damaged ({error!r}); remove the file to go on without it"
            ) from None


def figures(report: Report) -> dict[str, dict[str, Any]]:
    """Of each scan, by a name such as "layers.0.backward": state, growth, horizon, norm_ratio.

    ``norm_ratio``: the gradient's norm at the scan's first step over that at its last, of those that a
    gradient came to. What is not known or not finite is ``None``.
    """
    found = {}
    for row in report.rows:
        name = f"{row.layer or 'layer'}.{row.level}{'.backward' if row.direction else ''}"
        known = row.norms[row.norms > 0].tolist()[:: -1 if row.direction else 1]
        found[name] = {
            "state": None if row.verdict is None else row.verdict.state,
            "growth": None if row.verdict is None else _finite(row.verdict.growth),
            "horizon": None if row.verdict is None else _finite(row.verdict.horizon),
            "norm_ratio": _finite(known[0] / known[-1]) if known else None,
        }
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
