"""Networks over series: forecasts."""

from unrolled.series.models.distributions import DISTRIBUTIONS
from unrolled.series.models.forecast import ForecastNetwork

__all__ = ["DISTRIBUTIONS", "ForecastNetwork"]
