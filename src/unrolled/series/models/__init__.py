"""Networks over series: forecasts, tags."""

from unrolled.series.models.distributions import DISTRIBUTIONS
from unrolled.series.models.forecast import ForecastNetwork

__all__ = ["DISTRIBUTIONS", "ForecastNetwork"]
