"""The average of the weights: its values, what it is used for, and that it survives a stop to the bit."""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.examples import some
from tests.sentences import make_run
from tests.text.test_feeds import CONTINUOUS
from tests.training.test_loop import Diary, bits, told_scores, whole
from unrolled.cli import main
from unrolled.errors import RunError
from unrolled.text import feeds
from unrolled.text.feeds import feed_of
from unrolled.text.measures import TokenScores
from unrolled.text.run import TextRun
from unrolled.training import Settings, Step, Trainer, steps_of
from unrolled.training.averaging import average_into
from unrolled.training.files import read_tensors, write_tensors
from unrolled.training.run import CONFIG, TRAINING, WEIGHTS, weights_of

DROPOUT = {"dropout": 0.3, "token_dropout": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "cloze": {"kind": "cloze"},
    "lm": {"kind": "lm"},
    "untied": {"kind": "cloze", "model": {"tied": False}},
    "truncated": CONTINUOUS,
    "overlapping": CONTINUOUS | {"k2": 17},
}


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights_of(model).items()}


class Averages(Diary):
    """A callback that averages the weights itself, in float64."""

    def __init__(self, trainer: Trainer, decay: float) -> None:
        super().__init__()
        self.trainer, self.decay = trainer, decay
        self.average = {n: w.double() for n, w in copies(trainer.model).items()}

    def step(self, step: Step) -> None:
        r = min(self.decay, (1 + step.step) / (10 + step.step))
        for name, weight in copies(self.trainer.model).items():
            self.average[name] = r * self.average[name] + (1 - r) * weight.double()


def check_is(trainer: Trainer, expected: dict[str, Tensor], steps: int) -> None:
    """The trainer's average is ``expected``: each step rounds thrice at most."""
    found = copies(trainer.kept)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        size = float(expected[name].abs().max())
        error = float((tensor.double() - expected[name]).abs().max())
        assert error <= 3 * steps * torch.finfo(tensor.dtype).eps * size, name


@pytest.mark.each_value
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [0.1, 0.5, 0.999])  # below the warm-up, in it, above it
def test_the_average_is_that_of_the_weights_after_each_step(
    kind: str, decay: float, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", average=decay, learning_rate=0.05, steps=15, **KINDS[kind])
    trainer = Trainer(run)
    expected = Averages(trainer, decay)
    trainer.train((expected,))
    check_is(trainer, expected.average, 15)
    with pytest.raises(AssertionError):  # the check can fail
        check_is(trainer, {n: w.double() for n, w in copies(trainer.model).items()}, 15)


def test_weights_that_stand_still_are_their_own_average() -> None:
    model, average = nn.Linear(3, 5), nn.Linear(3, 5)
    away = (average.weight - model.weight).detach()
    left = 1.0
    for step in range(1, 31):
        average_into(average, model, 0.7, step)
        left *= min(0.7, (1 + step) / (10 + step))
    torch.testing.assert_close(average.weight, model.weight + left * away)
    assert left < 1e-5  # what the beginning still counts


def test_a_shared_tensor_is_averaged_once_and_stays_shared(tmp_path: Path) -> None:
    trainer = Trainer(make_run(tmp_path / "run", average=0.9))
    shared = [n for n, _ in trainer.model.named_parameters(remove_duplicate=False)]
    assert len(shared) > len(weights_of(trainer.model))  # one is shared
    trainer.train()
    by_name = dict(trainer.kept.named_parameters(remove_duplicate=False))
    raw = dict(trainer.model.named_parameters(remove_duplicate=False))
    for a in shared:
        for b in shared:
            assert (by_name[a] is by_name[b]) == (raw[a] is raw[b])
    assert not {id(p) for p in trainer.kept.parameters()} & {id(p) for p in raw.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_goes_on_with_the_weights_themselves(kind: str, tmp_path: Path) -> None:
    ends = []
    for average in (0.0, 0.9):
        run = make_run(tmp_path / str(average), average=average, patience=99, **KINDS[kind])
        diary = Diary()
        Trainer(run).train((diary,), checkpoint_seconds=0)
        ends.append((bits(run.directory / TRAINING), diary.steps))
    (plain, steps), (both, same_steps) = ends
    assert steps == same_steps
    assert plain == {n: b for n, b in both.items() if not n.startswith("average.")}
    names = {n.removeprefix("model.") for n in plain if n.startswith("model.")}
    assert both.keys() - plain.keys() == {f"average.{n}" for n in names}


@pytest.mark.parametrize("kind", ["cloze", "lm", "truncated"])
def test_the_average_is_what_is_evaluated_and_kept(kind: str, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", average=0.9, learning_rate=0.05, evaluations=4, patience=9, **KINDS[kind]
    )
    trainer = Trainer(run)
    found: list[tuple[TokenScores, TokenScores, dict[str, bytes]]] = []

    class Evaluations(Diary):
        def evaluated(self, step: int, scores: TokenScores) -> None:
            super().evaluated(step, scores)
            model = run.new_model()
            model.load_state_dict(trainer.kept.state_dict())
            again = feeds.feed_of(model, run.settings, trainer.data).scores()
            found.append((again, trainer.feed.scores(), {
                n: w.numpy().tobytes() for n, w in copies(trainer.kept).items()}))  # fmt: skip

    diary = Evaluations()
    outcome = trainer.train((diary,))
    assert [scores for _, scores in diary.scores] == [of_average for of_average, _, _ in found]
    assert all(of_average.nats != of_raw.nats for of_average, of_raw, _ in found)
    best = min(range(4), key=lambda k: found[k][0].nats)
    assert outcome.best == found[best][0].nats
    assert bits(run.directory / WEIGHTS) == found[best][2]
    used = {n: w.numpy().tobytes() for n, w in copies(run.model()).items()}
    assert used == found[best][2]


def test_early_stopping_goes_by_the_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_scores(monkeypatch, 3.0, 2.0, 2.5, 2.0, 1.0)
    judged: list[object] = []
    told = feeds.evaluate
    monkeypatch.setattr(
        feeds, "evaluate", lambda model, b: (judged.append(model), told(model, b))[1]
    )
    trainer = Trainer(make_run(tmp_path / "run", average=0.9, steps=20, evaluations=10, patience=2))
    outcome = trainer.train()
    assert (outcome.step, outcome.stopped_early, outcome.best) == (8, True, 2.0)
    assert len(judged) == 4 and all(model is trainer.kept for model in judged)


def test_without_a_validation_split_the_last_average_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", count=1, average=0.9)
    assert run.dataset().sentences("validation") == 0
    trainer = Trainer(run)
    trainer.train()
    last = {n: w.numpy().tobytes() for n, w in copies(trainer.kept).items()}
    assert bits(run.directory / WEIGHTS) == last


def test_without_an_average_there_is_one_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    trainer = Trainer(run)
    assert trainer.kept is trainer.model
    trainer.train()
    assert {n.split(".")[0] for n in bits(run.directory / TRAINING)} == {"model", "optimizer"}


def test_a_run_from_before_there_was_an_average_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = json.loads((run.directory / CONFIG).read_text("utf-8"))
    del config["training"]["average"]
    (run.directory / CONFIG).write_text(json.dumps(config), "utf-8")
    old = TextRun(run.directory)
    assert old.settings == run.settings and old.settings.average == 0
    with pytest.raises(Diary.StoppedError):
        Trainer(old).train((Diary(stop_at=5),), checkpoint_seconds=0)
    trainer = Trainer(old)
    trainer.restore()
    assert trainer.train().step == 8


# Resuming

RESUMED: dict[str, dict[str, Any]] = {
    "cloze": {"model": DROPOUT},
    "cloze, sgd, untied": {"optimizer": "sgd", "model": DROPOUT | {"tied": False}},
    "lm": {"kind": "lm", "model": DROPOUT},
    "truncated": CONTINUOUS,
    "overlapping, past an epoch": CONTINUOUS | {"count": 40, "steps": 24, "k2": 17},
}


@pytest.mark.parametrize(
    "options", some(RESUMED, "cloze", "cloze, sgd, untied", "overlapping, past an epoch")
)
def test_stopped_after_any_step_and_resumed_it_ends_at_the_same_bits(
    options: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", average=0.6, evaluations=3, **RESUMED[options])
    start = tmp_path / "start"
    shutil.copytree(run.directory, start)
    Trainer(run).train()
    expected = whole(run)
    assert any(name.startswith("average.") for name in expected[1])
    for k in some(range(1, 9) if options == "cloze" else (1, 4, 6, 8), 1, 6, 8):
        directory = tmp_path / str(k)
        shutil.copytree(start, directory)
        stopped = TextRun(directory)
        with pytest.raises(Diary.StoppedError):
            Trainer(stopped).train((Diary(stop_at=k),), checkpoint_seconds=0)
        assert read_tensors(directory / TRAINING)[1]["step"] == k - 1
        torch.manual_seed(k)
        again = Trainer(stopped)
        again.restore()
        again.train()
        assert whole(stopped) == expected


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
NAME = "average.embedding.weight"


def spoiled(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[0, 0] = value
    return tensor


DAMAGED: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda t: {n: x for n, x in t.items() if not n.startswith("average.")}, "is missing"),
    "one missing": (lambda t: {n: x for n, x in t.items() if n != NAME}, "is missing"),
    "one too many": (lambda t: t | {"average.more": torch.ones(1)}, "is not in the model"),
    "another shape": (lambda t: t | {NAME: t[NAME][:1].clone()}, "expected"),
    "another dtype": (lambda t: t | {NAME: t[NAME].double()}, "expected"),
    "nan": (lambda t: t | {NAME: spoiled(t[NAME], math.nan)}, "not finite"),
    "infinity": (lambda t: t | {NAME: spoiled(t[NAME], math.inf)}, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_average_is_refused(damage: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", average=0.9, steps=2)
    Trainer(run).train()
    change, reason = DAMAGED[damage]
    path = run.directory / TRAINING
    tensors, notes = read_tensors(path)
    write_tensors(path, change(tensors), notes)
    trainer = Trainer(run)
    with pytest.raises(RunError) as caught:
        trainer.restore()
    message = str(caught.value)
    assert f"{path}: average: " in message and reason in message and "\n" not in message


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_checkpoint_of_the_other_sort_is_refused(average: float, tmp_path: Path) -> None:
    run, other = (make_run(tmp_path / str(a), average=a, steps=2) for a in (average, 0.9 - average))
    Trainer(other).train()
    shutil.copy(other.directory / TRAINING, run.directory / TRAINING)
    with pytest.raises(RunError, match="average"):
        Trainer(run).restore()


# What is not finite


@pytest.mark.parametrize("evaluations", [1, 8])
@pytest.mark.parametrize("average", [0.1, 0.999])
def test_a_rate_that_explodes_leaves_an_average_that_can_be_used(
    average: float, evaluations: int, tmp_path: Path
) -> None:
    run = make_run(
        tmp_path / "run", learning_rate=3e38, optimizer="sgd", clip=1e30,
        evaluations=evaluations, average=average,
    )  # fmt: skip
    with pytest.raises(RunError, match=r"at step [1-8] of 8"):
        Trainer(run).train(checkpoint_seconds=0)
    assert all(p.isfinite().all() for p in run.model().parameters())
    Trainer(run).restore()


def test_a_loss_that_is_not_finite_keeps_the_average_of_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", average=0.9, evaluations=1)
    trainer = Trainer(run)
    loss = trainer.model.loss
    monkeypatch.setattr(
        trainer.model, "loss", lambda b, **_: loss(b) * (math.nan if trainer.step == 4 else 1)
    )
    with pytest.raises(RunError, match="loss is nan at step 5"):
        trainer.train(checkpoint_seconds=0)
    saved = bits(run.directory / TRAINING)
    for name, kept in bits(run.directory / WEIGHTS).items():
        assert kept == saved[f"average.{name}"] != saved[f"model.{name}"]


@pytest.mark.parametrize(("which", "noticed"), [("model", 3), ("kept", 8)])
def test_weights_that_are_not_finite_are_in_no_checkpoint(
    which: str, noticed: int, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", average=0.9, evaluations=1)
    trainer = Trainer(run)

    class Spoiler(Diary):
        def step(self, step: Step) -> None:
            if step.step == 2:
                getattr(trainer, which).get_parameter("join.bias").data[0] = math.inf

    with pytest.raises(RunError, match=f"at step {noticed} of 8; stopped"):
        trainer.train((Spoiler(),), checkpoint_seconds=0)
    tensors, notes = read_tensors(run.directory / TRAINING)
    assert notes["step"] == 1 and all(tensor.isfinite().all() for tensor in tensors.values())
    assert bits(run.directory / WEIGHTS) == {
        n.removeprefix("average."): t.numpy().tobytes()
        for n, t in tensors.items() if n.startswith("average.")
    }  # fmt: skip


# Settings and the command line


@pytest.mark.parametrize(
    ("value", "error"),
    [(1, ValueError), (-0.1, ValueError), (math.nan, ValueError), (math.inf, ValueError),
     ("0.9", TypeError), (None, TypeError), (True, TypeError)],
)  # fmt: skip
def test_a_decay_that_cannot_be_is_refused(
    value: object, error: type[Exception], tmp_path: Path
) -> None:
    given: dict[str, Any] = dict(vars(make_run(tmp_path / "run").settings))
    with pytest.raises(error, match="average: got"):
        Settings(**(given | {"average": value}))


def test_minutes_allow_for_it_and_leave_the_model_as_it_was(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", minutes=0.004, average=0.9)
    model = run.new_model()
    before = copies(model)
    assert steps_of(model, run.settings, partial(feed_of, data=run.dataset())) >= 1
    assert all(before[n].equal(w) for n, w in copies(model).items())


def test_the_option_reaches_the_training_and_is_held_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{a}{b}{c}。" for a in "我你他" for b in "想要" for c in "书茶花猫"))
    given = ["train", "lm", "--data", str(text), "--out", str(tmp_path / "run"), "--epochs", "1"]
    given += ["--hidden", "8", "--embedding", "8", "--threads", "1"]
    assert main([*given, "--average", "0.9"]) == 0
    assert TextRun(tmp_path / "run").settings.average == 0.9
    assert main([*given, "--resume"]) == 0
    assert main([*given, "--resume", "--average", "0.8"]) == 2
    assert "--average: got 0.8, but the run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*given, "--average", "1"])
    assert "expected a number from 0 up to, but not, 1" in capsys.readouterr().err
