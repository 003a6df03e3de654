"""One call of the scan with everything it can be asked for, by the kernel or by the reference."""

import copy
import functools
import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from tests.compare import collect, leaves, named_state, scanned
from unrolled import cells
from unrolled.cells import Cell, State
from unrolled.scan import Backend, ScanOptions

CELLS: dict[str, Callable[..., Cell]] = {
    "RNN tanh": functools.partial(cells.Elman, activation="tanh"),
    "RNN relu": functools.partial(cells.Elman, activation="relu"),
    "RNN sigmoid": functools.partial(cells.Elman, activation="sigmoid"),
    "RNN identity": functools.partial(cells.Elman, activation="identity"),
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
}

View = Callable[[Tensor], Tensor]


def make(
    kind: str,
    steps: int,
    batch_size: int,
    features: int,
    hidden: int,
    *,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
) -> tuple[Cell, Tensor, State]:
    """A cell, an input and a state to start from, all random."""
    cell = CELLS[kind](features, hidden, bias=bias).to(dtype)
    x = torch.randn(steps, batch_size, features, dtype=dtype)
    return cell, x, tuple(torch.randn(batch_size, size, dtype=dtype) for size in cell.state_sizes)


def run(
    cell: Cell,
    x: Tensor,
    state: State | None = None,
    *,
    backend: Backend = "native",
    view: View = lambda x: x,
    wanted: Collection[str] | None = None,
    return_states: bool = True,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """States, final states, gradients and norms of a scan of ``view(x)``, by name.

    Only what is ``wanted`` asks for a gradient: by default everything. Nothing that is given is
    changed, so that several threads can run the same.
    """
    cell = copy.deepcopy(cell)
    x, *start = leaves(x, *(state or ()))
    sources = {"x": x} | named_state(tuple(start), "_0") | dict(cell.named_parameters())
    if wanted is not None:
        for name, source in sources.items():
            source.requires_grad_(name in wanted)
        sources = {name: source for name, source in sources.items() if name in wanted}
    seen = view(x)
    norms = [seen.new_zeros(seen.shape[:2]) for _ in cell.state_sizes]
    states, final = scanned(
        cell,
        seen,
        None if state is None else tuple(start),
        ScanOptions(
            lengths=lengths,
            resets=resets,
            reverse=reverse,
            return_states=return_states,
            norms=norms,
            backend=backend,
            clip=clip,
        ),
    )
    shown = states if isinstance(states, tuple) else (states,)
    found = collect(named_state(shown, "") | named_state(final, "_n"), sources)
    return found | named_state(tuple(norms), " norms")


def steps_of_rounding(cell: Cell, steps: int) -> int:
    """The number of steps for ``assert_close_by_name``, which is derived for D + H up to 38.

    A wider sum rounds more: as is said there, a step of a cell with G·H rows differs by the root of
    (D + H + 2) / 4 + G·H / 4 + 25, which is the root of 68 there. Errors grow as the root of the
    steps, so that many times more steps allow for it.
    """
    rows, hidden = cell.get_parameter("weight_hh").shape
    width = cell.input_size + hidden + 2 + rows
    return math.ceil((steps + 1) * max(1, (width / 4 + 25) / 68)) - 1
