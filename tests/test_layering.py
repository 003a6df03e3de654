"""Imports point down only: from what is built to what it is built on."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unrolled

ROOT = Path(__file__).parent.parent / "src" / "unrolled"

# From the ground up. What stands in one line may not import one another.
FLOORS = (
    ("version", "errors", "files", "shapes", "modules"),
    ("cells", "pages"),
    ("compiler",),
    ("scan",),
    ("layers",),
    ("bptt", "remedies", "diagrams"),
    ("lens",),
    ("",),  # the package itself, by what it imports at once
    ("training",),
    ("text.data", "series.data"),
    ("text.models", "series.models"),
    ("text", "series"),
    ("text.pretrained",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: k for k, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The room that ``unrolled.module`` is in: "text.data", "lens", "" for the package."""
    parts = module.split(".")
    for length in (2, 1):
        room = ".".join(parts[:length])
        if room in FLOOR:
            return room
    raise AssertionError(f"unrolled.{module}: in no room of FLOORS; give it a place")


def imports(path: Path) -> Iterator[str]:
    """What a file imports of the library, without "unrolled.", also in functions and for types alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name[9:] for a in node.names if a.name.split(".")[0] == "unrolled")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unrolled":
            module = str(node.module)[9:]
            for alias in node.names:
                whole = f"{module}.{alias.name}".strip(".")
                inner = ROOT / whole.replace(".", "/")
                yield whole if inner.is_dir() or inner.with_suffix(".py").exists() else module


def arrows() -> Iterator[tuple[str, str, str]]:
    """Each arrow between rooms: from, to, and the file that it starts in."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        here = room_of(name.removesuffix("__init__").rstrip("."))
        for imported in imports(path):
            there = room_of(imported)
            if there != here:
                yield here, there, name


def test_every_arrow_points_down() -> None:
    up = [
        f"{file} imports unrolled.{there}"
        for here, there, file in arrows()
        if FLOOR[there] >= FLOOR[here]
    ]
    assert not up, "\n".join(up)


def test_an_arrow_up_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "bad.py").write_text("def f():\n    from unrolled.cli import main\n")
    monkeypatch.setattr("tests.test_layering.ROOT", tmp_path)
    assert list(arrows()) == [("cells", "cli", "cells.bad")]
    with pytest.raises(AssertionError, match=r"cells\.bad imports unrolled\.cli"):
        test_every_arrow_points_down()


# One process, which imports one thing after another.
IMPORTS = """
import json, sys, torch
of_torch = set(sys.modules)
import unrolled
of_library = set(sys.modules)
import unrolled.compiler
of_compiler = set(sys.modules)
fill = [unrolled.fill.__module__, unrolled.text.models.Cloze.kind]
print(json.dumps([*map(list, (of_torch, of_library, of_compiler)), fill]))
"""


@pytest.fixture(scope="module")
def imported() -> list[list[str]]:
    """The modules that are there with torch, then unrolled, then its compiler; and what fills."""
    found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    lists: list[list[str]] = json.loads(found.stdout)
    return lists


def test_the_library_brings_nothing_of_text(imported: list[list[str]]) -> None:
    modules = set(imported[1])
    assert "unrolled.layers" in modules
    of_text = ("regex", "rjieba", "opencc", "safetensors", "filelock", "shtab", "altair")
    brought = {
        m for m in modules if m.startswith(("unrolled.text", "unrolled.training", "unrolled.cli"))
    }
    assert not brought | modules.intersection(of_text)


def test_neither_library_nor_compiler_imports_what_is_slow(imported: list[list[str]]) -> None:
    """What PyTorch itself has imported is its own affair."""
    brought = set(imported[2]) - set(imported[0])
    assert "unrolled.compiler" in imported[2]
    assert not brought & {"torch.fx.experimental.proxy_tensor", "networkx"}


def test_the_library_exports_about_a_dozen_names() -> None:
    assert len(unrolled.__all__) <= 14
    assert all(hasattr(unrolled, name) for name in unrolled.__all__)


def test_the_blank_is_filled_by_a_name_that_loads_the_rest(imported: list[list[str]]) -> None:
    assert imported[3] == ["unrolled.text.pretrained", "cloze"]
