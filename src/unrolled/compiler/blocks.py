"""From aten operations on tensors ``[B, n*H]`` to operations on unit values."""

import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import torch
from torch import fx

from unrolled.compiler.trace import Trace, Unsupported, operation, turns
from unrolled.compiler.units import Algebra, Unit, ordered, pointwise


@dataclass(frozen=True)
class WeightGradient:
    """Σ over all steps and sequences of rowsᵀ columns."""

    weight: str
    rows: tuple[Unit, ...]
    columns: tuple[Unit, ...]


@dataclass(frozen=True)
class Equations:
    """The step and its gradient, in unit values; in stages some of them gather all units of others."""

    next: tuple[Unit, ...]
    d_projected: tuple[Unit, ...]
    d_vector: tuple[Unit, ...]
    d_state: tuple[Unit, ...]
    """Of a step of one product, what does not go through that."""
    vectors: dict[str, int]
    """The per-unit parameters and buffers that the step reads, and how many blocks each holds."""
    d_product: tuple[Unit, ...] = ()
    """Of one product; "weight" and how it is stored are that one's."""
    weight: str = ""
    transposed: bool = True
    weight_gradients: tuple[WeightGradient, ...] = ()
    """Of the products of stages."""


@dataclass(frozen=True)
class _Blocks:
    """A tensor ``[B, n*H]``, ``[B, n, H]`` or ``[n*H]`` as n unit values, or one constant."""

    units: tuple[Unit, ...]
    shape: tuple[int, ...] = ()
    transposed: bool = False


@dataclass(frozen=True)
class _Matrix:
    """A parameter of two dimensions."""

    name: str
    transposed: bool = False


@dataclass(frozen=True)
class _Other:
    """A tensor that a step may not use; so is the gradient of a weight, which no step computes."""

    name: str


_GRADIENT = "the gradient of a weight"
_ALIASES = ("alias", "detach", "clone", "contiguous", "positive")
_VIEWS = ("view", "_unsafe_view", "squeeze", "unsqueeze", "expand")
_FILLS = {"zero": 0, "zeros": 0, "zeros_like": 0, "new_zeros": 0}
_FILLS |= {"empty": 0, "empty_like": 0, "new_empty": 0}  # another operation fills it
_FILLS |= {"ones": 1, "ones_like": 1, "new_ones": 1}
_REDUCTIONS = ("sum", "mean", "var", "var_mean", "std", "amax", "amin", "_softmax")


def lower(trace: Trace) -> Equations:
    """The traced step in unit values.

    Raises:
        Unsupported: an operation is not known, or is used in a form that is not.
    """
    return Lowering(trace).equations()


class Lowering:
    """One walk along a trace's graph."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.algebra = Algebra()
        self.zero = self.algebra.constant(0)
        self.state = self.algebra.leaf("state", 0)
        self.pointwise = pointwise(self.algebra)
        self.values: dict[Any, Any] = {}
        self.node: fx.Node = next(iter(trace.module.graph.nodes))  # the one being lowered
        self.forward = True
        self.product: _Matrix | None = None
        # What the backward pass multiplies by the weight, and by the state.
        self.to_state: list[tuple[Unit, ...]] = []
        self.to_weight: list[tuple[Unit, ...]] = []

    def walk(self) -> Iterator[Any]:
        """Lower every node; the outputs of the graph."""
        trace, inputs = self.trace, self.inputs()
        *nodes, output = trace.module.graph.nodes
        for self.node in nodes:
            self.forward &= self.node.name != trace.boundary
            placeholder = self.node.op == "placeholder"
            self.values[self.node] = next(inputs) if placeholder else self.call()
        return (self.values[result] for result in output.args[0])

    def vectors(self, used: Iterable[Unit]) -> dict[str, int]:
        """Which parameters and buffers are read unit by unit, and how many blocks each has."""
        names = {unit.name for unit in used if unit.op == "vector"}
        shapes = {**self.trace.parameters, **self.trace.buffers}
        return {n: max(1, prod(s) // self.trace.units) for n, s in shapes.items() if n in names}

    def equations(self) -> Equations:
        """The traced step in unit values."""
        equations, _ = self.shared()
        if Counter(self.to_state) != Counter(self.to_weight):
            raise Unsupported("the product's gradient reaches only one of the state and the weight")
        d_product = (self.zero,) * self.products
        for units in self.to_state:
            d_product = tuple(map(self.algebra.add, d_product, units))
        weight = self.product or _Matrix("", True)
        return replace(
            equations, d_product=d_product, weight=weight.name, transposed=weight.transposed
        )

    def shared(self) -> tuple[Equations, dict[str, Any]]:
        """What steps of any kind have, and the gradient of each parameter."""
        trace, outputs = self.trace, self.walk()
        after = sum((self.output(next(outputs)) for _ in range(trace.states)), ())
        d_projected = self.output(next(outputs), trace.projected + trace.noise)[: trace.projected]
        d_state = sum((self.output(next(outputs)) for _ in range(trace.states)), ())
        gradients = dict(zip(trace.parameters, outputs, strict=True))
        vectors = self.vectors(ordered(after))
        none = _Blocks((self.zero,))  # a buffer has no gradient
        d_vector = (self.output(gradients.get(n, none), count) for n, count in vectors.items())
        return Equations(after, d_projected, sum(d_vector, ()), d_state, vectors), gradients

    def inputs(self) -> Iterator[_Blocks | _Matrix | _Other]:
        """What the graph's inputs are, in their order."""
        trace, leaf = self.trace, self.algebra.leaf
        batch_size, units = trace.batch_size, trace.units
        given = tuple(leaf("projected", j) for j in range(trace.projected))
        given += tuple(leaf("noise", j) for j in range(trace.noise))
        yield _Blocks(given, (batch_size, len(given) * units))
        yield from (_Blocks((leaf("state", k),), (batch_size, units)) for k in range(trace.states))
        for name, shape in {**trace.parameters, **trace.buffers}.items():
            is_row = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 < units)
            if len(shape) == 2 and name in trace.parameters and not is_row:
                yield _Matrix(name)
            elif is_row and shape[-1] % units == 0:
                blocks = range(shape[-1] // units)
                yield _Blocks(tuple(leaf("vector", j, name) for j in blocks), shape)
            elif prod(shape) == 1:
                yield _Blocks((leaf("vector", 0, name),), shape)  # the same for all units
            else:
                yield _Other(f"{name}, whose shape is {shape}")
        yield from (_Blocks((leaf("d_next", k),), (batch_size, units)) for k in range(trace.states))

    def output(self, value: Any, count: int = 1) -> tuple[Unit, ...]:
        """An output of the graph as ``count`` unit values."""
        if not isinstance(value, _Blocks) or len(value.units) not in (1, count):
            raise Unsupported(f"a result of step is not made of {count} blocks of H units")
        units = tuple(map(self.algebra.number, value.units))
        return units if len(units) == count else units * count

    @property
    def products(self) -> int:
        """How many blocks of H units the product with the state has."""
        if not self.product:
            return 0
        shape = self.trace.parameters[self.product.name]
        return shape[not self.product.transposed] // self.trace.units

    def refuse(self, reason: str) -> NoReturn:
        where = self.trace.where(self.node) if self.forward else ""
        of = "" if self.forward else "the gradient of "
        raise Unsupported(f"{of}step calls aten.{operation(self.node)}{where}, {reason}")

    def has_batch(self, shape: tuple[int, ...]) -> bool:
        """Whether the first axis is that of the sequences."""
        return len(shape) > 0 and shape[0] == self.trace.batch_size

    def call(self) -> Any:
        """The value of the current node."""
        node = self.node
        if node.op == "get_attr":
            return _Other("a tensor that is neither a parameter nor a buffer")
        args = [self.value(arg) for arg in node.args]
        if node.target is operator.getitem:
            return args[0][args[1]]
        function: Any = node.target
        name = operation(node)
        if function._schema.is_mutable:
            name = name.removesuffix("_")  # on a temporary of autograd's own
        value = self.whole(name, args)
        if value is None:
            value = self.moved(name, args)
        if value is None and name in self.pointwise:
            value = self.each(name, args)
        if value is None:
            self.unknown(name, args)
        if isinstance(value, _Blocks) and not value.transposed:
            value = self.fitted(value.units)
        if function._schema.is_mutable:
            self.values[node.args[0]] = value
        return value

    def value(self, arg: Any) -> Any:
        """An argument, its nodes replaced by their values and its numbers by constants."""
        if isinstance(arg, fx.Node):
            return self.values[arg]
        return [self.value(a) for a in arg] if isinstance(arg, list | tuple) else arg

    def unknown(self, name: str, args: list[Any]) -> NoReturn:
        for operand in args:
            if isinstance(operand, _Matrix | _Other):
                self.refuse(f"on {operand.name}")
        if name in _REDUCTIONS:
            self.refuse("a reduction, which the compiler cannot place yet")
        self.refuse("which the compiler does not know")

    def fitted(self, units: tuple[Unit, ...]) -> _Blocks:
        """The units broadcast to the current node's shape."""
        shape = tuple(self.node.meta["val"].shape)
        each = shape[1:] if self.has_batch(shape) else shape
        count = max(1, prod(each) // self.trace.units)
        if shape and shape[-1] % self.trace.units == 0 and len(units) in (1, count):
            return _Blocks(units if len(units) == count else units * count, shape)
        if len(units) == 1 and units[0].op == "constant":
            return _Blocks(units * count, shape)
        if len(units) != prod(each) or (shape and len(each) == len(shape) and each[-1] != 1):
            self.refuse(f"whose result {list(shape)} is not made of blocks of H units")
        return _Blocks(units, shape)  # one number a sequence, or a block, or at all

    def whole(self, name: str, args: list[Any]) -> Any:
        """What makes, renames, turns or multiplies whole tensors; None: not this operation."""
        val = self.node.meta["val"]
        match args:
            case [_Other(), *_] if name == "lift_fresh_copy":  # torch.tensor(2.0) in the step
                constant = getattr(self.trace.module, str(self.node.args[0]))
                if constant.numel() != 1:
                    return None
                return _Blocks((self.algebra.constant(constant.item()),))
            case _ if name in _FILLS:
                return _Blocks((self.algebra.constant(_FILLS[name]),))
            case [*_, int() | float() as number] if (
                name in ("scalar_tensor", "fill") or "full" in name
            ):
                return _Blocks((self.algebra.constant(number),))
            case _ if not self.forward and any(
                isinstance(arg, _Other) and arg.name == _GRADIENT for arg in args
            ):
                return _Other(_GRADIENT)
            case [_Matrix(weight, turned), *_] if turns(self.node):
                return _Matrix(weight, not turned)
            case [_Blocks(units, (_, _) as shape, turned), *_] if turns(self.node):
                return _Blocks(units, shape[::-1], not turned)
            case [_Matrix() | _Blocks() as same, *_] if name in _ALIASES:
                return same
            case [_Blocks(units, shape), *_] if name in _VIEWS:
                kept = name == "expand" or self.has_batch(shape) == self.has_batch(tuple(val.shape))
                return _Blocks(units) if kept else None
            case [_Blocks(units)] if name == "_to_copy" and val.dtype is torch.float32:
                return _Blocks(tuple(map(self.algebra.number, units)))
            case [_Blocks(units, shape), [0], *_] if name == "sum" and not self.forward:
                # The sweep adds the sequences.
                return _Blocks(units) if self.has_batch(shape) else None
            case [_Blocks(units, shape), *dims] if name == "sum" and self.for_one_number(dims):
                total = self.zero
                for unit in units:
                    total = self.algebra.add(total, unit)
                return _Blocks((total,))
            case [a, b] if name == "mm":
                return self.multiplied(a, b)
            case [_Blocks(units), a, b] if name == "addmm" and not self.node.kwargs:
                product = self.multiplied(a, b).units
                units = units * (len(product) // len(units))
                return _Blocks(tuple(map(self.algebra.add, product, units)))
        return None

    def for_one_number(self, dims: list[Any]) -> bool:
        """Whether a sum of the backward pass is the gradient of a parameter that is one number."""
        whole = len(dims[0]) in (0, 2) if dims else True
        return not self.forward and whole and prod(self.node.meta["val"].shape) == 1

    def moved(self, name: str, args: list[Any]) -> Any:
        """What only moves whole blocks; None: not this operation, or not whole blocks."""
        h = self.trace.units
        match args:
            case [_Blocks(units, shape), int() | list() as size, *dim] if name in (
                "split",
                "split_with_sizes",
            ):
                sizes = size if isinstance(size, list) else [size] * (shape[-1] // size)
                if _is_last(shape, *dim) and not any(n % h for n in sizes):
                    ends = [sum(sizes[: k + 1]) // h for k in range(len(sizes))]
                    blocks = [units[end - n // h : end] for end, n in zip(ends, sizes, strict=True)]
                    return tuple(_Blocks(block, (*shape[:-1], len(block) * h)) for block in blocks)
            case [_Blocks(units, shape), dim, start, end, *step] if name == "slice":
                first, last, _ = slice(start, end).indices(shape[dim])
                if _is_last(shape, dim) and step in ([], [1]) and not (first % h or last % h):
                    return _Blocks(units[first // h : last // h])
            case [_Blocks(units), [*shape], dim, start, *_] if name == "slice_backward":
                if _is_last(tuple(shape), dim):
                    before = start % shape[-1] // h
                    after = shape[-1] // h - before - len(units)
                    return _Blocks((self.zero,) * before + units + (self.zero,) * after)
            case [[*parts], *dim] if name == "cat" and all(isinstance(p, _Blocks) for p in parts):
                if _is_last(parts[0].shape, *dim):
                    return _Blocks(sum((part.units for part in parts), ()))
            case [_Blocks(units, (_, _, width)), 1] if name == "unbind" and width == h:
                return tuple(_Blocks((unit,), (self.trace.batch_size, h)) for unit in units)
            case [[*parts], 1] if name == "stack" and all(isinstance(p, _Blocks) for p in parts):
                return _Blocks(sum((part.units for part in parts), ()))
            case [_Blocks(units, (_, _, width)), 1, k] if name == "select" and width == h:
                return _Blocks((units[k],))
            case [_Blocks((unit,)), [_, count, _], 1, k] if name == "select_backward":
                return _Blocks(tuple(unit if j == k % count else self.zero for j in range(count)))
        return None

    def each(self, name: str, args: list[Any]) -> _Blocks | None:
        """A pointwise operation, block by block; None: not in this form."""
        (*operands,) = map(self.operand, args)
        options = {key: self.operand(value) for key, value in self.node.kwargs.items()}
        every = (*operands, *options.values())
        if any(isinstance(v, str | _Matrix | _Other) for v in every):
            return None

        def block(value: Any, j: int) -> Any:
            return value.units[j % len(value.units)] if isinstance(value, _Blocks) else value

        counts = {len(value.units) for value in every if isinstance(value, _Blocks)} - {1}
        if len(counts) > 1:
            return None
        count = max(counts, default=1)
        try:
            units = [
                self.pointwise[name](
                    *(block(v, j) for v in operands), **{k: block(v, j) for k, v in options.items()}
                )
                for j in range(count)
            ]
        except TypeError:  # arguments that the table's function does not take
            return None
        return None if None in units else _Blocks(tuple(unit for unit in units if unit))

    def operand(self, value: Any) -> Any:
        """A Python number as a constant."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return _Blocks((self.algebra.constant(value),)) if number else value

    def multiplied(self, a: Any, b: Any) -> Any:
        """The product with the state; in the backward pass, the two that belong to it."""
        match a, b:
            case _Blocks(units), _Matrix() if self.forward:
                self.place(units, b)
                return _Blocks(tuple(self.algebra.leaf("product", g) for g in range(self.products)))
            case _Blocks(units), _Matrix(name, turned) if self.product == _Matrix(name, not turned):
                self.to_state.append(units)
                return _Blocks((self.zero,))  # the sweep computes it, and adds it
            case _Blocks(left, transposed=True), _Blocks(right) if (self.state,) in (left, right):
                self.to_weight.append(left if right == (self.state,) else right)
                return _Other(_GRADIENT)
            case _:
                return self.refuse("a product of something other than a state and a parameter")

    def place(self, units: tuple[Unit, ...], weight: _Matrix) -> None:
        """Take note of the one product of the step."""
        if any(unit.op == "product" for unit in ordered(units)):
            self.refuse("the second of two products in sequence; the compiler takes one")
        if units != (self.state,):
            self.refuse("a product with something other than state[0]")
        if self.product not in (None, weight):
            self.refuse(
                f"a second product with state[0], by {weight.name}; stack both in one weight"
            )
        self.product = weight
        if self.trace.parameters[weight.name][not weight.transposed] % self.trace.units:
            self.refuse("a product whose width is not a multiple of H")


def _is_last(shape: tuple[int, ...], dim: int = 0) -> bool:
    """Whether ``dim`` is the axis that holds the units."""
    return dim % len(shape) == len(shape) - 1
