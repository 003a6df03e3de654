"""Continuous text: read in order, with the state carried, through the loss that is asked for."""

import shutil
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.compare import assert_close_by_name
from tests.examples import some
from tests.sentences import make_run
from tests.training.test_loop import Diary, whole
from unrolled.bptt import Carry
from unrolled.errors import DataError, RunError
from unrolled.text.data.vocabulary import START
from unrolled.text.feeds import WindowFeed, evaluation_windows, feed_of, windows_of
from unrolled.text.measures import evaluate_continuous, real
from unrolled.text.models import LanguageModel
from unrolled.text.run import TextRun
from unrolled.training import Trainer, steps_of
from unrolled.training.files import read_tensors
from unrolled.training.run import TRAINING

CONTINUOUS: dict[str, Any] = {"kind": "lm", "passage": 6, "count": 200}


def plain(run: TextRun) -> LanguageModel:
    """The run's model in float64, without dropout."""
    model = run.new_model().double().eval()
    assert isinstance(model, LanguageModel)
    return model


def test_windows_hold_every_token_of_the_split_in_order_and_its_successor(tmp_path: Path) -> None:
    data = make_run(tmp_path / "run", **CONTINUOUS).dataset()
    windows = windows_of(data, "train", 3, 7)
    rows: list[list[int]] = [[], [], []]
    nexts: list[list[int]] = [[], [], []]
    for window in windows:
        for b, length in enumerate(window.lengths.tolist()):
            rows[b] += window.data[0][:length, b].tolist()
            nexts[b] += window.data[1][:length, b].tolist()
    expected = data.documents("train")
    assert list(chain(*rows)) == [int(n) for tokens, _ in expected for n in tokens]
    assert list(chain(*nexts)) == [int(n) for _, targets in expected for n in targets]
    for tokens, targets in expected:
        assert tokens[0] == START and (tokens[1:] == targets[:-1]).all()


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_the_losses_of_the_windows_are_those_of_the_text_as_a_whole(
    cell: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", **CONTINUOUS, model={"cell": cell, "depth": 2})
    data, model = run.dataset(), plain(run)
    scores = evaluate_continuous(model, windows_of(data, "train", 2, 5))
    nats, count = 0.0, 0
    longest = sum(len(tokens) for tokens, _ in data.documents("train"))
    (window,) = windows_of(data, "train", 2, -(-longest // 2))
    tokens, targets = window.data
    for b, length in enumerate(window.lengths.tolist()):
        begins = [t for t in range(length) if window.resets[t, b]] + [length]
        for begin, end in pairwise(begins):  # each passage by itself
            states = model.layers(model.embedding(tokens[begin:end, b : b + 1])).y[:, 0]
            for t, target in enumerate(targets[begin:end, b].tolist()):
                if target != START:
                    nats -= torch.log_softmax(model.logits(states[t]), -1)[target].item()
                    count += 1
    assert scores.tokens == count
    assert scores.nats == pytest.approx(nats / count, rel=1e-12)


def test_the_state_is_carried_and_begins_anew_with_a_passage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **CONTINUOUS)
    data, model = run.dataset(), plain(run)
    windows = list(windows_of(data, "train", 2, 5))
    carried = evaluate_continuous(model, windows).nats
    never = []
    for window in windows:
        resets = window.resets.clone()
        resets[0] = window.lengths > 0
        never.append(window._replace(resets=resets))
    assert evaluate_continuous(model, never).nats != pytest.approx(carried, rel=1e-6)
    always = [w._replace(resets=torch.ones_like(w.resets)) for w in windows if len(w.resets) == 5]
    alone = evaluate_continuous(model, always)
    states = model.layers(model.embedding(torch.arange(model.config["vocabulary_size"])[None])).y[0]
    losses = -torch.log_softmax(model.logits(states), -1)
    pairs = [
        (x, y) for w in always for x, y in zip(w.data[0][real(w)], w.data[1][real(w)], strict=True)
    ]
    expected = torch.stack([losses[x, y] for x, y in pairs]).mean()
    assert alone.nats == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("k2", [7, 11, 14, 100])
def test_the_gradients_of_an_epoch_are_those_of_truncated_bptt(k2: int, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", **{**CONTINUOUS, "count": 40}, k1=7, k2=k2, model={"dropout": 0.0}
    )
    data = run.dataset()
    model = plain(run).train()
    feed = feed_of(model, run.settings, data)
    windows = list(feed.epoch(0, 0))
    for window in windows:
        feed.loss(window).backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    x, y = (torch.cat([w.data[i] for w in windows]) for i in (0, 1))
    resets, counted = torch.cat([w.resets for w in windows]), torch.cat([real(w) for w in windows])
    state = torch.zeros(x.shape[1], model.config["hidden_size"], dtype=torch.float64)
    cell = model.layers.cells[0]
    states = [state]
    for t in range(len(x)):  # the states as they were passed, without a graph
        with torch.no_grad():
            before = torch.where(resets[t][:, None], 0.0, states[-1])
            (after,) = cell.step(cell.project(model.embedding(x[t])), (before,))
            states.append(torch.where((t < lengths_of(windows))[:, None], after, before))
    for begin in range(0, len(x), 7):
        end = min(begin + 7, len(x))
        state, total = states[max(0, end - k2)], torch.zeros((), dtype=torch.float64)
        for t in range(max(0, end - k2), end):
            state = torch.where(resets[t][:, None], 0.0, state)
            (state,) = cell.step(cell.project(model.embedding(x[t])), (state,))
            if t >= begin and counted[t].any():
                logits = model.logits(state[counted[t]])
                total = (
                    total - torch.log_softmax(logits, -1).gather(1, y[t][counted[t]][:, None]).sum()
                )
        (total / counted[begin:end].sum()).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_close_by_name(got, expected, len(x))


def lengths_of(windows: list[Any]) -> Tensor:
    return torch.stack([w.lengths for w in windows]).sum(0)


@pytest.mark.parametrize("k2", [20, 33])
def test_with_a_budget_the_same_gradients(k2: int, tmp_path: Path) -> None:
    sizes = {"dropout": 0.0, "depth": 2}
    run = make_run(tmp_path / "run", **CONTINUOUS, k1=20, k2=k2, model=sizes)
    data, found = run.dataset(), []
    for memory in (None, 40_000):
        settings = (
            run.settings
            if memory is None
            else type(run.settings)(**{**vars(run.settings), "memory": memory})
        )
        torch.manual_seed(0)
        model = plain(run).train()
        feed = feed_of(model, settings, data)
        losses = []
        whole_windows = (w for w in feed.epoch(0, 0) if len(w.resets) == 20)
        for window in whole_windows:  # without a budget the last one goes back into the one before
            losses.append(feed.loss(window))
            losses[-1].backward()
        named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(named | {"losses": torch.stack(losses).detach()})
    assert_close_by_name(found[1], found[0], 200)


@pytest.mark.parametrize("kind", ["lm", "cloze"])
def test_sentences_with_a_budget_have_the_same_gradients(kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind=kind, model={"dropout": 0.3, "depth": 2})
    found = []
    for memory in (None, "200 KiB"):
        torch.manual_seed(0)
        model = run.new_model().double().train()
        if kind == "lm":
            model.eval()  # its segments draw anew
        batch = next(iter(run.dataset().batches("train", 300)))
        torch.manual_seed(1)
        loss = model.loss(batch, memory=memory)
        loss.backward()
        named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(named | {"loss": loss.detach()})
    assert_close_by_name(found[1], found[0], 60)


RESUMED = {
    "chunks": {"k1": 7, "k2": 7},
    "overlapping": {"k1": 7, "k2": 17},
    "budget": {"k1": 20, "k2": 20, "memory": 100_000},
    "overlapping, budget": {"k1": 7, "k2": 17, "memory": 100_000},
    "all that is drawn": {
        "k1": 7,
        "k2": 17,
        "model": {"variational_dropout": 0.2, "weight_drop": 0.2, "zoneout": 0.2},
    },
}


@pytest.mark.parametrize(
    "options", some(RESUMED, "chunks", "overlapping, budget", "all that is drawn")
)
def test_stopped_and_resumed_it_ends_at_the_same_bits(options: str, tmp_path: Path) -> None:
    given = {**CONTINUOUS, **RESUMED[options], "steps": 24, "evaluations": 3, "count": 40}
    run = make_run(tmp_path / "run", **given)
    start = tmp_path / "start"
    shutil.copytree(run.directory, start)
    assert (
        5 < len(feed_of(run.new_model(), run.settings, run.dataset())) < 24
    )  # past an epoch's end
    Trainer(run).train()
    expected = whole(run)
    for k in some((1, 2, 3, 9, 13, 20, 24), 1, 9, 24):
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


def test_an_evaluation_does_not_disturb_the_training(tmp_path: Path) -> None:
    ends = []
    for evaluations in (1, 12):
        given = {**CONTINUOUS, "steps": 12, "evaluations": evaluations, "patience": 99}
        run = make_run(tmp_path / str(evaluations), **given)
        trainer = Trainer(run)
        trainer.train()
        ends.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_the_loss_falls(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", **CONTINUOUS, steps=120, learning_rate=0.02, k2=14, batch_size=16
    )
    diary = Diary()
    outcome = Trainer(run).train((diary,))
    targets = np.concatenate([t for _, t in run.dataset().documents("train")])
    shares = np.bincount(targets[targets != START]) / (targets != START).sum()
    by_frequency = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    assert diary.steps[0].loss > by_frequency  # what knows only how often each token comes
    assert sum(s.loss for s in diary.steps[-5:]) / 5 < by_frequency - 0.3
    assert outcome.best < by_frequency - 0.3
    assert {s.count for s in diary.steps[:5]} == {112}


def test_steps_are_counted_by_windows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **CONTINUOUS, epochs=2.0)
    model, data = run.new_model(), run.dataset()
    assert steps_of(model, run.settings, partial(feed_of, data=data)) == 2 * len(
        windows_of(data, "train", 4, 7)
    )


def test_a_cloze_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind="cloze", passage=6)
    with pytest.raises(RunError, match="expected 'lm'"):
        Trainer(run)


def test_too_little_text_is_refused_with_what_would_do(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **CONTINUOUS, k1=3000, k2=3000)
    with pytest.raises(DataError, match="train split: steps: got 3000, expected at most"):
        len(feed_of(run.new_model(), run.settings, run.dataset()))


def test_text_that_was_encoded_by_sentences_is_refused(tmp_path: Path) -> None:
    data = make_run(tmp_path / "run", kind="lm").dataset()
    with pytest.raises(DataError, match="sentence by sentence"):
        windows_of(data, "train", 2, 5)


def test_a_split_without_text_has_no_windows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind="lm", count=1, passage=128)
    data = run.dataset()
    for split in ("validation", "test"):
        assert list(evaluation_windows(data, split)) == []


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **CONTINUOUS)
    feed = feed_of(run.new_model(), run.settings, run.dataset())
    assert isinstance(feed, WindowFeed)
    feed.loss(next(feed.epoch(0, 0)))
    other = Carry(torch.nn.LSTM(3, 4))
    with other.window():
        other.model(torch.zeros(2, 1, 3))
    with pytest.raises(ValueError):
        feed.load_state_dict({f"carry/{k}": t for k, t in other.state_dict().items()})
