"""What was seen, put into words and numbers."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from unrolled.files import replace
from unrolled.lens.breaks import Broken
from unrolled.lens.flow import Flow, scan_name, underflowed
from unrolled.lens.formatting import plain, steps_in_words
from unrolled.lens.spikes import Clipping
from unrolled.lens.verdict import Verdict, worst
from unrolled.lens.view import View

if TYPE_CHECKING:
    import altair
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # characters of a sparkline
COLOURS = {
    "healthy": "green",
    "vanishing": "yellow",
    "saturated": "yellow",
    "exploding": "red",
    "dead": "red",
}


class Recorded(Protocol):
    """What has a record to be shown beside a report's: the ``Trials`` of ``try_remedies``."""

    def record(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""


@dataclass(frozen=True)
class Row:
    """One scan: its gradient through time, and the verdict on it.

    ``calls``: how many calls a gradient came to. ``norms``: the mean over sequences, and over the calls
    with the most steps, of ``‖∂L/∂h_t‖`` at each step, ``[T]``; NaN where none came. ``spread``: the
    standard deviation over sequences, ``[T]``. ``verdict`` and ``view`` are missing where there was no real
    step, or a number was not finite. ``least``: the least normal number of the gradient's dtype, 0 if that
    is unknown.
    """

    layer: str
    level: int
    direction: int
    calls: int
    norms: Tensor = field(repr=False)
    spread: Tensor = field(repr=False)
    verdict: Verdict | None
    view: View | None = field(default=None, repr=False)
    least: float = field(default=0.0, repr=False)

    @property
    def place(self) -> str:
        """The scan in words."""
        return scan_name(self.layer, self.level, self.direction)

    @property
    def ends(self) -> str:
        """The first and the last norm, and how far the sequences spread there; "underflow" if too small."""
        came = ~self.norms.isnan()
        if not came.any():
            return "NaN" if self.calls else "no gradient came"
        norms = self.norms.tolist()
        small = underflowed(norms, self.least)
        steps = came.nonzero().flatten().tolist()
        first, last = (
            "underflow" if small[t] else _with_spread(norms[t], float(self.spread[t]))
            for t in (steps[0], steps[-1])
        )
        return f"{first} … {last}"

    @property
    def state(self) -> str:
        """That of the verdict."""
        return "not judged" if self.verdict is None else self.verdict.state

    @property
    def reasons(self) -> list[str]:
        """What speaks for the verdict, in a line, and a line for each remedy."""
        if self.verdict is None:
            return []
        evidence = f"{self.verdict.evidence}; horizon {steps_in_words(self.verdict.horizon)}"
        return [evidence, *(f"try {r.name}: {r.effect}" for r in self.verdict.remedies)]


def _with_spread(norm: float, spread: float) -> str:
    return f"{norm:.1e} ±{spread:.0e}" if math.isfinite(spread) else f"{norm:.1e}"


@dataclass(frozen=True)
class Report:
    """What a ``Lens`` has seen. As text it is a table; ``to_json`` has all of it.

    ``broken``: the first NaN or infinity. ``clipping``: what the lens was told with ``clipped``.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    broken: Broken | None = None
    clipping: Clipping | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The worst of all scans; each has its own in ``rows``. ``None`` if none was judged."""
        return worst([row.verdict for row in self.rows if row.verdict is not None])

    def __str__(self) -> str:
        return self.told()

    def told(self, said: Callable[[str], str] = str) -> str:
        """The text, whose every piece is as ``said`` has it, in another language for example."""
        ends = [said(row.ends) for row in self.rows]
        wide = max(map(cell_len, ends), default=0)
        head = set_cell_size(said("|dL/dh_t|, first to last step"), WIDTH + wide + 1)
        lines = [f"{set_cell_size(said('layer'), 28)} {head} {said('verdict')}"]
        for row, end in zip(self.rows, ends, strict=True):
            spark, end = sparkline(row.norms), set_cell_size(end, wide)
            lines.append(f"{row.place[:28]:<28} {spark:<{WIDTH}} {end} {said(row.state)}")
            lines += [f"  {said(reason)}" for reason in row.reasons]
        return "\n".join([*lines, *map(said, self._said())])

    def __rich__(self) -> "RenderableType":
        """The same for a terminal, by ``rich.print``."""
        return self.shown()

    def shown(self, said: Callable[[str], str] = str) -> "RenderableType":
        """What ``rich.print`` prints, whose every piece is as ``said`` has it."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("layer", "|dL/dh_t|", "first to last step", "verdict"):
            table.add_column(said(title), no_wrap=title == "|dL/dh_t|")
        lines = []
        for row in self.rows:
            state = Text(said(row.state), COLOURS.get(row.state, "dim"))
            table.add_row(Text(row.place), sparkline(row.norms), said(row.ends), state)
            lines += [f"{row.place}: {said(reason)}" for reason in row.reasons[:1]]
            lines += [f"  {said(remedy)}" for remedy in row.reasons[1:]]
        return Group(table, *map(Text, [*lines, *map(said, self._said())]))

    def _said(self) -> list[str]:
        """What concerns the whole, in lines."""
        said = [] if self.broken is None else [str(self.broken)]
        said += [] if self.clipping is None else [str(self.clipping)]
        return said + [f"note: {note}" for note in self.notes]

    def record(self) -> dict[str, Any]:
        """Everything as plain data, for JSON: numbers of five digits, those not finite ``None``."""
        rows = [
            {
                "layer": row.layer,
                "level": row.level,
                "direction": row.direction,
                "calls": row.calls,
                "norms": row.norms.tolist(),
                "spread": row.spread.tolist(),
                "ends": row.ends,
                "least": row.least,
                "verdict": None if row.verdict is None else asdict(row.verdict),
                "view": None if row.view is None else row.view.record(),
            }
            for row in self.rows
        ]
        record: dict[str, Any] = plain(
            {
                "rows": rows,
                "notes": list(self.notes),
                "broken": None if self.broken is None else asdict(self.broken),
                "clipping": None if self.clipping is None else _clipping_record(self.clipping),
            }
        )
        return record

    def to_json(self, trials: "Recorded | None" = None) -> str:
        """``record`` as one JSON object; with that of ``trials``, of ``try_remedies``."""
        record = self.record() | ({} if trials is None else trials.record())
        return json.dumps(record, ensure_ascii=False)

    def save(self, path: Path | str, *, trials: "Recorded | None" = None) -> None:
        """Write a page, a picture or JSON, as the suffix of ``path`` says.

        ".html" is a page that needs nothing else, no network either; ".svg" and ".png" are a picture for
        print; ".json" is ``to_json``. All but JSON need the extra ``report``.

        Args:
            path: the file; its folder must be there.
            trials: of ``try_remedies``, for the page or JSON.

        Raises:
            TypeError: ``path`` is none.
            ValueError: another suffix; or a picture is asked for, and there is nothing to draw.
            MissingExtraError: the extra is not installed.
            OSError: the file cannot be written; what was there before is kept.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path: got {type(path).__name__}, expected a path")
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".html":
            from unrolled.lens.render import page

            page.write(path, {0: self.record()}, trials=None if trials is None else trials.record())
        elif suffix in (".svg", ".png"):
            from unrolled.lens.render import picture

            picture.write(path, self.record())
        elif suffix == ".json":
            replace(path, f"{self.to_json(trials)}\n".encode())
        else:
            raise ValueError(
                f"path: got {path.name!r}, expected a name that ends in .html, .svg, .png or .json"
            )

    def chart(self) -> "altair.TopLevelMixin":
        """The charts of the page, for a notebook (the extra ``report``).

        Raises:
            MissingExtraError: the extra is not installed.
        """
        from unrolled.lens.render import charts

        return charts.chart({0: self.record()})


def _clipping_record(clipping: Clipping) -> dict[str, Any]:
    spikes = [
        {"call": call, "bound": bound, **({} if spike is None else asdict(spike)), "norm": norm}
        for call, norm, bound, spike in clipping.spikes
    ]
    return {**{k: getattr(clipping, k) for k in ("calls", "clipped", "factor")}, "spikes": spikes}


def summed_up(flows: Sequence[Flow]) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation over sequences of the norms at each step, ``[T]`` each.

    Over the calls with the most steps; a step that is not real in a sequence is left out.
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
    parts = values.double().tensor_split(max(1, min(WIDTH, len(values))))
    means = [float(part[~part.isnan()].mean()) for part in parts]
    logs = [math.log(m) if m > 0 and math.isfinite(m) else None for m in means]
    known = [v for v in logs if v is not None]
    if not known:
        return " " * len(logs)
    low, span = min(known), max(known) - min(known)
    return "".join(
        " " if v is None else BARS[round((v - low) / span * 7) if span > 0 else 3] for v in logs
    )
