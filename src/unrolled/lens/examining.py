"""Takes a layer apart over what it read in a call, and judges every scan of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.layers.finding import Layer
from unrolled.lens.causes import PROBES, WIDE, Causes, causes_of, slopes_of
from unrolled.lens.flow import Flow, Stretch
from unrolled.lens.recurrence import Recurrence, recurrences
from unrolled.lens.verdict import Verdict, judge
from unrolled.lens.view import REACH, View, view_of

BATCH_SIZE = 32  # over which, at most, the slopes of an activation are taken

ScanIndex = tuple[int, int]
"""Level and direction."""


def examined(
    layer: Layer,
    x: Tensor,
    flows: Mapping[ScanIndex, Flow],
    steps: int,
    views: bool,
    lag: int | None = None,
) -> dict[ScanIndex, tuple[Verdict, View | None]]:
    """The verdict on each scan of ``layer`` in the call that ``flows`` are of, and what there is to show.

    On the longest stretch of a sequence without a reset, of which ``steps`` are taken apart at most, from
    the state that the call was given. Nothing if no step was real; a scan is left out where it is not
    finite.

    Args:
        layer: as it is now.
        x: what it read, ``[T, B, D]``, or packed rows of it.
        flows: of every scan.
        steps: S.
        views: whether there is anything to show.
        lag: over how many steps back the verdict is, if not over the whole stretch.
    """
    any_flow = next(iter(flows.values()))
    stretch = any_flow.longest()
    if stretch is None:
        return {}
    length, sequences = len(stretch.steps), _sequences(any_flow, stretch)
    x = any_flow.padded(x)

    def taken(count: int, sequences: Tensor) -> tuple[Recurrence, ...]:
        """The scans over the first ``count`` steps of the stretch."""
        part = x[stretch.steps[:count].to(x.device)][:, sequences.to(x.device)]
        starts = [
            _start(flows.get(place), stretch, sequences, is_whole=length <= count)
            for place in sorted(flows)
        ]
        return recurrences(layer, part.transpose(0, 1) if layer.batch_first else part, starts)

    scans = taken(steps, sequences)
    wholes = taken(REACH, sequences[:1]) if views and steps < length else scans
    judged = {}
    for scan, whole in zip(scans, wholes, strict=True):
        if not _is_finite(scan):
            continue
        causes = _causes(scan)
        view = view_of(scan, causes, whole) if views else None
        verdict = judge(any_flow.layer, causes, length if lag is None else min(length, lag + 1))
        judged[scan.level, scan.direction] = verdict, view
    return judged


def _sequences(flow: Flow, stretch: Stretch) -> Tensor:
    """The stretch's sequence, and others that are real at its steps too and begin with them."""
    own = torch.tensor([stretch.sequence], device="cpu")
    if flow.resets is not None or flow.mask is not None:
        return own
    others = flow.real[stretch.steps].all(0).nonzero().flatten()
    return torch.cat([own, others[others != stretch.sequence][: BATCH_SIZE - 1]])


def _start(
    flow: Flow | None, stretch: Stretch, sequences: Tensor, *, is_whole: bool
) -> State | None:
    """The state with which a scan begins the stretch; ``None`` for the cell's own."""
    if flow is None or flow.start is None:
        return None
    begins = (stretch.is_last and is_whole) if flow.direction else stretch.is_first
    return tuple(s[sequences.to(s.device)] for s in flow.start) if begins else None


def _causes(scan: Recurrence) -> Causes:
    """Those of the first sequence; the slopes, over all sequences."""
    one = scan.of_sequences(slice(0, 1))
    causes = causes_of(one, probes=PROBES if scan.width > WIDE else None)
    return causes if causes.slopes is None else replace(causes, slopes=slopes_of(scan))


def _is_finite(scan: Recurrence) -> bool:
    """Whether its Jacobians can be: of what it reads, of its states and of its weights."""
    numbers: Sequence[Tensor] = (scan.x, scan.projected, *scan.states, *scan.cell.parameters())
    return all(bool(t.isfinite().all()) for t in numbers)
