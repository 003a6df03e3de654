"""Real-time recurrent learning: the whole gradient, forward in time."""

from typing import ClassVar, cast

import torch
from torch import nn

from unrolled.bptt.online.influence import Chunk, Influence, Tensors
from unrolled.bptt.online.layer_state import Final, LayerInfluence, Parameters, vector
from unrolled.bptt.online.learner import Learner
from unrolled.bptt.online.locality import locality
from unrolled.bptt.online.unitwise import ByUnit
from unrolled.cells import Cell
from unrolled.layers.recurrent import Recurrent


class RTRL(Learner):
    """Real-time recurrent learning: the gradient through all past steps, exactly.

        J_t = ∂s_t/∂s_{t-1} J_{t-1} + ∂s_t/∂θ        ∂L_t/∂θ = ∂L_t/∂s_t J_t

    For fixed weights, and up to rounding, that is the gradient of BPTT over the whole past,
    at every step. J has two forms, and ``form`` says which is in use:

    - "dense": any layer. With n numbers of state and P parameters, J is n P numbers a row, and a step
      of one costs n² P; a chunk of T steps costs n² P once, and n P a step. While it is computed it
      needs memory for about three J.
    - "by unit": where no unit hears of another unit's past, as in IndRNN, MinGRU, MinLSTM, LRU, UnICORNN
      and cells of your own like them, in one layer. A parameter then reaches the state of a single
      unit: k P numbers a row, for k state tensors, at a cost as linear.

    Whether a cell is like that is found by numerical experiment, when the learner is made, with random
    weights and inputs, on a copy.

        >>> import torch, unrolled
        >>> from unrolled.bptt import RTRL
        >>> layer = unrolled.Recurrent(unrolled.cells.GRU, 3, 4)
        >>> learner = RTRL(layer)
        >>> for x_t in torch.randn(100, 2, 3):
        ...     y_t = learner(x_t)
        >>> y_t.sum().backward()  # through all 100 steps
        >>> learner.form, learner.size
        ('dense', 432)

    Source: Williams & Zipser, "A Learning Algorithm for Continually Running Fully Recurrent Neural
    Networks", Neural Computation 1 (1989); chunks as in Schmidhuber, "A Fixed Size Storage O(n³) Time
    Complexity Learning Algorithm for Fully Recurrent Continually Running Networks", Neural Computation
    4 (1992); by unit as in Zucchet, Meier, Schug, Mujika & Sacramento, "Online Learning of Long-Range
    Dependencies", NeurIPS 2023, and Irie, Gopalakrishnan & Schmidhuber, "Exploring the Promise and
    Limits of Real-Time Recurrent Learning", ICLR 2024.

    Args:
        layer: a ``Recurrent``, or an ``RNN``, ``LSTM`` or ``GRU`` of unrolled or ``torch.nn``; of one
            direction.

    Raises:
        TypeError: ``layer`` is none of these.
        ValueError: it is bidirectional, has a ``proj_size``, weights that are computed or nothing to
            learn; or J would take more than ``limit``.
    """

    limit: ClassVar[int] = 4 * 2**30
    """The largest dense J, in bytes: 4 GiB."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer, self._chosen)

    @classmethod
    def _chosen(cls, layer: Recurrent) -> Influence:
        localities = [locality(cast(Cell, cell)) for cell in layer.cells]
        if len(localities) == 1 and localities[0].is_elementwise and not localities[0].strays:
            return ByUnit(layer, localities)
        return Dense(layer, cls.limit)


class Dense(LayerInfluence):
    """J whole: for each parameter ``[B, n, *shape]``."""

    form = "dense"

    def __init__(self, layer: Recurrent, limit: int) -> None:
        super().__init__(layer)
        self.size, self.limit = self.n * self.count, limit
        self.width = next(layer.parameters()).element_size()

    def shapes(self, batch_size: int) -> list[tuple[int, ...]]:
        if (needed := batch_size * self.size * self.width) > self.limit:
            raise ValueError(
                f"layer: got {self.n} numbers of state and {self.count} parameters, so that for "
                f"B = {batch_size} RTRL's influence takes {needed / 2**30:.3g} GiB, expected at most "
                f"{self.limit / 2**30:.3g}; take SnAp1 or UORO, fewer rows or a smaller layer"
            )
        return [(batch_size, self.n, *shape) for shape in self.reached.values()]

    def advance(
        self, final: Final, parameters: Parameters, influence: Tensors, chunk: Chunk
    ) -> Tensors:
        differentiate = torch.func.vmap(
            torch.func.jacrev(final, argnums=(0, 3)), in_dims=(None, 1, 1, 0)
        )
        start = vector(chunk.state)
        direct, through = differentiate(parameters, chunk.x.detach(), chunk.resets, start)
        return tuple(
            torch.baddbmm(own.flatten(2), through, past.flatten(2)).view_as(past)
            if past.dim() > 2
            else torch.baddbmm(own.unsqueeze(2), through, past.unsqueeze(2)).view_as(past)
            for own, past in zip(direct.values(), influence, strict=True)
        )

    def pull(self, influence: Tensors, gradients: Tensors) -> Tensors:
        v = torch.cat(gradients, -1)
        return tuple(torch.tensordot(v, part, 2) for part in influence)
