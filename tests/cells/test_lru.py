"""The linear recurrent unit against complex arithmetic; its eigenvalues; what it shows."""

import math

import numpy as np
import pytest
import torch

from tests.cells.papers import (
    B,
    D,
    H,
    T,
    assert_normal,
    assert_uniform,
    blocks,
    check_equations,
    check_gradients,
    drawn,
    inputs,
    weights_of,
)
from unrolled import Recurrent
from unrolled.cells import LRU
from unrolled.scan import ScanOptions, scan


def lru(w, x, re, im):
    b_re, b_im = blocks(w["weight_ih"], 2)
    eigenvalues = np.exp(-np.exp(w["nu"]) + 1j * np.exp(w["theta"]))
    s = eigenvalues * (re + 1j * im) + np.exp(w["gamma"]) * (x @ (b_re + 1j * b_im).T)
    return s.real, s.imag


def test_it_is_its_equations() -> None:
    check_equations(LRU(D, H), lru)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(LRU(2, 2))


def test_its_output_is_the_real_part_of_c_s() -> None:
    cell = drawn(LRU(D, H))
    x, start = inputs(cell)
    (y,), _ = scan(cell, x, start)
    (re, im), _ = scan(cell, x, start, ScanOptions(return_states=True))
    c_re, c_im = blocks(weights_of(cell)["weight_ho"], 2)
    s = re.detach().numpy() + 1j * im.detach().numpy()
    expected = (s @ (c_re + 1j * c_im).T).real
    np.testing.assert_allclose(y.detach().numpy(), expected, 1e-12, 1e-12)
    assert y.shape == (T, B, cell.output_size)


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 1.0), (0.4, 0.8), (0.9, 0.999)])
def test_at_the_start_eigenvalues_fill_the_ring_evenly(r_min: float, r_max: float) -> None:
    cell = LRU(2, 2_000, r_min=r_min, r_max=r_max, max_phase=1.5)
    re, im = cell.eigenvalues()
    square = (re**2 + im**2).detach().double()
    assert square.max() < 1
    # |λ|² is uniform where λ is uniform over the ring. It comes back from two exponentials of
    # float32, hence within 1e-6.
    assert_uniform(square.clamp(r_min**2, r_max**2), r_min**2, r_max**2)
    assert (square - square.clamp(r_min**2, r_max**2)).abs().max() < 1e-6
    assert_uniform(torch.exp(cell.theta).detach().clamp(max=1.5), 0, 1.5)
    torch.testing.assert_close(
        torch.exp(cell.gamma).double(), (1 - square).sqrt(), rtol=1e-3, atol=1e-4
    )


def test_with_noise_for_input_the_states_keep_the_variance_they_start_with() -> None:
    # What γ is for: |s|² has the same mean at every step once λ^t has died away.
    cell = LRU(1, 20, r_max=0.9).double()
    x = torch.randn(120, 1000, 1, dtype=torch.float64)
    with torch.no_grad():
        re, im = scan(cell, x, None, ScanOptions(return_states=True))[0]
    size = (re**2 + im**2)[100:].mean((0, 1))
    b_re, b_im = cell.weight_ih.detach().chunk(2)
    torch.testing.assert_close(size, (b_re**2 + b_im**2).squeeze(1), rtol=0.1, atol=0)


@pytest.mark.parametrize("nu", [-3.0, 0.0, 3.0])
def test_an_eigenvalue_is_inside_the_unit_circle_whatever_nu_is(nu: float) -> None:
    cell = LRU(D, H)
    torch.nn.init.constant_(cell.nu, nu)
    re, im = cell.eigenvalues()
    assert (re**2 + im**2 < 1).all()


@pytest.mark.parametrize("end", [0, 1])
def test_every_start_is_finite_even_at_the_ends_of_the_ring_and_of_the_phases(
    end: int, monkeypatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *ends: self.fill_(ends[end]))
    cell = LRU(D, H)
    assert all(parameter.isfinite().all() for parameter in cell.parameters())
    re, im = cell.eigenvalues()
    assert (re**2 + im**2 < 1).all()


def test_input_and_output_weights_are_drawn_by_the_width_of_what_they_meet() -> None:
    cell = LRU(50, 100)
    assert_normal(cell.weight_ih.detach(), 1 / math.sqrt(2 * 50))
    assert_normal(cell.weight_ho.detach(), 1 / math.sqrt(100))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_dtype_is_kept_though_there_are_no_such_complex_numbers(
    dtype: torch.dtype,
) -> None:
    layer = Recurrent(LRU, D, H, depth=2).to(dtype)
    y, state = layer(torch.randn(T, B, D, dtype=dtype))
    assert {y.dtype, *(s.dtype for s in state)} == {dtype}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_min": 0.5, "r_max": 0.5}, r"^r_min: got 0\.5, expected less than r_max = 0\.5$"),
        ({"r_max": 1.1}, r"^r_max: got 1\.1, expected a number from 0 to 1$"),
        ({"r_min": -0.1}, r"^r_min: got -0\.1, expected a number from 0 to 1$"),
        ({"max_phase": math.inf}, r"^max_phase: got inf, expected a number of at least 0$"),
    ],
)
def test_a_ring_that_is_none_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LRU(D, H, **options)


def test_it_shows_its_ring() -> None:
    assert repr(LRU(D, H)) == "LRU(8, 5, r_min=0, r_max=1, max_phase=6.28319)"
