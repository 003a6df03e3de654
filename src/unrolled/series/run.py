"""Runs of a forecaster: beside what every run has, the plan of its table and what its columns are like."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from unrolled.errors import DataError, RunError
from unrolled.series.data import Panel, Plan
from unrolled.series.data.origins import Origins, Statistics, seasons_of, sizes_of
from unrolled.series.feeds import ForecastFeed
from unrolled.series.models import ForecastNetwork
from unrolled.training.files import read_json, replace, write_json
from unrolled.training.run import DATA, Run
from unrolled.training.settings import Settings

PANEL, CALIBRATION = "panel.safetensors", "calibration.json"
ARRAYS = (
    "lengths", "offsets", "times", "gaps", "targets", "past", "known", "past_codes", "known_codes",
    "static", "static_codes",
)  # fmt: skip


class ForecastRun(Run):
    """A run that holds a forecaster, and the panel that it is trained on."""

    kinds = {ForecastNetwork.kind: ForecastNetwork}  # noqa: RUF012

    def read(self, config: Mapping[str, Any]) -> None:
        about = config["series"]
        self.plan = Plan.of_record(about["plan"])
        self.statistics = Statistics(**about["statistics"])

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        panel: Panel,
        statistics: Statistics,
        model_config: Mapping[str, Any],
        settings: Settings,
        command: Mapping[str, Any],
    ) -> "ForecastRun":
        """Write the files that define a run; see ``Run.written``."""
        (directory / DATA).mkdir(exist_ok=True)
        arrays = {name: np.ascontiguousarray(getattr(panel, name)) for name in ARRAYS}
        replace(directory / DATA / PANEL, save(arrays))
        return cls.written(
            directory,
            kind=ForecastNetwork.kind,
            series={"plan": panel.plan.record(), "statistics": statistics._asdict()},
            model_config=model_config,
            settings=settings,
            command=command,
        )

    def new_model(self) -> ForecastNetwork:
        return cast(ForecastNetwork, super().new_model())

    def model(self) -> ForecastNetwork:
        return cast(ForecastNetwork, super().model())

    def panel(self) -> Panel:
        """The panel that it was trained on."""
        path = self.directory / DATA / PANEL
        try:
            arrays: dict[str, Any] = load_file(path)
            whole = {name: arrays[name] for name in ARRAYS}
            keys: list[tuple[str, ...]] = [()] * len(whole["lengths"])  # training knows no names
            return Panel(
                plan=self.plan,
                clock=self.plan.clock,
                keys=keys,
                key_columns={},
                future=0,
                **whole,
            )
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; what the run was trained on is not there"
            ) from None
        except (KeyError, ValueError, OSError, SafetensorError) as error:
            raise RunError(f"{path}: damaged ({error})") from None

    def dataset(self) -> Origins:
        return self.origins(self.panel())

    def origins(self, panel: Panel) -> Origins:
        """``panel`` as the network reads it."""
        return Origins(panel, self.statistics, seasons_of(self.plan), self.model_config["horizon"])

    def feed(self, model: ForecastNetwork, data: Origins) -> ForecastFeed:
        return ForecastFeed(model, data, self.settings)

    @property
    def is_calibrated(self) -> bool:
        """Whether its quantiles are stretched to be right on the validation split."""
        return (self.directory / CALIBRATION).exists()

    def spread(self) -> torch.Tensor:
        """By what each quantile's distance from the median is stretched; 1 before it is calibrated."""
        path = self.directory / CALIBRATION
        count = len(self.model_config["levels"])
        if not self.is_calibrated:
            return torch.ones(count)
        spread = read_json(path).get("spread")
        if not isinstance(spread, list) or len(spread) != count:
            raise RunError(f"{path}: damaged, expected {count} numbers under 'spread'")
        return torch.tensor(spread, dtype=torch.float32)

    def save_spread(self, spread: torch.Tensor) -> None:
        """Keep what ``calibrated`` found."""
        write_json(self.directory / CALIBRATION, {"spread": [round(x, 6) for x in spread.tolist()]})


def network_config(plan: Plan, horizon: int, **options: Any) -> dict[str, Any]:
    """The arguments of a network for such a plan."""
    return {**sizes_of(plan, horizon), **options}
