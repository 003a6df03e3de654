"""A back-test or a forecast as one HTML page, which asks for nothing from outside."""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import altair as alt

from unrolled.files import replace
from unrolled.pages.document import (
    Said,
    document,
    encoded,
    figure,
    in_language,
    reading,
    titles_in_language,
)
from unrolled.series.backtest import Backtest
from unrolled.series.forecast import Forecast
from unrolled.series.render import charts
from unrolled.series.render.record import JUDGED, Record, backtest_record, forecast_record
from unrolled.series.scores import ForecastFigures

NETWORK, NAIVE = "network", "seasonal naive"
BACKTEST_READING = {
    "MASE": "the mean absolute error, in units of that of the seasonal naive forecast one season ahead on "
    "what came before the first origin. RMSSE: the same of squared errors. CRPS: of all quantiles, beside "
    "the size of the values; lower is better for all three.",
    "Seasonal naive": "what came one season before, the forecast that costs nothing.",
    "Intervals": "an 80 % interval is right if eight of ten values fall into it, at every number of steps "
    "ahead; the dashed lines are how many should.",
    "Origin": "the last step that a forecast knows. Nothing after it changes what was said there.",
    "Residuals": "what came less the median. Those of overlapping forecasts go together even where nothing "
    "is left to learn: these lags are grey. What stands out of the band beyond them is not yet learnt.",
}
FORECAST_READING = {
    "Median": "as likely too high as too low.",
    "Intervals": "an 80 % interval is to hold eight of ten values that come.",
}
# What the script says, with {} for what it puts in.
SENTENCES = {
    "fan": "Said at {} of the {} steps after it.",
    "forecast": "The {} steps after {}.",
    "track": "What was said {} steps before, at every origin, beside what came.",
    "track_1": "What was said one step before, at every origin, beside what came.",
    "errors": "The running mean over {} origins of the absolute error of the median.",
    "errors_1": "The absolute error of the median.",
    "drag": "Drag over a part to see it closer above.",
    "residuals": "What came less the median, {} on average.",
    "correlation": "Of errors some steps apart. Those less than {} steps apart overlap.",
    "correlation_1": "Of errors some steps apart.",
    "band": "The band is what chance makes of {} errors.",
    "none": "No value is known.",
    "nothing": "—",
}
WHOLE = '<button type="button" id="whole" hidden>Show all of it</button>'
LEGEND = {
    "seen": "seen",
    "median": "median",
    "of50": "50 %",
    "of80": "80 %",
    "of95": "95 %",
    "naive": "seasonal naive",
}


def write_backtest(
    path: str | Path, test: Backtest, *, title: str = "Back-test", said: Said = str
) -> None:
    """Write a back-test as one HTML page.

    Of 24 series at most, from the worst to the best, all is shown; of each the last 1,000 origins.

    Args:
        path: the file.
        test: what ``Forecaster.backtest`` gives.
        title: of the page.
        said: a text in the language of the page.

    Raises:
        OSError: the file cannot be written.
    """
    replace(Path(path), encoded(backtest_page(backtest_record(test), title, said)))


def write_forecast(
    path: str | Path, forecast: Forecast, *, title: str = "Forecast", said: Said = str
) -> None:
    """Write a forecast as one HTML page, with 200 of its series at most, evenly chosen.

    Args:
        path: the file.
        forecast: what ``Forecaster.forecast`` gives.
        title: of the page.
        said: a text in the language of the page.

    Raises:
        OSError: the file cannot be written.
    """
    replace(Path(path), encoded(forecast_page(forecast_record(forecast), title, said)))


def backtest_page(record: Record, title: str, said: Said = str) -> str:
    """The text of the page of a back-test."""
    facts, scores = record["facts"], record["scores"]
    names = [said(NETWORK), said(NAIVE)]
    value = _value_name(facts)
    drawn = {
        "by_horizon": charts.by_horizon(record, names),
        "coverage": charts.coverage(record),
        "fan": charts.fan(record["time"], value, with_naive=True),
        "track": charts.track(record["time"], value),
        "errors": charts.track_errors(record["time"], names),
        "residuals": charts.histogram("what came less the median"),
        "correlation": charts.autocorrelation(),
    }
    panels = record["series"]
    first, last = facts["ends"]
    told = [
        _counted(facts["panels"], "series", said),
        said(f"origins of each: {facts['origins']:,}"),
        said(f"from {first} to {last}"),
        said(f"steps ahead: {facts['horizon']:,}"),
        *([said(facts["frequency"])] if facts["frequency"] else []),
    ]
    choose_ahead = "".join(f'<option value="{a}">{a}</option>' for a in record["aheads"])
    parts = {
        "verdict": _verdict(record, said),
        "facts": _listed(told),
        "scores": in_language(_scores(scores), said),
        "thinned": in_language(_thinned(len(panels), facts["panels"]), said),
        "panels": in_language(_panels(panels), said) if len(panels) > 1 else "",
        "by_horizon": in_language(
            figure("by_horizon", "Error by steps ahead", "MASE; below the grey line is better."),
            said,
        ),
        "coverage": in_language(
            figure("coverage", "What the intervals cover", "Dashed: what they should cover."), said
        ),
        "choice": in_language(_choice(panels, with_origin=True), said),
        "fan": in_language(figure("fan", "A forecast", before=_legend(*LEGEND)), said),
        "aheads": choose_ahead,
        "track": in_language(
            figure("track", "Over time", before=WHOLE + _legend("seen", "median", "of80", "of95")),
            said,
        ),
        "errors": in_language(
            figure(
                "errors",
                "Errors over time",
                before=_legend("median", "naive", names=(NETWORK, NAIVE)),
            ),
            said,
        ),
        "residuals": in_language(figure("residuals", "Residuals"), said),
        "correlation": in_language(figure("correlation", "Autocorrelation of residuals"), said),
        "reading": in_language(reading(BACKTEST_READING), said),
    }
    data = {
        "time": record["time"],
        "series": panels,
        "typical": record["typical"],
        "aheads": record["aheads"],
        "season": facts["season"],
        "names": names,
    }
    return _page("backtest", parts, data, drawn, title, said)


def forecast_page(record: Record, title: str, said: Said = str) -> str:
    """The text of the page of a forecast."""
    facts, panels = record["facts"], record["series"]
    told = [
        _counted(facts["panels"], "series", said),
        said(f"steps ahead: {facts['horizon']:,}"),
        *([said(facts["frequency"])] if facts["frequency"] else []),
    ]
    shown = [name for name in LEGEND if name != "naive"]
    head = "".join(f'<th scope="col">{name}</th>' for name in record["quantiles"])
    parts = {
        "facts": _listed(told),
        "thinned": in_language(_thinned(len(panels), facts["panels"]), said),
        "choice": in_language(_choice(panels, with_origin=False), said),
        "fan": in_language(figure("fan", "What comes", before=_legend(*shown)), said),
        "time": escape(record["time"]["name"]),
        "quantiles": head,
        "reading": in_language(reading(FORECAST_READING), said),
    }
    data = {
        "time": record["time"],
        "series": panels,
        "typical": 0,
        "quantiles": record["quantiles"],
    }
    drawn = {"fan": charts.fan(record["time"], _value_name(facts), with_naive=False)}
    return _page("forecast", parts, data, drawn, title, said)


def _page(
    name: str,
    parts: Mapping[str, str],
    data: Mapping[str, Any],
    drawn: Mapping[str, alt.TopLevelMixin],
    title: str,
    said: Said,
) -> str:
    here = files("unrolled.series.render")
    template = in_language((here / f"{name}.html").read_text("utf-8"), said)
    return document(
        title=said(title),
        body=Template(template).substitute(parts, title=escape(said(title))),
        data={
            **data,
            "sentences": {key: said(text) for key, text in SENTENCES.items()},
            "charts": {key: _in_language(chart, said) for key, chart in drawn.items()},
        },
        script="".join(
            (here / script).read_text("utf-8") for script in ("series.js", f"{name}.js")
        ),
        style=(here / "series.css").read_text("utf-8"),
        said=said,
    )


def _in_language(chart: Any, said: Said) -> Any:
    """The specification of a chart, whose titles and ways to write a time are as ``said`` has them."""
    spec = titles_in_language(chart.to_dict(), said)
    return spec if said is str else _formats(spec, said)


def _formats(spec: Any, said: Said) -> Any:
    if isinstance(spec, dict):
        return {
            k: {unit: said(form) for unit, form in v.items()}
            if k == "format" and isinstance(v, dict)
            else _formats(v, said)
            for k, v in spec.items()
        }
    return list(map(partial(_formats, said=said), spec)) if isinstance(spec, list) else spec


def _value_name(facts: Record) -> str | None:
    """What stands on the axis of values, if it is the same for all series."""
    return facts["targets"][0] if len(facts["targets"]) == 1 else None


def _verdict(record: Record, said: Said) -> str:
    """The first sentence of the page."""
    text = said(record["verdict"])
    kind = {True: "loses", False: "better", None: ""}[record["loses"]]
    return f'<p class="verdict {kind}">{escape(text[:1].upper() + text[1:])}</p>'


def _listed(facts: Sequence[str]) -> str:
    return f'<ul class="facts">{"".join(f"<li>{escape(fact)}</li>" for fact in facts)}</ul>'


def _counted(count: int, name: str, said: Said) -> str:
    return said(f"{count:,} {name}")


def _scores(scores: Mapping[str, ForecastFigures]) -> str:
    """The table of scores; the better of each column is marked."""
    mine, others = scores["network"], scores["naive"]
    columns = [("MASE", "mase", ".3f"), ("RMSSE", "rmsse", ".3f"), ("CRPS", "crps", ".4f")]
    head = [name for name, _, _ in columns] + [f"{s * 100:g} % covers" for s in JUDGED]
    rows = []
    for name, one, other in ((NETWORK, mine, others), (NAIVE, others, mine)):
        cells = [
            _cell(getattr(one, field), form, getattr(one, field) < getattr(other, field))
            for _, field, form in columns
        ]
        for share in JUDGED:
            seen, beside = (u.coverage.get(f"{share:.3g}", float("nan")) for u in (one, other))
            cells.append(_cell(seen, ".1%", abs(seen - share) < abs(beside - share)))
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        '<div class="scroll" role="region" aria-label="Scores" tabindex="0"><table class="scores">'
        f"<thead><tr><td></td>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: float | None, form: str, is_best: bool) -> str:
    if value is None or value != value:  # NaN
        return "<td>—</td>"
    text = format(value, form)
    return f"<td>{f'<b>{text}</b>' if is_best else text}</td>"


def _panels(panels: Sequence[Record]) -> str:
    """A table of the series that are shown, the worst first; their names are buttons."""
    order = sorted(range(len(panels)), key=lambda k: -(panels[k]["mase"] or 0.0))
    rows = []
    for k in order:
        mase, naive = panels[k]["mase"], panels[k]["naive"]
        is_better = mase is not None and naive is not None and mase < naive
        is_worse = mase is not None and naive is not None and mase > naive
        rows.append(
            f'<tr><th scope="row"><button type="button" data-series="{k}" translate="no">'
            f"<bdi>{escape(panels[k]['name'])}</bdi></button></th>"
            f"{_cell(mase, '.3f', is_better)}{_cell(naive, '.3f', is_worse)}</tr>"
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("series", "MASE", "seasonal naive"))
    many = " many" if len(panels) > 8 else ""
    return (
        f'<div class="scroll{many}" role="region" aria-label="Series" tabindex="0"><table class="scores">'
        f"<caption><span>The worst first. Choose one to see it below.</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _thinned(shown: int, count: int) -> str:
    if shown == count:
        return ""
    return f'<p class="note">The page shows {shown:,} of {count:,} series, evenly chosen.</p>'


def _choice(panels: Sequence[Record], *, with_origin: bool) -> str:
    """The menu of series, and the slider over origins."""
    options = "".join(
        f'<option value="{k}">{escape(p["name"])}</option>' for k, p in enumerate(panels)
    )
    hidden = "" if len(panels) > 1 else " hidden"
    menu = (
        f'<label for="series"{hidden}>Series</label><select id="series"{hidden}>{options}</select>'
    )
    slider = (
        '<label for="origin">Origin <output id="at"></output></label>'
        '<input id="origin" type="range" min="0" max="0" value="0">'
    )
    return menu + (slider if with_origin else "")


def _legend(*shown: str, names: Sequence[str] = ()) -> str:
    """What is drawn how, beside the words for it."""
    told = names or [LEGEND[name] for name in shown]
    keys = "".join(
        f'<li><i class="{name}"></i>{text}</li>' for name, text in zip(shown, told, strict=True)
    )
    return f'<ul class="legend">{keys}</ul>'
