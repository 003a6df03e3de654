"""Terms of the loss: their values by another way, and what a step of descent on them does."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import unrolled
from unrolled import Recurrent, cells
from unrolled.cells import Cell
from unrolled.layers.result import Result
from unrolled.remedies import lyapunov_regularisation, orthogonal_weights_, preserving
from unrolled.remedies.regularising import exponents
from unrolled.scan import ScanOptions, scan

T, B, D, H = 8, 3, 2, 5
KINDS = {"Elman": cells.Elman, "LSTM": cells.LSTM, "GRU": cells.GRU, "LEM": cells.LEM}
every_kind = pytest.mark.parametrize("kind", KINDS)


def last_output(result: Result) -> Tensor:
    return result.y[-1].square().sum()


def all_outputs(result: Result) -> Tensor:
    return result.y.square().sum() + result.state[-1].sum()


def linear(a: float, b: float | None = None) -> Recurrent:
    """s_t = a s_{t-1} + x_t; with ``b`` the second of two units by itself."""
    layer = Recurrent(cells.Elman, 2, 2, bias=False, activation="identity").double()
    with torch.no_grad():
        layer.cells[0].weight_ih.copy_(torch.eye(2))
        layer.cells[0].weight_hh.copy_(torch.diag(torch.tensor([a, a if b is None else b])))
    return layer


# --- The term that preserves the gradient's length -----------------------------------------------


def by_whole_jacobians(
    cell: Cell, x: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[float, list[Tensor]]:
    """Ω from every state's own leaf and every step's whole Jacobian, of one sequence after another."""
    total = 0.0
    for b in range(x.shape[1]):
        states = [cell.initial_state(1, x)]
        for projected in cell.project(x[:, b : b + 1]):
            states.append(cell.step(projected, states[-1]))
        y = torch.stack([s[0] for s in states[1:]])
        flat = [part for state in states for part in state]
        grads = torch.autograd.grad(loss(y), flat[len(states[0]) :], materialize_grads=True)
        # Cut at each step: the whole ∂L/∂s_t is what autograd gives where all of s_t is one leaf.
        for t in range(1, len(x)):
            delta = torch.cat(grads[t * len(states[0]) : (t + 1) * len(states[0])], -1)
            before = tuple(s.detach() for s in states[t])
            projected = cell.project(x[t, b : b + 1])
            arrived = torch.autograd.functional.vjp(
                lambda *s, p=projected: torch.cat(cell.step(p, s), -1), before, delta
            )[1]
            length = torch.cat(arrived, -1).norm()
            total += ((length / delta.norm()) - 1).square().item()
    return total / x.shape[1]


@pytest.mark.parametrize("kind", ["Elman", "GRU"])
def test_its_value_is_that_of_every_steps_jacobian(kind: str) -> None:
    layer = Recurrent(KINDS[kind], D, H).double()
    x = torch.randn(T, B, D).double()
    got = preserving(layer, x, lambda r: r.y.square().sum()).item()
    expected = by_whole_jacobians(layer.cells[0], x, lambda y: y.square().sum())
    assert math.isclose(got, expected, rel_tol=1e-10)


@pytest.mark.parametrize("a", [0.5, 1.0, -2.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_of_a_linear_network_each_step_gives_a_minus_1_squared(a: float, reverse: bool) -> None:
    layer = Recurrent(
        cells.Elman, 1, 1, bias=False, activation="identity", bidirectional=True, merge="sum"
    ).double()
    with torch.no_grad():
        for cell, slope in zip(layer.cells, (1.0, a) if reverse else (a, 1.0), strict=True):
            cell.weight_hh.fill_(slope)
    omega = preserving(layer, torch.randn(T, B, 1).double(), lambda r: r.state[0].sum())
    assert math.isclose(omega.item(), (T - 1) * (abs(a) - 1) ** 2, rel_tol=1e-12, abs_tol=1e-12)


def test_of_an_orthogonal_linear_network_it_is_zero() -> None:
    layer = orthogonal_weights_(Recurrent(cells.Elman, D, H, activation="identity").double())
    assert preserving(layer, torch.randn(T, B, D).double(), last_output) < 1e-24


@every_kind
def test_a_step_of_descent_lowers_it(kind: str) -> None:
    layer = Recurrent(KINDS[kind], D, H, depth=2, bidirectional=True).double()
    x = torch.randn(T, B, D).double()
    before = preserving(layer, x, all_outputs)
    before.backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    assert preserving(layer, x, all_outputs) < before


def test_states_and_gradients_are_constants_to_its_gradient() -> None:
    layer = linear(0.5)
    preserving(layer, torch.randn(T, B, 2).double(), last_output).backward()
    cell = layer.cells[0]
    # Ω = Σ (‖δ W‖/‖δ‖ - 1)², with W = a I and δ a constant: ∂Ω/∂a = (T - 1) 2 (a - 1) along δ.
    assert math.isclose(cell.weight_hh.grad.trace(), (T - 1) * 2 * (0.5 - 1), rel_tol=1e-9)
    assert cell.weight_ih.grad is None or not cell.weight_ih.grad.any()


def test_steps_that_no_gradient_reaches_are_left_out() -> None:
    x = torch.randn(T, B, 2).double()
    early = preserving(linear(0.5), x, lambda r: r.y[2].sum())
    assert math.isclose(early.item(), 2 * 0.25, rel_tol=1e-12)
    early.backward()  # the others have no NaN in their gradient


def test_it_is_the_same_by_the_kernels_and_batch_first() -> None:
    x = torch.randn(T, B, D).double()
    values = []
    for backend, first in (("reference", False), ("auto", False), ("auto", True)):
        torch.manual_seed(0)
        layer = Recurrent(cells.LSTM, D, H, depth=2, backend=backend, batch_first=first).double()
        given = x.transpose(0, 1) if first else x
        total = preserving(layer, given, lambda r: r.y.square().sum())
        total.backward()
        values.append([total, *(p.grad for p in layer.parameters() if p.grad is not None)])
        assert layer.segmenter is None
    for other in values[1:]:
        for a, b in zip(values[0], other, strict=True):
            torch.testing.assert_close(a, b)


# --- Lyapunov exponents and flossing -------------------------------------------------------------


def test_the_exponents_of_a_linear_network_are_the_logarithms_of_its_factors() -> None:
    x = torch.randn(400, B, 2).double()
    found = exponents(linear(0.9, 0.5), x, 2)
    assert found.shape == (1, 2)
    # A random Q turns to the eigenvectors; what that costs is divided by the 400 steps.
    expected = torch.tensor([[0.9, 0.5]]).double().log()
    torch.testing.assert_close(found, expected, atol=5 / 400, rtol=0)


@every_kind
def test_all_exponents_together_are_the_mean_log_determinant(kind: str) -> None:
    layer = Recurrent(KINDS[kind], D, 3).double()
    cell, x = layer.cells[0], torch.randn(T, B, D).double()
    size = sum(cell.state_sizes)
    total = 0.0
    for b in range(B):
        state = cell.initial_state(1, x)
        for projected in cell.project(x[:, b : b + 1]):

            def step(*s: Tensor, p: Tensor = projected) -> Tensor:
                return torch.cat(cell.step(p, s), -1)[0]

            jacobian = torch.autograd.functional.jacobian(step, state)
            total += torch.linalg.slogdet(torch.cat([j[:, 0] for j in jacobian], -1))[1].item()
            state = cell.step(projected, state)
    # Of a GRU or an Elman cell nothing is singular; of an LSTM and a LEM neither.
    assert math.isclose(exponents(layer, x, size).sum().item(), total / (T * B), rel_tol=1e-6)


@every_kind
def test_a_step_of_descent_brings_the_exponents_nearer_to_zero(kind: str) -> None:
    layer = Recurrent(KINDS[kind], D, H, bidirectional=True).double()
    x = torch.randn(T, B, D).double()

    def floss() -> Tensor:
        torch.manual_seed(1)  # the same Q at first
        return lyapunov_regularisation(layer, x, 2)

    before = floss()
    before.backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    torch.manual_seed(1)
    after = exponents(layer, x, 2)
    assert floss() < before
    assert after.square().sum() < before


def test_descent_takes_the_exponents_from_far_to_near() -> None:
    layer = Recurrent(cells.Elman, D, 8).double()
    x = torch.randn(40, 8, D).double()
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    before = exponents(layer, x, 3).detach().abs()
    for _ in range(40):
        optimizer.zero_grad()
        lyapunov_regularisation(layer, x, 3).backward()
        optimizer.step()
    after = exponents(layer, x, 3).detach().abs()
    assert (after < 0.2 * before).all()


def test_its_gradient_is_right() -> None:
    layer, x = Recurrent(cells.GRU, D, 3).double(), torch.randn(4, 2, D).double()
    names = [name for name, _ in layer.named_parameters()]

    class Floss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self) -> Tensor:
            torch.manual_seed(1)
            return lyapunov_regularisation(self.layer, x, 2)

    def function(*parameters: Tensor) -> Tensor:
        named = {f"layer.{n}": p for n, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Floss(), named, ())

    assert torch.autograd.gradcheck(
        function, [p.detach().clone().requires_grad_() for p in layer.parameters()]
    )


def test_the_gradient_grows_by_the_first_exponent() -> None:
    layer, x = linear(1.1, 0.3), torch.randn(60, B, 2).double()
    norms = [torch.zeros(60, B).double()]
    (y,), _ = scan(layer.cells[0], x, None, ScanOptions(norms=norms))
    y[-1].sum().backward()
    measured = (norms[0][0] / norms[0][50]).log().mean() / 50
    assert math.isclose(measured, exponents(layer, x, 1).item(), abs_tol=0.05)


# --- What is refused -----------------------------------------------------------------------------


def test_what_has_no_cells_is_refused_and_nothing_is_left_behind() -> None:
    x = torch.randn(T, B, D)
    for term in (
        lambda layer: preserving(layer, x, last_output),
        lambda layer: lyapunov_regularisation(layer, x, 1),
    ):
        with pytest.raises(TypeError, match=r"^layer: got GRU, expected an unrolled.Recurrent"):
            term(unrolled.GRU(D, H))
        with pytest.raises(ValueError, match=r"^layer: got weight_drop=0.5"):
            term(Recurrent(cells.GRU, D, H, weight_drop=0.5))
    layer = Recurrent(cells.GRU, D, H)
    with pytest.raises(ValueError, match=r"^loss: got shape \[8, 3, 5\], expected a scalar"):
        preserving(layer, x, lambda r: r.y)
    with pytest.raises(ValueError, match=r"^loss: got one that depends on nothing"):
        preserving(layer, x, lambda r: torch.zeros(()))
    with pytest.raises(ValueError, match=r"^count: got 6, expected at most 5"):
        exponents(layer, x, 6)
    with pytest.raises(ValueError, match=r"^x: got "):
        exponents(layer, torch.randn(T, B, D + 1), 1)
    assert layer.segmenter is None
