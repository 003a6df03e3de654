"""Compare two computations by every value and every gradient, each under its name.

Both sides use the parameter names of ``torch.nn``, as in ``weight_hh_l1_reverse``; a gradient is
called "grad of" what it belongs to.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrolled import Recurrent, cells
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, scan

# How far two right computations of the same network may be apart in one step, in units of eps:
#
# - A pre-activation is a sum of D + H + 2 terms, which the two sides add in different orders. What
#   they round is independent, so they differ by about sqrt(D + H + 2) / 2: 3 for the widest here,
#   D + H = 38. Its gradient is a sum over the G·H rows of a weight, 132 at most: 6.
# - Two implementations of exp and tanh differ by up to 2, and a step calls up to 5 of them, each
#   with its own error: 2 * sqrt(5), about 5.
#
# Together sqrt(3² + 6² + 5²), about 8. A gradient meets it twice, on the way there and on the way
# back, hence 16; and one bit more, since sums whose terms cancel are measured by what is left.
ROUNDINGS = 2 * 16


# In autocast torch.nn's LSTM goes to oneDNN, which fails on a processor without bfloat16.
LSTM_HAS_AUTOCAST: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def scanned(
    cell: Cell, x: Tensor, state: State | None = None, options: ScanOptions | None = None
) -> tuple[Any, State]:
    """``scan``, with the output itself: or all states, if they are asked for; and the final state."""
    options = options or ScanOptions()
    outputs, final = scan(cell, x, state, options)
    return outputs if options.return_states else outputs[0], final


def tolerance(dtype: torch.dtype, steps: int) -> float:
    """The relative difference that rounding explains in ``dtype`` after ``steps`` steps.

    The error of one step reaches the next by ∂h_t/∂h_{t-1}, which is about 1 at most in a network
    that does not explode. So the errors of the steps add up, and as they are independent their sum
    grows as sqrt(T). The projection and the merging, which are done even where T is 0, count as one
    step more.
    """
    return ROUNDINGS * torch.finfo(dtype).eps * math.sqrt(steps + 1)


def assert_close_by_name(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], steps: int
) -> None:
    """Fail, naming each culprit, unless every tensor is what is expected up to rounding.

    An entry e of an expected tensor may be missed by ``tolerance * (max|expected| + |e|)``: an
    absolute part relative to the tensor's own scale, and a relative one. Where a tensor is expected
    to be all zero, zeros it must be. NaN and infinity must be where they are expected.
    """
    faults = [f"{name}: missing" for name in expected if name not in got]
    faults += [f"{name}: not expected" for name in got if name not in expected]
    for name, want in expected.items():
        if name in got and (fault := _fault(got[name], want, steps)):
            faults.append(f"{name}: {fault}")
    if faults:
        raise AssertionError("\n".join(faults))


def _fault(got: Tensor, want: Tensor, steps: int) -> str | None:
    """What is wrong with ``got``, or nothing."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        described = f"{list(want.shape)} {want.dtype}"
        return f"got {list(got.shape)} {got.dtype}, expected {described}"
    got, want = got.detach(), want.detach()
    finite = want.isfinite()
    scale = want[finite].abs().max() if finite.any() else want.new_zeros(())
    allowed = tolerance(want.dtype, steps) * (scale + want.abs())
    same = (got == want) | (got.isnan() & want.isnan())
    wrong = ~(same | (finite & ((got - want).abs() <= allowed)))
    if not wrong.any():
        return None
    excess = torch.where(wrong, ((got - want).abs() / allowed).nan_to_num(torch.inf), -1.0)
    worst = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    return (
        f"{int(wrong.sum())} of {wrong.numel()} entries differ, the worst at {list(worst)}: "
        f"got {got[worst].item()!r}, expected {want[worst].item()!r}, "
        f"allowed difference {allowed[worst].item():.3g}"
    )


def collect(outputs: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``outputs``, and by name the gradient in each source of one fixed weighting of them all.

    Each output is weighted by random numbers which depend on its name and shape alone, so that two
    computations are asked for the same gradient, and no entry's error can hide behind another's.
    """
    reached = {name: y for name, y in outputs.items() if y.requires_grad}
    weights = [_weights(name, y) for name, y in reached.items()]
    gradients = torch.autograd.grad(
        list(reached.values()), list(sources.values()), weights, materialize_grads=True
    )
    named = {f"grad of {name}": g for name, g in zip(sources, gradients, strict=True)}
    return {name: y.detach() for name, y in outputs.items()} | named


def _weights(name: str, like: Tensor) -> Tensor:
    """Random numbers of the shape of ``like``, the same for the same name and shape."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.dtype)


class TorchLayer(NamedTuple):
    """A layer of ``torch.nn``, and the cell that must compute the same."""

    layer: type[nn.RNNBase]
    options: dict[str, str]
    cell: type[Cell]
    cell_options: dict[str, str]


DROP_INS = {
    "RNN tanh": TorchLayer(nn.RNN, {"nonlinearity": "tanh"}, cells.Elman, {"activation": "tanh"}),
    "RNN relu": TorchLayer(nn.RNN, {"nonlinearity": "relu"}, cells.Elman, {"activation": "relu"}),
    "LSTM": TorchLayer(nn.LSTM, {}, cells.LSTM, {}),
    "GRU": TorchLayer(nn.GRU, {}, cells.GRU, {}),
}

STATE_NAMES = ("h", "c")


def named_state(state: State, suffix: str) -> dict[str, Tensor]:
    """The tensors of a state as h and c: with ``_0`` before the first step, with ``_n`` after."""
    return {name + suffix: s for name, s in zip(STATE_NAMES, state, strict=False)}


def parameters_by_torch_name(layer: Recurrent) -> dict[str, nn.Parameter]:
    """The parameters of a layer, each under the name it has in ``torch.nn``."""
    named = {}
    for k, cell in enumerate(layer.cells):
        level, direction = divmod(k, layer.directions)
        for name, parameter in cell.named_parameters():
            named[f"{name}_l{level}" + ("_reverse" if direction else "")] = parameter
    return named


def copy_weights(source: nn.RNNBase, target: Recurrent) -> None:
    """Copy every weight of ``source`` into ``target``, whose names and shapes must be the same."""
    given, taken = dict(source.named_parameters()), parameters_by_torch_name(target)
    if shapes(given) != shapes(taken):
        raise AssertionError(f"weights differ: got {shapes(taken)}, expected {shapes(given)}")
    with torch.no_grad():
        for name, parameter in taken.items():
            parameter.copy_(given[name])


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The shape of each tensor by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies that ask for a gradient, so that the two sides share no graph."""
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


def run_torch(
    layer: nn.RNNBase, x: Tensor, state: State | None = None, lengths: list[int] | None = None
) -> dict[str, Tensor]:
    """Outputs, final states and every gradient of a layer of ``torch.nn``, by name.

    ``lengths`` go through ``pack_padded_sequence``, which refuses a length of 0.
    """
    (x,) = leaves(x)
    start = None if state is None else leaves(*state)
    given = None if start is None else start if isinstance(layer, nn.LSTM) else start[0]
    if lengths is None:
        y, final = layer(x, given)
    else:
        first = layer.batch_first
        packed = pack_padded_sequence(x, torch.tensor(lengths), first, enforce_sorted=False)
        packed, final = layer(packed, given)
        y, _ = pad_packed_sequence(packed, first, total_length=x.shape[1 if first else 0])
    final = final if isinstance(final, tuple) else (final,)
    sources = {"x": x} | named_state(start or (), "_0") | dict(layer.named_parameters())
    return collect({"y": y} | named_state(final, "_n"), sources)


def run_recurrent(
    layer: Recurrent, x: Tensor, state: State | None = None, lengths: list[int] | None = None
) -> dict[str, Tensor]:
    """Outputs, final states and every gradient of a ``Recurrent``, under ``torch.nn``'s names."""
    (x,) = leaves(x)
    start = None if state is None else leaves(*state)
    y, final = layer(x, start, lengths=lengths)
    ys = {"y": y} if isinstance(y, Tensor) else {"y": y[0], "y_reverse": y[1]}
    sources = {"x": x} | named_state(start or (), "_0") | parameters_by_torch_name(layer)
    return collect(ys | named_state(final, "_n"), sources)


def run_by_hand(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """``cell`` over time by its contract alone: project, then one step after another."""
    outputs = []
    for projected in cell.project(x):
        state = cell.step(projected, state)
        outputs.append(state[0])
    return torch.stack(outputs), state


class _Call(nn.Module):
    """A call of a module, as the one method that ``functional_call`` can reach."""

    def __init__(self, module: nn.Module, call: Callable[..., object]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _flat(self.call(self.module, *tensors))


def _flat(nested: Any) -> tuple[Tensor, ...]:
    """The tensors of nested tuples, in order."""
    if isinstance(nested, Tensor):
        return (nested,)
    return tuple(tensor for part in nested for tensor in _flat(part))


def as_function(
    module: nn.Module, call: Callable[..., object]
) -> Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """``call(module, *tensors)`` as a function of (parameters, tensors), with a flat result."""
    called = _Call(module, call)
    names = [name for name, _ in called.named_parameters()]

    def function(parameters: tuple[Tensor, ...], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        named = dict(zip(names, parameters, strict=True))
        found: tuple[Tensor, ...] = torch.func.functional_call(called, named, tensors)
        return found

    return function


def check_derivatives(module: nn.Module, call: Callable[..., object], *tensors: Tensor) -> None:
    """Check the first and second derivatives of ``call(module, *tensors)`` by finite differences.

    They are checked in every tensor and in every parameter of ``module``; all are float64.
    """
    function, n = as_function(module, call), len(tensors)
    arguments = leaves(*tensors, *module.parameters())
    torch.autograd.gradcheck(lambda *a: function(a[n:], a[:n]), arguments)
    torch.autograd.gradgradcheck(lambda *a: function(a[n:], a[:n]), arguments)
