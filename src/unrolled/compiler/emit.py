"""From a schedule to C++."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from unrolled.compiler.blocks import WeightGradient
from unrolled.compiler.schedule import Schedule
from unrolled.compiler.staged import Pass, StagedSchedule, blocks_of, every_product
from unrolled.compiler.trace import Unsupported
from unrolled.compiler.units import Unit, ordered

# An operator, how tightly it binds, and how tightly its right operand must.
_INFIX = {
    "add": ("+", 1, 1),
    "sub": ("-", 1, 2),
    "mul": ("*", 2, 2),
    "div": ("/", 2, 3),
    "gt": (">", 0, 1),
    "lt": ("<", 0, 1),
    "ge": (">=", 0, 1),
    "le": ("<=", 0, 1),
}
_STRUCT = """\
// Compiled from {cell}.step by unrolled.compiler{note}
#pragma once
#include <array>

{includes}

namespace {{

{equations}
struct {struct} {{
  static constexpr const char* name = "{label}";
  static constexpr const char* projection = "{projection}";  // x weightᵀ + biases
  static constexpr const char* weight = "{weight}";
  static constexpr bool transposed = {transposed}
  static constexpr const char* vector_names = "{vector_names}";
  static constexpr bool staged = {staged};
  static constexpr int projected = {projected}, noise = {noise}, products = {products}, vectors = {vectors};
  static constexpr int states = {states}, kept = {kept}, grads = {grads};
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, {projected}> d_projected = {{{d_projected}}};
  static constexpr std::array<int, {products}> d_product = {{{d_product}}};
  static constexpr std::array<int, {vectors}> d_vector = {{{d_vector}}};{tables}

  // One vector of units of one sequence.
{functions}
}};

}}  // namespace
"""
_FUNCTIONS = """\
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {{
{forward}
  }}

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {{
{backward}
  }}"""
_TABLES = """
  static constexpr int weight_blocks = {weight_blocks}, widest_product = {widest};
  static constexpr int staging = {staging}, sums = {sums};
{tables}
  static constexpr std::array<WeightGradient, {count}> weight_gradients = {{
      {{{weight_gradients}}}}};"""
_STAGE_FUNCTIONS = """\
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {{
{forward}
  }}

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {{
{backward}
  }}"""


def struct_name(name: str) -> str:
    """The C++ name of a cell: elman_tanh is ElmanTanh."""
    return "".join(part.capitalize() for part in name.split("_"))


@dataclass(frozen=True)
class Names:
    """What a struct calls the parameters of its cell."""

    projection: str
    weight: str
    vectors: str


_WRITTEN = (0.0, 1.0, -1.0, 2.0, -2.0)
"""Constants of the equations, and not of a cell's settings or sizes: they are always written out."""


def emit(
    schedule: Schedule | StagedSchedule,
    name: str,
    *,
    note: str = "",
    names: Names | None = None,
    label: str | None = None,
    constants: list[float] | None = None,
) -> str:
    """A header that defines the cell as a struct for the sweep.

    Args:
        schedule: the cell's step.
        name: lower case, as in "elman_tanh"; the struct is ``struct_name(name)``.
        note: what the first line says beyond where the struct comes from.
        names: of the parameters; by default the cell's own.
        label: what the library calls the kernel; by default ``name``.
        constants: by default they are written out. Else what depends on the cell's settings or sizes is
            put here in the order in which the kernel is to be given it, as so many vectors after its
            own: so that the text is the same for all of them.

    Raises:
        ValueError: the name is not lower case letters, digits and underscores.
        Unsupported: a constant is not finite.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name: got {name!r}, expected lower case letters, digits and underscores")
    s, staged = schedule, isinstance(schedule, StagedSchedule)
    own = _stages(s, constants) if isinstance(s, StagedSchedule) else _single(s, constants)
    names = names or Names(" ".join(s.projection), own["weight"], " ".join(s.vectors))
    added = len(constants or ())
    vectors = sum(s.vectors.values()) + added
    own |= {"projection": names.projection, "weight": names.weight}
    return _STRUCT.format(
        **own,
        cell=s.cell,
        note=note or ".",
        equations="\n".join(f"// {line}".rstrip() for line in s.equations),
        struct=struct_name(name),
        label=label or name,
        vector_names=names.vectors if vectors else "",
        staged=str(staged).lower(),
        projected=s.projected,
        noise=s.noise,
        vectors=vectors,
        kept=len(s.kept),
        grads=len(s.grads),
        d_projected=", ".join(map(str, s.d_projected)),
        d_vector=", ".join(map(str, (*s.d_vector, *[-1] * added))),
    )


def _blocks(vectors: dict[str, int]) -> list[tuple[str, int]]:
    """Each block of H of each vector, in the kernel's order."""
    return [(vector, j) for vector, count in vectors.items() for j in range(count)]


def _single(s: Schedule, constants: list[float] | None) -> dict[str, Any]:
    """What a step of one product, or none, has of its own."""
    (stage,) = s.forward
    vectors = _blocks(s.vectors)
    leaves = {("vector", vector, j): f"vector[{k}]" for k, (vector, j) in enumerate(vectors)}

    def leaf(unit: Unit) -> str:
        if unit.op == "constant":
            return _constant(unit, "vector[{}]", len(vectors), constants)
        return leaves.get((unit.op, unit.name, unit.index), f"{unit.op}[{unit.index}]")

    known = {unit: f"kept[{k}]" for k, unit in enumerate(s.kept)}
    known |= {unit: f"next[{k}]" for k, unit in enumerate(s.next)}
    return {
        "includes": '#include "../inline.h"',
        "weight": stage.weight,
        "transposed": f"{stage.transposed};  // product = h weight{'ᵀ' * stage.transposed}".lower(),
        "products": stage.products,
        "d_product": ", ".join(map(str, s.d_product)),
        "states": len(s.next),
        "tables": "",
        "functions": _FUNCTIONS.format(
            forward=_body(_array("next", s.next) + _array("keep", s.kept), leaf, {}),
            backward=_body(_array("grad", s.grads) + _array("d_state", s.d_state), leaf, known),
        ),
    }


def _constant(unit: Unit, place: str, first: int, constants: list[float] | None) -> str:
    """A constant as it is written, or the place of its vector: the ``first``, or one after it."""
    if not math.isfinite(unit.value):
        raise Unsupported(f"the step has a constant that is not finite: {unit.value}")
    if constants is None or unit.value in _WRITTEN:
        return f"V({unit.value!r})"
    if unit.value not in constants:
        constants.append(unit.value)
    return place.format(first + constants.index(unit.value))


def _array(name: str, units: Sequence[Unit]) -> list[tuple[str, Unit]]:
    return [(f"{name}[{k}] = {{}};", unit) for k, unit in enumerate(units)]


def _body(
    results: Sequence[tuple[str, Unit]],
    leaf: Callable[[Unit], str],
    known: dict[Unit, str],
    indent: int = 4,
) -> str:
    """The statements that compute ``results``; what is used once stands where it is used."""
    roots = [unit for _, unit in results]
    order = ordered(roots, known)
    uses = Counter(roots)
    for unit in order:
        uses.update(unit.args)
    names: dict[Unit, tuple[str, int]] = {unit: (text, 9) for unit, text in known.items()}
    lines: list[str] = []

    def operand(unit: Unit, tightness: int) -> str:
        text, own = names[unit]
        return f"({text})" if own < tightness else text

    for unit in order:
        if not unit.args:
            names[unit] = (leaf(unit), 9)
            continue
        if unit.op in _INFIX:
            sign, own, right = _INFIX[unit.op]
            a, b = unit.args
            text, tightness = f"{operand(a, own)} {sign} {operand(b, right)}", own
        elif unit.op == "neg":
            text, tightness = f"-{operand(unit.args[0], 3)}", 2
        else:
            text, tightness = f"{unit.op}({', '.join(operand(a, 0) for a in unit.args)})", 9
        if uses[unit] > 1:
            kind = "auto" if unit.op in ("gt", "lt", "ge", "le") else "V"
            name = f"v{len(lines)}"
            lines.append(f"const {kind} {name} = {text};")
            text, tightness = name, 9
        names[unit] = (text, tightness)
    lines += [statement.format(names[unit][0]) for statement, unit in results]
    return "\n".join(" " * indent + line for line in lines)


# --- Steps of stages -----------------------------------------------------------------------------


def _stages(s: StagedSchedule, constants: list[float] | None) -> dict[str, Any]:
    """What a step of stages has of its own."""
    starts = blocks_of(s.weights)
    grads = {unit: k for k, unit in enumerate(s.grads)}
    kept = {unit: k for k, unit in enumerate(s.kept)}
    vectors = _blocks(s.vectors)
    tables = [
        line
        for title, part, places in (
            ("forward", s.forward, s.forward.staging),
            ("backward", s.backward, grads),
        )
        for line in _tables(title, part, places, s.weights, starts)
    ]
    gradients = [_weight_gradient(w, s, starts, grads, kept) for w in s.weight_gradients]
    there = {unit: f"at.kept({k})" for unit, k in kept.items()}
    after = [unit for stage in s.forward.stages for _, unit in stage.results.get("next", ())]
    there |= {unit: f"at.next({k})" for k, unit in enumerate(after)}
    widths = [
        sum(product.outputs for product in stage.products)
        for part in (s.forward, s.backward)
        for stage in part.stages
    ]
    return {
        "includes": '#include "../inline.h"\n#include "../step.h"',
        "weight": " ".join(s.weights),
        "transposed": "true;",
        "products": 0,
        "d_product": "",
        "states": s.states,
        "tables": _TABLES.format(
            weight_blocks=sum(math.prod(shape) for shape in s.weights.values()),
            widest=max(widths),
            staging=max(len(s.forward.staging), len(s.backward.staging), 1),
            sums=max(len(s.forward.sums), len(s.backward.sums)),
            tables="\n".join(tables),
            count=len(gradients),
            weight_gradients=", ".join(gradients),
        ),
        "functions": _STAGE_FUNCTIONS.format(
            forward=_bodies(s.forward, vectors, {}, constants),
            backward=_bodies(s.backward, vectors, there, constants),
        ),
    }


def _tables(
    title: str,
    part: Pass,
    places: dict[Unit, int],
    weights: dict[str, tuple[int, int]],
    starts: dict[str, int],
) -> list[str]:
    """The products of all stages, and where those and the sums of each stage begin."""
    products = []
    for product in every_product(part):
        state = -1
        if title == "forward" and len(product.operand) == 1 and product.operand[0].op == "state":
            state = product.operand[0].index
        operand = [] if state >= 0 else [places.get(unit, -1) for unit in product.operand]
        products.append(
            f"{{{starts[product.weight]}, {weights[product.weight][1]}, "
            f"{str(product.transposed).lower()}, {product.outputs}, {len(product.operand)}, {state}, "
            f"{{{', '.join(map(str, operand))}}}}}"
        )
    first = accumulate((len(stage.products) for stage in part.stages), initial=0)
    sums = accumulate((len(stage.sums) for stage in part.stages), initial=0)
    count = len(part.stages)
    head = "  static constexpr"
    return [
        f"{head} int {title}_stages = {count};",
        f"{head} std::array<Product, {len(products)}> {title}_products = {{{{{', '.join(products)}}}}};",
        f"{head} std::array<int, {count + 1}> {title}_first = {{{', '.join(map(str, first))}}};",
        f"{head} std::array<int, {count + 1}> {title}_sums = {{{', '.join(map(str, sums))}}};",
    ]


def _weight_gradient(
    w: WeightGradient,
    s: StagedSchedule,
    starts: dict[str, int],
    grads: dict[Unit, int],
    kept: dict[Unit, int],
) -> str:
    def is_operand(units: tuple[Unit, ...]) -> bool:
        return all(unit in kept for unit in units) or (len(units) == 1 and units[0].op == "state")

    rows = not is_operand(w.rows)
    gradient, operand = (w.rows, w.columns) if rows else (w.columns, w.rows)
    state = operand[0].index if len(operand) == 1 and operand[0].op == "state" else -1
    blocks = [] if state >= 0 else [kept[unit] for unit in operand]
    return (
        f"{{{starts[w.weight]}, {s.weights[w.weight][1]}, {str(rows).lower()}, {len(gradient)}, "
        f"{len(operand)}, {{{', '.join(str(grads.get(unit, -1)) for unit in gradient)}}}, {state}, "
        f"{{{', '.join(map(str, blocks))}}}}}"
    )


def _bodies(
    part: Pass,
    vectors: list[tuple[str, int]],
    there: dict[Unit, str],
    constants: list[float] | None,
) -> str:
    """The statements of each stage."""

    def leaf(unit: Unit) -> str:
        if unit.op == "constant":
            return _constant(unit, "at.vector({})", len(vectors), constants)
        if unit.op == "vector":
            return f"at.vector({vectors.index((unit.name, unit.index))})"
        return f"at.{unit.op}({unit.index})"

    known = dict(there)
    done: list[str] = []
    for k, stage in enumerate(part.stages):
        here = known | {unit: f"at.product({i})" for unit, i in stage.blocks.items()}
        results = [(f"at.set_staging({part.staging[unit]}, {{}});", unit) for unit in stage.staging]
        results += [(f"at.add_sum({part.sums[unit]}, {{}});", unit.args[0]) for unit in stage.sums]
        for name, values in stage.results.items():
            results += [(f"at.set_{name}({i}, {{}});", unit) for i, unit in values]
        body = _body(results, leaf, here, indent=6)
        done.append(f"    if constexpr (stage == {k}) {{\n{body}\n    }}" if body else "")
        lasting = (unit for unit in stage.staging if unit.args or unit.op == "d_next")
        known |= {unit: f"at.staging({part.staging[unit]})" for unit in lasting}
        known |= {unit: f"at.sum({part.sums[unit]})" for unit in stage.sums}
    return "\n".join(filter(None, done))
