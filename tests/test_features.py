"""Every entry of the table of features is proved by a test that is there."""

import ast
import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "features.md"
LINK = re.compile(r'\[[^]]+\]\((\S+\.py) "(\w+)"\)')


def rows() -> list[list[str]]:
    """The cells of every line of every table, without its head."""
    lines = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] and not row[0].startswith("---")]


def test_every_entry_of_unrolled_links_to_a_test_or_is_no() -> None:
    found = rows()
    assert len(found) > 30
    for row in found:
        assert len(row) == 6, row
        assert LINK.fullmatch(row[-1]) or row[-1] == "no", row


def test_every_test_that_is_linked_exists() -> None:
    links = LINK.findall(GUIDE.read_text(encoding="utf-8"))
    assert links
    for file, name in links:
        tree = ast.parse((GUIDE.parent / file).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in tests, f"{file} has no {name}"
