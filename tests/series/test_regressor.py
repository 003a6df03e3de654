from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.series import SequenceRegressor

Array = NDArray[np.float64]


def made(count: int = 60) -> tuple[list[Array], Array]:
    random = np.random.default_rng(0)
    X = [random.normal(size=(random.integers(3, 12), 2)) for _ in range(count)]
    return X, np.array([100 + 20 * x[:, 0].mean() for x in X])


def small(**options: Any) -> SequenceRegressor:
    return SequenceRegressor(**{"hidden_size": 8, "epochs": 30, "learning_rate": 0.02} | options)


def test_it_learns_in_the_units_of_the_targets() -> None:
    X, y = made(160)
    regressor = small().fit(X[:80], y[:80])
    assert regressor.predict(X).shape == (160,)
    assert regressor.score(X[80:], y[80:]) > 0.8
    assert abs(regressor.predict(X).mean() - 100) < 5


def test_several_targets_at_once() -> None:
    X, y = made(80)
    both = np.stack([y, -1000 * y], 1)
    regressor = small().fit(X, both)
    assert regressor.predict(X).shape == (80, 2)
    assert regressor.score(X, both) > 0.8
    assert small(epochs=1).fit(X, y[:, None]).predict(X).shape == (80, 1)


def test_a_target_that_is_always_the_same() -> None:
    X, _ = made()
    np.testing.assert_allclose(small(epochs=1).fit(X, [7.0] * 60).predict(X), 7, atol=3)


def test_more_sequences_are_learnt_one_after_another() -> None:
    X, y = made(120)
    regressor = small(hidden_size=16, dropout=0.0, learning_rate=0.005)
    for _ in range(8):
        for k in range(0, 120, 30):
            regressor.partial_fit(X[k : k + 30], y[k : k + 30])
    assert regressor.score(X, y) > 0.7
    with pytest.raises(ValueError, match=r"y: got shape \(30, 2\), expected 1 targets as before"):
        regressor.partial_fit(X[:30], np.zeros((30, 2)))


def test_a_run_that_is_kept_is_the_estimator(tmp_path: Path) -> None:
    X, y = made()
    regressor = small(epochs=2, out=tmp_path / "run", validation_share=0.2).fit(X, y)
    again = SequenceRegressor.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict(X), regressor.predict(X))
    assert set(regressor.evaluations_[0]) == {"step", "rmse", "r2"}


@pytest.mark.parametrize("bad", [[np.nan] * 60, [np.inf] * 60, ["a"] * 60, np.zeros((60, 2, 2))])
def test_targets_that_are_no_numbers_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"y|array|convert"):
        small().fit(made()[0], bad)
