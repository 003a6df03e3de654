import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unrolled.errors import DataError, RunError
from unrolled.series.data.labelled import Labelled
from unrolled.series.models.sequence import ClassNetwork, ValueNetwork
from unrolled.series.sequence_run import (
    ClassScores,
    RegressionScores,
    SequenceRun,
    answers_of,
    begin,
    evaluate,
    figures_of,
    split,
    standard_of,
)
from unrolled.training import Settings, Trainer
from unrolled.training.files import read_tensors
from unrolled.training.run import TRAINING, WEIGHTS

SETTINGS = Settings(
    seed=0,
    steps=1,
    epochs=4.0,
    minutes=None,
    batch_steps=1000,
    batch_size=8,
    optimizer="adam",
    learning_rate=0.01,
    schedule="cosine",
    weight_decay=0.01,
    clip=1.0,
    evaluations=4,
    patience=4,
    threads=1,
)


def some(kind: str = "classify", count: int = 40) -> Labelled:
    random = np.random.default_rng(0)
    sequences = [random.normal(size=(random.integers(2, 12), 2)) for _ in range(count)]
    sums = np.array([x[:, 0].sum() for x in sequences])
    labels = (sums > 0).astype(np.int64) if kind == "classify" else np.stack([sums, -sums], 1)
    return Labelled.of(sequences, labels)


def begun(
    directory: Path, kind: str = "classify", *, cell: str = "lstm", settings: Settings = SETTINGS
) -> SequenceRun:
    return begin(
        directory,
        split(some(kind), 0.25, 0, is_class=kind == "classify"),
        kind=kind,
        labels=["down", "up"],
        network={"hidden_size": 6, "dropout": 0.3, "cell": cell},
        command={},
        settings=settings,
    )


@pytest.mark.parametrize("kind", ["classify", "regress"])
def test_a_run_stopped_and_resumed_is_one_that_never_stopped(tmp_path: Path, kind: str) -> None:
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    straight = begun(tmp_path / "straight", kind)
    Trainer(straight).train()

    class Stop:
        def step(self, step: Any) -> None:
            if step.step == 7:
                raise KeyboardInterrupt

        def evaluated(self, step: int, scores: Any) -> None: ...

        def seen(self, step: int, report: Any) -> None: ...

    stopped = begun(tmp_path / "stopped", kind)
    with pytest.raises(KeyboardInterrupt):
        Trainer(stopped).train([Stop()])
    trainer = Trainer(SequenceRun(tmp_path / "stopped"))
    trainer.restore()
    assert 0 < trainer.step < 7
    trainer.train()
    for file in (TRAINING, WEIGHTS):
        (got, notes), (expected, noted) = (
            read_tensors(run.directory / file) for run in (stopped, straight)
        )
        assert notes == noted
        for tensor in expected:
            assert torch.equal(got[tensor], expected[tensor]), tensor


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    run = begun(tmp_path, settings=replace(SETTINGS, epochs=60.0, evaluations=20, patience=20))
    trainer = Trainer(run)
    outcome = trainer.train()
    found = evaluate(run.model(), map(trainer.data["validation"].batch, [np.arange(10)]))
    assert isinstance(found, ClassScores)
    assert (
        found.nats
        == pytest.approx(outcome.best, rel=1e-5)
        == min(r[1] for r in trainer.evaluations)
    )
    assert found.accuracy >= 0.8


def test_what_begins_is_known_from_the_data(tmp_path: Path) -> None:
    run = begun(tmp_path)
    data, config = run.dataset(), run.model_config
    assert len(data["train"]) == 30 and len(data["validation"]) == 10
    values = data["train"].values
    assert config["location"] == pytest.approx(values.mean(0).tolist(), rel=1e-6)
    assert config["scale"] == pytest.approx(values.std(0).tolist(), rel=1e-6)
    assert config["has_missing"] is config["has_gaps"] is False
    assert run.labels == ["down", "up"]
    assert run.settings.steps == 16  # 4 epochs of 30 sequences in batches of 8


def test_targets_are_learnt_in_standard_units(tmp_path: Path) -> None:
    run = begun(tmp_path, "regress")
    labels = run.dataset()["train"].labels
    assert run.model_config["target_location"] == pytest.approx(labels.mean(0).tolist())
    assert run.model_config["target_scale"] == pytest.approx(labels.std(0).tolist())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_of_each_class_a_share_is_held_out(share: float) -> None:
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    data = Labelled.of([np.zeros((1, 1))] * 61, labels)
    parts = split(data, share, 0, is_class=True)
    expected = [min(round(share * n), n - 1) for n in (50, 10, 1)]
    assert ("validation" in parts) is (sum(expected) > 0)
    if "validation" in parts:
        assert np.bincount(parts["validation"].labels, minlength=3).tolist() == expected
    for part in parts.values():
        assert part.weights.mean() == pytest.approx(1)


def test_few_sequences_are_all_learnt_from() -> None:
    assert list(split(some(count=499), None, 0, is_class=True)) == ["train"]
    assert len(split(some(count=500), None, 0, is_class=True)["validation"]) == 50


def test_a_share_that_is_asked_for_holds_out_at_least_one() -> None:
    data = Labelled.of([np.zeros((1, 1))] * 4, np.array([0, 0, 1, 2]))
    assert split(data, 0.1, 0, is_class=True)["validation"].labels.tolist() == [0]
    alone = data.rows(np.array([1, 2, 3]))
    assert list(split(alone, 0.1, 0, is_class=True)) == ["train"]


def test_the_split_follows_from_the_seed() -> None:
    found = [split(some(), 0.25, seed, is_class=True)["validation"].digests() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_standard_units_leave_out_what_is_missing() -> None:
    values = np.array([[1.0, np.nan, 5.0, np.nan], [3.0, 4.0, 5.0, np.nan]])
    assert standard_of(values) == ([2, 4, 5, 0], [1, 1, 1, 1])


def test_class_scores_are_means_by_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ClassNetwork(2, 2, 3).eval()
    data = some(count=9).with_weights(np.arange(9.0))
    answers = torch.from_numpy(answers_of(model, data))
    labels, share = torch.from_numpy(data.labels), torch.arange(9.0, dtype=torch.float64) / 36
    nats = -answers.log_softmax(-1).gather(1, labels.unsqueeze(1))[:, 0]
    right = (answers.argmax(-1) == labels).double()
    found = evaluate(model.train(), (data.batch(rows) for rows in data.batches(4, 100)))
    assert isinstance(found, ClassScores) and model.training
    assert found.nats == pytest.approx(float(share @ nats), rel=1e-5)
    assert found.accuracy == pytest.approx(float(share @ right))
    assert found.sequences == 9
    assert list(found.figures()) == figures_of("classify") == ["nats", "accuracy"]
    assert math.isnan(evaluate(model, []).loss)


def test_regression_scores_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    model = ValueNetwork(2, 2, 3, target_location=[1.0, 2], target_scale=[2.0, 3]).eval()
    data = some("regress", 9).with_weights(np.arange(9.0))
    values = model.values(torch.from_numpy(answers_of(model, data))).numpy()
    found = evaluate(model, (data.batch(rows) for rows in data.batches(4, 100)))
    assert isinstance(found, RegressionScores)
    expected = metrics.r2_score(data.labels, values, sample_weight=data.weights)
    assert found.r2 == pytest.approx(expected, rel=1e-4)
    off = ((values - data.labels) / [2, 3]) ** 2
    expected = np.average(off.mean(1), weights=data.weights) ** 0.5
    assert found.rmse == pytest.approx(expected, rel=1e-4)
    assert list(found.figures()) == figures_of("regress")
    assert math.isnan(evaluate(model, []).loss)


def test_answers_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    model, data = ClassNetwork(2, 2, 3), some(count=30)
    whole = answers_of(model, data)
    np.testing.assert_allclose(
        answers_of(model, data, batch_steps=1), whole, rtol=1e-10, atol=1e-12
    )
    assert model.output.weight.dtype == torch.float32 and model.training


def test_a_run_that_is_damaged_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"down",', ""))
    with pytest.raises(RunError, match="labels: got 1, expected 2"):
        SequenceRun(tmp_path)
    config.write_text(text.replace('"classify"', '"sort"'))
    with pytest.raises(RunError, match="kind: got 'sort', expected one of classify, regress"):
        SequenceRun(tmp_path)
    config.write_text(text)
    (tmp_path / "data" / "train.safetensors").unlink()
    with pytest.raises(RunError, match="no such file"):
        Trainer(run)


def test_a_cell_with_a_mean_is_read_from_its_run(tmp_path: Path) -> None:
    run = begun(tmp_path, cell="gru-d")
    Trainer(run).train()
    data = run.dataset()["validation"]
    np.testing.assert_allclose(
        answers_of(run.model(), data), answers_of(SequenceRun(tmp_path).model(), data), rtol=0
    )
    assert not any(buffer.is_meta for buffer in run.model().buffers())


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with pytest.raises(DataError, match="no sequence to train on"):
        run.feed(run.new_model(), {"validation": run.dataset()["validation"]})
