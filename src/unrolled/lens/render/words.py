"""What a record says in words, as HTML."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from unrolled.lens.flow import scan_name
from unrolled.lens.formatting import steps_in_words
from unrolled.lens.render.charts import Place, Record, place_of

PLACED = {"layer", "level", "direction", "step", "lag"}  # of a spike whose origin is known
SPIKES = 20  # in a table, the largest
MANY = 12  # scans, from which on their table scrolls by itself
STATES = ("exploding", "vanishing", "dead", "saturated", "healthy")  # the worst first
WIDTH, HEIGHT = 96, 20  # of a sparkline, pixels


def snapshot(record: Record, scans: Mapping[Place, int]) -> str:
    """All of ``record``; the scans are buttons with their numbers."""
    return (
        _summary(record["rows"])
        + _broken(record["broken"])
        + _verdicts(record["rows"], scans)
        + _clipping(record["clipping"])
        + "".join(f'<p class="note">{escape(note)}</p>' for note in record["notes"])
    )


def tried(trials: Record) -> str:
    """The table of trials."""
    rows = [
        (
            f"<code>{escape(t['remedy'])}</code>",
            badge(t["state"]),
            number(t["growth"]),
            horizon_in_words(t["growth"], t["horizon"]),
            number(t["loss"], "—"),
            _sparkline(t["norms"]),
        )
        for t in trials["trials"]
    ]
    names = ("remedy", "state", "growth", "horizon", "loss", "gradient")
    left_out = "".join(
        f"<li><code>{escape(name)}</code>: {escape(why)}</li>"
        for name, why in trials.get("left_out", {}).items()
    )
    said = f"<details><summary>Left out</summary><ul>{left_out}</ul></details>" if left_out else ""
    about = "The worst scan of the model as it is, and of a copy after each remedy, the best first."
    return _table(about, names, rows) + said


def number(value: float | None, missing: str = "unknown") -> str:
    """Three digits.

    >>> number(0.61803), number(1.2e-13), number(None)
    ('0.618', '1.2e-13', 'unknown')
    """
    return missing if value is None else f"{value:.3g}"


def horizon_in_words(growth: float | None, steps: float | None) -> str:
    """The horizon, which is not given where it is infinite.

    >>> horizon_in_words(0.5, 6.64), horizon_in_words(1.1, None), horizon_in_words(None, None)
    ('7 steps', 'without end', 'unknown')
    """
    if steps is None:
        steps = math.inf if growth is not None and growth >= 1 else math.nan
    return steps_in_words(steps)


def badge(state: str | None) -> str:
    """A state in its colour."""
    known = state if state in STATES else ""
    return f'<span class="badge {known}">{escape(state or "not judged")}</span>'


def rank(state: str | None) -> int:
    """From 0, the worst, on; last what was not judged."""
    return STATES.index(state) if state in STATES else len(STATES)


def _summary(rows: Sequence[Record]) -> str:
    """How many scans are in which state."""
    if not rows:
        return "<p>No recurrent layer ran.</p>"
    counts = Counter(row["verdict"]["state"] if row["verdict"] else None for row in rows)
    badges = " ".join(f"{counts[state]} {badge(state)}" for state in sorted(counts, key=rank))
    return f'<p class="summary">{_count(len(rows), "scan")}: {badges}</p>'


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _broken(broken: Record | None) -> str:
    if broken is None:
        return ""
    value = "NaN" if broken["value"] == "nan" else "infinity"
    return (
        f'<p class="alert" role="alert">The first {value} came {escape(broken["where"])}: in '
        f"{escape(scan_name(*place_of(broken)))}, at step {broken['step']} of sequence "
        f"{broken['sequence']}.</p>"
    )


def _verdicts(rows: Sequence[Record], scans: Mapping[Place, int]) -> str:
    """A table with two lines for each scan: what was found, and why."""
    if not rows:
        return ""
    names = ("layer, level", "verdict", "|dL/dh_t|, first to last step", "growth", "horizon")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(f"<tbody>{_verdict(row, scans[place_of(row)])}</tbody>" for row in rows)
    return (
        f'<div class="scroll{" many" if len(rows) > MANY else ""}" role="region" '
        'aria-label="Verdicts" tabindex="0"><table class="verdicts">'
        "<caption><span>A scan is a layer's level in one direction. Choose one to see it below.</span>"
        "</caption>"
        f"<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _verdict(row: Record, scan: int) -> str:
    verdict = row["verdict"] or {"state": None, "growth": None, "horizon": None}
    name = escape(scan_name(*place_of(row)))
    cells = (
        badge(verdict["state"]),
        f"{_sparkline(row['norms'])} <small>{escape(row['ends'])}</small>",
        number(verdict["growth"]),
        horizon_in_words(verdict["growth"], verdict["horizon"]),
    )
    first = f'<th scope="row"><button type="button" data-scan="{scan}">{name}</button></th>'
    line = f"<tr>{first}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return line + (_why(verdict) if row["verdict"] else "")


def _why(verdict: Record) -> str:
    remedies = "".join(
        f"<li><code>{escape(r['name'])}</code>: {escape(r['effect'])}</li>"
        for r in verdict["remedies"]
    )
    listed = f"<ol>{remedies}</ol>" if remedies else ""
    return f'<tr class="why"><td colspan="5"><p>{escape(verdict["evidence"])}</p>{listed}</td></tr>'


def _clipping(clipping: Record | None) -> str:
    """How often gradients were clipped, by how much, and what the largest of them came from."""
    if clipping is None:
        return ""
    calls, clipped, spikes = clipping["calls"], clipping["clipped"], clipping["spikes"]
    factor = f", to {number(clipping['factor'])} of their length on average" if clipped else ""
    said = f"<h3>Clipping</h3><p>{clipped} of {calls} gradients were clipped{factor}.</p>"
    if not spikes:
        return said
    largest = sorted(spikes, key=lambda s: -(math.inf if s["norm"] is None else s["norm"]))
    names = ("call", "norm", "bound", "times the bound", "from", "step", "lag")
    some = f"; of {len(spikes)} the {SPIKES} largest" if len(spikes) > SPIKES else ""
    about = f"Spikes, and the lag of the step from which the gradient was longest{some}."
    return said + _table(about, names, map(_spike, largest[:SPIKES]))


def _spike(spike: Record) -> tuple[str, ...]:
    """The cells of one that was clipped; where it came from is not always known."""
    norm, bound = spike["norm"], spike["bound"]
    known = spike.keys() >= PLACED
    return (
        str(spike["call"]),
        number(norm, "not finite"),
        number(bound),
        number(norm / bound) if norm is not None and bound else "—",
        escape(scan_name(*place_of(spike))) if known else "—",
        str(spike["step"]) if known else "—",
        str(spike["lag"]) if known else "—",
    )


def _table(about: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Of cells that are HTML already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{about}" tabindex="0"><table>'
        f"<caption><span>{about}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _sparkline(norms: Sequence[float | None]) -> str:
    """On a logarithmic scale, with gaps where no gradient came."""
    logs = [math.log(n) if n else None for n in norms]
    known = [v for v in logs if v is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known) or 1.0
    across = (WIDTH - 4) / max(1, len(logs) - 1)
    path, pen = [], "M"
    for t, value in enumerate(logs):
        if value is None:
            pen = "M"
            continue
        y = HEIGHT - 2 - (value - low) / span * (HEIGHT - 4)
        path.append(f"{pen}{2 + t * across:.1f} {y:.1f}{'h0' if pen == 'M' else ''}")
        pen = "L"
    return (
        f'<svg class="spark" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'aria-hidden="true"><path d="{"".join(path)}"/></svg>'
    )
