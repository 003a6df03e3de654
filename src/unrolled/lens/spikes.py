"""Which lag a gradient that was clipped came from, how often clipping acts, and by how much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high

import torch

from unrolled.lens.flow import Flow

NEAR = 0.9  # of the longest, from which a gradient counts as such
AT_ONCE = 100.0  # the growth in one step from which it is the loss' doing


@dataclass(frozen=True)
class Spike:
    """Where the gradient was longest in a backward pass.

    ``norm``: the largest ``‖∂L/∂h_t‖`` of all scans, steps and sequences; ``sequence``: its sequence.
    ``step``: the first on the way back at which it is within a tenth of that. ``lag``: how many steps back
    this is from where it began: from the last step, or from one at which it became more than a hundredfold
    at once, which no network does, but a loss; 0 is what the loss itself sends.
    """

    layer: str
    level: int
    direction: int
    step: int
    sequence: int
    lag: int
    norm: float


@dataclass(frozen=True)
class Clipping:
    """What clipping did.

    ``calls``: how often it was asked; ``clipped``: how often the norm was above the bound, which NaN is
    not. ``factor``: by what those gradients were multiplied, in the geometric mean over finite norms; 1 if
    there is none. ``spikes``: for each of
    them the call, the norm before, the bound, and where it came from (``None`` if no backward pass was
    seen since the call before).
    """

    calls: int
    clipped: int
    factor: float
    spikes: tuple[tuple[int, float, float, Spike | None], ...]

    @classmethod
    def of(cls, clips: Sequence[tuple[float, float, Spike | None]]) -> "Clipping":
        """From the norm, the bound and the spike of each call."""
        spikes = tuple((i, *clip) for i, clip in enumerate(clips) if clip[0] > clip[1])
        logs = [math.log(b / n) for _, n, b, _ in spikes if math.isfinite(n)]
        factor = math.exp(sum(logs) / len(logs)) if logs else 1.0
        return cls(len(clips), len(spikes), factor, spikes)

    def __str__(self) -> str:
        said = f"clipping acted in {self.clipped} of {self.calls} steps"
        if not self.clipped:
            return said
        lags = [spike.lag for *_, spike in self.spikes if spike is not None]
        at = f"; the gradient was longest {median_high(lags)} steps back (median)" if lags else ""
        return f"{said}, by a factor of {self.factor:.3g}{at}"


def spike_of(flows: Sequence[Flow]) -> Spike | None:
    """Where the gradient was longest in ``flows``; ``None`` if none came."""
    best: Spike | None = None
    for flow in flows:
        norms = torch.where(flow.real, flow.h.cpu().double(), torch.nan).nan_to_num(
            0, posinf=math.inf
        )
        most = float(norms.max()) if norms.numel() else 0.0
        if most > (0.0 if best is None else best.norm):
            sequence = int(norms.amax(0).argmax())
            way = norms[:, sequence] if flow.direction else norms[:, sequence].flip(0)
            peak = began = int((way >= NEAR * most).nonzero()[0])
            while began and way[began - 1] > way[began] / AT_ONCE:
                began -= 1
            step = peak if flow.direction else len(way) - 1 - peak
            best = Spike(flow.layer, flow.level, flow.direction, step, sequence, peak - began, most)
    return best
