"""The judgement by itself: from causes to a verdict, at every threshold."""

import math
from typing import Any

import pytest
import torch

from unrolled import remedies
from unrolled.lens.causes import Causes, Gate, Slopes
from unrolled.lens.verdict import FADED, GROWN, IDLE, horizon_of_growth, judge


def seen(growth: float, **more: Any) -> Causes:
    """Causes with a factor of ``growth`` a step."""
    given: dict[str, Any] = {
        "level": 1,
        "direction": 0,
        "cell": "Elman",
        "radius": 1.0,
        "norm": 1.0,
    }
    return Causes(**given, growth=math.log(growth) if growth else -math.inf, **more)


@pytest.mark.parametrize("steps", [2, 10, 200])
def test_what_has_faded_or_grown_over_the_sequence_is_told(steps: int) -> None:
    for limit, inside, beyond in ((FADED, 1.01, 0.99), (GROWN, 0.99, 1.01)):
        for share, healthy in ((inside, True), (beyond, False)):
            growth = (limit * share) ** (1 / (steps - 1))
            verdict = judge("rnn", seen(growth), steps)
            wrong = "vanishing" if limit < 1 else "exploding"
            assert verdict.state == ("healthy" if healthy else wrong)
            assert bool(verdict.remedies) is not healthy
            assert verdict.growth == pytest.approx(growth)
            assert (verdict.layer, verdict.level, verdict.direction) == ("rnn", 1, 0)


@pytest.mark.parametrize(
    ("dead", "saturated", "growth", "state"),
    [
        (IDLE, 0.0, 1.0, "dead"),
        (IDLE - 0.01, 0.0, 1.0, "healthy"),
        (0.0, IDLE, 0.1, "saturated"),
        (0.0, IDLE - 0.01, 0.1, "vanishing"),
        (0.0, 1.0, 1.0, "healthy"),
        (1.0, 1.0, 0.0, "dead"),
    ],
)
def test_idle_units_are_told(dead: float, saturated: float, growth: float, state: str) -> None:
    verdict = judge("rnn", seen(growth, slopes=Slopes(0.1, saturated, dead)), 50)
    assert verdict.state == state
    assert f"{dead:.0%} dead" in verdict.evidence


def test_every_remedy_is_there() -> None:
    gate = Gate("f", 0.5, torch.full((3,), 0.5), torch.full((3,), 2.0))
    slopes = [Slopes(0.1, 1.0, 0.0), Slopes(0.1, 0.0, 1.0), Slopes(1.0, 0.0, 0.0)]
    found = [judge("", seen(g, gate=gate), 50) for g in (0.1, 2.0)]
    found += [judge("", seen(g, slopes=s), 50) for g in (0.1, 2.0) for s in slopes]
    names = {r.name for verdict in found for r in verdict.remedies}
    assert len(names) > 4
    for name in names:
        for part in name.removesuffix(", with ReLU").split(", "):
            assert callable(getattr(remedies, part.removeprefix("remedies.")))


def test_a_single_step_is_not_judged() -> None:
    verdict = judge("rnn", seen(1.0).__class__(1, 0, "LSTM", math.nan, 1.0, 1.0), 1)
    assert verdict.state == "healthy" and math.isnan(verdict.horizon)
    assert "too few" in verdict.evidence


def test_the_horizon_is_where_a_hundredth_is_left() -> None:
    assert horizon_of_growth(0.5) == pytest.approx(math.log(100, 2))
    assert horizon_of_growth(1.0) == horizon_of_growth(1.5) == math.inf
    assert horizon_of_growth(0.0) == 1.0 and math.isnan(horizon_of_growth(math.nan))
