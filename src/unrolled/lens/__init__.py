"""Seeing through time: where a gradient goes in a recurrent layer, step by step, and why."""

from unrolled.diagrams import Drawing, draw
from unrolled.diagrams.formula import Formula, expand
from unrolled.lens.breaks import Broken
from unrolled.lens.causes import Causes, Gate, Matrix, Slopes, causes
from unrolled.lens.flow import Flow
from unrolled.lens.lags import horizon, influence, lag_matrix
from unrolled.lens.lyapunov import log_condition, lyapunov
from unrolled.lens.recurrence import Recurrence, recurrences
from unrolled.lens.report import Report, Row
from unrolled.lens.spikes import Clipping, Spike
from unrolled.lens.trials import Trial, Trials, try_remedies
from unrolled.lens.truncation import Bias, Biases, truncation_bias
from unrolled.lens.verdict import Remedy, Verdict, judge
from unrolled.lens.view import View
from unrolled.lens.watching import Lens, watch

__all__ = [
    "Bias",
    "Biases",
    "Broken",
    "Causes",
    "Clipping",
    "Drawing",
    "Flow",
    "Formula",
    "Gate",
    "Lens",
    "Matrix",
    "Recurrence",
    "Remedy",
    "Report",
    "Row",
    "Slopes",
    "Spike",
    "Trial",
    "Trials",
    "Verdict",
    "View",
    "causes",
    "draw",
    "expand",
    "horizon",
    "influence",
    "judge",
    "lag_matrix",
    "log_condition",
    "lyapunov",
    "recurrences",
    "truncation_bias",
    "try_remedies",
    "watch",
]
