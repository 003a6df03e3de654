"""A working tree that was used: what editors, systems, builds and the demo leave is in no test's way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_packaging
from tests.text.pretrained import test_bundled
from unrolled.compiler import build
from unrolled.text.pretrained import NAMES

ROOT = Path(__file__).parent.parent
BROKEN = b"\xff\n```python\nassert False\n```\n>>> 1\n2\n"  # neither text nor true
PLACES = (
    "docs/._page.md",
    "docs/.ipynb_checkpoints/page-checkpoint.md",
    "docs/_build/html/_sources/page.md",
    "docs/page.md~",
    "src/._module.py",
    "src/__pycache__/module.cpython-311.pyc",
    "src/unrolled/text/pretrained/__pycache__/__init__.cpython-311.pyc",
    "src/unrolled/text/pretrained/zh/.DS_Store",
    "csrc/._kernel.h",
    "csrc/isa/.avx2.cpp.swp",
    "csrc/isa/._avx2.cpp",
    "runs/demo/page.md",
    "build/page.md",
    ".venv/lib/page.md",
)


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A tree with a few of the project's files, and much else."""
    for name in ("conftest.py", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "src/unrolled/text/pretrained"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for place in PLACES:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(BROKEN)
    for place in ("docs/.#page.md", "src/.#module.py", "csrc/.#kernel.h"):  # an editor's lock
        (tmp_path / place).symlink_to("someone@somewhere.1")
    return tmp_path


def test_only_the_projects_own_files_are_collected(used: Path) -> None:
    shutil.rmtree(used / "src" / "unrolled")
    (used / "docs" / "page.md").write_text("```python\nassert True\n```\n")
    (used / "src" / "module.py").write_text('"""\n>>> 1\n1\n"""\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0"], cwd=used, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(used / "src")},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].startswith("2 passed"), done.stdout + done.stderr


def test_what_is_shipped_is_what_it_is_in_a_clean_tree(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_packaging, "ROOT", used)
    test_packaging.test_every_instruction_set_is_built_and_can_be_preferred()
    monkeypatch.setattr(test_bundled, "ROOT", used / "src" / "unrolled" / "text" / "pretrained")
    test_bundled.test_the_package_takes_the_models_with_it()
    for name in NAMES:
        test_bundled.test_a_model_takes_four_megabytes_at_the_most_and_credits_its_text(name)


def test_a_kernel_is_the_same_beside_an_editors_files(used: Path) -> None:
    keys = {build._key("", (sys.executable,), (), root / "csrc") for root in (ROOT, used)}
    assert len(keys) == 1
