"""What a step computes for one block of H units: expressions that share what they have in common."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LEAVES = ("projected", "noise", "product", "vector", "state", "d_next", "constant")
GATHERING = ("product", "sum")
"""What needs all units of its operands: a staged step's products, and sums over units."""
MASKS = ("gt", "lt", "ge", "le", "and", "or", "not")
COSTLY = ("sigmoid", "tanh", "exp", "log", "sqrt", "div")
"""What the backward pass does not compute again."""


@dataclass(frozen=True, eq=False)
class Unit:
    """One value for each of H units: a leaf, or an operation on other unit values.

    Equal values are one object, so ``is`` compares them.
    """

    op: str
    args: tuple["Unit", ...] = ()
    index: int = 0
    """Of a leaf: which block, state or constant it is. Of a product: which of its blocks."""
    name: str = ""
    """Of a vector: the parameter that the block belongs to. Of a product: its weight."""
    transposed: bool = False
    """Of a product: whether it is v weightᵀ."""
    value: float = math.nan
    """Of a constant."""

    def __repr__(self) -> str:
        if self.op == "constant":
            return repr(self.value)
        return self.op if self.args else f"{self.name or self.op}[{self.index}]"


def ordered(roots: Iterable[Unit], known: Iterable[Unit] = ()) -> tuple[Unit, ...]:
    """All that the roots are computed from, operands first, stopping at what is known."""
    order: dict[Unit, None] = {}
    known = set(known)

    def visit(unit: Unit) -> None:
        if unit not in order and unit not in known:
            for arg in unit.args:
                visit(arg)
            order[unit] = None

    for root in roots:
        visit(root)
    return tuple(order)


class Algebra:
    """Makes unit values, each only once, and simplifies what can be simplified exactly."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Unit] = {}

    def leaf(self, op: str, index: int, name: str = "") -> Unit:
        return self._made.setdefault((op, index, name), Unit(op, index=index, name=name))

    def constant(self, value: float) -> Unit:
        made = Unit("constant", value=float(value))
        return self._made.setdefault(("constant", float(value)), made)

    def make(self, op: str, *args: Unit) -> Unit:
        """An operation that is not simplified any further."""
        args = tuple(args if op in ("and", "or", "not") else self._numbers(op, args))
        key = sorted(map(id, args)) if op in ("add", "mul", "max", "min") else map(id, args)
        return self._made.setdefault((op, *key), Unit(op, args))

    def product(self, units: tuple[Unit, ...], weight: str, transposed: bool, index: int) -> Unit:
        """A block of v weightᵀ or v weight, where v is made of ``units``."""
        args = tuple(map(self.number, units))
        if all(arg.value == 0 for arg in args):
            return self.constant(0)
        key = ("product", weight, transposed, index, *map(id, args))
        return self._made.setdefault(key, Unit("product", args, index, weight, transposed))

    def total(self, units: tuple[Unit, ...]) -> Unit:
        """The sum over all numbers of these blocks, one for each sequence."""
        whole = units[0]
        for unit in units[1:]:
            whole = self.add(whole, unit)
        return self.constant(0) if whole.value == 0 else self.make("sum", whole)

    def _numbers(self, op: str, args: tuple[Unit, ...]) -> Iterable[Unit]:
        """The operands as numbers; select's own mask stays one."""
        for k, arg in enumerate(args):
            yield arg if (op, k) == ("select", 0) else self.number(arg)

    def number(self, a: Unit) -> Unit:
        """A mask as 1 and 0."""
        return self.select(a, self.constant(1), self.constant(0)) if a.op in MASKS else a

    def add(self, a: Unit, b: Unit) -> Unit:
        if a.op == b.op == "constant":
            return self.constant(a.value + b.value)
        if a.value == 0:
            return b
        if b.value == 0:
            return a
        if b.op == "neg":
            return self.sub(a, b.args[0])
        if a.op == "neg":
            return self.sub(b, a.args[0])
        return self.make("add", a, b)

    def sub(self, a: Unit, b: Unit) -> Unit:
        if a.op == b.op == "constant":
            return self.constant(a.value - b.value)
        if b.value == 0:
            return a
        if a.value == 0:
            return self.neg(b)
        if b.op == "neg":
            return self.add(a, b.args[0])
        return self.make("sub", a, b)

    def neg(self, a: Unit) -> Unit:
        if a.op == "constant":
            return self.constant(-a.value)
        return a.args[0] if a.op == "neg" else self.make("neg", a)

    def mul(self, a: Unit, b: Unit) -> Unit:
        if a.op == b.op == "constant":
            return self.constant(a.value * b.value)
        for one, other in ((a, b), (b, a)):
            if one.value == 0:  # a gradient that is not there
                return one
            if one.value == 1:
                return other
            if one.value == -1 or one.op == "neg":
                return self.neg(self.mul(one.args[0], other) if one.args else other)
        return self.make("mul", a, b)

    def div(self, a: Unit, b: Unit) -> Unit:
        if a.value == 0:
            return a
        if b.op == "constant" and b.value and math.frexp(abs(b.value))[0] == 0.5:
            return self.mul(a, self.constant(1 / b.value))  # a power of two: exact
        return self.make("div", a, b)

    def select(self, mask: Unit, a: Unit, b: Unit) -> Unit:
        """``a`` where the mask is set and ``b`` elsewhere, each mask a single comparison."""
        if a is b:
            return a
        match mask.op:
            case "not":
                return self.select(mask.args[0], b, a)
            case "and":
                return self.select(mask.args[0], self.select(mask.args[1], a, b), b)
            case "or":
                return self.select(mask.args[0], a, self.select(mask.args[1], a, b))
            case "gt" | "lt" | "ge" | "le":
                return self.make("select", mask, a, b)
        # Any other number is a mask where it is not 0.
        return self.select(self.equal(mask, self.constant(0)), b, a)

    def equal(self, a: Unit, b: Unit) -> Unit:
        return self.make("and", self.make("ge", a, b), self.make("le", a, b))

    def power(self, a: Unit, exponent: float) -> Unit | None:
        """``a`` to a power that is a small whole number, or plus or minus a half, else None."""
        if abs(exponent) == 0.5:
            root = self.make("sqrt", a)
            return root if exponent > 0 else self.div(self.constant(1), root)
        if exponent != int(exponent) or abs(exponent) > 8:
            return None
        if exponent < 0:
            whole = self.power(a, -exponent)
            return whole and self.div(self.constant(1), whole)
        result, factor, n = self.constant(1), a, int(exponent)
        while n:
            if n % 2:
                result = self.mul(result, factor)
            factor, n = self.mul(factor, factor), n // 2
        return result

    def silu(self, a: Unit) -> Unit:
        return self.mul(a, self.make("sigmoid", a))

    def softplus(self, a: Unit) -> Unit:
        small = self.make("exp", self.neg(self.make("abs", a)))  # never overflows
        return self.add(self.make("relu", a), self.make("log", self.add(self.constant(1), small)))


def pointwise(u: Algebra) -> dict[str, Callable[..., Unit | None]]:
    """Each pointwise aten operation, by its name without the overload; None: not in this form."""
    zero, one, add, sub, mul, select = u.constant(0), u.constant(1), u.add, u.sub, u.mul, u.select

    def made(op: str) -> Callable[..., Unit | None]:
        return lambda *args: u.make(op, *args)

    def between(x: Unit, low: Unit | None, high: Unit | None) -> Unit:
        x = u.make("max", x, low) if low else x
        return u.make("min", x, high) if high else x

    def inside(x: Unit, low: Unit, high: Unit) -> Unit:
        return u.make("and", u.make("gt", x, low), u.make("lt", x, high))

    def lerp(a: Unit, b: Unit, weight: Unit) -> Unit:
        return add(a, mul(weight, sub(b, a)))

    def softplus(x: Unit, beta: Unit = one, _: Unit = one) -> Unit:
        return u.div(u.softplus(mul(x, beta)), beta)

    def leaky(x: Unit, slope: Unit | None = None) -> Unit:
        slope = slope or u.constant(0.01)
        return select(u.make("gt", x, zero), x, mul(slope, x))

    same = ("sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs", "gt", "lt", "ge", "le")
    return {
        **{op: made(op) for op in same},
        "add": lambda a, b, alpha=one: add(a, mul(alpha, b)),
        "sub": lambda a, b, alpha=one: sub(a, mul(alpha, b)),
        "rsub": lambda a, b, alpha=one: sub(b, mul(alpha, a)),
        "mul": mul,
        "div": u.div,
        "reciprocal": lambda a: u.div(one, a),
        "rsqrt": lambda a: u.power(a, -0.5),
        "neg": u.neg,
        "square": lambda a: mul(a, a),
        "pow": lambda a, n: u.power(a, n.value) if n.op == "constant" else None,
        "sign": (
            sign := lambda a: select(
                u.make("gt", a, zero), one, select(u.make("lt", a, zero), u.neg(one), zero)
            )
        ),
        "sgn": sign,
        "maximum": made("max"),
        "minimum": made("min"),
        "clamp": lambda x, low=None, high=None: between(x, low, high),
        "clamp_min": lambda x, low: between(x, low, None),
        "clamp_max": lambda x, high: between(x, None, high),
        "hardtanh": between,
        "lerp": lerp,
        "addcmul": lambda a, b, c, value=one: add(a, mul(value, mul(b, c))),
        "where": select,
        "masked_fill": lambda x, mask, value: select(mask, value, x),
        "eq": u.equal,
        "ne": lambda a, b: u.make("not", u.equal(a, b)),
        "logical_and": made("and"),
        "bitwise_and": made("and"),
        "logical_or": made("or"),
        "bitwise_or": made("or"),
        "logical_not": made("not"),
        "bitwise_not": made("not"),
        "silu": u.silu,
        "softplus": softplus,
        "leaky_relu": leaky,
        "sigmoid_backward": lambda d, s: mul(mul(d, s), sub(one, s)),
        "tanh_backward": lambda d, t: mul(d, sub(one, mul(t, t))),
        "threshold_backward": lambda d, x, at: select(u.make("le", x, at), zero, d),
        "hardtanh_backward": lambda d, x, low, high: select(inside(x, low, high), d, zero),
        "leaky_relu_backward": lambda d, x, slope, _: select(
            u.make("gt", x, zero), d, mul(slope, d)
        ),
        "softplus_backward": lambda d, x, beta, _: mul(d, u.make("sigmoid", mul(beta, x))),
    }
