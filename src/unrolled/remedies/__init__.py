"""Remedies against gradients that vanish or explode: small functions, each with its citation.

Clip what explodes; begin where nothing does either; add to the loss what keeps it so; or swap the cell.
"""

from unrolled.remedies.clipping import AutoClip, clip_norm, clip_ratio, clip_states, clip_value
from unrolled.remedies.initialising import (
    chrono_bias,
    critical_weights,
    forget_bias,
    glorot_weights,
    identity_weights,
    orthogonal_weights,
    sensible_weights,
)
from unrolled.remedies.regularising import lyapunov_regularisation, preserving
from unrolled.remedies.swapping import as_gru, as_lstm, with_activation

__all__ = [
    "AutoClip",
    "as_gru",
    "as_lstm",
    "chrono_bias",
    "clip_norm",
    "clip_ratio",
    "clip_states",
    "clip_value",
    "critical_weights",
    "lyapunov_regularisation",
    "forget_bias",
    "glorot_weights",
    "identity_weights",
    "orthogonal_weights",
    "preserving",
    "sensible_weights",
    "with_activation",
]
