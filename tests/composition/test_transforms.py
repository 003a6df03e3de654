"""Derivatives of every kind, ``torch.func``, autocast and parametrizations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from tests.compare import LSTM_HAS_AUTOCAST, assert_close_by_name, check_derivatives
from tests.composition.layers import DROP_INS, EVERY, NATIVE, Model, input_of, make, named, values
from unrolled import Recurrent, explain, layers
from unrolled.scan.native import library

every = pytest.mark.parametrize("kind", EVERY)
FLOAT64 = torch.float64
# PyTorch scripts its own formulas when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


@every
def test_the_gradient_of_each_sample_by_vmap_is_that_of_a_loop(kind: str) -> None:
    layer = make(kind).double()
    xs = torch.randn(6, 4, 1, 3, dtype=FLOAT64)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, weights, (x,))[0].square().sum()

    got = vmap(grad(loss), (None, 0))(detached(layer), xs)
    for k, x in enumerate(xs):
        layer.zero_grad()
        layer(x)[0].square().sum().backward()  # by the kernels, where there is one
        expected = {name: p.grad for name, p in layer.named_parameters()}
        assert_close_by_name({name: g[k] for name, g in got.items()}, expected, 4)


@every
def test_one_vmap_runs_an_ensemble(kind: str) -> None:
    members = [make(kind).double() for _ in range(3)]
    weights, buffers = torch.func.stack_module_state(members)
    x = input_of(dtype=FLOAT64)
    y, _ = vmap(lambda w, b: tuple(functional_call(members[0], (w, b), (x,))))(weights, buffers)
    expected = torch.stack([member(x)[0] for member in members])
    assert_close_by_name({"y": y}, {"y": expected}, 4)


@every
def test_jacobians_of_both_modes_agree_with_autograd(kind: str) -> None:
    layer, x = make(kind, depth=1).double(), input_of(3, 2, FLOAT64)

    def function(x: Tensor) -> Tensor:
        return layer(x)[0]

    expected = {"J": torch.autograd.functional.jacobian(function, x)}  # by the kernels
    for jacobian in (jacrev, jacfwd):
        assert_close_by_name({"J": jacobian(function)(x)}, expected, 3)
    tangent = torch.randn_like(x)
    _, got = jvp(function, (x,), (tangent,))
    directed = torch.einsum("tbhsle,sle->tbh", expected["J"], tangent)
    assert_close_by_name({"Jv": got}, {"Jv": directed}, 3)


@every
def test_first_and_second_derivatives_are_those_of_finite_differences(kind: str) -> None:
    layer = make(kind, depth=1, both=False).double()
    check_derivatives(layer, lambda layer, x: tuple(layer(x)), input_of(2, 2, FLOAT64))


@every
def test_the_backward_pass_runs_in_evaluation_as_in_training(kind: str) -> None:
    model, x = Model(make(kind)), input_of()
    expected = values(model, model, x)
    assert_close_by_name(values(model, model.eval(), x), expected, 4)


@every
def test_checkpointing_changes_no_gradient(kind: str) -> None:
    model, x = Model(make(kind)), input_of()

    def call(x: Tensor) -> Any:
        return checkpoint(lambda x: tuple(model(x)), x, use_reentrant=False)

    assert_close_by_name(values(call, model, x), values(model, model, x), 4)


@pytest.mark.parametrize("kind", DROP_INS)
def test_under_autocast_a_drop_in_does_what_its_parent_does(kind: str) -> None:
    parent = getattr(nn, kind)(3, 5)
    drop_in = make(kind, depth=1, both=False)
    drop_in.load_state_dict(parent.state_dict())
    x = input_of()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = drop_in(x)
        expected = parent(x)[0] if kind != "LSTM" or LSTM_HAS_AUTOCAST else None
    if (
        expected is None
    ):  # as the library's own loops have it: below 1, four times rounded to 8 bits
        assert (y.float() - parent(x)[0]).abs().max() < 2**-5
    else:
        assert y.dtype == expected.dtype
        assert torch.equal(y, expected)
    assert not torch.equal(y.float(), drop_in(x)[0])
    assert all(p.dtype == torch.float32 for p in drop_in.parameters())


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in DROP_INS])
def test_under_autocast_recurrent_runs_and_keeps_to_bfloat16s_accuracy(kind: str) -> None:
    layer, x = make(kind, depth=1, both=False), input_of()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x)
        y.float().sum().backward()
    assert y.dtype in (torch.bfloat16, torch.float32)
    # An output is below 1, and a step rounds its products to 8 bits: 4 steps stay within 2**-5.
    torch.testing.assert_close(y.float(), layer(x)[0], atol=2**-5, rtol=0)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def explicit(layer: nn.Module, weight: Tensor, name: str, kind: str) -> nn.Module:
    """A layer of the same class whose weight simply is ``weight``."""
    other = make(kind, depth=1, both=False).double()
    owner = other.cells[0] if isinstance(other, Recurrent) else other
    taken = layer.cells[0] if isinstance(layer, Recurrent) else layer
    with torch.no_grad():
        for own, _ in list(owner.named_parameters()):
            getattr(owner, own).copy_(weight if own == name else getattr(taken, own))
    return other


@pytest.mark.parametrize(
    "norm",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
@pytest.mark.parametrize("kind", EVERY)
def test_a_parametrised_recurrent_weight_is_the_one_that_runs_and_learns(
    kind: str, norm: Callable[..., nn.Module]
) -> None:
    layer, x = make(kind, depth=1, both=False).double(), input_of(dtype=FLOAT64)
    owner, name = (layer, "weight_hh_l0") if kind in DROP_INS else (layer.cells[0], "weight_hh")
    norm(owner, name)
    layer.eval()  # spectral norm moves its vectors at every call in training
    weight = getattr(owner, name)
    plain = explicit(layer, weight, name, kind)
    y, expected = layer(x)[0], plain(x)[0]
    assert_close_by_name({"y": y}, {"y": expected}, 4)
    sources = [p for n, p in owner.named_parameters() if "original" in n]
    seed = torch.randn_like(y)
    got = torch.autograd.grad(y, sources, seed)
    inner = dict(plain.named_parameters())[name if kind in DROP_INS else f"cells.0.{name}"]
    (through,) = torch.autograd.grad(expected, inner, seed)
    chained = torch.autograd.grad(getattr(owner, name), sources, through)
    gradients = {f"original {k}": g for k, g in enumerate(got)}
    assert_close_by_name(gradients, {f"original {k}": g for k, g in enumerate(chained)}, 4)


class Counted(nn.Module):
    """A parametrization that counts how often it is computed."""

    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return 2 * weight


@pytest.mark.skipif(library.missing() is not None, reason="no native library")
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        *((kind, "auto") for kind in EVERY),
        *((kind, "reference") for kind in EVERY if kind not in DROP_INS),
    ],
)
def test_a_parametrised_weight_is_computed_once_a_call_not_at_every_step(
    kind: str, backend: str
) -> None:
    layer, counter = make(kind, depth=1, both=False, backend=backend), Counted()
    owner, name = (layer, "weight_hh_l0") if kind in DROP_INS else (layer.cells[0], "weight_hh")
    path = explain(layer).path
    parametrize.register_parametrization(owner, name, counter)
    assert explain(layer).path == path
    layer(input_of())
    counter.calls = 0
    layer(input_of())
    assert counter.calls == 1


@pytest.mark.skipif(library.missing() is not None, reason="no native library")
@pytest.mark.parametrize("kind", NATIVE)
def test_a_transform_within_native_is_refused_with_the_reason(kind: str) -> None:
    layer = make(kind, backend="native")
    with pytest.raises(RuntimeError, match=r"torch\.func \(vmap, grad, jvp"):
        vmap(lambda x: layer(x)[0])(torch.randn(2, 4, 2, 3))


def test_forward_mode_runs_without_torch_func_too() -> None:
    drop_in, x = layers.LSTM(3, 5), input_of()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        got = torch.autograd.forward_ad.unpack_dual(drop_in(dual)[0]).tangent
    (expected,) = jvp(lambda x: named(drop_in(x))["output 0"], (x,), (torch.ones_like(x),))[1:]
    assert got.any()
    assert_close_by_name({"tangent": got}, {"tangent": expected}, 4)
