"""A chain of segments whose gradient is computed from states that were kept, segment by segment.

Nothing but those states stands between the forward and the backward pass, in one block of memory: what
a segment needs for its gradient is made, used and freed before the next one's, so that the memory that
one leaves is what the next one takes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from unrolled.bptt.schedule import Plan, first_part

Parts = Sequence[Tensor]
Run = Callable[[int, Parts, Any], tuple[Parts, Any]]
"""The k-th segment, of its parts of the sequences, from the state that the one before ended with: its
outputs, and the state that it ends with."""


class Block(NamedTuple):
    """``length`` segments from ``first`` on whose gradient is still to come, from the state in ``slot``."""

    first: int
    length: int
    slots: int
    slot: int


class Taken(NamedTuple):
    """A segment that has been run with its graph."""

    parts: Parts
    before: Sequence[Tensor]
    outputs: Parts
    after: Sequence[Tensor]


class Around:
    """What a run reads and changes besides its arguments: the source of chance, and ``buffers``.

    Args:
        device: whose source of chance counts, with that of the CPU.
        buffers: such as the running averages of BatchNorm, and the vectors of ``spectral_norm``.
    """

    def __init__(self, device: torch.device, buffers: Parts = ()) -> None:
        self.device = device
        self.buffers = buffers

    def now(self) -> list[Tensor]:
        """Copies of all as it is now."""
        return [_chance(self.device), *(b.detach().clone() for b in self.buffers)]

    def set(self, values: Parts) -> None:
        """All as ``now`` gave it."""
        chance, *values = values
        _set_chance(chance.clone(), self.device)  # PyTorch crashes on a row of a larger tensor
        for buffer, value in zip(self.buffers, values, strict=True):
            buffer.data.copy_(value)  # by data: a graph that keeps a buffer does not read it again

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Afterwards all is as it was before."""
        before = self.now()
        try:
            yield
        finally:
            self.set(before)


@dataclass
class Chain:
    """Segments one after another.

    ``cuts``: the steps of each, in the order in which they run. ``run``: one of them. ``plan``: which
    states are kept. ``around``: what ``run`` changes besides. ``summed``: whether outputs are added up
    over segments, or each stands for its steps. ``time``: which dimension of the sequences is that of the
    steps; that of the outputs is the first. ``name``: how an error calls ``run``.
    """

    cuts: Sequence[tuple[int, int]]
    run: Run
    plan: Plan
    around: Around
    summed: bool
    time: int = 0
    name: str = "layer"

    def __call__(
        self, parameters: Parts, sequences: Parts, start: Any
    ) -> tuple[tuple[Tensor, ...], Any]:
        """The outputs, and the state at the end.

        Args:
            parameters: every tensor that ``run`` takes from elsewhere and that needs a gradient.
            sequences: cut in time.
            start: the state before the first segment.
        """
        leaves, spec = pytree.tree_flatten(start)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        call = _Call(self, len(parameters), len(sequences), leaves, spec)
        results = _Recomputed.apply(call, *parameters, *sequences, *tensors)  # type: ignore[no-untyped-call]
        assert call.after is not None
        outputs, after = results[: -call.after.num_leaves], results[-call.after.num_leaves :]
        return outputs, pytree.tree_unflatten(after, call.after)


class Kept:
    """States in one block of memory for each of their tensors, with what was around them."""

    def __init__(self, start: Any, count: int, around: Around) -> None:
        self.start, self.count, self.around = start, count, around
        self.before = around.now()
        self.rows: list[Tensor] = []
        self.spec: Any = None
        self.free = list(range(count))

    def put(self, state: Any) -> int:
        """Keep ``state``; the slot that it is in."""
        leaves, self.spec = pytree.tree_flatten(state)
        leaves += self.around.now()
        if not self.rows:
            self.rows = [s.new_empty(self.count, *s.shape) for s in leaves]
        slot = self.free.pop()
        for row, s in zip(self.rows, leaves, strict=True):
            row[slot] = s
        return slot

    def get(self, slot: int) -> Any:
        """The state in ``slot`` (-1: the first), with all around set as it was there."""
        if slot < 0:
            self.around.set(self.before)
            return self.start
        count = self.spec.num_leaves
        self.around.set([row[slot] for row in self.rows[count:]])
        return pytree.tree_unflatten([row[slot].clone() for row in self.rows[:count]], self.spec)

    def drop(self, slot: int) -> None:
        if slot >= 0:
            self.free.append(slot)


class _Call:
    """One use of a chain: what lies between its forward and its backward pass."""

    def __init__(
        self, chain: Chain, parameters: int, sequences: int, start: Sequence[Any], spec: Any
    ) -> None:
        self.chain = chain
        self.counts = (parameters, sequences)
        self.parameters: Parts = ()
        self.sequences: Parts = ()
        self.results: list[Tensor] = []
        self.start = [(None if isinstance(s, Tensor) else s, isinstance(s, Tensor)) for s in start]
        self.spec = spec
        self.after: Any = None
        self.blocks: list[Block] = []
        self.taken: list[Taken] = []
        self.autocast = _autocast(chain.around.device)

    def first(self, tensors: Parts) -> Any:
        """The first state."""
        first_tensors = iter(self.split(tensors)[2])
        leaves = [next(first_tensors) if is_tensor else leaf for leaf, is_tensor in self.start]
        return pytree.tree_unflatten(leaves, self.spec)

    def split(self, tensors: Parts) -> tuple[Parts, Parts, Parts]:
        """Parameters, sequences, and the tensors of the first state."""
        a, b = self.counts
        return tensors[:a], tensors[a : a + b], tensors[a + b :]

    def forward(self, tensors: Parts) -> tuple[list[Tensor], Any]:
        """All segments: the outputs, and the state at the end."""
        self.parameters, self.sequences, _ = self.split(tensors)
        self.learns = [s.requires_grad and s.is_floating_point() for s in self.sequences]
        first = self.first(tensors)
        plan = self.chain.plan
        self.kept = Kept(first, plan.slots, self.chain.around)
        count = plan.segments - plan.kept + 1
        state = self.descend(Block(0, count, plan.slots, -1), first, note=True)
        for k in range(count, plan.segments):
            state = self.take(k, state, note=True)
        return self.results, state

    def descend(self, block: Block, state: Any, *, note: bool = False) -> Any:
        """Go to the last segment of ``block`` and take it, keeping states on the way there."""
        first, count, slots, slot = block
        while count > 1:
            part = first_part(count, slots)
            self.blocks.append(Block(first, part, slots, slot))
            for k in range(first, first + part):
                outputs, state = self.chain.run(k, self.parts(k), state)
                if note:
                    self.note(k, outputs)
            first, count, slots = first + part, count - part, max(0, slots - 1)
            slot = self.kept.put(state) if count > 1 else -2
        return self.take(first, state, note=note)

    def take(self, k: int, state: Any, *, note: bool = False) -> Any:
        """Run segment k with its graph."""
        leaves, spec = pytree.tree_flatten(state)
        before = [
            s.detach().requires_grad_(s.is_floating_point()) if isinstance(s, Tensor) else s
            for s in leaves
        ]
        parts = [
            part.detach().requires_grad_(learns)
            for part, learns in zip(self.parts(k), self.learns, strict=True)
        ]
        with new_graph():
            outputs, after = self.chain.run(k, parts, pytree.tree_unflatten(before, spec))
        states = [s for s in before if isinstance(s, Tensor)]
        taken = Taken(parts, states, outputs, pytree.tree_leaves(after))
        if leaves_of((*outputs, *taken.after), (*self.parameters, *parts, *states)):
            raise RuntimeError(
                f"{self.chain.name}: a parameter takes part from step {self.chain.cuts[k][0]} on that "
                "did not at the first steps and is not the model's; make it a part of the model"
            )
        self.taken.append(taken)
        if note:
            self.note(k, outputs)
        return pytree.tree_map(torch.detach, after)

    def let_go(self) -> None:
        """Hold no sequence and no state that the graph holds already."""
        self.sequences = ()
        self.results = []
        self.kept.start = None

    def parts(self, k: int) -> list[Tensor]:
        begin, end = self.chain.cuts[k]
        return [s.narrow(self.chain.time, begin, end - begin) for s in self.sequences]

    def note(self, k: int, outputs: Parts) -> None:
        """Add what segment k gives to the outputs."""
        begin, end = self.chain.cuts[k]
        if not self.results:
            steps = max(end for _, end in self.chain.cuts)
            shapes = [y.shape if self.chain.summed else (steps, *y.shape[1:]) for y in outputs]
            self.results = [y.new_zeros(s) for y, s in zip(outputs, shapes, strict=True)]
        for result, y in zip(self.results, outputs, strict=True):
            if self.chain.summed:
                result += y.detach()
            else:
                result[begin:end] = y.detach()

    def backward(
        self, tensors: Parts, wanted: Sequence[bool], arriving: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients of all that is wanted."""
        _, self.sequences, start = self.split(tensors)
        self.kept.start = self.first(tensors)
        sums: list[Tensor | None] = [None] * len(self.parameters)
        a, b = self.counts
        needed = (wanted[:a], wanted[a : a + b], wanted[a + b :])
        d_sequences = [
            torch.zeros_like(s) if want else None
            for s, want in zip(self.sequences, needed[1], strict=True)
        ]
        count = len(arriving) - self.after.num_leaves
        d_outputs, d_state = arriving[:count], list(arriving[count:])
        k = self.chain.plan.segments - 1
        with self.chain.around.restored():
            while True:
                taken = self.taken.pop()
                d_parameters, d_parts, d_state = self.differentiate(
                    k, taken, needed[0], d_outputs, d_state
                )
                for i, d in enumerate(d_parameters):
                    if d is not None:
                        total = sums[i]
                        sums[i] = d.clone() if total is None else total.add_(d)
                begin, end = self.chain.cuts[k]
                for whole, d in zip(d_sequences, d_parts, strict=True):
                    if whole is not None and d is not None:
                        whole.narrow(self.chain.time, begin, end - begin).copy_(d)
                del taken, d_parameters, d_parts
                k -= 1
                if self.taken:
                    continue
                if not self.blocks:
                    break
                block = self.blocks.pop()
                state = self.kept.get(block.slot)
                with self.autocast():
                    self.descend(block, state)
                if block.length == 1:  # else its own first part begins there
                    self.kept.drop(block.slot)
        d_start = [d if want else None for d, want in zip(d_state, needed[2], strict=True)]
        return [*sums, *d_sequences, *(d_start if start else [])]

    def differentiate(
        self,
        k: int,
        taken: Taken,
        wanted: Sequence[bool],
        d_outputs: Sequence[Tensor | None],
        d_state: Sequence[Tensor | None],
    ) -> tuple[list[Tensor | None], list[Tensor | None], list[Tensor | None]]:
        """The gradients of a segment's parameters, parts and first state."""
        begin, end = self.chain.cuts[k]
        pairs: list[tuple[Tensor, Tensor | None]] = [
            (y, d if self.chain.summed or d is None else d[begin:end])
            for y, d in zip(taken.outputs, d_outputs, strict=True)
        ]
        pairs += list(zip(taken.after, d_state, strict=True))
        pairs = [(y, d) for y, d in pairs if d is not None and y.requires_grad]
        sources = [p for p, want in zip(self.parameters, wanted, strict=True) if want]
        sources += [p for p in (*taken.parts, *taken.before) if p.requires_grad]
        if not pairs:
            gradients: Iterator[Tensor | None] = iter([None] * len(sources))
        else:
            ys, ds = zip(*pairs, strict=True)
            with _without_hooks(sources):
                gradients = iter(torch.autograd.grad(ys, sources, ds, allow_unused=True))
        return (
            [next(gradients) if want else None for want in wanted],
            [next(gradients) if p.requires_grad else None for p in taken.parts],
            [next(gradients) if p.requires_grad else None for p in taken.before],
        )


class _Recomputed(torch.autograd.Function):
    """The outputs and the last state of a chain."""

    @staticmethod
    def forward(ctx, call, *tensors):  # type: ignore[no-untyped-def]
        outputs, after = call.forward(tensors)
        leaves, call.after = pytree.tree_flatten(after)
        ctx.call = call
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        call.let_go()
        return (*outputs, *leaves)

    @staticmethod
    @once_differentiable
    def backward(ctx, *arriving):  # type: ignore[no-untyped-def]
        call, ctx.call = ctx.call, None
        if call is None:
            raise RuntimeError(
                "backward: called a second time on a checkpointed sequence, expected once; run it "
                "forward again"
            )
        gradients = call.backward(ctx.saved_tensors, ctx.needs_input_grad[1:], arriving)
        return None, *gradients


def leaves_of(outputs: Parts, known: Parts = (), since: int | None = None) -> list[Tensor]:
    """The tensors at the ends of the graph of ``outputs``, but those in ``known``.

    Raises:
        ValueError: ``since`` is given, and the graph goes on in nodes that were there before it.
    """
    stops = {(t.grad_fn, t.output_nr) for t in known}
    mine = {id(t) for t in known}
    todo = [(y.grad_fn, y.output_nr) for y in outputs]
    seen, leaves = set(todo), []
    while todo:
        edge = todo.pop()
        node = edge[0]
        if node is None or edge in stops:
            continue
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) not in mine:
                leaves.append(leaf)
            continue
        if since is not None and node._sequence_nr() < since:
            raise ValueError(
                f"it uses a tensor that was computed before it was called ({node.name()}), to which no "
                "gradient could go; compute that inside, or give it as a sequence"
            )
        for after in node.next_functions:
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return leaves


@contextmanager
def new_graph() -> Iterator[None]:
    """Inside, a graph is made that begins at the parameters themselves."""
    torch.clear_autocast_cache()  # else at casts of them from elsewhere, which may lead nowhere
    with torch.enable_grad():
        yield


@contextmanager
def _without_hooks(tensors: Parts) -> Iterator[None]:
    """Inside, no hook of ``tensors`` is called: hooks are for the whole gradient, which is to come."""
    hooks = [(own, dict(own)) for t in tensors if (own := t._backward_hooks)]
    for own, _ in hooks:
        own.clear()
    try:
        yield
    finally:
        for own, before in hooks:
            own.update(before)


def _chance(device: torch.device) -> Tensor:
    """The source of chance as it is now."""
    state = torch.get_rng_state()
    if device.type == "cpu":
        return state
    there: Tensor = getattr(torch, device.type).get_rng_state(device)
    return torch.cat([state, there])


def _set_chance(state: Tensor, device: torch.device) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
        return
    count = len(torch.get_rng_state())
    torch.set_rng_state(state[:count])
    getattr(torch, device.type).set_rng_state(state[count:], device)


def _autocast(device: torch.device) -> Callable[[], Any]:
    """Autocast as it is now, for later."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext
    return partial(
        torch.autocast,
        kind,
        enabled=torch.is_autocast_enabled(kind),
        dtype=torch.get_autocast_dtype(kind),
        cache_enabled=torch.is_autocast_cache_enabled(),
    )
