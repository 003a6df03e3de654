"""What a step computes when, and what it keeps for its backward pass."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unrolled.compiler.blocks import Equations, lower
from unrolled.compiler.trace import Trace
from unrolled.compiler.units import COSTLY, MASKS, Unit, ordered


@dataclass(frozen=True)
class Stage:
    """A product with the state, then all that is computed unit by unit with its result."""

    weight: str
    """The product's weight; "" without a product."""
    transposed: bool
    """Whether the product is h weightᵀ (weight ``[G*H, H]``) or h weight (``[H, G*H]``)."""
    products: int
    """G, how many blocks of H units the product has."""
    units: tuple[Unit, ...]
    """What is computed, in order."""


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """What a step in order has, of one product or of stages."""

    cell: str
    equations: tuple[str, ...]
    projection: tuple[str, ...]
    """The projection's weight and its biases."""
    vectors: dict[str, int]
    """The per-unit parameters and buffers, in order, and how many blocks each holds."""
    projected: int
    """How many blocks the projection has."""
    noise: int
    """How many blocks are given as noise."""
    kept: tuple[Unit, ...]
    """What the backward pass needs, and neither has at hand nor computes again."""
    grads: tuple[Unit, ...]
    """The distinct gradients of blocks of the projection, the products and the vectors."""
    d_projected: tuple[int, ...]
    """For each block, which of ``grads`` is its gradient, or -1 for none."""
    d_vector: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Schedule(Scheduled):
    """A step and its gradient, ready to be printed or interpreted."""

    forward: tuple[Stage, ...]
    """The step: one stage, as yet."""
    next: tuple[Unit, ...]
    """The next states."""
    backward: tuple[Unit, ...]
    """What the backward pass computes, in order."""
    d_product: tuple[int, ...]
    d_state: tuple[Unit, ...]
    """The gradients of the states, without what comes back through the product."""

    def __str__(self) -> str:
        """The statements, one a line."""
        (stage,) = self.forward
        names: dict[Unit, str] = {}
        numbers = itertools.count()
        lines = ["projection: " + " ".join(self.projection)]
        if stage.weight:
            across = f"{stage.weight}ᵀ" if stage.transposed else stage.weight
            lines.append(f"product: state[0] {across}, {stage.products} blocks")

        def compute(units: tuple[Unit, ...]) -> None:
            for unit in units:
                if not unit.args:
                    names[unit] = repr(unit)
                elif unit not in names:
                    names[unit] = f"v{next(numbers)}"
                    operands = ", ".join(names[arg] for arg in unit.args)
                    lines.append(f"{names[unit]} = {unit.op}({operands})")

        def give(title: str, units: tuple[Unit, ...]) -> None:
            lines.append(f"{title}: {', '.join(names[unit] for unit in units) or 'nothing'}")

        compute(stage.units)
        give("next", self.next)
        give("keeps", self.kept)
        compute(self.backward)
        give("gradients", self.grads)
        for title in ("d_projected", "d_product", "d_vector"):
            lines.append(f"  {title}: {', '.join(map(str, getattr(self, title))) or 'nothing'}")
        give("d_state", self.d_state)
        return "\n".join(lines)


def schedule(trace: Trace) -> Schedule:
    """Put a traced step in order, and choose what to keep.

    Raises:
        Unsupported: an operation is not known, or is used in a form that is not.
    """
    step = lower(trace)
    blocks = (*step.d_projected, *step.d_product, *step.d_vector)
    grads = tuple(dict.fromkeys(unit for unit in blocks if unit.value != 0))
    kept = keep_fewest(step.next, (*grads, *step.d_state), (), ("projected", "product"))
    stage = Stage(step.weight, step.transposed, len(step.d_product), ordered(step.next))
    return Schedule(
        **shared(trace, step, kept, grads),
        forward=(stage,),
        next=step.next,
        backward=ordered((*grads, *step.d_state), known=(*kept, *step.next)),
        d_product=_places(step.d_product, grads),
        d_state=step.d_state,
    )


def shared(
    trace: Trace, step: Equations, kept: tuple[Unit, ...], grads: tuple[Unit, ...]
) -> dict[str, Any]:
    """What is ``Scheduled``."""
    names = ("cell", "equations", "projection", "projected", "noise")
    return {
        **{name: getattr(trace, name) for name in names},
        "vectors": step.vectors,
        "kept": kept,
        "grads": grads,
        "d_projected": _places(step.d_projected, grads),
        "d_vector": _places(step.d_vector, grads),
    }


def _places(units: tuple[Unit, ...], grads: tuple[Unit, ...]) -> tuple[int, ...]:
    """For each unit where it stands in ``grads``, or -1."""
    place = {unit: k for k, unit in enumerate(grads)}
    return tuple(place.get(unit, -1) for unit in units)


def keep_fewest(
    after: tuple[Unit, ...],
    gradients: tuple[Unit, ...],
    kept_anyway: Iterable[Unit],
    gone: tuple[str, ...],
) -> tuple[Unit, ...]:
    """The fewest values from which the gradients follow without computing anything costly twice.

    A minimum cut between what is gone after the step and what the gradients read: each value is an
    edge that costs 1 to keep, and each operand an edge that cannot be cut. Of equally small cuts it
    is the one nearest to the gradients, which leaves the least to be computed again.

    Args:
        after: the next states, which are there.
        gradients: what the backward pass computes.
        kept_anyway: what is kept, whether a gradient needs it or not.
        gone: the operations and leaves whose values the backward pass does not find.
    """
    import networkx as nx  # type: ignore[import-untyped]  # slow to import

    forward, anyway = ordered(after), set(kept_anyway)
    backward = ordered(gradients)
    on_gradient: set[Unit] = set()  # what depends on the next states' gradients
    for unit in backward:
        if unit.op == "d_next" or any(arg in on_gradient for arg in unit.args):
            on_gradient.add(unit)

    graph: Any = nx.DiGraph()  # from what is gone to what the gradients read
    graph.add_nodes_from(("gone", "read"))
    for unit in backward:
        if unit in on_gradient:
            read = [arg for arg in unit.args if arg not in on_gradient]
            graph.add_edges_from(((arg, "there"), "read") for arg in read)
            continue
        if unit in after or unit in anyway or (not unit.args and unit.op not in gone):
            continue
        can_be_kept = unit in forward and unit.op not in MASKS
        graph.add_edge((unit, "made"), (unit, "there"), capacity=1 if can_be_kept else math.inf)
        if unit in forward and (unit.op in gone or unit.op in COSTLY):
            graph.add_edge("gone", (unit, "made"))
        graph.add_edges_from(((arg, "there"), (unit, "made")) for arg in unit.args)
    # Of equal cuts it is the one nearest to "read".
    _, (before, _) = nx.minimum_cut(graph, "gone", "read")
    cut = (u for u in forward if (u, "made") in before and (u, "there") not in before)
    return (*kept_anyway, *(unit for unit in cut if unit not in anyway))
