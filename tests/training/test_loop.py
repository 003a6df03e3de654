"""The loop: it learns, it clips, it stops, and it goes on where it was, to the bit."""

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.examples import some
from tests.sentences import make_run
from unrolled.errors import DataError, RunError
from unrolled.text import feeds
from unrolled.text.data import Batch
from unrolled.text.feeds import feed_of
from unrolled.text.measures import TokenScores
from unrolled.text.run import TextRun
from unrolled.training import Settings, Step, Trainer, loop, steps_of
from unrolled.training import settings as settings_module
from unrolled.training.files import read_tensors
from unrolled.training.run import TRAINING, WEIGHTS, weights_of
from unrolled.training.settings import SCHEDULES


class Diary:
    """A callback that keeps what it is told, and may stop the training by an exception."""

    class StoppedError(Exception):
        pass

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[Step] = []
        self.scores: list[tuple[int, TokenScores]] = []

    def step(self, step: Step) -> None:
        self.steps.append(step)
        if step.step == self.stop_at:
            raise self.StoppedError

    def evaluated(self, step: int, scores: TokenScores) -> None:
        self.scores.append((step, scores))


def bits(path: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in read_tensors(path)[0].items()}


def whole(run: TextRun) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, Any]]:
    """All that a training leaves: the best weights, the last state, the progress."""
    path = run.directory / TRAINING
    return bits(run.directory / WEIGHTS), bits(path), read_tensors(path)[1]


@pytest.mark.each_value
@pytest.mark.parametrize("kind", ["cloze", "lm"])
@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.02), ("sgd", 0.5)])
def test_the_loss_falls(kind: str, optimizer: str, rate: float, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", kind=kind, steps=60, learning_rate=rate, optimizer=optimizer,
        model={"dropout": 0.0},
    )  # fmt: skip
    diary = Diary()
    outcome = Trainer(run).train((diary,))
    first = sum(s.loss for s in diary.steps[:5]) / 5
    last = sum(s.loss for s in diary.steps[-5:]) / 5
    assert first > 3 and last < 0.75 * first
    assert outcome.step == 60 and not outcome.stopped_early
    assert [step for step, _ in diary.scores] == [30, 60]
    assert outcome.best == min(scores.nats for _, scores in diary.scores) < 0.75 * first


def test_steps_epochs_and_tokens_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=13)
    data = run.dataset()
    an_epoch = len(data.batches("train", 300))
    assert 2 < an_epoch < 12
    diary = Diary()
    Trainer(run).train((diary,))
    assert [s.step for s in diary.steps] == list(range(1, 14))
    assert [s.epoch for s in diary.steps] == [k // an_epoch for k in range(13)]
    assert sum(s.count for s in diary.steps[:an_epoch]) == len(data.tokens["train"])


@pytest.mark.parametrize("clip", [0.01, 0.2, 1e6])
def test_the_gradients_norm_is_at_most_clip_and_its_direction_is_kept(
    clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_run(tmp_path / "run", clip=clip, steps=6))
    norms: list[float] = []
    step = trainer.optimizer.step

    def spy() -> None:
        gradients = [p.grad for p in trainer.model.parameters()]
        norms.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients)))
        step()

    monkeypatch.setattr(trainer.optimizer, "step", spy)
    diary = Diary()
    trainer.train((diary,))
    assert len(norms) == 6
    for after, said in zip(norms, diary.steps, strict=True):
        assert after <= clip * (1 + 1e-5)
        assert after == pytest.approx(min(said.gradient_norm, clip), rel=1e-4)
    if clip == 0.01:
        assert all(s.gradient_norm > clip for s in diary.steps)  # the norm told is the one before


def settings(**options: Any) -> Settings:
    given = {"seed": 0, "steps": 8, "epochs": None, "minutes": None, "batch_steps": 300}
    given |= {"optimizer": "adam", "learning_rate": 1.0, "schedule": "linear", "clip": 1.0}
    given |= {"weight_decay": 0.0, "evaluations": 2, "patience": 3, "threads": 1}
    return Settings(**(given | options))


@pytest.mark.parametrize(
    ("schedule", "quarter", "half", "last"),
    [
        ("linear", 0.75, 0.5, 0.01),
        ("cosine", (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(math.pi * 0.99)) / 2),
        ("constant", 1, 1, 1),
    ],
)
def test_the_rate_rises_for_a_20th_and_then_follows_the_schedule(
    schedule: str, quarter: float, half: float, last: float
) -> None:
    given = settings(schedule=schedule, steps=100, learning_rate=0.3)
    rates = [given.rate(k) / 0.3 for k in range(100)]
    assert [rates[25], rates[50], rates[99]] == pytest.approx([quarter, half, last])
    assert rates[0] == pytest.approx(1 / 5)  # of 5 steps, the first
    assert rates[:5] == sorted(rates[:5])
    assert all(0 < rate <= 1 for rate in rates)


def test_the_inverse_root_rises_for_250_steps_and_falls_without_regard_to_the_end() -> None:
    given = settings(schedule="inverse-sqrt", steps=7_000, learning_rate=0.3)
    rates = [given.rate(k) / 0.3 for k in range(6_001)]
    assert rates[0] == pytest.approx(1 / 250)
    assert rates[:250] == sorted(rates[:250]) and rates[249:] == sorted(rates[249:], reverse=True)
    assert [rates[2_000], rates[6_000]] == pytest.approx([2**-0.5, 0.5])
    for steps in (5_000, 6_001):
        assert all(given.with_steps(steps).rate(k) == given.rate(k) for k in range(steps))
    few = given.with_steps(40)  # too few to rise so long
    assert [few.rate(k) / 0.3 for k in (0, 1)] == pytest.approx([0.5, (1 + 1 / 2_000) ** -0.5])


@pytest.mark.parametrize("schedule", ["inverse-sqrt", "linear"])
def test_a_training_without_regard_to_its_end_passes_through_all_shorter_ones(
    schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "OPEN_WARM_UP", 0.35)  # of 7 steps, a 20th
    given = {"schedule": schedule, "average": 0.9999, "model": {"weight_drop": 0.2}}
    short = make_run(tmp_path / "short", steps=7, evaluations=1, **given)
    Trainer(short).train()
    long = make_run(tmp_path / "long", steps=21, evaluations=3, **given)
    trainer = Trainer(long)

    def state() -> dict[str, bytes]:
        return {
            f"{owner}.{name}": tensor.detach().numpy().tobytes()
            for owner, model in trainer.models.items()
            for name, tensor in weights_of(model).items()
        }

    class AfterSeven(Diary):
        def evaluated(self, step: int, scores: TokenScores) -> None:
            super().evaluated(step, scores)
            if step == 7:
                found.append((state(), bits(long.directory / WEIGHTS)))

    found: list[tuple[dict[str, bytes], dict[str, bytes]]] = []
    trainer.train((AfterSeven(),))
    saved = bits(short.directory / TRAINING)
    of_short = {name: b for name, b in saved.items() if not name.startswith("optimizer.")}
    ((of_long, kept),) = found
    assert of_short.keys() == of_long.keys()
    assert (of_short == of_long) == (schedule == "inverse-sqrt")
    assert (bits(short.directory / WEIGHTS) == kept) == (schedule == "inverse-sqrt")


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 21])
def test_short_trainings_have_a_rate_above_0_at_every_step(steps: int) -> None:
    for schedule in SCHEDULES:
        given = settings(schedule=schedule, steps=steps)
        assert all(0 < given.rate(k) <= 1 for k in range(steps))


def test_the_optimizer_is_given_the_schedules_rate(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=8)
    trainer, diary = Trainer(run), Diary()
    trainer.train((diary,))
    expected = [run.settings.rate(k) for k in range(8)]
    assert [s.learning_rate for s in diary.steps] == expected
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {expected[-1]}


def test_only_matrices_decay(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", weight_decay=0.1)
    matrices, vectors = Trainer(run).optimizer.param_groups
    assert matrices["weight_decay"] == 0.1 and vectors["weight_decay"] == 0
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}


# Evaluation and early stop


def told_scores(monkeypatch: pytest.MonkeyPatch, *nats: float) -> None:
    """Let every evaluation have the next of ``nats`` as its result."""
    given = iter(nats)
    monkeypatch.setattr(feeds, "evaluate", lambda *_: TokenScores(next(given), 0.5, 0.5, 10))


def test_it_stops_early_after_patience_evaluations_without_a_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_scores(monkeypatch, 3.0, 2.0, 2.5, 2.0, 1.0)
    run = make_run(tmp_path / "run", steps=20, evaluations=10, patience=2)
    diary = Diary()
    outcome = Trainer(run).train((diary,))
    assert (outcome.step, outcome.stopped_early, outcome.best) == (8, True, 2.0)
    assert [step for step, _ in diary.scores] == [2, 4, 6, 8]
    assert read_tensors(run.directory / WEIGHTS)[1] == {"step": 4, "validation_nats": 2.0}


def test_a_gain_makes_it_patient_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told_scores(monkeypatch, 3.0, 3.5, 2.0, 2.5, 1.0)
    outcome = Trainer(make_run(tmp_path / "run", steps=10, evaluations=5, patience=2)).train()
    assert (outcome.step, outcome.stopped_early, outcome.best) == (10, False, 1.0)


def test_the_weights_kept_are_those_of_the_best_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_scores(monkeypatch, 3.0, 2.0, 2.5, 2.6)
    run = make_run(tmp_path / "run", steps=8, evaluations=4, patience=9)
    at_best: dict[str, bytes] = {}

    class Copy(Diary):
        def evaluated(self, step: int, scores: TokenScores) -> None:
            if scores.nats == 2.0:
                named = trainer.model.named_parameters()
                at_best.update({n: p.detach().numpy().tobytes() for n, p in named})

    trainer = Trainer(run)
    trainer.train((Copy(),))
    assert bits(run.directory / WEIGHTS) == at_best
    assert any(
        at_best[n] != p.detach().numpy().tobytes() for n, p in trainer.model.named_parameters()
    )


def test_a_run_that_has_ended_trains_no_further(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    Trainer(run).train()
    before = whole(run)
    again, diary = Trainer(run), Diary()
    again.restore()
    assert again.train((diary,)).step == 8
    assert diary.steps == []
    assert whole(run) == before


def test_one_that_stopped_early_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_scores(monkeypatch, 2.0, 3.0)
    run = make_run(tmp_path / "run", steps=8, evaluations=4, patience=1)
    assert Trainer(run).train().stopped_early
    again, diary = Trainer(run), Diary()
    again.restore()
    outcome = again.train((diary,))
    assert diary.steps == [] and outcome.stopped_early and outcome.best == 2.0


def test_without_a_validation_split_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", count=1)  # of two there is one for validation
    data = run.dataset()
    assert data.sentences("validation") == 0
    trainer = Trainer(run)
    outcome = trainer.train()
    assert outcome.best == math.inf and outcome.step == 8
    last = {n: p.detach().numpy().tobytes() for n, p in trainer.model.named_parameters()}
    assert bits(run.directory / WEIGHTS) == last


def test_without_a_training_split_it_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for end in ("tokens", "offsets"):
        shutil.copy(run.directory / f"data/test.{end}", run.directory / f"data/train.{end}")
    (run.directory / "data" / "train.tokens").write_bytes(b"")
    (run.directory / "data" / "train.offsets").write_bytes(bytes(8))
    with pytest.raises(DataError, match="no sentence in the training split"):
        Trainer(run)


# What is not finite


def check_stopped(
    run: TextRun, caught: pytest.ExceptionInfo[RunError], step: int, what: str
) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert what in message and f"at step {step} of" in message and str(run.directory) in message
    assert "--learning-rate" in message
    for parameter in run.model().parameters():  # also: the weights on disk are whole
        assert parameter.isfinite().all()


@pytest.mark.each_value
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_good_weights(
    bad: float, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", evaluations=8)
    trainer = Trainer(run)
    loss = trainer.model.loss

    def spoiled(batch: Batch, **_: object) -> torch.Tensor:
        return loss(batch) * (bad if trainer.step == at - 1 else 1)

    monkeypatch.setattr(trainer.model, "loss", spoiled)
    with pytest.raises(RunError) as caught:
        trainer.train()
    check_stopped(run, caught, at, f"loss is {bad}")
    # The update of that step was not made, and the step before it is on the disk.
    tensors, notes = read_tensors(run.directory / TRAINING)
    assert notes["step"] == trainer.step == at - 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_gradient_that_is_not_finite_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    trainer = Trainer(run)
    loss = trainer.model.loss

    def spoiled(batch: Batch, **_: object) -> torch.Tensor:
        # Finite itself, but the slope of a root is infinite at 0.
        nothing = trainer.model.join.bias.sum() * 0
        return loss(batch) + (nothing.sqrt() if trainer.step == 2 else 0)

    monkeypatch.setattr(trainer.model, "loss", spoiled)
    with pytest.raises(RunError) as caught:
        trainer.train()
    check_stopped(run, caught, 3, "gradient's norm is")
    for parameter in trainer.model.parameters():
        assert parameter.isfinite().all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("evaluations", [1, 8])
def test_a_rate_that_explodes_by_itself_leaves_weights_that_can_be_used(
    optimizer: str, evaluations: int, tmp_path: Path
) -> None:
    run = make_run(
        tmp_path / "run", learning_rate=3e38, optimizer=optimizer, clip=1e30,
        evaluations=evaluations,
    )  # fmt: skip
    with pytest.raises(RunError, match=r"at step [1-8] of 8"):
        Trainer(run).train(checkpoint_seconds=0)
    for parameter in run.model().parameters():
        assert parameter.isfinite().all()


# Resuming


DROPOUT = {"dropout": 0.3, "token_dropout": 0.3}
RESUMED: dict[str, dict[str, Any]] = {
    "adam": {"model": DROPOUT},
    "adam, decay, cosine": {"weight_decay": 0.1, "schedule": "cosine", "model": DROPOUT},
    "sgd": {"optimizer": "sgd", "schedule": "constant", "model": DROPOUT},
    "deep lstm, untied": {"model": DROPOUT | {"cell": "lstm", "depth": 2, "tied": False}},
    "all that is drawn": {
        "model": DROPOUT | {"variational_dropout": 0.2, "weight_drop": 0.2, "zoneout": 0.2}
    },
}


@pytest.mark.parametrize("options", RESUMED)
def test_stopped_after_any_step_and_resumed_it_ends_at_the_same_bits(
    options: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", evaluations=3, **RESUMED[options])
    start = tmp_path / "start"
    shutil.copytree(run.directory, start)
    Trainer(run).train()
    expected = whole(run)
    for k in some(range(1, 9) if options == "adam" else (1, 4, 6, 8), 1, 6, 8):
        directory = tmp_path / str(k)
        shutil.copytree(start, directory)
        stopped = TextRun(directory)
        with pytest.raises(Diary.StoppedError):
            Trainer(stopped).train((Diary(stop_at=k),), checkpoint_seconds=0)
        assert read_tensors(directory / TRAINING)[1]["step"] == k - 1
        torch.manual_seed(k)  # whatever a new process begins with
        again = Trainer(stopped)
        again.restore()
        again.train()
        assert whole(stopped) == expected


def test_stopped_many_times_between_checkpoints_it_ends_at_the_same_bits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20, evaluations=5)
    start = tmp_path / "start"
    shutil.copytree(run.directory, start)
    Trainer(run).train()
    stopped = TextRun(start)
    for k in (2, 3, 6, 7, 11, 11, 17, 20):
        trainer = Trainer(stopped)
        trainer.restore()
        with pytest.raises(Diary.StoppedError):
            trainer.train((Diary(stop_at=k),), checkpoint_seconds=1e9)
    trainer = Trainer(stopped)
    trainer.restore()
    trainer.train()
    assert whole(stopped) == whole(run)


def test_how_often_checkpoints_are_written_changes_nothing(tmp_path: Path) -> None:
    results = []
    for seconds in (0.0, 1e9):
        run = make_run(tmp_path / str(seconds))
        Trainer(run).train(checkpoint_seconds=seconds)
        results.append(whole(run))
    assert results[0] == results[1]


def test_without_a_checkpoint_it_starts_at_the_start(tmp_path: Path) -> None:
    trainer = Trainer(make_run(tmp_path / "run"))
    trainer.restore()
    assert trainer.step == 0


def test_the_seed_decides_every_bit(tmp_path: Path) -> None:
    ends = {}
    for name, seed in [("a", 0), ("b", 0), ("c", 1), ("d", 2**31 - 1)]:
        run = make_run(tmp_path / name, seed=seed)
        torch.manual_seed(ord(name))
        Trainer(run).train()
        ends[name] = bits(run.directory / WEIGHTS)
    assert ends["a"] == ends["b"]
    for pair in ("ac", "ad", "cd"):
        assert all(ends[pair[0]][n] != ends[pair[1]][n] for n in ends["a"])


def test_watching_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for name, callbacks in [("a", ()), ("b", (Diary(), Diary()))]:
        run = make_run(tmp_path / name)
        Trainer(run).train(callbacks)
        ends.append(whole(run))
    assert ends[0] == ends[1]


# From epochs or minutes to steps


@pytest.mark.parametrize("epochs", [0.001, 0.5, 1, 2.5])
def test_epochs_are_so_many_times_the_batches(epochs: float, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=epochs)
    data = run.dataset()
    expected = max(1, round(epochs * len(data.batches("train", 300))))
    assert steps_of(run.new_model(), run.settings, partial(feed_of, data=data)) == expected


def test_minutes_are_turned_into_steps_and_leave_model_and_chance_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Each look at the clock is a 10th of a second later."""

        now = 0.0

        def perf_counter(self) -> float:
            self.now += 0.1
            return self.now

        monotonic = perf_counter

    run = make_run(tmp_path / "run", minutes=1.0)
    model, state = run.new_model(), torch.get_rng_state()
    before = {n: p.clone() for n, p in model.named_parameters()}
    found = []
    for minutes in (1.0, 2.0):
        monkeypatch.setattr(loop, "time", Clock())
        given = make_run(tmp_path / str(minutes), minutes=minutes).settings
        state = torch.get_rng_state()
        found.append(steps_of(model, given, partial(feed_of, data=run.dataset())))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    # About 0.1 s a step: of 60 s some 6 go by calibrating.
    assert 300 < found[0] < 600
    assert 1.9 < found[1] / found[0] < 2.3


def test_neither_epochs_nor_minutes_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="neither epochs nor minutes"):
        steps_of(run.new_model(), run.settings, partial(feed_of, data=run.dataset()))
