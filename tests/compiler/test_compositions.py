"""Steps put together at random, and forms that cells are often written in, by their numbers."""

import random

import pytest
import torch
from torch.nn import functional as F

from tests.compare import assert_close_by_name
from tests.compiler.interpret import B
from tests.compiler.staged import Staged
from tests.compiler.test_schedule import draw
from tests.compiler.test_staged import by_autograd, by_schedule
from tests.examples import MANY, rerun
from unrolled.compiler import compiled, emit, schedule_stages, trace

ONE = [
    torch.tanh,
    torch.sigmoid,
    torch.relu,
    torch.abs,
    torch.neg,
    torch.square,
    F.softplus,
    F.silu,
    lambda a: torch.exp(-a.abs()),
    lambda a: torch.log(1 + a * a),
    lambda a: torch.sqrt(1 + a**2),
    lambda a: a.clamp(-0.7, 0.7),
    lambda a: a / (1.5 + a * a),
    lambda a: (0.3 * a) ** 3,
    lambda a: (a > 0.1) * a,
    lambda a: a - a.mean(-1, keepdim=True),
    lambda a: F.layer_norm(a, a.shape[-1:]),
    lambda a: a * torch.rsqrt(a.square().mean(-1, keepdim=True) + 0.3),
    lambda a: a / (a.std(1, keepdim=True) + 0.5),
    lambda a: a.detach(),
]
TWO = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    torch.minimum,
    lambda a, b: torch.where(a > b, a, 0.3 * b),
    lambda a, b: torch.lerp(a, b, 0.3),
    lambda a, b: (a * b).sum(-1, keepdim=True) * 0.1 + a,
    lambda a, b: a.masked_fill(b <= a, 0.25),
]
OWN = [  # with the cell's parameters
    lambda s, a, _: a @ s.weight_hh,
    lambda s, a, _: F.linear(a, s.weight_hh, s.shift),
    lambda s, a, b: torch.cat([a, b], -1) @ s.tall,
    lambda s, a, b: (torch.cat([a, b], -1) @ s.square.T).chunk(2, -1)[0],
    lambda s, a, _: (a @ s.square[: s.hidden_size]).chunk(2, -1)[1],
    lambda s, a, b: a * s.shift + b * s.scale,
    lambda s, a, b: a * torch.sigmoid(s.shift) + b,
    lambda s, a, _: a @ (s.weight_hh - s.weight_hh.T),
    lambda s, a, b: F.layer_norm(torch.cat([a, b], -1), (2 * s.hidden_size,), s.gain).chunk(2, -1)[
        0
    ],
    lambda s, a, b: F.layer_norm(torch.stack([a, b], 1), (s.hidden_size,), s.shift)[:, 1],
]


class Random(Staged):
    """A dozen operations, each on values there are by then; the last two are the state."""

    states = 2

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def shapes(self, h):
        return {
            "tall": (2 * h, h),
            "square": (2 * h, 2 * h),
            "shift": (h,),
            "gain": (2 * h,),
            "scale": (1,),
        }

    def step(self, projected, state):
        chosen = random.Random(self.seed)
        values = [projected, *state]
        for _ in range(12):
            a, b = chosen.choices(values, k=2)
            kind = chosen.random()
            if kind < 0.4:
                values.append(chosen.choice(ONE)(a))
            elif kind < 0.75:
                values.append(chosen.choice(TWO)(a, b))
            else:
                values.append(chosen.choice(OWN)(self, a, b))
        return torch.tanh(values[-1]), values[-2] + 0.5 * projected


FILE = "tests/compiler/test_compositions.py"


@pytest.mark.parametrize("seed", range(100 if MANY else 8))
def test_steps_put_together_at_random(seed):
    check_random(seed)


def check_random(seed):
    """A step's numbers are those of autograd; or the line that runs it alone."""
    test = f"{FILE}::test_steps_put_together_at_random[{seed}]"
    with rerun(f"UNROLLED_EXAMPLES=many .venv/bin/python -m pytest '{test}'"):
        cell = Random(seed).double()
        with torch.no_grad():  # so that no number is lost beside a greater one
            for parameter in cell.parameters():
                parameter.mul_(0.5)
        given = draw(cell)
        expected = by_autograd(cell, *given)
        got = by_schedule(cell, *given, plan=schedule_stages)
        assert_close_by_name(got, expected, 12**2)
        assert emit(schedule_stages(trace(cell)), "cell")


def test_a_step_that_fails_says_how_to_run_it_alone(monkeypatch, request):
    right = by_schedule

    def wrong(*arguments, **options):
        return {name: value + 1 for name, value in right(*arguments, **options).items()}

    monkeypatch.setattr(f"{__name__}.by_schedule", wrong)
    with pytest.raises(AssertionError) as caught:
        check_random(3)
    test = f"{FILE}::test_steps_put_together_at_random[3]"
    (line,) = caught.value.__notes__
    assert line == f"rerun: UNROLLED_EXAMPLES=many .venv/bin/python -m pytest '{test}'"
    assert request.node.nodeid.split("::")[0] == FILE  # where it is found
    monkeypatch.undo()
    check_random(3)


def two_products(self, projected, state):
    return (torch.tanh(projected + torch.relu(state[0] @ self.weight_hh.T) @ self.weight_hh.T),)


def product_of_the_second_state(self, projected, state):
    h, c = state
    return h + projected, c @ self.weight_hh.T


def product_of_a_gated_state(self, projected, state):
    return (projected + (torch.sigmoid(projected) * state[0]) @ self.weight_hh.T,)


def stopped_gradient(self, projected, state):
    return (projected + state[0].detach() @ self.weight_hh.T,)


def normalised(self, projected, state):
    return (projected - state[0].mean(1, keepdim=True),)


def one_number(self, projected, state):
    return (projected + self.scale * state[0],)


def weight_by_unit(self, projected, state):
    return (projected + torch.tanh(self.weight_hh)[0] * state[0],)


def spread_by_hand(self, projected, state):
    return (projected + torch.sigmoid(self.shift).expand(projected.shape[0], -1) * state[0],)


def row_of_parameters(self, projected, state):
    return (projected * self.row + self.corner * state[0],)


def without_gradient(self, projected, state):
    with torch.no_grad():
        shown = torch.tanh(state[0])
    return (projected * shown + torch.sigmoid(self.shift) * state[0],)


class Spike(torch.autograd.Function):
    """A step, whose gradient is that of a smooth one."""

    @staticmethod
    def forward(z):
        return (z > 0).to(z.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, d):
        (z,) = ctx.saved_tensors
        return d / (1 + z * z)


def gradient_of_its_own(self, projected, state):
    return (Spike.apply(projected + state[0] * torch.sigmoid(self.shift) - 0.5),)


def gradients_met_in_several_stages(self, projected, state):
    z = state[0] @ self.pair.T
    a, b = z.chunk(2, -1)
    b = F.layer_norm(torch.tanh(b @ self.weight_hh), b.shape[-1:])
    return a, b * projected


FORMS = [
    two_products,
    product_of_the_second_state,
    product_of_a_gated_state,
    stopped_gradient,
    normalised,
    one_number,
    weight_by_unit,
    spread_by_hand,
    row_of_parameters,
    without_gradient,
    gradient_of_its_own,
    gradients_met_in_several_stages,
]
TWO_STATES = (product_of_the_second_state, gradients_met_in_several_stages)


@pytest.mark.parametrize("step", FORMS, ids=lambda step: step.__name__)
def test_forms_that_cells_are_often_written_in(step):
    shapes = {"shift": "h", "scale": "1", "row": "1h", "corner": "11", "pair": "nh"}
    members = {"step": step, "states": 1 + (step in TWO_STATES)}
    members["shapes"] = lambda _, h: {
        name: tuple({"h": h, "n": 2 * h, "1": 1}[size] for size in shape)
        for name, shape in shapes.items()
    }
    cell = type("AnyCell", (Staged,), members)().double()
    given = draw(cell)
    got = by_schedule(cell, *given, plan=schedule_stages)
    assert_close_by_name(got, by_autograd(cell, *given), 3)
    assert "struct Cell {" in compiled(cell, "cell")


def test_a_comparison_can_fail():
    cell = Random(1).double()
    projected, state, d_next = draw(cell)
    assert projected.shape[0] == B
    expected = by_autograd(cell, projected, state, d_next)
    with pytest.raises(AssertionError, match="grad of"):
        got = by_schedule(cell, projected, state, [1.001 * d for d in d_next], plan=schedule_stages)
        assert_close_by_name(got, expected, 12**2)
