"""Runs side by side, as a page."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import altair as alt

from unrolled.files import replace
from unrolled.lens.render import charts
from unrolled.pages.document import Said, document, encoded, in_language, titles_in_language
from unrolled.pages.look import CATEGORIES, WIDE

TITLE = "Runs side by side"
NAME = 300  # pixels of a run's name, at most
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def write(
    path: str | Path, record: Mapping[str, Any], table: Table, said: Said = str, *, measure: str
) -> None:
    """Write a comparison, as ``unrolled compare --json`` prints it, as one HTML page.

    Args:
        path: the file.
        record: the runs, with the validation loss of each by step.
        table: the same in words: a head, and a row for each run.
        said: a text in the language of the page.
        measure: what the validation loss is, in words.

    Raises:
        OSError: the file cannot be written.
    """
    replace(Path(path), encoded(page(record, table, said, measure=measure)))


def page(record: Mapping[str, Any], table: Table, said: Said = str, *, measure: str) -> str:
    """The text of the page."""
    here = files("unrolled.lens.render")
    body = Template(in_language((here / "comparison.html").read_text("utf-8"), said))
    return document(
        title=said(TITLE),
        body=body.substitute(title=said(TITLE), table=in_language(_table(*table), said)),
        data={"chart": titles_in_language(curves(record, measure).to_dict(), said)},
        script=(here / "comparison.js").read_text("utf-8"),
        said=said,
    )


def curves(comparison: Mapping[str, Any], measure: str) -> alt.Chart:
    """The loss on the validation split by step, a line for each run.

    A point of a run has the step, and the loss by its name. ``measure``: what it is, in words.
    """
    points = [(record["run"], p) for record in comparison["runs"] for p in record["validation"]]
    losses = {name for _, point in points for name in point} - {"step"}
    loss = losses.pop() if len(losses) == 1 else "loss"
    rows = [
        {"run": run, "step": point["step"], loss: next(v for k, v in point.items() if k != "step")}
        for run, point in points
    ]
    names = [record["run"] for record in comparison["runs"]]
    colours = [CATEGORIES[(k + 1) % charts.LINES] for k in range(len(names))]
    colour = alt.Color("run:N", title=None).scale(domain=names, range=colours)
    dashes = [[1, 0] if k < charts.LINES else [4, 3] for k in range(len(names))]
    dash = alt.StrokeDash("run:N", title=None).scale(domain=names, range=dashes)
    side_by_side = f"width < {2 * NAME} ? 1 : 2"  # on a phone one below the other
    legend = alt.Legend(orient="top", columns=alt.ExprRef(side_by_side), labelLimit=NAME)
    return (
        alt.Chart(alt.InlineData(rows))
        .mark_line(point=True, strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="step of the training", axis=alt.Axis(tickCount=6)),
            y=alt.Y(f"{loss}:Q", title=measure, axis=alt.Axis(tickCount=6)).scale(zero=False),
            color=colour.legend(legend),
            strokeDash=dash.legend(legend),
            tooltip=["run:N", "step:Q", alt.Tooltip(f"{loss}:Q", format=".4f")],
        )
        .properties(width=WIDE, height=300)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A column for each run."""
    columns = list(zip(head, *rows, strict=True))
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns[0][1:])
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in columns[1:]
    )
    return (
        '<div class="scroll" role="region" aria-label="Runs" tabindex="0"><table>'
        f"<thead><tr><td></td>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )
