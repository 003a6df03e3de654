"""A back-test: forecasts from many origins, beside those of the season before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.series.data.origins import Origins
from unrolled.series.passes import Asked
from unrolled.series.scores import ForecastFigures, figures, seasonal_errors, seasonal_naive

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Backtest:
    """Forecasts from many origins, and what they are worth.

    ``scores`` are the network's, ``naive`` those of the seasonal naive forecast at the same origins;
    ``by_horizon`` ``[horizon]``: the mean absolute error of the median at each step ahead, in units of
    ``scores.mase``. ``forecasts``: a frame as ``predict`` gives it, with the column "cutoff",
    the time of the origin.
    ``told`` ``[N, horizon, targets, Q]``: the same at all ``levels``; ``asked``: the origins, of ``data``.
    """

    scores: ForecastFigures
    naive: ForecastFigures
    forecasts: Any
    by_horizon: Floats
    data: Origins = field(repr=False)
    asked: Asked = field(repr=False)
    told: Floats = field(repr=False)
    levels: tuple[float, ...] = field(repr=False)

    @classmethod
    def of(
        cls, data: Origins, asked: Asked, told: Floats, levels: Sequence[float], forecasts: Any
    ) -> "Backtest":
        """Compare what was said, ``[N, horizon, targets, Q]`` at ``levels``, with what came."""
        count, steps, targets, _ = told.shape
        rows = (data.begins[asked.series] + asked.steps)[:, None] + np.arange(1, steps + 1)
        values = np.where(
            np.isnan(told[..., 0]), np.nan, data.values[rows]
        )  # where nothing was said
        season = max(1, data.panel.plan.season)
        errors, naive = np.empty((count, 1, targets, 2)), np.empty_like(told)
        order = np.argsort(asked.series, kind="stable")
        wanted, firsts = np.unique(asked.series[order], return_index=True)
        for k, here in zip(wanted, np.split(order, firsts[1:]), strict=True):
            begin, end = int(data.begins[k]), int(data.begins[k] + data.lengths[k])
            before = data.values[begin : begin + int(asked.steps[here].min()) + 1]
            for target in range(targets):
                errors[here, 0, target] = seasonal_errors(before[:, target], season)
            history = data.values[begin:end]
            naive[here] = seasonal_naive(history, asked.steps[here], steps, season, before, levels)
        each = np.broadcast_to(errors, (*values.shape, 2)).reshape(-1, 2)
        scores, of_naive = (
            figures(values.ravel(), of.reshape(values.size, -1), levels, each)
            for of in (told, naive)
        )
        unit = np.where(errors[..., 0] > 0, errors[..., 0], np.nan)
        off = np.abs(values - told[..., len(levels) // 2]) / unit
        known = np.isfinite(off)
        total = np.where(known, off, 0.0).sum((0, 2))
        by_horizon = total / np.maximum(known.sum((0, 2)), 1)
        by_horizon = np.where(known.any((0, 2)), by_horizon, math.nan)
        return cls(scores, of_naive, forecasts, by_horizon, data, asked, told, tuple(levels))

    HEAD = ("", "MASE", "RMSSE", "CRPS", "80 % covers", "95 % covers")

    def rows(self) -> list[tuple[str, ...]]:
        """A row of ``HEAD`` for the network and for the seasonal naive forecast."""
        return [
            (name, f"{f.mase:.3f}", f"{f.rmsse:.3f}", f"{f.crps:.4f}",
             *(f"{f.coverage[share]:.1%}" if share in f.coverage else "" for share in ("0.8", "0.95")))
            for name, f in (("network", self.scores), ("seasonal naive", self.naive))
        ]  # fmt: skip

    def verdict(self) -> str:
        """Whether it is better than the seasonal naive forecast, in one line."""
        for name, mine, others in (
            ("MASE", self.scores.mase, self.naive.mase),
            ("CRPS", self.scores.crps, self.naive.crps),  # of a constant series there is no MASE
        ):
            if not (math.isfinite(mine) and math.isfinite(others)):
                continue
            if mine < others:
                gain = f"better than the seasonal naive forecast by {1 - mine / others:.0%}"
                return f"{gain}: {name} {mine:.3g} to {others:.3g}"
            worse = f"it LOSES to the seasonal naive forecast: {name} {mine:.3g}"
            return f"{worse}, where that has {others:.3g}"
        return "nothing to compare with: all that came is missing or 0"

    def record(self) -> dict[str, Any]:
        """Verdict and scores as JSON; what is not known is ``None``."""
        record: dict[str, Any] = known(
            {
                "verdict": self.verdict(),
                "origins": len(self.asked.steps),
                "horizon": self.told.shape[1],
                "network": self.scores.record(),
                "seasonal_naive": self.naive.record(),
                "mase_by_horizon": self.by_horizon.tolist(),
            }
        )
        return record

    def page(self, path: str | Path, *, title: str = "Back-test") -> None:
        """Write it as one HTML page, which asks for nothing from outside.

        What was said beside what came, errors over time and by horizon, residuals, what intervals cover.

        Raises:
            MissingExtraError: the packages of the extra ``series`` that draw are not installed.
            OSError: the file cannot be written.
        """
        from unrolled.series.render import page

        page.write_backtest(path, self, title=title)

    def __str__(self) -> str:
        lines = [self.HEAD, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.verdict(), *table])


def known(value: Any) -> Any:
    """``value``, a record, with ``None`` for every number that is not finite."""
    if isinstance(value, dict):
        return {key: known(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [known(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
