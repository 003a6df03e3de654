"""The derivative of a function of one number, by finite differences that know their own error."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

# All in float64, whose rounding error is EPS = 2**-52. The loss is looked at along a direction in which
# an entry θ moves by t·max(1, |θ|), so that t has no unit and the derivative in t is compared.
EPS = torch.finfo(torch.float64).eps

# A quotient at h is wrong by noise / (√2 h), 1.5 times that after extrapolation. 32 of it is 6 standard
# deviations, which none of a few thousand comparisons exceeds, times 4 for the estimate of the noise.
NOISE = 32

# The errors of finite differences are estimates, so half of the digits is left as a margin: an error of
# 1e-5 is 600 times that. A comparison counts only if they are known to a tenth of 1e-5; or, where the
# derivative is too small for that, to half of the digits of the loss or of the tensor's largest gradient.
MARGIN = math.sqrt(EPS)
PRECISION = 1e-6

# Three central differences at h, h/2 and h/4, extrapolated, are wrong by about h⁶ (truncation) plus
# EPS / h (rounding), which is least at h = EPS**(1/7), about 2**-7. Where the loss bends sooner than
# that, as after many steps of an exploding network, or has a kink near by, h is halved on, until the
# rounding of the entry that moves, NOISE * EPS / h, would be more than PRECISION: down to 2**-27.
FIRST_STEP = 2.0 ** round(math.log2(EPS) / 7)
STEPS = 1 + int(math.log2(FIRST_STEP / (NOISE * EPS / PRECISION)))
COLUMNS = 2


class Limit(NamedTuple):
    """What a sequence tends to, and how far from it the estimate may be."""

    value: float
    error: float


def extrapolated(quotients: Sequence[float], rounding: Sequence[float], base: int) -> Limit:
    """The limit of quotients at steps that are halved, by Richardson's extrapolation.

    Column j of Ridders' table removes the error h^j of one-sided quotients (``base`` 2), h^2j of central
    ones (``base`` 4). An entry's error is how far it is from the two that it is made of, plus rounding;
    the entry of the least error is taken, unless smaller steps contradict it: beyond a kink near by, large
    steps agree with each other on what is not the limit.
    """
    best = Limit(math.nan, math.inf)
    above: list[float] = []
    for quotient, rounded in zip(quotients, rounding, strict=True):
        row, limits = [quotient], []
        for j, before in enumerate(above[:COLUMNS]):
            row.append(row[j] + (row[j] - before) / (base ** (j + 1) - 1))
            error = max(abs(row[-1] - row[j]), abs(row[-1] - before)) + rounded
            limits.append(Limit(row[-1], error))
        for value, error in limits:
            apart = abs(value - best.value)
            if apart > best.error + error:
                best = Limit(best.value, apart)
        best = min(best, *limits, key=lambda limit: limit.error) if limits else best
        above = row
    return best


class Slope:
    """The derivative of ``function`` at 0, where it is ``start`` and its noise is ``noise``."""

    def __init__(self, function: Callable[[float], float], start: float, noise: float) -> None:
        self.function, self.start, self.noise = function, start, noise
        self.tried = 0
        self.samples: list[tuple[float, float, float]] = []  # step, the loss after, the loss before

    def measure(self) -> Limit:
        """By central differences, as few as settle it."""
        while self.tried < STEPS:
            self._sample()
            if len(self.samples) > COLUMNS:
                limit = self.central()
                if limit.error <= max(2 * self._rounding()[-1], MARGIN * abs(limit.value)):
                    return limit
        return self.central()

    def confirm(self) -> Limit:
        """By all steps."""
        while self.tried < STEPS:
            self._sample()
        return self.central()

    def _sample(self) -> None:
        step = FIRST_STEP / 2**self.tried
        after, before = self.function(step), self.function(-step)
        self.tried += 1
        if math.isfinite(after - before):
            self.samples.append((step, after, before))
        else:
            self.samples.clear()  # too far away: the loss is not finite there

    def central(self) -> Limit:
        """The mean of the derivatives on the two sides, which is the derivative if it exists."""
        quotients = [(after - before) / (2 * step) for step, after, before in self.samples]
        return extrapolated(quotients, self._rounding(), 4)

    def is_kinked(self) -> bool:
        """Whether the derivatives on the two sides differ."""
        rounding = self._rounding()
        after = extrapolated([(a - self.start) / h for h, a, _ in self.samples], rounding, 2)
        before = extrapolated([(self.start - b) / h for h, _, b in self.samples], rounding, 2)
        return abs(after.value - before.value) > after.error + before.error

    def is_sharp(self, limit: Limit, analytic: float, whole: float) -> bool:
        """Whether ``limit`` is known well enough to be compared with a part of ``whole``."""
        losses = [abs(self.start), *(max(abs(a), abs(b)) for _, a, b in self.samples)]
        derivative = max(abs(limit.value), abs(analytic))
        return limit.error <= max(PRECISION * derivative, MARGIN * whole, MARGIN * max(losses))

    def coarsest(self) -> float:
        """What rounding does at the smallest step."""
        return self._rounding()[-1]

    def _rounding(self) -> list[float]:
        return [
            NOISE * max(self.noise, EPS * max(abs(after), abs(before))) / step
            for step, after, before in self.samples
        ]
