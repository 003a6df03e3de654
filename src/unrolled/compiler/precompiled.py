"""The kernels that the library brings beside ``BUILTINS``, and how they are found.

Such a cell goes the way of a cell of one's own. What that way comes to depends on neither the cell's
sizes nor, but for what they make simpler, on its settings; so it is compiled when the library is made,
and found in it by a digest of its code.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from unrolled import cells
from unrolled.cells import Cell
from unrolled.cells.cell import GatedCell
from unrolled.compiler.emit import Names, emit
from unrolled.compiler.schedule import Schedule
from unrolled.compiler.staged import StagedSchedule
from unrolled.compiler.trace import Trace


@dataclass(frozen=True)
class Canonical:
    """A step by the names that every cell's parameters have for its kernel."""

    trace: Trace
    planned: Schedule | StagedSchedule
    names: Names
    weights: dict[str, tuple[int, int]]
    """The weights of the products in the step; rows and columns in blocks of H."""
    constants: tuple[float, ...]
    """What the kernel is given as further vectors, each the same for all units."""
    text: str

    @cached_property
    def digest(self) -> str:
        """Of the code alone, whatever the cell is called and says of itself."""
        lines = (line for line in self.text.splitlines() if not line.startswith("//"))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def header(self, name: str, note: str) -> str:
        """The same by a name of its own, under which the library has the digest too."""
        label = f"{name} {self.digest}"
        return emit(self.planned, name, note=note, names=self.names, label=label, constants=[])


def canonical(traced: Trace, planned: Schedule | StagedSchedule) -> Canonical:
    """The kernel of a cell that was traced and planned.

    Raises:
        Unsupported: a constant is not finite.
    """
    if isinstance(planned, StagedSchedule):
        weights = planned.weights
    else:
        (stage,) = planned.forward
        shape = traced.parameters.get(stage.weight, ())
        rows, columns = (n // traced.units for n in shape) if shape else (0, 0)
        weights = {stage.weight: (rows, columns)} if stage.weight else {}
    projection = "weight_ih" if traced.projection else ""
    names = Names(
        projection + (" bias_ih" if len(traced.projection) > 1 else ""),
        "weight_hh" if weights else "",
        "bias_hh",
    )
    constants: list[float] = []
    text = emit(planned, "own", names=names, constants=constants)
    return Canonical(traced, planned, names, weights, tuple(constants), text)


def library_cells() -> Iterator[tuple[str, Cell]]:
    """Every cell of ``unrolled.cells`` with every choice of options, by the name of its kernel.

    But for those classes, without options, that have a ``kernel``.
    """
    kinds = [getattr(cells, name) for name in sorted(cells.__all__)]
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Cell)) or kind in (Cell, GatedCell):
            continue
        for title, options, training in _options(kind):
            if kind.kernel is not None and set(options) <= {"bias"}:
                continue
            try:
                cell = kind(3, 7, **options)
            except (TypeError, ValueError):
                continue  # an option that it does not take
            yield f"{_lower(kind.__name__)}{title}", cell.train(training)


def _options(kind: type[Cell]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Choices of options: what they add to the name, they themselves, and whether in training."""
    yield "", {}, True
    if not issubclass(kind, GatedCell):
        return
    yield "_unbiased", {"bias": False}, True
    switches: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"layer_norm": True}),
        ({}, {"recurrent_dropout": 0.1}),
        ({}, {"zoneout": 0.1}),
    ]
    for chosen in product(*switches):
        options = {name: value for option in chosen for name, value in option.items()}
        title = "".join(f"_{name}" for name in options)
        yield title, options, True
        if "zoneout" in options and "recurrent_dropout" not in options:
            yield f"{title}_evaluated", options, False
            # Of a half there is as much left, and so one constant less.
            yield f"{title}_half_evaluated", {**options, "zoneout": 0.5}, False


def _lower(name: str) -> str:
    """MinGRU is min_gru."""
    parts = [
        f"_{letter}" if k and letter.isupper() and not name[k - 1].isupper() else letter
        for k, letter in enumerate(name)
    ]
    return "".join(parts).lower()
