"""The contract every cell keeps: ``project`` and ``step``."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unrolled.shapes import check_size

State = tuple[Tensor, ...]
"""The state of one cell: one tensor ``[B, size]`` for each entry of ``Cell.state_sizes``."""


class Cell(nn.Module):
    """One step of a recurrent network: its equations, and nothing else.

    A cell is split in two, so that everything that does not have to wait for the state is done for
    all time steps in one matrix product:

    - ``project(x)``: ``[..., D] -> [..., P]``, all that does not depend on the state;
    - ``step(projected_t, state) -> state``: ``[B, P]`` and a tuple of ``[B, size]`` tensors, to a
      tuple of the same shapes. Its first tensor is the cell's output at that step.

    A cell of your own overrides both; one with more than one state tensor also overrides
    ``state_sizes``. ``step`` must be a pure function of its arguments and of the parameters: no
    randomness, no branching on values; and treat lanes one by one, since lanes that have ended are
    left out of its B. Then every scan, layer and model takes it:

        >>> import torch
        >>> from unrolled import Recurrent
        >>> from unrolled.cells import Cell
        >>> class Leaky(Cell):
        ...     def __init__(self, input_size, hidden_size):
        ...         super().__init__(input_size, hidden_size)
        ...         self.weight_ih = torch.nn.Parameter(torch.empty(hidden_size, input_size))
        ...         self.weight_hh = torch.nn.Parameter(torch.empty(hidden_size, hidden_size))
        ...         self.reset_parameters()
        ...     def project(self, x):
        ...         return x @ self.weight_ih.T
        ...     def step(self, projected, state):
        ...         (h,) = state
        ...         return (0.9 * h + 0.1 * torch.tanh(projected + h @ self.weight_hh.T),)
        >>> y, (h_n,) = Recurrent(Leaky, 3, 5)(torch.zeros(7, 2, 3))
        >>> y.shape, h_n.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))

    Two more methods are for the few cells that need them: ``read``, where the output is not the first
    state tensor, and ``parallel``, where all steps can be had without taking them one by one.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
    """

    at_once: ClassVar[bool] = False
    """Whether there is a ``parallel``, and it stands for ``step``: no subclass changed that alone."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        parallel, step = (
            next(kind for kind in cls.__mro__ if name in vars(kind))
            for name in ("parallel", "step")
        )
        cls.at_once = issubclass(parallel, step)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of each state tensor; unless ``read`` says otherwise, the first is the output's."""
        return (self.hidden_size,)

    @property
    def output_size(self) -> int:
        """The width of what ``read`` returns."""
        return self.state_sizes[0]

    def project(self, x: Tensor) -> Tensor:
        """All of the step that does not depend on the state: ``[..., D] -> [..., P]``."""
        raise NotImplementedError(f"{type(self).__name__} must define project(x)")

    def step(self, projected: Tensor, state: State) -> State:
        """The next state from ``projected`` ``[B, P]`` and the state; its first tensor is the output."""
        raise NotImplementedError(f"{type(self).__name__} must define step(projected, state)")

    def noise(self, steps: int, lanes: int, like: Tensor) -> Tensor | None:
        """What the step needs that is random, drawn before the scan; ``None`` where there is nothing.

        ``[T, B, N]``, or ``[1, B, N]`` where it is the same at every step, of ``like``'s dtype and
        device, N a multiple of H: ``step`` finds step t's behind the projection, in a ``projected``
        ``[B, P + N]``. It has no gradient.
        """
        del steps, lanes, like
        return None

    def read(self, states: State) -> Tensor:
        """What the layer above sees of the states ``[..., size]``: by default the first tensor.

        It is applied after the scan, for all steps at once, as ``project`` is before it. One that
        returns another width than ``state_sizes[0]`` also overrides ``output_size``.
        """
        return states[0]

    def parallel(self, projected: Tensor, state: State) -> State:
        """All steps at once, ``[T, B, P]`` and the state before them to tensors ``[T, B, size]``.

        Only for cells whose steps need not be taken in turn. It must equal ``step`` by ``step`` up to
        rounding: the reference scan uses it for whole sequences, unless a subclass overrides ``step``
        and not this.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no parallel form; take it step by step"
        )

    def initial_state(self, lanes: int, like: Tensor) -> State:
        """The state before the first step: zeros ``[lanes, size]`` of ``like``'s dtype and device."""
        return tuple(like.new_zeros(lanes, size) for size in self.state_sizes)

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), as ``torch.nn``'s recurrent layers do."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class GatedCell(Cell):
    """A cell whose parameters are those of a ``torch.nn`` recurrent layer, in ``gates`` blocks of H rows.

    Parameters: ``weight_ih`` ``[G*H, D]``, ``weight_hh`` ``[G*H, H]``, ``bias_ih`` and ``bias_hh``
    ``[G*H]`` (``None`` without ``bias``).
    """

    gates: int
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(torch.empty(rows)) if bias else None)
        self.reset_parameters()

    def bias(self) -> Tensor | None:
        """Both biases as one ``[G*H]``, for cells that only ever add them together."""
        if self.bias_ih is None or self.bias_hh is None:
            return None
        return self.bias_ih + self.bias_hh
