"""Which path runs, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.cells import Cell, State
from unrolled.layers.recurrent import Recurrent
from unrolled.layers.torch_layers import (
    Hidden,
    TorchLayer,
    check_kinds,
    unsupported_reasons,
    weights_of,
    why_no_drop_in,
)
from unrolled.scan import native, reasons_of_resets
from unrolled.scan.computed import settled
from unrolled.shapes import Lengths, check_module

Path = Literal["native", "reference", "refused"]
_NAMES = ("RNN", "LSTM", "GRU")


@dataclass(frozen=True)
class Explanation:
    """Which path a recurrent layer takes, and why.

    As text it is some lines, in which the word "native" occurs exactly if a kernel runs.
    """

    layer: str
    """The layer and its sizes."""
    path: Path
    """"native" or "reference"; "refused" where ``backend="native"`` raises. For a model: "native" if
    every recurrent layer inside is, "refused" if any is."""
    reasons: tuple[str, ...] = ()
    """Why the path is not the native one, a line each."""
    instruction_set: str | None = None
    """What the kernel is compiled for; ``None`` if no kernel runs."""
    threads: int | None = None
    """How many the kernel uses at most; ``None`` if no kernel runs."""
    parts: Mapping[str, "Explanation"] = field(default_factory=dict)
    """For a model: every recurrent layer inside, by its name. Empty for a layer."""

    def __str__(self) -> str:
        if self.parts:
            return "\n".join(f"{name}: {part}" for name, part in self.parts.items())
        facts = list(self.reasons)
        if self.path == "native":
            facts = [f"instruction set: {self.instruction_set}", f"threads: {self.threads}"]
        return "\n  ".join([f"{self.layer}: {self.path}", *facts])


def explain(
    module: nn.Module,
    x: Tensor | PackedSequence | None = None,
    hx: Hidden | None = None,
    *,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    mask: Tensor | None = None,
) -> Explanation:
    """Which path ``module(x, hx)`` takes, and why it is not the native one.

    Nothing is run, and nothing compiled: a cell of one's own is at its first call.

        >>> import torch
        >>> from unrolled import layers
        >>> print(layers.explain(torch.nn.GRU(3, 5)))
        torch.nn.GRU(3, 5): reference
          it is not swapped; unrolled.accelerate(model) does it

    Args:
        module: a recurrent layer: a drop-in layer, ``Recurrent``, or one of ``torch.nn``; or a model, whose
            recurrent layers are explained one by one.
        x: the layer's input; by default any of the dtype and device of its weights.
        hx: the layer's state before the first step, if there is one.
        lengths: as ``Recurrent`` and the drop-in layers take them.
        resets: likewise.
        mask: as ``Recurrent`` takes it.

    Raises:
        TypeError, ValueError: the layer does not take such arguments; or ``module`` is a model, and
            there are arguments, or no recurrent layer inside.
    """
    check_module("module", module)
    kind = type(module).__name__
    for name, given in (("lengths", lengths), ("resets", resets), ("mask", mask)):
        if given is not None and not isinstance(module, Recurrent):
            if not isinstance(module, TorchLayer):
                raise TypeError(f"{name}: got them for {kind}, but only Recurrent takes them")
            if name == "mask":
                raise TypeError(f"mask: got one for {kind}, but only Recurrent takes it")
    if isinstance(module, Recurrent | TorchLayer):
        reasons = unsupported_reasons_of(module, x, hx, lengths, resets, mask)
        if module.backend == "reference":
            reasons = ['backend="reference" is set']
        return _explanation(module, reasons, required=module.backend == "native")
    if is_recurrent(module):
        advice = "it is not swapped; unrolled.accelerate(model) does it"
        return _explanation(module, [why_no_drop_in(module) or advice])
    if x is not None or hx is not None:
        raise TypeError(
            f"x, hx: got them for {kind}, but only a recurrent layer takes them; "
            "name one inside, as in explain(model.encoder, x)"
        )
    parts = {name: explain(layer) for name, layer in recurrent_layers(module)}
    if not parts:
        raise ValueError(f"module: got {kind}, which holds no recurrent layer")
    paths = [part.path for part in parts.values()]
    path = max(paths, key=("native", "reference", "refused").index)
    reasons = [f"{name}: {why}" for name, part in parts.items() for why in part.reasons]
    return Explanation(kind, path, tuple(reasons), parts=parts)


def unsupported_reasons_of(
    layer: Recurrent | TorchLayer,
    x: Tensor | PackedSequence | None = None,
    hx: Hidden | None = None,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    mask: Tensor | None = None,
) -> list[str]:
    """Every reason why ``layer`` cannot take the native path."""
    if isinstance(layer, TorchLayer):
        if x is not None:
            check_kinds(layer, x, hx)
            if lengths is not None or resets is not None:
                layer.checked(x, lengths, resets)
        return unsupported_reasons(layer, weights_of(settled(layer)), x, hx)
    held = (*layer.parameters(), *layer.buffers())
    tensors: list[Tensor] = [tensor for tensor in held if tensor.is_floating_point()]
    if x is not None:
        given = (cast(State | None, hx), lengths, resets, mask)
        x, state, *_ = layer.checked(cast(Tensor, x), *given)
        tensors = [x, *tensors, *(state or ())]
    missing = native.missing()
    reasons = [] if missing is None else [missing]
    dtype = tensors[0].dtype if tensors else torch.get_default_dtype()
    for cell in cast(Sequence[Cell], layer.cells):
        if missing is None:
            reasons += native.reasons_of_cell(settled(cell), dtype, compiled=False)
        reasons += reasons_of_resets(cell, resets)
    return reasons + (native.reasons_of_tensors(*tensors) if tensors else [])


def _explanation(
    layer: nn.Module, reasons: Sequence[str], *, required: bool = False
) -> Explanation:
    """The native path, unless there is a reason against it."""
    if reasons:
        path: Path = "refused" if required else "reference"
        return Explanation(described(layer), path, tuple(dict.fromkeys(reasons)))
    return Explanation(
        described(layer),
        "native",
        instruction_set=native.instruction_set(),
        threads=native.threads(),
    )


def is_recurrent(module: nn.Module) -> bool:
    """Whether ``module`` is a recurrent layer: a drop-in layer, ``Recurrent``, or PyTorch's in any form."""
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in _NAMES
    if type(module).__module__.startswith("torch.ao."):
        return type(module).__name__ in _NAMES
    return isinstance(module, nn.RNNBase | Recurrent)


def recurrent_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The recurrent layers in ``model``, itself included, by name; a shared one once."""
    return ((name, module) for name, module in model.named_modules() if is_recurrent(module))


def described(layer: nn.Module) -> str:
    """``layer`` and its sizes in one line."""
    kind = type(layer)
    if isinstance(layer, nn.RNNBase):
        owner = "unrolled." if isinstance(layer, TorchLayer) else ""
        owner = "torch.nn." if kind in (nn.RNN, nn.LSTM, nn.GRU) else owner
        return f"{owner}{kind.__name__}({nn.RNNBase.extra_repr(layer)})"
    if isinstance(layer, Recurrent):
        sizes = layer.extra_repr().partition(", backend=")[0]
        return f"Recurrent({type(layer.cells[0]).__name__}, {sizes})"
    return str(getattr(layer, "original_name", kind.__name__))
