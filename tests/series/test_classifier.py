import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

import unrolled
from unrolled.errors import CallError, RunError
from unrolled.series import SequenceClassifier, SequenceRegressor
from unrolled.training import Trainer

Arrays = list[NDArray[np.float64]]
NAN = float("nan")


def made(count: int = 40, features: int = 2) -> tuple[Arrays, list[str]]:
    random = np.random.default_rng(0)
    X = [random.normal(size=(random.integers(3, 12), features)) for _ in range(count)]
    return X, ["up" if x[:, 0].sum() > 0 else "down" for x in X]


def small(**options: Any) -> SequenceClassifier:
    return SequenceClassifier(**{"hidden_size": 8, "epochs": 25, "learning_rate": 0.02} | options)


@pytest.fixture(scope="module")
def fitted() -> SequenceClassifier:
    return small().fit(*made())


# --- What comes of it -----------------------------------------------------------------------------


def test_it_learns_and_tells_classes_it_has_not_read(fitted: SequenceClassifier) -> None:
    X, y = made(200)
    assert fitted.score(X[40:], y[40:]) > 0.8
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (200, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), probabilities, rtol=1e-9)
    assert fitted.classes_.tolist() == ["down", "up"]
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()


def test_what_is_told_of_one_does_not_depend_on_the_others(fitted: SequenceClassifier) -> None:
    X = made()[0]
    whole = fitted.predict_proba(X)
    alone = np.concatenate([fitted.predict_proba([x]) for x in X])
    np.testing.assert_allclose(alone, whole, rtol=1e-9, atol=1e-12)
    order = np.random.default_rng(1).permutation(40)
    shuffled = fitted.predict_proba([X[k] for k in order])
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-9, atol=1e-12)


def test_lists_and_arrays_are_the_same() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(30, 6, 2)), [0, 1] * 15
    forms = [X, list(X), X.astype(object).astype(float), X.tolist(), torch.from_numpy(X)]
    told = [small(epochs=1).fit(form, y).predict_proba(X) for form in forms]
    for one in told[1:]:
        np.testing.assert_array_equal(one, told[0])
    flat = X[:, :, 0]
    univariate = [flat, flat[:, :, None], list(flat), flat.tolist(), [x[:, None] for x in flat]]
    told = [small(epochs=1).fit(form, y).predict_proba(flat[:, :, None]) for form in univariate]
    for one in told[1:]:
        np.testing.assert_array_equal(one, told[0])
    unequal = np.empty(30, object)
    unequal[:] = [x[: 2 + k % 4] for k, x in enumerate(X)]
    classifier = small(epochs=1).fit(unequal, y)
    assert classifier.n_features_in_ == 2
    np.testing.assert_array_equal(
        classifier.predict_proba(unequal), classifier.predict_proba(list(unequal))
    )


def test_the_order_of_the_sequences_does_not_matter() -> None:
    X, y = made()
    order = np.random.default_rng(1).permutation(40)
    first, second = small(epochs=2).fit(X, y), small(epochs=2)
    second.fit([X[k] for k in order], [y[k] for k in order])
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_a_weight_of_two_is_the_same_sequence_twice() -> None:
    X, y = made()
    weights = np.random.default_rng(1).integers(0, 4, size=40)
    repeated = np.repeat(np.arange(40), weights)
    first = small(epochs=2).fit(X, y, sample_weight=weights)
    second = small(epochs=2).fit([X[k] for k in repeated], [y[k] for k in repeated])
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_missing_values_are_read_as_missing() -> None:
    random = np.random.default_rng(0)
    X = [random.normal(size=(8, 2)) for _ in range(60)]
    y = random.integers(0, 2, size=60)
    for x, label in zip(X, y, strict=True):  # all that tells them apart is what is missing
        x[random.choice(8, size=3, replace=False), label] = NAN
    classifier = small(epochs=40).fit(X, y)
    assert classifier.network_.config["has_missing"]
    assert classifier.score(X, y) > 0.95
    nothing = classifier.predict_proba([np.full((4, 2), NAN)])
    assert np.isfinite(nothing).all()


def test_values_that_are_missing_only_later_are_taken_as_usual(fitted: SequenceClassifier) -> None:
    x = made()[0][0].copy()
    usual = np.where(np.arange(2) == 1, fitted.network_.config["location"][1], x)
    x[:, 1] = NAN
    np.testing.assert_allclose(
        fitted.predict_proba([x]), fitted.predict_proba([usual]), rtol=1e-9, atol=1e-12
    )


def test_times_that_are_not_even_are_read() -> None:
    random = np.random.default_rng(0)
    X = [random.normal(size=(8, 1)) for _ in range(60)]
    y = random.integers(0, 2, size=60)
    times = [np.cumsum(random.exponential(1 + 4 * label, size=8)) for label in y]
    classifier = small(epochs=40).fit(X, y, times=times)
    assert classifier.network_.config["has_gaps"]
    assert (classifier.predict(X, times=times) == y).mean() > 0.8
    dates = [(t * 60e9).astype("datetime64[ns]") for t in times]
    in_minutes = small(epochs=40).fit(X, y, times=dates)
    assert in_minutes._read_as["step"] == pytest.approx(60e9 * classifier._read_as["step"])
    assert (in_minutes.predict(X, times=dates) == y).mean() > 0.8
    even = small(epochs=1).fit(X, y, times=[np.arange(8) * 15.0] * 60)
    assert not even.network_.config["has_gaps"]


def test_class_weights_move_what_is_told() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 5))
    y = np.where(random.random(60) < 0.2, "rare", "usual")  # nothing tells them apart
    rare = y == "rare"

    def told(**options: Any) -> float:
        classifier = small(epochs=3, **options).fit(X, y)
        found: float = classifier.predict_proba(X)[:, 0].mean()
        return found

    plain, balanced = told(), told(class_weight="balanced")
    heavy = told(class_weight={"rare": 100.0})
    assert plain < 0.35 < balanced < 0.7 < heavy
    weights = np.where(rare, len(y) / rare.sum(), len(y) / (~rare).sum())
    weighted = small(epochs=3).fit(X, y, sample_weight=weights).predict_proba(X)[:, 0].mean()
    assert weighted == pytest.approx(balanced, abs=1e-6)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
@pytest.mark.parametrize("scaling", ["each", "none"])
def test_options_reach_the_network(cell: str, scaling: str) -> None:
    options = {"cell": cell, "scaling": scaling, "depth": 2, "bidirectional": False}
    network = small(epochs=1, dropout=0.5, **options).fit(*made()).network_
    assert {name: network.config[name] for name in options} == options
    assert network.config["dropout"] == network.drop.p == network.layers.dropout == 0.5
    assert network.layers.directions == 1 and network.layers.depth == 2


# --- How it is trained ----------------------------------------------------------------------------


def test_it_stops_early_and_keeps_the_best() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 5)), random.integers(0, 2, size=60)  # nothing to learn
    classifier = small(epochs=200, validation_share=0.3, patience=2).fit(X, y)
    nats = [one["nats"] for one in classifier.evaluations_]
    assert len(nats) < 20
    assert nats.index(min(nats)) == len(nats) - 3
    assert small(epochs=2).fit(X, y).evaluations_ == []


def test_by_default_it_takes_about_two_thousand_steps() -> None:
    random = np.random.default_rng(0)

    def steps(count: int) -> int:
        X, y = random.normal(size=(count, 2)), np.arange(count) % 2
        return small(epochs=None, batch_steps=8, hidden_size=1).fit(X, y).settings_.steps

    assert steps(20) == 200 * 5  # 200 times at most
    assert steps(400) == 20 * 100


def test_minutes_are_kept() -> None:
    classifier = small(epochs=None, minutes=0.02).fit(*made())
    assert classifier.settings_.steps > 5


def test_the_global_state_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    torch.set_num_threads(2)
    classifier = small(epochs=1).fit(*made())
    classifier.predict(made()[0])
    classifier.partial_fit(*made())
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(3), expected)


def test_random_states() -> None:
    X, y = made()
    told = {
        str(state): small(epochs=1, random_state=state).fit(X, y).predict_proba(X)
        for state in (0, 1, np.random.RandomState(0))
    }
    first, second, third = told.values()
    assert (first != second).any() and (first != third).any()
    again = small(epochs=1, random_state=np.random.RandomState(0)).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), third)


def test_more_sequences_are_learnt_one_after_another() -> None:
    X, y = made(200)
    classifier = small(hidden_size=16)
    classifier.partial_fit(X[:20], y[:20], classes=["up", "down", "sideways"])
    assert classifier.classes_.tolist() == ["down", "sideways", "up"]
    location = classifier.network_.config["location"]
    for _ in range(15):
        for k in range(0, 160, 20):
            classifier.partial_fit(X[k : k + 20], y[k : k + 20])
    assert classifier.network_.config["location"] == location
    assert classifier.passes_ == 121
    assert classifier.score(X[160:], y[160:]) > 0.8
    with pytest.raises(ValueError, match="y: got class 'over', expected one of"):
        classifier.partial_fit(X[:1], ["over"])


def test_a_pass_goes_on_from_what_fit_learnt(fitted: SequenceClassifier) -> None:
    X, y = made()
    classifier = small().fit(X, y)
    before = classifier.predict_proba(X)
    classifier.learning_rate = 1e-12
    np.testing.assert_allclose(classifier.partial_fit(X, y).predict_proba(X), before, atol=1e-6)
    classifier.learning_rate = 1e-2
    assert np.abs(classifier.partial_fit(X, y).predict_proba(X) - before).max() > 1e-3
    classifier.learning_rate = 0.02
    np.testing.assert_array_equal(classifier.fit(X, y).predict_proba(X), before)


# --- Its run --------------------------------------------------------------------------------------


def test_a_run_that_is_kept_is_the_estimator(tmp_path: Path) -> None:
    X, y = made()
    out = tmp_path / "run"
    classifier = small(epochs=2, class_weight={"up": 2.0}, out=out).fit(X, y)
    again = SequenceClassifier.load(out)
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.classes_.tolist() == ["down", "up"]
    got, expected = again.get_params(), classifier.get_params()
    assert {n: v for n, v in got.items() if v != expected[n]} == {"out": None}
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), classifier.predict_proba(X))
    with pytest.raises(CallError, match="already holds a run; continue it with resume=True"):
        classifier.fit(X, y)
    with pytest.raises(RunError, match="kind 'classify', expected 'regress'; read it with Seq"):
        SequenceRegressor.load(out)


def test_no_run_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small(epochs=1).fit(*made()).partial_fit(*made())
    assert not list(tmp_path.iterdir())


def test_a_training_that_stopped_goes_on_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = made()
    straight = small(epochs=6, validation_share=0.2).fit(X, y)
    out, step = tmp_path / "run", Trainer._step

    def stop(self: Trainer, *arguments: Any) -> Any:
        if self.step == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stop)
    stopped = small(epochs=6, validation_share=0.2, out=out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, y)
    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(NotFittedError):
        stopped.predict(X)
    resumed = stopped.fit(X, y)
    np.testing.assert_array_equal(resumed.predict_proba(X), straight.predict_proba(X))
    assert resumed.evaluations_ == straight.evaluations_
    with pytest.raises(CallError, match=r"hidden_size: got 9, but .* was begun with 8"):
        small(epochs=6, hidden_size=9, validation_share=0.2, out=out, resume=True).fit(X, y)
    with pytest.raises(CallError, match="X, y: got other sequences"):
        resumed.fit(X[:-1], y[:-1])


def test_the_lens_looks_into_it(fitted: SequenceClassifier) -> None:
    x = torch.randn(9, 2, 2)
    with unrolled.watch(fitted.network_) as lens:
        fitted.network_(x).square().sum().backward()
    assert len(lens.report().rows) == 2
    assert "native" in str(unrolled.explain(fitted.network_))


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "rnn"}, "cell: got 'rnn'"),
        ({"hidden_size": 0}, "hidden_size: got 0"),
        ({"dropout": 2}, "dropout: got 2"),
        ({"scaling": None}, "scaling: got None"),
        ({"epochs": -1}, "epochs: got -1"),
        ({"learning_rate": "fast"}, "learning_rate: got 'fast', expected a number"),
        ({"validation_share": 1.0}, "validation_share: got 1.0"),
        ({"threads": 0}, "threads: got 0"),
        ({"class_weight": {"left": 1}}, "class_weight: got class 'left', expected one of"),
        ({"class_weight": {"up": -1}}, "class_weight: expected finite weights"),
        ({"class_weight": "even"}, "class_weight: got 'even', expected a mapping"),
        ({"epochs": 1, "minutes": 1}, "minutes, epochs: got both"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError, CallError), match=message):
        small(**options).fit(*made())


def test_bad_data(fitted: SequenceClassifier) -> None:
    X, y = made()
    for bad, message in (
        (X[:-1], "inconsistent numbers of samples"),
        ([*X[:-1], X[-1][:, :1]], r"X\[39\]: got 1 features, expected 2"),
        ([*X[:-1], X[-1][:0]], r"X\[39\]: got 0 steps"),
        ([*X[:-1], X[-1] + np.inf], r"X\[39\]: got infinity"),
        (5, "Expected 2D array|Expected a 2-dimensional"),
    ):
        with pytest.raises(ValueError, match=message):
            small().fit(bad, y)
    with pytest.raises(ValueError, match="X: got 3 features a step, expected 2 as in fit"):
        fitted.predict([np.zeros((4, 3))])
    with pytest.raises(ValueError, match="X: got 1 features a step, expected 2 as in fit"):
        fitted.predict(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="got 1 class, 'up', expected at least 2 classes"):
        small().fit(X, ["up"] * 40)
    for weights, message in (
        ([1.0], r"sample_weight: got shape \(1,\), expected \(40,\)"),
        ([-1.0] * 40, "sample_weight: expected finite numbers"),
        ([0] * 40, "sample_weight: got no weight above zero"),
    ):
        with pytest.raises(ValueError, match=message):
            small().fit(X, y, sample_weight=weights)
    for times, message in (
        ([np.arange(3)], "times: got those of 1 sequences, expected 40"),
        ([np.arange(50)] * 40, r"times\[0\]: got shape \(50,\)"),
        ([-np.arange(len(x)) for x in X], r"times\[0\]: expected finite times, none before"),
    ):
        with pytest.raises(ValueError, match=message):
            small().fit(X, y, times=times)


def test_a_table_of_as_many_columns() -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 5)), [0, 1] * 10
    classifier = small(epochs=1).fit(X, y)
    assert classifier.n_features_in_ == 5
    with pytest.raises(ValueError, match="X has 4 features, but SequenceClassifier is expecting 5"):
        classifier.predict(X[:, :4])
    assert classifier.predict([np.zeros((3, 1)), np.zeros((9, 1))]).shape == (2,)


def test_without_scikit_learn_the_error_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['sklearn.base'] = None\n"
        "import unrolled.series\n"
        "try: unrolled.series.SequenceClassifier\n"
        "except ImportError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install scikit-learn (the extra 'series' of unrolled)" in found.stdout, found.stderr
