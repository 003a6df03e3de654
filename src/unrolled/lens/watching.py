"""Looks on at a backward pass: where the gradient goes, step by step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unrolled.layers.explain import described, recurrent_layers
from unrolled.layers.recurrent import Recurrent
from unrolled.layers.states import Layer, directions
from unrolled.layers.twins import Twin, become_parent, become_twin, why_no_twin
from unrolled.lens.causes import Causes, causes
from unrolled.lens.verdict import judge
from unrolled.shapes import real_steps

if TYPE_CHECKING:
    from unrolled.lens.report import Report

NAMES = {1: ("h",), 2: ("h", "c")}


@dataclass(frozen=True)
class Flow:
    """The gradient that came to one scan of a layer in one call of it.

    ``norms``: by the name of the state tensor ("h", "c"; "s0", "s1", … of cells with more), the 2-norm of
    ∂L/∂state_t of each step and lane, ``[T, B]``; NaN where no gradient came. The tensors of a state count
    as independent: ∂L/∂c_t of an LSTM is what reaches c_t from later steps, not through its own h_t.
    ``real``: which steps are real, ``[T, B]``.
    """

    layer: str
    level: int
    direction: int
    call: int
    norms: dict[str, Tensor] = field(repr=False)
    real: Tensor = field(repr=False)

    @property
    def reached(self) -> bool:
        """Whether a backward pass has come here."""
        return not bool(self.h[self.real].isnan().all()) if bool(self.real.any()) else False

    @property
    def h(self) -> Tensor:
        """The norms of the first state tensor, ``[T, B]``."""
        return next(iter(self.norms.values()))


class Lens:
    """What has been seen: a ``Flow`` for each scan and call, in the order of the calls."""

    def __init__(self, layers: dict[str, Layer], unseen: dict[str, str]) -> None:
        self.layers = layers
        self.unseen = unseen
        """Recurrent layers that cannot be watched, by name, and why."""
        self.flows: list[Flow] = []
        self.inputs: dict[str, tuple[Tensor, Tensor]] = {}
        """What each layer read in its last call, ``[T, B, D]``, and which steps were real, ``[T, B]``."""
        self._calls = dict.fromkeys(layers, 0)

    def _note(
        self,
        name: str,
        k: int,
        shape: tuple[int, int],
        like: Tensor,
        *,
        states: int,
        lengths: Tensor | None,
        mask: Tensor | None,
    ) -> Sequence[Tensor]:
        """Norms to be filled by the backward pass of one scan."""
        steps, lanes = shape
        self._calls[name] += k == 0
        real = torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu()
        if lengths is not None:
            real = real & real_steps(lengths.cpu(), steps)
        norms = [like.new_full((steps, lanes), torch.nan) for _ in range(states)]
        names = NAMES.get(states, tuple(f"s{i}" for i in range(states)))
        if k == 0 and like.dim() == 3:
            self.inputs[name] = (like.detach(), real)
        level, direction = divmod(k, directions(self.layers[name]))
        named = dict(zip(names, norms, strict=True))
        self.flows.append(Flow(name, level, direction, self._calls[name] - 1, named, real))
        return norms

    def report(self, *, steps: int = 64) -> "Report":
        """Where the gradient went, and for each scan a verdict.

        The verdict is on the layer as it is now and on what it read last: one lane, the longest, of at
        most ``steps`` steps is taken apart into Jacobians, whose cost grows as H³.

        Raises:
            RuntimeError: no recurrent layer of the model ran inside the block.
        """
        from unrolled.lens.report import Report, Row, summed_up  # which are built on this module

        if not self.flows:
            names = ", ".join(map(repr, self.layers)) or "none that can be watched"
            raise RuntimeError(
                f"report: no recurrent layer ran inside the block ({names}); call the model there"
            )
        rows = []
        for name in self.layers:
            mine = [flow for flow in self.flows if flow.layer == name]
            found = self._causes(name, steps) if mine else {}
            for place in sorted({(flow.level, flow.direction) for flow in mine}):
                here = [f for f in mine if (f.level, f.direction) == place]
                count = sum(flow.reached for flow in here)
                length = max(len(flow.real) for flow in here)
                verdict = judge(name, found[place], length) if place in found else None
                rows.append(Row(name, *place, count, *summed_up(here), verdict))
        notes = [f"{name or 'layer'} is not watched: {why}" for name, why in self.unseen.items()]
        if not any(flow.reached for flow in self.flows):
            notes.append(
                "no backward pass came through a recurrent layer; call loss.backward() inside"
            )
        return Report(tuple(rows), tuple(notes))

    def _causes(self, name: str, steps: int) -> dict[tuple[int, int], Causes]:
        """The causes in each scan of a layer, by level and direction; none if it had no dense input."""
        if name not in self.inputs:
            return {}
        x, real = self.inputs[name]
        lane = int(real.sum(0).argmax())
        length = min(steps, int(real[:, lane].sum()))
        if not length:
            return {}
        layer = self.layers[name]
        part = x[real[:, lane].to(x.device), lane : lane + 1][:length]
        found = causes(layer, part.transpose(0, 1) if layer.batch_first else part)
        return {(c.level, c.direction): c for c in found}


@contextmanager
def watch(model: nn.Module) -> Iterator[Lens]:
    """Inside, every backward pass through the recurrent layers of ``model`` is looked on at.

    For every layer, direction, call and time step the norm of ∂L/∂h_t (and ∂L/∂c_t), written by the
    kernels' own backward pass. Layers of ``torch.nn`` are run as their twins inside. What is computed
    stays the same; afterwards the model is as it was.

        >>> import torch, unrolled
        >>> layer = unrolled.LSTM(3, 5)
        >>> with unrolled.watch(layer) as lens:
        ...     layer(torch.randn(7, 2, 3))[0][-1].sum().backward()
        >>> lens.flows[0].norms["h"].shape
        torch.Size([7, 2])

    Args:
        model: with recurrent layers: ``Recurrent``, the twins, or those of ``torch.nn``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: it holds no recurrent layer, or is being watched already.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    found = dict(recurrent_layers(model))
    if not found:
        raise ValueError(f"model: got {type(model).__name__}, which holds no recurrent layer")
    layers: dict[str, Layer] = {}
    unseen: dict[str, str] = {}
    swapped: list[nn.RNNBase] = []
    for name, layer in found.items():
        reason = None
        if not isinstance(layer, Recurrent | Twin):
            reason = why_no_twin(layer)
        if isinstance(layer, nn.RNNBase) and layer.proj_size:
            reason = f"proj_size is {layer.proj_size}: torch.nn runs it"
        if reason is not None or not isinstance(layer, Recurrent | nn.RNNBase):
            unseen[name] = f"{described(layer)}: {reason}"
        elif getattr(layer, "watcher", None) is not None:
            raise ValueError(f"model: layer {name!r} is watched already; leave that block first")
        else:
            layers[name] = layer
    lens = Lens(layers, unseen)
    try:
        for name, layer in layers.items():
            if not isinstance(layer, Recurrent | Twin):
                become_twin(layer)
                swapped.append(layer)
            vars(layer)["watcher"] = partial(lens._note, name)
        yield lens
    finally:
        for layer in layers.values():
            vars(layer).pop("watcher", None)
        for layer in swapped:
            if isinstance(layer, Twin):
                become_parent(layer)
