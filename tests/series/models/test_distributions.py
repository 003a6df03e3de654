"""Each distribution against scipy's of that name, by its loss and by its quantiles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from unrolled.series.feeds import mean_loss
from unrolled.series.models import DISTRIBUTIONS
from unrolled.series.models.distributions import LEAST, LEVELS, MIXED, Around, Distribution

N = 200
PRECISE = 1e-9  # float64, through a logarithm of the gamma function


def softplus(x: Tensor) -> np.ndarray:
    return np.logaddexp(0.0, x.numpy())


def around(size: int = N, dtype: torch.dtype = torch.float64) -> Around:
    generator = torch.Generator().manual_seed(1)
    base, location = (torch.randn(size, generator=generator).to(dtype) for _ in range(2))
    return Around(base, 5 + location, 2 + torch.rand(size, generator=generator).to(dtype))


def parameters(distribution: Distribution, size: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(size, distribution.size, generator=generator, dtype=torch.float64)


def frozen(name: str, given: Tensor, near: Around) -> list[stats.rv_continuous]:
    """The same distributions, of scipy; of counts those of the counts themselves."""
    base, location, scale = (part.numpy() for part in near)
    centre, width = base + given[:, 0].numpy(), softplus(given[:, 1]) + LEAST
    if name == "normal":
        return [stats.norm(m, s) for m, s in zip(centre, width, strict=True)]
    if name == "student-t":
        freedom = 2 + softplus(given[:, 2])
        return [stats.t(*row) for row in zip(freedom, centre, width, strict=True)]
    mean, spread = scale * np.logaddexp(0, centre + location / scale) + LEAST, width
    return [stats.nbinom(1 / a, 1 / (1 + a * m)) for a, m in zip(spread, mean, strict=True)]


@pytest.mark.parametrize("name", ["normal", "student-t"])
def test_losses_and_quantiles_are_those_of_scipy(name: str) -> None:
    distribution, near = DISTRIBUTIONS[name](LEVELS), around()
    given = parameters(distribution)
    value = torch.linspace(-4, 4, N, dtype=torch.float64)
    same = frozen(name, given, near)
    np.testing.assert_allclose(
        distribution.loss(given, near, value),
        [-one.logpdf(x) for one, x in zip(same, value.tolist(), strict=True)],
        rtol=PRECISE,
    )
    np.testing.assert_allclose(
        distribution.quantiles(given, near), [one.ppf(LEVELS) for one in same], rtol=PRECISE
    )


def test_counts_are_those_of_a_negative_binomial_distribution() -> None:
    distribution, near = DISTRIBUTIONS["negative-binomial"](LEVELS), around()
    given = parameters(distribution)
    same = frozen("negative-binomial", given, near)
    count = torch.arange(N, dtype=torch.float64) % 23
    loss = distribution.loss(given, near, (count - near.location) / near.scale)
    expected = [-one.logpmf(k) for one, k in zip(same, count.tolist(), strict=True)]
    np.testing.assert_allclose(
        loss, expected, rtol=1e-8
    )  # whose counts are rounded, once there and back
    quantiles = distribution.quantiles(given, near)
    counts = near.location[:, None] + near.scale[:, None] * quantiles
    np.testing.assert_allclose(counts, [one.ppf(LEVELS) for one in same], atol=PRECISE)


def test_a_mixture_is_the_sum_of_its_parts() -> None:
    distribution, near = DISTRIBUTIONS["mixture"](LEVELS), around()
    given = parameters(distribution)
    weights = torch.softmax(given[:, :MIXED], 1).numpy()
    centres = near.base[:, None].numpy() + given[:, MIXED : 2 * MIXED].numpy()
    widths = softplus(given[:, 2 * MIXED :]) + LEAST
    value = np.linspace(-4, 4, N)
    density = (weights * stats.norm.pdf(value[:, None], centres, widths)).sum(1)
    loss = distribution.loss(given, near, torch.from_numpy(value))
    np.testing.assert_allclose(loss, -np.log(density), rtol=PRECISE)
    quantiles = distribution.quantiles(given, near).numpy()
    below = stats.norm.cdf(quantiles[..., None], centres[:, None], widths[:, None])
    # 40 halves of an interval of some 30: its density is 400 at most
    np.testing.assert_allclose((weights[:, None] * below).sum(-1), [LEVELS] * N, atol=1e-7)


def test_of_quantiles_the_loss_is_the_pinball_loss() -> None:
    levels = (0.1, 0.3, 0.5, 0.9)
    distribution, near = DISTRIBUTIONS["quantiles"](levels), around(7)
    given = parameters(distribution, 7)
    value, quantiles = torch.linspace(-3, 3, 7).double(), distribution.quantiles(given, near)
    gaps = torch.nn.functional.softplus(given)
    torch.testing.assert_close(quantiles[:, 2], near.base + given[:, 2])  # the middle one
    torch.testing.assert_close(quantiles.diff(dim=1), gaps[:, [0, 1, 3]])
    for n, loss in enumerate(distribution.loss(given, near, value).tolist()):
        off = [float(value[n] - q) for q in quantiles[n]]
        each = [
            level * e if e > 0 else (level - 1) * e for level, e in zip(levels, off, strict=True)
        ]
        assert loss == pytest.approx(sum(each) / 4)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("levels", [LEVELS, (0.5,), (0.2, 0.5), (0.5, 0.8), (0.4,)])
@given(data=st.data())
def test_no_quantile_crosses_another_and_all_are_finite(name, levels, data) -> None:
    distribution = DISTRIBUTIONS[name](levels)
    numbers = st.lists(
        st.floats(-30, 30, width=32), min_size=3 * distribution.size, max_size=3 * distribution.size
    )
    given = torch.tensor(data.draw(numbers)).reshape(3, distribution.size)
    near = around(3, torch.float32)
    quantiles = distribution.quantiles(given, near)
    assert quantiles.shape == (3, len(levels)) and quantiles.isfinite().all()
    assert (quantiles.diff(dim=-1) >= 0).all()
    loss = distribution.loss(given, near, torch.tensor([-2.0, 0.0, 30.0]))
    assert loss.shape == (3,) and loss.isfinite().all()


class Fixed:
    """Of a network its distribution alone."""

    def __init__(self, name: str) -> None:
        self.distribution = DISTRIBUTIONS[name](LEVELS)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_missing_target_has_no_part_in_loss_and_gradient(name: str) -> None:
    model, near = Fixed(name), around(6)
    given = parameters(model.distribution, 6).requires_grad_()
    value = torch.tensor([1.0, math.nan, 2.0, math.nan, math.nan, 0.0], dtype=torch.float64)
    there = ~value.isnan()
    loss = mean_loss(model, given, near, value)  # type: ignore[arg-type]
    loss.backward()
    each = model.distribution.loss(given[there], Around(*(p[there] for p in near)), value[there])
    assert loss.item() == pytest.approx(each.mean().item(), rel=1e-12)
    assert given.grad is not None and (given.grad[~there] == 0).all()
    assert (given.grad[there] != 0).any(1).all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_where_all_targets_are_missing_nothing_is_learnt(name: str) -> None:
    model = Fixed(name)
    given = parameters(model.distribution, 4).requires_grad_()
    loss = mean_loss(model, given, around(4), torch.full((4,), math.nan))  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0 and given.grad is not None and (given.grad == 0).all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    distribution = DISTRIBUTIONS[name](LEVELS)
    near, value = around(5), torch.tensor([-1.3, 0.2, 0.9, 2.1, 3.7], dtype=torch.float64)
    given = parameters(distribution, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: distribution.loss(g, near, value), (given,))
