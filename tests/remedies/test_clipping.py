"""Clipping: what is bounded, what is left as it is, and that the history is numpy's percentile."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import unrolled
from tests.compare import assert_close_by_name, collect
from unrolled import Recurrent, cells
from unrolled.bptt import checkpointed
from unrolled.remedies import AutoClip, clip_norm_, clip_ratio_, clip_states_, clip_value_
from unrolled.scan.native import library

EPS = torch.finfo(torch.float64).eps
native = pytest.mark.skipif(library.missing() is not None, reason="no native library")


def with_gradients(*shapes: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
    """Parameters of these shapes; the last has no gradient."""
    made = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in (*shapes, (2,))]
    for parameter in made[:-1]:
        parameter.grad = scale * torch.randn_like(parameter)
    return made


def norm(parameters: list[Tensor]) -> float:
    return math.sqrt(sum(p.grad.square().sum().item() for p in parameters if p.grad is not None))


# --- By norm, by value ---------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0.5, 1e6, math.inf])
def test_the_norm_is_at_most_the_bound_and_the_direction_stays(most: float) -> None:
    parameters = with_gradients((3, 5), (7,))
    before = torch.cat([p.grad.flatten() for p in parameters[:-1]])
    returned = clip_norm_(parameters, most)
    after = torch.cat([p.grad.flatten() for p in parameters[:-1]])
    torch.testing.assert_close(returned, before.norm())
    assert after.norm() <= most * (1 + EPS)
    torch.testing.assert_close(after / after.norm(), before / before.norm())
    assert most < before.norm() or torch.equal(after, before)


def test_every_entry_is_cut_and_others_stay() -> None:
    parameters = with_gradients((3, 5), (7,))
    before = [p.grad.clone() for p in parameters[:-1]]
    largest = clip_value_(parameters, 0.5)
    assert largest == max(g.abs().max() for g in before)
    for parameter, gradient in zip(parameters, before, strict=False):
        assert torch.equal(parameter.grad, gradient.clamp(-0.5, 0.5))
    assert clip_value_(parameters[-1:], 0.5) == 0  # no gradient at all


# --- By adaptive ratio ---------------------------------------------------------------------------


@given(data=st.data())
def test_every_row_keeps_the_ratio_and_rows_below_are_left(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(4, 3), (1, 1), (5,), (), (2, 3, 4)]))
    most, least = (
        data.draw(st.sampled_from([0.01, 0.3, 2.0])),
        data.draw(st.sampled_from([1e-3, 1])),
    )
    (parameter, *_) = with_gradients(shape, scale=data.draw(st.sampled_from([1e-3, 1.0, 100.0])))
    if data.draw(st.booleans()):
        parameter.data[(0,) if len(shape) > 1 else ...] = 0  # weights that begin at zero
    weight, gradient = parameter.detach().clone(), parameter.grad.clone()
    found = clip_ratio_(parameter, most, least=least)
    rows = [(slice(None),)] if len(shape) < 2 else [(i,) for i in range(shape[0])]
    ratios = []
    for row in rows if shape else [()]:
        bound = most * max(weight[row].norm().item(), least)
        ratios.append(gradient[row].norm().item() * most / bound)
        assert parameter.grad[row].norm() <= bound * (1 + 8 * EPS)
        if gradient[row].norm() <= bound * (1 - 8 * EPS):
            assert torch.equal(parameter.grad[row], gradient[row])
        else:
            torch.testing.assert_close(
                parameter.grad[row], gradient[row] * (bound / gradient[row].norm())
            )
    assert math.isclose(found, max(ratios), rel_tol=1e-12)


def test_each_unit_of_each_gate_is_a_row() -> None:
    layer = Recurrent(cells.LSTM, 3, 5)
    layer(torch.randn(7, 2, 3))[0].square().sum().backward()
    clip_ratio_(layer.parameters())
    weight = layer.cells[0].weight_hh
    assert (weight.grad.norm(dim=1) <= 0.01 * weight.norm(dim=1) * (1 + 1e-5)).all()
    assert clip_ratio_([]) == 0
    assert AutoClip()([]) == 0


# --- By percentile -------------------------------------------------------------------------------


@given(
    norms=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30),
    percentile=st.floats(0, 100),
)
def test_the_bound_is_numpys_percentile_of_all_norms_so_far(
    norms: list[float], percentile: float
) -> None:
    autoclip = AutoClip(percentile)
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for count, length in enumerate(norms, 1):
        weight.grad = torch.tensor([0.6, -0.8], dtype=torch.float64) * length
        expected = np.percentile([weight.grad.norm().item(), *norms[: count - 1]], percentile)
        assert math.isclose(autoclip([weight]), length, rel_tol=1e-12)
        assert math.isclose(autoclip.bound, expected, rel_tol=1e-12)
        # torch.nn.utils.clip_grad_norm_ divides by the norm + 1e-6.
        assert math.isclose(weight.grad.norm(), min(length, expected), rel_tol=2e-3)


def test_the_first_call_never_clips_and_the_history_can_be_saved() -> None:
    autoclip, parameters = AutoClip(), with_gradients((3, 5))
    assert autoclip.bound == math.inf
    before = parameters[0].grad.clone()
    autoclip(parameters)
    assert torch.equal(parameters[0].grad, before)
    for scale in (3.0, 0.5):
        autoclip(with_gradients((3, 5), scale=scale))
    other = AutoClip(50)
    other.load_state_dict(autoclip.state_dict())
    assert other.state_dict() == autoclip.state_dict()
    assert (other.bound, other.percentile) == (autoclip.bound, 10)
    other(with_gradients((3, 5)))
    assert len(autoclip.state_dict()["history"]) == 3  # each has its own


@pytest.mark.parametrize("wrong", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_returned_and_forgotten(wrong: float) -> None:
    autoclip, (parameter, *_) = AutoClip(), with_gradients((3,))
    autoclip(parameter)
    history = autoclip.state_dict()
    parameter.grad[1] = wrong
    before = parameter.grad.clone()
    assert not math.isfinite(autoclip(parameter))
    assert autoclip.state_dict() == history
    torch.testing.assert_close(parameter.grad, before, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("percentile", [-1, 101, math.nan])
def test_a_percentile_is_from_0_to_100(percentile: float) -> None:
    with pytest.raises(ValueError, match=r"^percentile: got "):
        AutoClip(percentile)


# --- Within backpropagation through time ---------------------------------------------------------

T, B, D, H = 9, 3, 4, 6
KINDS = {
    "Recurrent": lambda: Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True),
    "RNN": lambda: unrolled.RNN(D, H, num_layers=2, bidirectional=True),
    "LSTM": lambda: unrolled.LSTM(D, H),
    "GRU": lambda: unrolled.GRU(D, H),
}
ways = pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, backend: str) -> nn.Module:
    torch.manual_seed(1)
    layer = KINDS[kind]().double()
    layer.backend = backend
    return layer


def gradients(layer: nn.Module, x: Tensor, **options: object) -> dict[str, Tensor]:
    y, _ = layer(x, **options)
    return collect({"y": y}, dict(layer.named_parameters()))


@kinds
def test_every_layer_clips_by_the_kernels_as_by_the_reference(kind: str) -> None:
    x = torch.randn(T, B, D).double()
    for options in ({}, {"lengths": [9, 0, 4]}):
        expected = gradients(clip_states_(made(kind, "reference"), 0.1), x, **options)
        for backend in ("auto", "native") if library.missing() is None else ("auto",):
            got = gradients(clip_states_(made(kind, backend), 0.1), x, **options)
            assert_close_by_name(got, expected, T)
    plain = gradients(made(kind, "reference"), x, **options)
    assert torch.equal(plain["y"], expected["y"])
    with pytest.raises(AssertionError, match="weight_hh"):
        assert_close_by_name(expected, plain, T)


@ways
@kinds
def test_an_infinite_bound_changes_nothing_and_none_takes_it_away(kind: str, backend: str) -> None:
    x = torch.randn(T, B, D).double()
    layer = made(kind, backend)
    plain = gradients(clip_states_(layer, None), x)
    for most in (math.inf, None):
        found = gradients(clip_states_(layer, most), x)
        # The reference of an RNN of torch.nn is PyTorch's own loop where nothing is clipped.
        assert_close_by_name(found, plain, T)
        if kind == "Recurrent" or backend == "native":
            assert all(torch.equal(found[name], plain[name]) for name in plain)


@native
@kinds
def test_it_runs_on_the_kernels(kind: str) -> None:
    assert unrolled.explain(clip_states_(made(kind, "auto"), 0.1)).path == "native"


@ways
@kinds
def test_segments_clip_as_the_whole_does(kind: str, backend: str) -> None:
    layer, x = clip_states_(made(kind, backend), 0.1), torch.randn(T, B, D).double()
    expected = gradients(layer, x)
    y, _ = checkpointed(layer, x, segments=3)
    found = collect({"y": y}, dict(layer.named_parameters()))
    assert_close_by_name(found, expected, T)


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native)])
def test_packed_rows_are_clipped_as_padded_ones(backend: str) -> None:
    rows = [torch.randn(n, D).double() for n in (5, 2)]
    layer = clip_states_(made("GRU", backend), 0.1)
    packed, _ = layer(pack_sequence(rows))
    x = nn.utils.rnn.pad_sequence(rows)
    y, _ = layer(x, lengths=[5, 2])
    parameters = list(layer.parameters())
    got, expected = (
        torch.autograd.grad(out.square().sum(), parameters) for out in (packed.data, y)
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_one_sequence_without_sequences_is_clipped_too() -> None:
    x = torch.randn(T, D).double()
    for backend in ("reference", "auto"):
        layer = clip_states_(made("GRU", backend), 0.1)
        got, expected = gradients(layer, x), gradients(layer, x.unsqueeze(1))
        del got["y"], expected["y"]
        assert_close_by_name(got, expected, T)


def test_it_tames_a_gradient_that_explodes() -> None:
    layer = Recurrent(cells.Elman, D, H, activation="identity").double()
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(1.5 * torch.eye(H))
    x = torch.randn(60, B, D).double()
    layer(x)[0].sum().backward()
    assert layer.cells[0].bias_ih.grad.norm() > 1e9
    layer.zero_grad()
    clip_states_(layer, 1.0)(x)[0].sum().backward()
    assert layer.cells[0].bias_ih.grad.norm() <= 60 * B * (
        1 + 1e-12
    )  # each step and sequence gives ≤ 1


def test_every_recurrent_layer_of_a_model_is_reached() -> None:
    model = nn.ModuleDict({"a": unrolled.GRU(2, 3), "b": Recurrent(cells.LSTM, 3, 3)})
    assert clip_states_(model, 2) is model
    assert [layer.clip for layer in model.values()] == [2.0, 2.0]


def test_what_cannot_be_clipped_is_refused_and_nothing_is_changed() -> None:
    model = nn.ModuleDict({"a": unrolled.GRU(2, 3), "b": nn.GRU(3, 3)})
    with pytest.raises(TypeError, match=r"^b: got torch.nn.modules.rnn.GRU.*unrolled.accelerate"):
        clip_states_(model, 1.0)
    assert model["a"].clip is None
    with pytest.raises(ValueError, match=r"^model: got Linear, which holds no recurrent layer"):
        clip_states_(nn.Linear(2, 3), 1.0)
    with pytest.raises(ValueError, match=r"^model: got proj_size=2"):
        clip_states_(unrolled.LSTM(2, 3, proj_size=2), 1.0)


@pytest.mark.parametrize("most", [0, -1.0, math.nan])
def test_a_bound_is_above_0(most: float) -> None:
    (parameter, *_) = with_gradients((3,))
    for call in (clip_norm_, clip_value_, clip_ratio_):
        with pytest.raises(ValueError, match=r"^most: got .*, expected a number above 0"):
            call([parameter], most)
    with pytest.raises(ValueError, match=r"^most: got "):
        clip_states_(unrolled.GRU(2, 3), most)
    with pytest.raises(TypeError, match=r"^most: got '1', expected a number"):
        clip_norm_([parameter], "1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^least: got 0"):
        clip_ratio_([parameter], least=0)
