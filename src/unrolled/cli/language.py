"""The language that the command line speaks: English, or Chinese where the locale is Chinese.

Everything is said in English, and translated where it is printed: what is said is looked up in
``chinese.txt``. What has no translation stays English.
"""

import argparse
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TextIO

VARIABLES = ("UNROLLED_LANG", "LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides
AROUND = ("{}: error: {}", "unrolled: note: {}", "argument {}: {}", "left out: {}: {}")  # a message
HELP = 24  # columns before the help of an option, at most
DEFAULT = re.compile(r"(.+) \(([^()]+)\)")  # the help of an option, with its default


def is_chinese(file: TextIO | None = None) -> bool:
    """Whether Chinese is to be said on ``file`` (standard output), by the locale and by its encoding."""
    name = next((value for key in VARIABLES if (value := os.environ.get(key))), "")
    if not name.lower().startswith("zh"):
        return False
    file = sys.stdout if file is None else file
    try:
        "汉：“”…".encode(getattr(file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def translated(text: str, file: TextIO | None = None) -> str:
    """``text`` in the language that ``file`` is spoken to in, line by line."""
    return "\n".join(map(in_chinese, text.split("\n"))) if is_chinese(file) else text


def in_chinese(text: str) -> str:
    """``text`` in Chinese, with the space around it kept; as it is if it has no translation."""
    bare = text.strip()
    if bare in messages():
        return text.replace(bare, messages()[bare])
    for literals, pattern, chinese in _patterns():
        if all(part in bare for part in literals) and (match := pattern.fullmatch(bare)):
            return text.replace(bare, chinese.format(*map(_Part, match.groups())))
    return text


def columns(text: str) -> int:
    """How wide ``text`` is on a terminal: a Chinese character takes two columns."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


class _Part(str):
    """What stands for a ``{}``; by the format "text" it is translated, by "list" and "names" its parts."""

    def __format__(self, form: str) -> str:
        if form == "list":
            return "；".join(map(in_chinese, self.split("; ")))
        if form == "names":
            return "、".join(map(in_chinese, self.split(", ")))
        return in_chinese(str(self)) if form == "text" else str(self)


@cache
def messages() -> dict[str, str]:
    """What ``chinese.txt`` holds: by what is said in English, how in Chinese."""
    text = files("unrolled.cli").joinpath("chinese.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(zip(lines[::2], lines[1::2], strict=True))


@cache
def _patterns() -> list[tuple[list[str], re.Pattern[str], str]]:
    """Of each message with a ``{}`` its literal parts, pattern and Chinese: what stands around others, then
    the most literal first.
    """
    patterns = []
    order = sorted(messages(), key=lambda text: -len(text.replace("{}", "")))
    for message in (*AROUND, *order):
        literals = message.split("{}")
        if len(literals) > 1:
            pattern = "(.*?)".join(map(re.escape, literals))
            patterns.append((literals, re.compile(pattern), messages()[message]))
    return patterns


class Parser(argparse.ArgumentParser):
    """A parser, and those of its commands, that speaks the language of the command line."""

    def _get_formatter(self) -> argparse.HelpFormatter:
        return _Formatter(prog=self.prog) if is_chinese() else super()._get_formatter()

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(2, translated(f"{self.prog}: error: {message}", sys.stderr) + "\n")


class _Formatter(argparse.HelpFormatter):
    """Help in Chinese, whose characters are two columns wide and may be parted anywhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        super().add_usage(
            usage, actions, groups, in_chinese("usage: ") if prefix is None else prefix
        )

    def start_section(self, heading: str | None) -> None:
        super().start_section(None if heading is None else in_chinese(heading))

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if (chinese := in_chinese(text)) == text and (match := DEFAULT.fullmatch(text)):
            chinese = f"{in_chinese(match[1])}（{match[2]}）"
        return chinese

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _lines(in_chinese(text), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            text = in_chinese(text)
            return "\n".join(indent + line for line in _lines(text, width - len(indent)))
        return "\n".join(indent + _item(line) for line in text.split("\n"))


def _item(line: str) -> str:
    """A line of text that is laid out: a name, and what it is."""
    name, gap, about = re.fullmatch(r"(\s*\S*)(\s{2,}|)(.*)", line).groups()  # type: ignore[union-attr]
    return f"{name}{gap}{in_chinese(about)}" if gap else in_chinese(line)


def _lines(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns; no mark that closes begins one."""
    lines, line, used = [], "", 0
    for piece in re.findall(r"[ -~]+?(?= |[^ -~]|$)|.", text):
        wide = columns(piece)
        if used + wide > width and line and piece not in "，。；：、）”":
            lines.append(line.rstrip())
            line, used = "", 0
            piece = piece.lstrip()
        line, used = line + piece, used + wide
    return [*lines, line.rstrip()]
