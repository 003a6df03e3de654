"""What the commands print, and to whom."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console

from unrolled.lens import Report


def print_json(value: object) -> None:
    """Print ``value`` as one line of JSON, in plain ASCII where standard output is not UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=encoding != "utf8", allow_nan=False))


def print_report(report: Report) -> None:
    """Print ``report``: on a terminal as a table in colours, else as plain text."""
    if sys.stdout is not None and sys.stdout.isatty():
        Console().print(report)
    else:
        print(report)


def note(text: str) -> None:
    """Say ``text`` on standard error."""
    if sys.stderr is not None:
        print(f"unrolled: note: {text}", file=sys.stderr)


def note_unknown(tokens: Sequence[str]) -> None:
    """Say which tokens the model does not know, if any."""
    if tokens:
        note(f"not in the vocabulary, read as <unk>: {' '.join(tokens)}")
