"""Remedies against gradients that vanish or explode: small functions, each with its citation.

Clip what explodes; begin where nothing does either; add to the loss what keeps it so; or swap the cell.
A name that ends in an underscore changes what it is given, as in torch.
"""

from unrolled.remedies.clipping import AutoClip, clip_norm_, clip_ratio_, clip_states_, clip_value_
from unrolled.remedies.initialising import (
    chrono_bias_,
    critical_weights_,
    forget_bias_,
    glorot_weights_,
    identity_weights_,
    orthogonal_weights_,
    sensible_weights_,
)
from unrolled.remedies.regularising import lyapunov_regularisation, preserving
from unrolled.remedies.swapping import as_gru, as_lstm, with_activation

__all__ = [
    "AutoClip",
    "as_gru",
    "as_lstm",
    "chrono_bias_",
    "clip_norm_",
    "clip_ratio_",
    "clip_states_",
    "clip_value_",
    "critical_weights_",
    "lyapunov_regularisation",
    "forget_bias_",
    "glorot_weights_",
    "identity_weights_",
    "orthogonal_weights_",
    "preserving",
    "sensible_weights_",
    "with_activation",
]
