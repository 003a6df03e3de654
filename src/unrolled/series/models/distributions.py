"""What is said of a value to come: quantiles, or a distribution of which there are quantiles.

All is in scaled units, z = (y - m) / s with the causal location m and scale s of ``series.data``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
"""The levels that are learnt beside those that are asked for."""
LEAST = 1e-3  # of a scale: a likelihood has no largest value where it may fall to 0
MIXED = 3  # normal distributions of a mixture


class Around(NamedTuple):
    """What a value is taken to be near, ``[...]`` each: ``base``, in scales from the location."""

    base: Tensor
    location: Tensor
    scale: Tensor


class Distribution(ABC):
    """A family of distributions, of which a network gives the parameters.

    Args:
        levels: of the quantiles, in ascending order.
    """

    size: int
    """How many numbers the network gives for one value."""
    is_of_counts: ClassVar[bool] = False
    """Whether its values are whole numbers from 0."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(levels)

    @abstractmethod
    def loss(self, given: Tensor, around: Around, value: Tensor) -> Tensor:
        """The loss of each value.

        Args:
            given: ``[..., size]``, from the network.
            around: what each is taken to be near.
            value: ``[...]``, in scaled units.
        """

    @abstractmethod
    def quantiles(self, given: Tensor, around: Around) -> Tensor:
        """``[..., Q]``: the quantiles at ``levels``, in scaled units, ascending."""


class Quantiles(Distribution):
    """The quantiles themselves, by the pinball loss; none crosses another.

    The middle one is given, and the distance of each to its neighbour, which is positive.

    Source: Koenker & Bassett, "Regression Quantiles", Econometrica 46 (1978).
    """

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__(levels)
        self.size = len(self.levels)
        self.middle = min(range(self.size), key=lambda k: abs(self.levels[k] - 0.5))

    def quantiles(self, given: Tensor, around: Around) -> Tensor:
        k = self.middle
        middle = (around.base + given[..., k]).unsqueeze(-1)
        parts = [middle]
        if k:
            down = F.softplus(given[..., :k].flip(-1)).cumsum(-1).flip(-1)
            parts.insert(0, middle - down)
        if k + 1 < self.size:
            parts.append(middle + F.softplus(given[..., k + 1 :]).cumsum(-1))
        return torch.cat(parts, -1)

    def loss(self, given: Tensor, around: Around, value: Tensor) -> Tensor:
        levels = torch.tensor(self.levels, dtype=given.dtype, device=given.device)
        error = value.unsqueeze(-1) - self.quantiles(given, around)
        return torch.maximum(levels * error, (levels - 1) * error).mean(-1)


class Normal(Distribution):
    """A normal distribution."""

    size = 2

    def loss(self, given: Tensor, around: Around, value: Tensor) -> Tensor:
        width = F.softplus(given[..., 1]) + LEAST
        z = (value - around.base - given[..., 0]) / width
        return 0.5 * z.square() + width.log() + 0.5 * math.log(2 * math.pi)

    def quantiles(self, given: Tensor, around: Around) -> Tensor:
        levels = torch.tensor(self.levels, dtype=given.dtype, device=given.device)
        z: Tensor = torch.special.ndtri(levels)
        width = F.softplus(given[..., 1:2]) + LEAST
        told: Tensor = (around.base + given[..., 0]).unsqueeze(-1) + width * z
        return told


class StudentT(Distribution):
    """Student's t, of more than two degrees of freedom, so that it has a variance: heavy tails."""

    size = 3

    def loss(self, given: Tensor, around: Around, value: Tensor) -> Tensor:
        width, freedom = F.softplus(given[..., 1]) + LEAST, 2 + F.softplus(given[..., 2])
        z = (value - around.base - given[..., 0]) / width
        half = (freedom + 1) / 2
        constant = torch.lgamma(half) - torch.lgamma(freedom / 2) - 0.5 * (freedom * math.pi).log()
        return half * torch.log1p(z.square() / freedom) + width.log() - constant

    def quantiles(self, given: Tensor, around: Around) -> Tensor:
        from scipy.stats import t

        freedom = (2 + F.softplus(given[..., 2:3])).double().cpu().numpy()
        z = torch.as_tensor(t.ppf(self.levels, freedom), dtype=given.dtype, device=given.device)
        width = F.softplus(given[..., 1:2]) + LEAST
        told: Tensor = (around.base + given[..., 0]).unsqueeze(-1) + width * z
        return told


class Mixture(Distribution):
    """A mixture of ``MIXED`` normal distributions: more than one value may be likely."""

    size = 3 * MIXED

    def _parts(self, given: Tensor, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, centres, widths = (given[..., k : k + MIXED] for k in (0, MIXED, 2 * MIXED))
        return weights.log_softmax(-1), base.unsqueeze(-1) + centres, F.softplus(widths) + LEAST

    def loss(self, given: Tensor, around: Around, value: Tensor) -> Tensor:
        weights, centres, widths = self._parts(given, around.base)
        z = (value.unsqueeze(-1) - centres) / widths
        each = weights - 0.5 * z.square() - widths.log() - 0.5 * math.log(2 * math.pi)
        return -each.logsumexp(-1)

    def quantiles(self, given: Tensor, around: Around) -> Tensor:
        weights, centres, widths = (part.unsqueeze(-2) for part in self._parts(given, around.base))
        levels = torch.tensor(self.levels, dtype=given.dtype, device=given.device)
        low = (centres - 12 * widths).amin(-1).expand(*given.shape[:-1], len(levels))
        high = (centres + 12 * widths).amax(-1).expand_as(low)
        for _ in range(40):  # halves of an interval: a float32 has no more digits
            middle = (low + high) / 2
            share = (
                weights.exp() * torch.special.ndtr((middle.unsqueeze(-1) - centres) / widths)
            ).sum(-1)
            low, high = (
                torch.where(share < levels, middle, low),
                torch.where(share < levels, high, middle),
            )
        return (low + high) / 2


class NegativeBinomial(Distribution):
    """Counts, of a variance larger than their mean: Salinas, Flunkert & Gasthaus, "DeepAR", 2017."""

    size, is_of_counts = 2, True

    def _parameters(self, given: Tensor, around: Around) -> tuple[Tensor, Tensor]:
        level = around.base + given[..., 0] + around.location / around.scale
        mean = around.scale * F.softplus(level) + LEAST
        return mean, F.softplus(given[..., 1]) + LEAST

    def loss(self, given: Tensor, around: Around, value: Tensor) -> Tensor:
        mean, spread = self._parameters(given, around)
        count = (around.location + around.scale * value).clamp(min=0)
        number = 1 / spread
        return (
            torch.lgamma(number)
            + torch.lgamma(count + 1)
            - torch.lgamma(count + number)
            + number * torch.log1p(spread * mean)
            + count * (torch.log1p(spread * mean) - (spread * mean).log())
        )

    def quantiles(self, given: Tensor, around: Around) -> Tensor:
        from scipy.stats import nbinom

        mean, spread = self._parameters(given, around)
        number = (1 / spread).unsqueeze(-1).double().cpu().numpy()
        share = (1 / (1 + spread * mean)).unsqueeze(-1).double().cpu().numpy()
        counts = torch.as_tensor(nbinom.ppf(self.levels, number, share), dtype=given.dtype)
        counts = counts.to(given.device)
        return (counts - around.location.unsqueeze(-1)) / around.scale.unsqueeze(-1)


DISTRIBUTIONS: dict[str, type[Distribution]] = {
    "quantiles": Quantiles,
    "normal": Normal,
    "student-t": StudentT,
    "negative-binomial": NegativeBinomial,
    "mixture": Mixture,
}
