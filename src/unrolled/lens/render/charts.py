"""The charts of a report: a function for each, all of which draw one scan at one time of training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from unrolled.lens.flow import scan_name, underflowed
from unrolled.pages.look import ACCENT, CATEGORIES, EXTENT, REST, config

Record = Mapping[str, Any]
Place = tuple[str, int, int]
Width = int | str

MOST = 40  # snapshots
ROOM = 4_000_000  # numbers in all their views
GRADIENT, LAG, LEFT = "‖∂L/∂h_t‖", "‖∂s_t/∂s_{t−k}‖", "left after k steps"
HUNDREDTH = 0.01  # what is left of a gradient at its horizon
DECADES = 3.0  # of the lag matrix's colours, up and down: where a verdict is vanishing or exploding

LINES = len(CATEGORIES)  # of remedies in one chart
SHORT = "replace(datum.label, 'remedies.', '')"
MOST_SHOWN = 1e300  # on an axis
WHOLE = "datum.value % 1 ? '' : datum.label"
POWERS = "format(datum.value, datum.value < 0.001 || datum.value >= 10000 ? '~e' : '~g')"
# Of the ticks of a logarithmic axis the powers of ten; over a hundredfold or less 2 and 5 too, over less
# than tenfold all. Where the axis has another name than "y", its length is not known.
POWER = "log(datum.value) / LN10"
DIGIT = f"round(10 * datum.value / pow(10, floor({POWER} + 1e-9)))"
TIMES = "log(domain('y')[1] / domain('y')[0]) / LN10"
IS_POWER = f"abs({POWER} - round({POWER})) < 1e-9"
SHOWN = f"({IS_POWER} || {TIMES} < 1 || (!({TIMES} > 2.2) && ({DIGIT} == 20 || {DIGIT} == 50)))"

# Of the chosen snapshot and scan; these and ``step`` are set by a notebook's widgets or a page's script.
ROWS = alt.NamedData("rows")
CHOSEN = "datum.snapshot == snapshot && datum.scan == scan"

# Of a scan that did not run.
NOTHING: Record = {"norms": [], "spread": [], "ends": "", "verdict": None, "view": None}

# --- Data ----------------------------------------------------------------------------------------


def thinned(records: Mapping[int, Record]) -> dict[int, Record]:
    """Some of ``records``, evenly chosen, the first and the last among them, by training step.

    40 at most, and no more than make some 30 MB.
    """
    if not records:
        raise ValueError("records: got none, expected at least one")
    most = max(2, min(MOST, ROOM // max(1, *map(_numbers, records.values()))))
    return {key: records[key] for key in evenly(sorted(records), most)}


def evenly(steps: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``steps``, 2 or more, evenly chosen, the first and the last among them.

    >>> evenly(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _numbers(record: Record) -> int:
    views = [row["view"] for row in record["rows"] if row["view"]]
    return sum(len(r) for view in views for name in ("states", "lags") for r in view[name])


def place_of(row: Record) -> Place:
    """Layer, level and direction of a row, a verdict, a spike."""
    return row["layer"], row["level"], row["direction"]


def scans_of(records: Mapping[int, Record]) -> dict[Place, int]:
    """A number for each scan of any record, in their order."""
    places = dict.fromkeys(place_of(row) for record in records.values() for row in record["rows"])
    return {place: i for i, place in enumerate(places)}


def rows_of(records: Mapping[int, Record]) -> list[dict[str, Any]]:
    """A row for each snapshot and scan; what it has by step, unit or lag are lists in it.

    ``snapshot`` and ``scan`` are numbers from 0, ``at`` is the training step. Of a scan that did not run
    in a snapshot the lists are empty.
    """
    places = scans_of(records)
    filled = []
    for snapshot, (at, record) in enumerate(records.items()):
        rows = {place_of(row): row for row in record["rows"]}
        for place, scan in places.items():
            where = {"snapshot": snapshot, "at": at, "scan": scan, "name": scan_name(*place)}
            filled.append(where | _row(rows.get(place, NOTHING)) | {"direction": place[2]})
    for scan in places.values():
        mine = [row for row in filled if row["scan"] == scan]
        ends = _ends_of(mine)
        for row in mine:
            row.update(ends)
    return filled


def _row(row: Record) -> dict[str, Any]:
    verdict, view = row["verdict"] or {}, row["view"] or {}
    scales = (view.get("gate") or {}).get("time_scale") or []
    small = underflowed(row["norms"], row.get("least"))
    zeros = (norm == 0 and not is_small for norm, is_small in zip(row["norms"], small, strict=True))
    return {
        "state": verdict.get("state"),
        "growth": verdict.get("growth"),
        "norms": row["norms"],
        "ends": row["ends"],
        "underflow": sum(small),
        "zero": sum(zeros),
        "factors": [
            min(1 + (s or 0) / n, MOST_SHOWN) if n else 1
            for n, s in zip(row["norms"], row["spread"], strict=True)
        ],
        "states": view.get("states", []),
        "every": view.get("every", 1),
        "lags": view.get("lags", []),
        "mean_lags": _means(view.get("lags", [])),
        "estimated": view.get("estimated", False),
        "eigenvalues": [
            {"block": block, "re": re, "im": im}
            for block, values in view.get("eigenvalues", {}).items()
            for re, im in values
            if re is not None and im is not None
        ],
        "gate": view.get("gate") and {k: view["gate"][k] for k in ("name", "mean")},
        "scales": sorted(scale for scale in scales if scale is not None),
        "units": len(scales),
    }


def _means(lags: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over all steps of each lag."""
    known = ([v for v in column if v is not None] for column in zip(*lags, strict=True))
    return [sum(values) / len(values) if values else None for values in known]


def _ends_of(rows: Sequence[Record]) -> dict[str, list[float]]:
    """Where the axes of a scan begin and end, the same as training goes on."""
    pairs = [p for r in rows for p in zip(r["norms"], r["factors"], strict=True) if p[0]]
    lags = _known(v for r in rows for line in r["lags"] for v in line)
    states = _known(v for r in rows for line in r["states"] for v in line)
    scales = [v for r in rows for v in r["scales"]]
    decades = max([1.0, *(abs(math.log10(v)) for v in lags if v)])
    radius = max([1.0, *(math.hypot(v["re"], v["im"]) for r in rows for v in r["eigenvalues"])])
    radius = min(radius, MOST_SHOWN)
    low = min((n / f for n, f in pairs), default=0.1)
    high = max((n * f for n, f in pairs), default=1.0)
    return {
        "step_ends": _edges_of(len(r["norms"]) for r in rows),
        "view_ends": _edges_of(len(r["lags"]) for r in rows),
        "unit_ends": _edges_of(len(line) for r in rows for line in r["states"][:1]),
        "norm_ends": [low / 1.2, min(1.2 * high, MOST_SHOWN)],
        "lag_ends": [min([HUNDREDTH, *(v for v in lags if v)]), max([1.0, *lags])],
        "power_ends": [-min(decades, DECADES), min(decades, DECADES)],
        "state_ends": _state_ends(states),
        "rank_ends": _edges_of(len(r["scales"]) for r in rows),
        "scale_ends": [1, min(1.05 * max([2.0, *scales]), MOST_SHOWN)],
        "plane_ends": [-1.1 * radius, 1.1 * radius],
    }


def _state_ends(states: Sequence[float]) -> list[float]:
    """Where the colours begin and end: around 0, or, of states of one sign, at the least and the greatest.

    >>> _state_ends([-0.2, 0.5]), _state_ends([0.4, 0.6]), _state_ends([0.5]), _state_ends([])
    ([-0.5, 0.5], [0.4, 0.6], [0.0, 0.5], [-1.0, 1.0])
    """
    low, high = min(states, default=0.0), max(states, default=0.0)
    if low == high:
        low, high = min(0.0, low), max(0.0, high)
    widest = max(abs(low), abs(high)) or 1.0
    return [low, high] if low < high and low * high >= 0 else [-widest, widest]


def _edges_of(counts: Iterable[int]) -> list[float]:
    """The outer edges of cells around 0, 1, … of as many as there are at most."""
    return [-0.5, max([1, *counts]) - 0.5]


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None]


# --- Parts ---------------------------------------------------------------------------------------


def _scan() -> alt.Chart:
    """The one row of the chosen snapshot and scan."""
    return alt.Chart(ROWS).transform_filter(CHOSEN)


def _each(index: str, *fields: str) -> alt.Chart:
    """A row for each entry of the lists ``fields`` of a scan, which are counted by ``index``."""
    counted = _scan().transform_calculate(**{index: f"sequence(length(datum.{fields[0]}))"})
    return counted.transform_flatten([index, *fields])


def _nested(index: str, inner: str, field: str, value: str) -> alt.Chart:
    """A row for each number of the list of lists ``field``, counted by ``index`` and ``inner``."""
    lines = _each(index, field).transform_calculate(**{inner: f"sequence(length(datum.{field}))"})
    return lines.transform_flatten([inner, field], as_=[inner, value])


def _wide(chart: alt.Chart, index: str) -> alt.Chart:
    """With ``index``0 and ``index``1, the edges of a cell around ``index``."""
    return chart.transform_calculate(
        **{f"{index}0": f"datum.{index} - 0.5", f"{index}1": f"datum.{index} + 0.5"}
    )


def _ends(channel: str, field: str, encoding: Any = None) -> alt.Chart:
    """Nothing to be seen, but the axis or the colours ``channel`` reach both numbers of ``field``."""
    shown = encoding or {"x": alt.X("end:Q"), "y": alt.Y("end:Q"), "color": _colour("end")}[channel]
    points = _scan().transform_flatten([field], as_=["end"])
    return points.mark_point(filled=True, opacity=0, size=0).encode(**{channel: shown})


def _colour(field: str) -> alt.Color:
    """Two colours, which meet at 0."""
    return alt.Color(f"{field}:Q").scale(domainMid=0, nice=False, interpolate="rgb")


def _shade(field: str) -> alt.Color:
    """From the one end of the colours to the other, as ``field`` goes from end to end."""
    return alt.Color(f"{field}:Q").scale(
        range="diverging", nice=False, zero=False, interpolate="rgb"
    )


def _whole(channel: type[alt.X | alt.Y], field: str, title: str) -> Any:
    """An axis of whole numbers, to the edges of the cells around them."""
    extent = {"minExtent": EXTENT} if channel is alt.Y else {}
    axis = alt.Axis(tickMinStep=1, format="d", labelExpr=WHOLE, grid=False, **extent)
    return channel(f"{field}:Q", title=title, axis=axis).scale(nice=False, zero=False, round=True)


def _log(field: str, title: str) -> alt.Y:
    lines, ticks = (alt.condition(test, alt.value(1), alt.value(0)) for test in (IS_POWER, SHOWN))
    axis = alt.Axis(
        labelExpr=f"{SHOWN} ? {POWERS} : ''",
        tickCount=5,
        minExtent=EXTENT,
        gridOpacity=lines,
        tickOpacity=ticks,
    )
    return alt.Y(f"{field}:Q", title=title, axis=axis).scale(type="log", nice=False)


def _columns(chart: alt.Chart, steps: str = "1") -> alt.Chart:
    """Each step t as a rectangle over the whole height, so many ``steps`` wide."""
    wide = chart.transform_calculate(t0="datum.t - 0.5", t1=f"datum.t - 0.5 + {steps}")
    return wide.mark_rect().encode(x=_whole(alt.X, "t0", "step t"), x2="t1:Q")


def _cells(
    chart: alt.Chart, y: str, title: str, colour: alt.Color, *tooltip: Any, steps: str = "1"
) -> alt.Chart:
    """A heat map over the steps, each cell so many ``steps`` wide, and ``y``."""
    return _columns(_wide(chart, y), steps).encode(
        y=_whole(alt.Y, f"{y}0", title),
        y2=f"{y}1:Q",
        color=colour,
        tooltip=["t:Q", alt.Tooltip(f"{y}:Q", title=title), *tooltip],
    )


def _bar(number_format: str) -> alt.Legend:
    """The legend of a heat map."""
    bar = alt.Legend(orient="top", format=number_format, tickCount=3)
    bar.gradientLength, bar.gradientThickness = 140, 8
    return bar


def _cursor(field: str) -> alt.Chart:
    """The outline of the selected step, if ``field`` has it."""
    chosen = _scan().transform_calculate(t="step")
    column = _columns(chosen.transform_filter(f"step < length(datum.{field})"))
    return column.mark_rect(style="cursor", fill=None, strokeWidth=1.5)


def _number(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=title, format=".3~g")


# --- Charts of a scan ----------------------------------------------------------------------------


def states(width: Width) -> alt.LayerChart:
    """h_t, unit by unit, over the steps."""
    cells = _nested("column", "unit", "states", "h")
    cells = cells.transform_calculate(t="datum.column * datum.every")
    colour = _shade("h").title("h_t").legend(_bar(".2~g"))
    return alt.layer(
        _ends("x", "step_ends"),
        _ends("y", "unit_ends"),
        _ends("color", "state_ends", _shade("end")),
        _cells(
            cells, "unit", "hidden unit", colour, _number("h", "h_t"), steps="datum.every"
        ).properties(name="states"),
        _cursor("norms"),
    ).properties(width=width, height=150)


def gradient(width: Width) -> alt.LayerChart:
    """‖∂L/∂h_t‖ over the steps, and how much the sequences differ."""
    tooltip = ["t:Q", _number("norms", GRADIENT), _number("low", "low"), _number("high", "high")]
    columns = _columns(_gradients()).mark_rect(opacity=0).encode(tooltip=tooltip)
    return alt.layer(
        *gradient_lines(), _cursor("norms"), columns.properties(name="norms")
    ).properties(width=width, height=170)


def gradient_lines() -> tuple[alt.Chart, ...]:
    """The layers of ``gradient`` that are no more than a picture."""
    x, y = _whole(alt.X, "t", "step t"), _log("norms", GRADIENT)
    known = _gradients().transform_filter("datum.norms > 0")
    return (
        _ends("x", "step_ends"),
        _ends("y", "norm_ends", _log("end", GRADIENT)),
        known.mark_area(opacity=0.22, color=ACCENT).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        known.mark_line(color=ACCENT, point={"size": 16, "color": ACCENT}).encode(x=x, y=y),
    )


def _gradients() -> alt.Chart:
    """The steps, with the norm of the gradient and the ends of its spread."""
    return _each("t", "norms", "factors").transform_calculate(
        low="datum.norms / datum.factors", high="datum.norms * datum.factors"
    )


def by_lag(
    width: Width,
    which: str = "selected step",
    title: str = LEFT,
    mean: str = "mean over all steps",
) -> alt.LayerChart:
    """‖∂s_t/∂s_{t-k}‖ over k, of the step called ``which`` and of the mean step."""
    colour = alt.Color("who:N", title=None).scale(domain=[which, mean], range=[ACCENT, REST])
    shown = {
        "x": _whole(alt.X, "k", "lag k, steps"),
        "y": _log("lag", title),
        "color": colour.legend(orient="top", symbolType="stroke", symbolStrokeWidth=2),
        "tooltip": ["who:N", "k:Q", _number("lag", LEFT)],
    }
    lines = {
        mean: _each("k", "mean_lags").transform_calculate(lag="datum.mean_lags"),
        which: _nested("t", "k", "lags", "lag").transform_filter("datum.t == step"),
    }
    below, above = (
        line.transform_filter("datum.lag > 0").transform_calculate(who=f"'{name}'").encode(**shown)
        for name, line in lines.items()
    )
    return alt.layer(
        _ends("x", "view_ends"),
        _ends("y", "lag_ends", _log("end", title)),
        _scan().mark_rule(strokeDash=[3, 3], color=REST).encode(y=alt.datum(HUNDREDTH)),
        below.mark_line(strokeWidth=4, opacity=0.55),
        above.mark_line(strokeWidth=2, point={"size": 18}),
    ).properties(width=width, height=210)


def lags(width: Width) -> alt.LayerChart:
    """‖∂s_t/∂s_{t-k}‖ of every step and lag; colours stand for its logarithm."""
    cells = _nested("t", "k", "lags", "lag").transform_filter("datum.lag > 0")
    power = f"clamp(log(datum.lag) / LN10, {-DECADES}, {DECADES})"
    colour = _colour("power").title("log₁₀").legend(_bar("d"))
    cells = cells.transform_calculate(power=power)
    return alt.layer(
        _ends("x", "view_ends"),
        _ends("y", "view_ends"),
        _ends("color", "power_ends"),
        _cells(cells, "k", "lag k, steps", colour, _number("lag", LEFT)).properties(name="lags"),
        _cursor("lags"),
    ).properties(width=width, height=210)


def eigenvalues(side: int) -> alt.LayerChart:
    """Those of each block of W beside the unit circle, in a square of ``side`` pixels."""
    x = alt.X("re:Q", title="real").scale(nice=False, zero=False)
    y = alt.Y("im:Q", title="imaginary").scale(nice=False, zero=False)
    turns = f"sequence(0, {2 * math.pi + 0.01}, {math.pi / 32})"
    circle = _scan().transform_calculate(turn=turns).transform_flatten(["turn"])
    circle = circle.transform_calculate(re="cos(datum.turn)", im="sin(datum.turn)")
    values = _scan().transform_flatten(["eigenvalues"])
    values = values.transform_calculate(
        **{k: f"datum.eigenvalues.{k}" for k in ("block", "re", "im")}
    )
    colour = alt.Color("block:N", title="block", sort=None).scale(range=CATEGORIES[1:])
    return alt.layer(
        _ends("x", "plane_ends"),
        _ends("y", "plane_ends"),
        circle.mark_line(color=REST, strokeWidth=1.2).encode(x, y, order="turn:Q"),
        values.mark_point(filled=True, size=28, opacity=0.8).encode(
            x.axis(tickCount=5),
            y.axis(tickCount=5, minExtent=EXTENT),
            colour.legend(titleOrient="top"),  # to the left an empty legend has no end
            tooltip=["block:N", _number("re", "real"), _number("im", "imaginary")],
        ),
    ).properties(width=side, height=side)


def time_scales(width: Width) -> alt.LayerChart:
    """After how many steps each unit forgets, the shortest first; those that never do are left out."""
    title = "time scale, steps"
    points = _each("rank", "scales").mark_point(filled=True, size=28, color=ACCENT, opacity=0.85)
    return alt.layer(
        _ends("x", "rank_ends"),
        _ends("y", "scale_ends", _log("end", title)),
        points.encode(
            x=_whole(alt.X, "rank", "units, sorted"),
            y=_log("scales", title),
            tooltip=[_number("scales", title)],
        ),
    ).properties(width=width, height=210)


# --- Charts of a training ------------------------------------------------------------------------


def growth(width: Width) -> alt.LayerChart:
    """The growth a step of every scan over the training."""
    known = alt.Chart(ROWS).transform_filter("isValid(datum.growth)")
    mine = alt.condition("datum.scan == scan", alt.value(ACCENT), alt.value(REST))
    clear = alt.condition("datum.scan == scan", alt.value(1), alt.value(0.45))
    x = alt.X("at:Q", title="training step").scale(nice=False, zero=False, padding=6)
    x = x.axis(grid=False, format="~s")
    y = alt.Y("growth:Q", title="growth a step").scale(zero=False)
    y = y.axis(tickCount=5, minExtent=EXTENT)
    encoding = {"x": x, "y": y, "detail": "scan:N", "color": mine, "opacity": clear}
    tooltip = ["name:N", "at:Q", _number("growth", "growth"), "state:N"]
    return alt.layer(
        alt.Chart(ROWS).mark_rule(strokeDash=[3, 3], color=REST).encode(y=alt.datum(1)),
        alt.Chart(ROWS).transform_filter(CHOSEN).mark_rule(strokeWidth=1.5).encode(x=x),
        known.mark_line(strokeWidth=1.8).encode(**encoding),
        known.mark_point(filled=True, size=60).encode(**encoding, tooltip=tooltip),
    ).properties(width=width, height=150)


def trial_growth(trials: Record, width: Width) -> alt.LayerChart:
    """The growth a step as it is, and after each remedy."""
    data = [{k: trial[k] for k in ("remedy", "growth", "state")} for trial in trials["trials"]]
    chart = alt.Chart(alt.InlineData(data))
    x = alt.X("growth:Q", title="growth a step").scale(zero=False, padding=12).axis(tickCount=4)
    y = alt.Y("remedy:N", title=None, sort=None).scale(domain=[row["remedy"] for row in data])
    points = chart.transform_filter("isValid(datum.growth)").mark_point(filled=True, opacity=1)
    points = points.encode(
        x,
        y.axis(labelLimit=180, labelExpr=SHORT, grid=True),
        alt.Color("remedy:N", legend=None).scale(**_colours(trials)),
        tooltip=["remedy:N", _number("growth", "growth"), "state:N"],
        size=alt.value(80),
    )
    one = chart.mark_rule(strokeDash=[3, 3], color=REST).encode(x=alt.datum(1))
    return alt.layer(one, points).properties(width=width, height=max(60, 26 * len(data)))


def trial_gradient(trials: Record, width: Width) -> alt.LayerChart:
    """‖∂L/∂h_t‖ of the worst scan as it is, and after the best remedies."""
    data = [
        {"rank": rank, "remedy": trial["remedy"], "t": t, "norm": norm}
        for rank, trial in enumerate(trials["trials"][:LINES])
        for t, norm in enumerate(trial["norms"])
        if norm
    ]
    x = alt.X("t:Q", title="step t").scale(nice=False, zero=False)
    lines = alt.Chart(alt.InlineData(data)).mark_line(point={"size": 16, "strokeWidth": 0})
    lines = lines.encode(
        x.axis(tickMinStep=1, format="d", grid=False),
        _log("norm", GRADIENT),
        alt.Color("remedy:N", legend=None).scale(**_colours(trials)),
        strokeWidth=alt.condition("datum.rank == 0", alt.value(5), alt.value(2)),
        tooltip=["remedy:N", "t:Q", _number("norm", GRADIENT)],
    )
    return alt.layer(lines).properties(width=width, height=210)


def _colours(trials: Record) -> dict[str, list[str]]:
    """One for each remedy whose line is drawn; of the others that of what is no remedy."""
    names = [trial["remedy"] for trial in trials["trials"]]
    return {"domain": names, "range": [*CATEGORIES[:LINES], *[REST] * len(names)][: len(names)]}


# --- Together ------------------------------------------------------------------------------------


def chart(records: Mapping[int, Record], width: int = 560) -> alt.VConcatChart:
    """All charts of ``records``, by training step, as one chart for a notebook.

    A click on a step selects it; menus choose the scan, and a slider the time of training.

    Raises:
        ValueError: there are no records, or no scan in them.
    """
    kept = thinned(records)
    rows = rows_of(kept)
    if not rows:
        raise ValueError("records: got no rows, expected at least one; did a recurrent layer run?")
    names = {row["scan"]: row["name"] for row in rows}
    last = max(1, *(len(row["norms"]) for row in rows)) - 1
    at_step = alt.Title(alt.expr("'step ' + step + ' is selected'"))
    at_time = alt.Title(alt.expr(f"'training step ' + {list(kept)}[snapshot]"))
    parts = [
        states(width).properties(title=at_time) if len(kept) > 1 else states(width),
        gradient(width),
        by_lag(width).properties(title=at_step),
        lags(width),
        alt.hconcat(eigenvalues(200), time_scales(width - 380)),
        *([growth(width)] if len(kept) > 1 else []),
    ]
    menu = alt.binding_select(options=list(names), labels=list(names.values()), name="scan ")
    slider = alt.binding_range(min=0, max=len(kept) - 1, step=1, name="snapshot ")
    whole = alt.vconcat(*parts, datasets={"rows": rows}).resolve_scale(color="independent")
    whole.params = [
        alt.TopLevelSelectionParameter(
            "pick",
            select=alt.PointSelectionConfig("point", fields=["t"], on="click", toggle=False),
            views=[whole.vconcat[i].layer[at].name for i, at in ((0, -2), (1, -1), (3, -2))],
        ),
        alt.VariableParameter("step", expr=f"pick.t ? pick.t[0] : {last}"),
        alt.VariableParameter("scan", value=0, bind=menu if len(names) > 1 else alt.Undefined),
        alt.VariableParameter(
            "snapshot", value=len(kept) - 1, bind=slider if len(kept) > 1 else alt.Undefined
        ),
    ]
    return whole.properties(config=config())
