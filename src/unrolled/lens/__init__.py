"""Seeing through time: where a gradient goes in a recurrent layer, step by step, and why."""

from unrolled.lens.causes import Causes, Gate, Matrix, Slopes, causes
from unrolled.lens.lags import horizon, influence, lag_matrix
from unrolled.lens.lyapunov import log_condition, lyapunov
from unrolled.lens.recurrence import Recurrence, recurrences
from unrolled.lens.report import Report, Row
from unrolled.lens.verdict import Remedy, Verdict, judge
from unrolled.lens.watching import Flow, Lens, watch

__all__ = [
    "Causes",
    "Flow",
    "Gate",
    "Lens",
    "Matrix",
    "Recurrence",
    "Remedy",
    "Report",
    "Row",
    "Slopes",
    "Verdict",
    "causes",
    "horizon",
    "influence",
    "judge",
    "lag_matrix",
    "log_condition",
    "lyapunov",
    "recurrences",
    "watch",
]
