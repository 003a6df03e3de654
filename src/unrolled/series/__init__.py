"""From a table of measurements to forecasts, classes and tags."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrolled.series.backtest import Backtest
    from unrolled.series.forecaster import Forecaster

HOMES = {"Backtest": "backtest", "Forecaster": "forecaster"}
__all__ = ["Backtest", "Forecaster"]


def __getattr__(name: str) -> Any:
    """Each estimator where it is first asked for: not each needs what the others need."""
    if name in HOMES:
        return getattr(import_module(f"unrolled.series.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
