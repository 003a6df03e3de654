"""Watches the passes through a model: where the gradient goes, step by step, and where it breaks."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from unrolled.cells import State
from unrolled.layers.finding import (
    NOT_SWAPPED,
    Layer,
    adapted,
    described,
    layer_of,
    layers_in,
    why_no_drop_in,
)
from unrolled.layers.torch_layers import TorchLayer, become_drop_in, become_parent
from unrolled.lens.breaks import Broken, broken_backward, first_broken
from unrolled.lens.examining import examined
from unrolled.lens.flow import Flow, underflowed, version_of
from unrolled.lens.report import Report, Row, summed_up
from unrolled.lens.spikes import Clipping, Spike, spike_of
from unrolled.scan import ScanOptions
from unrolled.shapes import check_real, check_size

UNTOUCHED = -1.0  # which no norm is


class _Eye:
    """A layer's ``scan.Watcher``: tells ``lens`` what happens in the layer ``name``."""

    def __init__(self, lens: "Lens", name: str, layer: Layer) -> None:
        self.lens, self.name, self.directions = lens, name, adapted(layer).directions
        self.calls = 0

    def begins(
        self, k: int, x: Tensor, state: State | None, options: ScanOptions, *, states: int
    ) -> Sequence[Tensor]:
        lens, lengths, packed = self.lens, options.lengths, options.batch_sizes
        shape = (x.shape[0], x.shape[1])
        if packed is not None:
            shape = (len(packed), int(packed[0]))
            lengths = (packed.unsqueeze(1) > torch.arange(shape[1], device="cpu")).sum(0)
        norms = x.new_full((states, *shape), UNTOUCHED).unbind()
        if _is_wrapped(x):
            lens.unseen[self.name] = "in a call inside torch.func, or without numbers"
            return norms
        if k == 0:
            self.calls += 1
            lens._begin()
            lens._inputs[self.name] = (x.detach(), version_of(x))
        level, direction = divmod(k, self.directions)
        place = (self.name, level, direction, self.calls - 1, lens._turn)
        start = None if state is None else tuple(s.detach() for s in state)
        masks = (lengths, options.mask, options.resets)
        lens.flows.append(Flow(*place, shape, norms, start, *masks))
        return norms

    def ends(self, k: int, y: Tensor) -> None:
        if self.lens._broken_forward is not None or _is_wrapped(y):
            return
        # A sum is far quicker than a look at each number; one of finite numbers may overflow.
        if not math.isfinite(y.sum().item()) and not y.isfinite().all():
            flow = next(f for f in reversed(self.lens.flows) if f.layer == self.name)
            assert flow.level * self.directions + flow.direction == k
            self.lens._broken_forward = first_broken(flow, y.detach())

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the layer is not watched."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


class Lens:
    """What has been seen: a ``Flow`` for each scan and call, in the order of the calls."""

    def __init__(self, layers: dict[str, Layer], unseen: dict[str, str]) -> None:
        self.layers = layers
        self.unseen = unseen
        """Recurrent layers that cannot be watched, or not in every call, by name, and why."""
        self.flows: list[Flow] = []
        self._inputs: dict[str, tuple[Tensor, int]] = {}
        """What each layer read in its last call, ``[T, B, D]`` or packed rows of it, and its version."""
        self._turn = 0
        self._broken_forward: Broken | None = None
        self._clips: list[tuple[float, float, Spike | None]] = []
        self._clipped_flows = 0  # of those in ``flows``: what a clip was told of already
        self._turn_flows = 0  # those before this turn

    def _begin(self) -> None:
        """A layer is called: in this turn, or if gradients have come to it, in the next."""
        flows, first = self.flows, self._turn_flows
        if first < len(flows) and (flows[-1].is_written or flows[first].is_written):
            self._turn += 1
            self._turn_flows = len(flows)

    def read_by(self, name: str) -> Tensor | None:
        """What a layer read at the real steps of its last call, ``[R, D]``; ``None`` if it did not run."""
        if name not in self._inputs:
            return None
        x, _ = self._inputs[name]
        flow = next(f for f in reversed(self.flows) if f.layer == name)
        return x if x.dim() == 2 else x[flow.real.to(x.device)]  # packed rows are all real

    def broken(self) -> Broken | None:
        """Where NaN or an infinity came up first: in the first pass forward, or backward, that had one.

        ``None`` if all was finite. Forward it is seen in the states, whose first step is named; backward,
        whose last: the gradient comes from there. What is put in by the loss, or is not finite in x and
        does not come through to a state, is seen where it arrives.
        """
        backward = broken_backward(self.flows)
        forward = self._broken_forward
        if forward is None or (backward is not None and backward.turn < forward.turn):
            return backward
        return forward

    def clipped(self, norm: Tensor | float, bound: float) -> None:
        """Tell the lens that the gradient was clipped: its ``norm`` before, and the ``bound``.

        Call it after every backward pass, whether or not the norm was above the bound: the report then
        says how often clipping acts, by how much, and which step and lag the gradient was longest at.

            >>> import torch, unrolled
            >>> from unrolled import remedies
            >>> layer = unrolled.GRU(3, 5)
            >>> with unrolled.watch(layer) as lens:
            ...     layer(torch.randn(7, 2, 3))[0].sum().backward()
            ...     lens.clipped(remedies.clip_norm_(layer.parameters(), 1.0), 1.0)
            >>> lens.clipping().calls
            1

        Args:
            norm: as ``remedies.clip_norm_``, ``AutoClip`` and ``torch.nn.utils.clip_grad_norm_`` return it.
            bound: above 0; infinity if it cannot be exceeded.

        Raises:
            TypeError, ValueError: ``bound`` is no number above 0, or ``norm`` none from 0 up.
        """
        length = norm.item() if isinstance(norm, Tensor) and norm.numel() == 1 else norm
        for name, value in (("norm", length), ("bound", bound)):
            check_real(name, value)
            if isinstance(value, int) and value > sys.float_info.max:
                raise ValueError(f"{name}: got a number beyond every float, expected one within")
        assert isinstance(length, int | float)
        if not bound > 0:
            raise ValueError(f"bound: got {bound}, expected a number above 0")
        if length < 0:
            raise ValueError(f"norm: got {length}, expected a number from 0 up")
        since, self._clipped_flows = self._clipped_flows, len(self.flows)
        spike = spike_of(self.flows[since:]) if length > bound else None
        self._clips.append((length, bound, spike))

    def clipping(self) -> Clipping | None:
        """What ``clipped`` was told; ``None`` if nothing."""
        return Clipping.of(self._clips) if self._clips else None

    def report(self, *, steps: int = 64, views: bool = True, lag: int | None = None) -> Report:
        """Where the gradient went, and for each scan a verdict.

        The verdict is on the layer as it is now, and on its last call: of the longest stretch of one
        sequence without a reset at most ``steps`` steps are taken apart into Jacobians, as in evaluation,
        from the state that the call was given. Where the state is wider than 256, the growth is measured in
        32 random directions (the same at every call), in place of all. Without ``views`` there is less to
        show on a page, for less time. With ``lag``, the longest dependency that the task has, in steps, a
        gradient need not reach back farther: the verdict is on so many steps.

        Raises:
            RuntimeError: no recurrent layer of the model ran inside the block.
            TypeError, ValueError: ``steps`` is no whole number from 2 up, or ``lag`` from 1.
        """
        check_size("steps", steps, least=2)
        if lag is not None:
            check_size("lag", lag)
        notes = [f"{name or 'layer'} is not watched: {why}" for name, why in self.unseen.items()]
        if not self.flows:
            names = ", ".join(map(repr, self.layers)) or "; ".join(notes)
            raise RuntimeError(
                f"report: no recurrent layer ran inside the block ({names}); call the model there, and "
                "not a compiled one, which is not watched"
            )
        rows = []
        for name, layer in self.layers.items():
            mine = [flow for flow in self.flows if flow.layer == name]
            if not mine:
                notes.append(f"{name or 'layer'} did not run inside the block")
                continue
            last = {(f.level, f.direction): f for f in mine if f.call == mine[-1].call}
            x, version = self._inputs[name]
            if version_of(x) > version:
                notes.append(f"{name or 'layer'} is not judged: what it read was overwritten since")
                judged = {}
            else:
                judged = examined(layer, x, last, steps, views, lag)
            for place in sorted({(flow.level, flow.direction) for flow in mine}):
                here = [f for f in mine if (f.level, f.direction) == place]
                count = sum(flow.reached for flow in here)
                verdict, view = judged.get(place, (None, None))
                norms, spread = summed_up(here)
                dtype = here[-1].h.dtype
                least = torch.finfo(dtype).tiny
                small = sum(underflowed(norms.tolist(), least))
                if verdict is not None and small:
                    said = f"{verdict.evidence}; {_too_small(small, len(norms), dtype)}"
                    verdict = replace(verdict, evidence=said)
                rows.append(Row(name, *place, count, norms, spread, verdict, view, least))
        if not any(flow.reached for flow in self.flows):
            notes.append(
                "no backward pass came through a recurrent layer; call loss.backward() inside"
            )
        return Report(tuple(rows), tuple(notes), self.broken(), self.clipping())


def _too_small(count: int, steps: int, dtype: torch.dtype) -> str:
    """That a gradient has underflowed, in words."""
    name = str(dtype).removeprefix("torch.")
    return f"underflow: too small for {name} at {count} of {steps} steps"


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether ``tensor`` stands for others, of ``torch.func``, or for none: it cannot be looked at."""
    return tensor.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@contextmanager
def watch(model: nn.Module) -> Iterator[Lens]:
    """Inside, every backward pass through the recurrent layers of ``model`` is watched.

    For every layer, direction, call and time step the norm of ∂L/∂h_t (and ∂L/∂c_t), written by the
    kernels' own backward pass. Layers of ``torch.nn`` are run as drop-in layers inside, which round
    otherwise; of all others what is computed stays the same, to the bit. Afterwards the model is as it was.

    A flow is kept for every call, so that a long loop is better watched now and then. A compiled model
    is not watched, and one model is to be watched in one thread. On a GPU each scan waits for the device.

        >>> import torch, unrolled
        >>> layer = unrolled.LSTM(3, 5)
        >>> with unrolled.watch(layer) as lens:
        ...     layer(torch.randn(7, 2, 3))[0][-1].sum().backward()
        >>> lens.flows[0].norms["h"].shape
        torch.Size([7, 2])

    Args:
        model: with recurrent layers: ``Recurrent``, the drop-in layers, or those of ``torch.nn``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: it holds no recurrent layer, or is being watched already.
    """
    layers: dict[str, Layer] = {}
    unseen: dict[str, str] = {}
    swapped: list[tuple[nn.RNNBase, type]] = []
    for name, layer in layers_in(model).items():
        recurrent = layer_of(layer)
        reason = why_no_drop_in(layer) if recurrent is None else recurrent.why_unwatched()
        if reason == NOT_SWAPPED:
            reason = None  # it is, inside
        if next(layer.parameters()).is_complex():
            reason = "its weights are complex"
        if reason is not None:
            unseen[name] = f"{described(layer)}: {reason}"
        elif getattr(layer, "watcher", None) is not None:
            raise ValueError(f"model: layer {name!r} is watched already; leave that block first")
        else:
            layers[name] = cast(Layer, layer)
    lens = Lens(layers, unseen)
    try:
        for name, layer in layers.items():
            if not adapted(layer).masks:
                swapped.append((cast(nn.RNNBase, layer), type(layer)))
                become_drop_in(cast(nn.RNNBase, layer))
            vars(layer)["watcher"] = _Eye(lens, name, layer)
        yield lens
    finally:
        for layer in layers.values():
            vars(layer).pop("watcher", None)
        for layer, kind in swapped:
            become_parent(cast(TorchLayer, layer))
            layer.__class__ = kind  # of a parametrised layer it would be a new one
