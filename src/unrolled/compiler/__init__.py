"""The compiler: a cell's step, written once in PyTorch, becomes C++.

    cell → trace (aten operations) → schedule (unit values, in order) → emit (a C++ struct)

``csrc/sweep/`` runs the struct over time. For the library's own cells the result is committed in
``csrc/generated``; ``python -m unrolled.compiler`` writes it.
"""

from collections.abc import Callable, Container
from functools import partial

from unrolled.cells import GRU, LSTM, Cell, Elman
from unrolled.cells.elman import ACTIVATIONS
from unrolled.compiler.emit import Names, emit, struct_name
from unrolled.compiler.precompiled import Canonical, canonical, library_cells
from unrolled.compiler.schedule import Schedule, Stage, schedule
from unrolled.compiler.staged import StagedSchedule, schedule_stages
from unrolled.compiler.trace import Trace, Unsupported, apart, trace
from unrolled.compiler.units import Unit

BUILTINS: dict[str, Callable[[], Cell]] = {
    **{f"{Elman.kernel}_{f}": partial(Elman, 3, 7, activation=f) for f in ACTIVATIONS},
    **{str(kind.kernel): partial(kind, 3, 7) for kind in (LSTM, GRU)},
}
"""The library's own cells, by the name of their kernel; what is compiled does not depend on the sizes."""
EVERYWHERE = ("mgu", "lstm_recurrent_dropout_zoneout")
"""Beside them, what is compiled for every instruction set and dtype: steps of stages, to be tested.

Those tests draw vectors at random; so none that is given constants, such as an ε, belongs here.
"""


def compiled(cell: Cell, name: str) -> str:
    """The C++ of a cell's step.

    Raises:
        Unsupported: the cell's step or projection is beyond the compiler; the text says why.
    """
    return emit(plan(cell)[1], name)


def plan(cell: Cell) -> tuple[Trace, Schedule | StagedSchedule]:
    """The trace of a cell, and its order; with all of the projection in the step, if that can be.

    Raises:
        Unsupported: the cell's step or projection is beyond the compiler; the text says why.
    """

    def plan_now() -> tuple[Trace, Schedule | StagedSchedule]:
        try:
            traced = trace(cell)
            return traced, planned(traced)
        except Unsupported:
            traced = trace(cell, fused=False)
            return traced, planned(traced)

    return apart(plan_now)


def planned(traced: Trace) -> Schedule | StagedSchedule:
    """A traced step in order: with one product of the state at most, else in stages.

    Raises:
        Unsupported: an operation is not known, or is used in a form that is not.
    """
    try:
        return schedule(traced)
    except Unsupported:
        pass  # what stages cannot do either is told by them
    return schedule_stages(traced)


_NOTE = "; `make generate` writes it, a test compares."


def generated(name: str) -> str:
    """The header of a built-in cell, as ``csrc/generated`` holds it."""
    return emit(schedule(trace(BUILTINS[name]())), name, note=_NOTE)


def others(names: Container[str] | None = None) -> dict[str, str]:
    """The headers of all other cells and options there, or of some, by the names of their kernels."""
    headers, seen = {}, set()
    for name, cell in library_cells():
        if names is not None and name not in names:
            continue
        try:
            found = canonical(*plan(cell))
        except Unsupported:
            continue
        if found.digest not in seen:
            seen.add(found.digest)
            headers[name] = found.header(name, _NOTE)
    return headers


def show(cell: Cell) -> str:
    """All three stations of a cell's way, to be read."""
    traced, scheduled = plan(cell)
    return (
        f"Trace of {traced.cell}.step, H = {traced.units}\n\n{traced}\n\n"
        f"Schedule\n\n{scheduled}\n\nC++\n\n{emit(scheduled, 'cell')}"
    )


__all__ = [
    "BUILTINS",
    "Canonical",
    "EVERYWHERE",
    "Names",
    "Schedule",
    "StagedSchedule",
    "Stage",
    "Trace",
    "Unit",
    "Unsupported",
    "canonical",
    "compiled",
    "emit",
    "generated",
    "others",
    "plan",
    "planned",
    "schedule",
    "schedule_stages",
    "show",
    "struct_name",
    "trace",
]
