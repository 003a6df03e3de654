"""The scan as one operator of ONNX: what ``torch.onnx.export`` writes in place of a kernel.

ONNX has networks of three kinds itself, with sizes of time and batch left free; its gates stand in
another order, i, o, f, c for LSTM and z, r, h for GRU. A cell says which one it is by its ``onnx``.

Source: https://onnx.ai/onnx/operators/, RNN, LSTM and GRU, version 14.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.cells.cell import GatedCell
from unrolled.scan.native.calls import Weights, constant_in_graphs
from unrolled.scan.options import ScanOptions, ScanResult

_WITHOUT = ("resets", "batch_sizes", "noise", "return_states", "norms")  # of ONNX's operators
_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


@constant_in_graphs
def is_exporting() -> bool:
    """Whether ``torch.onnx.export`` is at work."""
    return torch.onnx.is_in_onnx_export()


def run(
    kind: type[GatedCell],
    activation: str,
    x: Tensor,
    state: State | None,
    weights: Weights,
    options: ScanOptions,
) -> ScanResult:
    """As ``unrolled.scan.native.run``: the outputs ``[T, B, H]`` alone, and the final state.

    ``kind`` is the class of the cell, which has ``onnx``; ``activation`` that of an Elman cell, else empty.

    Raises:
        ValueError: there are resets, packed rows or norms, or every state is asked for: ONNX's operators
            have none of them.
    """
    values = {name: getattr(options, name) for name in _WITHOUT}
    if asked := [
        name for name, value in values.items() if value is not None and value is not False
    ]:
        raise ValueError(
            f"{', '.join(asked)}: got them in torch.onnx.export, expected none, since ONNX's recurrent "
            "operators have none; export a call without, padded and with lengths"
        )
    assert weights.weight_ih is not None
    lengths, form = options.lengths, kind.onnx
    assert form is not None
    units = weights.weight_ih.shape[0] // kind.gates
    order = [kind.blocks.index(name) for name in form.order]
    weight_ih, weight_hh, *biases = (_reordered(order, w) for w in weights)
    if any(bias is not None for bias in biases):
        zeros = weights.weight_ih.new_zeros(1, weights.weight_ih.shape[0])
        bias = torch.cat([zeros if b is None else b for b in biases], 1)
    else:
        bias = None
    start = [s.unsqueeze(0) for s in state or ()]
    attributes: dict[str, Any] = {
        "hidden_size": units,
        "direction": "reverse" if options.reverse else "forward",
        **form.attributes,
    }
    if activation:
        attributes["activations"] = [_ACTIVATIONS[activation]]
        if activation == "identity":
            attributes |= {"activation_alpha": [1.0], "activation_beta": [0.0]}
    steps, batch_size, _ = x.shape
    count = 2 if form.operator == "LSTM" else 1
    y, *final = torch.onnx.ops.symbolic_multi_out(
        form.operator,
        [
            *(x, weight_ih, weight_hh, bias),
            None if lengths is None else lengths.to(torch.int32),
            *start,
        ],
        attributes,
        dtypes=[x.dtype] * (1 + count),
        shapes=[[steps, 1, batch_size, units], *[[1, batch_size, units]] * count],
        version=14,
    )
    final = [s.squeeze(0) for s in final]
    if lengths is not None and start:  # ONNX Runtime ends in zeros where it has read nothing
        empty = lengths.to(x.device).eq(0).unsqueeze(1)
        final = [torch.where(empty, s, f) for s, f in zip(state or (), final, strict=True)]
    return ScanResult((y.squeeze(1),), tuple(final))


def _reordered(order: Sequence[int], weight: Tensor | None) -> Tensor | None:
    """``weight`` ``[G*H, ...]`` with its gates in ``order``, as ``[1, G*H, ...]``: one direction."""
    if weight is None:
        return None
    units = len(weight) // len(order)
    return torch.cat([weight[k * units : (k + 1) * units] for k in order]).unsqueeze(0)


# --- A cell of one's own -------------------------------------------------------------------------


@constant_in_graphs
def is_form(kind: type[GatedCell]) -> bool:
    """Whether a class says which operator it is, by ``onnx``, and a step of it gives what that gives.

    Raises:
        ValueError: it gives other numbers.
    """
    if kind.onnx is None:
        return False
    if kind.kernel is None and kind not in _checked:
        from unrolled.compiler.trace import apart

        apart(lambda: _check(kind))
        _checked.add(kind)
    return True


_checked: set[type[GatedCell]] = set()


@torch.no_grad()
def _check(kind: type[GatedCell]) -> None:
    """Take one step of random weights by the class and by the operator's equations."""
    cell = kind(2, 3).double().eval()
    form = kind.onnx
    assert form is not None
    drawn = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, dtype=torch.float64, device="cpu")

    for parameter in cell.parameters():
        parameter.copy_(random(*parameter.shape))
    x, state = random(4, 2), tuple(random(4, size) for size in cell.state_sizes)
    order = [kind.blocks.index(name) for name in form.order]
    weights = [_reordered(order, w) for w in (cell.weight_ih, cell.weight_hh)]
    biases = [_reordered(order, w) for w in (cell.bias_ih, cell.bias_hh)]
    named = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    known = named.issuperset(dict(cell.named_parameters()))
    if known and form.operator in _STEPS:
        u, w = (m[0].T for m in weights if m is not None)
        b, c = (x.new_zeros(len(order) * 3) if m is None else m[0] for m in biases)
        expected = _STEPS[form.operator](x @ u + b, state, w, c, form.attributes)
        found = cell.step(cell.project(x), state)
        if len(found) == len(expected) and all(map(torch.allclose, found, expected)):
            return
    raise ValueError(
        f"{kind.__name__}.onnx: got {form.operator} with {dict(form.attributes)} and the blocks "
        f"{', '.join(form.order)}, but a step of the cell gives other numbers; leave onnx out, and the "
        "cell is exported by its operations"
    )


def _rnn(u: Tensor, state: State, w: Tensor, b: Tensor, _: Any) -> State:
    return (torch.tanh(u + state[0] @ w + b),)


def _lstm(u: Tensor, state: State, w: Tensor, b: Tensor, attributes: Any) -> State:
    h, c = state
    i, o, f, g = (u + h @ w + b).chunk(4, -1)
    f = torch.sigmoid(f)
    i = 1 - f if attributes.get("input_forget") else torch.sigmoid(i)
    c = f * c + i * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(u: Tensor, state: State, w: Tensor, b: Tensor, attributes: Any) -> State:
    (h,) = state
    (u_z, u_r, u_n), (w_z, w_r, w_n), (b_z, b_r, b_n) = (m.chunk(3, -1) for m in (u, w, b))
    z, r = torch.sigmoid(u_z + h @ w_z + b_z), torch.sigmoid(u_r + h @ w_r + b_r)
    after = attributes.get("linear_before_reset")
    n = torch.tanh(u_n + (r * (h @ w_n + b_n) if after else (r * h) @ w_n + b_n))
    return ((1 - z) * n + z * h,)


_STEPS: dict[str, Callable[..., State]] = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}
