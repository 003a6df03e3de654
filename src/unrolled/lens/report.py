"""What was seen, put into words and numbers."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from unrolled.lens.verdict import Verdict
from unrolled.lens.watching import Flow

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # characters of a sparkline


@dataclass(frozen=True)
class Row:
    """One scan: its gradient through time, and the verdict on it.

    ``norms``: the mean over lanes, and over calls of equal length, of ``‖∂L/∂h_t‖`` at each step, ``[T]``;
    NaN where none came. ``spread``: the standard deviation over lanes, ``[T]``. ``verdict`` is missing
    where the layer could not be taken apart into steps.
    """

    layer: str
    level: int
    direction: int
    calls: int
    norms: Tensor = field(repr=False)
    spread: Tensor = field(repr=False)
    verdict: Verdict | None


@dataclass(frozen=True)
class Report:
    """What a ``Lens`` has seen. As text it is a table; ``to_json`` has all of it."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'layer':<28} {'|dL/dh_t|, first to last step':<{WIDTH + 22}} verdict"]
        for row in self.rows:
            place = (
                f"{row.layer or 'layer'}, {row.level}{'' if row.direction == 0 else ', backward'}"
            )
            seen = row.norms[~row.norms.isnan()]
            ends = "no gradient came" if not len(seen) else f"{seen[0]:.1e} … {seen[-1]:.1e}"
            state = "not judged" if row.verdict is None else row.verdict.state
            lines.append(f"{place[:28]:<28} {sparkline(row.norms):<{WIDTH}} {ends:<21} {state}")
            if row.verdict is not None:
                v = row.verdict
                lines.append(f"  {v.evidence}; horizon {_steps(v.horizon)}")
                lines += [f"  try {r.name}: {r.effect}" for r in v.remedies]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> str:
        """Everything as one JSON object; numbers that are not finite are null."""
        rows = []
        for row in self.rows:
            verdict = None if row.verdict is None else asdict(row.verdict)
            rows.append(
                {
                    "layer": row.layer,
                    "level": row.level,
                    "direction": row.direction,
                    "calls": row.calls,
                    "norms": _finite(row.norms.tolist()),
                    "spread": _finite(row.spread.tolist()),
                    "verdict": _finite(verdict),
                }
            )
        return json.dumps({"rows": rows, "notes": list(self.notes)}, ensure_ascii=False)


def summed_up(flows: Sequence[Flow]) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation over lanes of the norms at each step, ``[T]`` each.

    Over the calls with the most steps; a step that is not real in a lane is left out.
    """
    steps = max(len(flow.real) for flow in flows)
    whole = [flow for flow in flows if len(flow.real) == steps]
    norms = torch.cat([torch.where(f.real, f.h.cpu().double(), torch.nan) for f in whole], 1)
    known = ~norms.isnan()
    count = known.sum(1)
    mean = torch.where(known, norms, 0).sum(1) / count
    off = torch.where(known, norms - mean.unsqueeze(1), 0)
    return mean, (off.square().sum(1) / count).sqrt()


def sparkline(values: Tensor) -> str:
    """``values`` ``[T]`` on a logarithmic scale, ``WIDTH`` characters at most; blank where there are none.

    >>> sparkline(torch.tensor([1e-4, 1e-2, 1.0, torch.nan]))
    '▁▄█ '
    """
    parts = values.double().tensor_split(min(WIDTH, len(values)))
    means = [float(part[~part.isnan()].mean()) for part in parts]
    logs = [math.log(m) if m > 0 and math.isfinite(m) else None for m in means]
    known = [v for v in logs if v is not None]
    if not known:
        return " " * len(logs)
    low, span = min(known), max(known) - min(known)
    return "".join(
        " " if v is None else BARS[round((v - low) / span * 7) if span > 0 else 3] for v in logs
    )


def _steps(number: float) -> str:
    if math.isnan(number):
        return "unknown"
    return "without end" if math.isinf(number) else f"{number:.0f} steps"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
