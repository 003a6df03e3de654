"""What the compiler does not take, and that it says so in one line."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.compiler.interpret import Own
from unrolled.cells import Cell, Elman
from unrolled.compiler import Unsupported, compiled, trace

FIXED = torch.ones(7)


def a_cell(step, project=None, **attributes):
    """A cell whose ``step`` and ``project`` are the functions given."""
    members = {"step": step, **attributes} | ({"project": project} if project else {})
    return type("AnyCell", (Own,), members)()


def with_parameters(step, **parameters):
    cell = a_cell(step)
    for name, shape in parameters.items():
        setattr(cell, name, torch.nn.Parameter(torch.zeros(shape)))
    return cell


def unknown(self, projected, state):
    return (torch.cumsum(projected + state[0] @ self.weight_hh.T, 1),)


def product_of_a_constant(self, projected, state):
    return (projected + state[0] @ torch.ones(7, 7),)


def two_weights(self, projected, state):
    return (projected + (state[0] @ self.weight_hh.T) * (state[0] @ self.other.T),)


def batched_product(self, projected, state):
    return (
        projected + torch.bmm(state[0].unsqueeze(1), self.weight_hh.expand(5, 7, 7)).squeeze(1),
    )


def in_place(self, projected, state):
    new = projected * 2
    new += state[0]
    return (new,)


def random(self, projected, state):
    return (projected + torch.randn_like(state[0]),)


def dropped(self, projected, state):
    return (F.dropout(projected + state[0]),)


def branching(self, projected, state):
    return (projected if state[0].sum() > 0 else state[0],)


def by_value(self, projected, state):
    return (projected * state[0].max().item(),)


def through_numpy(self, projected, state):
    return (projected + torch.tensor(np.sin(state[0].numpy())),)


def batch_mixed(self, projected, state):
    return (projected + state[0].sum(0),)


def half_a_block(self, projected, state):
    return (torch.cat([projected[:, 3:], state[0][:, :3]], 1),)


def split_in_half(self, projected, state):
    a, b = projected.split([3, 4], 1)
    return (torch.cat([b, a], 1) + state[0],)


def batch_cut(self, projected, state):
    return (torch.cat([projected[:2], projected[2:]]) + state[0],)


def outside(self, projected, state):
    return (projected + FIXED * state[0],)


def power(self, projected, state):
    return (projected.abs() ** 1.7 + state[0],)


def floored(self, projected, state):
    return (torch.div(projected, state[0], rounding_mode="floor"),)


def one_state_too_many(self, projected, state):
    return projected, projected


def wide(self, projected, state):
    return (torch.cat([projected, state[0]], 1),)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (
            partial(a_cell, unknown),
            r"step calls aten\.cumsum \(test_unsupported\.py, line \d+: "
            r"`return \(torch\.cumsum\(projected \+ state\[0\] @ self\.weight_hh\.T, 1\),\)`\), "
            r"which the compiler does not know",
        ),
        (
            lambda: Elman(3, 7, activation=lambda z: torch.sin(z)),
            r"step calls aten\.sin \(test_unsupported\.py, line \d+: .*`\), which the compiler does not",
        ),
        (
            lambda: Elman(3, 7, activation=torch.sin),
            r"step calls aten\.sin \(elman\.py, line \d+: `",
        ),
        (
            partial(a_cell, product_of_a_constant),
            r"aten\.\w+ .*, a product of something other than",
        ),
        (partial(with_parameters, two_weights, other=(10, 7)), "cannot be traced .*: The size of"),
        (partial(a_cell, batched_product), r"aten\.expand .*, on weight_hh"),
        (partial(a_cell, in_place), r"aten\.add_ .*`new \+= .*, which changes a tensor in place"),
        (partial(a_cell, random), r"aten\.randn_like \(.*, which draws random numbers"),
        (partial(a_cell, dropped), r"aten\.bernoulli_? \(.*, which draws random numbers"),
        (
            partial(a_cell, branching),
            r"step depends on a tensor's value \(.*, line \d+: `return .*\)",
        ),
        (
            partial(a_cell, by_value),
            r"step depends on a tensor's value \(.*, line \d+: `return .*\)",
        ),
        (
            partial(a_cell, through_numpy),
            r"step cannot be traced \(test_unsupported.py, line \d+: ",
        ),
        (partial(a_cell, batch_mixed), r"aten\.sum .*, a reduction, which"),
        (partial(a_cell, half_a_block), r"aten\.slice .*, which the compiler does not know"),
        (partial(a_cell, split_in_half), r"aten\.split_with_sizes .*, which the compiler does not"),
        (partial(a_cell, batch_cut), r"aten\.slice .*, which the compiler does not know"),
        (partial(a_cell, outside), r"on a tensor that is neither a parameter nor a buffer"),
        (partial(a_cell, power), r"aten\.pow .*, which the compiler does not know"),
        (partial(a_cell, floored), r"aten\.div .*, which the compiler does not know"),
        (
            partial(a_cell, one_state_too_many),
            r"step gives tensors of shapes .*, expected the state's",
        ),
        (partial(a_cell, wide), r"step gives tensors of shapes .*, expected the state's"),
        (
            partial(a_cell, unknown, state_sizes=(7, 5)),
            r"the state tensors have widths \(7, 5\), expected equal ones",
        ),
    ],
)
def test_a_step_beyond_it_is_named_with_its_line(cell, reason):
    with pytest.raises(Unsupported, match=reason) as caught:
        compiled(cell(), "cell")
    assert "\n" not in str(caught.value)


def linear(self, projected, state):
    return (projected + state[0],)


def projecting(project):
    cell = a_cell(linear, project, vectors={"bias": 1})
    cell.narrow = torch.nn.Parameter(torch.zeros(1))
    cell.register_buffer("fixed", torch.zeros(7))
    return cell


@pytest.mark.parametrize(
    ("project", "reason"),
    [
        (lambda self, x: torch.tanh(x @ self.weight_ih.T), r"it calls aten\.tanh\S* \(test_unsup"),
        (lambda self, x: x @ self.weight_ih.T @ self.weight_hh, r"it calls aten\.mm"),
        (lambda self, x: x @ self.weight_ih.T + 1, r"it calls aten\.add"),
        (lambda self, x: 2 * x @ self.weight_ih.T, r"it calls aten\.mul"),
        (lambda self, x: x @ self.weight_ih.T + x @ self.weight_ih.T, r"it calls aten\.add"),
        (lambda self, x: x.repeat(1, 3)[:, :7], r"is not x @ weight\.T \+ biases"),
        (lambda self, x: x @ self.weight_ih.permute(0, 1).T, r"it calls aten\.permute"),
        (lambda self, x: x @ self.weight_ih.T + self.narrow, "each as wide"),
        (lambda self, x: x @ self.weight_ih.T + self.fixed, r"it calls aten\.add"),
        (
            lambda self, x: torch.add(x @ self.weight_ih.T, self.bias, alpha=2),
            r"it calls aten\.add",
        ),
        (lambda self, x: x @ self.weight_ih.T + self.bias + self.bias, "only once"),
        (lambda self, x: x @ self.weight_ih[:7].T, r"it calls aten\.slice"),
        (
            lambda self, x: x @ self.weight_ih.T if x.sum() > 0 else -x @ self.weight_ih.T,
            "depends on a tensor's value",
        ),
    ],
)
def test_a_projection_that_is_not_linear_is_computed_before(project, reason):
    traced = trace(projecting(project), fused=False)
    assert traced.projection == ()
    assert re.search(reason, traced.apart)
    assert "\n" not in traced.apart


@pytest.mark.parametrize(
    ("project", "fused"),
    [
        (lambda self, x: torch.tanh(x @ self.weight_ih.T) * self.bias, True),
        (lambda self, x: F.softplus(F.linear(x, self.weight_ih, self.bias)), True),
        (lambda self, x: (x @ self.weight_ih.T).detach() + self.bias, True),
        (lambda self, x: x @ self.weight_ih.T + x[:, :1], False),
        (lambda self, x: torch.tanh(x) @ self.weight_ih.T, False),
        (lambda self, x: F.dropout(x @ self.weight_ih.T), False),
    ],
)
def test_what_is_made_of_the_product_with_x_is_a_part_of_the_step(project, fused):
    cell = projecting(project)
    traced = trace(cell)
    assert traced.fused == fused
    assert traced.projection == (("weight_ih",) if fused else ())
    if not fused:
        return
    x, state = torch.randn(traced.batch_size, 3), torch.randn(traced.batch_size, 7)
    tensors = [*cell.parameters(), *cell.buffers()]
    (got,) = traced.step(x @ cell.weight_ih.T, state, *tensors)
    (expected,) = cell.step(cell.project(x), (state,))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("project", "reason"),
    [
        (lambda self, x: x, "has 3 features, expected a multiple of H = 7"),
        (lambda self, x: (x, x), r"project\(x\) gives a tuple, expected a tensor"),
        (Cell.project, r"project fails .*: AnyCell must define project"),
    ],
)
def test_a_projection_that_is_none_is_named(project, reason):
    with pytest.raises(Unsupported, match=reason) as caught:
        compiled(projecting(project), "cell")
    assert "\n" not in str(caught.value)


def test_a_projection_must_be_whole_blocks():
    cell = with_parameters(lambda self, projected, state: state)
    cell.weight_ih = torch.nn.Parameter(torch.zeros(10, 3))
    with pytest.raises(Unsupported, match="has 10 features, expected a multiple of H = 7"):
        compiled(cell, "cell")


def test_compiling_leaves_the_cell_as_it_was():
    cell = Elman(3, 7)
    before = {name: (p, p.clone()) for name, p in cell.named_parameters()}
    with torch.no_grad():
        compiled(cell, "cell")
    after = dict(cell.named_parameters())
    assert list(after) == list(before)
    assert all(after[n] is p and torch.equal(p, old) for n, (p, old) in before.items())
    assert all(p.grad is None and p.requires_grad for p in after.values())


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu")], ids=str
)
def test_what_is_compiled_does_not_depend_on_the_caller_s_modes(mode):
    expected = compiled(Elman(3, 7), "cell")
    with mode():
        assert compiled(Elman(3, 7), "cell") == expected


def test_neither_dtype_nor_device_matters():
    expected = compiled(Elman(3, 7), "cell")
    for cell in (Elman(3, 7).bfloat16(), Elman(3, 7).double(), Elman(3, 7).to("meta")):
        assert compiled(cell, "cell") == expected
