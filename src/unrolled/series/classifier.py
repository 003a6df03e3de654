"""Which class a sequence is of, as an estimator of scikit-learn's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import log_softmax, softmax

from unrolled.series.estimator import BATCH_STEPS, Array, SequenceEstimator
from unrolled.series.sequence_run import SequenceRun

# isort: split
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets


class SequenceClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """Which class a sequence is of: recurrent layers in both directions, pooled over time.

    See ``unrolled.series.models.sequence.SequenceNetwork`` for the network. It is an estimator of
    scikit-learn's: in a ``Pipeline``, ``GridSearchCV`` or ``cross_val_score``, cloned or pickled.

        >>> import numpy as np
        >>> from unrolled.series import SequenceClassifier
        >>> random = np.random.default_rng(0)
        >>> X = [random.normal(size=(random.integers(5, 20), 3)) for _ in range(60)]
        >>> y = ["up" if x[:, 0].sum() > 0 else "down" for x in X]
        >>> classifier = SequenceClassifier(hidden_size=16, epochs=30).fit(X, y)
        >>> classifier.score(X, y)
        1.0

    Args:
        cell: "elman", "lstm" or "gru".
        hidden_size: units of each direction of each layer.
        depth: layers.
        bidirectional: whether a layer reads in both directions.
        dropout: the share of features dropped in training.
        scaling: "all" brings each feature into the standard units of the training data, "each" that of
            each sequence into its own, "none" leaves it.
        class_weight: a mapping from classes to weights, or "balanced": all classes weigh as much.
        epochs: passes over the data; by default as many as make about 2,000 steps, from 5 to 200.
        minutes: instead, the time to train.
        batch_size: sequences of a step at most.
        batch_steps: time steps of all of them at most, with padding.
        learning_rate: at its highest.
        weight_decay: of matrices.
        validation_share: of the sequences of each class, held out to keep the best weights by and to stop
            early; by default a tenth, and of fewer than 500 none.
        patience: evaluations without a gain before it stops early; there are 20 in a whole training.
        random_state: the source of all chance.
        threads: processor threads; more gain nothing where networks and batches are small.
        out: the directory in which the run is kept, as ``unrolled train`` leaves one; by default it is not.
        resume: whether a run that ``out`` holds is continued.
        verbose: whether a progress bar is shown.

    Attributes:
        network_: the network, a ``ClassNetwork``.
        classes_: the classes, in the order of ``predict_proba``.
        evaluations_: of each evaluation the step, and what was found on what was held out.
        settings_: how it was trained.
    """

    kind = "classify"
    classes_: Array

    def __init__(
        self,
        *,
        cell: str = "lstm",
        hidden_size: int = 64,
        depth: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.2,
        scaling: str = "all",
        class_weight: Mapping[Any, float] | str | None = None,
        epochs: float | None = None,
        minutes: float | None = None,
        batch_size: int = 16,
        batch_steps: int = BATCH_STEPS,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        validation_share: float | None = None,
        patience: int = 5,
        random_state: Any = 0,
        threads: int = 1,
        out: str | Path | None = None,
        resume: bool = False,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            cell=cell,
            hidden_size=hidden_size,
            depth=depth,
            bidirectional=bidirectional,
            dropout=dropout,
            scaling=scaling,
            epochs=epochs,
            minutes=minutes,
            batch_size=batch_size,
            batch_steps=batch_steps,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            validation_share=validation_share,
            patience=patience,
            random_state=random_state,
            threads=threads,
            out=out,
            resume=resume,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
        *,
        times: Any = None,
    ) -> Self:
        """A pass over more sequences, from what was learnt before.

        The scales of the features are those of the first call. Nothing is held out, and no run is kept.

        Args:
            X: as for ``fit``.
            y: as for ``fit``.
            classes: at the first call, all that there will be; by default those of ``y``.
            sample_weight: as for ``fit``.
            times: as for ``fit``.

        Raises:
            TypeError, ValueError: as ``fit``; or ``y`` has a class that is not of them.
        """
        is_new = not hasattr(self, "network_")
        if is_new:
            self._forget()
        if not is_new:
            labels = self.classes_.tolist()
        else:
            labels = None if classes is None else np.unique(classes).tolist()
        sequences, labels = self._labelled(X, y, sample_weight, times, labels, reset=is_new)
        return self._read_on(sequences, labels)

    def predict_proba(self, X: Any, *, times: Any = None) -> Array:  # noqa: N803
        """The probability of each class, ``[N, K]``, in the order of ``classes_``."""
        found: Array = softmax(self._answers(X, times), axis=1)
        return found

    def predict_log_proba(self, X: Any, *, times: Any = None) -> Array:  # noqa: N803
        """Its logarithm, in nats."""
        found: Array = log_softmax(self._answers(X, times), axis=1)
        return found

    def predict(self, X: Any, *, times: Any = None) -> Array:  # noqa: N803
        """The most probable class of each sequence, ``[N]``."""
        best = self._answers(X, times).argmax(1)
        found: Array = self.classes_[best]
        return found

    @classmethod
    def _options_of(cls, run: SequenceRun) -> dict[str, Any]:
        options: dict[str, Any] = super()._options_of(run)
        weights = options.get("class_weight")
        return options | {"class_weight": dict(weights) if isinstance(weights, list) else weights}

    def _targets(self, y: Any, labels: list[Any] | None) -> tuple[Array, list[Any]]:
        column = column_or_1d(y, warn=True)
        assert_all_finite(column, input_name="y")
        check_classification_targets(column)
        found, numbers = np.unique(column, return_inverse=True)
        if labels is None:
            self.classes_ = found
        else:
            self._named(labels)
            if unknown := set(found.tolist()) - set(labels):
                raise ValueError(
                    f"y: got class {min(unknown, key=str)!r}, expected one of {labels[:20]!r}"
                )
            numbers = np.searchsorted(self.classes_, found)[numbers]
        if len(self.classes_) < 2:
            raise ValueError(f"y: got 1 class, {found.tolist()[0]!r}, expected at least 2 classes")
        return numbers.astype(np.int64), self.classes_.tolist()

    def _named(self, labels: list[Any]) -> None:
        self.classes_ = np.array(labels)

    def _own_weights(self, targets: Array, labels: list[Any], weights: Array) -> Array:
        given = self.class_weight
        if given is None:
            return np.ones(len(targets))
        totals = np.bincount(targets, weights, minlength=len(labels))
        if isinstance(given, Mapping):
            if unknown := set(given) - set(labels):
                raise ValueError(
                    f"class_weight: got class {min(unknown, key=str)!r}, expected one of {labels[:20]!r}"
                )
            of_classes: Array = np.array([float(given.get(label, 1.0)) for label in labels])
            if not np.isfinite(of_classes).all() or (of_classes < 0).any():
                raise ValueError("class_weight: expected finite weights, none below 0")
            return of_classes[targets]
        if given == "balanced":
            of_classes = totals.sum() / np.maximum(totals, totals[totals > 0].min())
            return of_classes[targets]
        raise ValueError(
            f"class_weight: got {given!r}, expected a mapping from classes to weights, or 'balanced'"
        )
