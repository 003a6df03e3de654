"""Networks over series: forecasts, tags, and what is told of whole sequences."""

from unrolled.series.models.distributions import DISTRIBUTIONS
from unrolled.series.models.forecast import ForecastNetwork
from unrolled.series.models.sequence import ClassNetwork, SequenceNetwork, ValueNetwork

__all__ = ["DISTRIBUTIONS", "ClassNetwork", "ForecastNetwork", "SequenceNetwork", "ValueNetwork"]
