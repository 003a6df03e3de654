"""Numbers as data and as words."""

import math
from collections.abc import Sequence
from typing import Any

NEAR = 1e7  # times the least normal number: from a larger one no step brings a gradient to 0 by its size


def plain(value: Any) -> Any:
    """``value`` for JSON: five digits of each number, and ``None`` for those that are not finite.

    >>> plain({"a": (0.1234567, float("inf"))})
    {'a': [0.12346, None]}
    """
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def underflowed(norms: Sequence[float | None], least: float | None) -> list[bool]:
    """Which ``norms`` of a gradient, by step, are too small for its dtype.

    They are under ``least``, the dtype's least normal number, and so of few digits; or 0, and the steps of
    0 around them end at a norm that is nearly as small. Any other 0 is one: no gradient leads there.

    >>> underflowed([0.0, 0.0, 1e-40, 1e-36, 1e-20, 0.0], 1.18e-38)
    [True, True, True, False, False, False]
    """
    are_small = [False] * len(norms)
    for order in (range(len(norms)), reversed(range(len(norms)))):
        is_near = False
        for t in order:
            norm = norms[t]
            if norm is None or least is None or math.isnan(norm):
                is_near = False
            else:
                is_near = norm < NEAR * least and (norm > 0 or is_near)
                are_small[t] |= is_near and norm < least
    return are_small


def steps_in_words(horizon: float) -> str:
    """A horizon: "unknown" if it is NaN, "without end" if it is infinite, or very far.

    >>> steps_in_words(9.6), steps_in_words(1.0), steps_in_words(math.inf)
    ('10 steps', '1 step', 'without end')
    """
    if math.isnan(horizon):
        return "unknown"
    if horizon >= 1e6:
        return "without end"
    return "1 step" if round(horizon) == 1 else f"{horizon:.0f} steps"
