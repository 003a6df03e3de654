"""The recurrent layers of ``torch.nn``, run by the native kernels wherever these can.

A drop-in layer *is* a layer of ``torch.nn``: it is built, called, saved and loaded by the parent's own
code. What it adds is a second path through ``forward``. The reference path is the parent's.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from unrolled import cells
from unrolled.cells import Cell, Elman, GatedCell, State
from unrolled.layers.recurrent import Recurrent
from unrolled.layers.tracing import as_leaf, enter_graphs, is_symbolic, script_copies
from unrolled.scan import Backend, Masks, Through, Watcher, check_backend, native, onnx
from unrolled.scan.operators import Weights, check_packed, constant_in_graphs
from unrolled.shapes import Lengths, check_dense, check_lengths, check_like, check_resets

if TYPE_CHECKING:
    from unrolled.layers.stream import Stream

Hidden = Tensor | Sequence[Tensor]
Groups = list[list[Tensor]]
Run = Callable[..., tuple[State, State]]

MODES: dict[str, tuple[type[GatedCell], str]] = {
    "RNN_TANH": (Elman, "tanh"),
    "RNN_RELU": (Elman, "relu"),
    "LSTM": (cells.LSTM, ""),
    "GRU": (cells.GRU, ""),
}
"""For each ``mode`` of ``torch.nn``: the cell, and an Elman cell's activation."""
KERNELS = {mode: "_".join(filter(None, (str(c.kernel), f))) for mode, (c, f) in MODES.items()}


class TorchLayer(nn.RNNBase):
    """What the drop-in layers share: choosing a path, and depth × directions of native sweeps."""

    backend: Backend = "auto"
    through: Through | None = None
    """What takes the layer's sweeps in parts; see ``unrolled.bptt.checkpointed``."""
    watcher: Watcher | None = None
    """What looks on at the backward pass; see ``unrolled.watch``."""
    clip: float | None = None
    """The largest 2-norm of a sequence's ∂L/∂state_t; see ``unrolled.remedies.clip_states_``."""
    enters_graphs = True
    """Whether ``torch.compile`` may take it into a graph, as it found when it last looked."""

    def __init__(self, *args: Any, backend: Backend = "auto", **kwargs: Any) -> None:
        check_backend(backend)
        super().__init__(*args, **kwargs)
        self.backend = backend

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002
        hx: Hidden | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
    ) -> Any:
        """Run over the whole of ``input``, with arguments and results as in ``torch.nn``.

        Args:
            input: ``[T, B, D]``, ``[B, T, D]`` if ``batch_first``, ``[T, D]`` for one sequence, or a
                ``PackedSequence``.
            hx: the state before the first step, ``[L*S, B, H]`` (``[L*S, H]`` for one sequence); for
                LSTM a pair of them. Zeros by default.
            lengths: ``[B]``, as ``Recurrent`` takes them, in place of packing.
            resets: boolean ``[T, B]`` (``[B, T]`` if ``batch_first``), as ``Recurrent`` takes them.

        Returns:
            The outputs, ``[T, B, S*H]`` or in the form of ``input``, and the state after each sequence's
            last step, in the form of ``hx``.

        Raises:
            TypeError: ``input`` or ``hx`` is not of the kind above, or the state or a weight of another
                dtype.
            ValueError: ``lengths`` or ``resets`` with a ``PackedSequence``, one sequence without
                sequences, or ``proj_size``.
            ValueError, RuntimeError: a shape, dtype or device does not fit, as in ``torch.nn``.
            RuntimeError: ``backend="native"``, and the kernels cannot take this call.
        """
        if is_symbolic(input):
            given = {"lengths": lengths, "resets": resets}
            return as_leaf(self, input, hx, **{k: v for k, v in given.items() if v is not None})
        if torch.compiler.is_dynamo_compiling() and not self.enters_graphs:
            return self.outside_graphs(input, hx, lengths, resets)
        if self.proj_size and onnx.is_exporting():
            raise ValueError(
                f"proj_size: got {self.proj_size} in torch.onnx.export, expected 0, since what PyTorch "
                "writes of it no runtime loads; use Recurrent with projection="
            )
        is_whole = lengths is None and resets is None and self.through is None
        is_plain = is_whole and self.clip is None
        is_watched = self.watcher is not None and not torch.compiler.is_compiling()
        is_watched = is_watched and not self.proj_size  # which torch.nn alone has
        check_kinds(self, input, hx)
        is_parents = self.backend == "reference" and is_plain and not is_watched
        if is_parents and parametrize.is_parametrized(self):
            return super().forward(input, hx)  # a look at its weights may be random, or move them
        weights = weights_of(self)
        run: Run = native.run
        reasons = (
            [] if self.backend == "reference" else unsupported_reasons(self, weights, input, hx)
        )
        if reasons and self.backend == "native":
            raise RuntimeError(_refusal(self, reasons))
        if reasons or self.backend == "reference":
            _check_alike(self, weights, input, hx)
            run = native.run_reference
            is_ours = not self.proj_size and (
                _is_transformed(weights, input, hx) or _fails_in_autocast(self.mode)
            )
            if is_plain and not (is_watched or is_ours):
                return super().forward(input, hx)  # whose loops know no torch.func
        if self.clip is not None:
            run = partial(run, clip=self.clip)
        if not is_whole or is_watched:
            counts, begins = (None, None) if is_whole else self.checked(input, lengths, resets)
            run = self._in_parts(run, {"lengths": counts, "resets": begins})
            run = self._watched(run, counts, begins) if is_watched else run
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, weights, run)

        state = _as_state(hx)
        shape, rows = input.shape, len(weights)
        batch_size = shape[:-2] if len(shape) == 2 or self.batch_first else shape[1:-1]
        if (
            not 2 <= len(shape) <= 3
            or shape[-1] != self.input_size
            or any(s.shape != (rows, *batch_size, self.hidden_size) for s in state)
        ):
            return super().forward(input, hx)  # raises torch.nn's own error
        if not batch_size:
            start = [s.unsqueeze(1) for s in state]
            y, final = self._sweep(input.unsqueeze(1), start, weights, run=run)
            return y.squeeze(1), self._as_hidden([s.squeeze(1) for s in final])
        if self.batch_first:
            y, final = self._sweep(input.transpose(0, 1), state, weights, run=run)
            return y.transpose(0, 1), self._as_hidden(final)
        y, final = self._sweep(input, state, weights, run=run)
        return y, self._as_hidden(final)

    def outside_graphs(
        self,
        x: Tensor | PackedSequence,
        hx: Hidden | None,
        lengths: Lengths | None,
        resets: Tensor | None,
    ) -> Any:
        """``forward``, where a compiler does not look."""
        return self.forward(x, hx, lengths=lengths, resets=resets)

    def checked(
        self, x: Tensor | PackedSequence, lengths: Lengths | None, resets: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """``lengths`` and ``resets`` ``[T, B]`` as the scans take them, or an error."""
        name = "resets" if resets is not None else "lengths"
        if isinstance(x, PackedSequence):
            raise ValueError(f"{name}: got them with a PackedSequence, expected a tensor [T, B, D]")
        if x.dim() != 3:
            advice = "add the sequence dimension with unsqueeze"
            raise ValueError(f"{name}: got them with input {list(x.shape)}; {advice}")
        if self.proj_size:
            advice = "use Recurrent with projection="
            raise ValueError(f"{name}: got them with proj_size={self.proj_size}; {advice}")
        first = self.batch_first
        steps, batch_size = (x.shape[1], x.shape[0]) if first else x.shape[:2]
        lengths = None if lengths is None else check_lengths(lengths, steps, batch_size)
        if resets is not None:
            resets = check_resets(resets, steps, batch_size, batch_first=first, like=x)
        return lengths, resets

    def _in_parts(self, run: Run, masks: Masks) -> Run:
        """``run`` with ``masks``, and through what takes it in parts, if there is such."""
        through = self.through
        if through is None:
            return partial(run, **masks)

        def in_parts(
            kernel: str,
            x: Tensor,
            state: State | None,
            weights: Weights,
            *,
            batch_sizes: None,  # noqa: ARG001, packed rows are refused before
            reverse: bool,
            norms: Sequence[Tensor] | None = None,
        ) -> tuple[State, State]:
            tensors = 2 if self.mode == "LSTM" else 1
            zeros = x.new_zeros(x.shape[1], self.hidden_size)
            sweep = partial(run, kernel, weights=weights, reverse=reverse)
            fresh = partial(tuple, [zeros] * tensors)
            read = [weight for weight in weights if weight is not None]
            given = masks | {"norms": norms}
            return through(sweep, x, state, given, weights=read, reverse=reverse, fresh=fresh)

        return in_parts

    def _watched(self, run: Run, lengths: Tensor | None, resets: Tensor | None) -> Run:
        """``run``, which is looked on at."""
        watcher = self.watcher
        assert watcher is not None
        numbers = count()

        def watched(
            kernel: str,
            x: Tensor,
            state: State | None,
            weights: Weights,
            *,
            batch_sizes: Tensor | None,
            reverse: bool,
        ) -> tuple[State, State]:
            steps, batch_size, real = x.shape[0], x.shape[1], lengths
            if batch_sizes is not None:
                steps, batch_size = len(batch_sizes), int(batch_sizes[0])
                real = (batch_sizes.unsqueeze(1) > torch.arange(batch_size, device="cpu")).sum(0)
            tensors = 2 if self.mode == "LSTM" else 1
            k = next(numbers)
            norms = watcher.begins(
                k,
                (steps, batch_size),
                x,
                states=tensors,
                start=state,
                lengths=real,
                mask=None,
                resets=resets,
            )
            found, final = run(
                kernel, x, state, weights, batch_sizes=batch_sizes, reverse=reverse, norms=norms
            )
            watcher.ends(k, found[0])
            return found, final

        return watched

    def check_packed(self, packed: PackedSequence, state: Sequence[Tensor]) -> None:
        """Refuse packed rows, or a state, of another shape, as torch.nn does of some of its layers."""
        if state:
            self.check_forward_args(packed.data, self._as_hidden(state), packed.batch_sizes)
        else:
            self.check_input(packed.data, packed.batch_sizes)

    def _forward_packed(
        self, packed: PackedSequence, hx: Hidden | None, weights: Groups, run: Run
    ) -> tuple[PackedSequence, Any]:
        """Sweep over the packed rows as they are, with the state in the order of the packed sequences."""
        data, batch_sizes, order, back = packed
        state = _as_state(hx)
        expected = (len(weights), int(batch_sizes[0]), self.hidden_size)
        self.check_packed(packed, state)
        check_packed(batch_sizes, expected[1], len(data))
        if not state:
            state = [data.new_zeros(expected)] * (2 if self.mode == "LSTM" else 1)
        elif order is not None:
            state = [s.index_select(1, order) for s in state]
        y, final = self._sweep(data, state, weights, batch_sizes, run)
        if back is not None:
            final = [s.index_select(1, back) for s in final]
        return PackedSequence(y, batch_sizes, order, back), self._as_hidden(final)

    def _sweep(
        self,
        x: Tensor,
        state: Sequence[Tensor],
        weights: Groups,
        batch_sizes: Tensor | None = None,
        run: Run = native.run,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Depth × directions of sweeps over ``x`` ``[T, B, D]``, or over packed rows.

        ``state`` holds a ``[L*S, B, H]`` for each state tensor, or nothing for zeros.
        """
        kernel = KERNELS[self.mode]
        directions = 2 if self.bidirectional else 1
        starts = list(zip(*(s.unbind(0) for s in state), strict=True))
        finals: list[State] = []
        outputs: list[Tensor] = []
        for k, group in enumerate(weights):
            given = Weights(*group, *[None] * (4 - len(group)))
            native.check_weights(kernel, given, x.shape[-1], self.hidden_size, self._all_weights[k])
            (y, *_), final = run(
                kernel,
                x,
                starts[k] if starts else None,
                given,
                batch_sizes=batch_sizes,
                reverse=len(outputs) == 1,
            )
            finals.append(final)
            outputs.append(y)
            if len(outputs) == directions:
                x = y if directions == 1 else torch.cat(outputs, -1)
                outputs = []
                if self.dropout and self.training and k + 1 < len(weights):
                    x = F.dropout(x, self.dropout)
        if len(finals) == 1:
            return x, [s.unsqueeze(0) for s in finals[0]]
        return x, [torch.stack(tensors) for tensors in zip(*finals, strict=True)]

    def _as_hidden(self, state: Sequence[Tensor]) -> Any:
        """A state as ``torch.nn`` gives it: a pair for LSTM, else the tensor itself."""
        return tuple(state) if self.mode == "LSTM" else state[0]

    def stream(self, batch_size: int = 1) -> "Stream":
        """This layer one step a call, without gradient, for ``batch_size`` sequences at once."""
        from unrolled.layers.stream import Stream  # which is built on this module

        return Stream(self, batch_size)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.backend == "auto" else f"{shown}, backend={self.backend}"

    def __prepare_scriptable__(self) -> nn.RNNBase:
        """TorchScript compiles the parent's code: it knows no kernels."""
        plain: nn.RNNBase = copy.copy(self)
        plain.__class__ = next(
            parent for parent, drop_in in DROP_INS.items() if isinstance(self, drop_in)
        )
        return plain


class RNN(TorchLayer, nn.RNN):
    """``torch.nn.RNN``, by the native kernels wherever these can.

    ``RNN(input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=False,
    dropout=0.0, bidirectional=False, device=None, dtype=None, *, backend="auto")``

    All but ``backend`` is as in ``torch.nn.RNN``, the state dict too. Where the kernels cannot take
    a call, ``torch.nn`` runs it, and ``unrolled.explain`` says why.

    Source: Elman, "Finding Structure in Time", Cognitive Science 14 (1990).

        >>> import torch
        >>> from unrolled import layers
        >>> y, h_n = layers.RNN(3, 5, nonlinearity="relu", bidirectional=True)(torch.randn(7, 2, 3))
        >>> y.shape, h_n.shape
        (torch.Size([7, 2, 10]), torch.Size([2, 2, 5]))

    Args:
        backend: "auto" takes the native path where it can, "reference" runs ``torch.nn``,
            "native" raises where the kernels cannot take a call.
    """


class LSTM(TorchLayer, nn.LSTM):
    """``torch.nn.LSTM``, by the native kernels wherever these can.

    ``LSTM(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
    bidirectional=False, proj_size=0, device=None, dtype=None, *, backend="auto")``

    All but ``backend`` is as in ``torch.nn.LSTM``, the state dict too. Where the kernels cannot take
    a call, ``torch.nn`` runs it, and ``unrolled.explain`` says why.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997).

        >>> import torch
        >>> from unrolled import layers
        >>> y, (h_n, c_n) = layers.LSTM(3, 5, num_layers=2)(torch.randn(7, 2, 3))
        >>> y.shape, h_n.shape, c_n.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]), torch.Size([2, 2, 5]))

    Args:
        backend: "auto" takes the native path where it can, "reference" runs ``torch.nn``,
            "native" raises where the kernels cannot take a call.
    """


class GRU(TorchLayer, nn.GRU):
    """``torch.nn.GRU``, by the native kernels wherever these can.

    ``GRU(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
    bidirectional=False, device=None, dtype=None, *, backend="auto")``

    All but ``backend`` is as in ``torch.nn.GRU``, the state dict too. Where the kernels cannot take
    a call, ``torch.nn`` runs it, and ``unrolled.explain`` says why.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014.

        >>> import torch
        >>> from unrolled import layers
        >>> y, h_n = layers.GRU(3, 5, batch_first=True)(torch.randn(2, 7, 3))
        >>> y.shape, h_n.shape
        (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))

    Args:
        backend: "auto" takes the native path where it can, "reference" runs ``torch.nn``,
            "native" raises where the kernels cannot take a call.
    """


DROP_INS: dict[type[nn.RNNBase], type[TorchLayer]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def weights_of(layer: nn.RNNBase) -> Groups:
    """The weights of each sweep, by layer, then direction, as they are at this moment.

    Read by name, since a hook or a parametrization may put another tensor behind it at every call;
    and once a call, since that may be costly or random.
    """
    plain = cast(dict[str, Tensor], layer._parameters)
    return [
        [
            plain[n] if n in plain else getattr(layer, n) for n in names
        ]  # getattr alone is 20x slower
        for names in layer._all_weights
    ]


def unsupported_reasons(
    layer: TorchLayer,
    weights: Groups,
    x: Tensor | PackedSequence | None = None,
    hx: Hidden | None = None,
) -> list[str]:
    """Why the native path cannot take this call, one line a reason; nothing if it can.

    Without ``x``: why it could not take any.

    """
    reasons = []
    missing = native.missing()
    if missing is not None:
        reasons.append(missing)
    if layer.proj_size:
        reasons.append(f"proj_size is {layer.proj_size}: no kernel has two products in a step")
    tensors = [weight for group in weights for weight in group]
    tensors += _as_state(hx)
    if x is not None:
        data = x.data if isinstance(x, PackedSequence) else x
        tensors.insert(0, data)
        if data.dim() == 2 and not data.numel():
            reasons.append(f"input is empty: {list(data.shape)}")
    return reasons + native.reasons_of_tensors(*tensors)


enter_graphs(
    TorchLayer,
    lambda layer: (
        layer.backend != "reference" and not unsupported_reasons(layer, weights_of(layer))
    ),
    "a graph takes an RNN, LSTM or GRU of unrolled only where the kernels run it: unrolled.explain(layer) "
    "says why they do not; mend that, or leave out fullgraph=True",
)
script_copies(TorchLayer)


def check_kinds(layer: TorchLayer, x: object, hx: object) -> None:
    """Refuse an ``x`` that is no tensor or ``PackedSequence``, and an ``hx`` of the wrong kind.

    Raises:
        TypeError: says what was got, and what was expected.
    """
    if not isinstance(x, Tensor | PackedSequence):
        raise TypeError(
            f"input: got {type(x).__name__}, expected a tensor or a PackedSequence; "
            "make a tensor of it with torch.as_tensor()"
        )
    if isinstance(x, Tensor):
        check_dense("input", x, f"[T, B, {layer.input_size}]")
    if hx is None:
        return
    if layer.mode == "LSTM":
        fits = isinstance(hx, tuple | list) and [isinstance(s, Tensor) for s in hx] == [True, True]
        expected = "a pair of tensors (h_0, c_0)"
    else:
        fits, expected = isinstance(hx, Tensor), "a tensor h_0"
    if not fits:
        got = type(hx).__name__
        if isinstance(hx, tuple | list):
            got += f" of {', '.join(type(s).__name__ for s in hx) or 'nothing'}"
        raise TypeError(f"hx: got {got}, expected {expected}")
    for state in _as_state(cast(Hidden, hx)):
        check_dense("hx", state, "[L*S, B, H]")


def _check_alike(
    layer: TorchLayer, weights: Groups, x: Tensor | PackedSequence, hx: Hidden | None
) -> None:
    """Refuse an odd weight or state, and vmap over ``proj_size``, on which torch.nn's internals fail.

    A padded input that is unlike all weights is refused by torch.nn itself.
    """
    data, (like, *_) = x.data if isinstance(x, PackedSequence) else x, weights[0]
    first = layer._all_weights[0][0]
    if isinstance(x, PackedSequence):
        check_like("input", data, like, first)
        layer.check_packed(x, _as_state(hx))
    elif (data.dtype, data.device) != (like.dtype, like.device):
        return
    sizes = (layer.hidden_size, layer.proj_size)
    directions = 2 if layer.bidirectional else 1
    for k, (names, group) in enumerate(zip(layer._all_weights, weights, strict=True)):
        for name, weight in zip(names, group, strict=True):
            check_like(name, weight, like, first)
            if not name.startswith("weight_ih"):  # which may be sparse
                check_dense(name, weight, str(list(weight.shape)))
        width = layer.input_size if k < directions else directions * (sizes[1] or sizes[0])
        *four, last = group if layer.proj_size else [*group, None]
        given = Weights(*four, *[None] * (4 - len(four)))
        native.check_weights(KERNELS[layer.mode], given, width, sizes[0], names, sizes[1])
        if last is not None and last.shape != sizes[::-1]:
            raise ValueError(
                f"{names[-1]}: got shape {list(last.shape)}, expected {list(sizes[::-1])}"
            )
    for state in _as_state(hx):
        check_like("hx", state, data, "input")
    if layer.proj_size and native.is_vmapped():
        raise RuntimeError(
            f"proj_size: got {layer.proj_size} under torch.vmap, which torch.nn's loops do not take, "
            "expected 0; use Recurrent with projection="
        )


def as_recurrent(layer: nn.RNNBase, weights: Groups) -> Recurrent:
    """A ``Recurrent`` of the sizes of ``layer``, time first, over these very ``weights``."""
    kernel = KERNELS[layer.mode]
    made = iter([native.cell_over(kernel, Weights(*g, *[None] * (4 - len(g)))) for g in weights])
    return Recurrent(
        cast(Callable[..., Cell], lambda *_: next(made)),
        layer.input_size,
        layer.hidden_size,
        depth=layer.num_layers,
        bidirectional=layer.bidirectional,
        backend=getattr(layer, "backend", "auto"),
    )


def _as_state(hx: Hidden | None) -> Sequence[Tensor]:
    """The tensors of a state as ``torch.nn`` takes it."""
    if hx is None:
        return ()
    return (hx,) if isinstance(hx, Tensor) else hx


def _is_transformed(weights: Groups, x: Tensor | PackedSequence, hx: Hidden | None) -> bool:
    """Whether a transform of ``torch.func`` is at work on dense sequences."""
    given = [weight for group in weights for weight in group] + list(_as_state(hx))
    return isinstance(x, Tensor) and native.is_transformed(x, *given)


def _fails_in_autocast(mode: str) -> bool:
    """Whether autocast is on, and torch.nn's LSTM fails in it: oneDNN needs a processor with the dtype."""
    return mode == "LSTM" and torch.is_autocast_enabled("cpu") and not _has_autocasts_dtype()


@constant_in_graphs
def _has_autocasts_dtype() -> bool:
    is_half = torch.get_autocast_dtype("cpu") == torch.float16
    onednn = torch.ops.mkldnn
    return bool(
        onednn._is_mkldnn_fp16_supported() if is_half else onednn._is_mkldnn_bf16_supported()
    )


def _refusal(layer: TorchLayer, reasons: list[str]) -> str:
    lines = "".join(f"\n- {reason}" for reason in reasons)
    return (
        f'{type(layer).__name__}: got backend="native", but the kernels cannot take this call:{lines}'
        '\nmend that, or set backend="auto", with which torch.nn runs such calls'
    )


def why_no_drop_in(layer: nn.Module) -> str | None:
    """Why a recurrent layer cannot become a drop-in layer, or ``None`` if it can."""
    kind = _without_parametrizations(layer)
    if isinstance(layer, torch.jit.ScriptModule):
        return "it is compiled by TorchScript"
    if not issubclass(kind, nn.RNNBase):
        return "it is torch.ao's, for quantisation"
    if kind not in DROP_INS:
        parent = next((p for p in DROP_INS if issubclass(kind, p)), nn.RNNBase)
        return f"it is a subclass of torch.nn.{parent.__name__}, and may compute something else"
    if "forward" in vars(layer):
        return "its forward has been replaced"
    return None


def become_drop_in(layer: nn.RNNBase) -> None:
    """Make a layer of ``torch.nn`` a drop-in layer: the same object, all that it holds untouched."""
    _become(layer, DROP_INS[cast(type[nn.RNNBase], _without_parametrizations(layer))])


def become_parent(drop_in: TorchLayer) -> None:
    """Undo ``become_drop_in``; a subclass of a drop-in layer is left as it is."""
    kind = _without_parametrizations(drop_in)
    parent = next((parent for parent, made in DROP_INS.items() if made is kind), None)
    if parent is not None:
        _become(drop_in, parent)
        vars(drop_in).pop("backend", None)


def _become(layer: nn.RNNBase, target: type[nn.RNNBase]) -> None:
    """Give ``layer`` the class ``target``."""
    kind = type(layer)
    if parametrize.is_parametrized(layer):  # parametrize made a class for it, with properties on it
        made = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        target = type(kind.__name__, (target,), made)
    layer.__class__ = target


def _without_parametrizations(layer: nn.Module) -> type[nn.Module]:
    """The class of ``layer``; of a parametrised one, the class it had before."""
    kind = type(layer)
    return kind.__bases__[0] if parametrize.is_parametrized(layer) else kind
