"""The forecasters that others use, each where it is installed: from a set to its forecasts.

A peer is given what stands before the origins that are scored, and the time to train. It returns quantiles
``[N, horizon, Q]`` at the origins, in their order, or ``None`` where it cannot serve the set.

LightGBM comes with the extra ``bench``. statsforecast, darts and neuralforecast need pandas below 3 and
are installed by hand.
"""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Task(NamedTuple):
    """Series to be forecast: ``values`` of each ``[T]``, the first ``train`` steps of which train.

    ``origins``: of each series, the steps from which it is forecast. The features of a series are left out:
    peers are given its values alone, and what the calendar says by the length of its seasons.
    """

    values: list[Floats]
    train: list[int]
    origins: list[NDArray[np.int64]]
    horizon: int
    seasons: Sequence[int]
    levels: Sequence[float]
    minutes: float
    seed: int


def lags_of(task: Task) -> list[int]:
    """The lags that trees read: the last values, and those about a season and two before."""
    lags = set(range(1, 13))
    for season in task.seasons:
        lags |= {season - 1, season, season + 1, 2 * season}
    return sorted(lag for lag in lags if 0 < lag < min(task.train) // 2)


def trees(task: Task) -> Floats | None:
    """Gradient-boosted trees on lagged values, a model for each step ahead and quantile (LightGBM)."""
    import lightgbm

    lags = lags_of(task)
    scaled = [
        (v - np.nanmean(v[:n])) / (np.nanstd(v[:n]) or 1.0)
        for v, n in zip(task.values, task.train, strict=True)
    ]
    longest = max(lags)

    def features(k: int, origins: NDArray[np.int64]) -> Floats:
        values = scaled[k]
        columns = [
            np.where(origins - lag + 1 >= 0, values[np.maximum(origins - lag + 1, 0)], np.nan)
            for lag in lags
        ]
        for season in task.seasons:
            phase = 2 * np.pi * (origins % season) / season
            columns += [np.sin(phase), np.cos(phase)]
        columns.append(np.full(len(origins), float(k)))
        return np.stack(columns, 1)

    rows = [np.arange(longest, n - 1) for n in task.train]
    inputs = np.concatenate([features(k, r) for k, r in enumerate(rows)])
    asked = np.concatenate([features(k, o) for k, o in enumerate(task.origins)])
    series = np.concatenate([np.full(len(o), k) for k, o in enumerate(task.origins)])
    result = np.empty((len(asked), task.horizon, len(task.levels)))
    began, budget = time.monotonic(), 60 * task.minutes
    for h in range(1, task.horizon + 1):
        ahead = np.concatenate(
            [
                np.where(r + h < n, scaled[k][np.minimum(r + h, n - 1)], np.nan)
                for k, (r, n) in enumerate(zip(rows, task.train, strict=True))
            ]
        )
        there = np.isfinite(ahead)
        for q, level in enumerate(task.levels):
            left = budget - (time.monotonic() - began)
            if left < 0 and h > 1:  # the time is over: what is left is said as the step before
                result[:, h - 1, q] = result[:, h - 2, q]
                continue
            model = lightgbm.LGBMRegressor(
                objective="quantile", alpha=level, n_estimators=60, num_leaves=31, learning_rate=0.1,
                n_jobs=1, random_state=task.seed, verbosity=-1,
            )  # fmt: skip
            model.fit(inputs[there], ahead[there])
            result[:, h - 1, q] = model.predict(asked)
    mean = np.array([np.nanmean(v[:n]) for v, n in zip(task.values, task.train, strict=True)])
    spread = np.array(
        [np.nanstd(v[:n]) or 1.0 for v, n in zip(task.values, task.train, strict=True)]
    )
    return np.sort(result * spread[series][:, None, None] + mean[series][:, None, None], -1)


def ets(task: Task) -> Floats | None:
    """Exponential smoothing, its form chosen by AICc, refitted at no origin (AutoETS of statsforecast)."""
    from statsforecast.models import AutoETS

    parts = []
    for values, n, origins in zip(task.values, task.train, task.origins, strict=True):
        season = task.seasons[0] if task.seasons and task.seasons[0] <= 24 else 1
        filled = np.array(values)
        for t in np.flatnonzero(~np.isfinite(filled)):
            filled[t] = filled[t - 1] if t else np.nanmean(values)
        model = AutoETS(season_length=season)
        model.fit(filled[:n])
        share = [
            round(100 * (b - a))
            for a, b in zip(task.levels, task.levels[::-1], strict=True)
            if b > a
        ]
        rows = []
        for origin in origins:
            told = model.forward(filled[: origin + 1], h=task.horizon, level=share)
            columns = []
            for level in task.levels:
                if abs(level - 0.5) < 1e-9:
                    columns.append(told["mean"])
                else:
                    side = "lo" if level < 0.5 else "hi"
                    columns.append(told[f"{side}-{round(100 * abs(1 - 2 * level))}"])
            rows.append(np.stack(columns, -1))
        parts.append(np.stack(rows))
    return np.concatenate(parts)


def darts_block(task: Task) -> Floats | None:
    """Darts' BlockRNNModel, an LSTM of 64 units, with quantile regression."""
    return _darts(task, "BlockRNNModel")


def darts_rnn(task: Task) -> Floats | None:
    """Darts' RNNModel, an LSTM of 64 units."""
    return _darts(task, "RNNModel")


def trainer(task: Task) -> dict[str, Any]:
    """What both libraries tell their trainer."""
    return {
        "accelerator": "cpu",
        "max_time": {"minutes": task.minutes},
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }


def _darts(task: Task, name: str) -> Floats | None:
    from darts import TimeSeries, models
    from darts.utils.likelihood_models import QuantileRegression

    length = min(max([*task.seasons, 0]) + task.horizon, min(task.train) // 2)
    sizes: dict[str, Any] = {
        "hidden_dim": 64,
        "batch_size": 64,
        "random_state": task.seed,
        "n_epochs": 1000,
        "likelihood": QuantileRegression(list(task.levels)),
        "pl_trainer_kwargs": trainer(task),
    }
    if name == "RNNModel":
        model = models.RNNModel(
            model="LSTM",
            input_chunk_length=length,
            training_length=length + task.horizon,
            **sizes,
        )
    else:
        model = models.BlockRNNModel(
            model="LSTM",
            input_chunk_length=length,
            output_chunk_length=task.horizon,
            **sizes,
        )
    scales = [
        (np.nanmean(v[:n]), np.nanstd(v[:n]) or 1.0)
        for v, n in zip(task.values, task.train, strict=True)
    ]
    filled = [np.nan_to_num((v - m) / s) for v, (m, s) in zip(task.values, scales, strict=True)]
    model.fit([TimeSeries.from_values(v[:n]) for v, n in zip(filled, task.train, strict=True)])
    parts = []
    for values, origins, (mean, spread) in zip(filled, task.origins, scales, strict=True):
        told = model.historical_forecasts(
            TimeSeries.from_values(values), start=int(origins[0]) + 1, start_format="position",
            forecast_horizon=task.horizon, retrain=False, last_points_only=False, num_samples=100,
            verbose=False,
        )  # fmt: skip
        said = np.stack(
            [np.quantile(one.all_values()[:, 0, :], task.levels, axis=-1).T for one in told]
        )
        parts.append(said[: len(origins)] * spread + mean)
    return np.sort(np.concatenate(parts), -1)


def _neural(task: Task, name: str) -> Floats | None:
    import pandas
    from neuralforecast import NeuralForecast, models
    from neuralforecast.losses.pytorch import DistributionLoss, MQLoss

    size = min(max([*task.seasons, 0]) + task.horizon, min(task.train) // 2)
    loss = (
        MQLoss(quantiles=list(task.levels))
        if name == "LSTM"
        else DistributionLoss("StudentT", quantiles=list(task.levels), return_params=False)
    )
    common: dict[str, Any] = {
        "h": task.horizon,
        "input_size": size,
        "loss": loss,
        "max_steps": 100_000,
        "scaler_type": "robust",
        "random_seed": task.seed,
        **trainer(task),
    }
    sizes = {"encoder_hidden_size": 64} if name == "LSTM" else {"lstm_hidden_size": 64}
    model = NeuralForecast([getattr(models, name)(**common, **sizes)], freq=1)
    frames = [
        pandas.DataFrame({"unique_id": k, "ds": np.arange(len(v)), "y": np.nan_to_num(v)})
        for k, v in enumerate(task.values)
    ]
    model.fit(pandas.concat([f[:n] for f, n in zip(frames, task.train, strict=True)]))
    parts = []
    for k, origins in enumerate(task.origins):
        rows = []
        for origin in origins:  # a window for each origin
            told = model.predict(frames[k][: origin + 1])
            columns = [c for c in told.columns if c not in ("unique_id", "ds")]
            rows.append(told[columns].to_numpy()[:, -len(task.levels) :])
        parts.append(np.stack(rows))
    return np.sort(np.concatenate(parts), -1)


def neural_lstm(task: Task) -> Floats | None:
    """Neuralforecast's LSTM of 64 units, with the multi-quantile loss."""
    return _neural(task, "LSTM")


def neural_deepar(task: Task) -> Floats | None:
    """Neuralforecast's DeepAR, an LSTM of 64 units, with Student's t."""
    return _neural(task, "DeepAR")


PEERS: dict[str, tuple[str, Callable[[Task], Floats | None]]] = {
    "LightGBM": ("lightgbm", trees),
    "AutoETS": ("statsforecast", ets),
    "darts BlockRNN": ("darts", darts_block),
    "darts RNN": ("darts", darts_rnn),
    "neuralforecast LSTM": ("neuralforecast", neural_lstm),
    "neuralforecast DeepAR": ("neuralforecast", neural_deepar),
}
"""Each peer with the package that it needs."""


def installed() -> list[str]:
    """The peers whose packages are there."""
    return [name for name, (package, _) in PEERS.items() if find_spec(package) is not None]
