"""The scan as one operator of ONNX: what ``torch.onnx.export`` writes in place of a kernel.

ONNX has the three networks themselves, with sizes of time and batch left free; its gates stand in
another order: i, o, f, c for LSTM and z, r, h for GRU.

Source: https://onnx.ai/onnx/operators/, RNN, LSTM and GRU, version 14.
"""

from typing import Any

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.scan.operators import Weights, constant_in_graphs

_OPERATORS = {"elman": "RNN", "lstm": "LSTM", "gru": "GRU"}
_GATES = {"elman": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


@constant_in_graphs
def is_exporting() -> bool:
    """Whether ``torch.onnx.export`` is at work."""
    return torch.onnx.is_in_onnx_export()


def run(
    name: str,
    x: Tensor,
    state: State | None,
    weights: Weights,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    **others: Any,
) -> tuple[State, State]:
    """As ``unrolled.scan.native.run``: the outputs ``[T, B, H]`` alone, and the final state.

    Raises:
        ValueError: there are resets, packed rows or norms, or every state is asked for: ONNX's operators
            have none of them.
    """
    if given := [
        option for option, value in others.items() if value is not None and value is not False
    ]:
        raise ValueError(
            f"{', '.join(given)}: got them in torch.onnx.export, expected none, since ONNX's recurrent "
            "operators have none; export a call without, padded and with lengths"
        )
    assert weights.weight_ih is not None
    kind, _, activation = name.partition("_")
    units = weights.weight_ih.shape[0] // len(_GATES[kind])
    weight_ih, weight_hh, *biases = (_reordered(kind, w) for w in weights)
    if any(bias is not None for bias in biases):
        zeros = weights.weight_ih.new_zeros(1, weights.weight_ih.shape[0])
        bias = torch.cat([zeros if b is None else b for b in biases], 1)
    else:
        bias = None
    start = [s.unsqueeze(0) for s in state or ()]
    attributes: dict[str, Any] = {
        "hidden_size": units,
        "direction": "reverse" if reverse else "forward",
    }
    if kind == "gru":
        attributes["linear_before_reset"] = (
            1  # the reset gate comes after the product, as in torch.nn
        )
    if kind == "elman":
        attributes["activations"] = [_ACTIVATIONS[activation]]
        if activation == "identity":
            attributes |= {"activation_alpha": [1.0], "activation_beta": [0.0]}
    steps, lanes, _ = x.shape
    count = 2 if kind == "lstm" else 1
    y, *final = torch.onnx.ops.symbolic_multi_out(
        _OPERATORS[kind],
        [
            *(x, weight_ih, weight_hh, bias),
            None if lengths is None else lengths.to(torch.int32),
            *start,
        ],
        attributes,
        dtypes=[x.dtype] * (1 + count),
        shapes=[[steps, 1, lanes, units], *[[1, lanes, units]] * count],
        version=14,
    )
    final = [s.squeeze(0) for s in final]
    if lengths is not None and start:  # ONNX Runtime ends in zeros where it has read nothing
        empty = lengths.to(x.device).eq(0).unsqueeze(1)
        final = [torch.where(empty, s, f) for s, f in zip(state or (), final, strict=True)]
    return (y.squeeze(1),), tuple(final)


def _reordered(kind: str, weight: Tensor | None) -> Tensor | None:
    """``weight`` ``[G*H, ...]`` with its gates in ONNX's order, as ``[1, G*H, ...]``: one direction."""
    if weight is None:
        return None
    order = _GATES[kind]
    units = len(weight) // len(order)
    return torch.cat([weight[k * units : (k + 1) * units] for k in order]).unsqueeze(0)
