import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from unrolled.compiler.header import class_name
from unrolled.compiler.trace import STATES
from unrolled.scan.native import interface, library

ROOT = Path(__file__).parent.parent
HEADER = (ROOT / "csrc" / "unrolled.h").read_text()
CMAKE = (ROOT / "CMakeLists.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# For each library named: why it is not used, and then a step and its gradient all the same.
STEP = """
import os, sys
import torch
from unrolled import Recurrent, cells
from unrolled.scan import native
from unrolled.scan.native import library

for path in sys.argv[1:]:
    os.environ["UNROLLED_LIBRARY"] = path
    library._load.cache_clear()
    print(native.missing())
    layer = Recurrent(cells.LSTM, 3, 5)
    layer(torch.ones(2, 1, 3))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
"""


def constant(name: str) -> int:
    (value,) = re.findall(rf"#define {name} (\d+)", HEADER)
    return int(value)


def fields(name: str) -> list[tuple[str, int]]:
    """The fields of a struct in the header, and how many values each holds."""
    (body,) = re.findall(rf"typedef struct {{([^{{}}]*)}} {name};", HEADER)
    found = []
    for declaration in re.sub(r"//.*", "", body).split(";")[:-1]:
        function = re.search(r"\(\*(\w+)\)", declaration)
        if function:
            found.append((function[1], 1))
            continue
        first, *others = declaration.split(",")
        for variable in (first.split()[-1], *others):
            field, bound = re.fullmatch(r"\s*\**(\w+)(?:\[(\w+)\])?\s*", variable).groups()
            count = 1 if bound is None else int(bound) if bound.isdigit() else constant(bound)
            found.append((field, count))
    return found


def test_the_parser_of_fields_reads_every_kind_of_declaration() -> None:
    assert fields("unrolled_cell")[:2] == [("name", 1), ("projection", 1)]
    assert [name for name, _ in fields("unrolled_kernel")][1:3] == ["forward", "backward"]
    found = dict(fields("unrolled_call"))
    assert found["steps"] == found["units"] == found["d_x"] == 1
    assert found["bias"] == 2
    assert found["d_batch"] == found["norms"] == constant("UNROLLED_STATES")


def test_the_interface_is_the_same_in_c_and_python() -> None:
    assert constant("UNROLLED_VERSION") == interface.VERSION
    assert constant("UNROLLED_STATES") == interface.STATES == STATES


@pytest.mark.parametrize("name", re.findall(r"} (\w+);", HEADER))
def test_a_structure_has_the_same_fields_in_c_as_in_python(name: str) -> None:
    structure = getattr(interface, class_name(name))
    got = [(field, getattr(kind, "_length_", 1)) for field, kind in structure._fields_]
    assert got == fields(name)


def test_a_name_that_is_no_field_of_a_call_is_refused() -> None:
    call = interface.Call()
    with pytest.raises(AttributeError, match="lanes"):
        call.lanes = 3


def test_every_instruction_set_is_built_and_can_be_preferred() -> None:
    built = {name for names in re.findall(r"set\(sets ([^)]*)\)", CMAKE) for name in names.split()}
    assert built == set(library.PREFERENCE)
    assert built == {file.stem for file in (ROOT / "csrc" / "isa").glob("[!.]*.cpp")}


def test_the_library_is_installed_where_python_looks_for_it() -> None:
    assert "install(TARGETS unrolled LIBRARY DESTINATION unrolled)" in CMAKE
    assert PROJECT["tool"]["scikit-build"]["wheel"]["py-api"] == "py3"


def test_a_failed_build_installs_the_reference_and_says_so() -> None:
    (override,) = PROJECT["tool"]["scikit-build"]["overrides"]
    assert override["if"] == {"failed": True}
    assert override["wheel"]["cmake"] is False
    assert "without native kernels" in override["messages"]["after-success"]


def test_the_version_is_written_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    text = (ROOT / "src" / "unrolled" / "version.py").read_text()
    (version,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert metadata.version("unrolled") == version


def test_where_the_library_cannot_be_used_the_reference_runs_and_says_why(tmp_path: Path) -> None:
    empty, damaged = tmp_path / "empty.so", tmp_path / "damaged.so"
    empty.touch()
    damaged.write_bytes(b"not a library" * 100)
    other = next((Path(torch.__file__).parent / "lib").glob("libc10.*"))  # a library, but not ours
    paths = ["", *map(str, (tmp_path / "absent.so", empty, damaged, other))]
    done = subprocess.run(
        [sys.executable, "-c", STEP, *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    unbuilt, *said = done.stdout.splitlines()
    assert "library is not built: no C++ compiler" in unbuilt
    assert len(said) == len(paths) - 1
    for path, reason in zip(paths[1:], said, strict=True):
        assert f"library {path} cannot be loaded (" in reason
        assert reason.endswith("reinstall unrolled")
