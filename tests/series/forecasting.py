"""Tables and forecasters that the tests share; no forecaster here has learnt anything."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.series.data.tables import flights
from unrolled.series import Forecaster
from unrolled.series.data import Roles, panel_of
from unrolled.series.forecaster import begin

ROLES: dict[str, Any] = {
    "time": "time", "series": "origin", "target": "departures", "known": ["holiday", "day"],
    "past": ["temp", "sky"], "static": "runways",
}  # fmt: skip
TINY: dict[str, Any] = {"hidden_size": 8, "threads": 1, "epochs": 1}


def holed(hours: int, ahead: int = 0) -> dict[str, Any]:
    """Two airports, with holes in each column; of the last hours only what is known ahead is there."""
    table = flights(hours)
    rng = np.random.default_rng(1)
    table["day"] = np.array(["work", "rest"], dtype=object)[table["holiday"].astype(int)]
    for name, share in (("departures", 0.2), ("temp", 0.3), ("holiday", 0.1)):
        table[name][rng.random(2 * hours) < share] = np.nan
    table["sky"][rng.random(2 * hours) < 0.2] = None
    for last in (hours, 2 * hours):
        table["departures"][last - ahead - 1 : last] = [7.0, *[np.nan] * ahead]
        table["temp"][last - ahead : last] = np.nan
        table["sky"][last - ahead : last] = None
    return table


def drawn(
    directory: Path, frame: Any, horizon: int, roles: dict[str, Any] = ROLES, **options: Any
) -> Forecaster:
    """A forecaster with large weights drawn at random, so that whatever it depends on can be seen."""
    directory.mkdir(parents=True)
    given = TINY | options
    forecaster = Forecaster(horizon, **given)
    columns = {("targets" if name == "target" else name): value for name, value in roles.items()}
    panel = panel_of(
        frame,
        Roles(**{"time": None} | columns),
        frequency=forecaster.frequency,
        season=forecaster.season,
        least=horizon,
    )
    run = begin(directory, panel, forecaster.options(), forecaster.options())
    generator = torch.Generator().manual_seed(5)
    model = run.new_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.4)
    run.save_weights(model, {"step": 0})
    spread = torch.rand(len(run.model_config["levels"]), generator=generator) + 0.5
    run.save_spread(spread)
    return Forecaster.load(directory)


def rows_of(told: dict[str, Any], **wanted: Any) -> np.ndarray:
    """The quantiles ``[n, Q]`` in the rows whose columns have the values that are wanted."""
    keep = np.ones(len(told["q0.5"]), dtype=bool)
    for name, value in wanted.items():
        keep &= told[name] == value
    return np.stack([told[name][keep] for name in told if name.startswith("q")], axis=1)
