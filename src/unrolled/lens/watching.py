"""Looks on at the passes through a model: where the gradient goes, step by step, and where it breaks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unrolled.layers.explain import described, recurrent_layers
from unrolled.layers.recurrent import Recurrent
from unrolled.layers.states import Layer, directions
from unrolled.layers.twins import Twin, become_parent, become_twin, why_no_twin
from unrolled.lens.breaks import Broken, broken_backward, first_broken
from unrolled.lens.causes import PROBES, WIDE, causes_of
from unrolled.lens.recurrence import Recurrence, recurrences
from unrolled.lens.spikes import Clipping, Spike, spike_of
from unrolled.lens.verdict import judge
from unrolled.shapes import real_steps

if TYPE_CHECKING:
    from unrolled.lens.report import Report, View
    from unrolled.lens.verdict import Verdict

NAMES = {1: ("h",), 2: ("h", "c")}
UNTOUCHED = -1.0  # which no norm is


@dataclass(slots=True, eq=False)
class Flow:
    """The gradient that came to one scan of a layer in one call of it."""

    layer: str
    level: int
    direction: int
    call: int
    """Of the layer, from 0."""
    turn: int
    """Of the model, from 0: another begins with the first call after a backward pass."""
    shape: tuple[int, int]
    """T, B."""
    written: Sequence[Tensor] = field(repr=False)
    """What the backward pass writes, for each tensor of the state: ``norms``, or below 0."""
    lengths: Tensor | None = field(default=None, repr=False)
    mask: Tensor | None = field(default=None, repr=False)
    version: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.version = self.written[0]._version

    @property
    def norms(self) -> dict[str, Tensor]:
        """The 2-norm of ∂L/∂state_t of each step and lane, ``[T, B]``; NaN where no gradient came.

        By the name of the state tensor: "h", "c"; "s0", "s1", … of cells with more. They count as
        independent: ∂L/∂c_t of an LSTM is what reaches c_t from later steps, not through its own h_t.
        """
        count = len(self.written)
        names = NAMES.get(count, tuple(f"s{i}" for i in range(count)))
        came = [torch.where(norm < 0, torch.nan, norm) for norm in self.written]
        return dict(zip(names, came, strict=True))

    @property
    def h(self) -> Tensor:
        """The norms of the first state tensor, ``[T, B]``."""
        return next(iter(self.norms.values()))

    @property
    def real(self) -> Tensor:
        """Which steps are real, ``[T, B]``."""
        real = torch.ones(self.shape, dtype=torch.bool) if self.mask is None else self.mask.cpu()
        if self.lengths is not None:
            real = real & real_steps(self.lengths.cpu(), self.shape[0])
        return real

    @property
    def is_written(self) -> bool:
        """Whether a backward pass has written anything here."""
        return self.written[0]._version > self.version

    @property
    def reached(self) -> bool:
        """Whether a backward pass has come here."""
        return not bool((self.written[0].cpu()[self.real] < 0).all())


class _Eye:
    """A layer's ``scan.Watcher``: tells ``lens`` what happens in the layer ``name``."""

    def __init__(self, lens: "Lens", name: str, layer: Layer) -> None:
        self.lens, self.name, self.directions = lens, name, directions(layer)
        self.calls = 0

    def begins(
        self,
        k: int,
        shape: tuple[int, int],
        like: Tensor,
        *,
        states: int,
        lengths: Tensor | None,
        mask: Tensor | None,
    ) -> Sequence[Tensor]:
        if k == 0:
            self.calls += 1
            self.lens.begin()
        norms = like.new_full((states, *shape), UNTOUCHED).unbind()
        level, direction = divmod(k, self.directions)
        place = (self.name, level, direction, self.calls - 1, self.lens.turn)
        flow = Flow(*place, shape, norms, lengths, mask)
        self.lens.flows.append(flow)
        if k == 0:
            self.lens.inputs[self.name] = (like.detach(), flow)
        return norms

    def ends(self, k: int, y: Tensor) -> None:
        if self.lens.broken_forward is not None or _is_wrapped(y):
            return
        # A sum is far quicker than a look at each number; one of finite numbers may overflow.
        if not math.isfinite(y.sum().item()) and not y.isfinite().all():
            flow = next(f for f in reversed(self.lens.flows) if f.layer == self.name)
            assert flow.level * self.directions + flow.direction == k
            self.lens.broken_forward = first_broken(flow, y.detach())


class Lens:
    """What has been seen: a ``Flow`` for each scan and call, in the order of the calls."""

    def __init__(self, layers: dict[str, Layer], unseen: dict[str, str]) -> None:
        self.layers = layers
        self.unseen = unseen
        """Recurrent layers that cannot be watched, by name, and why."""
        self.flows: list[Flow] = []
        self.inputs: dict[str, tuple[Tensor, Flow]] = {}
        """What each layer read in its last call, ``[T, B, D]`` or packed rows of it, and its flow."""
        self.turn = 0
        self.broken_forward: Broken | None = None
        self._clips: list[tuple[float, float, Spike | None]] = []
        self._clipped_flows = 0  # of those in ``flows``: what a clip was told of already
        self._turn_flows = 0  # those before this turn

    def begin(self) -> None:
        """A layer is called: in this turn, or if gradients have come to it, in the next."""
        ends = self.flows[self._turn_flows :: max(1, len(self.flows) - self._turn_flows - 1)]
        if any(flow.is_written for flow in ends):  # the first, and the last
            self.turn += 1
            self._turn_flows = len(self.flows)

    def broken(self) -> Broken | None:
        """Where NaN or an infinity came up first: in the first pass forward, or backward, that had one.

        ``None`` if all was finite. Forward it is seen in the states, whose first step is named; backward,
        whose last: the gradient comes from there. What is put in by the loss, or is not finite in x and
        does not come through to a state, is seen where it arrives.
        """
        backward = broken_backward(self.flows)
        forward = self.broken_forward
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
            ...     lens.clipped(remedies.clip_norm(layer.parameters(), 1.0), 1.0)
            >>> lens.clipping().calls
            1

        Args:
            norm: as ``remedies.clip_norm``, ``AutoClip`` and ``torch.nn.utils.clip_grad_norm_`` return it.
            bound: above 0; infinity if it cannot be exceeded.

        Raises:
            TypeError, ValueError: ``bound`` is no number above 0, or ``norm`` none from 0 up.
        """
        length = norm.item() if isinstance(norm, Tensor) and norm.numel() == 1 else norm
        for name, value in (("norm", length), ("bound", bound)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: got {value!r}, expected a number")
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

    def report(self, *, steps: int = 64, views: bool = True) -> "Report":
        """Where the gradient went, and for each scan a verdict.

        The verdict is on the layer as it is now and on what it read last: one lane, the longest, of at
        most ``steps`` steps is taken apart into Jacobians. Where the state is wider than 256, the growth
        is measured in 32 random directions (the same at every call), in place of all. Without ``views``
        there is less to show on a page, for half the time.

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
            found = self._seen(name, steps, views) if mine else {}
            for place in sorted({(flow.level, flow.direction) for flow in mine}):
                here = [f for f in mine if (f.level, f.direction) == place]
                count = sum(flow.reached for flow in here)
                rows.append(
                    Row(name, *place, count, *summed_up(here), *found.get(place, (None, None)))
                )
        notes = [f"{name or 'layer'} is not watched: {why}" for name, why in self.unseen.items()]
        if not any(flow.reached for flow in self.flows):
            notes.append(
                "no backward pass came through a recurrent layer; call loss.backward() inside"
            )
        return Report(tuple(rows), tuple(notes), self.broken(), self.clipping())

    def _seen(
        self, name: str, steps: int, views: bool
    ) -> "dict[tuple[int, int], tuple[Verdict | None, View | None]]":
        """The verdict on each scan of a layer, by level and direction, and what there is to show of it."""
        from unrolled.lens.report import view_of

        x, flow = self.inputs[name]
        real = flow.real
        if not real.any():
            return {}
        lane = int(real.sum(0).argmax())
        length = min(steps, int(real[:, lane].sum()))
        layer = self.layers[name]
        if x.dim() == 2:  # packed rows
            x = x.new_zeros(*flow.shape, x.shape[1]).index_put_(tuple(real.nonzero().T), x)
        part = x[real[:, lane].to(x.device), lane : lane + 1][:length]
        seen: dict[tuple[int, int], tuple[Verdict | None, View | None]] = {}
        for scan in recurrences(layer, part.transpose(0, 1) if layer.batch_first else part):
            if not _is_finite(scan):
                continue
            found = causes_of(scan, probes=PROBES if scan.width > WIDE else None)
            verdict = judge(name, found, flow.shape[0])
            view = view_of(scan, found) if views else None
            seen[scan.level, scan.direction] = verdict, view
        return seen


def _is_finite(scan: Recurrence) -> bool:
    """Whether its Jacobians can be: of what it reads, of its states and of its weights."""
    numbers = (scan.x, scan.projected, *scan.states, *scan.cell.parameters())
    return all(bool(t.isfinite().all()) for t in numbers)


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether ``tensor`` stands for others, of ``torch.func``: its numbers cannot be looked at."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


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
            vars(layer)["watcher"] = _Eye(lens, name, layer)
        yield lens
    finally:
        for layer in layers.values():
            vars(layer).pop("watcher", None)
        for layer in swapped:
            if isinstance(layer, Twin):
                become_parent(layer)
