"""What is scheduled, by its numbers: against autograd on the cell's own step."""

import pytest
import torch

from tests.compare import assert_close_by_name
from tests.compiler.interpret import CELLS, B, backward, forward, leaves_of
from unrolled.compiler import schedule, show, trace


def draw(cell):
    """Projected, a state and gradients of the next one, of the cell's sizes."""
    d, h = cell.input_size, cell.hidden_size
    projected = cell.project(torch.randn(B, d).double()).detach()
    state, d_next = ([torch.randn(B, h).double() for _ in cell.state_sizes] for _ in range(2))
    return projected, state, d_next


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_those_of_autograd(name):
    cell = CELLS[name]().double()
    projected, state, d_next = draw(cell)
    traced = trace(cell)
    s = schedule(traced)
    (stage,) = s.forward
    with torch.no_grad():
        leaves = leaves_of(cell, s, projected, state, d_next)
        after, kept = forward(s, leaves)
        grads, d_state = backward(s, after, kept, leaves)

        def gathered(places):
            none = torch.zeros_like(state[0])
            return torch.cat([grads[k] if k >= 0 else none for k in places], -1)

        got = {f"next {k}": value for k, value in enumerate(after)}
        got["grad of projected"] = gathered(s.d_projected)
        if stage.weight:
            weight, d_product = cell.get_parameter(stage.weight), gathered(s.d_product)
            d_state[0] = d_state[0] + d_product @ (weight if stage.transposed else weight.T)
            d_weight = d_product.T @ state[0]
            got[f"grad of {stage.weight}"] = d_weight if stage.transposed else d_weight.T
        got |= {f"grad of state {k}": value for k, value in enumerate(d_state)}
        start = 0
        for vector, count in s.vectors.items():
            places = s.d_vector[start : start + count]
            start += count
            if vector in traced.parameters:
                got[f"grad of {vector}"] = gathered(places).sum(0)
            else:
                assert set(places) == {-1}, f"{vector} is a buffer"

    if traced.prologue is not None:  # back through what is computed once
        given = list(cell.parameters())
        grads = [
            got.pop(f"grad of derived_{k}")
            for k in range(len(s.vectors))
            if f"grad of derived_{k}" in got
        ]
        more = torch.autograd.grad(
            traced.prologue(*given, *cell.buffers()),
            given,
            grads,
            materialize_grads=True,
            allow_unused=True,
        )
        for (parameter, _), d in zip(cell.named_parameters(), more, strict=True):
            key = f"grad of {parameter}"
            got[key] = got[key] + d if key in got else d
    inputs = [t.requires_grad_() for t in (projected, *state)]
    expected_after = cell.step(projected, tuple(state))
    parameters = dict(cell.named_parameters())
    sums = sum((y * d).sum() for y, d in zip(expected_after, d_next, strict=True))
    gradients = torch.autograd.grad(
        sums, [*inputs, *parameters.values()], allow_unused=True, materialize_grads=True
    )
    names = ["projected", *(f"state {k}" for k in range(len(state))), *parameters]
    expected = {f"next {k}": value.detach() for k, value in enumerate(expected_after)}
    expected |= {f"grad of {n}": d for n, d in zip(names, gradients, strict=True)}
    for unused in set(expected) - set(got):
        assert not expected.pop(unused).any(), f"{unused} is missing"
    assert_close_by_name(got, expected, 1)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("elman_tanh", 0),  # each activation's derivative is a function of its value, the state
        ("elman_relu", 0),
        ("elman_sigmoid", 0),
        ("elman_identity", 0),
        ("lstm", 5),  # i, f, g, o and tanh(c)
        ("gru", 4),  # r, z, n and W_n h + b_n
        ("gru_without_bias", 4),
        ("half_tanh", 1),
        ("leaky", 1),
        ("untransposed", 2),
        ("independent", 0),  # the sigmoid of a parameter is computed before
        ("passing", 0),
    ],
)
def test_no_more_is_kept_than_the_gradient_needs(name, kept):
    assert len(schedule(trace(CELLS[name]())).kept) == kept


def test_the_blocks_of_an_lstm_share_their_gradients():
    s = schedule(trace(CELLS["lstm"]()))
    assert s.projection == ("weight_ih", "bias_ih", "bias_hh")
    assert (len(s.grads), s.d_projected, s.d_product, s.d_vector) == (
        4,
        (0, 1, 2, 3),
        (0, 1, 2, 3),
        (),
    )


def test_the_blocks_of_a_gru_share_all_gradients_but_the_last():
    s = schedule(trace(CELLS["gru"]()))
    assert s.projection == ("weight_ih", "bias_ih")
    assert s.vectors == {"bias_hh": 3}
    assert (len(s.grads), s.d_projected, s.d_product, s.d_vector) == (
        4,
        (0, 1, 2),
        (0, 1, 3),
        (0, 1, 3),
    )


def test_a_block_that_is_not_read_has_no_gradient():
    s = schedule(trace(CELLS["traces"]()))
    assert [k < 0 for k in s.d_projected] == [False, False, True]
    assert [k < 0 for k in s.d_product] == [True, False, True]


def test_a_step_without_product_has_no_weight():
    (stage,) = schedule(trace(CELLS["independent"]())).forward
    assert (stage.weight, stage.products) == ("", 0)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (8, 8), (5, 10)])
def test_what_is_compiled_does_not_depend_on_the_sizes(sizes):
    for name in ("untransposed", "leaky", "independent"):
        kind = type(CELLS[name]())
        assert str(schedule(trace(kind(*sizes)))) == str(schedule(trace(kind())))


def test_show_has_the_operations_the_schedule_and_the_code():
    text = show(CELLS["lstm"]())
    assert all(part in text for part in ("split = split(", "keeps: v", "struct", "next[1] = "))
