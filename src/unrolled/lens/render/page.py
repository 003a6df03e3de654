"""One HTML page of records, which asks for nothing from outside."""

from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from unrolled.files import replace
from unrolled.lens.flow import scan_name
from unrolled.lens.render import charts, words
from unrolled.lens.render.charts import Record
from unrolled.pages.document import (
    Said,
    document,
    encoded,
    figure,
    in_language,
    reading,
    titles_in_language,
)
from unrolled.pages.look import WIDE

FIGURES = {
    "states": "State by step",
    "gradient": "Gradient by step",
    "by_lag": "Gradient by lag",
    "lags": "Every step and lag",
    "eigenvalues": "Eigenvalues of W",
    "time_scales": "Time scales of the gate",
}
TRAINING = "A line for each scan, the selected one in blue. Click on a point to go there."
READING = {
    "Growth": "what a step back in time multiplies the gradient by: below 1 it vanishes, above 1 it "
    "explodes. The horizon is the number of steps back after which a hundredth is left.",
    "State by step": "the state of one sequence, unit by unit; colours are centred at 0, or, where no "
    "state has the other sign, go from the least to the greatest.",
    "Gradient by step": "the mean over sequences, on a logarithmic axis, where a constant growth is a "
    "straight line. The band is one standard deviation up, and by the same factor down. Underflow: the "
    "gradient is too small for its dtype, and so 0 or of few digits.",
    "Gradient by lag": "how much of the state k steps earlier is still in the state at the selected step. "
    "The dashed line is a hundredth, which is left at the horizon.",
    "Every step and lag": "the same for all steps: blue has faded, orange has grown, by a thousand or "
    "more where the colour is full.",
    "Eigenvalues of W": "inside the circle a direction fades by W alone, outside it grows.",
    "Time scales of the gate": "over how many steps each unit forgets.",
}
# What the script says, with {} for what it puts in.
SENTENCES = {
    "unknown": "unknown",
    "step": "{} step",
    "steps": "{} steps",
    "unit": "{} unit",
    "units": "{} units",
    "all": "all {} steps",
    "some": "the first {} of {} steps",
    "every": "{}, one shown of every {}",
    "states": "h_t of one sequence: {}, {}. Click on a step to select it.",
    "ends": "‖∂L/∂h_t‖, first to last step: {}.",
    "gradient": "‖∂L/∂h_t‖, the mean over sequences and its spread.",
    "underflow": "It underflowed, too small for its dtype, at {} of {}.",
    "zero": "It is 0 at {} of {}, on which the loss does not depend.",
    "none": "None came, or no finite one, at {} of {}.",
    "by_lag": "{} at t = {}: {}",
    "mean": "The mean over the first {}, which were taken apart; step {} was not.",
    "horizon": "horizon {}.",
    "beyond": "horizon beyond its {}, after which {} is left.",
    "nothing": "it is the first step that is read.",
    "lags": "The logarithm of {}.",
    "estimated": "The logarithm of {}, estimated from 16 random directions.",
    "eigenvalues": "Of each block of W, beside the unit circle.",
    "gate": "{} is {} on average over {}.",
    "never": "{} is {} on average; {} of {} never forget.",
    "selected": "Step {} is selected: ‖∂L/∂h_t‖ is {}.",
    "absent": "This scan did not run here.",
}


def write(
    path: str | Path,
    records: Mapping[int, Record],
    *,
    trials: Record | None = None,
    title: str = "The gradient through time",
    said: Said = str,
) -> None:
    """Write ``records``, by training step, as one HTML page; with several it has a slider.

    40 records at most are shown, evenly chosen, the first and the last among them. The page holds its
    data and scripts, and may not reach the network.

    Args:
        path: the file.
        records: what ``Report.record()`` gives.
        trials: what ``Trials.record()`` gives.
        title: of the page.
        said: a text in the language of the page.

    Raises:
        ValueError: there are no records.
        OSError: the file cannot be written.
    """
    replace(Path(path), encoded(page(records, trials, title, said=said)))


def page(
    records: Mapping[int, Record],
    trials: Record | None,
    title: str,
    count: int | None = None,
    *,
    said: Said = str,
) -> str:
    """The text of the page; ``count``: of how many records these are a choice."""
    kept = charts.thinned(records)
    here = files("unrolled.lens.render")
    scans = charts.scans_of(kept)
    told = (words.snapshot(record, scans) for record in kept.values())
    parts = {
        "slider": _slider(len(kept), count or len(records)),
        "told": "".join(f'<div class="snapshot">{text}</div>' for text in told),
        "training": figure("growth", "Growth over the training", TRAINING) if len(kept) > 1 else "",
        "choice": _choice(scans),
        "figures": "".join(figure(*item) for item in FIGURES.items()),
        "trials": _trials(trials) if trials and trials["trials"] else "",
        "reading": reading(READING),
    }
    template = in_language((here / "page.html").read_text("utf-8"), said)
    body = Template(template).substitute(
        {name: in_language(text, said) for name, text in parts.items()}, title=escape(said(title))
    )
    return document(
        title=said(title),
        body=body,
        data=_data(kept, trials, said),
        script=(here / "page.js").read_text("utf-8"),
        style=(here / "page.css").read_text("utf-8"),
        said=said,
    )


def _data(records: Mapping[int, Record], trials: Record | None, said: Said) -> dict[str, Any]:
    """What the script of the page reads."""
    rows = charts.rows_of(records)
    last = [row for row in rows if row["snapshot"] == len(records) - 1]
    worst = min(last, key=lambda row: words.rank(row["state"]), default={"scan": 0})
    for row in rows:
        row.update({name: row[name] and said(row[name]) for name in ("state", "ends")})
    tried = {}
    if trials and trials["trials"]:
        names = ("remedy", "state")
        each = [t | {name: said(t[name]) for name in names} for t in trials["trials"]]
        for chart in (charts.trial_growth, charts.trial_gradient):
            drawn = chart({"trials": each}, WIDE).to_dict()
            tried[chart.__name__] = titles_in_language(drawn, said)
    return {
        "at": list(records),
        "rows": rows,
        "scan": worst["scan"],
        "sentences": {name: said(text) for name, text in SENTENCES.items()},
        "charts": _charts(said) | tried,
    }


@cache
def _charts(said: Said) -> dict[str, Any]:
    """Those of any records, whose rows the script gives them."""
    drawn = {
        "growth": charts.growth(WIDE),
        "states": charts.states(WIDE),
        "gradient": charts.gradient(WIDE),
        "by_lag": charts.by_lag(WIDE, said("selected step"), mean=said("mean over all steps")),
        "lags": charts.lags(WIDE),
        "eigenvalues": charts.eigenvalues(220),
        "time_scales": charts.time_scales(WIDE),
    }
    return {name: titles_in_language(chart.to_dict(), said) for name, chart in drawn.items()}


def _slider(kept: int, count: int) -> str:
    """Over the training, if there is a choice."""
    if kept < 2:
        return ""
    thinned = f" The page keeps {kept} of {count} snapshots, evenly chosen." if count > kept else ""
    return (
        '<div id="training"><label for="snapshot">Training step <output id="at"></output></label>'
        f'<input id="snapshot" type="range" min="0" max="{kept - 1}" value="{kept - 1}">'
        f"<small>All that follows is as it was then.{thinned}</small></div>"
    )


def _choice(scans: Mapping[charts.Place, int]) -> str:
    """The menu of scans, and the slider over steps."""
    options = "".join(
        f'<option value="{i}">{escape(scan_name(*place))}</option>' for place, i in scans.items()
    )
    return (
        f'<label for="scan">Scan</label><select id="scan">{options}</select>'
        '<label for="step">Step <output id="chosen"></output></label>'
        '<input id="step" type="range" min="0" max="0" value="0">'
    )


def _trials(trials: Record) -> str:
    growth = figure("trial_growth", "Growth a step", "1 would keep the gradient's length.")
    about = (
        "‖∂L/∂h_t‖ of the worst scan, as it is and after the best remedies, in the same colours."
    )
    return (
        f'<section id="trials"><h2>Remedies tried</h2>{words.tried(trials)}'
        f'<div class="figures">{growth}{figure("trial_gradient", "Gradient by step", about)}</div>'
        f"</section>"
    )
