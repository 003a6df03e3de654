"""Backpropagation against finite differences, parameter by parameter."""

import copy
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from unrolled.bptt.differences import EPS, FIRST_STEP, MARGIN, Limit, Slope
from unrolled.shapes import Shape, check_loss, check_module, check_size

Judgement = Literal["ok", "not reached", "kink", "unclear", "not finite", "WRONG"]
_GOOD = ("ok", "not reached", "kink")

# The gradient's own rounding, relative to the largest entry of its tensor: 32 √T roundings for T steps
# (as in tests/compare.py), here for any T up to 16 000.
ROUNDINGS = 4096

# Where the loss has a kink, the comparison is made beside it: every entry is moved at random by up to
# so much, 4 to 8 times the first step. Three such places, since kinks may be near each of them too.
ASIDE = (4 * FIRST_STEP, 6 * FIRST_STEP, 8 * FIRST_STEP)

WIDTH = 100


@dataclass(frozen=True)
class GradientRow:
    """What the comparison says of one parameter, or of the input ``x``."""

    name: str
    """As in ``named_parameters()``; "x", or "x[0]" and so on of a tuple of arguments."""
    shape: Shape
    checked: int
    """How many entries were compared one by one; a random direction covers them all."""
    gradient: float
    """The largest entry of the analytic gradient, without sign; 0 if it is not reached."""
    difference: float
    """The largest between analytic and numeric derivative."""
    relative: float | None
    """The largest difference relative to what it is a part of: for an entry the largest gradient of its
    tensor, for the direction the norm of its terms. ``None`` if the gradient cannot be told from 0."""
    verdict: Judgement
    """- "ok": equal, as far as float64 sees.
    - "not reached": the loss does not depend on it, and backward does not reach it.
    - "kink": equal beside a place where the loss has no derivative, such as ReLU's 0.
    - "unclear": finite differences are too rough here to judge.
    - "not finite": the loss or the gradient is not finite.
    - "WRONG": different.
    """
    note: str
    """One sentence more, or nothing."""

    @property
    def ok(self) -> bool:
        """Whether the verdict is "ok", "not reached" or "kink"."""
        return self.verdict in _GOOD


@dataclass(frozen=True)
class GradientCheck:
    """What ``gradcheck`` found; true if all is right, and as text a table of at most 100 columns."""

    loss: float
    """Where it was checked."""
    rows: tuple[GradientRow, ...]
    """One a parameter that requires a gradient, in the model's order, a shared one once; then x."""

    @property
    def ok(self) -> bool:
        """Whether every row is."""
        return all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = ("name", "shape", "checked", "gradient", "difference", "relative", "verdict")
        table = [head, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(head) - 1))
        lines = []
        for name, *middle, verdict in table:
            padded = [cell.rjust(n) for cell, n in zip(middle, widths[1:-1], strict=True)]
            lines.append(
                "  ".join([_shortened(name, widths[0]).ljust(widths[0]), *padded, verdict])
            )
        for row in self.rows:
            if row.note:
                text = f"{_shortened(row.name, 40)}: {row.note}"
                lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
        bad = sum(not row.ok for row in self.rows)
        count = (
            f"{bad} of {len(self.rows)} rows are not" if bad else f"all {len(self.rows)} rows are"
        )
        return "\n".join([*lines, f"loss {self.loss:.6g}; {count} ok"])


def gradcheck(
    model: nn.Module,
    x: object,
    y: object = None,
    *,
    loss: Callable[..., Tensor] | None = None,
    entries: int = 20,
    seed: int = 0,
) -> GradientCheck:
    """Compare the gradient that backward gives with finite differences of the loss, in float64.

    All is done in a copy: the model, its gradients, buffers and mode, and PyTorch's random numbers stay
    as they are. Every evaluation starts from the same buffers and the same random numbers, so a model
    in training is checked with one mask of dropout.

    An entry that is off by 1e-5 of itself is found, unless it is so small beside the loss, or beside the
    largest gradient of its tensor, that float64 cannot see it. Of a tensor of which nothing can be seen the
    report says so.

    Source: Richardson, "The Approximate Arithmetical Solution by Finite Differences", Philosophical
    Transactions of the Royal Society A 210 (1911); Ridders, "Accurate computation of F'(x) and
    F'(x)F''(x)", Advances in Engineering Software 4 (1982); Moré & Wild, "Estimating Computational
    Noise", SIAM Journal on Scientific Computing 33 (2011).

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> report = gradcheck(Recurrent(cells.GRU, 3, 4), torch.randn(5, 2, 3))
        >>> report.ok, [row.name for row in report.rows][-2:]
        (True, ['cells.0.bias_hh', 'x'])

    Args:
        model: any module. What it returns is its output, or if that is a tuple its first element.
        x: its argument, or a tuple of its arguments. Floating tensors, nested ones too, become float64
            and are checked as well.
        y: the target, for the loss; floating tensors become float64.
        loss: ``loss(output, y)``, a scalar. By default with an integer ``y`` ``[...]`` the mean
            cross-entropy of the output ``[..., V]``; with a floating ``y`` the mean squared error; without
            ``y`` the output itself if it is a scalar, else the sum of the outputs, each weighted by a
            fixed random number. If it is a module, its parameters are checked too.
        entries: how many entries of a tensor are compared one by one at most, drawn at random. A random
            direction over the whole tensor is compared in any case.
        seed: of the entries, the directions, and the random numbers of the model.

    Raises:
        TypeError, ValueError: there is nothing to differentiate, an argument is not as above, or the loss
            is no scalar in float64.
        RuntimeError: two equal evaluations give two losses.
    """
    check_module("model", model)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss: got {loss!r}, expected a function of (output, y)")
    entries = check_size("entries", entries, least=0)
    seed = check_size("seed", seed, least=0)
    cards = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(cards), torch.inference_mode(False), torch.enable_grad():
        function = _Loss(model, x, y, loss, seed, cards)
        start = function.value()
        function.check_repeats(start)
        function.check_precision()
        if not math.isfinite(start):
            return GradientCheck(start, tuple(_without_loss(function, start)))
        search = _Search(function, seed)
        rows = tuple(search.row(k, entries) for k in range(len(function.sources)))
        function.check_repeats(start)
        return GradientCheck(start, rows)


class _Loss:
    """The loss of a copy of a model in float64, as a function of what it is differentiated in."""

    def __init__(
        self,
        model: nn.Module,
        x: object,
        y: object,
        loss: Callable[..., Tensor] | None,
        seed: int,
        cards: Sequence[int],
    ) -> None:
        self.model, self.loss = copy.deepcopy((model, loss))  # together, or tied weights come apart
        self.seed, self.cards = seed, cards
        modules = {"": self.model}
        if isinstance(self.loss, nn.Module):
            modules["loss."] = self.loss
        sources: dict[int, tuple[str, Tensor]] = {}
        for prefix, module in modules.items():
            module.zero_grad(set_to_none=True)
            module.double()
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    sources.setdefault(id(parameter), (prefix + name, parameter))
        self.parts = [part for module in modules.values() for part in module.modules()]
        self.buffers = {
            id(buffer): buffer.detach().clone() for _, _, buffer in _buffers(self.parts)
        }
        self.owners = [(part, name, id(buffer)) for part, name, buffer in _buffers(self.parts)]

        leaves, form = pytree.tree_flatten_with_path(x)
        copies = [_in_float64(leaf) for _, leaf in leaves]
        for (path, _), leaf in zip(leaves, copies, strict=True):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                leaf.requires_grad_()
                sources[id(leaf)] = ("x" + pytree.keystr(path), leaf)
        arguments = pytree.tree_unflatten(copies, form)
        self.arguments = arguments if type(x) is tuple else (arguments,)
        self.y = pytree.tree_map(_in_float64, y)
        self.sources = list(sources.values())
        self._check_sources()

    def _check_sources(self) -> None:
        if not self.sources:
            raise ValueError(
                "model, x: got no parameter that requires a gradient and no floating x, expected "
                "something to differentiate; call requires_grad_() of what is to be checked"
            )
        for name, source in self.sources:
            if source.is_complex():
                raise TypeError(
                    f"{name}: got {source.dtype}, expected real numbers; keep the real and the "
                    "imaginary part as two parameters"
                )

    def tensor(self) -> Tensor:
        """The loss, with its graph."""
        fresh = {key: kept.clone() for key, kept in self.buffers.items()}
        for part, name, key in self.owners:
            part._buffers[name] = fresh[key]
        torch.default_generator.manual_seed(self.seed)
        for card in self.cards:
            with torch.cuda.device(card):
                torch.cuda.manual_seed(self.seed)
        returned = self.model(*self.arguments)
        output = returned[0] if isinstance(returned, tuple) and returned else returned
        if self.loss is not None:
            return _checked_loss(self.loss(output, self.y))
        if not isinstance(output, Tensor):
            raise TypeError(
                f"output: got {type(output).__name__}, expected a tensor; pass loss=, a function of "
                "(output, y) that makes a scalar of it"
            )
        return _checked_loss(_default_loss(output, self.y, self.seed))

    def value(self) -> float:
        """The loss. Its graph is made, as the model may take another way without."""
        return float(self.tensor().detach())

    def gradients(self) -> list[Tensor | None]:
        """The gradient in each source, by backward as in training; ``None`` where none arrives."""
        loss = self.tensor()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        gradients = []
        for _, source in self.sources:
            gradient, source.grad = source.grad, None
            if gradient is not None and gradient.layout != torch.strided:
                gradient = gradient.to_dense()
            gradients.append(gradient)
        return gradients

    def values(self) -> list[Tensor]:
        """A copy of the sources as they are."""
        return [source.detach().clone() for _, source in self.sources]

    @torch.no_grad()
    def move(self, values: Iterable[Tensor]) -> None:
        """Set every source."""
        for (_, source), value in zip(self.sources, values, strict=True):
            source.copy_(value)

    @torch.no_grad()
    def move_one(self, k: int, value: Tensor) -> None:
        """Set source k."""
        self.sources[k][1].copy_(value)

    def check_precision(self) -> None:
        """Refuse a loss of which a part that has a gradient is not computed in float64."""
        if narrowed := _narrowed(self.tensor()):
            dtype, operation = narrowed
            raise TypeError(
                f"model: got {dtype} inside, from {operation.removesuffix('Backward0')}, expected "
                "torch.float64 as all that enters it is; look for a conversion such as .float()"
            )

    def check_repeats(self, start: float) -> None:
        """Refuse a loss that is not ``start`` here, where it has been."""
        again = self.value()
        allowed = ROUNDINGS * EPS * abs(start)  # sums on several threads may differ in their order
        if abs(again - start) <= allowed or not (math.isfinite(start) or math.isfinite(again)):
            return
        raise RuntimeError(
            f"model: got the losses {start!r} and {again!r} for equal arguments, expected the same "
            "twice; draw random numbers from PyTorch's own generator only, and keep no state but in "
            "buffers, or call model.eval()"
        )


_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex32)


def _narrowed(loss: Tensor) -> tuple[torch.dtype, str] | None:
    """A dtype narrower than float64 in the graph of ``loss``, and the operation that makes it."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for made in getattr(node, "_input_metadata", ()):
            if made.dtype in _NARROW:
                return made.dtype, node.name()
        nodes += [source for source, _ in node.next_functions]
    return None


def _buffers(parts: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for part in parts:
        for name, buffer in part._buffers.items():
            if buffer is not None:
                yield part, name, buffer


def _in_float64(value: object) -> object:
    """A copy of a tensor, in float64 if it is floating; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().clone()
    return value.double() if value.is_floating_point() else value


def _checked_loss(loss: object) -> Tensor:
    """``loss``, or an error unless it is a scalar in float64."""
    loss = check_loss(loss)
    if loss.dtype != torch.float64:
        raise TypeError(
            f"loss: got {loss.dtype}, expected torch.float64, as all that enters the model is; look "
            "for a conversion such as .float() in the model or the loss"
        )
    return loss


def _default_loss(output: Tensor, y: object, seed: int) -> Tensor:
    """The loss of ``output`` where none is given: by what ``y`` is."""
    if y is None:
        if not output.dim():
            return output
        weights = _weights(output, torch.Generator().manual_seed(seed))
        return (output * weights).sum()
    if not isinstance(y, Tensor) or y.dtype == torch.bool or y.is_complex():
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(
            f"y: got {got}, expected an integer or a floating tensor; pass loss= for anything else"
        )
    expected = output.shape if y.is_floating_point() else output.shape[:-1]
    if y.shape != expected:
        kind = (
            "the output's" if y.is_floating_point() else "the output's without its last dimension"
        )
        raise ValueError(
            f"y: got shape {list(y.shape)}, expected {list(expected)}, {kind}; or pass loss="
        )
    if y.is_floating_point():
        return F.mse_loss(output, y)
    return F.cross_entropy(output.flatten(0, -2), y.flatten().long())


def _weights(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of the shape of ``like``, of either sign, and from 0.5 to 1 without it.

    None is so small that it would hide an entry, and no two are so equal that errors would cancel.
    """
    size = 0.5 + 0.5 * torch.rand(
        like.shape, generator=generator, dtype=torch.float64, device="cpu"
    )
    sign = torch.randint(2, like.shape, generator=generator, dtype=torch.float64, device="cpu")
    return ((2 * sign - 1) * size).to(like.device)


def _scale(values: Tensor) -> Tensor:
    """By how much each entry moves at t = 1."""
    return values.abs().clamp(min=1)


class _Comparison(NamedTuple):
    """An analytic and a numeric derivative in t along one direction."""

    analytic: float
    numeric: float
    error: float
    """Of the numeric one."""
    allowed: float
    """How far they may be apart."""
    whole: float
    """What the derivative is a part of: see ``GradientRow.relative``."""
    verdict: Literal["ok", "kink", "unclear", "doubtful", "WRONG"]
    """"doubtful" if it seems wrong, but the smallest steps, which see kinks near by, cannot tell."""
    place: tuple[int, ...] | None
    """The entry; ``None`` for a direction over all."""
    unit: float
    """By how much the entry moves at t = 1."""
    aside: bool = False
    """Whether it was made beside the point in question."""

    @property
    def difference(self) -> float:
        return abs(self.analytic - self.numeric)

    def would_see(self, other: "_Comparison") -> bool:
        """Whether a doubt as large as that of ``other``, relatively, would be seen here."""
        if other.verdict != "doubtful":
            return True
        return 2 * self.allowed * abs(other.analytic) < other.difference * abs(self.analytic)


class _Point:
    """One place: the values of all sources, and there the loss, its noise and its gradients."""

    def __init__(self, loss: _Loss, values: list[Tensor], generator: torch.Generator) -> None:
        self.loss, self.values = loss, values
        loss.move(values)
        self.start = loss.value()
        self.gradients = loss.gradients()
        self.noise = self._noise(generator)
        # Terms of a loss can cancel. Its noise says how large they are, if its gradients say so too.
        pairs = zip(self.gradients, values, strict=True)
        sizes = [
            float((g * _scale(v)).abs().max()) for g, v in pairs if g is not None and g.numel()
        ]
        self.terms = min(self.noise / EPS, max(filter(math.isfinite, sizes), default=0.0))

    def _noise(self, generator: torch.Generator) -> float:
        """The standard deviation of what rounding does to the loss.

        By third differences of nine losses on a line, so near each other (2**-40) that only rounding
        is left in them: their mean square is 20 times the variance (Moré & Wild 2011).
        """
        lines = [_weights(value, generator) * _scale(value) for value in self.values]
        for line, gradient in zip(lines, self.gradients, strict=True):
            if gradient is not None and not gradient.isfinite().all():
                line.zero_()  # near a pole, what is left is not only rounding
        losses = []
        for k in range(9):
            pairs = zip(self.values, lines, strict=True)
            self.loss.move(value + k * 2.0**-40 * line for value, line in pairs)
            losses.append(self.loss.value())
        self.loss.move(self.values)
        thirds = torch.tensor(losses, dtype=torch.float64, device="cpu").diff(n=3)
        noise = float((thirds.square().mean() / 20).sqrt())
        return max(noise, EPS * abs(self.start)) if math.isfinite(noise) else math.inf

    def compare(
        self, k: int, direction: Tensor, place: tuple[int, ...] | None, unit: float
    ) -> _Comparison:
        """The two derivatives in source k along ``direction``.

        The other sources are at this point, and so is source k afterwards.
        """
        gradient, base = self.gradients[k], self.values[k]
        analytic = spread = whole = 0.0
        if gradient is not None:
            terms = gradient * direction
            analytic, spread = float(terms.sum()), float(terms.norm())
            whole = spread if place is None else float(gradient.abs().max()) * unit

        def loss(t: float) -> float:
            self.loss.move_one(k, base + t * direction)
            return self.loss.value()

        # An entry is rounded when it moves, which changes the loss by EPS times each term.
        slope = Slope(loss, self.start, self.noise + EPS * spread)
        comparison = self._judged(slope, slope.measure(), analytic, whole, place, unit)
        if comparison.verdict != "ok":
            comparison = self._judged(slope, slope.confirm(), analytic, whole, place, unit)
        self.loss.move_one(k, base)
        return comparison

    def _judged(
        self,
        slope: Slope,
        limit: Limit,
        analytic: float,
        whole: float,
        place: tuple[int, ...] | None,
        unit: float,
    ) -> _Comparison:
        largest = max(abs(analytic), abs(limit.value))
        allowed = MARGIN * largest + ROUNDINGS * EPS * whole + limit.error
        apart = abs(analytic - limit.value)
        verdict: Literal["ok", "unclear", "doubtful", "WRONG"]
        if not math.isfinite(apart) or not slope.is_sharp(limit, analytic, max(whole, self.terms)):
            verdict = "unclear"
        elif apart <= allowed:
            verdict = "ok"
        elif slope.is_kinked():
            verdict = "unclear"
        else:
            verdict = "WRONG" if apart > 2 * slope.coarsest() else "doubtful"
        return _Comparison(analytic, *limit, allowed, whole, verdict, place, unit)


class _Search:
    """Goes through the sources, entry by entry, and steps aside where the loss is not smooth."""

    def __init__(self, loss: _Loss, seed: int) -> None:
        self.loss, self.seed = loss, seed
        self.here = _Point(loss, loss.values(), torch.Generator().manual_seed(seed))
        self.aside: list[_Point] = []

    def row(self, k: int, entries: int) -> GradientRow:
        """What is found of source k."""
        name, source = self.loss.sources[k]
        gradient, base = self.here.gradients[k], self.here.values[k]
        shape = tuple(source.shape)
        if gradient is not None and not gradient.isfinite().all():
            return _not_finite(name, shape, gradient)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = (
            torch.randperm(base.numel(), generator=generator, device="cpu")[:entries]
            .sort()
            .values.tolist()
        )
        scale = _scale(base)
        comparisons = []
        for flat in drawn:
            place = tuple(
                int(i) for i in torch.unravel_index(torch.tensor(flat, device="cpu"), shape)
            )
            direction = torch.zeros_like(base)
            direction[place] = scale[place]
            comparisons.append(self._compare(k, direction, place, float(scale[place])))
        if base.numel():
            comparisons.append(self._compare(k, _weights(base, generator) * scale, None, 1.0))
        return _row(name, shape, len(drawn), gradient, comparisons)

    def _compare(
        self, k: int, direction: Tensor, place: tuple[int, ...] | None, unit: float
    ) -> _Comparison:
        here = self.here.compare(k, direction, place, unit)
        if here.verdict in ("ok", "WRONG"):
            return here
        doubts = int(here.verdict == "doubtful")
        try:
            for point in self._beside():
                self.loss.move(point.values)
                again = point.compare(k, direction, place, unit)._replace(aside=True)
                if again.verdict == "ok" and again.would_see(here):
                    return again._replace(verdict="kink")
                doubts += again.verdict == "doubtful"
                if again.verdict == "WRONG" or (again.verdict == "doubtful" and doubts > 1):
                    return again._replace(verdict="WRONG")
        finally:
            self.loss.move(self.here.values)
        return here._replace(verdict="WRONG" if here.verdict == "doubtful" else "unclear")

    def _beside(self) -> Iterator[_Point]:
        """Places beside this one, made when they are first needed."""
        for i, most in enumerate(ASIDE):
            if i == len(self.aside):
                generator = torch.Generator().manual_seed(self.seed + 1 + i)
                moved = [v + most * _weights(v, generator) * _scale(v) for v in self.here.values]
                self.aside.append(_Point(self.loss, moved, generator))
            yield self.aside[i]


def _row(
    name: str,
    shape: Shape,
    checked: int,
    gradient: Tensor | None,
    comparisons: Sequence[_Comparison],
) -> GradientRow:
    """The row of a source, from its comparisons."""
    known = [c for c in comparisons if c.verdict != "unclear"]
    visible = [c for c in known if max(c.whole, c.difference) > c.allowed]
    relative = max((c.difference / max(c.whole, abs(c.numeric)) for c in visible), default=None)
    difference = max((c.difference / c.unit for c in known), default=0.0)
    largest = float(gradient.abs().max()) if gradient is not None and gradient.numel() else 0.0
    verdict: Judgement = "ok" if gradient is not None else "not reached"
    note = ""
    if gradient is not None and known and not visible:
        least = max(c.allowed / c.unit for c in known)
        note = f"too small to be told from 0, for which it would have to exceed {least:.1e}"
    order: tuple[Judgement, ...] = ("kink", "unclear", "WRONG")
    for worse in order:
        if some := [c for c in comparisons if c.verdict == worse]:
            verdict, note = worse, _explained(some, len(comparisons), gradient is not None)
    return GradientRow(name, shape, checked, largest, difference, relative, verdict, note)


def _explained(some: Sequence[_Comparison], count: int, reached: bool) -> str:
    """Why ``some`` comparisons of ``count``, of one verdict, are not simply right."""
    share = f"{len(some)} of {count} comparisons"
    alone = [c for c in some if c.place is not None]
    worst = max(alone or some, key=lambda c: c.difference / c.allowed)
    place = "a random direction" if worst.place is None else f"entry {list(worst.place)}"
    if worst.verdict == "kink":
        return (
            f"{share} cannot be made here, where the loss has a kink (as ReLU at 0) or bends too "
            "sharply; made beside it, they agree"
        )
    if worst.verdict == "unclear":
        return (
            f"{share} cannot be made: the loss jumps or bends too sharply, or rounds more "
            f"than float64 must (for {place}, finite differences are off by up to "
            f"{worst.error / worst.unit:.1e}); try smaller weights, another x or fewer steps"
        )
    beside = ", beside a kink," if worst.aside else ""
    text = (
        f"for {place}{beside} backward gives {worst.analytic / worst.unit:.10g}, finite differences "
        f"{worst.numeric / worst.unit:.10g}, which is off by {worst.allowed / worst.unit:.0e} at most"
    )
    if not reached:
        return text + "; backward does not reach it: look for detach(), .data, item() or no_grad()"
    if alone:
        return text + f"; {len(alone)} of the entries checked are wrong"
    return text + "; the entries checked one by one are right: raise entries= to find the wrong one"


def _not_finite(name: str, shape: Shape, gradient: Tensor) -> GradientRow:
    """The row of a source of which some gradient is not finite."""
    places = (~gradient.isfinite()).nonzero()
    first = tuple(int(i) for i in places[0])
    note = (
        f"{len(places)} of {gradient.numel()} entries of the gradient are not finite, the first "
        f"{float(gradient[first])} at {list(first)}; look for a root, a logarithm or a division at 0"
    )
    return GradientRow(name, shape, 0, math.nan, math.nan, None, "not finite", note)


def _without_loss(loss: _Loss, start: float) -> Iterator[GradientRow]:
    """The rows where the loss itself is not finite."""
    note = f"the loss is {start}, so nothing can be compared; make it finite first, with smaller values"
    for k, (name, source) in enumerate(loss.sources):
        shape = tuple(source.shape)
        told = "" if k else note
        yield GradientRow(name, shape, 0, math.nan, math.nan, None, "not finite", told)


def _cells(row: GradientRow) -> tuple[str, ...]:
    """A row of the table, as text."""
    return (
        row.name,
        _shortened(str(list(row.shape)), 20),
        _shortened(f"{row.checked} of {math.prod(row.shape)}", 16),
        f"{row.gradient:.1e}",
        f"{row.difference:.1e}",
        "-" if row.relative is None else f"{row.relative:.1e}",
        row.verdict,
    )


def _shortened(text: str, width: int) -> str:
    """``text``, in its middle cut to ``width``."""
    if len(text) <= width:
        return text
    left = (width - 3) // 2
    return f"{text[:left]}...{text[left + 3 - width :]}"
