"""The recurrent layers of ``torch.nn``, run by the native kernels wherever these can.

A drop-in layer *is* a layer of ``torch.nn``: it is built, called, saved and loaded by the parent's own
code. What it adds is a second path through ``forward``. The reference path is the parent's.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from unrolled.cells import State
from unrolled.layers.base import Hidden, stacked
from unrolled.layers.stream import Stream
from unrolled.layers.torch_adapter import (
    KERNELS,
    Groups,
    TorchAdapter,
    as_state,
    as_weights,
    check_kinds,
    checked_masks,
    unsupported_reasons,
    weights_of,
)
from unrolled.layers.tracing import as_leaf, enter_graphs, is_symbolic, script_copies
from unrolled.modules import kind_of
from unrolled.scan import (
    DEFAULTS,
    Backend,
    ScanOptions,
    ScanResult,
    Segmenter,
    Watcher,
    check_backend,
    native,
)
from unrolled.scan.native import onnx
from unrolled.scan.native.calls import check_packed, constant_in_graphs
from unrolled.shapes import Lengths, check_dense, check_like

Run = Callable[..., ScanResult]


class TorchLayer(nn.RNNBase):
    """What the drop-in layers share: choosing a path, and depth × directions of native sweeps."""

    backend: Backend = "auto"
    segmenter: Segmenter | None = None
    """What takes the layer's sweeps in segments; see ``unrolled.bptt.checkpointed``."""
    watcher: Watcher | None = None
    """What is told of every scan; see ``unrolled.watch``."""
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
            ValueError: ``lengths`` or ``resets`` with a ``PackedSequence``, one sequence ``[T, D]``,
                or ``proj_size``.
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
        is_whole = lengths is None and resets is None and self.segmenter is None
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
        adapter = TorchAdapter(self)
        options = DEFAULTS if self.clip is None else ScanOptions(clip=self.clip)
        if not is_whole:
            counts, begins = checked_masks(self, input, lengths, resets)
            options = options._replace(lengths=counts, resets=begins, segmenter=self.segmenter)
        scan = partial(self._scan, run, weights)
        if isinstance(input, PackedSequence):
            return self._forward_packed(adapter, input, hx, scan, options)

        state = as_state(hx)
        shape, rows = input.shape, len(weights)
        batch = shape[:-2] if len(shape) == 2 or self.batch_first else shape[1:-1]
        if (
            not 2 <= len(shape) <= 3
            or shape[-1] != self.input_size
            or any(s.shape != (rows, *batch, self.hidden_size) for s in state)
        ):
            return super().forward(input, hx)  # raises torch.nn's own error
        if not batch:
            start = [s.unsqueeze(1) for s in state]
            y, final = self._stacked(adapter, input.unsqueeze(1), start, scan, options)
            return y.squeeze(1), adapter.as_given([s.squeeze(1) for s in final])
        if self.batch_first:
            y, final = self._stacked(adapter, input.transpose(0, 1), state, scan, options)
            return y.transpose(0, 1), adapter.as_given(final)
        y, final = self._stacked(adapter, input, state, scan, options)
        return y, adapter.as_given(final)

    def outside_graphs(
        self,
        x: Tensor | PackedSequence,
        hx: Hidden | None,
        lengths: Lengths | None,
        resets: Tensor | None,
    ) -> Any:
        """``forward``, where a compiler does not look."""
        return self.forward(x, hx, lengths=lengths, resets=resets)

    def check_packed(self, packed: PackedSequence, state: Sequence[Tensor]) -> None:
        """Refuse packed rows, or a state, of another shape, as torch.nn does of some of its layers."""
        if state:
            hx = TorchAdapter(self).as_given(state)
            self.check_forward_args(packed.data, hx, packed.batch_sizes)
        else:
            self.check_input(packed.data, packed.batch_sizes)

    def _forward_packed(
        self,
        adapter: TorchAdapter,
        packed: PackedSequence,
        hx: Hidden | None,
        scan: Run,
        options: ScanOptions,
    ) -> tuple[PackedSequence, Any]:
        """Scan the packed rows as they are, with the state in the order of the packed sequences."""
        data, batch_sizes, order, back = packed
        state = as_state(hx)
        self.check_packed(packed, state)
        check_packed(batch_sizes, int(batch_sizes[0]), len(data))
        if not state:
            state = adapter.fresh_state(int(batch_sizes[0]), data)
        elif order is not None:
            state = [s.index_select(1, order) for s in state]
        y, final = self._stacked(
            adapter, data, state, scan, options._replace(batch_sizes=batch_sizes)
        )
        if back is not None:
            final = tuple(s.index_select(1, back) for s in final)
        return PackedSequence(y, batch_sizes, order, back), adapter.as_given(final)

    def _stacked(
        self,
        adapter: TorchAdapter,
        x: Tensor,
        state: Sequence[Tensor],
        scan: Run,
        options: ScanOptions,
    ) -> tuple[Tensor, State]:
        """Depth × directions of scans over ``x`` ``[T, B, D]``, or over packed rows.

        ``state`` holds a ``[L*S, B, H]`` for each state tensor, or nothing for zeros.
        """
        starts: Sequence[State | None]
        starts = adapter.by_scan(state) or [None] * (adapter.depth * adapter.directions)
        drop = partial(F.dropout, p=self.dropout) if self.dropout and self.training else None
        watcher = None if self.proj_size else self.watcher
        (y,), finals, _ = stacked(
            adapter, x, starts, options, scan=scan, watcher=watcher, drop_outputs=drop
        )
        return y, adapter.by_layer(finals)

    def _scan(
        self,
        run: Run,
        weights: Groups,
        k: int,
        x: Tensor,
        state: State | None,
        options: ScanOptions,
    ) -> ScanResult:
        """Scan k by ``run``, in segments if there is a segmenter."""
        kernel, given = KERNELS[self.mode], as_weights(weights[k])
        names = self._all_weights[k]
        native.check_weights(kernel, given, x.shape[-1], self.hidden_size, names)
        if options.segmenter is None:
            return run(kernel, given, x, state, options)
        fresh = partial(TorchAdapter(self).fresh_scan, x.shape[1], x)
        sweep = partial(run, kernel, given)
        return options.segmenter(sweep, x, state, options, weights=weights[k], fresh=fresh)

    def stream(self, batch_size: int = 1) -> Stream:
        """This layer one step a call, without gradient, for ``batch_size`` sequences at once."""
        return Stream(TorchAdapter(self), batch_size)

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


enter_graphs(
    TorchLayer,
    lambda layer: (
        layer.backend != "reference" and not unsupported_reasons(layer, weights_of(layer))
    ),
    "a graph takes an RNN, LSTM or GRU of unrolled only where the kernels run it: unrolled.explain(layer) "
    "says why they do not; mend that, or leave out fullgraph=True",
)
script_copies(TorchLayer)


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
        layer.check_packed(x, as_state(hx))
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
        given = as_weights(four)
        native.check_weights(KERNELS[layer.mode], given, width, sizes[0], names, sizes[1])
        if last is not None and last.shape != sizes[::-1]:
            raise ValueError(
                f"{names[-1]}: got shape {list(last.shape)}, expected {list(sizes[::-1])}"
            )
    for state in as_state(hx):
        check_like("hx", state, data, "input")
    if layer.proj_size and native.is_vmapped():
        raise RuntimeError(
            f"proj_size: got {layer.proj_size} under torch.vmap, which torch.nn's loops do not take, "
            "expected 0; use Recurrent with projection="
        )


def _is_transformed(weights: Groups, x: Tensor | PackedSequence, hx: Hidden | None) -> bool:
    """Whether a transform of ``torch.func`` is at work on dense sequences."""
    given = [weight for group in weights for weight in group] + list(as_state(hx))
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


def become_drop_in(layer: nn.RNNBase) -> TorchLayer:
    """Make a layer of ``torch.nn`` a drop-in layer: the same object, all that it holds untouched."""
    _become(layer, DROP_INS[cast(type[nn.RNNBase], kind_of(layer))])
    return cast(TorchLayer, layer)


def become_parent(drop_in: TorchLayer) -> None:
    """Undo ``become_drop_in``; a subclass of a drop-in layer is left as it is."""
    kind = kind_of(drop_in)
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
