"""Quantiles that are too narrow are stretched until they hold what they say."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.series.forecasting import drawn
from unrolled.series import Forecaster
from unrolled.series.calibration import LEAST, MOST, calibrated, stretched
from unrolled.series.models.distributions import LEVELS

STEPS, HORIZON = 3000, 4


def noise(steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"y": np.random.default_rng(seed).normal(20, 3, steps)}


def saying(directory, width: float, frame=None) -> Forecaster:
    """A forecaster that says the same at every step: a normal distribution, as wide as said, in scales."""
    frame = frame or noise(STEPS)
    forecaster = drawn(directory, frame, HORIZON, {"target": "y"}, distribution="normal")
    model = forecaster.network
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.output.bias[1] = float(np.log(np.expm1(width)))
    return forecaster


@pytest.mark.parametrize("width", [0.4, 1.0, 1.6])
def test_a_network_that_is_too_narrow_or_too_wide_is_stretched_to_the_right_coverage(
    tmp_path, width: float
) -> None:
    forecaster = saying(tmp_path / "run", width)
    run = forecaster.run
    spread = calibrated(forecaster.network, run.dataset(), run.settings)
    # 300 values: a share of 2.5 % is met within 0.9 points, and a tail quantile within a tenth
    np.testing.assert_allclose(np.delete(spread.numpy(), 4), 1 / width, rtol=0.25)
    assert spread[4] == 1.0
    run.save_spread(spread)
    fresh = Forecaster.load(run.directory)
    fresh.network = forecaster.network
    covered = fresh.backtest(noise(STEPS, 1), origins=2000).scores.coverage
    for share, within in (("0.8", 0.05), ("0.9", 0.04), ("0.95", 0.03)):
        assert covered[share] == pytest.approx(float(share), abs=within)


def test_a_stretch_has_its_bounds(tmp_path) -> None:
    for width, bound in ((0.01, MOST), (30.0, LEAST)):
        forecaster = saying(tmp_path / f"{width}", width)
        run = forecaster.run
        spread = calibrated(forecaster.network, run.dataset(), run.settings)
        assert np.delete(spread.numpy(), 4).tolist() == [bound] * 8


def test_where_there_is_too_little_to_see_nothing_is_stretched(tmp_path) -> None:
    forecaster = saying(tmp_path / "run", 0.4, noise(60))
    run = forecaster.run
    assert calibrated(forecaster.network, run.dataset(), run.settings).tolist() == [1.0] * 9


def test_missing_values_are_not_seen(tmp_path) -> None:
    frame = noise(STEPS)
    frame["y"][np.random.default_rng(3).random(STEPS) < 0.5] = np.nan
    forecaster = saying(tmp_path / "run", 0.5, frame)
    run = forecaster.run
    spread = calibrated(forecaster.network, run.dataset(), run.settings)
    assert spread.isfinite().all()
    np.testing.assert_allclose(np.delete(spread.numpy(), 4), 2.0, rtol=0.35)


def test_stretched_quantiles_are_in_order() -> None:
    quantiles = torch.from_numpy(stats.norm.ppf(LEVELS)).float()
    spread = Tensor([1.0, 2.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0])
    got = stretched(quantiles, spread)
    assert (got.diff() >= 0).all()
    assert got.sort().values.equal((quantiles * spread).sort().values)
    assert stretched(quantiles + 5, torch.ones(9)).allclose(quantiles + 5)
