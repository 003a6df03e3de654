"""The charts of a page of forecasts; those of one series draw what the page's script gives them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from unrolled.pages.look import ACCENT, CATEGORIES, EXTENT, REST, WIDE
from unrolled.series.render.record import JUDGED, SHARES

Record = Mapping[str, Any]

OPACITY = {0.5: 0.34, 0.8: 0.22, 0.95: 0.15}  # of an interval; each lies over the wider ones
SECOND = CATEGORIES[2]
NUMBERS = (
    "datum.value == 0 ? '0' : abs(datum.value) >= 1e6 ? format(datum.value, '~s') : "
    "abs(datum.value) < 1e-4 ? format(datum.value, '~e') : format(datum.value, ',~r')"
)
WHOLE = "datum.value % 1 ? '' : datum.label"
DATES = {
    "year": "%Y",
    "quarter": "%b",
    "month": "%b",
    "week": "%b %-d",
    "day": "%b %-d",
    "date": "%b %-d",
    "hours": "%H:%M",
    "minutes": "%H:%M",
    "seconds": "%H:%M:%S",
    "milliseconds": "%H:%M:%S.%L",
}
"""How a time is written, by the unit that the labels of an axis are apart; translated as titles are."""


def _rows(name: str) -> alt.Chart:
    return alt.Chart(alt.NamedData(name))


def _time(axis: Record, field: str = "t", *, title: bool = True) -> alt.X:
    """The axis of times."""
    if not axis["is_calendar"]:
        shown = alt.Axis(grid=False, labelExpr=NUMBERS, tickCount=8)
        x = alt.X(f"{field}:Q", title=axis["name"] if title else None, axis=shown)
        return x.scale(nice=False, zero=False)
    shown = alt.Axis(
        grid=False, format=DATES, formatType="time", tickCount=alt.ExprRef("width / 105")
    )
    return alt.X(f"{field}:T", title=None, axis=shown).scale(type="utc", nice=False)


def _value(field: str, title: str | None, **scale: Any) -> alt.Y:
    axis = alt.Axis(labelExpr=NUMBERS, tickCount=5, minExtent=EXTENT)
    return alt.Y(f"{field}:Q", title=title, axis=axis).scale(
        **{"zero": False, "nice": False, **scale}
    )


def _ends(axis: Record, value: str | None) -> alt.Chart:
    """Nothing to be seen, but the axes reach as far as the rows "ends" have it."""
    points = _rows("ends").mark_point(filled=True, opacity=0, size=0)
    return points.encode(x=_time(axis), y=_value("y", value))


def _number(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:N", title=title)


def _interval(name: str, share: float, x: alt.X, value: str | None) -> alt.Chart:
    """A central interval of ``name``, a band."""
    band = _rows(name).mark_area(color=ACCENT, opacity=OPACITY[share], clip=True)
    low, high = f"low{share * 100:g}", f"high{share * 100:g}"
    return band.encode(x=x, y=_value(low, value), y2=f"{high}:Q")


def fan(axis: Record, value: str | None, *, with_naive: bool) -> alt.LayerChart:
    """What was seen up to an origin, and what was said there of what comes; ``value``: what it is of."""
    x = _time(axis)
    bands = [_interval("told", share, x, value) for share in sorted(SHARES, reverse=True)]
    seen = _rows("seen").mark_line(style="ink", strokeWidth=1.5, clip=True)
    seen = seen.encode(x=x, y=_value("seen", value))
    came = _rows("told").transform_filter("isValid(datum.seen)")
    came = came.mark_point(filled=True, style="ink", size=22, opacity=1, clip=True)
    median = _rows("told").mark_line(color=ACCENT, strokeWidth=2.4, clip=True)
    naive = _rows("told").mark_line(color=REST, strokeWidth=1.5, strokeDash=[4, 3], clip=True)
    origin = _rows("origin").mark_rule(strokeDash=[2, 3], strokeWidth=1)
    shown = ["when", "came", "middle", *(f"of{s * 100:g}" for s in SHARES), "season"]
    titles = ["time", "came", "median", *(f"{s * 100:g} %" for s in SHARES), "seasonal naive"]
    if not with_naive:
        shown, titles = [shown[0], *shown[2:-1]], [titles[0], *titles[2:-1]]
    tips = [_number(f, t) for f, t in zip(shown, titles, strict=True)]
    steps = (
        _rows("told").transform_filter("isValid(datum.when)").mark_rule(opacity=0, strokeWidth=9)
    )
    layers = [_ends(axis, value), *bands, origin.encode(x=x), seen]
    if with_naive:
        layers += [naive.encode(x=x, y=_value("naive", value))]
    layers += [median.encode(x=x, y=_value("median", value))]
    if with_naive:
        layers += [came.encode(x=x, y=_value("seen", value))]
    layers += [steps.encode(x=x, tooltip=tips)]
    return alt.layer(*layers).properties(width=WIDE, height=260)


def track(axis: Record, value: str | None) -> alt.LayerChart:
    """What was said some steps ahead, at every origin, beside what came."""
    x = _time(axis)
    bands = [_interval("track", share, x, value) for share in sorted(JUDGED, reverse=True)]
    seen = _rows("track").mark_line(style="ink", strokeWidth=1.1, clip=True)
    median = _rows("track").mark_line(color=ACCENT, strokeWidth=2.2, clip=True)
    tips = [
        _number(field, title)
        for field, title in (
            ("when", "time"),
            ("came", "came"),
            ("middle", "median"),
            ("of80", "80 %"),
            ("of95", "95 %"),
        )
    ]
    steps = _rows("track").mark_rule(opacity=0, strokeWidth=6).encode(x=x, tooltip=tips)
    chosen = _rows("mark").mark_rule(strokeDash=[2, 3], strokeWidth=1).encode(x=x)
    return alt.layer(
        _ends(axis, value),
        *bands,
        chosen,
        median.encode(x=x, y=_value("median", value)),
        seen.encode(x=x, y=_value("seen", value)),
        steps.properties(name="steps"),
    ).properties(width=WIDE, height=200)


def track_errors(axis: Record, names: Sequence[str]) -> alt.LayerChart:
    """The running mean of the absolute errors over time; ``names``: the network, seasonal naive."""
    x = _time(axis)
    lines = _rows("errors").mark_line(strokeWidth=1.8)
    colour = _who(names, None)
    shown = (("when", "time"), ("network", "network"), ("naive", "seasonal naive"))
    tips = [_number(field, title) for field, title in shown]
    steps = _rows("steps").mark_rule(opacity=0, strokeWidth=6).encode(x=x, tooltip=tips)
    y = _value("error", "absolute error", zero=True)
    ends = _rows("ends").mark_point(filled=True, opacity=0, size=0).encode(x=x)
    part = _rows("part").mark_rect(color=REST, opacity=0.25, stroke=None)
    part = part.encode(x=x, x2="end:T" if axis["is_calendar"] else "end:Q")
    layers = ends, part, lines.encode(x=x, y=y, color=colour), steps
    return alt.layer(*layers).properties(width=WIDE, height=120)


def _who(names: Sequence[str], legend: Any) -> alt.Color:
    return (
        alt.Color("who:N", title=None)
        .scale(domain=list(names), range=[ACCENT, REST])
        .legend(legend)
    )


def histogram(value: str | None) -> alt.LayerChart:
    """How often which error came."""
    x = alt.X("low:Q", title=value, axis=alt.Axis(grid=False, labelExpr=NUMBERS, tickCount=6))
    y = alt.Y(
        "count:Q", title="forecasts", axis=alt.Axis(tickCount=4, minExtent=EXTENT, format="~s")
    )
    bars = _rows("bins").mark_rect(color=ACCENT, opacity=0.85, stroke=None)
    tips = [_number(f, t) for f, t in (("range", "error"), ("count", "forecasts"))]
    zero = _rows("zero").mark_rule(strokeDash=[3, 3])
    bars = bars.encode(
        x=x.scale(nice=False, zero=False), x2="high:Q", y=y, y2="floor:Q", tooltip=tips
    )
    return alt.layer(bars, zero.encode(x="x:Q")).properties(width=WIDE, height=180)


def autocorrelation() -> alt.LayerChart:
    """How errors some steps apart go together, beside what chance makes of none that do."""
    axis = alt.Axis(grid=False, tickMinStep=1, labelExpr=WHOLE, format="d", tickCount=8)
    x = alt.X("low:Q", title="steps apart", axis=axis).scale(nice=False, zero=False)
    y = alt.Y("value:Q", title="correlation", axis=alt.Axis(tickCount=5, minExtent=EXTENT))
    band = _rows("chance").mark_rect(color=REST, opacity=0.22, stroke=None)
    colour = alt.condition("datum.overlaps", alt.value(REST), alt.value(ACCENT))
    bars = _rows("lags").mark_rect(stroke=None)
    tips = [_number(f, t) for f, t in (("lag", "steps apart"), ("shown", "correlation"))]
    bars = bars.encode(x=x, x2="high:Q", y=y, y2="floor:Q", color=colour, tooltip=tips)
    return alt.layer(
        band.encode(x=x, x2="high:Q", y=alt.Y("below:Q"), y2="above:Q"), bars
    ).properties(width=WIDE, height=180)


# --- Over all series -----------------------------------------------------------------------------


def _ahead(count: int) -> alt.X:
    axis = alt.Axis(grid=False, tickMinStep=1, labelExpr=WHOLE, format="d", tickCount=min(count, 8))
    ends = [1, count] if count > 1 else [0.5, 1.5]
    return alt.X("ahead:Q", title="steps ahead", axis=axis).scale(
        domain=ends, nice=False, zero=False, padding=8
    )


def by_horizon(record: Record, names: Sequence[str]) -> alt.LayerChart:
    """MASE by how many steps ahead, beside that of the seasonal naive forecast."""
    data = [
        {"who": name, "ahead": ahead, "mase": value}
        for name, key in zip(names, ("network", "naive"), strict=True)
        for ahead, value in enumerate(record["by_horizon"][key], start=1)
        if value is not None
    ]
    chart = alt.Chart(alt.InlineData(data))
    count = len(record["by_horizon"]["network"])
    point = {"size": 26, "filled": True} if count <= 30 else False
    lines = chart.mark_line(strokeWidth=2, point=point).encode(
        x=_ahead(count),
        y=_value("mase", "MASE", zero=True, nice=True),
        color=_who(names, alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=2)),
        tooltip=[
            _number("who", "forecast"),
            _number("ahead", "steps ahead"),
            alt.Tooltip("mase:Q", title="MASE", format=".3f"),
        ],
    )
    return alt.layer(lines).properties(width=WIDE, height=200)


def coverage(record: Record) -> alt.LayerChart:
    """How many of the values each interval covers, by how many steps ahead, beside how many it should."""
    names = [f"{share * 100:g} %" for share in JUDGED]
    data = [
        {"share": f"{share * 100:g} %", "ahead": ahead, "seen": value, "nominal": share}
        for share in JUDGED
        for ahead, value in enumerate(record["coverage"][f"{share * 100:g}"], start=1)
        if value is not None
    ]
    chart = alt.Chart(alt.InlineData(data))
    count = len(record["by_horizon"]["network"])
    colours = alt.Color("share:N", title=None).scale(domain=names, range=[ACCENT, SECOND])
    legend: Any = {"orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 2}
    least = math.floor(20 * min([0.75, *(row["seen"] for row in data)])) / 20
    axis = alt.Axis(format=".0%", tickCount=5, minExtent=EXTENT)
    y = alt.Y("seen:Q", title="covered", axis=axis).scale(
        domain=[least, 1.0], nice=False, zero=False
    )
    point = {"size": 26, "filled": True} if count <= 30 else False
    lines = chart.mark_line(strokeWidth=2, point=point).encode(
        x=_ahead(count),
        y=y,
        color=colours.legend(**legend),
        tooltip=[
            _number("share", "interval"),
            _number("ahead", "steps ahead"),
            alt.Tooltip("seen:Q", title="covered", format=".1%"),
        ],
    )
    shares = alt.Chart(
        alt.InlineData([{"share": n, "nominal": s} for n, s in zip(names, JUDGED, strict=True)])
    )
    nominal = shares.mark_rule(strokeDash=[4, 3], strokeWidth=1.5, opacity=0.8)
    nominal = nominal.encode(y=alt.Y("nominal:Q"), color=colours.legend(**legend))
    return alt.layer(nominal, lines).properties(width=WIDE, height=200)
