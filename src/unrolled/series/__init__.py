"""From a table of measurements to forecasts, classes and tags."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrolled.series.backtest import Backtest
    from unrolled.series.classifier import SequenceClassifier
    from unrolled.series.forecaster import Forecaster
    from unrolled.series.regressor import SequenceRegressor
    from unrolled.series.stream import ForecastStream
    from unrolled.series.tagger import SequenceTagger

MODULES = {
    "Backtest": "backtest",
    "ForecastStream": "stream",
    "Forecaster": "forecaster",
    "SequenceClassifier": "classifier",
    "SequenceRegressor": "regressor",
    "SequenceTagger": "tagger",
}

__all__ = [
    "Backtest",
    "ForecastStream",
    "Forecaster",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceTagger",
]


def __getattr__(name: str) -> Any:
    """Each estimator where it is first asked for."""
    if name in MODULES:
        return getattr(import_module(f"unrolled.series.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
