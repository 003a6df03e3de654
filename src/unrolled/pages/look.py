"""How charts look on a white or on a black page."""

from typing import Any

# After Okabe & Ito, as bright as can be seen on white and on black.
ACCENT, REST = "#2a8fd0", "#8c8c8c"
CATEGORIES = [REST, ACCENT, "#d98200", "#00a37a", "#c56fa0", "#d55e00"]
# By whether the page is dark: text, less of it, lines; and blue over the page's own colour to orange.
INKS = {False: ("#1f2328", "#59636e", "#e4e7eb"), True: ("#e8eaed", "#a9b0b8", "#30363d")}
DIVERGING = {
    False: ["#0b4884", "#3f93d4", "#c4e0f5", "#fafafa", "#fbd3a1", "#e07f1c", "#8a3f00"],
    True: ["#6fbdf5", "#2c7cba", "#153f60", "#1c2128", "#6b3a08", "#c97a1c", "#ffb454"],
}
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
WIDE = "container"  # as wide as the page gives it
EXTENT = 52  # of the labels and the title of a vertical axis, so that charts are aligned


def config(dark: bool = False) -> dict[str, Any]:
    """The configuration of charts on a white or on a black page.

    Marks of the style "cursor" are outlines in the colour of text, those of the style "ink" are in it.
    """
    ink, quiet, faint = INKS[dark]
    words = {"labelColor": quiet, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 11}
    words |= {"titleFontWeight": "normal"}
    lines = {"gridColor": faint, "domainColor": quiet, "tickColor": quiet}
    return {
        "background": "transparent",
        "font": FONT,
        "axis": words | lines | {"labelOverlap": "greedy"},
        "axisX": {"labelSeparation": 8},
        "legend": words | {"titleOrient": "left", "offset": 6, "gradientStrokeWidth": 0},
        "header": {"labelColor": ink, "labelFontSize": 11, "labelPadding": 2},
        "title": {"color": ink, "anchor": "start", "fontSize": 12, "fontWeight": "normal"},
        "view": {"stroke": faint},
        "range": {"diverging": DIVERGING[dark]},
        "rule": {"color": ink},
        "style": {"cursor": {"stroke": ink}, "ink": {"color": ink}},
        "mark": {"aria": False},
    }
