"""What all programs in benchmarks/ share; ``make bench-smoke`` runs each of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import __main__ as smoke
from benchmarks import carry, results


def test_every_program_is_found_and_nothing_else() -> None:
    found = smoke.programs()
    assert {"layers", "everyday", "carry", "vanishing"} <= set(found)
    assert not {"peaks", "ngram", "shakespeare", "results", "__main__"} & set(found)


@pytest.mark.parametrize(
    ("ends", "writes", "complaint"),
    [
        (0, '["a row"]', None),
        (3, '["a row"]', "ended with 3:\nwhat it said"),
        (0, "[]", "wrote empty results"),
        (0, "[", "wrote no results"),
    ],
)
def test_a_program_that_fails_or_writes_nothing_is_told(
    ends: int, writes: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command == [
            sys.executable, "-m", "benchmarks.carry", "--smallest", "--json", str(path),
        ]  # fmt: skip
        path.write_text(writes)
        return subprocess.CompletedProcess(command, ends, "what it said")

    monkeypatch.setattr(subprocess, "run", run)
    found = smoke.fault("carry", path)
    assert found is None if complaint is None else found and found.startswith(complaint)


def test_a_stop_loses_a_row_at_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = (
        tmp_path / "new" / "rows.json",
        [{"steps": 1, "read_on": 2.0, "read_in_windows": 3.0}],
    )

    def measured(*_: object, **__: object) -> dict[str, float]:
        if not path.exists():
            return rows[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(carry, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        carry.main(["--json", str(path)])
    assert json.loads(path.read_text()) == rows
    results.write(None, rows)  # nobody asked for a file
