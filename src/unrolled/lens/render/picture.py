"""A record as a picture for papers: the gradient by step and by lag, a line of panels for each scan."""

from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import altair as alt

from unrolled.files import replace
from unrolled.lens.render import charts
from unrolled.lens.render.charts import Record
from unrolled.pages import look

WIDTH, HEIGHT = 300, 130  # of a panel, pixels
SCALE = 3  # of a .png, so that it can be printed


def write(path: str | Path, record: Record) -> None:
    """Draw ``record`` into an ``.svg`` or ``.png``; no browser is needed.

    Raises:
        ValueError: ``path`` has another suffix, or no gradient came that could be drawn.
        OSError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise ValueError(f"path: got {str(path)!r}, expected a name that ends in .svg or .png")
    drawn = BytesIO() if suffix == ".png" else StringIO()
    picture(record).save(drawn, format=suffix[1:], scale_factor=SCALE)
    content = drawn.getvalue()
    replace(path, content.encode() if isinstance(content, str) else content)


def picture(record: Record) -> alt.VConcatChart:
    """The panels as one chart."""
    lines = [_line(row) for row in charts.rows_of({0: record}) if any(row["norms"]) or row["lags"]]
    if not lines:
        raise ValueError("record: got no gradient and no lags to draw; was there a backward pass?")
    whole = alt.vconcat(*lines, spacing=18)
    whole.params = [alt.VariableParameter(name, value=0) for name in ("step", "scan", "snapshot")]
    return whole.properties(config=_config())


def _line(row: dict[str, Any]) -> alt.HConcatChart:
    """The gradient by step, and by lag, of one scan; what there is of them."""
    # Of the last step that is read, from which a gradient goes all the way back.
    last = row["lags"][:1] if row["direction"] else row["lags"][-1:]
    parts = [alt.layer(*charts.gradient_lines())] if any(row["norms"]) else []
    title = charts.LAG.replace("−", "+") if row["direction"] else charts.LAG
    parts += [charts.by_lag(WIDTH, "last step", title)] if last else []
    data = alt.InlineData([row | {"scan": 0, "lags": last}])
    panels = (part.properties(width=WIDTH, height=HEIGHT, data=data) for part in parts)
    name = row["name"] if row["state"] is None else f"{row['name']}: {row['state']}"
    return alt.hconcat(*panels, spacing=30, title=name)


def _config() -> dict[str, Any]:
    """Black on white, with no more lines than needed."""
    axis = {"domainColor": "black", "tickColor": "black", "labelColor": "black", "grid": False}
    config = look.config()
    return config | {
        "background": "white",
        "font": "Helvetica, Arial, sans-serif",
        "axis": config["axis"] | axis | {"titleColor": "black", "titleFontSize": 12},
        "view": {"stroke": None},
    }
