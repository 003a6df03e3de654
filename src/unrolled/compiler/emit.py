"""From a schedule to C++."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from unrolled.compiler.schedule import Schedule
from unrolled.compiler.trace import Unsupported
from unrolled.compiler.units import LEAVES, Unit, ordered

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
_HEADER = """\
// Compiled from {cell}.step by unrolled.compiler{note}
#pragma once
#include <array>

#include "../inline.h"

namespace {{

{equations}
struct {struct} {{
  static constexpr const char* name = "{name}";
  static constexpr const char* projection = "{projection}";  // x weightᵀ + biases
  static constexpr const char* weight = "{weight}";
  static constexpr bool transposed = {transposed};  // product = h {product}
  static constexpr const char* vector_names = "{vector_names}";
  static constexpr int projected = {projected}, products = {products}, vectors = {vectors};
  static constexpr int states = {states}, kept = {kept}, grads = {grads};
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, {projected}> d_projected = {{{d_projected}}};
  static constexpr std::array<int, {products}> d_product = {{{d_product}}};
  static constexpr std::array<int, {vectors}> d_vector = {{{d_vector}}};

  // One vector of units of one lane.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {{
{forward}
  }}

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {{
{backward}
  }}
}};

}}  // namespace
"""


def struct_name(name: str) -> str:
    """The C++ name of a cell: elman_tanh is ElmanTanh."""
    return "".join(part.capitalize() for part in name.split("_"))


def emit(schedule: Schedule, name: str, *, note: str = "") -> str:
    """A header that defines the cell as a struct for the sweep.

    Args:
        schedule: the cell's step.
        name: lower case, as in "elman_tanh"; the struct is ``struct_name(name)``.
        note: what the first line says beyond where the struct comes from.

    Raises:
        ValueError: the name is not lower case letters, digits and underscores.
        Unsupported: a constant is not finite.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name: got {name!r}, expected lower case letters, digits and underscores")
    s, (stage,) = schedule, schedule.forward
    vectors = [(vector, j) for vector, count in s.vectors.items() for j in range(count)]
    leaves = {("vector", vector, j): f"vector[{k}]" for k, (vector, j) in enumerate(vectors)}
    forward = _body({"next": s.next, "keep": s.kept}, leaves, {})
    backward = _body(
        {"grad": s.grads, "d_state": s.d_state},
        leaves,
        {
            **{unit: f"kept[{k}]" for k, unit in enumerate(s.kept)},
            **{unit: f"next[{k}]" for k, unit in enumerate(s.next)},
        },
    )
    return _HEADER.format(
        cell=s.cell,
        note=note or ".",
        equations="\n".join(f"// {line}".rstrip() for line in s.equations),
        struct=struct_name(name),
        name=name,
        projection=" ".join(s.projection),
        weight=stage.weight,
        transposed=str(stage.transposed).lower(),
        product="weightᵀ" if stage.transposed else "weight",
        vector_names=" ".join(s.vectors),
        projected=s.projected,
        products=stage.products,
        vectors=len(vectors),
        states=len(s.next),
        kept=len(s.kept),
        grads=len(s.grads),
        d_projected=", ".join(map(str, s.d_projected)),
        d_product=", ".join(map(str, s.d_product)),
        d_vector=", ".join(map(str, s.d_vector)),
        forward=forward,
        backward=backward,
    )


def _body(
    results: dict[str, Sequence[Unit]],
    leaves: dict[tuple[str, str, int], str],
    known: dict[Unit, str],
) -> str:
    """The statements that compute ``results``; what is used once stands where it is used."""
    roots = [unit for units in results.values() for unit in units]
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
        if unit.op == "constant":
            if not math.isfinite(unit.value):
                raise Unsupported(f"the step has a constant that is not finite: {unit.value}")
            names[unit] = (f"V({unit.value!r})", 9)
            continue
        if unit.op in LEAVES:
            text = leaves.get((unit.op, unit.name, unit.index), f"{unit.op}[{unit.index}]")
            names[unit] = (text, 9)
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
    for target, units in results.items():
        lines += [f"{target}[{k}] = {names[unit][0]};" for k, unit in enumerate(units)]
    return "\n".join(f"    {line}" for line in lines)
