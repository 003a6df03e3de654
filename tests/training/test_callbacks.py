"""What followers of a training write can be read by others."""

import errno
import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from tests.sentences import make_run
from unrolled.errors import MissingExtraError, RunError
from unrolled.text.measures import TokenScores
from unrolled.training import Outcome, Step, Trainer
from unrolled.training.callbacks import JsonLog, ProgressLines, logs, progress_bar

STEPS = 25


def train(directory: Path, **places: Path) -> Outcome:
    trainer = Trainer(make_run(directory, steps=STEPS, evaluations=2))
    with logs(**places) as told, progress_bar(STEPS, 0) as bar:
        assert len(told) == len(places)
        assert [type(one) for one in bar] == [ProgressLines]  # standard error is no terminal
        return trainer.train(told)


def test_the_log_is_json_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    outcome = train(tmp_path / "run", log=log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [10, 20]
    for row in steps:
        assert set(row) == {
            "step",
            "epoch",
            "loss",
            "gradient_norm",
            "learning_rate",
            "tokens",
            "tokens_per_second",
        }
        assert all(math.isfinite(value) for value in row.values())
    checks = [row for row in rows if "validation" in row]
    assert [row["step"] for row in checks] == [13, 25]
    assert min(row["validation"]["nats"] for row in checks) == outcome.best
    assert set(checks[0]["validation"]) == {"nats", "top1", "top5", "tokens"}


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"mine": 1}\n')
    train(tmp_path / "run", log=log)
    assert log.read_text().startswith('{"mine": 1}\n{"step": 10')


def test_every_line_is_on_the_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with logs(log=log) as (told,):
        told.evaluated(3, TokenScores(1.0, 0.5, 0.75, 8))
        assert json.loads(log.read_text())["validation"]["top5"] == 0.75


def test_a_log_holds_strict_json_even_where_there_is_nothing_to_validate_on(
    tmp_path: Path,
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    log = tmp_path / "log.jsonl"
    trainer = Trainer(make_run(tmp_path / "run", count=1, steps=10))
    assert trainer.data.sentences("validation") == 0
    with logs(log=log) as told:
        trainer.train(told)
    assert json.loads(log.read_text(), parse_constant=refuse)["step"] == 10


@pytest.mark.parametrize("place", ["nowhere/log", ""])
def test_a_log_that_cannot_be_opened_is_named(place: str, tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match="cannot be written") as caught,
        logs(log=tmp_path / place),
    ):
        pass
    assert str(tmp_path / place) in str(caught.value)


def test_a_log_on_a_full_disk_is_named() -> None:
    with pytest.raises(RunError, match="/dev/full: cannot be written"):  # noqa: SIM117
        with logs(log=Path("/dev/full")) as (told,):
            told.evaluated(1, TokenScores(1.0, 0.0, 0.0, 1))


def test_a_log_whose_disk_fills_up_is_named() -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    log = JsonLog(Full(), Path("the.log"))
    step = Step(step=10, epoch=0, loss=1, gradient_norm=1, learning_rate=1, count=1, unit="tokens")
    with pytest.raises(RunError, match=r"the\.log: cannot be written .No space left"):
        log.step(step)


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log, board = tmp_path / "log.jsonl", tmp_path / "board"
    train(tmp_path / "run", log=log, tensorboard=board)
    read = EventAccumulator(str(board)).Reload()
    training = {f"training/{n}" for n in ("loss", "gradient_norm", "learning_rate")}
    validation = {f"validation/{n}" for n in ("nats", "top1", "top5")}
    assert set(read.Tags()["scalars"]) == training | validation | {"training/tokens_per_second"}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert [(e.step, e.value) for e in read.Scalars("training/loss")] == [
        (step, torch.tensor(loss).item()) for step, loss in losses
    ]
    assert [e.step for e in read.Scalars("validation/nats")] == [13, 25]


def test_a_file_in_place_of_the_tensorboard_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "board").write_text("mine")
    with (
        pytest.raises(RunError, match=r"board.*cannot be written"),
        logs(tensorboard=tmp_path / "board"),
    ):
        pass


def test_without_tensorboard_the_command_that_installs_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install tensorboard"),
        logs(tensorboard=tmp_path),
    ):
        pass


def test_on_a_terminal_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(10, 4) as told:
        for k in range(5, 8):
            told[0].step(Step(k, 0, 2.0, 0.25, 0.1, 100, "tokens"))
        told[0].evaluated(7, TokenScores(1.5, 0.5, 0.5, 10))
        told[0].step(Step(8, 0, 2.0, 0.25, 0.1, 100, "tokens"))
    shown = capsys.readouterr().err
    for part in ("8/10", "loss 2.000", "validation 1.500", "0.25", "tokens/s"):
        assert part in shown


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("unrolled.training.callbacks.time.monotonic", lambda: now)
    with progress_bar(1000, 0) as told:
        said = []
        for k in range(1, 101):
            now = 1.5 * k
            told[0].step(Step(k, 0, 2.0, 0.25, 0.1, 300, "tokens"))
            if k == 2:
                told[0].evaluated(k, TokenScores(1.5, 0.5, 0.5, 10))
            if shown := capsys.readouterr().err:
                said.append((k, shown))
    assert [k for k, _ in said] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]  # a hundredth each
    line = (
        "step 10 of 1,000: loss 2.000 (validation 1.500), |gradient| 0.25, 200 tokens/s, 24:45 left"
    )
    assert said[0][1] == f"{line}\n"
    with progress_bar(10_000, 0) as told:  # where a hundredth takes long, every minute
        for k in range(1, 101):
            now += 1.5
            told[0].step(Step(k, 0, 2.0, 0.25, 0.1, 300, "tokens"))
    assert capsys.readouterr().err.count("\n") == 2


def test_a_line_of_the_log_is_written_to_its_end() -> None:
    class Trickle(io.BytesIO):
        def write(self, data: bytes) -> int:
            return super().write(data[:5])

    file = Trickle()
    JsonLog(file, Path("the.log")).evaluated(1, TokenScores(1.0, 0.0, 0.0, 1))
    assert file.getvalue().endswith(b"}}\n") and json.loads(file.getvalue())["step"] == 1
