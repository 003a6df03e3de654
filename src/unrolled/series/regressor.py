"""A number, or several, of a sequence, as an estimator of scikit-learn's."""

from typing import Any, Self, cast

import numpy as np
import torch

from unrolled.series.estimator import Array, SequenceEstimator
from unrolled.series.models.sequence import ValueNetwork

# isort: split
from sklearn.base import RegressorMixin
from sklearn.utils import check_array


class SequenceRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """A number, or several, told of a sequence: recurrent layers in both directions, pooled over time.

    As ``SequenceClassifier``, whose options it has but for ``class_weight``. It learns the squared error,
    in standard units.

        >>> import numpy as np
        >>> from unrolled.series import SequenceRegressor
        >>> random = np.random.default_rng(0)
        >>> X = [random.normal(size=(random.integers(5, 20), 3)) for _ in range(60)]
        >>> y = [x[:, 0].sum() for x in X]
        >>> regressor = SequenceRegressor(hidden_size=16, epochs=100, random_state=0).fit(X, y)
        >>> regressor.score(X, y) > 0.9
        True

    Attributes:
        network_: the network, a ``ValueNetwork``.
        evaluations_, settings_: as of ``SequenceClassifier``.
    """

    kind = "regress"

    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        sample_weight: Any = None,
        *,
        times: Any = None,
    ) -> Self:
        """A pass over more sequences, from what was learnt before.

        The scales of the features and of ``y`` are those of the first call. Nothing is held out, and no run
        is kept.

        Raises:
            TypeError, ValueError: as ``fit``.
        """
        is_new = not hasattr(self, "network_")
        if is_new:
            self._forget()
        labels = None if is_new else self._labels
        sequences, labels = self._labelled(X, y, sample_weight, times, labels, reset=is_new)
        return self._read_on(sequences, labels)

    def predict(self, X: Any, *, times: Any = None) -> Array:  # noqa: N803
        """What is told of each sequence, ``[N]``, or ``[N, Y]`` if ``y`` had two dimensions."""
        answers = torch.from_numpy(self._answers(X, times))
        values: Array = cast(ValueNetwork, self.network_).values(answers).numpy()
        return values[:, 0] if self._read_as["targets"] is None else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y: Any, labels: list[Any] | None) -> tuple[Array, list[Any]]:
        targets = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        count = None if targets.ndim == 1 else targets.shape[1]
        if labels is None:
            self._read_as["targets"] = count
            labels = [f"y{k}" for k in range(count)] if count else ["y"]
        elif count != self._read_as["targets"]:
            raise ValueError(
                f"y: got shape {targets.shape}, expected {len(labels)} targets as before"
            )
        self._named(labels)
        return targets.reshape(len(targets), -1), labels

    def _named(self, labels: list[Any]) -> None:
        self._labels = labels
