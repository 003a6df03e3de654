"""Another activation, or gates, in place of what lets gradients vanish; what weights can be kept are."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from unrolled import layers
from unrolled.cells import GRU, LSTM, Cell, Elman
from unrolled.cells.cell import GatedCell
from unrolled.cells.elman import Activation
from unrolled.layers.recurrent import Recurrent
from unrolled.remedies.weights import CellWeights, cells_of, check_layer
from unrolled.shapes import check_number

Layer = TypeVar("Layer", bound=Recurrent | nn.RNNBase)
Gated = Literal["GRU", "LSTM"]

GATED: dict[Gated, type[GatedCell]] = {"GRU": GRU, "LSTM": LSTM}
OPEN: dict[Gated, dict[str, int]] = {"GRU": {"r": 1, "z": -1}, "LSTM": {"i": 1, "f": -1, "o": 1}}
"""Which gates are open at first (1), and which are closed (-1)."""


def with_activation(layer: Layer, activation: str | Activation) -> Layer:
    """A copy of an Elman ``layer`` with the same weights, options and state dict, and another activation.

    The slope of the sigmoid is 1/4 at most, that of tanh is 1 at zero alone; that of ReLU is 1 wherever
    a unit is active. The weights were not drawn for it: see ``identity_weights_``.

    Source: Nair & Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010;
    Talathi & Vartak, "Improving performance of recurrent neural network with relu nonlinearity", arXiv
    1511.03771 (2015).

    Args:
        layer: a ``Recurrent`` of Elman cells, or an RNN, a drop-in one or ``torch.nn``'s.
        activation: as ``cells.Elman`` takes it; for an RNN "tanh" or "relu".

    Raises:
        TypeError, ValueError: the cells are not ``Elman``, or have no such activation.
    """
    _elman_cells("with_activation", layer)
    made = copy.deepcopy(layer)
    if not isinstance(made, nn.RNN):
        for cell in cast(Sequence[Elman], made.cells):
            cell.activation = Elman(1, 1, activation=activation).activation  # or its error
        return made
    if activation not in ("tanh", "relu"):
        raise ValueError(
            f"activation: got {activation!r} for an RNN of torch.nn, expected 'tanh' or 'relu'; "
            "for others there is Recurrent(cells.Elman, …)"
        )
    made.nonlinearity = str(activation)
    made.mode = f"RNN_{made.nonlinearity.upper()}"
    return made


def as_gru(layer: Layer, *, gate_bias: float = 5.0) -> Recurrent | nn.GRU:
    """A GRU that begins as the Elman ``layer`` with tanh was, and can learn to remember.

    The candidate n takes U, W and b. The gates see nothing at first (U and W of zero) and have biases
    that close z and open r. W_n is divided by r, so that n_t is the old network's next state exactly, and

        h_t = (1 - z) n_t + z h_{t-1}        z = 1 / (1 + exp(gate_bias))

    is at most 2 z from it in every unit, from the same state; z is 0.0067 for 5. Over several steps the
    difference is multiplied as any difference of states is, at most by ‖W‖_∞ = max Σ_j ``|W_ij|`` a
    step: so it stays below 2 z (1 + ‖W‖_∞ + … + ‖W‖_∞^{T-1}). A larger ``gate_bias`` is nearer, but its
    gates learn more slowly: their slope is about z.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014; the
    start is this library's own.

    Args:
        layer: a ``Recurrent`` of Elman cells, or an RNN, a drop-in one or ``torch.nn``'s: with tanh and
            biases, without layer normalisation.
        gate_bias: of the gates that are open; that of the closed ones is its negative.

    Returns:
        A new layer of the same kind, depth, directions and options. Its state is that of ``layer``.

    Raises:
        TypeError, ValueError: ``layer`` is not as above.
    """
    made: Recurrent | nn.GRU = _gated("GRU", layer, gate_bias)
    return made


def as_lstm(layer: Layer, *, gate_bias: float = 5.0) -> Recurrent | nn.LSTM:
    """An LSTM that begins nearly as the Elman ``layer`` with tanh was, and can learn to remember.

    The cell input g takes U, W and b. The gates see nothing at first (U and W of zero) and have biases
    that open i and o and close f. From the same h_{t-1}, with s_t the old network's next state and
    ε = 1 / (1 + exp(gate_bias)), in every unit,

        abs(h_t - tanh(s_t)) ≤ 3 ε

    A second tanh thus remains, by which h_t is shorter: tanh(s) differs from s by at most s³ / 3, 0.009 for
    s = 0.3, and 0.24 for s = 1. What reads h_t learns to make up for it, or take ``as_gru``, which has
    none. f is closed, since an Elman network keeps nothing but through W; ``forget_bias_`` opens it.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); the start
    is this library's own.

    Args:
        layer: as for ``as_gru``.
        gate_bias: as for ``as_gru``.

    Returns:
        A new layer of the same kind, depth, directions and options. Its state is the pair (h, c).

    Raises:
        TypeError, ValueError: ``layer`` is not as above.
    """
    made: Recurrent | nn.LSTM = _gated("LSTM", layer, gate_bias)
    return made


def _gated(kind: Gated, layer: Recurrent | nn.RNNBase, gate_bias: float) -> Any:
    """``layer`` with gated cells, as ``as_gru`` and ``as_lstm`` say."""
    function = f"as_{kind.lower()}"
    check_number("gate_bias", gate_bias)
    elman_cells = _elman_cells(function, layer)
    for cell in elman_cells:
        if cell.activation not in ("tanh", torch.tanh):
            raise ValueError(
                f"{function}: got the activation {cell.activation!r}, expected 'tanh', since the "
                "candidate's is tanh; with_activation(layer, 'tanh') makes it so"
            )
        if cell.bias_ih is None:
            raise ValueError(f"{function}: got a layer with bias=False; the gates need biases")
        if "layer_norm" in cell.extras:
            raise ValueError(f"{function}: got layer_norm, which gates would share; expected none")
    made = _recurrent(kind, layer) if isinstance(layer, Recurrent) else _torch(kind, layer)
    with torch.no_grad():
        for old, new in zip(elman_cells, cells_of(made), strict=True):
            _fill(kind, old, new, gate_bias)
    return made.train(layer.training)


def _recurrent(kind: Gated, layer: Recurrent) -> Recurrent:
    """A copy of ``layer`` with new cells, weights not yet set."""
    made = copy.deepcopy(layer)
    for k, old in enumerate(cast(Sequence[Elman], layer.cells)):
        with old.weight_hh.device:
            cell = GATED[kind](
                old.input_size,
                old.hidden_size,
                recurrent_dropout=old.recurrent_dropout,
                zoneout=max(old.zoneout, default=0.0),
            )
        made.cells[k] = cell.to(old.weight_hh)
        if old.learns_initial_state:
            _learn_initial_state(cell, old)
    return made


def _learn_initial_state(cell: Cell, old: Cell) -> None:
    """What ``old`` starts from, as h; c starts at zero."""
    cell.learn_initial_state()
    with torch.no_grad():
        cell.initial[0].copy_(old.initial[0])


def _torch(kind: Gated, layer: nn.RNNBase) -> nn.RNNBase:
    """A layer of ``torch.nn``, or a drop-in one, of the sizes and options of ``layer``, weights not set."""
    is_drop_in = bool(check_layer(layer).masks)
    owner: Any = layers if is_drop_in else nn
    weight = cast(Tensor, layer.weight_hh_l0)
    made: Any = getattr(owner, kind)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        device=weight.device,
        dtype=weight.dtype,
    )
    if is_drop_in:
        made.backend, made.clip = layer.backend, layer.clip
    return cast(nn.RNNBase, made)


def _fill(kind: Gated, old: CellWeights, new: CellWeights, gate_bias: float) -> None:
    """Put the old cell where the candidate is, and constants where the gates are."""
    candidate = new.block(new.kind.candidate)
    new.weight_ih.zero_()
    new.weight_hh.zero_()
    new.inputs()[candidate].copy_(old.weight_ih)
    share = 1 / (1 + math.exp(-gate_bias)) if kind == "GRU" else 1.0  # what r leaves of W h
    new.recurrent()[candidate].copy_(old.weight_hh / share)
    assert old.bias_ih is not None and old.bias_hh is not None
    new.set_bias(candidate, old.bias_ih + old.bias_hh)
    for gate, sign in OPEN[kind].items():
        new.set_bias(gate, sign * gate_bias)


def _elman_cells(function: str, layer: Recurrent | nn.RNNBase) -> list[CellWeights]:
    """The weights of ``layer``'s cells, or an error unless they are Elman cells."""
    cells = list(cells_of(layer))
    for cell in cells:
        if cell.kind is not Elman:
            raise TypeError(
                f"{function}: got cells of {cell.kind.__name__}, expected Elman cells, or an RNN"
            )
    return cells
