"""What an older version of the library wrote is still read, and leads to the numbers it led to then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unrolled
from tests.compare import assert_close_by_name, tolerance
from unrolled import bptt
from unrolled.cells import LSTM
from unrolled.cli import main
from unrolled.lens.render import form
from unrolled.text.run import TextRun
from unrolled.training import Step, Trainer
from unrolled.training.files import read_tensors
from unrolled.training.history import PAGE, RECORDS, write_page
from unrolled.training.run import TRAINING

HERE = Path(__file__).parent
NUMBERS = json.loads((HERE / "numbers.json").read_text("utf-8"))

# Runs


def test_a_run_of_each_kind_was_written() -> None:
    runs = {path.parent.name: TextRun(path.parent) for path in HERE.glob("*/config.json")}
    assert runs.keys() == NUMBERS.keys()
    assert {(run.kind, run.settings.bptt) for run in runs.values()} == {
        ("cloze", "whole"),
        ("lm", "whole"),
        ("lm", "truncated"),
    }
    assert all(run.settings.batch_size == 3 for name, run in runs.items() if "ca" in name)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_model_of_a_run_scores_as_it_did(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(HERE / name), "--json"]) == 0
    # The mean over tokens whose logits are sums of at most 20 steps of float32.
    expected = pytest.approx(NUMBERS[name]["nats"], rel=tolerance(torch.float32, 20))
    assert json.loads(capsys.readouterr().out)["nats"] == expected


class Losses:
    """A watcher that keeps the losses of so many steps, then stops the training."""

    class EnoughError(Exception):
        pass

    def __init__(self, count: int) -> None:
        self.count = count
        self.losses: list[float] = []

    def step(self, step: Step) -> None:
        self.losses.append(step.loss)
        if len(self.losses) == self.count:
            raise self.EnoughError

    def evaluated(self, *_: object) -> None:
        pass

    def seen(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", NUMBERS)
def test_a_run_is_taken_up_with_the_losses_that_followed_then(name: str, tmp_path: Path) -> None:
    expected = NUMBERS[name]["losses"]
    trainer = Trainer(TextRun(shutil.copytree(HERE / name, tmp_path / "run")))
    trainer.restore()
    assert trainer.step == trainer.settings.steps // 2
    diary = Losses(len(expected))
    with pytest.raises(Losses.EnoughError):
        trainer.train((diary,))
    # A loss is a sum of 20 steps of float32; that of each update passes its rounding on.
    for k, (got, want) in enumerate(zip(diary.losses, expected, strict=True), start=1):
        assert got == pytest.approx(want, rel=k * tolerance(torch.float32, 20)), f"step {k}"


@pytest.mark.parametrize("lost", ["optimizer", "feed"])
def test_that_would_be_seen_if_a_state_were_lost(lost: str, tmp_path: Path) -> None:
    expected = NUMBERS["truncated"]["losses"]
    trainer = Trainer(TextRun(shutil.copytree(HERE / "truncated", tmp_path / "run")))
    trainer.restore()
    if lost == "optimizer":
        for state in trainer.optimizer.state.values():
            state["exp_avg"].zero_()
    else:
        trainer.feed.load_state_dict({})
    diary = Losses(len(expected))
    with pytest.raises(Losses.EnoughError):
        trainer.train((diary,))
    assert diary.losses != pytest.approx(expected, rel=len(expected) * tolerance(torch.float32, 20))


@pytest.mark.parametrize("name", NUMBERS)
def test_the_command_takes_a_run_up(name: str, tmp_path: Path) -> None:
    run = shutil.copytree(HERE / name, tmp_path / "run")
    kind = TextRun(run).kind
    same = ["--batch-size", "3"] if TextRun(run).settings.bptt == "truncated" else []
    assert main(["train", kind, "--out", str(run), "--resume", "--quiet", *same]) == 0
    assert Trainer(TextRun(run)).settings.steps == read_tensors(run / TRAINING)[1]["step"]


def test_the_history_of_a_watched_run_goes_on(tmp_path: Path) -> None:
    run = shutil.copytree(HERE / "cloze", tmp_path / "run")
    before = (run / RECORDS).read_text("utf-8").splitlines()
    assert main(["train", "cloze", "--out", str(run), "--resume", "--quiet", "--watch", "9"]) == 0
    after = (run / RECORDS).read_text("utf-8").splitlines()
    assert after[: len(before)] == before and len(after) > len(before)
    assert (run / PAGE).stat().st_size > 0


# A report


def test_a_report_with_a_broken_place_is_shown(tmp_path: Path) -> None:
    record = json.loads((HERE / "report.json").read_text("utf-8"))
    assert record["broken"]["lane"] == 1  # as it was named then
    assert form.check(record)["broken"]["sequence"] == 1
    line = json.dumps({"step": 3, "record": record}, ensure_ascii=False)
    (tmp_path / RECORDS).write_text(line + "\n", encoding="utf-8")
    write_page(tmp_path)
    page = (tmp_path / PAGE).read_text("utf-8")
    assert "step 3 of sequence 1" in page


# States


class Model(nn.Module):
    """A layer that has a name in the model, as when they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = unrolled.GRU(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y


def of_carry(model: nn.Module, saved: Any, x: Tensor) -> list[Tensor]:
    carry = bptt.Carry(model)
    carry.load_state_dict(saved)
    with carry.window():
        return [model(x)]


def of_truncated(model: nn.Module, saved: Any, x: Tensor) -> list[Tensor]:
    truncated = bptt.Truncated(model, 6)
    truncated.load_state_dict(saved)
    return [truncated(x)]


def of_learner(learn: Any, saved: Any, x: Tensor) -> list[Tensor]:
    learn.load_state_dict(saved)
    return [learn(x)]


def of_stream(layer: unrolled.Recurrent, saved: Any, x: Tensor) -> list[Tensor]:
    stream = layer.stream(5)
    stream.load_state_dict(saved)
    assert stream.ids == [1, 2]
    return [stream(x), *stream.state]


def uoro(layer: nn.Module) -> bptt.UORO:
    return bptt.UORO(layer, generator=torch.Generator())


KEEPERS: dict[str, tuple[Callable[[], nn.Module], Callable[..., list[Tensor]]]] = {
    "carry": (Model, of_carry),
    "truncated": (Model, of_truncated),
    "rtrl": (lambda: unrolled.LSTM(3, 4), lambda layer, *rest: of_learner(bptt.RTRL(layer), *rest)),
    "uoro": (lambda: unrolled.RNN(3, 4), lambda layer, *rest: of_learner(uoro(layer), *rest)),
    "snap1": (
        lambda: unrolled.GRU(3, 4),
        lambda layer, *rest: of_learner(bptt.SnAp1(layer), *rest),
    ),
    "stream": (lambda: unrolled.Recurrent(LSTM, 3, 4, depth=2), of_stream),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_a_saved_state_leads_to_the_same_results_and_gradients(name: str) -> None:
    made, results_of = KEEPERS[name]
    written = torch.load(HERE / f"{name}.pt", weights_only=True)
    layer = made().double()
    layer.load_state_dict(written["weights"])
    results = results_of(layer, written["saved"], written["x"])
    expected = {f"result {k}": tensor for k, tensor in enumerate(written["results"])}
    got = {f"result {k}": tensor.detach() for k, tensor in enumerate(results)}
    if name != "stream":
        torch.autograd.backward(results[0].square().sum())
        names = [n for n, _ in layer.named_parameters()]
        expected |= dict(zip(names, written["gradients"], strict=True))
        got |= {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    assert_close_by_name(got, {n: t.detach() for n, t in expected.items()}, steps=9)
