"""From what was measured to a verdict: pure functions, and every threshold in one place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unrolled.lens.causes import Causes

Condition = Literal["healthy", "vanishing", "exploding", "dead", "saturated"]

FADED = 1e-3  # what a gradient may fall to over the sequence, of what it was, before it vanished
GROWN = 1e3  # what it may grow to before it has exploded
IDLE = 0.5  # the share of dead units, or of saturated slopes, from which it counts
FRACTION = 0.01  # of a gradient is left at its horizon


@dataclass(frozen=True)
class Remedy:
    """What to do: the function or option, what it changes, and what it should do to the growth a step."""

    name: str
    effect: str


@dataclass(frozen=True)
class Verdict:
    """How the gradient fares in one scan of a layer, why, and what to do.

    ``growth``: the factor by which a gradient changes in one step back. ``horizon``: the number of steps
    back after which a hundredth of it is left; infinite if it does not fade. ``evidence``: in words.
    """

    layer: str
    level: int
    direction: int
    state: Condition
    growth: float
    horizon: float
    evidence: str
    remedies: tuple[Remedy, ...]


def judge(layer: str, causes: Causes, steps: int) -> Verdict:
    """The verdict on one scan from its ``causes`` over sequences of ``steps``.

    - "dead": half of the units or more have slope 0 at every step.
    - "saturated": half of the slopes or more are under a tenth of the greatest, and the gradient fades.
    - "vanishing", "exploding": over the sequence a gradient falls under a thousandth, or grows beyond a
      thousandfold.
    - "healthy": otherwise.
    """
    if not isinstance(causes, Causes):
        raise TypeError(f"causes: got {causes!r}, expected one of what lens.causes returns")
    growth = math.exp(causes.growth) if not math.isnan(causes.growth) else math.nan
    whole = causes.growth * max(0, steps - 1)
    slopes = causes.slopes
    state: Condition = "healthy"
    if slopes is not None and slopes.dead >= IDLE:
        state = "dead"
    elif whole < math.log(FADED):
        idle = slopes is not None and slopes.saturated >= IDLE
        state = "saturated" if idle else "vanishing"
    elif whole > math.log(GROWN):
        state = "exploding"
    return Verdict(
        layer,
        causes.level,
        causes.direction,
        state,
        growth,
        horizon_of_growth(growth),
        evidence(causes, steps),
        remedies(state, causes),
    )


def worst(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Of those that are not healthy, or else of all, the one whose growth is farthest from 1; if any."""

    def badness(verdict: Verdict) -> tuple[bool, float]:
        return verdict.state != "healthy", distance(verdict.growth)

    return max(verdicts, key=badness, default=None)


def distance(growth: float) -> float:
    """How far it is from 1, in the logarithm; 0 if it is unknown."""
    if math.isnan(growth):
        return 0.0
    return math.inf if growth <= 0 else abs(math.log(growth))


def horizon_of_growth(growth: float, fraction: float = FRACTION) -> float:
    """The number of steps back after which ``fraction`` of a gradient is left that changes by ``growth``.

    >>> horizon_of_growth(0.1), horizon_of_growth(1.2)
    (2.0, inf)
    """
    if math.isnan(growth):
        return math.nan
    if growth <= 0:
        return 1.0
    return math.inf if growth >= 1 else math.log(fraction) / math.log(growth)


def evidence(causes: Causes, steps: int) -> str:
    """What speaks for the verdict, in one line."""
    said = []
    if math.isnan(causes.growth):
        said.append(f"{steps} steps are too few to see a growth")
    else:
        said.append(f"a step back multiplies the gradient by {math.exp(causes.growth):.3f}")
    if causes.factors is not None and not math.isnan(causes.growth):
        parts = (f"{name} {math.exp(value):.3f}" for name, value in causes.factors.items())
        said.append(" x ".join(parts))
    if causes.slopes is not None:
        said.append(f"{causes.slopes.saturated:.0%} saturated, {causes.slopes.dead:.0%} dead")
    if causes.gate is not None:
        scale = float(causes.gate.time_scale.median())
        said.append(f"{causes.gate.name} is {causes.gate.mean:.2f}, time scale {scale:.1f} steps")
    said.append(f"spectral radius {causes.radius:.2f}")
    return "; ".join(said)


def remedies(state: Condition, causes: Causes) -> tuple[Remedy, ...]:
    """What to do about ``state``, the first one first."""
    if state == "healthy":
        return ()
    if state == "exploding":
        return CLIP, ORTHOGONAL
    if causes.gate is not None:
        return CHRONO if state == "vanishing" else FORGET, ORTHOGONAL
    if state == "dead":
        return Remedy("remedies.identity_weights_", "units are on at first: growth 1"), GRU
    return ORTHOGONAL, RELU, GATES


ORTHOGONAL = Remedy("remedies.orthogonal_weights_", "brings the matrix's factor to 1")
CLIP = Remedy("remedies.clip_norm_, remedies.clip_states_", "leaves the growth, bounds each update")
OPENED = "opens the gate that carries the state: growth to 1"
CHRONO, FORGET = Remedy("remedies.chrono_bias_", OPENED), Remedy("remedies.forget_bias_", OPENED)
RELU = Remedy("remedies.identity_weights_, with ReLU", "slopes of 1: growth 1")
CARRIED = "a gate carries the state: growth to 1"
GRU, GATES = (
    Remedy("remedies.as_gru", CARRIED),
    Remedy("remedies.as_lstm, remedies.as_gru", CARRIED),
)
