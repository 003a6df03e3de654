"""Depth × directions of scans."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells import Cell, GatedCell, State
from unrolled.layers.base import SET_ASIDE, stacked
from unrolled.layers.result import Result
from unrolled.layers.stream import Stream
from unrolled.layers.tracing import as_leaf, is_symbolic
from unrolled.modules import alias
from unrolled.scan import (
    Backend,
    ScanOptions,
    ScanResult,
    Segmenter,
    Watcher,
    check_backend,
    native,
    read,
    reasons_of_resets,
    scan,
)
from unrolled.scan.hooks import computed, settled
from unrolled.scan.native.calls import StepKernel
from unrolled.shapes import (
    Lengths,
    Shape,
    check_flags,
    check_fraction,
    check_input,
    check_lengths,
    check_size,
    check_state,
)

Merge = Literal["concat", "sum", "mean", "separate", "mul"]


class Recurrent(nn.Module):
    """A recurrent layer of any cell: ``depth`` × directions of scans.

    Deep: the outputs of one layer are the inputs of the next. Bidirectional: in each layer two
    cells, each with its own weights, read the input in opposite directions, A_t = f(U x_t + W
    A_{t-1}) and A'_t = f(U' x_t + W' A'_{t+1}), and are merged:

    - "concat": ``[A_t; A'_t]``. A linear map of it is V A_t + V' A'_t.
    - "sum", "mean" or "mul": of the two, unit by unit.
    - "separate": never merged. The two directions are separate stacks at every depth, and ``y`` is a
      pair; so the forward one at t knows only x_0 … x_t, the backward one only x_t … x_{T-1}.

    What an option has nothing to work on it leaves as it is: ``merge`` with one direction; ``dropout``
    and ``residual``, which work between layers, with one layer.

    Source: Elman 1990; Schuster & Paliwal, "Bidirectional Recurrent Neural Networks", IEEE
    Transactions on Signal Processing 45 (1997).

        >>> import torch
        >>> from unrolled import Recurrent, cells
        >>> layer = Recurrent(cells.LSTM, 8, 16, depth=2, bidirectional=True)
        >>> y, (h_n, c_n) = layer(torch.randn(5, 3, 8), lengths=[5, 2, 0])
        >>> y.shape, h_n.shape
        (torch.Size([5, 3, 32]), torch.Size([4, 3, 16]))

    Args:
        cell: a ``Cell`` class, or any function of (D, H) that returns a cell.
        input_size: D, the features of one input.
        hidden_size: H, the hidden units of each direction of each layer; or a list, one a layer.
        depth: L, how many layers; by default 1, or as many as ``hidden_size`` lists.
        bidirectional: whether each layer reads in both directions.
        merge: how the two directions are merged.
        projection: P, to which a linear map without bias (so that padding stays zero) takes the merged
            outputs of each layer, the last one too. The state stays H wide. In the manner of Sak,
            Senior & Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large
            Scale Acoustic Modeling", Interspeech 2014, but outside the recurrence.
        residual: from the second layer on, ``True`` adds to what a layer gives what it has read (He et
            al., "Deep Residual Learning for Image Recognition", CVPR 2016); "highway" mixes the two,
            g ⊙ given + (1 - g) ⊙ read with g = σ(V read + b), b = -1 at first (Srivastava, Greff &
            Schmidhuber, "Training Very Deep Networks", NeurIPS 2015). Both must be equally wide.
        dropout: the share of each layer's outputs, but the last layer's, dropped in training.
        variational_dropout: the share of each layer's inputs, the first layer's too, dropped in
            training: one mask a sequence and feature, the same at every step. What ``residual`` adds is
            not dropped. Source: Gal & Ghahramani, "A Theoretically Grounded Application of Dropout in
            Recurrent Neural Networks", NeurIPS 2016; for h itself there is the cells'
            ``recurrent_dropout``.
        weight_drop: the share of each cell's W (``weight_hh``) dropped in training, once a call.
            Source: Merity, Keskar & Socher, "Regularizing and Optimizing LSTM Language Models", ICLR
            2018.
        learn_initial_state: whether each scan learns the state that it starts from where none is
            given, and with which a sequence begins at ``resets``: a parameter of the cell, ``initial``,
            zero at first, the same for every sequence.
        batch_first: whether ``x`` and ``y`` are ``[B, T, ...]``.
        backend: "native" for the compiled kernels, "reference" for PyTorch's operations, "auto" for
            the kernels where they can take the call; ``unrolled.explain`` says which, and why.
        cell_options: passed on to ``cell``, as in ``Recurrent(Elman, D, H, activation="relu")``.

    Raises:
        TypeError, ValueError: an option is not as above, or contradicts another.
    """

    segmenter: Segmenter | None = None
    """What takes the layer's sweeps in segments; see ``unrolled.bptt.checkpointed``."""
    watcher: Watcher | None = None
    """What is told of every scan; see ``unrolled.watch``."""
    clip: float | None = None
    """The largest 2-norm of a sequence's ∂L/∂state_t; see ``unrolled.remedies.clip_states_``."""

    arguments = ("x", "state")
    masks = frozenset(("lengths", "resets", "mask"))

    def __init__(
        self,
        cell: Callable[..., Cell],
        input_size: int,
        hidden_size: int | Sequence[int],
        *,
        depth: int | None = None,
        bidirectional: bool = False,
        merge: Merge = "concat",
        projection: int | None = None,
        residual: bool | Literal["highway"] = False,
        dropout: float = 0.0,
        variational_dropout: float = 0.0,
        weight_drop: float = 0.0,
        learn_initial_state: bool = False,
        batch_first: bool = False,
        backend: Backend = "auto",
        **cell_options: object,
    ) -> None:
        super().__init__()
        if merge not in get_args(Merge):
            raise ValueError(f"merge: got {merge!r}, expected one of {', '.join(get_args(Merge))}")
        if merge == "separate" and not bidirectional:
            raise ValueError("merge: got 'separate', which needs bidirectional=True")
        if residual not in (True, False, "highway"):
            raise ValueError(f"residual: got {residual!r}, expected True, False or 'highway'")
        if not callable(cell) or isinstance(cell, nn.Module):
            raise TypeError(f"cell: got {cell!r}, expected a Cell class, such as cells.GRU")
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = hidden_size
        self.hidden_sizes = _sizes(hidden_size, depth)
        self.depth = len(self.hidden_sizes)
        self.directions = 2 if bidirectional else 1
        self.merge = merge
        self.projection = None if projection is None else check_size("projection", projection)
        self.residual = residual
        self.dropout = check_fraction("dropout", dropout)
        self.variational_dropout = check_fraction("variational_dropout", variational_dropout)
        self.weight_drop = check_fraction("weight_drop", weight_drop)
        self.batch_first = batch_first
        self.backend = check_backend(backend)

        self.cells = nn.ModuleList()
        self.projections = nn.ModuleList() if projection is not None else None
        self.highways = nn.ModuleList() if residual == "highway" else None
        streams = 2 if merge == "separate" else 1
        read, options = self.input_size, dict(cell_options)
        for level, units in enumerate(self.hidden_sizes):
            for _ in range(self.directions):
                beside = self.beside if level else 0
                self.cells.append(_made(cell, read + beside, units, options))
            own = cast(Cell, self.cells[-1])
            options = cell_options | dict(own.above)
            width = own.output_size * (self.directions if merge == "concat" else 1)
            given = width if projection is None else projection
            if residual and level and given != read:
                raise ValueError(
                    f"residual: layer {level + 1} reads {read} features and gives {given}, expected "
                    "as many; make the layers equally wide, or set projection="
                )
            for _ in range(streams):
                if self.projections is not None:
                    self.projections.append(nn.Linear(width, given, bias=False))
                if self.highways is not None and level:
                    gate = nn.Linear(given, given)
                    nn.init.constant_(gate.bias, -1.0)
                    self.highways.append(gate)
            read = given
        self.output_size = read
        for made in cast(Sequence[Cell], self.cells):
            if weight_drop:
                _check_weight_drop(made, weight_drop)
            if learn_initial_state:
                made.learn_initial_state()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        state: State | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        mask: Tensor | None = None,
        states: bool = False,
    ) -> Result:
        """Run over the whole of ``x``.

        Args:
            x: ``[T, B, D]``, or ``[B, T, D]`` if ``batch_first``. A bidirectional layer also takes a pair,
                if its directions are to read different things, such as what ``cells.observed`` gives
                without and with ``reverse``.
            state: before the first step, as ``Result.state`` is: each tensor ``[L*S, B, size]``, or
                split by layer; zeros (or what has been learnt) by default.
            lengths: ``[B]``, each from 0 to T; all T by default. A sequence's outputs beyond its length
                are zero, its state stops there, its backward direction starts at its own last step,
                and nothing that stands there changes a number.
            resets: boolean ``[T, B]`` (``[B, T]`` if ``batch_first``): where true, a new sequence
                begins with that step, and nothing crosses from the step before it, in either
                direction. A new sequence starts from the cell's own initial state.
            mask: boolean ``[T, B]`` (``[B, T]`` if ``batch_first``): where false, the sequence skips the
                step, as if it were not there: its outputs are zero, its state stays. A reset there
                takes effect at the sequence's next real step. A sequence may skip every step, and then ends
                in the state it began with. With ``lengths``, the steps beyond are skipped too.
            states: whether the result has the states at every step.

        Returns:
            ``Result``, which unpacks as ``y, state``.

        Raises:
            TypeError, ValueError: a shape, dtype or length is not as above; or the cell does not keep
                its contract.
            RuntimeError: ``backend`` is "native", and the kernels cannot take the call.
        """
        if is_symbolic(x):
            given = {"lengths": lengths, "resets": resets, "mask": mask, "states": states}
            return cast(Result, as_leaf(self, x, state, **given))
        is_pair = type(x) is tuple and len(x) == 2  # neither a PackedSequence nor anything else
        x, *second = x if is_pair else (cast(Tensor, x),)
        x, state, lengths, resets, mask = self.checked(x, state, lengths, resets, mask)
        ways = [x, *(self._checked_second(other, x) for other in second)]
        starts = [None] * len(self.cells) if state is None else self.by_scan(state)
        options = ScanOptions(
            lengths=lengths,
            resets=resets,
            mask=mask,
            return_states=states,
            clip=self.clip,
            backend=self.backend,
            segmenter=self.segmenter,
        )
        streams, finals, every = stacked(
            self,
            ways,
            starts,
            options,
            scan=self._scan,
            watcher=self.watcher,
            drop_inputs=self._seen if self.variational_dropout and self.training else None,
            drop_outputs=self._dropped if self.dropout and self.training else None,
            output=partial(self._output, options),
        )
        if self.batch_first:
            streams = [y.transpose(0, 1) for y in streams]
            every = [tuple(s.transpose(0, 1) for s in outputs) for outputs in every]
        y = (streams[0], streams[1]) if self.merge == "separate" else streams[0]
        last = 0 if self._is_even else self.depth - 1
        shown = self.by_layer(every) if states else None
        return Result(y, self.by_layer(finals), shown, self.directions, last)

    def _scan(self, k: int, x: Tensor, state: State | None, options: ScanOptions) -> ScanResult:
        """Scan k."""
        return scan(self._cell(k), x, state, options)

    def _output(self, options: ScanOptions, k: int, states: State) -> Tensor:
        """The output of scan k, from what it returned at every step."""
        if not options.return_states:
            return states[0]
        return read(cast(Cell, self.cells[k]), states, options.lengths, options.mask)

    def checked(
        self,
        x: Tensor,
        state: State | None = None,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State | None, Tensor | None, Tensor | None, Tensor | None]:
        """The arguments of a call as the scans take them, ``x`` as ``[T, B, D]``; or an error."""
        weight = next(self.parameters(), None)
        check_input(x, self.input_size, weight, batch_first=self.batch_first)
        x = x.transpose(0, 1) if self.batch_first else x
        steps, batch_size, _ = x.shape
        lengths = None if lengths is None else check_lengths(lengths, steps, batch_size)
        if resets is not None:
            resets = check_flags(
                "resets", resets, steps, batch_size, batch_first=self.batch_first, like=x
            )
        if mask is not None:
            mask = check_flags("mask", mask, steps, batch_size, batch_first=self.batch_first)
        if state is not None:
            state = check_state(state, self.state_shapes(batch_size), x)
        return x, state, lengths, resets, mask

    def state_shapes(self, batch_size: int) -> list[Shape]:
        """The shapes of a state of so many sequences, as it is given and returned."""
        cells, group = cast(Sequence[Cell], self.cells), self._group
        kinds = range(len(cells[0].state_sizes))
        firsts = range(0, len(cells), group)
        return [(group, batch_size, cells[k].state_sizes[kind]) for kind in kinds for k in firsts]

    def by_layer(self, scans: Sequence[State]) -> State:
        """The states of the scans, one after another, as one state of the layer."""
        kinds = list(zip(*scans, strict=True))
        group, count = self._group, len(scans)
        return tuple(
            torch.stack(kind[k : k + group]) for kind in kinds for k in range(0, count, group)
        )

    def by_scan(self, state: State) -> list[State]:
        """The inverse of ``by_layer``."""
        flat = [part for tensor in state for part in tensor.unbind(0)]
        return [tuple(flat[k :: len(self.cells)]) for k in range(len(self.cells))]

    @property
    def _is_even(self) -> bool:
        """Whether all the scans' states have the same sizes, so that they can be stacked."""
        cells = cast(Sequence[Cell], self.cells)
        return all(cell.state_sizes == cells[0].state_sizes for cell in cells)

    @property
    def _group(self) -> int:
        """How many scans' states are stacked into one tensor."""
        return len(self.cells) if self._is_even else self.directions

    def _seen(self, x: Tensor) -> Tensor:
        """``x`` ``[T, B, size]`` under variational dropout: a mask for all steps."""
        mask = F.dropout(x.new_ones(1, *x.shape[1:]), self.variational_dropout)
        _, *beside = self._apart(mask)
        for part in beside:  # such as the time, of which nothing is to be dropped
            part.fill_(1)
        return x * mask

    def _dropped(self, y: Tensor) -> Tensor:
        """What a level gives, under dropout."""
        own, *beside = self._apart(y)
        return torch.cat([F.dropout(own, self.dropout), *beside], -1)

    def _apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """What a level reads: what the one below gave, and what of the input stands beside it."""
        if not self.beside:
            return (x,)
        return torch.split(x, [x.shape[-1] - self.beside, self.beside], -1)

    def _checked_second(self, second: Tensor, first: Tensor) -> Tensor:
        """What the backward direction reads, as ``[T, B, D]``; or an error."""
        if self.directions == 1:
            raise ValueError("x: got a pair, expected a tensor; the layer is not bidirectional")
        other, *_ = self.checked(second)
        if other.shape != first.shape:
            raise ValueError(
                f"x: got shapes {list(first.shape)} and {list(other.shape)}, expected one for both"
            )
        return other

    def _cell(self, k: int) -> Cell:
        """The cell of scan k, in training under weight drop."""
        cell = cast(Cell, self.cells[k])
        if not (self.weight_drop and self.training):
            return cell
        return _with_weight_drop(computed(cell), self.weight_drop)

    def joined(self, level: int, outputs: Sequence[Tensor], read: Sequence[Tensor]) -> list[Tensor]:
        """What a layer gives: its directions' ``outputs`` merged, projected, joined to what it ``read``."""
        given = self._merged(outputs)
        first = level * len(given)
        if self.projections is not None:
            given = [self.projections[first + i](y) for i, y in enumerate(given)]
        apart = [self._apart(x) for x in read]
        if self.residual and level:
            given = self._with_residual(level, given, [x for x, *_ in apart])
        if not self.beside or level == self.depth - 1:
            return given
        ways = range(max(len(given), len(apart)))  # one, if neither knows of two directions
        return [
            torch.cat([given[min(k, len(given) - 1)], *apart[min(k, len(apart) - 1)][1:]], -1)
            for k in ways
        ]

    def _with_residual(
        self, level: int, given: Sequence[Tensor], read: Sequence[Tensor]
    ) -> list[Tensor]:
        """What a level gives, joined to what it ``read`` of the one below."""
        pairs = list(zip(given, read, strict=False))
        if self.highways is None:
            return [y + x for y, x in pairs]
        first = (level - 1) * len(given)  # the first layer has none
        gates = [torch.sigmoid(self.highways[first + i](x)) for i, (_, x) in enumerate(pairs)]
        return [x + gate * (y - x) for gate, (y, x) in zip(gates, pairs, strict=True)]

    def _merged(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The directions' outputs as one, or apart."""
        if self.directions == 1 or self.merge == "separate":
            return list(outputs)
        if self.merge == "concat":
            return [torch.cat(list(outputs), -1)]
        forward, backward = outputs
        if self.merge == "mul":
            return [forward * backward]
        total = forward + backward
        return [total if self.merge == "sum" else total / 2]

    # --- What the rest of the library asks of it: ``RecurrentLayer`` -----------------------------

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def starts_at_zero(self) -> bool:
        return all(cell.starts_at_zero for cell in cast(Sequence[Cell], self.cells))

    @property
    def is_chained(self) -> bool:
        return not (self.projection or self.residual or (self.beside and self.depth > 1))

    @property
    def beside(self) -> int:
        """How many of the last features of the input every level reads; see ``Cell.beside``."""
        return cast(Cell, self.cells[0]).beside

    def described(self) -> str:
        sizes = self.extra_repr().partition(", backend=")[0]
        return f"Recurrent({type(self.cells[0]).__name__}, {sizes})"

    def fresh_state(self, batch_size: int, like: Tensor) -> State:
        cells = cast(Sequence[Cell], self.cells)
        return self.by_layer([cell.initial_state(batch_size, like) for cell in cells])

    def as_given(self, state: Sequence[Tensor]) -> State:
        return tuple(state)

    def as_recurrent(self) -> "Recurrent":
        shared = alias(self)
        shared.batch_first, shared.segmenter = False, None
        vars(shared).pop("forward", None)  # of a window that carries states, into which it belongs
        return shared

    def unsupported_reasons(
        self,
        x: Any = None,
        state: Any = None,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> list[str]:
        held = (*self.parameters(), *self.buffers())
        tensors: list[Tensor] = [tensor for tensor in held if tensor.is_floating_point()]
        if x is not None:
            x, state, *_ = self.checked(x, state, lengths, resets, mask)
            tensors = [x, *tensors, *(state or ())]
        if self.backend == "reference":
            return [SET_ASIDE]
        missing = native.missing()
        reasons = [] if missing is None else [missing]
        dtype = tensors[0].dtype if tensors else torch.get_default_dtype()
        for cell in cast(Sequence[Cell], self.cells):
            if missing is None:
                reasons += native.reasons_of_cell(settled(cell), dtype, compiled=False)
            reasons += reasons_of_resets(cell, resets)
        return reasons + (native.reasons_of_tensors(*tensors) if tensors else [])

    def why_unwatched(self) -> str | None:
        return None

    def step_kernels(self) -> list[StepKernel | None]:
        return [native.step_kernel(computed(cell)) for cell in cast(Sequence[Cell], self.cells)]

    def holders(self) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], self.cells)

    # --- Others ----------------------------------------------------------------------------------

    def stream(self, batch_size: int = 1) -> Stream:
        """This layer step by step, without gradient and as in evaluation, for B sequences at once.

        Raises:
            ValueError: the layer is bidirectional: its backward direction needs the future.
            RuntimeError: the layer has ``backend="native"``, and the kernels cannot run it.
        """
        return Stream(self, batch_size)

    def direction(self, k: int) -> "Recurrent":
        """One direction of a layer whose directions are separate, as a layer that shares its weights.

        It reads what it is given from the first step on: the backward one (1) wants the sequence
        reversed. So either can go on from a state with what comes next on its side. ``unrolled.watch``
        sees the layer itself, not this.

            >>> import torch
            >>> from unrolled import Recurrent, cells
            >>> layer = Recurrent(cells.GRU, 3, 5, bidirectional=True, merge="separate")
            >>> x = torch.randn(7, 2, 3)
            >>> (_, backward), _ = layer(x)
            >>> y, _ = layer.direction(1)(x.flip(0))
            >>> torch.allclose(y.flip(0), backward, atol=1e-6)
            True

        Args:
            k: 0 for the forward one, 1 for the backward one.

        Raises:
            ValueError: the directions are merged, or there is none of that number.
        """
        if self.merge != "separate":
            raise ValueError(
                f"direction: got a layer with merge={self.merge!r}, expected 'separate'"
            )
        check_size("k", k, least=0, most=1)
        way = alias(self)
        way.directions, way.merge, way.segmenter, way.watcher = 1, "concat", None, None
        lists = cast(dict[str, nn.ModuleList], self._modules)  # each with an entry for a direction
        way._modules = {name: modules[k::2] for name, modules in lists.items()}
        return way

    def extra_repr(self) -> str:
        even = len(set(self.hidden_sizes)) == 1
        text = f"{self.input_size}, {self.hidden_sizes[0] if even else list(self.hidden_sizes)}"
        text += f", depth={self.depth}"
        text += f", bidirectional, merge={self.merge}" if self.directions == 2 else ""
        names = ("projection", "residual", "dropout", "variational_dropout", "weight_drop")
        text += "".join(f", {name}={getattr(self, name)}" for name in names if getattr(self, name))
        return text + (f", backend={self.backend}" if self.backend != "auto" else "")

    def __prepare_scriptable__(self) -> "Recurrent":
        raise TypeError(
            "Recurrent: got torch.jit.script, which cannot compile a cell's Python; use "
            "torch.export.export, or torch.jit.trace"
        )


def _check_weight_drop(cell: Cell, share: float) -> nn.Parameter:
    """The W of ``cell``, or an error if it is no parameter."""
    weight = cell._parameters.get("weight_hh")
    if weight is None:
        kind = type(cell).__name__
        raise ValueError(
            f"weight_drop: got {share!r}, but {kind} has no parameter weight_hh; leave it out"
        )
    return weight


def _with_weight_drop(cell: Cell, share: float) -> Cell:
    """A cell that shares all with ``cell`` but its W, of which a ``share`` is dropped."""
    weight = _check_weight_drop(cell, share)
    dropped = alias(cell)
    mine = cast(nn.Parameter, F.dropout(weight, share))
    dropped._parameters = cell._parameters | {"weight_hh": mine}
    return dropped


def _sizes(hidden_size: int | Sequence[int], depth: int | None) -> tuple[int, ...]:
    """H of each layer, or an error."""
    if depth is not None:
        check_size("depth", depth)
    if not isinstance(hidden_size, list | tuple):
        return (check_size("hidden_size", cast(int, hidden_size)),) * (depth or 1)
    if not hidden_size:
        raise ValueError("hidden_size: got an empty list, expected one size a layer")
    if depth is not None and depth != len(hidden_size):
        raise ValueError(
            f"depth: got {depth}, but hidden_size lists {len(hidden_size)} layers; leave depth out"
        )
    return tuple(check_size("hidden_size", units) for units in hidden_size)


def _made(
    cell: Callable[..., Cell], input_size: int, hidden_size: int, options: dict[str, object]
) -> Cell:
    """A new cell, or an error if it is none."""
    advice = "expected super().__init__(input_size, hidden_size) at the start of its __init__"
    try:
        made = cell(input_size, hidden_size, **options)
    except AttributeError as error:
        if "before Module.__init__() call" not in str(error):
            raise
        raise TypeError(f"cell: got {cell!r}, which sets up no Cell, {advice}") from error
    if isinstance(made, Cell) and not {"_parameters", "hidden_size"} <= vars(made).keys():
        raise TypeError(f"cell: got {cell!r}, which sets up no Cell, {advice}")
    if not isinstance(made, Cell):
        raise TypeError(
            f"cell: got {cell!r}, which makes a {type(made).__name__}; "
            "expected a Cell class, such as cells.GRU"
        )
    if isinstance(made, GatedCell):
        made.check_norms()
    return made
