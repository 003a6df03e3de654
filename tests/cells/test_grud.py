"""GRU-D against its paper, from the series with its gaps to the states."""

import numpy as np
import pytest
import torch

from tests.cells.papers import (
    D,
    H,
    assert_uniform,
    blocks,
    check_equations,
    check_gradients,
    drawn,
    sigmoid,
)
from tests.cells.test_observed import series
from tests.compare import assert_close_by_name, run_recurrent
from unrolled import Recurrent
from unrolled.cells import GRUD, observed

V = 2  # D = 3V + 2
MEAN = [0.25, -0.75]


def gated(w, filled, m, decay, h):
    """The second half of the equations, from x̂, m and γ_h on."""
    zeros = np.zeros(3 * H)
    b_r, b_z, b_n = blocks(w.get("bias_ih", zeros) + w.get("bias_hh", zeros), 3)
    (u_r, u_z, u_n), (w_r, w_z, w_n) = blocks(w["weight_ih"], 3), blocks(w["weight_hh"], 3)
    v = np.concatenate([filled, m], -1)
    h = decay * h
    r = sigmoid(v @ u_r.T + h @ w_r.T + b_r)
    z = sigmoid(v @ u_z.T + h @ w_z.T + b_z)
    n = np.tanh(v @ u_n.T + (r * h) @ w_n.T + b_n)
    return (1 - z) * h + z * n


def of_features(w, x, h):
    """A step, of what ``observed`` gives."""
    last, m, delta = (x[:, k * V : (k + 1) * V] for k in range(3))
    fade = np.exp(-np.maximum(0, w["weight_dx"] * delta + w.get("bias_dx", 0)))
    decay = np.exp(-np.maximum(0, delta @ w["weight_dh"].T + w.get("bias_dh", 0)))
    filled = m * last + (1 - m) * (fade * last + (1 - fade) * np.array(MEAN))
    return (gated(w, filled, m, decay, h),)


def of_series(w, x, times):
    """Every state of one sequence ``[T, V]`` with NaN, by the paper alone."""
    h, last, states = np.zeros(H), np.array(MEAN), []
    m = delta = np.zeros(V)
    for t, row in enumerate(x):
        if t:
            gap = times[t] - times[t - 1]
            delta = gap + np.where(m, 0, delta)
        m = ~np.isnan(row)
        gamma_x = np.exp(-np.maximum(0, w["weight_dx"] * delta + w["bias_dx"]))
        gamma_h = np.exp(-np.maximum(0, w["weight_dh"] @ delta + w["bias_dh"]))
        x_hat = np.where(m, row, gamma_x * last + (1 - gamma_x) * np.array(MEAN))
        last = np.where(m, row, last)
        h = gated(w, x_hat, m, gamma_h, h)
        states.append(h)
    return np.array(states)


def test_a_step_is_its_equations() -> None:
    for options in ({}, {"bias": False}):
        check_equations(GRUD(D, H, mean=MEAN, **options), of_features)


def test_without_variables_the_state_fades_with_the_gap() -> None:
    def step(w, x, h):
        decay = np.exp(-np.maximum(0, x[:, -2:-1] @ w["weight_dh"].T + w["bias_dh"]))
        return (gated(w, x[:, : D - 2], x[:, :0], decay, h),)

    check_equations(GRUD(D, H, variables=0), step)


def test_what_is_always_there_goes_the_way_of_a_value() -> None:
    cell = drawn(GRUD(D, H, variables=1, mean=0.4))
    plain = drawn(GRUD(D, H, variables=0))
    assert cell.weight_ih.shape == (3 * H, 5) and plain.weight_ih.shape == (3 * H, D - 2)
    x = torch.randn(1, D, dtype=torch.float64)
    x[0, 4] = 1  # the mask: known, last, mask, since, gap, seen
    u = cell.project(x)[:, H:]
    expected = torch.cat([x[:, :4], x[:, 4:5]], -1) @ cell.weight_ih.T + cell.bias()
    torch.testing.assert_close(u, expected)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_layer_is_the_paper_from_the_series_on(
    dtype: torch.dtype, most: float, backend: str
) -> None:
    x, times = series(1, steps=40, batch_size=3)
    layer = Recurrent(GRUD, D, H, mean=MEAN, backend=backend)
    drawn(layer.cells[0])  # in float64
    layer.to(dtype)
    weights = {n: p.detach().double().numpy() for n, p in layer.cells[0].named_parameters()}
    y = layer(observed(x.to(dtype), times, fill=layer.cells[0].mean).features).y
    for b in range(3):
        expected = of_series(weights, x[:, b].double().numpy(), times[:, b].numpy())
        np.testing.assert_allclose(y[:, b].detach().numpy(), expected, rtol=0, atol=most)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(GRUD(5, 2, mean=0.4))
    check_gradients(GRUD(4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_kernel_is_the_reference_with_every_gradient(
    bidirectional: bool, dtype: torch.dtype
) -> None:
    x, times = series(2, steps=33, batch_size=5)
    features = observed(x.to(dtype), times).features
    layer = Recurrent(GRUD, D, 7, depth=2, bidirectional=bidirectional).to(dtype)
    found = []
    for backend in ("native", "reference"):
        layer.backend = backend
        state = torch.full((len(layer.cells), 5, 7), 0.5, dtype=dtype)
        found.append(run_recurrent(layer, features, (state,), [33, 20, 1, 0, 32]))
    assert_close_by_name(*found, 2 * 33)


def test_a_missing_value_stops_no_gradient_and_brings_no_nan() -> None:
    x, times = series(3, steps=20)
    x.requires_grad_()
    layer = Recurrent(GRUD, D, H)
    layer(observed(x, times).features).y.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert not x.grad[x.detach().isnan()].any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_stream_reads_row_by_row_what_the_layer_reads_at_once() -> None:
    x, times = series(4, steps=20)
    for depth in (1, 2):
        layer = Recurrent(GRUD, D, H, depth=depth)
        stream, memory, rows = layer.stream(3), None, []
        assert stream.reasons == ()
        for row, time in zip(x, times, strict=True):
            features, memory = observed(row.unsqueeze(0), time.unsqueeze(0), memory)
            rows.append(stream(features[0]))
        whole = layer(observed(x, times).features)
        got = {"y": torch.stack(rows), "state": stream.state[0]}
        want = {"y": whole.y.detach(), "state": whole.state[0].detach()}
        assert_close_by_name(got, want, 2 * 20)


def test_the_mean_is_a_buffer_of_the_first_level_alone() -> None:
    layer = Recurrent(GRUD, D, H, depth=2, mean=MEAN)
    first, second = layer.cells
    assert first.mean.tolist() == pytest.approx(MEAN) and second.variables == 0
    assert second.input_size == H + 2
    assert "cells.0.mean" in layer.state_dict()
    assert torch.equal(GRUD(D, H, mean=0.5).mean, torch.tensor([0.5, 0.5]))


def test_every_parameter_is_drawn_from_torch_nns_range() -> None:
    for parameter in GRUD(602, 25).parameters():
        if parameter.numel() > 100:
            assert_uniform(parameter.detach(), -0.2, 0.2)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((2, 5), {}, "^input_size: got 2, expected at least 3"),
        ((8, 5), {"variables": 3}, "^variables: got 3, expected at most 2"),
        ((8, 5), {"mean": [1.0]}, r"^mean: got shape \[1\], expected \[2\], or a number"),
    ],
)
def test_what_it_cannot_take_is_refused(
    sizes: tuple[int, int], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GRUD(*sizes, **options)


def test_it_shows_its_variables() -> None:
    assert repr(GRUD(D, H)) == "GRUD(8, 5, variables=2)"
