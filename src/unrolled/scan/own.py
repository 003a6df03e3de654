"""Kernels for cells that none is built in for: compiled from their ``step`` on first use."""

import hashlib
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled import compiler
from unrolled.cells import Cell, State
from unrolled.compiler import build
from unrolled.scan import library
from unrolled.scan.operators import Weights


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one cell is run by its kernel."""

    name: str
    trace: compiler.Trace
    vectors: dict[str, int]
    weights: dict[str, tuple[int, int]]
    """The weights of the products in the step; rows and columns in blocks of H."""

    @property
    def is_projected(self) -> bool:
        """Whether the kernel computes the projection, as x weightᵀ + biases."""
        return bool(self.trace.projection)

    def tensors(self, cell: Cell) -> Weights:
        """The cell's parameters as its kernel takes them; autograd leads back to the cell's own."""
        trace = self.trace
        own: dict[str, Tensor] = dict(cell.named_parameters())
        buffers = {name: buffer for name, buffer in cell.named_buffers() if name in trace.buffers}
        if trace.prologue is not None:
            derived = trace.prologue(*own.values(), *buffers.values())
            own |= {f"derived_{k}": tensor for k, tensor in enumerate(derived)}
        own |= buffers
        projecting = [own[name] for name in trace.projection]
        weight, biases = projecting[0] if projecting else None, projecting[1:]
        vectors = [own[n].expand(count * trace.units) for n, count in self.vectors.items()]
        products = [own[name] for name in self.weights]
        if len(products) > 1:
            products = [torch.cat([product.reshape(-1) for product in products])]
        return Weights(
            weight,
            products[0] if products else None,
            sum(biases[1:], biases[0]) if biases else None,
            (vectors[0] if len(vectors) == 1 else torch.cat(vectors)) if vectors else None,
        )

    def cell(self, weights: Weights) -> Cell:
        """A cell over these very tensors, which the reference can run."""
        return _Canonical(self, weights)


class _Canonical(Cell):
    """What a recipe's kernel computes, in PyTorch's operations."""

    def __init__(self, recipe: Recipe, weights: Weights) -> None:
        nn.Module.__init__(self)
        trace = recipe.trace
        self.recipe, self.given = recipe, weights
        self.units = self.hidden_size = trace.units
        self.input_size = trace.projected * trace.units
        own: dict[str, Tensor] = {}
        if weights.weight_hh is not None:
            sizes = [torch.Size(trace.parameters[name]) for name in recipe.weights]
            parts = torch.split(weights.weight_hh.reshape(-1), [size.numel() for size in sizes])
            own |= {n: p.view(s) for n, p, s in zip(recipe.weights, parts, sizes, strict=True)}
        shapes = {**trace.parameters, **trace.buffers}
        if weights.bias_hh is not None:
            counts = [count * trace.units for count in recipe.vectors.values()]
            for name, part in zip(
                recipe.vectors, torch.split(weights.bias_hh, counts), strict=True
            ):
                own[name] = part  # of a parameter that is one number, spread over the units
        # What the step does not read may be anything.
        self.tensors = [own[n] if n in own else torch.zeros(s) for n, s in shapes.items()]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.units,) * self.recipe.trace.states

    def project(self, x: Tensor) -> Tensor:
        weight = self.given.weight_ih
        return x if weight is None else F.linear(x, weight, self.given.bias_ih)

    def step(self, projected: Tensor, state: State) -> State:
        # The trace holds the number of lanes it was made with: so many at a time.
        lanes, count = self.recipe.trace.lanes, projected.shape[0]
        missing = -count % lanes
        padded = [F.pad(t, (0, 0, 0, missing)) for t in (projected, *state)]
        parts = zip(*(torch.split(t, lanes) for t in padded), strict=True)
        after = [self.recipe.trace.step(*part, *self.tensors) for part in parts]
        return tuple(torch.cat(tensors)[:count] for tensors in zip(*after, strict=True))


_lock = threading.RLock()
_recipes: dict[tuple[Any, ...], Recipe | str] = {}
_MOST = 1000
_by_name: dict[str, Recipe] = {}
_MODULE_KEYS = frozenset(vars(nn.Module())) - {"training"}


def _signature(cell: Cell) -> tuple[Any, ...]:
    """What the equations of a cell may depend on, besides the code of its class."""
    settings = tuple(
        (name, value if isinstance(value, int | float | str | bool | None) else _shown(value))
        for name, value in vars(cell).items()
        if name not in _MODULE_KEYS
    )
    kind = type(cell)
    inside = cell.named_modules() if cell._modules else ()
    modules = tuple((name, type(module), module.training) for name, module in inside)
    shapes = tuple(parameter.shape for parameter in cell.parameters())
    return (kind, kind.step, kind.project, settings, modules, shapes)


def _shown(value: object) -> object:
    plain = isinstance(value, tuple | list | dict | set)
    return repr(value) if plain else (type(value), id(value))


def recipe(cell: Cell) -> Recipe | str:
    """How ``cell`` is run by a kernel of its own, or why it cannot be; nothing is compiled yet."""
    signature = _signature(cell)
    found = _recipes.get(signature)
    if found is None:
        with _lock:
            if len(_recipes) >= _MOST:
                _recipes.clear()
            found = _recipes.setdefault(signature, _made(cell))
    return found


def _made(cell: Cell) -> Recipe | str:
    why = build.obstacle()
    if why is not None:
        return why
    try:
        traced = compiler.trace(cell)
        planned = compiler.planned(traced)
        if isinstance(planned, compiler.StagedSchedule):
            weights = planned.weights
        else:
            (stage,) = planned.forward
            shape = traced.parameters.get(stage.weight, ())
            rows, columns = (n // traced.units for n in shape) if shape else (0, 0)
            weights = {stage.weight: (rows, columns)} if stage.weight else {}
        projection = "weight_ih" if traced.projection else ""
        names = compiler.Names(
            projection + (" bias_ih" if len(traced.projection) > 1 else ""),
            "weight_hh" if weights else "",
            "bias_hh" if planned.vectors else "",
        )
        text = compiler.emit(planned, "own", names=names)
    except compiler.Unsupported as error:
        return f"{type(cell).__name__} is beyond the compiler: {error}"
    prologue = "" if traced.prologue is None else traced.prologue.code
    what = (text, prologue, traced.parameters, traced.buffers, traced.projection, planned.vectors)
    name = f"own_{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"
    library.add_own(name, text, compiler.struct_name("own"))
    return _by_name.setdefault(name, Recipe(name, traced, planned.vectors, weights))


def by_name(name: str) -> Recipe:
    """The recipe of a kernel that has run."""
    return _by_name[name]


def built(cell: Cell, dtype: torch.dtype) -> str | None:
    """Compile what ``cell`` needs for ``dtype``; why it could not be done, or ``None``."""
    found = recipe(cell)
    if isinstance(found, str):
        return found
    try:
        library.kernel(found.name, dtype)
    except build.CannotBuild as error:
        return str(error)
    return None
