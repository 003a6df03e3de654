"""The workflow and .ci/run call the same targets, which are those of the Makefile."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CALL = re.compile(r"(?:^\s*|run: )make ([\w-]+)(.*)$", re.MULTILINE)


def calls(*parts: str) -> set[tuple[str, str]]:
    """Each target that a file calls, with the variables it is given; those of another pip are left out."""
    found = CALL.findall(ROOT.joinpath(*parts).read_text(encoding="utf-8"))
    return {(target, given.strip()) for target, given in found if " PIP=" not in given}


def test_the_workflow_and_the_script_call_the_same_targets() -> None:
    local = calls(".ci", "run")
    assert {target for target, _ in local} >= {"demo", "test", "check", "sanitize"}
    assert local == calls(".github", "workflows", "ci.yml")


def test_every_target_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert {target for target, _ in calls(".ci", "run")} <= targets


def test_another_target_is_seen() -> None:
    assert CALL.findall("  - run: make one\n  make two X=1 # make three\n") == [
        ("one", ""),
        ("two", " X=1 # make three"),
    ]


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "run: .ci/oldest > oldest.txt" in workflow
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "oldest"], capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(line.split(">=") for line in project["dependencies"])
    assert dict(line.split("==") for line in done.stdout.splitlines()) == bounds
    assert "torch" in bounds
