"""Online learning: the gradient through all past steps at every step, without keeping them."""

from unrolled.bptt.online.rtrl import RTRL
from unrolled.bptt.online.snap import SnAp1
from unrolled.bptt.online.uoro import UORO

__all__ = ["RTRL", "SnAp1", "UORO"]
