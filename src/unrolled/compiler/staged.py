"""Steps with several products, or with sums over units: in stages, between which all units meet."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from unrolled.compiler.blocks import Equations, Lowering, WeightGradient, _Blocks, _Matrix, _Other
from unrolled.compiler.schedule import Scheduled, keep_fewest, shared
from unrolled.compiler.trace import Trace
from unrolled.compiler.units import GATHERING, MASKS, Unit, ordered

OPERANDS = 16
"""The most blocks that a product's operand may have: the arrays of csrc/step.h are as long."""


@dataclass(frozen=True)
class Multiplied:
    """A product of a stage: v weightᵀ (``transposed``) or v weight, v made of the ``operand`` blocks."""

    weight: str
    transposed: bool
    operand: tuple[Unit, ...]
    outputs: int


@dataclass(frozen=True)
class _Gradients:
    """The gradient of a weight: products over all steps and sequences, to be added."""

    parts: tuple[tuple[tuple[Unit, ...], tuple[Unit, ...]], ...]

    def turned(self) -> "_Gradients":
        return _Gradients(tuple((columns, rows) for rows, columns in self.parts))


@dataclass(frozen=True)
class PassStage:
    """Products, then what is computed unit by unit."""

    products: tuple[Multiplied, ...]
    blocks: dict[Unit, int]
    """Where each block that is read stands among all blocks of the products."""
    staging: tuple[Unit, ...]
    """What is handed to later stages."""
    sums: tuple[Unit, ...]
    """The operands of the sums over units that end with this stage."""
    results: dict[str, tuple[tuple[int, Unit], ...]]
    """By what it sets ("next", "kept", "grad", "d_state"), the index and the value."""


@dataclass(frozen=True)
class Pass:
    """The stages of the step, or of its gradient."""

    stages: tuple[PassStage, ...]
    staging: dict[Unit, int]
    sums: dict[Unit, int]


@dataclass(frozen=True, kw_only=True)
class StagedSchedule(Scheduled):
    """A step of stages and its gradient, ready to be printed."""

    weights: dict[str, tuple[int, int]]
    """Each weight's rows and columns, in blocks of H."""
    states: int
    forward: Pass
    backward: Pass
    weight_gradients: tuple[WeightGradient, ...]

    def __str__(self) -> str:
        """What each stage multiplies, adds up and sets."""
        lines = ["projection: " + (" ".join(self.projection) or "computed before")]
        for title, part in (("step", self.forward), ("gradient", self.backward)):
            for k, stage in enumerate(part.stages):
                lines.append(f"{title}, stage {k}:")
                for product in stage.products:
                    across = f"{product.weight}ᵀ" if product.transposed else product.weight
                    depth = len(product.operand)
                    lines.append(f"  product: {depth} blocks {across}, {product.outputs} blocks")
                if stage.sums:
                    lines.append(f"  sums over units: {len(stage.sums)}")
                if stage.staging:
                    lines.append(f"  for later stages: {len(stage.staging)} blocks")
                for name, values in stage.results.items():
                    if values:
                        lines.append(f"  sets {name}: {', '.join(str(i) for i, _ in values)}")
        lines.append(f"keeps {len(self.kept)} blocks")
        return "\n".join(lines)


class _Staged(Lowering):
    """One walk along a trace's graph, for steps of stages."""

    def equations(self) -> Equations:
        equations, found = self.shared()
        gradients = {n: g for n, g in found.items() if isinstance(g, _Gradients)}
        return replace(
            equations,
            weight_gradients=tuple(
                WeightGradient(name, rows, columns)
                for name, gradient in gradients.items()
                for rows, columns in gradient.parts
                if any(unit.value != 0 for unit in rows)
                and any(unit.value != 0 for unit in columns)
            ),
        )

    def multiplied(self, a: Any, b: Any) -> Any:
        match a, b:
            case _Blocks(units, transposed=False), _Matrix(name, turned):
                rows, columns = (n // self.trace.units for n in self.trace.parameters[name])
                if any(n % self.trace.units for n in self.trace.parameters[name]):
                    self.refuse(f"a product with {name}, whose sides are not multiples of H")
                depth, outputs = (columns, rows) if turned else (rows, columns)
                if depth > OPERANDS:
                    self.refuse(f"a product of {depth} blocks of H units; {OPERANDS} is the most")
                units = units if len(units) == depth else units * depth
                return _Blocks(
                    tuple(self.algebra.product(units, name, turned, g) for g in range(outputs))
                )
            case _Blocks(left, transposed=True), _Blocks(right) if not self.forward:
                return _Gradients(((left, right),))
            case _:
                return self.refuse("a product of something other than blocks of H and a parameter")

    def whole(self, name: str, args: list[Any]) -> Any:
        match args:
            case [_Gradients() as gradient, *_]:
                others = [arg for arg in args[1:] if isinstance(arg, _Gradients)]
                if name == "add" and len(args) == 2 and others:
                    return _Gradients(gradient.parts + others[0].parts)
                if name in ("alias", "detach", "clone"):
                    return gradient
                if name in ("t", "permute", "transpose"):
                    return gradient.turned()
                self.refuse("on the gradient of a weight")
        found = self.gathered(name, args)
        return super().whole(name, args) if found is None else found

    def gathered(self, name: str, args: list[Any]) -> Any:
        """Sums over the units, and what is made of them; None: not this operation."""
        match args:
            case [_Blocks() as x, [_], w, b, float() as epsilon] if name == "native_layer_norm":
                return self.normalized(x, w, b, epsilon)
            case [_Blocks() as d, _Blocks() as x, [_], mean, rstd, w, _, _] if (
                name == "native_layer_norm_backward"
            ):
                return self.normalized_backward(d, x, mean, rstd, w)
            case [_Blocks(shape=shape) as x, [dim], *_] if shape[-1:] not in ((), (1,)):
                if len(shape) == 1 or dim % len(shape) != len(shape) - 1:
                    return None
            case _:
                return None
        make, (means, off) = self.algebra.make, self.centred(x)
        count = x.shape[-1]
        if name == "sum":
            return _Blocks(tuple(self.algebra.total(part) for part in _parts(x)))
        if name == "mean":
            return _Blocks(means)
        if name not in ("var", "var_mean", "std"):
            return None
        correction: Any = self.node.kwargs.get("correction", 1)
        freedom = count - (1.0 if correction is None else float(correction))
        variances = tuple(self.mean(self.times(part, part), freedom) for part in off)
        match name:
            case "std":
                return _Blocks(tuple(make("sqrt", v) for v in variances))
            case "var":
                return _Blocks(variances)
        return _Blocks(variances), _Blocks(means)

    def mean(self, units: tuple[Unit, ...], count: float) -> Unit:
        return self.algebra.mul(self.algebra.total(units), self.algebra.constant(1 / count))

    def times(self, a: tuple[Unit, ...], b: tuple[Unit, ...]) -> tuple[Unit, ...]:
        """Block by block; a single block meets all."""
        count = max(len(a), len(b))
        a, b = (units * (count // len(units)) for units in (a, b))
        return tuple(map(self.algebra.mul, a, b))

    def centred(self, x: _Blocks) -> tuple[tuple[Unit, ...], list[tuple[Unit, ...]]]:
        """The mean of each part that is summed as one, and the part without it."""
        means = tuple(self.mean(part, x.shape[-1]) for part in _parts(x))
        off = [
            tuple(self.algebra.sub(unit, mean) for unit in part)
            for part, mean in zip(_parts(x), means, strict=True)
        ]
        return means, off

    def normalized(self, x: _Blocks, w: Any, b: Any, epsilon: float) -> tuple[_Blocks, ...]:
        """Ba et al. 2016, equation 4: the values, their means, and one over their deviations."""
        algebra, (means, off) = self.algebra, self.centred(x)
        rates: list[Unit] = []
        values: list[Unit] = []
        for part in off:
            variance = self.mean(self.times(part, part), x.shape[-1])
            deviation = algebra.make("sqrt", algebra.add(variance, algebra.constant(epsilon)))
            rates.append(algebra.div(algebra.constant(1), deviation))
            found = self.times(part, (rates[-1],))
            found = self.times(found, w.units) if w else found
            if b:
                shift = b.units * (len(found) // len(b.units))
                found = tuple(map(algebra.add, found, shift))
            values += found
        batch_size = (self.trace.batch_size,)
        narrow = (*(batch_size if len(x.shape) == 2 else x.shape[:2]), 1)
        return (
            _Blocks(tuple(values), x.shape),
            _Blocks(means, narrow),
            _Blocks(tuple(rates), narrow),
        )

    def normalized_backward(
        self, d: _Blocks, x: _Blocks, mean: _Blocks, rate: _Blocks, w: Any
    ) -> tuple[_Blocks, ...]:
        algebra, count = self.algebra, x.shape[-1]
        values: list[Unit] = []
        d_w: list[Unit] = []
        for k, (part, given) in enumerate(zip(_parts(x), _parts(d, x), strict=True)):
            off = (algebra.sub(unit, mean.units[k]) for unit in part)
            normal = self.times(tuple(off), (rate.units[k],))
            d_w += self.times(given, normal)
            g = self.times(given, w.units) if w else given
            centre, slope = self.mean(g, count), self.mean(self.times(g, normal), count)
            values += [
                algebra.mul(
                    rate.units[k], algebra.sub(algebra.sub(a, centre), algebra.mul(n, slope))
                )
                for a, n in zip(g, normal, strict=True)
            ]
        d_b = list(d.units)
        if len(x.shape) == 3:  # one weight for all blocks
            d_w, d_b = [self.added(d_w)], [self.added(d_b)]
        wide = (len(d_w) * self.trace.units,)  # the sweep adds the sequences
        return _Blocks(tuple(values), x.shape), _Blocks(tuple(d_w), wide), _Blocks(tuple(d_b), wide)

    def added(self, units: Iterable[Unit]) -> Unit:
        total = self.zero
        for unit in units:
            total = self.algebra.add(total, unit)
        return total

    def fitted(self, units: tuple[Unit, ...]) -> _Blocks:
        shape = tuple(self.node.meta["val"].shape)
        if shape == (self.trace.batch_size,) and len(units) == 1:
            return _Blocks(units, shape)
        return super().fitted(units)


def _parts(x: _Blocks, like: _Blocks | None = None) -> list[tuple[Unit, ...]]:
    """What is summed as one: all blocks of a ``[B, n*H]``, each block of a ``[B, n, H]``."""
    return [x.units] if len((like or x).shape) == 2 else [(unit,) for unit in x.units]


def schedule_stages(trace: Trace) -> StagedSchedule:
    """Divide a traced step into stages, and choose what to keep.

    Raises:
        Unsupported: an operation is not known, or is used in a form that is not.
    """
    lowering = _Staged(trace)
    step = lowering.equations()
    forward = set(ordered(step.next))
    operands: dict[Unit, None] = {}
    gradients: dict[Unit, None] = {}
    for unit in (*step.d_projected, *step.d_vector):
        gradients[unit] = None
    for weight in step.weight_gradients:
        multiplied, gradient = _sides(weight, forward)
        gradients |= dict.fromkeys(gradient)
        if not _is_state(multiplied):
            operands |= dict.fromkeys(multiplied)
    for unit in ordered((*gradients, *step.d_state)):
        if unit.op == "product" and unit not in forward:
            gradients |= dict.fromkeys(unit.args)
    grads = tuple(unit for unit in gradients if unit.value != 0)
    kept = keep_fewest(step.next, (*grads, *step.d_state), operands, GATHERING)
    multiplied_by = {weight.weight for weight in step.weight_gradients}
    every = ordered((*step.next, *grads, *step.d_state))
    multiplied_by |= {unit.name for unit in every if unit.op == "product"}
    weights = {
        name: (shape[0] // trace.units, shape[1] // trace.units)
        for name, shape in trace.parameters.items()
        if name in multiplied_by
    }
    there = {*kept, *step.next, *(u for u in forward if not u.args)}
    return StagedSchedule(
        **shared(trace, step, kept, grads),
        weights=weights,
        states=trace.states,
        forward=_stages({"kept": kept, "next": step.next}, (), weights),
        backward=_stages({"grad": grads, "d_state": step.d_state}, there, weights),
        weight_gradients=step.weight_gradients,
    )


def _is_state(units: tuple[Unit, ...]) -> bool:
    return len(units) == 1 and units[0].op == "state"


def _sides(weight: WeightGradient, forward: set[Unit]) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """What was multiplied in the step, and the gradient that meets it."""
    rows = all(not unit.args or unit in forward for unit in weight.rows if unit.op != "d_next")
    rows = rows and not any(unit.op == "d_next" for unit in weight.rows)
    return (weight.rows, weight.columns) if rows else (weight.columns, weight.rows)


def _stages(
    results: dict[str, tuple[Unit, ...]],
    there: Iterable[Unit],
    weights: dict[str, tuple[int, int]],
) -> Pass:
    """Each value in the earliest stage it can be in; what only needs what is there, in the last."""
    known = set(there)
    roots = [unit for units in results.values() for unit in units if unit not in known or unit.args]
    roots = [unit for unit in roots if unit not in known]
    order = ordered(roots, known)
    level: dict[Unit, int] = {}
    free: set[Unit] = set(known)  # what needs no stage before it
    for unit in order:
        args = [arg for arg in unit.args if arg not in known]
        if unit.op in GATHERING:
            level[unit] = 1 + max((level[arg] for arg in args), default=0)
        elif unit.op == "d_next":
            level[unit] = 0
        else:
            level[unit] = max((level[arg] for arg in args), default=0)
            if all(arg in free for arg in unit.args):
                free.add(unit)
    last = max(level.values(), default=0)
    # What is free waits for the first stage that reads it.
    needed = dict.fromkeys(free, last)
    for unit in reversed(order):
        at = needed[unit] if unit in free else level[unit]
        if unit in free:
            level[unit] = at
        for arg in unit.args:
            if arg in free and arg not in known:
                needed[arg] = min(needed[arg], at - (unit.op in GATHERING))
    return _divide(results, order, level, known, last, weights)


def _divide(
    results: dict[str, tuple[Unit, ...]],
    order: tuple[Unit, ...],
    level: dict[Unit, int],
    known: set[Unit],
    last: int,
    weights: dict[str, tuple[int, int]],
) -> Pass:
    def at(unit: Unit) -> int:
        return level.get(unit, last if unit in known or not unit.args else 0)

    products: list[dict[Multiplied, list[Unit]]] = [{} for _ in range(last + 1)]
    sums: list[dict[Unit, None]] = [{} for _ in range(last + 1)]
    crossing: dict[Unit, int] = {}
    leaves = ("projected", "noise", "state", "vector", "constant")
    for unit in order:
        if unit.op == "product":
            rows, columns = weights[unit.name]
            outputs = rows if unit.transposed else columns
            product = Multiplied(unit.name, unit.transposed, unit.args, outputs)
            products[level[unit]].setdefault(product, []).append(unit)
        elif unit.op == "sum":
            sums[level[unit] - 1][unit] = None

    def cross(unit: Unit, stage: int) -> None:
        """Note what ``stage`` reads of an earlier one for ``unit``: of a mask, what it compares."""
        if unit.op in (*leaves, "sum") or unit in known or at(unit) >= stage:
            return
        if unit.op in MASKS:
            for arg in unit.args:
                cross(arg, stage)
        else:
            crossing.setdefault(unit, len(crossing))

    for unit in order:
        for arg in () if unit.op in GATHERING else unit.args:
            cross(arg, at(unit))
    ends = {"next", "d_state"}  # set in the last stage, since earlier ones still read what is there
    placed: list[dict[str, list[tuple[int, Unit]]]] = [
        {name: [] for name in results} for _ in range(last + 1)
    ]
    for name, units in results.items():
        for k, unit in enumerate(units):
            stage = last if name in ends else at(unit)
            placed[stage][name].append((k, unit))
            if unit in level and level[unit] < stage and unit.op not in (*leaves, "sum"):
                crossing.setdefault(unit, len(crossing))
    forward = "next" in results
    multiplied: dict[Unit, int] = {}  # the first stage in which a product reads it
    for k, here in enumerate(products):
        for product in here:
            if forward and not _is_state(product.operand):  # it is then staged
                for unit in product.operand:
                    if unit.value != 0:
                        multiplied.setdefault(unit, k)
                        crossing.setdefault(unit, len(crossing))
    gathered = {unit: n for n, unit in enumerate(unit for here in sums for unit in here)}

    def home(unit: Unit) -> int:
        """The stage that stages a value: its own; of what is always there, one before its use."""
        if unit.op == "d_next":
            return 0
        own = unit in level and unit.args
        return level[unit] if own else max(0, multiplied.get(unit, 1) - 1)

    return Pass(
        stages=tuple(
            PassStage(
                products=tuple(products[k]),
                blocks=_places(products[k]),
                staging=tuple(unit for unit in crossing if home(unit) == k),
                sums=tuple(sums[k]),
                results={name: tuple(values) for name, values in placed[k].items()},
            )
            for k in range(last + 1)
        ),
        staging=crossing,
        sums=gathered,
    )


def _places(products: dict[Multiplied, list[Unit]]) -> dict[Unit, int]:
    places: dict[Unit, int] = {}
    start = 0
    for product, units in products.items():
        places |= {unit: start + unit.index for unit in units}
        start += product.outputs
    return places


def every_product(part: Pass) -> Iterator[Multiplied]:
    """The products of all stages, in order."""
    return (product for stage in part.stages for product in stage.products)


def blocks_of(weights: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Where each weight begins when they stand one after another, in blocks of H × H."""
    starts, at = {}, 0
    for name, shape in weights.items():
        starts[name] = at
        at += prod(shape)
    return starts


__all__ = ["StagedSchedule", "blocks_of", "every_product", "schedule_stages", "_Other"]
