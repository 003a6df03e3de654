"""Weights and biases with which gradients neither vanish nor explode at first."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from unrolled.cells import Elman
from unrolled.cells.elman import ACTIVATIONS, Activation
from unrolled.layers.recurrent import Recurrent
from unrolled.remedies.weights import CellWeights, cells_of, check_layer
from unrolled.shapes import check_number, check_size, check_valued

Layer = TypeVar("Layer", bound=Recurrent | nn.RNNBase)

LONGEST = 2**31 - 1  # steps
LARGEST_VARIANCE = 1e4
"""Of a pre-activation, for which a critical W is looked for."""


@torch.no_grad()
def sensible_weights_(layer: Layer) -> Layer:
    """Redraw the weights of ``layer``'s cells in place, and return it.

    - Each gate's H rows of W are orthogonal: its singular values are all 1, so that a product of
      many neither vanishes nor explodes by itself (Saxe et al., "Exact solutions to the nonlinear
      dynamics of learning in deep linear neural networks", 2013). For an Elman cell with ReLU, W is
      the identity (Le, Jaitly & Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified
      Linear Units", 2015).
    - Each gate's rows of U are Glorot-uniform (Glorot & Bengio, "Understanding the difficulty of
      training deep feedforward neural networks", 2010).
    - Biases are 0; a forget gate's is 1, so that it remembers until it has learnt what
      to forget (Jozefowicz, Zaremba & Sutskever, "An Empirical Exploration of Recurrent Network
      Architectures", 2015).

    Cells of your own that are not a ``GatedCell`` are left as they are. Each of these alone:
    ``orthogonal_weights_``, ``identity_weights_``, ``glorot_weights_``, ``forget_bias_``.
    """
    for cell in cells_of(layer, lenient=True):
        for input_block, recurrent_block in zip(cell.inputs(), cell.recurrent(), strict=True):
            nn.init.xavier_uniform_(input_block)
            if cell.activation == "relu":
                recurrent_block.copy_(_unit(recurrent_block))
            else:
                _orthogonal(recurrent_block)
        if cell.bias_ih is not None:
            for gate in range(cell.kind.gates):
                cell.set_bias(gate, 0.0)
            if cell.forgets:
                cell.set_bias("f", 1.0)
    return layer


@torch.no_grad()
def orthogonal_weights_(layer: Layer, *, gain: float = 1.0) -> Layer:
    """Redraw W in place: each gate's H rows are orthogonal times ``gain``. Returns ``layer``.

    All singular values of such a block are ``gain``, so that of 1 a product of many neither vanishes
    nor explodes by itself. The LSTM of ``torch.nn`` with ``proj_size`` has W of fewer columns; these are
    orthogonal then.

    Source: Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", ICLR 2014.
    """
    check_number("gain", gain)
    for cell in cells_of(layer):
        for block in cell.recurrent():
            _orthogonal(block, gain)
    return layer


@torch.no_grad()
def identity_weights_(layer: Layer, *, scale: float = 1.0) -> Layer:
    """Make W ``scale`` times the identity and b zero, in place; U stays. Returns ``layer``.

    Meant for ReLU (the IRNN): without input the state stays as it is, and so does its gradient. With a
    ``scale`` below 1 it fades.

    Source: Le, Jaitly & Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear
    Units", arXiv 1504.00941 (2015).

    Raises:
        TypeError: the cells are not ``Elman``: a gate that sees only its own unit is no such network.
    """
    check_number("scale", scale)
    for cell in cells_of(layer):
        _check_elman("identity_weights_", cell)
        cell.weight_hh.copy_(scale * _unit(cell.weight_hh))
        if cell.bias_ih is not None:
            cell.set_bias(0, 0.0)
    return layer


@torch.no_grad()
def glorot_weights_(layer: Layer, *, gain: float = 1.0) -> Layer:
    """Redraw U in place: each gate's H rows from U(-a, a), a = gain √(6 / (D + H)). Returns ``layer``.

    W is left: its input is the state, for which ``orthogonal_weights_`` is the better choice.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.
    """
    check_number("gain", gain)
    for cell in cells_of(layer):
        for block in cell.inputs():
            nn.init.xavier_uniform_(block, gain)
    return layer


@torch.no_grad()
def forget_bias_(layer: Layer, bias: float = 1.0) -> Layer:
    """Make the forget gate's bias of every cell ``bias``, both its parts together, in place.

    With 1 or more a new network remembers, until it has learnt what to forget. Returns ``layer``.

    Source: Gers, Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12 (2000); Jozefowicz,
    Zaremba & Sutskever, "An Empirical Exploration of Recurrent Network Architectures", ICML 2015.

    Raises:
        TypeError: the cells have no forget gate, such as an LSTM's.
        ValueError: they have no biases.
    """
    check_number("bias", bias, least=-math.inf)
    for cell in cells_of(layer):
        if not cell.forgets:
            raise TypeError(
                f"forget_bias_: got cells of {cell.kind.__name__}, expected an LSTM; "
                "for gated cells of other kinds there is chrono_bias_"
            )
        _check_bias("forget_bias_", cell)
        cell.set_bias("f", bias)
    return layer


@torch.no_grad()
def chrono_bias_(layer: Layer, longest: int) -> Layer:
    """Draw the biases of the gates that keep the state, so that units remember 1 to ``longest`` steps.

    A unit whose gate keeps the share σ(b) of its state forgets within about 1 / (1 - σ(b)) steps, so
    with b = log u, u from U(1, longest - 1), within 1 + u. In place; in both parts of a bias together:

    - LSTM: b_f = log u and b_i = -b_f. Its kin with coupled gates: b_f alone.
    - GRU: b_z = log u, since z is what stays, as in ``torch.nn`` (in the source it is what changes).
      MGU: b_f = -log u, since its f is what changes.
    - A cell of your own: by its ``retain``.

    Other gates' biases are left. Returns ``layer``.

    Source: Tallec & Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, equations 16
    and 17.

    Args:
        layer: of cells with a ``retain``: LSTM, GRU, their kin, your own.
        longest: T_max, the longest dependency expected, in steps; at least 2.

    Raises:
        TypeError: the cells have no gate that keeps the state.
        ValueError: they have no biases.
    """
    check_size("longest", longest, least=2, most=LONGEST)
    for cell in cells_of(layer):
        retain = cell.kind.retain
        if retain is None:
            raise TypeError(
                f"chrono_bias_: got cells of {cell.kind.__name__}, expected gated ones, such as "
                "cells.LSTM; remedies.as_lstm makes a layer of them"
            )
        _check_bias("chrono_bias_", cell)
        drawn = cell.weight_hh.new_empty(cell.units).uniform_(1, longest - 1).log_()
        kept = drawn if retain.keeps else -drawn
        cell.set_bias(retain.gate, kept)
        if retain.written:
            cell.set_bias(retain.written, -kept)
    return layer


@torch.no_grad()
def critical_weights_(layer: Layer, *, input_variance: float = 1.0) -> Layer:
    """Redraw W of Elman cells, so that a step changes no gradient's length on average; in place.

    In a wide network z_t = W s_{t-1} + U x_t + b is Gaussian over the units, of variance

        q_t = σ_w² E[f(√q_{t-1} ξ)²] + σ_u²        ξ from N(0, 1)

    with σ_w² / H the variance of W's entries, and σ_u² that of U x_t + b. A step multiplies the squared
    length of a gradient by χ = σ_w² E[f'(√q ξ)²], on average, where q is the fixed point. W becomes σ_w
    times an orthogonal matrix, whose rows have that variance, with the σ_w for which χ = 1: below, what
    is old is forgotten; above, the network is chaotic.

    σ_u² is computed from U and b, which stay as they are: call it after these are drawn. For ReLU and the
    identity χ does not depend on q: σ_w² is 2 and 1.

    Source: Poole et al., "Exponential expressivity in deep neural networks through transient chaos",
    NeurIPS 2016; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein, "Deep Information Propagation", ICLR
    2017; for recurrent networks, and orthogonal W, Chen, Pennington & Schoenholz, "Dynamical Isometry
    and a Mean Field Theory of RNNs", ICML 2018.

    Args:
        layer: of Elman cells, of any activation, without layer normalisation, recurrent dropout or
            zoneout. In layers above the first the variance of the input is that of the states below.
        input_variance: the mean of x², over all its features.

    Returns:
        ``layer`` itself.

    Raises:
        TypeError: the cells are not ``Elman``.
        ValueError: no σ_w gives χ = 1, as where U x_t is large beside what a sigmoid can give back; or
            what the second layer reads is not the states of the first: there is a projection, a
            residual connection, or directions that are added or multiplied.
    """
    variance = check_number("input_variance", input_variance)
    cells = list(cells_of(layer))
    for cell in cells:
        _check_elman("critical_weights_", cell)
        check_valued("layer", cell.weight_ih)
        if cell.extras:
            raise ValueError(f"layer: got cells with {', '.join(cell.extras)}, expected none")
    recurrent = check_layer(layer)
    width = recurrent.directions
    if recurrent.depth > 1:
        _check_stack(recurrent.as_recurrent())
    for first in range(0, len(cells), width):
        second_moments = [_critical(cell, variance) for cell in cells[first : first + width]]
        variance = sum(second_moments) / width
    return layer


def _critical(cell: CellWeights, input_variance: float) -> float:
    """Redraw the W of ``cell``, and return E[f(z)²] for what it then gives."""
    entering_variance = input_variance * cell.weight_ih.square().sum(1).mean().item()
    if cell.bias_ih is not None and cell.bias_hh is not None:
        entering_variance += (cell.bias_ih + cell.bias_hh).square().mean().item()
    f = ACTIVATIONS[cell.activation] if isinstance(cell.activation, str) else cell.activation
    gain, moment = critical_gain(f, entering_variance)
    _orthogonal(cell.weight_hh, gain)
    return moment


def critical_gain(f: Activation, entering_variance: float) -> tuple[float, float]:
    """σ_w for which χ = 1 at the fixed point, and E[f(z)²] there, with U x_t + b of ``entering_variance``.

    For each q there is one σ_w with χ = 1, and one input that has q as its fixed point with it,
    q - E[f²] / E[f'²]: q is where that is ``entering_variance``. For functions with f(c z) = c f(z), c > 0,
    σ_w is the same for every q, and no q is a fixed point unless nothing enters: E[f²] is infinite then.

    Raises:
        ValueError: there is no such q.
    """
    low, high = _moments(f, 1e-6), _moments(f, LARGEST_VARIANCE)
    if math.isclose(low[1], high[1], rel_tol=1e-6):
        return 1 / math.sqrt(low[1]), math.inf if entering_variance else 0.0

    def excess(log_q: float) -> float:
        value, slope = _moments(f, math.exp(log_q))
        return math.exp(log_q) - value / slope - entering_variance

    points = torch.linspace(
        math.log(1e-12), math.log(LARGEST_VARIANCE), 60, dtype=torch.float64, device="cpu"
    ).tolist()
    above = next((k for k, point in enumerate(points) if excess(point) >= 0), None)
    if above is None:
        raise ValueError(
            f"layer: got an input of variance {entering_variance:.3g}, for which no W is critical with "
            "this activation; make U smaller, or take another activation"
        )
    below, over = points[max(above - 1, 0)], points[above]
    for _ in range(60):
        middle = (below + over) / 2
        below, over = (middle, over) if excess(middle) < 0 else (below, middle)
    value, slope = _moments(f, math.exp(over))
    return 1 / math.sqrt(slope), value


def _moments(f: Callable[[Tensor], Tensor], q: float) -> tuple[float, float]:
    """E[f(z)²] and E[f'(z)²] for z from N(0, q).

    By the trapezoidal rule, which for smooth functions that fade this fast errs by rounding alone, and
    whose points are dense where a saturating f is steep, as those of Gauss and Hermite are not. None is
    at 0, where ReLU has no slope.
    """
    nodes = torch.linspace(-9, 9, 8000, dtype=torch.float64, device="cpu")
    weights = torch.softmax(-nodes.square() / 2, 0)
    with torch.enable_grad():
        z = (math.sqrt(q) * nodes).requires_grad_()
        y = f(z)
        (slope,) = torch.autograd.grad(y.sum(), z)
    return (weights * y.detach().square()).sum().item(), (weights * slope.square()).sum().item()


def _unit(like: Tensor) -> Tensor:
    """The unit matrix in the shape of ``like``."""
    return torch.eye(*like.shape, dtype=like.dtype, device=like.device)


def _orthogonal(block: Tensor, gain: float = 1.0) -> None:
    """Redraw ``block`` with orthogonal rows or columns; of half precision there is no decomposition."""
    if block.is_meta:  # it has no values
        return
    wide = torch.promote_types(block.dtype, torch.float32)
    block.copy_(nn.init.orthogonal_(torch.empty_like(block, dtype=wide), gain))


def _check_stack(layer: Recurrent) -> None:
    """Refuse a stack in which a layer does not read the states below, as they are."""
    joined = layer.directions == 2 and layer.merge not in ("concat", "separate")
    options = {
        "projection": layer.projection,
        "residual": layer.residual,
        "merge": joined and layer.merge,
    }
    for name, value in options.items():
        if value:
            raise ValueError(
                f"layer: got {name}={value!r} with depth {layer.depth}, so that the second layer does "
                "not read the states of the first, expected it without; or make one layer at a time"
            )


def _check_elman(function: str, cell: CellWeights) -> None:
    if not issubclass(cell.kind, Elman):
        raise TypeError(
            f"{function}: got cells of {cell.kind.__name__}, expected Elman cells; "
            "for gated ones there is orthogonal_weights_"
        )


def _check_bias(function: str, cell: CellWeights) -> None:
    if cell.bias_ih is None:
        raise ValueError(f"{function}: got a layer with bias=False, expected one with biases")
