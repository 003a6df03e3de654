"""The states of a whole layer as one vector a row, and the influence that is kept of it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.bptt.online.influence import (
    Chunk,
    Influence,
    Scans,
    Tensors,
    by_reference,
    forgotten,
)
from unrolled.cells import Cell, State
from unrolled.layers.recurrent import Recurrent
from unrolled.modules import functional

Parameters = dict[str, Tensor]
Final = Callable[[Parameters, Tensor, Tensor, Tensor], Tensor]


class LayerInfluence(Influence):
    """An influence on the states of all cells as one vector ``[n]`` a row.

    The call itself is the layer's own, by the kernels where they can; ``advance`` then carries the
    influence over the same steps.
    """

    def __init__(self, layer: Recurrent) -> None:
        cells = cast(Sequence[Cell], layer.cells)
        self.kinds = [len(cell.state_sizes) for cell in cells]
        self.sizes = [size for cell in cells for size in cell.state_sizes]
        self.n = sum(self.sizes)
        self.reached = self._reached(layer)
        self.count = sum(shape.numel() for shape in self.reached.values())

    def _reached(self, layer: Recurrent) -> dict[str, torch.Size]:
        """The shapes of the parameters that reach the state, by name; ``read``'s, say, do not."""
        named: Parameters = {n: p for n, p in layer.named_parameters() if p.requires_grad}
        like = next(iter(named.values()))
        with torch.enable_grad():
            final = self.final(layer)(
                named,
                like.new_zeros(1, layer.input_size),
                torch.ones(1, dtype=torch.bool, device=like.device),
                like.new_zeros(self.n),
            )
            gradients: Sequence[Tensor | None] = [None] * len(named)
            if final.requires_grad:
                gradients = torch.autograd.grad(
                    final.sum(), list(named.values()), allow_unused=True
                )
        pairs = zip(named.items(), gradients, strict=True)
        return {name: p.shape for (name, p), gradient in pairs if gradient is not None}

    def parameters(self, layer: Recurrent) -> list[Tensor]:
        named = dict(layer.named_parameters())
        return [named[name] for name in self.reached]

    def final(self, layer: Recurrent) -> Final:
        """The state of a row after a chunk: of (parameters, x ``[T, D]``, resets ``[T]``, ``[n]``)."""

        def run(module: nn.Module, x: Tensor, resets: Tensor, vector: Tensor) -> Tensor:
            own = cast(Recurrent, module)
            parts = iter(torch.split(vector.unsqueeze(0), self.sizes, -1))
            state = own.by_layer([tuple(next(parts) for _ in range(k)) for k in self.kinds])
            _, after = Recurrent.forward(own, x.unsqueeze(1), state, resets=resets.unsqueeze(1))
            return torch.cat([s[0] for scan in own.by_scan(after) for s in scan])

        return functional(by_reference(layer), run)

    def run(
        self, layer: Recurrent, start: Scans, influence: Tensors, chunk: Chunk
    ) -> tuple[Tensor, Scans, Tensors]:
        state = None if chunk.resets[0].all() else layer.by_layer(start)
        y, final = layer(chunk.x, state, resets=chunk.within)
        with torch.no_grad():
            named = {
                n: p.detach() for n, p in zip(self.reached, self.parameters(layer), strict=True)
            }
            left = forgotten(influence, chunk.resets.any(0))
            kept = self.advance(self.final(layer), named, left, chunk)
        return y, tuple(layer.by_scan(final)), kept

    @abstractmethod
    def advance(
        self, final: Final, parameters: Parameters, influence: Tensors, chunk: Chunk
    ) -> Tensors:
        """The influence after ``chunk``."""


def vector(scans: Sequence[State]) -> Tensor:
    """``[B, n]`` of the states of all cells."""
    return torch.cat([s for scan in scans for s in scan], -1)
