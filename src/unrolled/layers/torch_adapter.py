"""Layers in the form of ``torch.nn``, drop-in or not: their weights and kernels, as ``RecurrentLayer``."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled import cells
from unrolled.cells import Cell, Elman, GatedCell, State
from unrolled.layers.base import SET_ASIDE, Hidden
from unrolled.layers.recurrent import Recurrent
from unrolled.scan import Backend, native
from unrolled.scan.hooks import computed, settled
from unrolled.scan.native.calls import StepKernel, Weights
from unrolled.shapes import Lengths, Shape, check_dense, check_flags, check_lengths

Groups = list[list[Tensor]]

MODES: dict[str, tuple[type[GatedCell], str]] = {
    "RNN_TANH": (Elman, "tanh"),
    "RNN_RELU": (Elman, "relu"),
    "LSTM": (cells.LSTM, ""),
    "GRU": (cells.GRU, ""),
}
"""For each ``mode`` of ``torch.nn``: the cell, and an Elman cell's activation."""
KERNELS = {mode: "_".join(filter(None, (str(c.kernel), f))) for mode, (c, f) in MODES.items()}


class TorchAdapter:
    """A layer of ``torch.nn``, or one that drops in for it, as ``RecurrentLayer``.

    It is no part of the layer, which may have attributes of its owner's, of any name.

    Args:
        layer: the layer.
        refusal: why one of ``torch.nn`` itself runs no kernel; ``None`` of a drop-in layer.
    """

    arguments = ("input", "hx")
    starts_at_zero = True
    is_chained = True

    def __init__(self, layer: nn.RNNBase, refusal: str | None = None) -> None:
        self.layer = layer
        self.refusal = refusal
        self.input_size, self.depth = layer.input_size, layer.num_layers
        self.directions = 2 if layer.bidirectional else 1
        self.output_size = self.directions * (layer.proj_size or layer.hidden_size)
        self.batch_first = layer.batch_first

    @property
    def module(self) -> nn.RNNBase:
        return self.layer

    @property
    def backend(self) -> Backend:
        return cast(Backend, self.layer.backend) if self.refusal is None else "reference"

    @property
    def masks(self) -> frozenset[str]:
        return frozenset(("lengths", "resets") if self.refusal is None else ())

    def described(self) -> str:
        kind = type(self.layer)
        owner = "unrolled." if self.refusal is None else ""
        owner = "torch.nn." if kind in (nn.RNN, nn.LSTM, nn.GRU) else owner
        return f"{owner}{kind.__name__}({nn.RNNBase.extra_repr(self.layer)})"

    def state_shapes(self, batch_size: int) -> list[Shape]:
        layer, rows = self.layer, self.depth * self.directions
        output = layer.proj_size or layer.hidden_size
        widths = (output, layer.hidden_size) if layer.mode == "LSTM" else (output,)
        return [(rows, batch_size, width) for width in widths]

    def fresh_state(self, batch_size: int, like: Tensor) -> State:
        return tuple(like.new_zeros(shape) for shape in self.state_shapes(batch_size))

    def as_given(self, state: Sequence[Tensor]) -> Any:
        return tuple(state) if self.layer.mode == "LSTM" else state[0]

    def fresh_scan(self, batch_size: int, like: Tensor) -> State:
        """The state in which so many sequences begin, of one scan: ``[B, H]`` each."""
        return tuple(like.new_zeros(shape[1:]) for shape in self.state_shapes(batch_size))

    def by_layer(self, scans: Sequence[State]) -> State:
        if len(scans) == 1:
            return tuple(s.unsqueeze(0) for s in scans[0])
        return tuple(torch.stack(tensors) for tensors in zip(*scans, strict=True))

    def by_scan(self, state: Sequence[Tensor]) -> list[State]:
        return list(zip(*(s.unbind(0) for s in state), strict=True))

    def joined(
        self,
        level: int,  # noqa: ARG002, all levels are alike
        outputs: Sequence[Tensor],
        read: Sequence[Tensor],  # noqa: ARG002
    ) -> list[Tensor]:
        return [outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), -1)]

    def as_recurrent(self) -> Recurrent:
        layer = self.layer
        kernel = KERNELS[layer.mode]
        count = 4 if layer.bias else 2  # without that of a ``proj_size``
        groups = [as_weights(group[:count]) for group in weights_of(layer)]
        made = iter([native.cell_over(kernel, weights) for weights in groups])
        recurrent = Recurrent(
            cast(Callable[..., Cell], lambda *_: next(made)),
            layer.input_size,
            layer.hidden_size,
            depth=self.depth,
            bidirectional=layer.bidirectional,
            backend=getattr(layer, "backend", "auto"),
        )
        return recurrent.train(layer.training)

    def unsupported_reasons(
        self,
        x: Any = None,
        state: Any = None,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        mask: Tensor | None = None,  # noqa: ARG002, such a layer takes none
    ) -> list[str]:
        if self.refusal is not None:
            return [self.refusal]
        if x is not None:
            check_kinds(self.layer, x, state)
            if lengths is not None or resets is not None:
                checked_masks(self.layer, x, lengths, resets)
        if self.backend == "reference":
            return [SET_ASIDE]
        return unsupported_reasons(self.layer, weights_of(settled(self.layer)), x, state)

    def why_unwatched(self) -> str | None:
        if self.layer.proj_size:
            return f"proj_size is {self.layer.proj_size}: torch.nn runs it"
        return self.refusal

    def step_kernels(self) -> list[StepKernel | None]:
        name, units = KERNELS[self.layer.mode], self.layer.hidden_size
        groups = weights_of(computed(self.layer))
        return [StepKernel(name, as_weights(group), units) for group in groups]

    def holders(self) -> Sequence[nn.Module]:
        return [self.layer]


def as_weights(group: Sequence[Tensor | None]) -> Weights:
    """The weights of one sweep, of which there are no biases or all."""
    return Weights(*group, *[None] * (4 - len(group)))


def weights_of(layer: nn.RNNBase) -> Groups:
    """The weights of each sweep, by layer, then direction, as they are at this moment.

    Read by name, since a hook or a parametrization may put another tensor behind it at every call;
    and once a call, since that may be costly or random.
    """
    plain = cast(dict[str, Tensor], layer._parameters)
    return [  # getattr alone is 20 times slower
        [plain[n] if n in plain else getattr(layer, n) for n in names]
        for names in layer._all_weights
    ]


def unsupported_reasons(
    layer: nn.RNNBase,
    weights: Groups,
    x: Tensor | PackedSequence | None = None,
    hx: Hidden | None = None,
) -> list[str]:
    """Why the native path cannot take this call, one line a reason; nothing if it can.

    Without ``x``: why it could not take any.
    """
    reasons = []
    missing = native.missing()
    if missing is not None:
        reasons.append(missing)
    if layer.proj_size:
        reasons.append(f"proj_size is {layer.proj_size}: no kernel has two products in a step")
    tensors = [weight for group in weights for weight in group]
    tensors += as_state(hx)
    if x is not None:
        data = x.data if isinstance(x, PackedSequence) else x
        tensors.insert(0, data)
        if data.dim() == 2 and not data.numel():
            reasons.append(f"input is empty: {list(data.shape)}")
    return reasons + native.reasons_of_tensors(*tensors)


def check_kinds(layer: nn.RNNBase, x: object, hx: object) -> None:
    """Refuse an ``x`` that is no tensor or ``PackedSequence``, and an ``hx`` of the wrong kind.

    Raises:
        TypeError: says what was got, and what was expected.
    """
    if not isinstance(x, Tensor | PackedSequence):
        raise TypeError(
            f"input: got {type(x).__name__}, expected a tensor or a PackedSequence; "
            "make a tensor of it with torch.as_tensor()"
        )
    if isinstance(x, Tensor):
        check_dense("input", x, f"[T, B, {layer.input_size}]")
    if hx is None:
        return
    if layer.mode == "LSTM":
        fits = isinstance(hx, tuple | list) and [isinstance(s, Tensor) for s in hx] == [True, True]
        expected = "a pair of tensors (h_0, c_0)"
    else:
        fits, expected = isinstance(hx, Tensor), "a tensor h_0"
    if not fits:
        got = type(hx).__name__
        if isinstance(hx, tuple | list):
            got += f" of {', '.join(type(s).__name__ for s in hx) or 'nothing'}"
        raise TypeError(f"hx: got {got}, expected {expected}")
    for state in as_state(cast(Hidden, hx)):
        check_dense("hx", state, "[L*S, B, H]")


def checked_masks(
    layer: nn.RNNBase,
    x: Tensor | PackedSequence,
    lengths: Lengths | None,
    resets: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """``lengths`` and ``resets`` ``[T, B]`` as the scans take them, or an error."""
    name = "resets" if resets is not None else "lengths"
    if isinstance(x, PackedSequence):
        raise ValueError(f"{name}: got them with a PackedSequence, expected a tensor [T, B, D]")
    if x.dim() != 3:
        advice = "add the sequence dimension with unsqueeze"
        raise ValueError(f"{name}: got them with input {list(x.shape)}; {advice}")
    if layer.proj_size:
        advice = "use Recurrent with projection="
        raise ValueError(f"{name}: got them with proj_size={layer.proj_size}; {advice}")
    first = layer.batch_first
    steps, batch_size = (x.shape[1], x.shape[0]) if first else x.shape[:2]
    lengths = None if lengths is None else check_lengths(lengths, steps, batch_size)
    if resets is not None:
        resets = check_flags("resets", resets, steps, batch_size, batch_first=first, like=x)
    return lengths, resets


def as_state(hx: Hidden | None) -> Sequence[Tensor]:
    """The tensors of a state as ``torch.nn`` takes it."""
    if hx is None:
        return ()
    return (hx,) if isinstance(hx, Tensor) else hx
