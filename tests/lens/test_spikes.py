"""What clipping did, as the lens was told, and which lag a spike came from."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unrolled
from tests.lens.nets import linear
from tests.lens.seeing import B, D, H, T, both_backends, inputs, made, told
from unrolled import Recurrent, cells, remedies
from unrolled.lens import watch
from unrolled.scan import Backend


def test_clipped_refuses_what_are_no_numbers() -> None:
    with watch(made("torch GRU")) as seen:
        for norm, bound, match in (
            (1.0, math.nan, "bound: got nan"),
            (1.0, -1.0, "bound: got -1.0"),
            ("much", 1.0, "norm: got"),
            (torch.ones(2), 1.0, "norm: got"),
            (1.0, None, "bound: got"),
        ):
            with pytest.raises((TypeError, ValueError), match=match):
                seen.clipped(norm, bound)  # type: ignore[arg-type]
        assert seen.clipping() is None  # none of these counts


def test_clipped_with_norms_of_a_broken_model() -> None:
    layer = made("torch GRU")
    with watch(layer) as seen:
        for norm in (math.nan, math.inf, torch.tensor([3.0])):
            layer(inputs())[0].sum().backward()
            seen.clipped(norm, 1.0)
    clipping = told(seen)["clipping"]
    assert (clipping["calls"], clipping["clipped"]) == (3, 2)
    assert [s["norm"] for s in clipping["spikes"]] == [None, 3.0]


@both_backends
def test_a_spike_of_an_exploding_system_in_a_shorter_sequence(backend: Backend) -> None:
    """W = 1.5 I: the gradient is longest at the first step, as far back as the sequence is long."""
    layer = Recurrent(cells.Elman, D, H, depth=2, activation="identity", backend=backend)
    with torch.no_grad():
        for cell in layer.cells:
            cell.weight_hh.copy_(1.5 * torch.eye(H))
        layer.cells[1].weight_ih.mul_(1e-3)  # so that the upper level's is the longest
    lengths = [T, 6, 1]
    with watch(layer) as seen:
        y = layer(inputs(), lengths=lengths).y
        (y[T - 1, 0].sum() + 100 * y[5, 1].sum() + y[0, 2].sum()).backward()
        seen.clipped(remedies.clip_norm_(layer.parameters(), 1.0), 1.0)
    (spike,) = told(seen)["clipping"]["spikes"]
    assert (spike["level"], spike["step"], spike["sequence"], spike["lag"]) == (1, 0, 1, 5)
    assert "longest 5 steps back" in str(seen.report())


@both_backends
@pytest.mark.parametrize("step", [0, 4, T - 1])
def test_a_spike_of_the_loss_in_a_healthy_system(step: int, backend: Backend) -> None:
    """A tenth of the gradient is lost a step: the longest is what the loss itself sends."""
    layer = linear(0.9 * torch.eye(H, dtype=torch.float64))
    layer.backend = backend
    with watch(layer) as seen:
        (1e6 * layer(inputs().double()).y[step, 2].sum()).backward()
        seen.clipped(remedies.clip_norm_(layer.parameters(), 1.0), 1.0)
    (spike,) = told(seen)["clipping"]["spikes"]
    assert (spike["step"], spike["sequence"], spike["lag"]) == (step, 2, 0)


def test_spikes_are_looked_for_since_the_last_clip() -> None:
    layer = linear(torch.eye(H, dtype=torch.float64))
    with watch(layer) as seen:
        for step, scale in ((T - 1, 1e6), (3, 10.0)):
            for part in range(2):  # gradients are added up over two backward passes
                (scale * layer(inputs().double()).y[step, part].sum()).backward()
            seen.clipped(1e9, 1.0)
        seen.clipped(1e9, 1.0)
    spikes = told(seen)["clipping"]["spikes"]
    assert [s.get("norm") for s in spikes] == [1e9] * 3
    clipping = seen.clipping()
    assert clipping is not None
    found = [spike and spike.norm for *_, spike in clipping.spikes]
    assert found == [pytest.approx(2e6), pytest.approx(20.0), None]
    # Of steps that are alike, where the gradient came in.
    assert [s.get("step") for s in spikes] == [T - 1, 3, None]
    assert [s.get("lag") for s in spikes] == [0, 0, None]


@pytest.mark.parametrize(("a", "lag"), [(1.5, T - 1), (0.5, 0)])
def test_the_lag_of_a_spike(a: float, lag: int) -> None:
    layer = linear(a * torch.eye(H, dtype=torch.float64))
    with watch(layer) as lens:
        for scale in (0.0, 100.0, 1e-9):
            layer.zero_grad()
            y = layer(torch.randn(T, B, D, dtype=torch.float64)).y
            (scale * y[-1, 1].sum()).backward()
            lens.clipped(remedies.clip_norm_(layer.parameters(), 1.0), 1.0)
    clipping = lens.clipping()
    assert clipping is not None and (clipping.calls, clipping.clipped) == (3, 1)
    ((call, norm, bound, spike),) = clipping.spikes
    assert spike is not None
    assert (call, bound, spike.lag, spike.step, spike.sequence) == (1, 1.0, lag, T - 1 - lag, 1)
    assert clipping.factor == pytest.approx(1 / norm)
    assert spike.norm == pytest.approx(100 * math.sqrt(H) * max(1, a ** (T - 1)))
    assert "acted in 1 of 3 steps" in str(lens.report())


def test_a_loss_at_every_step_is_no_lag() -> None:
    def lag(a: float, loss: Callable[[Tensor], Tensor]) -> int:
        layer = linear(a * torch.eye(H, dtype=torch.float64))
        with watch(layer) as lens:
            loss(layer(torch.randn(30, B, D, dtype=torch.float64)).y).backward()
            lens.clipped(1e9, 1.0)
        clipping = lens.clipping()
        assert clipping is not None and clipping.spikes[0][-1] is not None
        return clipping.spikes[0][-1].lag

    assert (
        lag(0.5, lambda y: 1e6 * y.sum()) == 3
    )  # where 1 + 1/2 + 1/4 + 1/8 of 2 has come together
    assert lag(0.5, lambda y: y.sum() + 1e6 * y[4, 1].sum()) == 0
    assert lag(1.5, lambda y: y.sum()) == 29
    assert lag(1.5, lambda y: y.sum() + 1e9 * y[12, 1].sum()) == 12


def test_in_the_backward_direction_time_runs_the_other_way() -> None:
    layer = Recurrent(cells.Elman, D, H, bidirectional=True, activation="identity").double()
    with torch.no_grad():
        for cell in layer.cells:
            cell.weight_hh.copy_(torch.eye(H))
        layer.cells[1].weight_hh.mul_(2)
    with watch(layer) as lens:
        layer(torch.randn(T, B, D, dtype=torch.float64)).y[2].sum().backward()
        lens.clipped(1e9, 1.0)
    clipping = lens.clipping()
    assert clipping is not None
    spike = clipping.spikes[0][-1]
    assert spike is not None and (spike.direction, spike.step, spike.lag) == (1, T - 1, T - 3)


def test_what_the_lens_was_told_wrongly_is_refused() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as lens:
        assert lens.clipping() is None
        with pytest.raises(ValueError, match="bound: got 0,"):
            lens.clipped(1.0, 0)
        with pytest.raises(ValueError, match=r"norm: got -1\.0"):
            lens.clipped(-1.0, 1.0)
        lens.clipped(torch.tensor(3.0), math.inf)
        lens.clipped(3.0, 1.5)
    clipping = lens.clipping()
    assert clipping is not None
    assert (clipping.calls, clipping.clipped, clipping.factor) == (2, 1, pytest.approx(0.5))
    assert clipping.spikes == ((1, 3.0, 1.5, None),)
