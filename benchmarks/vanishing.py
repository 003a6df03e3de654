"""Draws the pictures of "Why gradients vanish and explode" from what that page's examples measure.

    python -m benchmarks.vanishing [--to FOLDER] [--smallest] [--json FILE]

The examples of docs/tutorials/vanishing.md run from top to bottom, in one namespace; what they leave there
is drawn. FOLDER is docs/tutorials by default. What the examples print is written to FILE. With --smallest
the pictures are thrown away.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import results
from unrolled.errors import MissingExtraError
from unrolled.lens import Drawing, Trials

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"
WIDTH, HEIGHT = 560, 210  # of a chart, pixels
FONT = "Helvetica, Arial, sans-serif"  # as in the pictures of a report

Ends = tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=TUTORIALS, metavar="FOLDER")
    results.add_options(parser)
    given = parser.parse_args(arguments)
    if not given.to.is_dir():
        parser.error(f"--to: got {str(given.to)!r}, expected a folder that is there")
    try:
        from unrolled.lens.render import require

        require()
    except MissingExtraError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    names, printed = measured(TUTORIALS / "vanishing.md")
    results.write(given.json, printed)
    with tempfile.TemporaryDirectory() as thrown_away:
        for path in draw(names, Path(thrown_away) if given.smallest else given.to):
            print(path)


def measured(page: Path) -> tuple[dict[str, Any], list[str]]:
    """The names that the examples of ``page`` leave behind, and what each of them prints."""
    names: dict[str, Any] = {}
    printed = []
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        with redirect_stdout(StringIO()) as out:
            exec(block, names)
        printed.append(out.getvalue())
    return names, printed


def draw(names: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write all pictures of ``names`` into ``folder``."""
    from unrolled.pages import look

    figures = {
        "lags": lags(names["decays"], (1e-4, 1e4)),
        "activations": activations(names["fading"], names["explained"]),
        "cliff": cliff(*(names[name] for name in ("b", "loss", "slope", "norms", "chosen"))),
        "remedies": remedies(names["tried"]),
    }
    paths = {name: folder / f"vanishing-{name}.svg" for name in ("unrolled", *figures)}
    paths["unrolled"].write_text(on_white(names["picture"]), encoding="utf-8")
    config = look.config() | {"background": "white", "font": FONT}
    for name, figure in figures.items():
        figure.properties(config=config, padding=10).save(paths[name])
    for name, report in {"lstm": "LSTM", "chrono": "LSTM, chrono"}.items():
        paths[name] = folder / f"vanishing-{name}.svg"
        names["reports"][report].save(paths[name])
    return list(paths.values())


def on_white(drawing: Drawing) -> str:
    """In the colours of a light page on any page: a theme may be darker than the reader's system."""
    light = re.sub(r"@media \(prefers-color-scheme:dark\){.*?\n}\n", "", drawing.svg, flags=re.S)
    ground = '<rect width="100%" height="100%" style="fill:white;stroke:none"/>'
    return light.replace("</style>", f"</style>\n{ground}")


def lags(decays: Mapping[str, Tensor], ends: Ends, width: int = WIDTH) -> Any:
    """‖∂s_t/∂s_{t-k}‖ over k, a line for each of ``decays``, between both ``ends``."""
    import altair as alt

    from unrolled.lens.render import charts

    return lines(decays, alt.X("at:Q", title="lag k, steps"), charts.LAG, ends, width)


def remedies(tried: Trials, best: int = 4) -> Any:
    """‖∂L/∂h_t‖ over t, as it is and after the best remedies."""
    import altair as alt

    from unrolled.lens.render import charts
    from unrolled.pages import look

    trials = (tried.before, *tried.after[:best])
    found = {trial.remedy.removeprefix("remedies."): trial.norms for trial in trials}
    palette = look.CATEGORIES  # the first of which is grey
    return lines(found, alt.X("at:Q", title="step t"), charts.GRADIENT, (1e-6, 10), palette=palette)


def lines(
    values: Mapping[str, Tensor],
    x: Any,
    title: str,
    ends: Ends,
    width: int = WIDTH,
    palette: Sequence[str] = (),
) -> Any:
    """A line for each of ``values`` on a logarithmic axis, cut off at both ``ends``."""
    import altair as alt

    from unrolled.lens.render import charts
    from unrolled.pages import look

    rows = [
        {"net": name, "at": at, "value": value}
        for name, line in values.items()
        for at, value in enumerate(line.tolist())
        if value > ends[0] / 100  # 0 has no logarithm
    ]
    y = alt.Y("value:Q", title=title).scale(type="log", domain=ends, nice=False)
    palette = (palette or look.CATEGORIES[1:])[: len(values)]
    colour = alt.Color("net:N", title=None).scale(domain=list(values), range=palette)
    columns = 4 if len(values) == 4 else 3
    chart = alt.Chart(alt.Data(values=rows)).mark_line(clip=True, strokeWidth=2)
    return chart.encode(
        x.scale(nice=False).axis(tickMinStep=1, format="d", grid=False),
        y.axis(labelExpr=charts.POWERS, tickCount=5, minExtent=44),
        colour.legend(
            orient="top", symbolType="stroke", symbolStrokeWidth=2, columns=columns, labelLimit=300
        ),
    ).properties(width=width, height=HEIGHT)


def activations(fading: Mapping[str, Tensor], explained: Mapping[str, tuple[float, float]]) -> Any:
    """The gradient by lag, and the factors of a step, of each network."""
    import altair as alt

    from unrolled.pages import look

    rows = [
        {"net": net, "factor": factor, "value": value}
        for net, values in explained.items()
        for factor, value in zip(("activation", "matrix"), values, strict=True)
    ]
    colour = alt.Color("factor:N", title=None).scale(range=[look.ACCENT, look.CATEGORIES[2]])
    bars = alt.Chart(alt.Data(values=rows)).mark_bar(height=9)
    right = bars.encode(
        alt.X("value:Q", title="factor of a step").axis(tickCount=4),
        alt.Y("net:N", title=None, sort=None),
        colour.legend(orient="top"),
        yOffset="factor:N",
    ).properties(width=WIDTH // 3, height=HEIGHT)
    left = lags(fading, (1e-6, 1.0), WIDTH // 2)
    return alt.hconcat(left, right, spacing=24).resolve_scale(color="independent")


def cliff(b: Tensor, loss: Tensor, slope: Tensor, norms: Tensor, chosen: Sequence[int]) -> Any:
    """The loss and its slope over b; the gradient by step before, on and behind it (``chosen``)."""
    import altair as alt

    from unrolled.lens.render import charts
    from unrolled.pages import look

    columns = zip(b.tolist(), loss.tolist(), slope.abs().tolist(), strict=True)
    rows = [{"b": at, "loss": value, "slope": steep} for at, value, steep in columns]
    chart = alt.Chart(alt.Data(values=rows)).mark_line(color=look.ACCENT, strokeWidth=2)
    chart = chart.encode(alt.X("b:Q").scale(nice=False, zero=False).axis(grid=False, tickCount=4))
    slopes = alt.Y("slope:Q", title="|dL/db|").scale(type="log", nice=False)
    panels = (
        chart.encode(alt.Y("loss:Q", title="loss L").axis(tickCount=4)),
        chart.encode(slopes.axis(labelExpr=charts.POWERS, tickCount=5)),
    )
    above = alt.hconcat(*(p.properties(width=WIDTH // 2 - 40, height=150) for p in panels))
    by_step = {f"b = {b[unit]:.3f}": norms[:, unit] for unit in chosen}
    below = lines(by_step, alt.X("at:Q", title="step t"), "‖∂L/∂s_t‖", (1e-6, 1e3))
    return alt.vconcat(above, below, spacing=14).resolve_legend(color="independent")


if __name__ == "__main__":
    main()
