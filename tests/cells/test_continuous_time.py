"""The continuous-time LSTM against its paper; splitting a gap changes nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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
from tests.compare import assert_close_by_name, collect, run_recurrent
from unrolled import Recurrent
from unrolled.cells import GRUD, ContinuousTimeLSTM, observed

V = 2


def hawkes(w, x, o, c, target, rate):
    """Equations 4 to 7 of Mei & Eisner, where an event comes; else the decay alone."""
    zeros = np.zeros(7 * H)
    x, gap, seen = x[:, :-2], x[:, -2:-1], x[:, -1:] > 0.5
    c_now = target + (c - target) * np.exp(-rate * gap)
    h_now = o * (2 * sigmoid(2 * c_now) - 1)
    b = w.get("bias_ih", zeros) + w.get("bias_hh", zeros)
    i, f, z, new_o, i_bar, f_bar, delta = (
        x @ u.T + h_now @ v.T + k
        for u, v, k in zip(
            *(blocks(part, 7) for part in (w["weight_ih"], w["weight_hh"], b)), strict=True
        )
    )
    z = 2 * sigmoid(z) - 1
    after = (
        sigmoid(new_o),
        sigmoid(f) * c_now + sigmoid(i) * z,
        sigmoid(f_bar) * target + sigmoid(i_bar) * z,
        np.log1p(np.exp(delta)),
    )
    before = (o, c_now, target, rate)
    return tuple(np.where(seen, new, old) for new, old in zip(after, before, strict=True))


def test_a_step_is_its_equations() -> None:
    for options in ({}, {"bias": False}):
        check_equations(ContinuousTimeLSTM(D, H, **options), hawkes)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(ContinuousTimeLSTM(4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_kernel_is_the_reference_with_every_gradient(
    bidirectional: bool, dtype: torch.dtype
) -> None:
    x, times = series(2, steps=33, batch_size=5, missing=0.7)
    features = observed(x.to(dtype), times).features
    layer = Recurrent(ContinuousTimeLSTM, D, 7, depth=2, bidirectional=bidirectional).to(dtype)
    found = []
    for backend in ("native", "reference"):
        layer.backend = backend
        state = tuple(torch.full((len(layer.cells), 5, 7), k / 4, dtype=dtype) for k in range(4))
        found.append(run_recurrent(layer, features, state, [33, 20, 1, 0, 32]))
    assert_close_by_name(*found, 2 * 33)


def with_empty_rows(
    x: Tensor, times: Tensor, after: list[tuple[int, float]]
) -> tuple[Tensor, Tensor]:
    """The series with a row of NaN after each of these rows, at a share of the gap."""
    rows, at = [], []
    for t in range(len(x)):
        rows.append(x[t])
        at.append(times[t])
        for share in sorted(share for place, share in after if place == t and t + 1 < len(x)):
            rows.append(torch.full_like(x[t], math.nan))
            at.append(times[t] + share * (times[t + 1] - times[t]))
    return torch.stack(rows), torch.stack(at)


def run(layer: Recurrent, x: Tensor, times: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Outputs at the rows to ``keep``, final states and every gradient."""
    y, state = layer(observed(x, times).features)
    named = {f"state {k}": s for k, s in enumerate(state)}
    return collect({"y": y[keep]} | named, dict(layer.named_parameters()))


@given(
    st.integers(0, 999),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=6),
    st.sampled_from([1, 2]),
    st.sampled_from(["native", "reference"]),
)
def test_splitting_a_gap_changes_nothing(
    seed: int, after: list[tuple[int, float]], depth: int, backend: str
) -> None:
    x, times = series(seed, steps=7, missing=0.3)
    torch.manual_seed(seed)
    layer = Recurrent(ContinuousTimeLSTM, D, H, depth=depth, backend=backend).double()
    split, at = with_empty_rows(x.double(), times, after)
    own = [t + sum(place < t for place, _ in after) for t in range(7)]
    expected = run(layer, x.double(), times, torch.arange(7))
    got = run(layer, split, at, torch.tensor(own))
    assert_close_by_name(got, expected, 4 * len(split))  # times are told in float64 as well


def test_of_other_cells_a_split_gap_is_seen() -> None:
    x, times = series(1, steps=7, missing=0.3)
    split, at = with_empty_rows(x, times, [(2, 0.5)])
    layer = Recurrent(GRUD, D, H)
    expected = run(layer, x, times, torch.arange(7))
    with pytest.raises(AssertionError, match="y: "):
        assert_close_by_name(
            run(layer, split, at, torch.tensor([0, 1, 2, 4, 5, 6, 7])), expected, 40
        )


def test_after_the_last_event_the_output_goes_to_its_target() -> None:
    cell = drawn(ContinuousTimeLSTM(D, H))
    x = torch.randn(5, 1, V, dtype=torch.float64)
    x[3:] = math.nan
    times = torch.tensor([0.0, 1.0, 2.0, 2.5, 1e6])
    layer = Recurrent(lambda _, __: cell, D, H)
    found = layer(observed(x, times).features, states=True)
    o, c, e, d = (s[0, :, 0] for s in found.states)
    for s in (o, e, d):
        assert torch.equal(s[3], s[2]) and torch.equal(s[4], s[2])
    torch.testing.assert_close(c[3], e[2] + (c[2] - e[2]) * torch.exp(-d[2] / 2))
    torch.testing.assert_close(found.y[4, 0], o[2] * torch.tanh(e[2]))


def test_a_value_changes_the_state_and_its_absence_does_not() -> None:
    cell = drawn(ContinuousTimeLSTM(D, H))
    state = tuple(torch.rand(1, H, dtype=torch.float64) for _ in range(4))
    row = torch.randn(1, D, dtype=torch.float64)
    row[0, -2:] = 0  # no time, nothing seen
    after = cell.step(cell.project(row), state)
    assert all(map(torch.equal, after, state))
    row[0, -1] = 1
    after = cell.step(cell.project(row), state)
    assert not any(map(torch.equal, after, state))


def test_a_stream_reads_row_by_row_what_the_layer_reads_at_once() -> None:
    x, times = series(4, steps=20, missing=0.7)
    for depth in (1, 2):
        layer = Recurrent(ContinuousTimeLSTM, D, H, depth=depth)
        stream, memory, rows = layer.stream(3), None, []
        assert stream.reasons == ()
        for row, time in zip(x, times, strict=True):
            features, memory = observed(row.unsqueeze(0), time.unsqueeze(0), memory)
            rows.append(stream(features[0]))
        whole = layer(observed(x, times).features)
        got = {"y": torch.stack(rows)} | {f"state {k}": s for k, s in enumerate(stream.state)}
        want = {"y": whole.y} | {f"state {k}": s for k, s in enumerate(whole.state)}
        assert_close_by_name(got, {name: s.detach() for name, s in want.items()}, 2 * 20)


def test_every_parameter_is_drawn_from_torch_nns_range() -> None:
    for parameter in ContinuousTimeLSTM(200, 25).parameters():
        assert_uniform(parameter.detach(), -0.2, 0.2)


def test_an_input_without_room_for_the_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^input_size: got 2, expected at least 3"):
        ContinuousTimeLSTM(2, H)
