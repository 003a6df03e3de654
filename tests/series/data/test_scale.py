"""Location and scale see the past alone, and a stream gives what the whole pass gives."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unrolled.series.data import RunningScale, running_scale, running_scales
from unrolled.series.data import scale as module
from unrolled.series.data.scale import FLOOR, PRIOR

NUMBERS = st.one_of(
    st.just(math.nan), st.floats(-1e12, 1e12, allow_subnormal=False), st.integers(-3, 3).map(float)
)
VALUES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=NUMBERS)


def by_hand(seen: np.ndarray) -> tuple[float, float]:
    """Of one series up to a step, by the formula of the docstring, each sum anew."""
    values = seen[~np.isnan(seen)]
    n = len(values)
    if not n:
        return 0.0, 1.0
    magnitude = np.abs(values).mean()
    scale = max(math.sqrt(values.var() + (PRIOR * magnitude / n) ** 2), FLOOR * magnitude)
    return float(values.mean()), scale or 1.0


def test_it_is_the_mean_and_the_deviation_of_what_came_so_far() -> None:
    values = np.random.default_rng(0).normal(50, 7, (40, 3))
    values[[0, 5, 6], [1, 0, 2]] = np.nan
    location, scale = running_scale(values)
    for t in range(len(values)):
        for k in range(3):
            mean, deviation = by_hand(values[: t + 1, k])
            # Sums of 40 numbers: each a rounding error of at most 2**-53 of the largest.
            assert location[t, k] == pytest.approx(mean, rel=40 * 2**-52)
            assert scale[t, k] == pytest.approx(deviation, rel=1e-12)


@given(VALUES, st.data())
def test_what_comes_after_a_step_changes_nothing_at_or_before_it(values, data) -> None:
    t = data.draw(st.integers(0, len(values) - 1))
    other = values.copy()
    other[t + 1 :] = data.draw(arrays(np.float64, other[t + 1 :].shape, elements=NUMBERS))
    for before, after in zip(running_scale(values), running_scale(other), strict=True):
        assert np.array_equal(before[: t + 1], after[: t + 1])


@given(VALUES, st.data())
def test_a_stream_that_is_saved_and_resumed_equals_the_pass_to_the_bit(values, data) -> None:
    location, scale = running_scale(values)
    running, stop = RunningScale(values.shape[1]), data.draw(st.integers(0, len(values)))
    for t, row in enumerate(values):
        if t == stop:
            saved = json.loads(json.dumps(running.state_dict()))
            running = RunningScale(values.shape[1])
            running.load_state_dict(saved)
        assert running.step(row) == (location[t].tolist(), scale[t].tolist())


@pytest.mark.parametrize("most", [1, 20, 1 << 22])
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 2), st.integers(0, 2**31))
def test_many_series_at_once_are_the_same_to_the_bit(most, lengths, width, seed) -> None:
    offsets = np.cumsum([0, *lengths])
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 1, (offsets[-1], width))
    values[rng.random(values.shape) < 0.2] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_AT_ONCE", most)
        whole = running_scales(values, offsets)
    for begin, end in itertools.pairwise(offsets):
        for got, alone in zip(whole, running_scale(values[begin:end]), strict=True):
            assert np.array_equal(got[begin:end], alone)


@given(VALUES, st.data())
def test_a_stream_after_a_pass_goes_on_to_the_bit(values, data) -> None:
    stop = data.draw(st.integers(0, len(values)))
    straight, after = RunningScale(values.shape[1]), RunningScale.after(values[:stop])
    for row in values[:stop]:
        straight.step(row)
    assert after.state_dict() == straight.state_dict()
    for row in values[stop:]:
        assert after.step(row.tolist()) == straight.step(row)


@given(VALUES)
def test_the_scale_is_positive_and_finite_whatever_comes(values) -> None:
    location, scale = running_scale(values)
    assert np.isfinite(location).all() and np.isfinite(scale).all() and (scale > 0).all()


def test_before_the_first_value_and_of_zeros_the_scale_is_one() -> None:
    location, scale = running_scale([[math.nan, 0.0]] * 3)
    assert (location == 0).all() and (scale == 1).all()


def test_a_constant_series_keeps_a_scale_that_shrinks_to_the_floor() -> None:
    location, scale = running_scale(np.full((200_000, 1), 5.0))
    assert (location == 5).all() and (np.diff(scale[:, 0]) <= 0).all()
    assert scale[0, 0] == 2.5 and scale[-1, 0] == 5 * FLOOR


def test_a_small_deviation_is_not_lost_beside_a_large_mean() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (100_000, 1))
    _, scale = running_scale(1e6 + 100 * noise)
    # 1e6 is rounded to 2**-33; the prior adds (5e5 / 1e5)**2 to a variance of 1e4.
    assert scale[-1, 0] == pytest.approx(math.hypot(100 * noise.std(), 5), rel=1e-9)
    _, scale = running_scale(1e6 + 1e-3 * noise)  # what is smaller by far is held by the floor
    assert scale[-1, 0] == pytest.approx(FLOOR * 1e6, rel=1e-6)


def test_no_step_and_no_column_give_none() -> None:
    assert running_scale(np.empty((0, 2))).scale.shape == (0, 2)
    assert running_scale(np.empty((3, 0))).location.shape == (3, 0)


def test_what_has_no_two_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values: got shape \[3\], expected \[T, Y\]"):
        running_scale([1.0, 2.0, 3.0])


def test_a_step_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="values: got 1, expected 2"):
        RunningScale(2).step([1.0])
    with pytest.raises(ValueError, match="saved: got 1 values a step, expected 2"):
        RunningScale(2).load_state_dict(RunningScale(1).state_dict())
