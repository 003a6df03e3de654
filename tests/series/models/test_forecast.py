"""The forecaster's network against its equations, written out with loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from unrolled.series.data.origins import Ahead
from unrolled.series.models import DISTRIBUTIONS, ForecastNetwork
from unrolled.series.models.distributions import LEVELS

N, T, H, HORIZON, TARGETS, KNOWN, LAGS = 3, 5, 7, 4, 2, 3, 3
SIZES = {
    "horizon": HORIZON, "targets": TARGETS, "inputs": 6, "known": KNOWN, "lags": LAGS,
    "input_levels": [[4, 2], [3, 1]], "known_levels": [[4, 2]], "levels": LEVELS, "width": 5,
}  # fmt: skip


def network(**changed: object) -> ForecastNetwork:
    model = ForecastNetwork(H, **{**SIZES, **changed}).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape), alpha=0.3)
    return model


def ahead(known: int = KNOWN, codes: int = 1) -> Ahead:
    return Ahead(
        torch.randn(N, HORIZON, known), torch.randint(0, 4, (N, HORIZON, codes)),
        torch.randn(N, HORIZON, TARGETS, LAGS), torch.randn(N, TARGETS), torch.rand(N, TARGETS) + 1,
        torch.randn(N, HORIZON, TARGETS),
    )  # fmt: skip


def by_hand(model: ForecastNetwork, states: Tensor, given: Ahead) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and base as the docstring of the network has them, one at a time."""
    weights = {name: value.double().detach().numpy() for name, value in model.named_parameters()}
    width, size = model.inner.in_features, model.distribution.size
    told = np.empty((N, HORIZON, TARGETS, size))
    base = np.empty((N, HORIZON, TARGETS))
    for n in range(N):
        for h in range(HORIZON):
            rows = slice(h * width, (h + 1) * width)
            e = weights["context.weight"][rows] @ states[n].double().numpy()
            e = e + weights["context.bias"][rows]
            k = given.known[n, h].double().numpy()
            for c, code in enumerate(given.known_codes[n, h].tolist()):
                k = np.append(k, weights[f"known_embeddings.{c}.weight"][code])
            if "ahead.weight" in weights:
                e = e + weights["ahead.weight"] @ k
            lags = given.lags[n, h].double().numpy()
            e = np.maximum(e + weights["lagged.weight"] @ lags.ravel(), 0)
            e = e + np.maximum(weights["inner.weight"] @ e + weights["inner.bias"], 0)
            told[n, h] = (weights["output.weight"] @ e + weights["output.bias"]).reshape(
                TARGETS, size
            )
            base[n, h] = (weights["base"][h] * lags).sum(-1)
    return told, base


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_head_is_that_of_its_equations(distribution: str) -> None:
    model, given, states = network(distribution=distribution), ahead(), torch.randn(N, H)
    with torch.no_grad():
        told, near = model.parameters_of(states, given)
    expected, base = by_hand(model, states, given)
    # float32, through four sums of 5 to 10 numbers
    np.testing.assert_allclose(told, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(near.base, base, rtol=1e-5, atol=1e-5)
    assert torch.equal(near.location, given.location.unsqueeze(1).expand(N, HORIZON, TARGETS))
    assert torch.equal(near.scale, given.scale.unsqueeze(1).expand(N, HORIZON, TARGETS))


def test_without_anything_known_ahead_there_is_no_weight_for_it() -> None:
    model, given, states = network(known=0, known_levels=()), ahead(0, 0), torch.randn(N, H)
    assert model.ahead is None
    with torch.no_grad():
        np.testing.assert_allclose(
            model.parameters_of(states, given)[0],
            by_hand(model, states, given)[0],
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize(("lags", "chosen"), [(1, 0), (2, 1), (3, 1)])
def test_it_begins_near_the_value_of_the_season_before(lags: int, chosen: int) -> None:
    model = ForecastNetwork(H, **{**SIZES, "lags": lags})  # type: ignore[arg-type]
    given = ahead()._replace(lags=torch.randn(N, HORIZON, TARGETS, lags))
    _, near = model.parameters_of(torch.randn(N, H), given)
    assert torch.equal(near.base, given.lags[..., chosen])


def test_a_step_reads_numbers_and_codes_and_no_step_after_it() -> None:
    model = network(depth=2)
    inputs, codes = torch.randn(T, N, 6), torch.randint(0, 3, (T, N, 2))
    with torch.no_grad():
        states, final = model.read(inputs, codes)
        first, state = model.read(inputs[:2], codes[:2])
        rest, again = model.read(inputs[2:], codes[2:], state)
    assert states.shape == (T, N, H)
    torch.testing.assert_close(torch.cat([first, rest]), states, rtol=1e-5, atol=1e-6)
    for one, two in zip(final, again, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        other = model.read(inputs, (codes + 1) % 3)[0]
    assert not torch.allclose(other, states)


def test_every_weight_has_a_gradient() -> None:
    model, given = network().train(), ahead()
    states, _ = model.read(torch.randn(T, N, 6), torch.randint(0, 3, (T, N, 2)))
    loss = model.distribution.loss(*model.parameters_of(states[-1], given), given.values).mean()
    loss.backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lacking


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cell": "rnn"}, "cell: got 'rnn', expected one of elman, lstm, gru"),
        ({"distribution": "cauchy"}, "distribution: got 'cauchy', expected one of"),
        ({"inputs": 0}, "inputs: got 0, expected at least 1"),
        ({"lags": 0}, "lags: got 0, expected at least 1"),
        ({"horizon": 5000}, "horizon: got 5000, expected at most 4096"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changed)
