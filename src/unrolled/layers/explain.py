"""Which path runs, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.layers.base import Hidden
from unrolled.layers.finding import (
    described,
    is_recurrent,
    layer_of,
    recurrent_layers,
    why_no_drop_in,
)
from unrolled.scan import native
from unrolled.shapes import Lengths, check_module

Path = Literal["native", "reference", "refused"]


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
    kind, layer = type(module).__name__, layer_of(module)
    for name, given in (("lengths", lengths), ("resets", resets), ("mask", mask)):
        if given is not None and (layer is None or name not in layer.masks):
            got, it = ("one", "it") if layer and layer.masks else ("them", "them")
            raise TypeError(f"{name}: got {got} for {kind}, but only Recurrent takes {it}")
    if layer is not None:
        reasons = layer.unsupported_reasons(x, hx, lengths, resets, mask)
        return _explanation(module, reasons, required=layer.backend == "native")
    if is_recurrent(module):
        return _explanation(module, [why_no_drop_in(module) or ""])
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
        threads=torch.get_num_threads(),
    )
