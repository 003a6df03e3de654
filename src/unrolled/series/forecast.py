"""What comes after each series, as a forecaster says it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.series.data import Panel
from unrolled.series.passes import Asked
from unrolled.series.predicting import at_levels, columns_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """Forecasts from the end of each series.

    ``panel``: the N series, with the times of what comes. ``told`` ``[N, horizon, targets, Q]``: the
    quantiles at ``levels`` ``[Q]``, ascending. ``quantiles``: the levels of which there are columns.
    """

    panel: Panel = field(repr=False)
    told: Floats = field(repr=False)
    levels: tuple[float, ...]
    quantiles: tuple[float, ...]

    def columns(self) -> dict[str, Any]:
        """Columns by name, as ``Forecaster.predict`` gives them in a frame."""
        asked = Asked(self.panel.lengths - 1, np.arange(len(self.panel)))
        return columns_of(self.panel, asked, self.told, self.levels, self.quantiles)

    def at(self, levels: Sequence[float]) -> Floats:
        """``[N, horizon, targets, len(levels)]``: the quantiles at other levels."""
        return at_levels(self.told, self.levels, levels)

    def page(self, path: str | Path, *, title: str = "Forecast") -> None:
        """Write it as one HTML page, which asks for nothing from outside: each series, and what comes.

        Raises:
            MissingExtraError: the packages of the extra ``series`` that draw are not installed.
            OSError: the file cannot be written.
        """
        from unrolled.series.render import page

        page.write_forecast(path, self, title=title)
