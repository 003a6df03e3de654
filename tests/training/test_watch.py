"""A training that is watched: no bit of it changes, and its reports say what was there."""

import json
import math
import os
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.examples import some
from tests.lens.render.records import STRANGE, flat
from tests.lens.render.records import history as grown
from tests.sentences import make_run
from tests.training.test_loop import Diary, whole
from unrolled import watch
from unrolled.errors import MissingExtraError, RunError
from unrolled.lens import Report
from unrolled.lens.formatting import plain
from unrolled.text.run import TextRun
from unrolled.training import Trainer
from unrolled.training.callbacks import logs, progress_bar
from unrolled.training.history import PAGE, RECORDS, figures, history, write_page

DROPPED = {"dropout": 0.3, "token_dropout": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "cloze": {"model": DROPPED},
    "cloze, elman, sgd": {"model": DROPPED | {"cell": "elman"}, "optimizer": "sgd"},
    "cloze within a budget": {"model": DROPPED, "memory": 60_000},
    "deep lstm": {"kind": "lm", "model": DROPPED | {"cell": "lstm", "depth": 2}},
    "lm within a budget": {"kind": "lm", "model": {"dropout": 0.0}, "memory": 100_000},
    "truncated": {"kind": "lm", "passage": 4, "model": DROPPED},
    "truncated, k2 above k1": {"kind": "lm", "passage": 4, "k2": 17, "model": DROPPED},
    "truncated within a budget": {"kind": "lm", "passage": 4, "memory": 60_000},
}


class Seen(Diary):
    """A callback that keeps the reports too."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(stop_at)
        self.reports: dict[int, Report] = {}

    def seen(self, step: int, report: Report) -> None:
        self.reports[step] = report


def kept(directory: Path) -> dict[int, dict[str, Any]]:
    """The records in ``lens.jsonl`` by step, each step once and in order."""
    rows = [json.loads(line) for line in (directory / RECORDS).read_text("utf-8").splitlines()]
    assert all(set(row) == {"step", "record"} for row in rows)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    return {row["step"]: row["record"] for row in rows}


def trained(run: TextRun, every: int, stop_at: int | None = None) -> Seen:
    """Train ``run`` on, watched, its history kept."""
    trainer, diary = Trainer(run), Seen(stop_at)
    trainer.restore()
    with history(run.directory, trainer.step) as follower:
        trainer.train((*follower, diary), checkpoint_seconds=0, watch_every=every)
    return diary


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is drawn, which takes seconds."""
    monkeypatch.setattr("unrolled.training.history.write_page", lambda *_: None)


@pytest.mark.parametrize(
    "kind", some(KINDS, "cloze, elman, sgd", "deep lstm", "truncated within a budget")
)
def test_watched_or_not_a_training_leaves_the_same_bits(kind: str, tmp_path: Path) -> None:
    ends, told = [], []
    for every in (None, 1, 3):
        run = make_run(tmp_path / str(every), **KINDS[kind])
        diary = Seen()
        Trainer(run).train((diary,), watch_every=every)
        ends.append(whole(run))
        told.append((diary.steps, diary.scores))
        expected = [k for k in range(1, 9) if every and (k in (1, 8) or k % every == 0)]
        assert list(diary.reports) == expected
        for report in diary.reports.values():
            assert all(row.calls and row.verdict for row in report.rows)
    assert ends[0] == ends[1] == ends[2]
    assert told[0] == told[1] == told[2]


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_that_of_its_step_before_the_update(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=3, clip=0.05, model=DROPPED)
    diary = trained(run, 2)
    by_hand = Trainer(run)  # at its start: no checkpoint is read
    torch.manual_seed(run.settings.seed << 32)
    _, item = next(by_hand.feed.from_step(0))
    with watch(by_hand.model) as lens:
        by_hand.feed.loss(item).backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.model.parameters(), 0.05)
        lens.clipped(norm, 0.05)
    records = kept(run.directory)
    assert records[1] == json.loads(lens.report().to_json())
    assert list(records) == [1, 2, 3] and records[2] != records[1]
    for step, record in records.items():
        (spike,) = record["clipping"]["spikes"]
        said = diary.steps[step - 1].gradient_norm
        assert spike["norm"] == pytest.approx(said, rel=1e-4)  # five digits are kept
        assert spike["bound"] == 0.05
        assert (record["clipping"]["calls"], record["clipping"]["clipped"]) == (1, 1)


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_watching_every_so_many_steps_needs_a_whole_number(every: Any, tmp_path: Path) -> None:
    trainer = Trainer(make_run(tmp_path / "run"))
    with pytest.raises((TypeError, ValueError), match="watch_every: got"):
        trainer.train(watch_every=every)


# The history of a run that was stopped


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["cloze", "truncated"])
def test_stopped_and_resumed_the_history_is_that_of_one_run(kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "whole", evaluations=1, **KINDS[kind])
    trained(run, 2)
    assert list(kept(run.directory)) == [1, 2, 4, 6, 8]
    stopped = make_run(tmp_path / "stopped", evaluations=1, **KINDS[kind])
    for k in (1, 4, 7):
        with pytest.raises(Diary.StoppedError):
            trained(stopped, 2, stop_at=k)
    trained(stopped, 2)
    assert kept(stopped.directory) == kept(run.directory)
    assert (stopped.directory / RECORDS).read_bytes() == (run.directory / RECORDS).read_bytes()


def test_a_training_that_was_stopped_leaves_a_page_of_what_it_saw(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(Diary.StoppedError):
        trained(run, 2, stop_at=4)
    assert '"at":[1,2,4]' in (run.directory / PAGE).read_text("utf-8")


@pytest.mark.usefixtures("undrawn")
def test_steps_that_come_again_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    trained(run, 3)
    path = run.directory / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + lines[-1][:-9])
    for at, count in ((8, 4), (7, 3), (5, 2), (2, 1)):  # the steps are 1, 3, 6 and 8
        with history(run.directory, at):
            assert path.read_bytes() == b"".join(lines[:count])
    path.write_bytes(lines[0][:10])
    with history(run.directory, 8):
        assert path.read_bytes() == b""


def test_a_history_without_a_report_has_no_page(tmp_path: Path) -> None:
    with history(tmp_path, 0):
        pass
    assert not (tmp_path / PAGE).exists()


DAMAGED = [
    b"{",
    b"[]",
    b"\xff",
    b'{"record": {}}',
    b'{"step": "x"}',
    b'{"step": "x", "record": {}}',
    b'{"step": 2, "record": []}',
    b'{"step": 2, "record": {}',  # its end is missing
    b'{"step": 1, "record": {}}',  # its step came before
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_history_is_named_and_left_as_it_is(line: bytes, tmp_path: Path) -> None:
    before = b'{"step": 1, "record": {}}\n' + line + b"\n"
    (tmp_path / RECORDS).write_bytes(before)
    with (
        pytest.raises(RunError, match=r"lens\.jsonl: line 2 is damaged.*remove the file"),
        history(tmp_path, 9),
    ):
        pass
    assert (tmp_path / RECORDS).read_bytes() == before


def test_a_line_that_is_damaged_within_is_named_by_the_page(tmp_path: Path) -> None:
    lines = [json.dumps({"step": 1, "record": flat(1.0)}), '{"step": 2, "record": {"rows": [}}']
    (tmp_path / RECORDS).write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"lens\.jsonl: line 2 is damaged.*remove the file"):
        write_page(tmp_path)
    assert not (tmp_path / PAGE).exists()


def record_with(**changes: Any) -> str:
    """A record whose row differs by ``changes``."""
    record = flat(1.0, 2.0)
    record["rows"][0] |= changes
    return json.dumps(record)


VIEW = {"states": [[1]], "lags": [[1]], "estimated": False, "eigenvalues": {}, "gate": None}
MISSHAPEN = {
    "empty": "{}",
    "rows alone": '{"rows": [1]}',
    "a row of nothing": '{"rows": [{}], "notes": [], "broken": null, "clipping": null}',
    "text in the norms": record_with(norms=["x", 1.0]),
    "NaN in the norms": record_with(norms=[math.nan, 1.0]),
    "an infinity": record_with(norms=[math.inf, 1.0]),
    "beyond every float": record_with(norms=["long", 1.0]).replace('"long"', "1e400"),
    "a whole number beyond every float": record_with(norms=[10**400, 1.0]),
    "a number of too many digits": record_with(norms=["long", 1.0]).replace('"long"', "1" * 9999),
    "a negative norm": record_with(norms=[-1.0, 1.0]),
    "true as a norm": record_with(norms=[True, 1.0]),
    "a spread too short": record_with(spread=[0.0]),
    "a layer that is a list": record_with(layer=[]),
    "a verdict without its state": record_with(verdict={}),
    "a view of text": record_with(view="x"),
    "lags that are ragged": record_with(view=VIEW | {"lags": [[1, 1], [1]]}),
    "eigenvalues that are no pairs": record_with(view=VIEW | {"eigenvalues": {"s": [[1]]}}),
    "no number in the clipping": json.dumps(flat(1.0) | {"clipping": {"calls": "x"}}),
    "lists in lists": '{"rows": ' + "[" * 100_000 + "}",
}


@pytest.mark.parametrize("name", MISSHAPEN)
def test_a_record_of_another_form_is_named_by_the_page(name: str, tmp_path: Path) -> None:
    lines = [json.dumps({"step": 1, "record": flat(1.0, 2.0)})]
    lines.append(f'{{"step": 2, "record": {MISSHAPEN[name]}}}')
    (tmp_path / RECORDS).write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(
        RunError, match=r"lens\.jsonl: line 2 is damaged.*remove the file"
    ) as caught:
        write_page(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not (tmp_path / PAGE).exists()


@pytest.mark.parametrize("name", [*STRANGE, "a history"])
def test_every_record_of_a_report_has_its_form(name: str) -> None:
    from unrolled.lens.render.form import check

    records = grown(3, 4, 3) if name == "a history" else STRANGE[name]()[0]
    for record in records.values():
        assert check(json.loads(json.dumps(record))) == record


STEPS = ["Infinity", "1e400", "-5", '"1"', "1.0", "null", "9" * 5000]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_no_whole_number_is_damage(step: str, tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text(f'{{"step": {step}, "record": {json.dumps(flat(1.0))}}}\n')
    with pytest.raises(RunError, match=r"lens\.jsonl: line 1 is damaged.*remove the file"):
        write_page(tmp_path)


def test_a_page_that_fails_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("the page: No space left")

    monkeypatch.setattr("unrolled.training.history.replace", full)
    long_history(tmp_path, 2, 10)
    with pytest.raises(KeyboardInterrupt) as caught, history(tmp_path, 10):
        raise KeyboardInterrupt
    assert caught.value.__notes__ == ["there is no new page: the page: No space left"]
    with pytest.raises(RunError, match="No space left"), history(tmp_path, 10):
        pass


def test_a_folder_whose_name_is_no_utf_8_gets_its_page(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"run\xff")
    directory.mkdir()
    long_history(directory, 1, 10)
    write_page(directory)
    assert "in run?</title>" in (directory / PAGE).read_text("utf-8")


def long_history(directory: Path, count: int, wide: int) -> int:
    """``count`` records of about ``wide`` bytes at every third step; how many bytes they are."""
    record = flat(1.0, 2.0) | {"notes": ["x" * wide]}
    lines = (json.dumps({"step": 3 * k + 1, "record": record}) + "\n" for k in range(count))
    return (directory / RECORDS).write_text("".join(lines))


@pytest.mark.parametrize("count", [1, 39, 40, 41, 300])
def test_a_page_parses_no_more_records_than_it_shows(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_history(tmp_path, count, 10)
    parsed: list[int] = []
    loads = json.loads

    def spied(line: bytes, **options: Any) -> Any:
        parsed.append(loads(line)["step"])
        return loads(line, **options)

    monkeypatch.setattr("unrolled.training.history.json.loads", spied)
    write_page(tmp_path)
    steps = range(1, 3 * count + 1, 3)
    shown = min(count, 40)
    assert len(parsed) == shown and (parsed[0], parsed[-1]) == (steps[0], steps[-1])
    gaps = {b - a for a, b in pairwise(parsed)}
    assert all(abs(gap - 3 * (count - 1) / (shown - 1)) < 3 for gap in gaps)
    page = (tmp_path / PAGE).read_text("utf-8")
    assert f'"at":{json.dumps(parsed, separators=(",", ":"))}' in page
    assert (f"keeps 40 of {count} snapshots" in page) == (count > 40)


@pytest.mark.usefixtures("undrawn")
def test_a_long_history_is_read_a_line_at_a_time(tmp_path: Path) -> None:
    size = long_history(tmp_path, 200, 20_000)
    tracemalloc.start()
    try:
        with history(tmp_path, 10_000):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 10
    assert (tmp_path / RECORDS).stat().st_size == size


def test_a_history_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(RunError, match=r"lens\.jsonl"), history(tmp_path, 0):
        pass


def test_the_page_is_one_of_all_the_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    trained(run, 4)
    page = (run.directory / PAGE).read_text("utf-8")
    assert page.startswith("<!doctype html>") and "in run</title>" in page
    assert '"at":[1,4,8]' in page
    (run.directory / PAGE).unlink()
    write_page(run.directory)
    assert (run.directory / PAGE).read_text("utf-8") == page


def test_without_the_extra_the_command_that_installs_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.pages.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install altair"), history(tmp_path, 0):
        pass
    assert not list(tmp_path.iterdir())


# In figures


def test_the_logs_have_the_figures_of_every_scan(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log, board, diary = tmp_path / "log.jsonl", tmp_path / "board", Seen()
    run = make_run(tmp_path / "run", steps=5)
    with logs(log=log, tensorboard=board) as told:
        Trainer(run).train((*told, diary), watch_every=4)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = {row["step"]: row["lens"] for row in rows if "lens" in row}
    assert list(found) == [1, 4, 5]
    for step, report in diary.reports.items():
        assert list(found[step]) == ["layers.0", "layers.0.backward"]
        forward, backward = report.rows
        for row, said in zip(report.rows, found[step].values(), strict=True):
            verdict = row.verdict
            assert said["state"] == verdict.state
            assert [said["growth"], said["horizon"]] == plain([verdict.growth, verdict.horizon])
        # Of no use to a cloze model are the last two states forward, and the first two backward.
        ratio = float(forward.norms[0] / forward.norms[-3])
        assert found[step]["layers.0"]["norm_ratio"] == plain(ratio)
        ratio = float(backward.norms[-1] / backward.norms[2])
        assert found[step]["layers.0.backward"]["norm_ratio"] == plain(ratio)
    read = EventAccumulator(str(board)).Reload()
    for name in ("growth", "horizon", "norm_ratio"):
        for scan in ("layers.0", "layers.0.backward"):
            events = [(e.step, e.value) for e in read.Scalars(f"lens/{name}/{scan}")]
            expected = [(k, torch.tensor(v[scan][name]).item()) for k, v in found.items()]
            assert events == expected


def test_figures_that_are_not_finite_are_none() -> None:
    from unrolled import Recurrent, cells

    layer = Recurrent(cells.UnICORNN, 3, 4)
    with watch(layer) as lens:
        layer(torch.randn(1, 2, 3)).y.sum().backward()
    (found,) = figures(lens.report()).values()  # of one step there is no growth
    assert found["growth"] is None and found["horizon"] is None and found["norm_ratio"] == 1
    with watch(layer) as lens:
        layer(torch.randn(5, 2, 3))
    (found,) = figures(lens.report()).values()
    assert found["norm_ratio"] is None and math.isfinite(found["growth"])


def test_the_bar_has_the_worst_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    run, diary = make_run(tmp_path / "run", steps=2), Seen()
    with progress_bar(2, 0) as told:
        Trainer(run).train((*told, diary), watch_every=2)
    verdict = diary.reports[2].verdict
    assert f"{verdict.state} {verdict.growth:.2f}/step" in capsys.readouterr().err


# What is not finite


@pytest.mark.each_value
@pytest.mark.parametrize("kind", ["cloze", "deep lstm", "truncated", "truncated, k2 above k1"])
@pytest.mark.parametrize("every", [3, 4, None])
def test_where_a_watched_training_broke_is_said(
    kind: str, every: int | None, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", evaluations=1, **KINDS[kind])
    trainer = Trainer(run)
    items = [item for (_, item), _ in zip(trainer.feed.from_step(0), range(3), strict=False)]
    if run.settings.bptt == "truncated":  # of k2 tokens those before the last k1 are read again
        read = torch.cat([item.data[0] for item in items])[-run.settings.k2 :]
    else:
        read = items[2].tokens
    token = read[-3, 0]
    bad = read == token
    step = int(bad.any(1).nonzero()[0])
    sequence = int(bad[step].nonzero()[0])

    class Spoiler(Seen):
        def step(self, step: Any) -> None:
            if step.step == 2:
                with torch.no_grad():
                    trainer.model.embedding.weight[token] = math.inf

    trainer.model.token_dropout = 0.0
    with pytest.raises(RunError, match="is nan at step 3 of 8") as caught:
        trainer.train((Spoiler(),), watch_every=every)
    assert str(run.directory) in str(caught.value)
    place = f"NaN came up in the state at step {step} of sequence {sequence}, in layers, level 0, "
    assert (place in str(caught.value)) == (every is not None)


def test_a_gradient_that_broke_outside_the_layers_names_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_run(tmp_path / "run"))
    loss = trainer.model.loss

    def spoiled(batch: Any, **_: object) -> torch.Tensor:
        return loss(batch) + (trainer.model.join.bias.sum() * 0).sqrt()

    monkeypatch.setattr(trainer.model, "loss", spoiled)
    with pytest.raises(RunError, match=r"gradient's norm is nan at step 1 of 8; stopped"):
        trainer.train(watch_every=5)
