"""Depth × directions of scans."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from unrolled.cells import Cell, State
from unrolled.layers.tracing import as_leaf, is_symbolic
from unrolled.scan import Backend, check_backend, scan
from unrolled.shapes import (
    Lengths,
    check_fraction,
    check_input,
    check_lengths,
    check_resets,
    check_size,
    check_state,
)

Merge = Literal["concat", "sum", "mean", "apart"]


class Result(NamedTuple):
    """What a layer returns; it unpacks as ``y, state``.

    ``y`` is ``[T, B, H]`` (``[T, B, 2H]`` for concatenated directions; a pair of ``[T, B, H]``,
    forward and backward, for directions kept apart). ``state`` holds one ``[L*S, B, size]`` for each
    state tensor of the cell, ordered by layer, then direction, as in ``torch.nn``.
    """

    y: Tensor | tuple[Tensor, Tensor]
    state: State


# Without a name of its own, an exported program that returns it cannot be saved.
pytree._register_namedtuple(Result, serialized_type_name="unrolled.Result")


class Recurrent(nn.Module):
    """A recurrent layer of any cell: ``depth`` × directions of scans.

    Deep: the outputs of one layer are the inputs of the next. Bidirectional: in each layer two
    cells, each with its own weights, read the input in opposite directions, A_t = f(U x_t + W
    A_{t-1}) and A'_t = f(U' x_t + W' A'_{t+1}), and are merged:

    - "concat": ``[A_t; A'_t]``. A linear map of it is V A_t + V' A'_t.
    - "sum" or "mean" of the two.
    - "apart": never merged. The two directions are separate stacks at every depth, and ``y`` is a
      pair; so the forward one at t knows only x_0 … x_t, the backward one only x_t … x_{T-1}.

    Source: Elman 1990; Schuster & Paliwal, "Bidirectional Recurrent Neural Networks", IEEE
    Transactions on Signal Processing 45 (1997).

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> layer = Recurrent(cells.LSTM, 8, 16, depth=2, bidirectional=True)
        >>> y, (h_n, c_n) = layer(torch.randn(5, 3, 8), lengths=[5, 2, 0])
        >>> y.shape, h_n.shape
        (torch.Size([5, 3, 32]), torch.Size([4, 3, 16]))

    Args:
        cell: a ``Cell`` class, or any function of (D, H) that returns a cell.
        input_size: D, the features of one input.
        hidden_size: H, the hidden units of each direction of each layer.
        depth: L, how many layers.
        bidirectional: whether each layer reads in both directions.
        merge: how the two directions are merged.
        dropout: the share of each layer's outputs, but the last layer's, dropped in training.
        batch_first: whether ``x`` and ``y`` are ``[B, T, ...]``.
        backend: "native" for the compiled kernels, "reference" for PyTorch's operations, "auto" for
            the kernels where they can take the call; ``unrolled.explain`` says which, and why.
        cell_options: passed on to ``cell``, as in ``Recurrent(Elman, D, H, activation="relu")``.
    """

    def __init__(
        self,
        cell: Callable[..., Cell],
        input_size: int,
        hidden_size: int,
        *,
        depth: int = 1,
        bidirectional: bool = False,
        merge: Merge = "concat",
        dropout: float = 0.0,
        batch_first: bool = False,
        backend: Backend = "auto",
        **cell_options: object,
    ) -> None:
        super().__init__()
        if merge not in get_args(Merge):
            raise ValueError(f"merge: got {merge!r}, expected one of {', '.join(get_args(Merge))}")
        if merge == "apart" and not bidirectional:
            raise ValueError("merge: got 'apart', which needs bidirectional=True")
        if not callable(cell) or isinstance(cell, nn.Module):
            raise TypeError(f"cell: got {cell!r}, expected a Cell class, such as cells.GRU")
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.depth = check_size("depth", depth)
        self.directions = 2 if bidirectional else 1
        self.merge = merge
        self.dropout = check_fraction("dropout", dropout)
        self.batch_first = batch_first
        self.backend = check_backend(backend)
        self.cells = nn.ModuleList()
        width = input_size
        for _ in range(depth):
            for _ in range(self.directions):
                made = cell(width, hidden_size, **cell_options)
                if not isinstance(made, Cell):
                    raise TypeError(
                        f"cell: got {cell!r}, which makes a {type(made).__name__}; "
                        "expected a Cell class, such as cells.GRU"
                    )
                self.cells.append(made)
            width = made.output_size * (2 if bidirectional and merge == "concat" else 1)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
    ) -> Result:
        """Run over the whole of ``x``.

        Args:
            x: ``[T, B, D]``, or ``[B, T, D]`` if ``batch_first``.
            state: before the first step, each tensor ``[L*S, B, size]``; zeros by default.
            lengths: ``[B]``, each from 0 to T; all T by default. A lane's outputs beyond its length
                are zero, its state stops there, its backward direction starts at its own last step,
                and nothing that stands there changes a number.
            resets: boolean ``[T, B]`` (``[B, T]`` if ``batch_first``): where true, a new sequence
                begins with that step, and nothing crosses from the step before it, in either
                direction. A new sequence starts from the cell's own initial state.

        Returns:
            ``Result(y, state)``.

        Raises:
            TypeError, ValueError: a shape, dtype or length is not as above.
        """
        if is_symbolic(x):
            return cast(Result, as_leaf(self, x, state, lengths=lengths, resets=resets))
        cells = cast(Sequence[Cell], self.cells)
        x, state, lengths, resets = self.checked(x, state, lengths, resets)

        streams = [x]  # what the next layer reads: one for both directions, or one for each
        finals: list[State] = []
        for level in range(self.depth):
            outputs = []
            for direction in range(self.directions):
                k = level * self.directions + direction
                start = None if state is None else tuple(s[k] for s in state)
                y, final = scan(
                    cells[k],
                    streams[min(direction, len(streams) - 1)],
                    start,
                    lengths=lengths,
                    resets=resets,
                    reverse=direction == 1,
                    backend=self.backend,
                )
                outputs.append(y)
                finals.append(final)
            streams = self._merged(outputs)
            if level < self.depth - 1:
                streams = [F.dropout(y, self.dropout, self.training) for y in streams]

        if self.batch_first:
            streams = [y.transpose(0, 1) for y in streams]
        final_state = tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True))
        if self.directions == 2 and self.merge == "apart":
            return Result((streams[0], streams[1]), final_state)
        return Result(streams[0], final_state)

    def checked(
        self,
        x: Tensor,
        state: State | None = None,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, State | None, Tensor | None, Tensor | None]:
        """The arguments of a call as the scans take them, ``x`` as ``[T, B, D]``; or an error."""
        weight = next(self.parameters(), None)
        check_input(x, self.input_size, weight, batch_first=self.batch_first)
        x = x.transpose(0, 1) if self.batch_first else x
        steps, lanes, _ = x.shape
        lengths = None if lengths is None else check_lengths(lengths, steps, lanes)
        if resets is not None:
            resets = check_resets(resets, steps, lanes, batch_first=self.batch_first)
        if state is not None:
            sizes = cast(Cell, self.cells[0]).state_sizes
            state = check_state(state, [(len(self.cells), lanes, size) for size in sizes], x)
        return x, state, lengths, resets

    def _merged(self, outputs: list[Tensor]) -> list[Tensor]:
        """The directions' outputs as one, or apart."""
        if self.directions == 1 or self.merge == "apart":
            return outputs
        if self.merge == "concat":
            return [torch.cat(outputs, -1)]
        total = outputs[0] + outputs[1]
        return [total if self.merge == "sum" else total / 2]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, depth={self.depth}"
        text += f", bidirectional, merge={self.merge}" if self.directions == 2 else ""
        return text + (f", backend={self.backend}" if self.backend != "auto" else "")

    def __prepare_scriptable__(self) -> "Recurrent":
        raise TypeError(
            "Recurrent: got torch.jit.script, which cannot compile a cell's Python; use "
            "torch.export.export, or torch.jit.trace"
        )
