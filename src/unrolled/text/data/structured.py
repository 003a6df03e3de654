"""Text that is structured: tables, JSON, markup, of which one part alone is to be learnt."""

import csv
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import regex

from unrolled.text.data.encodings import beside, python_call

HEAD = 40  # lines by which a structure is told
FEW_ROWS = 3  # of a table, from which on it is one
SEPARATORS = {",": "CSV", ";": "CSV", "\t": "TSV"}
HEADER = regex.compile(r"[A-Za-z_][\w .\-]{0,29}")
NUMERIC = regex.compile(r"(?=\D*\d)[-+]?[\d.,:/\- ]+%?")  # in linear time
DECLARED = regex.compile(r"\s*<(\?xml|!doctype|html|svg|rss|mediawiki)\b", regex.IGNORECASE)
ROOT = regex.compile(r"\s*<[A-Za-z][\w:.\-]*(\s[^<>]*)?>\s*")
TAG = regex.compile(r"</?[A-Za-z][\w:.\-]*(\s[^<>]*)?/?>")
OBJECT = regex.compile(r'\s*(\[\s*)*\{\s*("(\\.|[^"\\])*"\s*:|\})|\s*\[\s*"(\\.|[^"\\])*"\s*,')


class Structure(NamedTuple):
    """What a text is: its ``kind``, and of a table the ``fields``; ``longest`` has the longest text."""

    kind: str
    fields: tuple[str, ...] = ()
    longest: str | int | None = None
    separator: str = ""
    has_header: bool = False


def structure_of(head: Sequence[str], path: str) -> Structure | None:
    r"""The structure of the text at ``path`` that begins with the lines ``head``; ``None`` of plain text.

    Only what is sure counts: a sentence with commas is no table, and the source code of a program is text.

    >>> structure_of(["id,stars,text", "1,5,Good.", "2,1,\"No, not at all.\""], "a.txt").fields
    ('id', 'stars', 'text')
    >>> structure_of(["Yes, I do.", "Well, I see.", "No, thanks."], "a.txt")
    """
    head = [line for line in head if line.strip()]
    if not head:
        return None
    text = "\n".join(head)
    if text.startswith("{\\rtf"):
        return Structure("RTF")
    if DECLARED.match(text):
        return Structure("HTML" if regex.match(r"(?i)\s*<(!doctype )?html", text) else "XML")
    if ROOT.fullmatch(head[0]) and 2 * sum(bool(TAG.search(line)) for line in head) > len(head) > 1:
        return Structure("XML")
    return _json(head, text) or _table(head, path)


def advice(structure: Structure, path: str) -> str:
    """What a reader of the text at ``path`` should know, and what to do."""
    what = structure.kind
    if structure.fields:
        what += f" with the fields {', '.join(structure.fields[:8])}{', …' * (len(structure.fields) > 8)}"
    said = f"it looks like {what}, and is read as plain text, marks and all"
    script = _script(structure)
    chosen = structure.longest if isinstance(structure.longest, str) else "text"
    part = "its texts" if structure.longest is None else f"the field {_named(structure)!r}"
    if structure.kind == "RTF":
        return f"{said}; for its text alone save it as plain text, in UTF-8"
    if script is None or path == "-" or path.endswith(".gz"):
        return f"{said}; for {part} alone write a file with one text a line"
    mark = regex.sub(r"\W+", "-", chosen)[:20] or "text"
    new = str(PurePath(beside(path, mark)).with_suffix(".txt"))
    return f"{said}; for {part} alone: {python_call(script, path, new)}"


def _named(structure: Structure) -> str | int | None:
    return (
        structure.longest
        if isinstance(structure.longest, str) or structure.longest is None
        else structure.longest + 1
    )


def _json(head: Sequence[str], text: str) -> Structure | None:
    rows = []
    for line in head:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    is_whole = len(rows) == len(head) and all(isinstance(row, dict | list) and row for row in rows)
    if is_whole and all(isinstance(row, dict) for row in rows):
        return Structure("JSON lines" if len(rows) > 1 else "JSON", *_fields(rows))
    if is_whole and any(isinstance(value, dict | str) for row in rows for value in row):
        records = rows[0] if len(rows) == 1 else []
        if records and all(isinstance(row, dict) and row for row in records):
            return Structure("JSON", *_fields(records))
        return Structure("JSON lines" if len(rows) > 1 else "JSON")
    return Structure("JSON") if OBJECT.match(text) else None


def _fields(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], str | None]:
    """The names, and that of the longest text."""
    sizes = dict.fromkeys(rows[0], 0)
    for row in rows:
        for name, value in row.items():
            sizes[name] = sizes.get(name, 0) + (len(value) if isinstance(value, str) else 0)
    longest = max(sizes, key=lambda name: sizes[name])
    return tuple(sizes), longest if sizes[longest] else None


def _table(head: Sequence[str], path: str) -> Structure | None:
    name = path.lower().removesuffix(".gz")
    for separator, kind in SEPARATORS.items():
        is_called = name.endswith((".csv", ".tsv", ".tab"))
        try:
            rows = [row for row in csv.reader(head, delimiter=separator) if row]
        except csv.Error:  # such as a field beyond csv's limit: no reader of tables has use for it
            continue
        width = len(rows[0])
        if width < 2 or len(rows) < (2 if is_called else FEW_ROWS):
            continue
        alike = sum(len(row) == width for row in rows)
        if is_called and 2 * alike > len(rows):
            return _columns(kind, separator, rows, width)
        columns = list(zip(*rows, strict=False))
        if alike == len(rows) and (
            any(columns[0]) if separator == "\t" else _is_sure(head, separator, columns)
        ):
            return _columns(kind, separator, rows, width)
    return None


def _is_sure(head: Sequence[str], separator: str, columns: Sequence[tuple[str, ...]]) -> bool:
    """Whether rows of the same number of commas are a table, and no sentences."""
    marks = sum(line.count(separator) for line in head)
    if 5 * sum(line.count(f"{separator} ") for line in head) > marks and not any(
        line.count(f'{separator}"') for line in head
    ):
        return False
    numeric = any(all(NUMERIC.fullmatch(cell) for cell in column[1:]) for column in columns)
    quoted = 2 * sum('"' in line for line in head) > len(head)
    return numeric or (quoted and _is_header(columns))


def _is_header(columns: Sequence[tuple[str, ...]]) -> bool:
    names = [column[0].strip() for column in columns]
    return len(set(names)) == len(names) and all(map(HEADER.fullmatch, names))


def _columns(kind: str, separator: str, rows: Sequence[Sequence[str]], width: int) -> Structure:
    whole = [row for row in rows if len(row) == width]
    columns = list(zip(*whole, strict=True))
    lengths = [sum(map(len, column[1:])) for column in columns]
    longest = max(range(width), key=lambda k: lengths[k])
    if _is_header(columns):
        names = tuple(cell.strip() for cell in rows[0])
        return Structure(kind, names, names[longest], separator, True)
    return Structure(kind, tuple(str(k + 1) for k in range(width)), longest, separator)


# Programs for python -c: the arguments are the file, and the new one.
END = 'print(*(" ".join(str(x).split()) for x in found), sep="\\n", file=open(t, "w", encoding="utf-8"))'


def _script(structure: Structure) -> str | None:
    """The program that writes a new file with the texts alone, one a line; ``None`` if there is none."""
    opened = 'open(f, encoding="utf-8-sig")'
    key = json.dumps(structure.longest, ensure_ascii=False)
    if structure.kind == "JSON lines" and isinstance(structure.longest, str):
        part = f'found = [json.loads(x).get({key}, "") for x in {opened} if x.strip()]; '
    elif structure.separator:
        k = (
            structure.fields.index(structure.longest)
            if isinstance(structure.longest, str)
            else structure.longest
        )
        rows = 'csv.reader(open(f, encoding="utf-8-sig", newline=""), delimiter='
        part = f"rows = {rows}{json.dumps(structure.separator)}); "
        part += f"found = [r[{k}] for r in rows if len(r) > {k}]{'[1:]' * structure.has_header}; "
    elif structure.kind in ("HTML", "XML"):
        marks = r"(?is)<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]+>"
        part = f'bare = re.sub(r"{marks}", "\\n", {opened}.read()); '
        part += 'found = filter(str.strip, html.unescape(bare).split("\\n")); '
    elif structure.kind == "JSON" and isinstance(structure.longest, str):
        part = f'found = [x.get({key}, "") for x in json.load({opened})]; '
    else:
        return None
    modules = ("csv", "html", "json", "re")
    used = ", ".join([m for m in modules if f"{m}." in part] + ["sys"])
    return f"import {used}; f, t = sys.argv[1:]; {part}{END}"
