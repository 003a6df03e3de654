"""What the extra brings is imported where it is needed alone."""

import ast
from pathlib import Path

import unrolled.series.data

OPTIONAL = {"altair", "narwhals", "pandas", "polars", "pyarrow", "sklearn"}


def imported(source: str) -> set[str]:
    """The packages that are imported with a module, not within its functions."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_no_module_brings_a_package_of_the_extra() -> None:
    for path in Path(unrolled.series.data.__file__).parent.glob("*.py"):
        assert not imported(path.read_text("utf-8")) & OPTIONAL, path.name


def test_one_that_did_would_be_seen() -> None:
    assert imported("import pyarrow.compute as c\nfrom pandas import x\ndef f():\n    import polars") == {
        "pyarrow", "pandas",
    }  # fmt: skip
