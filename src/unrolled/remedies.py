"""Remedies against gradients that vanish or explode: small functions, each with its citation."""

import torch
from torch import nn

from unrolled.cells import LSTM, Elman
from unrolled.cells.cell import GatedCell
from unrolled.layers import Recurrent


@torch.no_grad()
def sensible_weights(layer: Recurrent) -> Recurrent:
    """Redraw the weights of ``layer``'s cells in place, and return it.

    - Each gate's H rows of W are orthogonal: its singular values are all 1, so that a product of
      many neither vanishes nor explodes by itself (Saxe et al., "Exact solutions to the nonlinear
      dynamics of learning in deep linear neural networks", 2013). For an Elman cell with ReLU, W is
      the identity (Le, Jaitly & Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified
      Linear Units", 2015).
    - Each gate's rows of U are Glorot-uniform (Glorot & Bengio, "Understanding the difficulty of
      training deep feedforward neural networks", 2010).
    - Biases are 0; the forget gate's of an LSTM is 1, so that it remembers until it has learnt what
      to forget (Jozefowicz, Zaremba & Sutskever, "An Empirical Exploration of Recurrent Network
      Architectures", 2015).

    Cells of your own that are not a ``GatedCell`` are left as they are.
    """
    for cell in layer.cells:
        if not isinstance(cell, GatedCell):
            continue
        for input_block, recurrent_block in zip(
            cell.weight_ih.chunk(cell.gates), cell.weight_hh.chunk(cell.gates), strict=True
        ):
            nn.init.xavier_uniform_(input_block)
            if isinstance(cell, Elman) and cell.activation == "relu":
                nn.init.eye_(recurrent_block)
            else:
                nn.init.orthogonal_(recurrent_block)
        if cell.bias_ih is not None and cell.bias_hh is not None:
            cell.bias_ih.zero_()
            cell.bias_hh.zero_()
            if isinstance(cell, LSTM):
                cell.bias_ih.chunk(cell.gates)[1].fill_(1)
    return layer
