"""scikit-learn's own checks of the estimators, all of them; and its tools around them."""

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from unrolled.series import SequenceClassifier, SequenceRegressor

Arrays = list[NDArray[np.float64]]


@parametrize_with_checks(
    [
        SequenceClassifier(hidden_size=8, epochs=20, batch_size=32, learning_rate=0.02),
        SequenceRegressor(
            hidden_size=16, epochs=100, batch_size=100, learning_rate=0.02, dropout=0.0
        ),
    ]
)
def test_what_scikit_learn_checks(estimator: Any, check: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # or one check would be skipped
    check(estimator)


def ragged(count: int = 40) -> tuple[Arrays, list[str]]:
    random = np.random.default_rng(0)
    X = [random.normal(size=(random.integers(3, 12), 2)) for _ in range(count)]
    return X, ["up" if x[:, 0].sum() > 0 else "down" for x in X]


def small(**options: Any) -> SequenceClassifier:
    given = {"hidden_size": 8, "epochs": 25, "learning_rate": 0.02}
    return SequenceClassifier(**given | options)


def test_a_grid_is_searched_over_sequences_of_unequal_length() -> None:
    X, y = ragged()
    grid = {"cell": ["gru", "lstm"], "hidden_size": np.array([4, 8])}
    search = GridSearchCV(small(), grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.6
    assert search.best_estimator_.network_.config["hidden_size"] in (4, 8)
    assert search.score(X, y) > 0.8


def test_cross_validation_and_a_pipeline() -> None:
    X, y = ragged()
    scores = cross_val_score(small(), X, y, cv=2)
    assert scores.shape == (2,)
    rounded = FunctionTransformer(lambda sequences: [np.round(x, 2) for x in sequences])
    pipeline = make_pipeline(rounded, small()).fit(X, y)
    assert pipeline.score(X, y) > 0.8
    table = np.random.default_rng(0).normal(size=(40, 6))
    classes = table[:, 1] > 0
    assert make_pipeline(StandardScaler(), small()).fit(table, classes).score(table, classes) > 0.8


def test_a_clone_is_not_fitted_and_learns_the_same() -> None:
    X, y = ragged()
    first = small(epochs=2).fit(X, y)
    again = clone(first)
    assert not hasattr(again, "network_") and again.get_params() == first.get_params()
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), first.predict_proba(X))


@pytest.mark.parametrize("fits_on", [False, True])
def test_a_pickle_is_the_same_to_the_bit(fits_on: bool) -> None:
    X, y = ragged()
    classifier = small(epochs=2).fit(X, y)
    if fits_on:
        classifier.partial_fit(X, y)
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    for one in (classifier, again):
        one.partial_fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
