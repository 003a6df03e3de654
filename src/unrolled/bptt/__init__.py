"""Backpropagation through time, whole and truncated, in as little memory as you allow; and online."""

from unrolled.bptt.carry import Carry
from unrolled.bptt.checkpointed import checkpointed, checkpointed_loss
from unrolled.bptt.gradcheck import GradientCheck, GradientRow, gradcheck
from unrolled.bptt.online import RTRL, UORO, SnAp1
from unrolled.bptt.truncated import Truncated, truncated
from unrolled.bptt.windows import Window, Windows, make_windows

__all__ = [
    "RTRL",
    "UORO",
    "Carry",
    "GradientCheck",
    "GradientRow",
    "SnAp1",
    "Truncated",
    "Window",
    "Windows",
    "checkpointed",
    "checkpointed_loss",
    "gradcheck",
    "make_windows",
    "truncated",
]
