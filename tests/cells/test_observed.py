"""What is known at each row: against the source's equations, row by row, and across gaps."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unrolled.cells import observed
from unrolled.cells.observed import Memory

NAN = math.nan
T, B, V = 7, 3, 2


def series(
    seed: int, steps: int = T, batch_size: int = B, variables: int = V, missing: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Values of which a share is missing, and times that do not fall."""
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, batch_size, variables, generator=drawn)
    x[torch.rand(x.shape, generator=drawn) < missing] = NAN
    gaps = torch.rand(steps, batch_size, generator=drawn, dtype=torch.float64)
    gaps[torch.rand(gaps.shape, generator=drawn) < 0.2] = 0
    return x, 3 + gaps.cumsum(0)


def by_equations(x: np.ndarray, times: np.ndarray, fill: float) -> np.ndarray:
    """Equations 1 and 2 of Che et al. for one sequence ``[T, V]``, and the last values, by loops."""
    rows, last = [], np.full(x.shape[1], fill)
    m = delta = np.zeros(x.shape[1])
    for t, row in enumerate(x):
        gap = times[t] - times[t - 1] if t else 0.0
        delta = gap + np.where(m, 0, delta) if t else np.zeros(len(row))
        m = ~np.isnan(row)
        last = np.where(m, row, last)
        rows.append(np.concatenate([last, m, delta, [gap, m.any()]]))
    return np.array(rows)


def equal(got: Tensor, expected: Tensor) -> bool:
    """To the bit."""
    return got.dtype == expected.dtype and torch.equal(got, expected)


@pytest.mark.parametrize("missing", [0, 0.5, 1])
def test_it_is_the_equations_of_the_source(missing: float) -> None:
    x, times = series(1, missing=missing)
    features, (last, when, now) = observed(x.double(), times, fill=0.7)
    for b in range(B):
        expected = by_equations(x[:, b].double().numpy(), times[:, b].numpy(), 0.7)
        np.testing.assert_allclose(features[:, b].numpy(), expected, rtol=0, atol=1e-14)
    assert equal(last, features[-1, :, :V]) and equal(now, times[-1])
    seen = torch.where(x.isnan(), times[0].unsqueeze(-1), times.unsqueeze(-1)).amax(0)
    assert equal(when, seen)


def test_without_times_a_row_is_a_unit_of_time() -> None:
    x, _ = series(2)
    counted = torch.arange(T, dtype=torch.float64)
    assert equal(observed(x).features, observed(x, counted).features)
    assert equal(observed(x, counted).features, observed(x, counted.long()).features)
    begun = observed(x[:3])
    assert equal(observed(x[3:], memory=begun.memory).features, observed(x).features[3:])


def in_windows(
    x: Tensor, times: Tensor, cuts: list[int], resets: Tensor | None
) -> tuple[Tensor, Memory]:
    found, memory = [], None
    for begin, end in zip([0, *cuts], [*cuts, len(x)], strict=True):
        anew = None if resets is None else resets[begin:end]
        features, memory = observed(x[begin:end], times[begin:end], memory, resets=anew, fill=0.3)
        file = io.BytesIO()
        torch.save(memory, file)
        memory = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        found.append(features)
    return torch.cat(found), memory


@given(st.integers(0, 999), st.lists(st.integers(0, T), max_size=4).map(sorted), st.booleans())
def test_windows_and_single_rows_give_the_whole_to_the_bit(
    seed: int, cuts: list[int], with_resets: bool
) -> None:
    x, times = series(seed)
    resets = None
    if with_resets:
        resets = torch.rand(T, B, generator=torch.Generator().manual_seed(seed)) < 0.3
        times = times - 9 * resets.cumsum(0)  # each by a clock of its own
    whole = observed(x, times, resets=resets, fill=0.3)
    for given_cuts in (cuts, list(range(1, T))):
        features, memory = in_windows(x, times, given_cuts, resets)
        assert equal(features, whole.features)
        assert all(map(equal, memory, whole.memory))


def test_with_resets_and_lengths_each_sequence_is_as_if_alone() -> None:
    x, times = series(3)
    times[4:] -= 100  # another clock
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[4] = True
    lengths = torch.tensor([7, 6, 0])
    real = torch.arange(T).unsqueeze(1) < lengths
    x, times = x.where(real.unsqueeze(-1), torch.inf), times.where(real, NAN)
    for reverse in (False, True):
        features, memory = observed(x, times, lengths=lengths, resets=resets, reverse=reverse)
        for b, n in enumerate(lengths.tolist()):
            own = slice(b, b + 1)
            for begin, end in ((0, 4), (4, n)) if n else ():
                alone = observed(x[begin:end, own], times[begin:end, own], reverse=reverse)
                torch.testing.assert_close(features[begin:end, own], alone.features)
                if not reverse and end == n:
                    assert all(equal(m[own], a) for m, a in zip(memory, alone.memory, strict=True))
            assert not features[n:, b].any()
    assert memory[2][2].isnan()  # it has not begun
    later = observed(x[:2, [0]].repeat(1, 3, 1), times[:2, [0]].repeat(1, 3), memory=None)
    goes_on = observed(
        x[:2, [0]],
        times[:2, [0]],
        tuple(m[2:] for m in observed(x, times, lengths=lengths, resets=resets).memory),
    )
    assert equal(goes_on.features, later.features[:, :1])


def test_backwards_is_forwards_from_the_other_end() -> None:
    x, times = series(4)
    got = observed(x, times, reverse=True).features
    expected = observed(x.flip(0), -times.flip(0)).features.flip(0)
    assert equal(got, expected)


@given(st.integers(0, 999), st.integers(1, T - 1), st.floats(0, 1))
def test_an_empty_row_changes_nothing_but_the_gap_after_it(
    seed: int, place: int, share: float
) -> None:
    x, times = series(seed)
    between = times[place - 1] + share * (times[place] - times[place - 1])
    with_row = torch.cat([x[:place], torch.full_like(x[:1], NAN), x[place:]])
    at = torch.cat([times[:place], between.unsqueeze(0), times[place:]])
    without, memory = observed(x, times)
    features, after = observed(with_row, at)
    others = torch.cat([features[:place], features[place + 1 :]])
    both = features[place, :, -2] + features[place + 1, :, -2]
    assert all(map(equal, after, memory))
    torch.testing.assert_close(both, without[place, :, -2], rtol=1e-6, atol=1e-6)
    others[place, :, -2] = without[place, :, -2]
    assert equal(others, without)
    assert not features[place, :, -1].any()


def test_what_comes_later_is_not_known_before() -> None:
    x, times = series(5)
    for k in range(T):
        changed, later = x.clone(), times.clone()
        changed[k:], later[k:] = series(6)[0][k:], times[k:] + 5
        assert equal(observed(changed, later).features[:k], observed(x, times).features[:k])


def test_gradients_reach_every_value_that_is_there() -> None:
    x, times = series(7)
    x.requires_grad_()
    observed(x, times).features[..., :V].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert torch.equal(x.grad > 0, ~x.detach().isnan())


def test_no_rows_are_no_features() -> None:
    features, memory = observed(torch.zeros(0, B, V))
    assert features.shape == (0, B, 3 * V + 2) and memory[2].isnan().all()
    assert observed(torch.zeros(4, 0, V)).features.shape == (4, 0, 3 * V + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(T, V)}, r"^x: got \[7, 2\] of torch.float32, expected \[T, B, V\]"),
        ({"x": torch.zeros(T, B, V).long()}, "^x: got .*int64, expected .*floating"),
        ({"times": torch.zeros(T, 2)}, r"^times: got shape \[7, 2\], expected \[7\] or \[7, 3\]"),
        ({"times": torch.arange(T).flip(0)}, "^times: got 5 at row 1 of sequence 0, expected"),
        ({"times": torch.full((T,), NAN)}, "^times: got nan at row 0 of sequence 0"),
        ({"fill": torch.zeros(3)}, r"^fill: got shape \[3\], expected \[2\], or a number"),
        (
            {"reverse": True, "memory": observed(torch.zeros(1, B, V)).memory},
            "^memory: got one with reverse",
        ),
        ({"memory": (torch.zeros(B, V),) * 3}, "^memory: got shapes"),
        (
            {"memory": observed(torch.zeros(1, B, V), torch.ones(1)).memory},
            "^times: got 0 at row 0",
        ),
    ],
)
def test_what_it_cannot_take_is_refused(change: dict[str, object], message: str) -> None:
    given = {"x": torch.zeros(T, B, V), "times": torch.arange(T)} | change
    with pytest.raises(ValueError, match=message):
        observed(given.pop("x"), **given)  # type: ignore[arg-type]
