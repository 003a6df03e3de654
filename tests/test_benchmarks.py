"""What all programs in benchmarks/ share; ``make bench-smoke`` runs each of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import __main__ as smoke
from benchmarks import carry, history, results


def test_every_program_is_found_and_nothing_else() -> None:
    found = smoke.programs()
    assert {"layers", "everyday", "carry", "vanishing", "history"} <= set(found)
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


def test_history_grows_by_a_line_and_shows_what_a_commit_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    earlier = {"commit": "a1", "date": "2026-01-02", "threads": 2, "processor": "P", "torch": "2"}
    path.write_text(json.dumps(earlier | {"ratios": {"GRU 1,2,3": 1.5}}) + "\n")
    monkeypatch.setattr(history, "HISTORY", path)
    monkeypatch.setattr(history, "measured", lambda *_: 2.25)
    monkeypatch.setattr(history, "commit", lambda: "b2+")
    history.main(["--append"])
    (_, now) = history.read(path)
    assert now["commit"] == "b2+" and set(now["ratios"].values()) == {2.25}
    heads, first, second = capsys.readouterr().out.splitlines()
    assert heads.split()[:4] == ["commit", "date", "GRU", "1,2,3"]
    assert first.split()[2:5] == ["1.50", "-", "-"] and second.split()[2:5] == ["-", "2.25", "2.25"]
    with pytest.raises(SystemExit):
        history.main(["--append", "--smallest"])
    assert len(history.read(path)) == 2


def test_where_there_is_no_history_yet_there_is_none(tmp_path: Path) -> None:
    assert history.read(tmp_path / "history.jsonl") == []
