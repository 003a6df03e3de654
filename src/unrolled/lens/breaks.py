"""Where a number that is not finite came up first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unrolled.lens.flow import Flow


@dataclass(frozen=True)
class Broken:
    """The first NaN or infinity that was seen.

    ``where``: in the states of the pass forward, or in the gradients of the pass backward. ``call``: which
    call of the layer, from 0; ``turn``: which of the model (see ``Flow``). ``step``, ``sequence``: there,
    in the order of time; of several sequences the first.
    """

    where: Literal["forward", "backward"]
    layer: str
    level: int
    direction: int
    call: int
    turn: int
    step: int
    sequence: int
    value: Literal["nan", "inf"]

    def __str__(self) -> str:
        what = "NaN" if self.value == "nan" else "infinity"
        way = "in the state" if self.where == "forward" else "in the gradient of the state"
        backward = ", backward direction" if self.direction else ""
        return (
            f"the first {what} came up {way} at step {self.step} of sequence {self.sequence}, in "
            f"{self.layer or 'the layer'}, level {self.level}{backward}, call {self.call}"
        )


def first_broken(flow: Flow, y: Tensor) -> Broken:
    """Where ``y``, ``[T, B, H]`` or packed rows ``[R, H]``, broke, which is known to have."""
    return _broken("forward", flow, flow.padded(y), last=flow.direction == 1)


def broken_backward(flows: Sequence[Flow]) -> Broken | None:
    """Where the gradient broke first, in the first turn in which it did; ``None`` if it never did."""
    at = [flow for flow in flows if not _gradients(flow).isfinite().all()]
    if not at:
        return None
    # Of a turn, the last to run is the first that a backward pass comes to.
    flow = [flow for flow in at if flow.turn == at[0].turn][-1]
    return _broken("backward", flow, _gradients(flow).movedim(0, -1), last=flow.direction == 0)


def _gradients(flow: Flow) -> Tensor:
    """The norms of all tensors of the state, ``[S, T, B]``; 0 where a step is not real."""
    return torch.where(flow.real, torch.stack(list(flow.written)).cpu(), 0)


def _broken(
    where: Literal["forward", "backward"], flow: Flow, seen: Tensor, *, last: bool
) -> Broken:
    """The first, or else the ``last``, step of ``seen`` ``[T, B, …]`` with what is not finite."""
    bad = ~seen.isfinite().all(-1)
    steps = bad.any(1).nonzero().flatten().tolist() or [len(bad) - 1, 0]
    step = steps[-1 if last else 0]
    sequence = int(bad[step].int().argmax())
    value: Literal["nan", "inf"] = "nan" if bool(seen[step, sequence].isnan().any()) else "inf"
    return Broken(
        where, flow.layer, flow.level, flow.direction, flow.call, flow.turn, step, sequence, value
    )
