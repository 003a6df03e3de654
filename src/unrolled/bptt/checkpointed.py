"""The gradient of a whole sequence in little memory: steps are run forward again when it needs them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from unrolled.bptt.carry import Carry
from unrolled.bptt.inject import States, layers_of
from unrolled.bptt.recompute import Around, Chain, Parts, leaves_of, new_graph
from unrolled.bptt.schedule import Memory, Plan, TooSmallError, parse, plan
from unrolled.cells import State
from unrolled.layers.base import RecurrentLayer
from unrolled.layers.finding import adapted, layer_of
from unrolled.scan import ScanOptions, ScanResult, Sweep
from unrolled.shapes import (
    Lengths,
    check_dense,
    check_flags,
    check_function,
    check_lengths,
    check_module,
    check_size,
    check_valued,
    real_steps,
    shape_or_type,
)

PEAK = 3.0  # what a step takes while its gradient is computed, of what autograd keeps of it
CHANCE = 5056  # bytes of PyTorch's source of chance, which is kept with each state
PROBE = 8  # steps that are run to see what autograd keeps: the first, at which all rows are there


def checkpointed(
    layer: nn.Module,
    x: Tensor | PackedSequence,
    state: Any = None,
    *,
    memory: int | str | None = None,
    segments: int | None = None,
    **named: Any,
) -> Any:
    """``layer(x, state, **named)``, whose gradient takes little memory.

    The same numbers, gradients too, in a tenth to a third more time: between forward and backward pass
    only the states at the beginnings of segments are kept, and each segment is run forward again when
    the backward pass comes to it. Any depth, both directions, ``lengths``, ``resets`` and ``mask``; what
    is drawn at random is the same when it is run again. Only between the layers of one of ``torch.nn``,
    all of which run in each segment, dropout draws other masks than in a plain call.

        >>> import torch
        >>> from unrolled import Recurrent, bptt, cells
        >>> layer = Recurrent(cells.LSTM, 8, 16, depth=2, bidirectional=True)
        >>> y, (h_n, c_n) = bptt.checkpointed(layer, torch.randn(1000, 3, 8), memory="1 MiB")
        >>> y.sum().backward()

    Args:
        layer: a ``Recurrent`` or a drop-in layer; one of ``torch.nn`` if it has one direction.
        x: ``[T, B, D]``, or as ``layer`` takes it.
        state: before the first step, as ``layer`` takes it.
        memory: bytes, or a text such as "64 MiB": what may be kept and used at once besides the inputs
            and outputs of the layer and of each level of its depth, which stand whole. Segments and
            kept states are chosen for the least time (``unrolled.bptt.schedule``).
        segments: instead, how many segments to cut each scan into; their first states are all kept.
        named: passed on to ``layer``.

    Returns:
        What ``layer`` returns.

    Raises:
        TypeError, ValueError: ``memory`` is too small for one step, and the text says what is not;
            ``segments`` is larger than T; both or neither are given; or ``layer`` is of another kind.
    """
    _check_budget(memory, segments)
    check_module("layer", layer)
    if isinstance(x, PackedSequence) or not isinstance(x, Tensor):
        advice = "; use lengths=" if isinstance(x, PackedSequence) else ""
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor [T, B, D]{advice}")
    check_valued("x", x)
    budget = None if memory is None else parse(memory)
    in_segments = _InSegments(budget, segments, Around(x.device, list(layer.buffers())))
    recurrent = layer_of(layer)
    if recurrent is None:
        raise TypeError(f"layer: got {_refused(layer, recurrent)}")
    if recurrent.why_unwatched() is None and ("mask" in recurrent.masks or x.dim() == 3):
        in_segments.scans = recurrent.depth * recurrent.directions
        with _set(layer, in_segments):
            result = layer(x, state, **named)
        in_segments.check()
        return result
    if recurrent.directions == 2:
        raise TypeError(f"layer: got {_refused(layer, recurrent)}")
    time = 1 if recurrent.batch_first and x.dim() == 3 else 0

    def sweep(x: Tensor, state: Any, options: ScanOptions) -> ScanResult:  # noqa: ARG001
        y, state = layer(x.transpose(0, 1) if time else x, state, **named)
        return ScanResult((y.transpose(0, 1) if time else y,), state)

    (y,), state = in_segments(
        sweep,
        x.transpose(0, 1) if time else x,
        state,
        ScanOptions(),
        weights=list(layer.parameters()),
        fresh=tuple,
    )
    in_segments.check()
    return (y.transpose(0, 1) if time else y), state


def checkpointed_loss(
    model: nn.Module,
    loss: Callable[..., Tensor],
    *sequences: Tensor,
    memory: int | str | None = None,
    segments: int | None = None,
    resets: Tensor | None = None,
    lengths: Lengths | None = None,
    carry: Carry | None = None,
    batch_first: bool = False,
) -> Tensor:
    """The sum of ``loss`` over a long sequence, whose gradient takes little memory.

    ``loss(*parts)`` calls the model on a segment of the ``sequences`` and returns a sum over its steps;
    the states go from segment to segment, and so does the gradient: it is that of the whole sequence.
    No output of the model stands whole, so that memory hardly grows with T.

        >>> import torch, unrolled
        >>> from unrolled import bptt
        >>> model = unrolled.LSTM(8, 16)
        >>> def loss(x, target):
        ...     return (model(x)[0] - target).square().sum()
        >>> x, target = torch.randn(5000, 2, 8), torch.randn(5000, 2, 16)
        >>> total = bptt.checkpointed_loss(model, loss, x, target, memory="2 MiB") / target.numel()
        >>> total.backward()

    In each segment dropout draws anew, and so do the masks that otherwise hold for a whole call
    (variational and recurrent dropout, weight drop); they are the same when it is run again. So are the
    model's buffers, such as the averages of BatchNorm, which change once a segment.

    Args:
        model: holds the recurrent layers, of one direction, that ``loss`` calls, each once.
        loss: of parts ``[K, B, ...]`` of the sequences, a sum that adds up over segments. Called with
            the first few steps, too, to see what memory they take.
        sequences: ``[T, B, ...]`` each.
        memory: bytes, or a text such as "256 MiB": what may be kept and used at once besides the
            sequences and the gradients of the parameters. Segments and kept states are chosen for the
            least time.
        segments: instead, how many segments; their first states are all kept.
        resets: boolean ``[T, B]``, as for ``Carry.window``.
        lengths: ``[B]``, each from 0 to T: the layers read no further; ``loss`` must leave out those
            steps by a sequence that says which.
        carry: from which to begin, and which moves on to the end.
        batch_first: whether all is ``[B, T, ...]``.

    Returns:
        The sum.

    Raises:
        TypeError, ValueError: ``memory`` is too small for one step, and the text says what is not;
            ``segments`` is larger than T; both or neither are given; a layer is bidirectional; or a
            shape does not fit.
        RuntimeError: in ``torch.inference_mode``, in which nothing can be measured.
    """
    _check_budget(memory, segments)
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "checkpointed_loss: got torch.inference_mode(), expected torch.no_grad()"
        )
    for name, layer in layers_of(model).items():
        if adapted(layer).directions == 2:
            raise ValueError(
                f"model: layer {name!r} is bidirectional: its backward direction comes from the end of "
                "the sequence; call it by bptt.checkpointed(layer, x)"
            )
    time = 1 if batch_first else 0
    if not sequences or any(not isinstance(s, Tensor) or s.dim() < 2 for s in sequences):
        raise ValueError("sequences: expected one tensor [T, B, ...] or more")
    for s in sequences:
        check_dense("sequences", s, "[T, B, ...]")
        check_valued("sequences", s)
    check_function("loss", loss, "of the steps of sequences")
    if carry is not None and not isinstance(carry, Carry):
        raise TypeError(f"carry: got {carry!r}, expected a bptt.Carry")
    shapes = {tuple(s.shape[:2]) for s in sequences}
    if len(shapes) != 1:
        raise ValueError(f"sequences: got {sorted(shapes)}, expected one T, B")
    steps, batch_size = sequences[0].shape[time], sequences[0].shape[1 - time]
    if not steps:
        raise ValueError(f"sequences: got {list(sequences[0].shape)}, expected at least one step")
    if resets is not None:
        resets = check_flags("resets", resets, steps, batch_size, batch_first=batch_first)
    real = None
    if lengths is not None:
        real = real_steps(check_lengths(lengths, steps, batch_size), steps)
    carry = Carry(model, batch_first=batch_first) if carry is None else carry
    mode = carry.mode()
    carry.refuse_ended(mode, resets, None if real is None else real.sum(0))

    def run(begin: int, end: int, parts: Parts, states: States) -> tuple[Parts, States]:
        flags = [None if f is None else f[begin:end] for f in (resets, real)]
        with carry.injection(states, *flags) as injection:
            value = loss(*parts)
        if not isinstance(value, Tensor) or value.dim():
            raise ValueError(
                f"loss: got {shape_or_type(value)}, expected one number, a sum over the steps"
            )
        carry.require_run(injection)
        return (value,), injection.finals

    states = carry.kept[mode]
    parameters = [*model.parameters(), *(s for state in carry.initial.values() for s in state)]
    budget = None if memory is None else parse(memory)
    around = Around(sequences[0].device, list(model.buffers()))
    options: Any = {"around": around, "summed": True, "time": time, "name": "loss"}
    (total,), finals = _recomputed(run, sequences, states, parameters, budget, segments, **options)
    carry.keep(mode, finals, None if real is None else ~real[-1])
    return total


@dataclass
class _InSegments:
    """Takes each sweep of a layer in segments that are run again when the backward pass comes to them.

    Each has an equal share of the budget.
    """

    budget: int | None
    segments: int | None
    around: Around
    scans: int = 1
    least: int = 0  # the largest share that was needed and not there

    def __call__(
        self,
        sweep: Sweep,
        x: Tensor,
        state: State | None,
        options: ScanOptions,
        *,
        weights: Sequence[Tensor],
        fresh: Callable[[], State],
    ) -> ScanResult:
        """A sweep in segments."""
        steps, reverse = len(x), options.reverse
        if steps == 0 or not torch.is_grad_enabled():
            return sweep(x, state, options)
        resets, lengths = options.resets, options.lengths

        def run(begin: int, end: int, parts: Parts, state: State | None) -> ScanResult:
            if reverse and end < steps and state is not None and resets is not None:
                anew = resets[end].to(x.device)
                if lengths is not None:
                    anew = anew & (lengths > end).to(x.device)
                pairs = zip(fresh(), state, strict=True)
                state = tuple(torch.where(anew.unsqueeze(1), f, s) for f, s in pairs)
            return sweep(parts[0], state, options.segment(begin, end))

        share = None if self.budget is None else self.budget // self.scans
        settings: Any = {"around": self.around, "summed": False, "reverse": reverse}
        try:
            outputs, final = _recomputed(
                run, (x,), state, weights, share, self.segments, **settings
            )
        except TooSmallError as error:  # the sweeps after this one may need more
            self.least = max(self.least, error.least)
            with torch.no_grad():
                outputs, final = sweep(x, state, options)
            return ScanResult(tuple(y.detach().requires_grad_() for y in outputs), final)
        return ScanResult(outputs, cast(State, final))

    def check(self) -> None:
        """Refuse a budget that was too small for a sweep."""
        if self.budget is not None and self.least:
            raise TooSmallError(self.budget, self.least * self.scans)


def _recomputed(
    run: Callable[[int, int, Parts, Any], tuple[Parts, Any]],
    sequences: Parts,
    start: Any,
    parameters: Parts,
    budget: int | None,
    segments: int | None,
    *,
    around: Around,
    summed: bool,
    reverse: bool = False,
    time: int = 0,
    name: str = "layer",
) -> tuple[tuple[Tensor, ...], Any]:
    """``run(begin, end, parts, state)`` over all steps, in segments."""
    steps = sequences[0].shape[time]
    if segments is not None:
        check_size("segments", segments, most=steps)
    known = [*parameters, *(s for s in pytree.tree_leaves(start) if isinstance(s, Tensor))]

    def first(count: int) -> tuple[Callable[[], tuple[Parts, Any]], Parts]:
        parts = [
            s.detach().narrow(time, 0, count).requires_grad_(s.requires_grad) for s in sequences
        ]
        return partial(run, 0, count, parts, start), [*known, *parts]

    more = min(steps, PROBE)
    needs = _needs(*first(more), around, name)
    if segments is not None:
        length = ceil(steps / segments)
        count = ceil(steps / length)
        chosen = Plan(length, count, count - 1, 1)
    else:
        assert budget is not None
        less = more // 2
        many = _kept(*first(more), around)
        few = _kept(*first(less), around) if less else 0
        step = max(0, many - few) / (more - less)
        call = max(0.0, many - step * more)
        memory = Memory(ceil(PEAK * step), ceil(PEAK * call), needs.state + CHANCE)
        chosen = plan(steps, budget, memory)
    cuts = [(b, min(b + chosen.length, steps)) for b in range(0, steps, chosen.length)]
    cuts = cuts[:: -1 if reverse else 1]

    def nth(k: int, parts: Parts, state: Any) -> tuple[Parts, Any]:
        return run(*cuts[k], parts, state)

    chain = Chain(cuts, nth, chosen, needs.around, summed, time, name)
    found = {id(t): t for t in (*parameters, *needs.leaves)}
    return chain([p for p in found.values() if p.requires_grad], sequences, start)


class Needs(NamedTuple):
    """What takes part in a call: the bytes of its state, the parameters, and what it changes."""

    state: int
    leaves: list[Tensor]
    around: Around


def _needs(run: Callable[[], tuple[Parts, Any]], known: Parts, around: Around, name: str) -> Needs:
    since = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    _, *buffers = around.now()
    with around.restored(), new_graph():
        outputs, state = run()
        pairs = zip(around.buffers, buffers, strict=True)
        changed = [b for b, before in pairs if not torch.equal(b, before)]
    after = [s for s in pytree.tree_leaves(state) if isinstance(s, Tensor)]
    try:
        leaves = leaves_of((*outputs, *after), known, since)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    size = sum(t.nbytes for t in (*after, *changed))
    return Needs(size, leaves, Around(around.device, changed))


def _kept(run: Callable[[], object], known: Parts, around: Around) -> int:
    """The bytes that autograd keeps of a call, besides what is ``known``.

    The call comes after one without hooks: a cell's kernel cannot be made while there are hooks.
    """
    there = {t.data_ptr() for t in known}
    seen: dict[int, Tensor] = {}  # tensors, so that none takes another's place

    def pack(tensor: Tensor) -> Tensor:
        is_parameter = tensor.is_leaf and tensor.requires_grad
        place, tensor = tensor.data_ptr(), tensor.detach()  # the tensor itself would hold its graph
        is_more = place not in seen or tensor.nbytes > seen[place].nbytes
        if is_more and place not in there and not is_parameter:
            seen[place] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with around.restored(), new_graph(), hooks:
        run()
    return sum(tensor.nbytes for tensor in seen.values())


def _check_budget(memory: int | str | None, segments: int | None) -> None:
    if (memory is None) == (segments is None):
        got = "neither" if memory is None else "both"
        raise ValueError(f"memory, segments: got {got}, expected one of them")
    if memory is not None:
        parse(memory)


def _refused(layer: nn.Module, recurrent: RecurrentLayer | None) -> str:
    """What is wrong with a layer of another kind, and what to do."""
    kind = type(layer).__name__
    if recurrent is None:
        return f"{kind}, expected Recurrent or a drop-in layer; see checkpointed_loss for models"
    kind = f"a bidirectional {kind}"
    if not recurrent.masks:
        return f"{kind}, expected Recurrent or a drop-in layer; unrolled.accelerate makes it one"
    if recurrent.why_unwatched() is not None:
        return f"{kind} with proj_size, expected none; use Recurrent with projection="
    return f"{kind} and one sequence [T, D]; add the sequence dimension with unsqueeze"


@contextmanager
def _set(layer: nn.Module, in_segments: _InSegments) -> Iterator[None]:
    """``layer`` takes its sweeps in segments."""
    own = vars(layer)
    before = own.get("segmenter")
    own["segmenter"] = in_segments
    try:
        yield
    finally:
        del own["segmenter"]
        if before is not None:
            own["segmenter"] = before
