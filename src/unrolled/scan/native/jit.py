"""Kernels for cells that none is built in for: compiled from their ``step`` on first use."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from unrolled.cells import Cell, State
from unrolled.scan.native import library
from unrolled.scan.native.calls import Weights
from unrolled.shapes import check_projected, real_steps

if TYPE_CHECKING:  # imported by whoever compiles
    from unrolled import compiler


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one cell is run by its kernel."""

    name: str
    trace: "compiler.Trace"
    vectors: dict[str, int]
    weights: dict[str, tuple[int, int]]
    """The weights of the products in the step; rows and columns in blocks of H."""
    constants: tuple[float, ...]
    """What the kernel is given as further vectors, each the same for all units."""

    @property
    def is_projected(self) -> bool:
        """Whether the kernel computes the projection, as x weightᵀ + biases."""
        return bool(self.trace.projection)

    def tensors(self, cell: Cell, x: Tensor | None = None) -> Weights:
        """The cell's parameters as its kernel takes them; autograd leads back to the cell's own.

        Args:
            cell: the cell.
            x: of the dtype of a cell that has no tensors.
        """
        trace = self.trace
        own: dict[str, Tensor] = dict(cell.named_parameters())
        buffers = {name: buffer for name, buffer in cell.named_buffers() if name in trace.buffers}
        if trace.prologue is not None:
            derived = trace.prologue(*own.values(), *buffers.values())
            dtype = next(iter((*own.values(), *buffers.values()))).dtype
            own |= {f"derived_{k}": tensor.to(dtype) for k, tensor in enumerate(derived)}
        own |= buffers
        projecting = [own[name] for name in trace.projection]
        weight, biases = projecting[0] if projecting else None, projecting[1:]
        vectors = [own[n].flatten().expand(k * trace.units) for n, k in self.vectors.items()]
        if self.constants:
            like = x if x is not None else next(iter(own.values()))
            numbers = torch.tensor(self.constants, dtype=like.dtype, device="cpu")
            vectors.append(numbers.repeat_interleave(trace.units))
        products = [own[name] for name in self.weights]
        if len(products) > 1:
            products = [torch.cat([product.reshape(-1) for product in products])]
        return Weights(
            weight,
            products[0] if products else None,
            sum(biases[1:], biases[0]) if biases else None,
            (vectors[0] if len(vectors) == 1 else torch.cat(vectors)) if vectors else None,
        )

    def projected(self, cell: Cell, x: Tensor, lengths: Tensor | None) -> Tensor:
        """``cell.project`` of every real step, ``[T, B, P]``; zeros elsewhere, where x may be anything."""
        name, width = type(cell).__name__, self.trace.projected * self.trace.units
        if lengths is None:
            rows = cell.project(x)
            check_projected(name, rows, x.shape[:-1], width)
            return rows.to(x.dtype)
        real = real_steps(lengths, x.shape[0])
        rows = cell.project(x[real])
        check_projected(name, rows, (int(real.sum()),), width)
        empty = x.new_zeros(*x.shape[:-1], width)
        return empty.index_put((real,), rows.to(x.dtype))

    def check_noise(self, cell: Cell, noise: Tensor | None) -> None:
        """Refuse noise that is not as wide as that which the cell was compiled for."""
        got, width = 0 if noise is None else noise.shape[-1], self.trace.noise * self.trace.units
        if got != width:
            raise ValueError(
                f"{type(cell).__name__}.noise: returned {got} features, expected {width} as before; "
                "let it depend on the cell's own settings alone"
            )


class CellOver(Cell):
    """What a recipe's kernel computes, over these very tensors, which the reference can run."""

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
            counts.append(len(recipe.constants) * trace.units)  # which the step has written out
            parts = torch.split(weights.bias_hh, counts)
            for name, part in zip(recipe.vectors, parts, strict=False):
                shape = torch.Size(shapes[name])  # of one number, which was spread over the units
                own[name] = part[: shape.numel()].view(shape)
        # What the step does not read may be anything.
        self.tensors = [
            own[n] if n in own else torch.zeros(s, dtype=torch.float32, device="cpu")
            for n, s in shapes.items()
        ]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.units,) * self.recipe.trace.states

    def project(self, x: Tensor) -> Tensor:
        weight = self.given.weight_ih
        return x if weight is None else F.linear(x, weight, self.given.bias_ih)

    def step(self, projected: Tensor, state: State) -> State:
        # The trace holds the number of sequences it was made with: so many at a time.
        batch_size, count = self.recipe.trace.batch_size, projected.shape[0]
        missing = batch_size - count % batch_size if count % batch_size or not count else 0
        padded = [F.pad(t, (0, 0, 0, missing)) for t in (projected, *state)]
        parts = zip(*(torch.split(t, batch_size) for t in padded), strict=True)
        after = [self.recipe.trace.step(*part, *self.tensors) for part in parts]
        return tuple(torch.cat(tensors)[:count] for tensors in zip(*after, strict=True))


_recipes: dict[tuple[Any, ...], Recipe | str] = {}
_MOST = 1000
by_name: dict[str, Recipe] = {}
"""Those of kernels that have run."""
_MODULE_KEYS = frozenset(vars(nn.Module())) - {"training"}


class _Same:
    """Equal to itself alone; holds the object, so that no other one gets its identity."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _signature(cell: Cell) -> tuple[Any, ...]:
    """What the equations of a cell may depend on: its class's code, its settings, its tensors' shapes.

    What they read elsewhere, a global variable say, they must not expect to be read again.
    """
    tied: dict[int, int] = {}
    modules = cell.named_modules() if cell._modules else (("", cell),)
    return (*_written(type(cell)), *((name, *_described(module, tied)) for name, module in modules))


def _written(kind: type) -> Iterator[object]:
    """The methods and the settings of a class."""
    for base in kind.__mro__:
        if base in (Cell, nn.Module, object):
            continue
        yield from (v for v in vars(base).values() if isinstance(v, _PLAIN))


_PLAIN = (int, float, FunctionType, property)


def _described(module: nn.Module, tied: dict[int, int]) -> Iterator[object]:
    yield type(module)
    for name, value in vars(module).items():
        if name not in _MODULE_KEYS:
            yield name, _shown(value)
    for name, p in module._parameters.items():
        # The number says which parameters are one and the same.
        yield name, p if p is None else (p.shape, tied.setdefault(id(p), len(tied)))
    for name, b in module._buffers.items():
        yield name, b if b is None else (b.shape, b.is_floating_point())


def _shown(value: object, depth: int = 4) -> object:
    """Something to be hashed, equal only to what is shown of an equal value."""
    if value is None or isinstance(value, str | FunctionType):
        return value
    if isinstance(value, int | float):
        return type(value), value
    if isinstance(value, tuple | list) and depth:
        return type(value), *(_shown(v, depth - 1) for v in value)
    if isinstance(value, dict) and depth:
        return dict, *((_shown(k, depth - 1), _shown(v, depth - 1)) for k, v in value.items())
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return value.dtype, value.item()
    inside = not isinstance(value, Tensor | nn.Module | type) and getattr(value, "__dict__", None)
    return (_Same(value), _shown(dict(inside), depth - 1)) if inside and depth else _Same(value)


def recipe(cell: Cell) -> Recipe | str:
    """How ``cell`` is run by a kernel of its own, or why it cannot be; nothing is compiled yet."""
    signature = _signature(cell)
    found = _recipes.get(signature)
    if found is None:
        made = _made(cell)
        if len(_recipes) >= _MOST:
            _recipes.clear()
        found = _recipes.setdefault(signature, made)
    return found


def _made(cell: Cell) -> Recipe | str:
    from unrolled import compiler

    kind = type(cell).__name__
    try:
        traced, planned = compiler.plan(cell)
        found = compiler.canonical(traced, planned)
    except compiler.Unsupported as error:
        return f"{kind} is beyond the compiler: {error}"
    prologue = "" if traced.prologue is None else traced.prologue.code
    names_and_shapes = (traced.parameters, traced.buffers, traced.projection, planned.vectors)
    sizes, constants = (traced.units, traced.batch_size), tuple(_constants(traced.prologue))
    what = repr((found.text, found.constants, prologue, names_and_shapes, sizes, constants))
    name = f"own_{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    own = library.Own(kind, found.text, compiler.struct_name("own"), found.digest)
    library.add_own(name, own)
    traced = replace(traced, where=lambda _: "")  # which the cell's own code hangs on
    made = Recipe(name, traced, planned.vectors, found.weights, found.constants)
    return by_name.setdefault(name, made)


def _constants(module: fx.GraphModule | None) -> Iterator[Any]:
    """The tensors that are written out in a graph, as numbers."""
    for node in module.graph.nodes if module else ():
        if node.op == "get_attr":
            yield getattr(module, str(node.target)).tolist()


def unsupported_reason(cell: Cell, dtype: torch.dtype) -> str | None:
    """Why no kernel can run ``cell``, or ``None``; nothing is compiled yet."""
    found = recipe(cell)
    return found if isinstance(found, str) else library.unsupported_reason_of(found.name, dtype)


def built(cell: Cell, dtype: torch.dtype) -> str | None:
    """Compile what ``cell`` needs for ``dtype``; why it could not be done, or ``None``."""
    from unrolled.compiler.build import CannotBuild

    found = recipe(cell)
    if isinstance(found, str):
        return found
    try:
        library.kernel(found.name, dtype)
    except CannotBuild as error:
        return str(error)
    return None
