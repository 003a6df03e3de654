"""Forecasts of series: fit on a table, predict, back-test."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.errors import CallError
from unrolled.series.backtest import Backtest
from unrolled.series.calibration import calibrated
from unrolled.series.data import Panel, Roles, frame_like, panel_of
from unrolled.series.data.origins import Origins, Statistics, seasons_of, statistics_of
from unrolled.series.feeds import ForecastFeed
from unrolled.series.forecast import Forecast
from unrolled.series.models import DISTRIBUTIONS, ForecastNetwork
from unrolled.series.models.distributions import LEVELS
from unrolled.series.models.forecast import CELLS
from unrolled.series.passes import Asked
from unrolled.series.predicting import columns_of, predicted
from unrolled.series.run import ForecastRun, network_config
from unrolled.series.stream import ForecastStream
from unrolled.shapes import check_fraction, check_size
from unrolled.training import Callback, Settings, Trainer, steps_of
from unrolled.training.run import beginning, place_of_a_run

Floats = NDArray[np.float64]
Names = str | Sequence[str]

ORIGINS, TESTED = 1000, 50_000  # of each series, and of all, on the test split
STEPS, EPOCHS = 800, 3.0  # of a training, at least, where neither minutes nor epochs are given

OPTIONS = (
    "horizon", "quantiles", "cell", "hidden_size", "depth", "dropout", "distribution", "minutes", "epochs",
    "learning_rate", "season", "validation_share", "test_share", "batch_steps", "threads", "seed",
)  # fmt: skip
"""The arguments of a forecaster that are kept with its run, beside "frequency"."""

RECIPE: dict[str, Any] = {
    "optimizer": "adam",
    "schedule": "cosine",
    "weight_decay": 1e-4,
    "clip": 1.0,
    "evaluations": 20,
    "patience": 5,
    "average": 0.99,
}
"""What every forecaster is trained with."""


def checked_levels(quantiles: Any, within: tuple[float, float] = (0.0, 1.0)) -> tuple[float, ...]:
    """Levels of quantiles as numbers; ``within``: of those that a network has learnt.

    Raises:
        ValueError: they are none, or not between 0 and 1, or further out than what is learnt.
    """
    expected = "levels between 0 and 1, such as (0.1, 0.5, 0.9)"
    if isinstance(quantiles, str) or not isinstance(quantiles, Iterable):
        raise ValueError(f"quantiles: got {quantiles!r}, expected {expected}")
    levels = list(quantiles)
    if not levels:
        raise ValueError(f"quantiles: got none, expected {expected}")
    for level in levels:
        is_number = isinstance(level, Real) and not isinstance(level, bool)
        if not is_number or not 0 < float(level) < 1:
            raise ValueError(f"quantiles: got {level!r}, expected {expected}")
        if not within[0] <= round(float(level), 9) <= within[1]:
            raise ValueError(
                f"quantiles: got {level!r}, expected levels from {within[0]:g} to {within[1]:g}, "
                "which the network has learnt; Forecaster(quantiles=…) says which it learns"
            )
    return tuple(map(float, levels))


def levels_of(quantiles: Sequence[float]) -> list[float]:
    """The levels that a network learns: those asked for, as many on the other side, and ``LEVELS``.

    Raises:
        ValueError: a level is not between 0 and 1.
    """
    asked = checked_levels(quantiles)
    return sorted({round(x, 9) for q in (*asked, *LEVELS) for x in (q, 1 - q)} | {0.5})


def network_of(panel: Panel, options: Mapping[str, Any]) -> tuple[Statistics, dict[str, Any]]:
    """What a network that is to learn from ``panel`` is: what columns are like, and its arguments.

    ``options``: ``horizon``, ``quantiles`` and the other arguments of ``Forecaster`` by name.

    Raises:
        CallError: the distribution is one of counts, and a target is none.
    """
    if DISTRIBUTIONS[options["distribution"]].is_of_counts:
        for name in panel.plan.targets:
            if not panel.plan.column(name).is_count:
                raise CallError(
                    f"distribution: got {options['distribution']!r} for the target {name!r}, which "
                    f"is not a count (it is {panel.plan.column(name).told}); expected another, such as "
                    "'quantiles'"
                )
    config = network_config(
        panel.plan,
        options["horizon"],
        levels=levels_of(options["quantiles"]),
        **{
            name: options[name]
            for name in ("hidden_size", "cell", "depth", "dropout", "distribution")
        },
    )
    return statistics_of(panel), config


def begin(
    directory: Path, panel: Panel, options: dict[str, Any], command: dict[str, Any]
) -> ForecastRun:
    """A new run in ``directory``, in which a forecaster is to be trained on ``panel``.

    Raises:
        CallError: as of ``network_of``, whose ``options`` these are.
    """
    statistics, config = network_of(panel, options)
    known = ("seed", "epochs", "minutes", "batch_steps", "optimizer", "learning_rate", "schedule",
             "weight_decay", "clip", "evaluations", "patience", "threads", "average")  # fmt: skip
    settings = Settings(**{name: options[name] for name in known}, steps=1)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = ForecastNetwork(**config)
    data = Origins(panel, statistics, seasons_of(panel.plan), options["horizon"])
    if settings.minutes is None and settings.epochs is None:
        an_epoch = len(ForecastFeed(model, data, settings))
        settings = replace(settings, epochs=max(EPOCHS, STEPS / an_epoch))
    settings = settings.with_steps(
        steps_of(model, settings, lambda model, settings: ForecastFeed(model, data, settings))
    )
    return ForecastRun.create(
        directory,
        panel=panel,
        statistics=statistics,
        model_config=config,
        settings=settings,
        command=command,
    )


def calibrate(run: ForecastRun, data: Origins) -> None:
    """Stretch the quantiles of a trained run until they are right on its validation split."""
    run.save_spread(calibrated(run.model(), data, run.settings))


def tested(run: ForecastRun, data: Origins) -> Backtest | None:
    """The back-test of a run on the steps that were held out for test; ``None`` if there are none.

    From the last 1,000 origins of each series at most, fewer if there are many series.
    """
    model = run.model()
    ends = data.panel.splits()[:, 1]
    last = data.lengths - 1 - model.horizon
    counts = np.where(ends < data.lengths, np.maximum(last - ends + 2, 0), 0)
    most = max(1, min(ORIGINS, TESTED // max(1, int((counts > 0).sum()))))
    asked = last_origins(last, np.minimum(counts, most))
    if not len(asked.steps):
        return None
    told = predicted(model, run.spread(), data, asked, model.horizon)
    return Backtest.of(data, asked, told, model.distribution.levels, None)


def last_origins(last: NDArray[np.int64], counts: NDArray[np.int64]) -> Asked:
    """So many origins of each series, the last of which is ``last``, ``[N]`` both."""
    series = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Asked((last - counts + 1)[series] + within, series)


class Forecaster:
    """Forecasts of one series or of many, by a recurrent network.

        >>> import numpy as np
        >>> from unrolled.series import Forecaster
        >>> t = np.arange(400)
        >>> frame = {"t": t, "y": 10 + np.sin(t * np.pi / 6)}
        >>> forecaster = Forecaster(horizon=6, epochs=2).fit(frame, time="t", target="y")
        >>> sorted(forecaster.predict(frame))
        ['q0.1', 'q0.5', 'q0.9', 't']

    Args:
        horizon: how many steps ahead it learns to forecast; ``predict`` may ask for more.
        quantiles: the levels that ``predict`` gives; any others can be asked for there.
        cell: "lstm", "gru", "elman", or for irregular times "continuous-time-lstm".
        hidden_size: H, the hidden units of a layer.
        depth: L, how many layers.
        dropout: the share of features dropped in training.
        distribution: what the network gives: "quantiles" themselves, or the parameters of "normal",
            "student-t", "mixture", or for counts "negative-binomial".
        minutes, epochs: how long it trains: a time, or passes over the table. By default at least 3
            passes and 800 steps; it stops earlier if the validation split gains no more.
        learning_rate: at its highest.
        season: the steps of a season; by default that of the frequency, such as 24 of hours.
        frequency: of the times: "infer", a name such as "hour" or "30min", or ``None``: they are irregular.
        validation_share, test_share: of the steps of each series, its last ones, which are not trained on.
        batch_steps: steps of all windows of a batch.
        threads: processor threads; by default PyTorch's number.
        seed: the source of all chance.
        out: the run directory that is made; by default a temporary one.

    Attributes:
        run: the ``ForecastRun``, after ``fit`` or ``load``; ``run.plan`` says what the table is.
        network: its ``ForecastNetwork``, in eval mode.
    """

    def __init__(
        self,
        horizon: int,
        *,
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        cell: str = "lstm",
        hidden_size: int = 64,
        depth: int = 1,
        dropout: float = 0.1,
        distribution: str = "quantiles",
        minutes: float | None = None,
        epochs: float | None = None,
        learning_rate: float = 5e-3,
        season: int | None = None,
        frequency: str | int | None = "infer",
        validation_share: float = 0.1,
        test_share: float = 0.0,
        batch_steps: int = 1024,
        threads: int | None = None,
        seed: int = 0,
        out: Path | str | None = None,
    ) -> None:
        self.horizon = check_size("horizon", horizon)
        self.quantiles = checked_levels(quantiles)
        if cell not in CELLS:
            raise ValueError(f"cell: got {cell!r}, expected one of {', '.join(CELLS)}")
        if distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution: got {distribution!r}, expected one of {', '.join(DISTRIBUTIONS)}"
            )
        if minutes is not None and epochs is not None:
            raise ValueError(
                f"minutes: got {minutes!r} with epochs={epochs!r}, expected one of them"
            )
        check_fraction("validation_share", validation_share)
        check_fraction("test_share", test_share)
        if threads is not None:
            check_size("threads", threads)
        self.cell, self.hidden_size, self.depth, self.dropout = cell, hidden_size, depth, dropout
        self.distribution, self.minutes, self.epochs = distribution, minutes, epochs
        self.learning_rate, self.season, self.frequency = learning_rate, season, frequency
        self.validation_share, self.test_share = validation_share, test_share
        self.batch_steps, self.threads, self.seed = batch_steps, threads, seed
        self.out = None if out is None else Path(out)
        self._temporary: _Temporary | None = None
        self._run: ForecastRun | None = None

    @classmethod
    def load(cls, directory: Path | str) -> "Forecaster":
        """The forecaster in the run ``directory``, made here or by ``unrolled train series``."""
        run = ForecastRun(directory)
        known = run.command | run.model_config
        options = {name: known[name] for name in OPTIONS if known.get(name) is not None}
        if "minutes" in options:
            options.pop("epochs", None)
        forecaster = cls(**options, frequency=run.command.get("frequency", "infer"))
        forecaster._take(run)
        return forecaster

    def fit(
        self,
        frame: Any,
        *,
        target: Names,
        time: str | None = None,
        series: Names = (),
        known: Names = (),
        past: Names = (),
        static: Names = (),
        categories: Names = (),
        callbacks: Sequence[Callback] = (),
    ) -> "Forecaster":
        """Train on a table in long format: a row for each series and time.

        Args:
            frame: of pandas, polars, PyArrow or another library that narwhals knows, or a mapping from
                names to columns; see the guide on series' tables.
            target: the column to forecast, or several.
            time: the column of times; without one the rows of a series are its steps.
            series: the column, or columns, that name the series.
            known: columns that are known ahead.
            past: columns that are known up to now.
            static: columns that do not change within a series.
            categories: those of these columns that are no quantities though they are numbers.
            callbacks: what follows the training.

        Raises:
            CallError: a column is not there, or has two roles.
            DataError: the table is not one of series; the row is named.
            RunError: the training diverged, or ``out`` cannot be used.
        """
        panel = self.panel(
            frame,
            target=target,
            time=time,
            series=series,
            known=known,
            past=past,
            static=static,
            categories=categories,
        )
        if self.out is None:
            self._temporary = _Temporary()
            directory = self._temporary.path / "run"
        else:
            directory = self.out
        options = self.options()
        with place_of_a_run(directory, is_new=True), beginning(directory):
            run = begin(directory, panel, options, {"kind": "series", **options})
        trainer = Trainer(run)
        trainer.train(callbacks)
        calibrate(run, trainer.data)
        self._take(run)
        return self

    def panel(self, frame: Any, *, target: Names, time: str | None = None, **roles: Names) -> Panel:
        """What ``fit`` understands of a table, whose columns it names; ``panel.plan`` can be printed."""
        return panel_of(
            frame,
            Roles(time, target, **roles),  # type: ignore[arg-type]
            frequency=self.frequency,
            season=self.season,
            shares=(self.validation_share, self.test_share),
            least=self.horizon,
        )

    def options(self) -> dict[str, Any]:
        """The arguments that decide what is trained, by name, with those of ``RECIPE``."""
        options = {name: getattr(self, name) for name in (*OPTIONS, "frequency")}
        options["quantiles"] = list(self.quantiles)
        options["threads"] = self.threads or torch.get_num_threads()
        return options | RECIPE

    def _take(self, run: ForecastRun) -> None:
        self._run, self.network, self.spread = run, run.model(), run.spread()

    def _levels(self, quantiles: Sequence[float] | None) -> tuple[float, ...]:
        """Those that are asked for, or those of the forecaster."""
        learnt = self.network.distribution.levels
        return (
            self.quantiles
            if quantiles is None
            else checked_levels(quantiles, (learnt[0], learnt[-1]))
        )

    @property
    def run(self) -> ForecastRun:
        """The run directory.

        Raises:
            CallError: there is none yet.
        """
        if self._run is None:
            raise CallError(
                "forecaster: got one that is not fitted, expected fit(…) or load(…) before"
            )
        return self._run

    def predict(
        self,
        frame: Any,
        *,
        horizon: int | None = None,
        quantiles: Sequence[float] | None = None,
        future: Any = None,
    ) -> Any:
        """What comes after the last value of each series.

        Args:
            frame: as that of ``fit``, of the same or of other series. Where columns are known ahead, it
                has rows for what comes too, without targets.
            horizon: how many steps; by default as many as were learnt.
            quantiles: the levels; by default those of the forecaster. Between two that were learnt they
                are interpolated, beyond them there is none.
            future: a frame of the rows to come, if ``frame`` does not have them.

        Returns:
            A frame of the same kind: the columns of the series and of the time by their names, then "q0.1",
            "q0.5" … With several targets a column "target" says which.

        Raises:
            CallError, DataError: as of ``fit``; or the table is not like that of ``fit``.
        """
        forecast = self.forecast(frame, horizon=horizon, quantiles=quantiles, future=future)
        return frame_like(frame, forecast.columns())

    def forecast(
        self,
        frame: Any,
        *,
        horizon: int | None = None,
        quantiles: Sequence[float] | None = None,
        future: Any = None,
    ) -> Forecast:
        """The same as ``predict`` gives, with the series it comes after: for ``Forecast.page``."""
        run = self.run
        steps = self.network.horizon if horizon is None else check_size("horizon", horizon)
        levels, wanted = self.network.distribution.levels, self._levels(quantiles)
        panel = panel_of(frame, run.plan, horizon=steps, future=future)
        asked = Asked(panel.lengths - 1, np.arange(len(panel)))
        told = predicted(self.network, self.spread, run.origins(panel), asked, steps)
        return Forecast(panel, told, tuple(levels), tuple(wanted))

    def backtest(self, frame: Any, *, origins: int = 1000, horizon: int | None = None) -> Backtest:
        """What it would have said at the last ``origins`` steps of each series that have a whole future.

        One pass over each series: no origin is read anew. An origin in what it was trained on tells nothing
        of how well it does; ``Forecaster(test_share=…)`` keeps some steps from it.

        Args:
            frame: as of ``predict``.
            origins: how many of each series, at most; fewer in a short one.
            horizon: how many steps ahead; by default as many as were learnt.

        Raises:
            CallError, DataError: as of ``predict``; or no series is longer than ``horizon``.
        """
        run = self.run
        check_size("origins", origins)
        steps = self.network.horizon if horizon is None else check_size("horizon", horizon)
        panel = panel_of(frame, run.plan)
        last = panel.lengths - 1 - steps
        counts = np.clip(last + 1, 0, origins)
        if not counts.any():
            longest = int(panel.lengths.max())
            raise CallError(
                f"horizon: got {steps}, expected fewer: no series has more than {longest} steps"
            )
        asked = last_origins(last, counts)
        data = run.origins(panel)
        told = predicted(self.network, self.spread, data, asked, steps)
        levels = self.network.distribution.levels
        columns = columns_of(panel, asked, told, levels, self.quantiles, with_origin=True)
        return Backtest.of(data, asked, told, levels, frame_like(frame, columns))

    def stream(
        self, frame: Any = None, *, quantiles: Sequence[float] | None = None, future: Any = None
    ) -> ForecastStream:
        """A stream that takes the rows of series as they come, and says at each what comes next.

        Args:
            frame: the histories of series, as of ``predict``, with which they begin; others begin with
                their first row.
            quantiles: the levels, as of ``predict``.
            future: as of ``predict``.

        Raises:
            CallError, DataError: as of ``predict``.
        """
        run = self.run
        stream = ForecastStream(run, self.network, self.spread, self._levels(quantiles))
        if frame is not None:
            stream.read(frame, future=future)
        return stream


class _Temporary:
    """A directory that goes with the last forecaster that has it; a pickled one has its path alone."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="unrolled-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
