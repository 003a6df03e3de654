"""UORO's gradient is right in the mean, and each draw is that of the paper's algorithm."""

import itertools

import numpy as np
import pytest
import torch

from tests.bptt.online.test_rtrl import drawn, gradients
from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells
from unrolled.bptt import UORO


def with_signs(learner, signs):
    """``learner``, whose ν at call t is ``signs[t]`` ``[B, n]``."""
    given = iter(signs)
    learner._influence.signs = lambda like: next(given).to(like)
    return learner


def through_the_past(layer, x, resets=None):
    """BPTT's gradient of the last step's loss."""
    y = layer(x, **({} if resets is None else {"resets": resets}))[0]
    return gradients(y[-1].square().sum(), layer)


@pytest.mark.parametrize(
    ("name", "depth", "steps"), [("Elman", 1, 6), ("GRU", 2, 6), ("LSTM", 1, 3)]
)
def test_the_mean_over_all_signs_is_the_gradient_of_bptt(name, depth, steps):
    """Each row has the same inputs and one of the 2^(n (T-1)) patterns, so that one pass has them all."""
    units = 1 if depth == 2 else 2
    layer = drawn(Recurrent(getattr(cells, name), 2, units, depth=depth))
    n = layer.depth * units * len(layer.cells[0].state_sizes)
    bits = n * (steps - 1)
    assert bits <= 10
    patterns = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits))).double()
    signs = [*patterns.view(-1, steps - 1, n).unbind(1), torch.ones(len(patterns), n)]
    x = torch.randn(steps, 1, 2, dtype=torch.float64)
    learner = with_signs(UORO(layer), signs)
    for x_t in x:
        y = learner(x_t.expand(len(patterns), -1))
    got = gradients(y.square().sum() / len(patterns), layer)
    # the terms that cancel are larger than what is left of them, some hundred times
    want = through_the_past(layer, x)
    assert_close_by_name(got, want, 100 * steps)
    with pytest.raises(AssertionError):
        assert_close_by_name(gradients(y[:-1].square().sum() / len(patterns), layer), want, steps)


def assert_mean(samples, expected):
    """Fail unless the mean of ``samples`` ``[N, ...]`` is within 5 standard errors of ``expected``."""
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= 5 * error + 1e-12).all()


def test_a_mean_that_is_off_is_noticed():
    samples = torch.randn(1000, 3, dtype=torch.float64)
    assert_mean(samples, torch.zeros(3))
    with pytest.raises(AssertionError):
        assert_mean(samples, torch.tensor([0.0, 0.2, 0.0]))


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 3, 1]])
def test_the_mean_of_many_draws_is_near_the_gradient_of_bptt(sizes):
    layer = drawn(Recurrent(cells.LSTM, 3, 5, learn_initial_state=True, backend="reference"))
    x, batch_size = torch.randn(6, 1, 3, dtype=torch.float64), 100
    generator = torch.Generator().manual_seed(5)
    samples = []
    for _ in range(40):
        learner = UORO(layer, generator=generator)
        for chunk in x.split(sizes):
            y = learner(chunk.expand(-1, batch_size, -1))
        samples.append(gradients(y[-1].square().sum() / batch_size, layer))
    for name, want in through_the_past(layer, x).items():
        assert_mean(torch.stack([sample[name] for sample in samples]), want)


def test_one_draw_is_that_of_the_papers_algorithm():
    """Algorithm 1 of Tallec & Ollivier (2018) in NumPy, for an Elman network and a loss Σ s²."""
    units, inputs, steps, batch_size, epsilon = 5, 3, 8, 2, 1e-7
    layer = drawn(Recurrent(cells.Elman, inputs, units))
    x = torch.randn(steps, batch_size, inputs, dtype=torch.float64)
    signs = torch.randint(2, (steps, batch_size, units)).double() * 2 - 1
    learner = with_signs(UORO(layer), signs)
    u, w, b, b2 = (p.detach().numpy() for p in layer.parameters())
    states = [
        (np.zeros(units), np.zeros(units), np.zeros(u.size + w.size + 2 * units))
    ] * batch_size
    for t in range(steps):
        total = 0.0
        for row in range(batch_size):
            s, s_tilde, theta_tilde = states[row]
            x_t, nu = x[t, row].numpy(), signs[t, row].numpy()
            new = np.tanh(u @ x_t + w @ s + b + b2)
            slope = 1 - new**2

            def back(delta, x_t=x_t, s=s):
                parts = [np.outer(delta, x_t).ravel(), np.outer(delta, s).ravel(), delta, delta]
                return np.concatenate(parts)

            delta = 2 * new * slope
            total = total + (w.T @ delta @ s_tilde) * theta_tilde + back(delta)
            s_tilde, of_nu = slope * (w @ s_tilde), back(nu * slope)
            norm = np.linalg.norm
            rho_0 = np.sqrt(norm(theta_tilde) / (norm(s_tilde) + epsilon)) + epsilon
            rho_1 = np.sqrt(norm(of_nu) / (norm(nu) + epsilon)) + epsilon
            s_tilde = rho_0 * s_tilde + rho_1 * nu
            theta_tilde = theta_tilde / rho_0 + of_nu / rho_1
            states[row] = new, s_tilde, theta_tilde
        got = gradients(learner(x[t]).square().sum(), layer)
        flat = torch.cat([g.flatten() for g in got.values()])
        assert_close_by_name({"g": flat}, {"g": torch.from_numpy(total)}, 10 * steps)


def test_a_reset_leaves_nothing_of_the_past():
    layer = drawn(Recurrent(cells.GRU, 3, 4))
    x = torch.randn(5, 1, 3, dtype=torch.float64)
    learner = UORO(layer)
    learner(x[:2])
    learner(x[2])
    y = learner(x[3:], resets=torch.tensor([[True], [False]]))
    got = gradients(y.square().sum(), layer)
    want = gradients(layer(x[3:])[0].square().sum(), layer)
    assert_close_by_name(got, want, 2)


def test_the_signs_are_the_generators():
    layer = drawn(Recurrent(cells.GRU, 3, 4))
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    found = []
    for _ in range(2):
        learner = UORO(layer, generator=torch.Generator().manual_seed(1))
        torch.rand(1)
        for x_t in x:
            y = learner(x_t)
        found.append(gradients(y.sum(), layer))
    assert_close_by_name(*found, 0)
    signs = learner._influence.signs(torch.zeros(500, 4))
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert signs.mean().abs() < 0.15
