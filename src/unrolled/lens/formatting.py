"""Numbers as JSON has them, and a horizon in words."""

import math
from typing import Any


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
