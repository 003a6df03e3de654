"""The scan by a kernel of the native library, as two PyTorch operators: forward and backward.

Everything is checked before a pointer is passed: shapes and dtypes by the layers and by ``obstacles``,
the rest here. The operators are opaque to ``torch.compile`` and ``torch.export``; the gradient of the
gradient goes through the reference.
"""

import math
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from unrolled.cells import GRU, LSTM, Cell, Elman, State
from unrolled.cells.cell import GatedCell
from unrolled.scan import library, reference

STATES = 4  # UNROLLED_STATES in csrc/unrolled.h
FIELDS = struct.Struct(f"={8 + 10 + 2 * STATES + 1 + STATES + 3 + 4 * STATES + 5 + 2 * STATES}q")

KINDS: dict[str, type[GatedCell]] = {"elman": Elman, "lstm": LSTM, "gru": GRU}


# --- Which kernel, and why not -------------------------------------------------------------------


def kernel_name(cell: Cell) -> str | None:
    """The kernel that computes what ``cell`` does, if there is one."""
    kind = type(cell)
    if kind is Elman:
        return f"elman_{cell.activation}" if isinstance(cell.activation, str) else None
    return "lstm" if kind is LSTM else "gru" if kind is GRU else None


def obstacles_of_cell(cell: Cell) -> list[str]:
    """Why no kernel computes what ``cell`` does: a line each, none if one does."""
    if kernel_name(cell) is not None:
        return []
    if type(cell) is Elman:
        return ["Elman's activation is a function of your own, which no kernel is built in for"]
    return [f"{type(cell).__name__} is not one of the built-in cells Elman, LSTM and GRU"]


def obstacles_of_tensors(x: Tensor, *others: Tensor | None) -> list[str]:
    """Why no kernel can take these tensors: a line each, none if one can."""
    tensors = [x, *(other for other in others if other is not None)]
    if not _is_watched() and _are_plain(tensors):
        return []
    reasons = []
    if x.device.type != "cpu":
        reasons.append(f"x is on {x.device}; the kernels run on the CPU")
    if x.dtype not in (torch.float32, torch.float64):
        reasons.append(f"x is {x.dtype}; the kernels take float32 and float64")
    for tensor in tensors:
        if tensor.dtype != x.dtype or tensor.device != x.device:
            other = f"{tensor.dtype} on {tensor.device}"
            reasons.append(f"x is {x.dtype} on {x.device}, a weight or state {other}")
            break
    if not x.numel():
        reasons.append(f"x is empty: {list(x.shape)}")
    if torch.compiler.is_compiling():
        return reasons
    if torch.is_autocast_enabled("cpu"):
        reasons.append("autocast is on; the kernels keep the dtype they are given")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        reasons.append("a transform of torch.func (vmap, grad, jvp …) is active")
    elif any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors):
        reasons.append("a tensor belongs to a transform of torch.func")
    elif torch.autograd.forward_ad._current_level >= 0:
        reasons.append("forward-mode differentiation is on")
    for tensor in tensors:
        if tensor.layout is not torch.strided:
            reasons.append(f"a tensor is {tensor.layout}; the kernels take dense ones")
            break
        if type(tensor) not in _PLAIN and not isinstance(tensor, torch._subclasses.FakeTensor):
            reasons.append(f"a tensor is a {type(tensor).__name__}, not a plain tensor")
            break
    if any(tensor.is_neg() or tensor._is_zerotensor() for tensor in tensors):
        reasons.append(
            "a tensor's sign or zeros are not written yet; call resolve_neg() or clone()"
        )
    if torch._C._get_tracing_state() is not None:
        reasons.append("torch.jit.trace is running; trace the reference, or use torch.export")
    return reasons


_PLAIN = (Tensor, nn.Parameter)


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether these are tensors as kernels take them: what nearly every call is, found quickly."""
    dtype = tensors[0].dtype
    if dtype not in (torch.float32, torch.float64) or not tensors[0].numel():
        return False
    for t in tensors:
        if type(t) not in _PLAIN or t.dtype is not dtype or not t.is_cpu:
            return False
        if t.layout is not torch.strided or t.is_neg() or t._is_zerotensor():
            return False
    return True


def _is_watched() -> bool:
    """Whether anything in PyTorch looks on that could change what a call means."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or torch._C._get_tracing_state() is not None
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing() -> str | None:
    """Why there is no kernel library, in one line; None if there is one."""
    return library.missing()


def instruction_set() -> str:
    """The instruction set whose kernels run: "avx512", "avx2", "neon" or "serial"."""
    return library.instruction_set()


def threads() -> int:
    """How many threads a kernel uses at most: as many as PyTorch."""
    return torch.get_num_threads()


def obstacles(cell: Cell, x: Tensor, state: Sequence[Tensor] = ()) -> list[str]:
    """Every reason why the kernel cannot take this call, a line each; none if it can."""
    absent = missing()
    if absent is not None:
        return [absent]
    unknown = obstacles_of_cell(cell)
    if unknown:
        return unknown
    built_in = cast(GatedCell, cell)  # a weight need not be a parameter: it may be computed
    weights = (built_in.weight_ih, built_in.weight_hh, built_in.bias_ih, built_in.bias_hh)
    return obstacles_of_tensors(x, *weights, *state)


# --- The call ------------------------------------------------------------------------------------


Optional = Tensor | None


class Weights(NamedTuple):
    """The parameters of a cell as its kernel takes them; names as in ``torch.nn``."""

    weight_ih: Tensor
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None


def scan(
    cell: Cell,
    x: Tensor,
    state: State | None,
    *,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    every: bool,
    norms: Sequence[Tensor] | None,
) -> tuple[State, State]:
    """As ``unrolled.scan.scan`` with a kernel; returns the states at every step, and the final ones."""
    name = kernel_name(cell)
    assert name is not None
    built_in = cast(GatedCell, cell)
    weights = Weights(built_in.weight_ih, built_in.weight_hh, built_in.bias_ih, built_in.bias_hh)
    if name != "gru" and (weights.bias_ih is None or weights.bias_hh is None):
        weights = weights._replace(bias_ih=None, bias_hh=None)  # as GatedCell.bias() has it
    rows = built_in.gates * cell.hidden_size
    expected = ((rows, cell.input_size), (rows, cell.hidden_size), (rows,), (rows,))
    for field, weight, shape in zip(Weights._fields, weights, expected, strict=True):
        if weight is None and field.startswith("weight"):
            raise ValueError(f"{field}: got None, expected {list(shape)}")
        if weight is not None and weight.shape != shape:
            raise ValueError(f"{field}: got shape {list(weight.shape)}, expected {list(shape)}")
    return run(
        name,
        x,
        state,
        weights,
        lengths=lengths,
        resets=resets,
        reverse=reverse,
        every=every,
        norms=norms,
    )


def sweep(
    name: str,
    x: Tensor,
    state: State | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """One layer in one direction: the outputs ``[T, B, H]``, and the final state ``[B, H]`` each."""
    weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh)
    states, final = run(name, x, state, weights, lengths=lengths, reverse=reverse)
    return states[0], final


def run(
    name: str,
    x: Tensor,
    state: State | None,
    weights: Weights,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    every: bool = False,
    norms: Sequence[Tensor] | None = None,
) -> tuple[State, State]:
    """Run the kernel ``name``: states at every step (the output alone unless ``every``), final state."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    start: tuple[Tensor | None, ...] = state if state is not None else ()
    tensors = (x, *weights, *start)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        # The backward pass reads them again: what the caller writes into them meanwhile is not meant.
        lengths, resets = (t if t is None else t.clone() for t in (lengths, resets))
        outputs = _Sweep.apply(name, lengths, resets, reverse, every, norms, *tensors)  # type: ignore[no-untyped-call]
        count = len(outputs) // 2 if every else 1
        return outputs[:count], outputs[count:]
    outputs = _forward_operator()(
        name, *tensors[:5], list(start), lengths, resets, reverse, every, False
    )
    count = len(outputs) // 2 if every else 1
    return tuple(outputs[:count]), tuple(outputs[count:])


class _Sweep(torch.autograd.Function):
    """The kernel's forward and backward, joined."""

    @staticmethod
    def forward(ctx, name, lengths, resets, reverse, every, norms, *tensors):  # type: ignore[no-untyped-def]
        x, weight_ih, weight_hh, bias_ih, bias_hh, *start = tensors
        outputs = _forward_operator()(
            name,
            x,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            start,
            lengths,
            resets,
            reverse,
            True,
            True,
        )
        count = (len(outputs) - 1) // 2
        states, final, kept = outputs[:count], outputs[count:-1], outputs[-1]
        ctx.save_for_backward(*tensors, *states, kept)
        ctx.settings = (name, lengths, resets, reverse, every, norms, count, len(tensors))
        ctx.set_materialize_grads(False)
        return (*states, *final) if every else (states[0], *final)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        name, lengths, resets, reverse, every, norms, count, inputs = ctx.settings
        saved = ctx.saved_tensors
        tensors, states, kept = saved[:inputs], saved[inputs:-1], saved[-1]
        shown = count if every else 1
        d_states = [*gradients[:shown], *[None] * (count - shown)]
        d_final = list(gradients[shown:])
        wanted = list(ctx.needs_input_grad[6:])
        nothing = (None,) * 6
        given = [d for d in gradients if d is not None]
        if torch.is_grad_enabled() or any(map(_is_batched, given)):
            # The gradient itself will be differentiated, or many are asked for at once.
            return nothing + _by_reference(
                name, lengths, resets, reverse, tensors, wanted, d_states, d_final, norms
            )
        x, weight_ih, weight_hh, bias_ih, bias_hh, *start = tensors
        results = _backward_operator()(
            name,
            x,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            start,
            lengths,
            resets,
            reverse,
            list(states),
            kept,
            d_states,
            d_final,
            wanted,
            norms is not None,
        )
        if norms is not None:
            for target, norm in zip(norms, results[inputs:], strict=True):
                target.copy_(norm)
        return nothing + tuple(
            result if want else None for result, want in zip(results[:inputs], wanted, strict=True)
        )


def _is_batched(gradient: Tensor) -> bool:
    """Whether ``gradient`` stands for many: those of ``is_grads_batched`` or of ``torch.func.vmap``."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(gradient) or functorch.is_legacy_batchedtensor(gradient)


def _cell(name: str, weights: Weights) -> Cell:
    """The cell whose kernel is ``name``, over these very tensors; nothing is drawn or registered."""
    kind = KINDS[name.partition("_")[0]]
    cell = kind.__new__(kind)
    nn.Module.__init__(cell)
    cell._parameters.update(cast(dict[str, nn.Parameter | None], weights._asdict()))
    cell.input_size = weights.weight_ih.shape[1]
    cell.hidden_size = weights.weight_ih.shape[0] // cell.gates
    if isinstance(cell, Elman):
        cell.activation = name.partition("_")[2]
    return cell


def _by_reference(
    name: str,
    lengths: Optional,
    resets: Optional,
    reverse: bool,
    tensors: Sequence[Optional],
    wanted: Sequence[bool],
    d_states: Sequence[Optional],
    d_final: Sequence[Optional],
    norms: Sequence[Tensor] | None,
) -> tuple[Optional, ...]:
    """The gradients as a differentiable function of the inputs and of the gradients that came in.

    They are taken in aliases of the inputs, since an input may have been computed from another one.
    """
    later = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [t if t is None else t.view_as(t) for t in tensors]
        for alias, want in zip(tensors, wanted, strict=True):
            if want and alias is not None and not alias.requires_grad:
                alias.requires_grad_()
        return _differentiate(
            name, lengths, resets, reverse, tensors, wanted, d_states, d_final, norms, later
        )


def _differentiate(
    name: str,
    lengths: Optional,
    resets: Optional,
    reverse: bool,
    tensors: Sequence[Optional],
    wanted: Sequence[bool],
    d_states: Sequence[Optional],
    d_final: Sequence[Optional],
    norms: Sequence[Tensor] | None,
    create_graph: bool,
) -> tuple[Optional, ...]:
    x, *start = (t for i, t in enumerate(tensors) if t is not None and (i == 0 or i > 4))
    cell = _cell(name, Weights(*cast(Sequence[Tensor], tensors[1:5])))
    states, final = reference.scan(
        cell,
        x,
        tuple(start) if start else None,
        lengths=lengths,
        resets=resets,
        reverse=reverse,
        norms=norms,
    )
    pairs = [
        (y, d)
        for y, d in zip((*states, *final), (*d_states, *d_final), strict=True)
        if d is not None and y.requires_grad  # with lengths of 0 alone nothing depends on anything
    ]
    sources = [t for t, want in zip(tensors, wanted, strict=True) if want and t is not None]
    if not pairs:
        zeros = iter([torch.zeros_like(source) for source in sources])
        return tuple(next(zeros) if want else None for want in wanted)
    found = iter(
        torch.autograd.grad(
            [y for y, _ in pairs],
            sources,
            [d for _, d in pairs],
            create_graph=create_graph,
            materialize_grads=True,
        )
    )
    return tuple(next(found) if want else None for want in wanted)


# --- The operators -------------------------------------------------------------------------------

_LIBRARY: Any = torch.library.Library("unrolled", "FRAGMENT")  # type: ignore[no-untyped-call]
_WEIGHTS = "Tensor x, Tensor weight_ih, Tensor? weight_hh, Tensor? bias_ih, Tensor? bias_hh"
_GIVEN = f"str name, {_WEIGHTS}, Tensor[] start, Tensor? lengths, Tensor? resets, bool reverse"
_LIBRARY.define(f"forward({_GIVEN}, bool every, bool keep) -> Tensor[]")
_LIBRARY.define(
    f"backward({_GIVEN}, Tensor[] states, Tensor kept, Tensor?[] d_states, Tensor?[] d_final, "
    "bool[] wanted, bool norms) -> Tensor[]"
)


def _forward_operator() -> Callable[..., Sequence[Tensor]]:
    """The operator where something looks on (a compiler, a dispatch mode), else the bare function."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return torch.ops.unrolled.forward.default
    return _forward


def _backward_operator() -> Callable[..., Sequence[Tensor]]:
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return torch.ops.unrolled.backward.default
    return _backward


_work_sizes: dict[tuple[object, ...], tuple[int, int]] = {}


def _sizes(
    kernel: library.Kernel, call: bytes, key: tuple[object, ...], backward: bool, ragged: bool
) -> tuple[int, int]:
    """Bytes of scratch and of packed weights that a call needs; the same for the same shapes."""
    found = None if ragged else _work_sizes.get(key)
    if found is None:
        found = kernel.work_bytes(call, backward), 0 if backward else kernel.packed_bytes(call)
        found = ((found[0] + 63) // 64 * 64, (found[1] + 63) // 64 * 64)
        if not ragged:  # with lengths it depends on each of them
            if len(_work_sizes) > 1000:
                _work_sizes.clear()
            _work_sizes[key] = found
    return found


_SCRATCH = threading.local()
_SCRATCH_KEPT = 128 * 2**20


def _scratch(count: int) -> Tensor:
    """So many bytes for one call of this thread.

    The same memory serves call after call, since page faults of new memory cost more than what is
    written there; but above 128 MiB it is given back when the call has ended.
    """
    memory: Tensor | None = getattr(_SCRATCH, "memory", None)
    if memory is None or memory.numel() < count:
        memory = torch.empty(count, dtype=torch.uint8, device="cpu")
        if count <= _SCRATCH_KEPT:
            _SCRATCH.memory = memory
    return memory


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _four(tensors: Sequence[Tensor | None]) -> list[int]:
    return [_pointer(t) for t in tensors] + [0] * (STATES - len(tensors))


def _dense(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def _written(gradient: Optional) -> Optional:
    """``gradient`` with its numbers in memory: PyTorch may put off a change of sign, or zeros."""
    if gradient is None or not (gradient.is_neg() or gradient._is_zerotensor()):
        return gradient
    return torch.zeros(gradient.shape, dtype=gradient.dtype, device="cpu") + gradient


_NONE = [0] * STATES


class _Given:
    """What both calls pass alike; holds every tensor whose address was taken."""

    def __init__(
        self,
        name: str,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Optional,
        bias_ih: Optional,
        bias_hh: Optional,
        start: Sequence[Tensor],
        lengths: Optional,
        resets: Optional,
    ) -> None:
        self.kernel = kernel = library.kernel(name, x.dtype)
        steps, lanes, inputs = x.shape
        self.weight_hh = _dense(weight_hh)
        units = weight_ih.shape[0] // kernel.projected
        self.sizes = (steps, lanes, inputs, units)
        self.x, self.weight_ih = x if x.stride(-1) == 1 else x.contiguous(), _dense(weight_ih)
        self.bias_ih, self.bias_hh = _dense(bias_ih), _dense(bias_hh)
        self.start = [_dense(s) for s in start]
        self.lengths = None
        self.real = steps * lanes
        if lengths is not None:
            lengths = lengths.to("cpu", torch.int64).contiguous()
            least, most = (int(n) for n in lengths.aminmax())
            if least < 0 or most > steps:  # which a compiled caller could not see before
                raise ValueError(f"lengths: got {least} to {most}, expected from 0 to T = {steps}")
            if least < steps:
                self.lengths, self.real = lengths, int(lengths.sum())
        self.resets = None if resets is None else resets.to("cpu", torch.uint8).contiguous()
        biases = {"bias_ih": self.bias_ih, "bias_hh": self.bias_hh}
        added = [biases[n] for n in kernel.biases]
        self.vectors = biases[kernel.vectors] if kernel.vectors else None
        x_step, x_lane, _ = self.x.stride()
        self.fields = [
            *(self.x.data_ptr(), x_step, x_lane, _pointer(self.lengths), _pointer(self.resets)),
            *(_pointer(self.weight_ih), *(_four(added)[:2])),
            *(_pointer(self.weight_hh), _pointer(self.vectors), *_four(self.start)),
        ]


def _forward(
    name: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Optional,
    bias_ih: Optional,
    bias_hh: Optional,
    start: Sequence[Tensor],
    lengths: Optional,
    resets: Optional,
    reverse: bool,
    every: bool,
    keep: bool,
) -> list[Tensor]:
    given = _Given(name, x, weight_ih, weight_hh, bias_ih, bias_hh, start, lengths, resets)
    kernel, (steps, lanes, _, units) = given.kernel, given.sizes
    every = every or keep
    states = [
        x.new_empty((steps, lanes, units) if every or s == 0 else (lanes, units))
        for s in range(kernel.states)
    ]
    final = [x.new_empty(lanes, units) for _ in range(kernel.states)]
    slots = (steps * lanes, kernel.slots, units)
    number = torch.get_num_threads()
    head = [*given.sizes, number, reverse, keep, 0, *given.fields, *_four(states), every]
    head += _four(final)
    tail = [*_NONE * 4, *[0] * 5, *_NONE * 2]
    bare = FIELDS.pack(*head, 0, 0, 0, *tail)
    key = (id(kernel), number, keep, every, *given.sizes)
    work, packed = _sizes(kernel, bare, key, False, given.lengths is not None)
    shown = states if every else states[:1]
    if not keep:
        scratch = _scratch(work + packed + math.prod(slots) * x.itemsize)
        address = scratch.data_ptr()
        kernel.forward(FIELDS.pack(*head, address + work + packed, address + work, address, *tail))
        return [*shown, *final]
    kept = x.new_empty(slots)
    scratch = _scratch(work + packed)
    address = scratch.data_ptr()
    kernel.forward(FIELDS.pack(*head, kept.data_ptr(), address + work, address, *tail))
    kept[given.real :].zero_()  # so that equal calls give equal tensors
    return [*shown, *final, kept]


def _backward(
    name: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Optional,
    bias_ih: Optional,
    bias_hh: Optional,
    start: Sequence[Tensor],
    lengths: Optional,
    resets: Optional,
    reverse: bool,
    states: Sequence[Tensor],
    kept: Tensor,
    d_states: Sequence[Optional],
    d_final: Sequence[Optional],
    wanted: Sequence[bool],
    norms: bool,
) -> list[Tensor]:
    """Gradients of x, the weights and the start, empty where not wanted; then norms, if wanted."""
    given = _Given(name, x, weight_ih, weight_hh, bias_ih, bias_hh, start, lengths, resets)
    kernel, (steps, lanes, *_) = given.kernel, given.sizes
    d_states = [
        d if d is None or d.stride(-1) == 1 else d.contiguous() for d in map(_written, d_states)
    ]
    d_final = [_dense(d) for d in map(_written, d_final)]
    tensors = (x, weight_ih, weight_hh, bias_ih, bias_hh, *start)
    results = [
        torch.empty(t.shape, dtype=x.dtype, device="cpu")
        if want and t is not None
        else x.new_empty(0)
        for t, want in zip(tensors, wanted, strict=True)
    ]
    asked = [r if want else None for r, want in zip(results, wanted, strict=True)]
    d_x, d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh, *d_start = asked
    biases = {"bias_ih": d_bias_ih, "bias_hh": d_bias_hh}
    summed = [d for d in (biases[n] for n in kernel.biases) if d is not None]
    d_vectors = biases[kernel.vectors] if kernel.vectors else None
    found = [x.new_empty(steps, lanes) for _ in range(kernel.states)] if norms else []
    number = torch.get_num_threads()
    strides = [(0, 0) if d is None else d.stride()[:2] for d in d_states]
    strides += [(0, 0)] * (STATES - len(strides))
    head = [*given.sizes, number, reverse, 1, 0, *given.fields, *_four(states), 1, *_NONE]
    head += [kept.data_ptr(), 0]
    tail = [*_four(d_states), *(s for s, _ in strides), *(s for _, s in strides), *_four(d_final)]
    tail += [_pointer(d_x), _pointer(d_weight_ih), _pointer(summed[0] if summed else None)]
    tail += [_pointer(d_weight_hh), _pointer(d_vectors), *_four(d_start), *_four(found)]
    bare = FIELDS.pack(*head, 0, *tail)
    key = (id(kernel), number, norms, *given.sizes)
    work, _ = _sizes(kernel, bare, key, True, given.lengths is not None)
    scratch = _scratch(work)
    kernel.backward(FIELDS.pack(*head, scratch.data_ptr(), *tail))
    for other in summed[1:]:
        other.copy_(summed[0])
    return [*results, *found]


class Step:
    """One layer, one step a call, without gradient: every address is fixed and every weight packed.

    Args:
        name: the kernel.
        weights: the layer's, as they are now: they are packed at the first step.
        lanes: B.
        below: the layer whose output this one reads; by default ``x`` is for the caller to fill.
    """

    def __init__(
        self, name: str, weights: Weights, lanes: int, below: "Step | None" = None
    ) -> None:
        weight = weights.weight_ih
        self.kernel = kernel = library.kernel(name, weight.dtype)
        units = weight.shape[0] // kernel.projected
        empty = partial(torch.zeros, dtype=weight.dtype, device="cpu")
        self.x = empty(lanes, weight.shape[1])
        self.outputs = (empty(lanes, units), empty(lanes, units))  # read and written in turn
        self.others = [empty(lanes, units) for _ in range(kernel.states - 1)]
        self.turn = 0
        bare_weights = Weights(
            weight.detach(), *(w if w is None else w.detach() for w in weights[1:])
        )
        self._given = [
            _Given(
                name,
                (self.x if below is None else below.outputs[1 - turn]).unsqueeze(0),
                *bare_weights,
                start=[self.outputs[turn], *self.others],
                lengths=None,
                resets=None,
            )
            for turn in (0, 1)
        ]
        kept = empty(lanes, kernel.slots, units)
        sizes = self._given[0].sizes
        tail = [*_NONE * 4, *[0] * 5, *_NONE * 2]

        def call(turn: int, ready: bool, packed: int, work: int) -> bytes:
            states = [self.outputs[1 - turn], *self.others]
            head = [*sizes, torch.get_num_threads(), 0, 0, ready, *self._given[turn].fields]
            head += [*_four(states), 0, *_NONE, kept.data_ptr(), packed, work]
            return FIELDS.pack(*head, *tail)

        bare = call(0, False, 0, 0)
        work = kernel.work_bytes(bare, 0)
        scratch = torch.empty(work + kernel.packed_bytes(bare), dtype=torch.uint8, device="cpu")
        address = scratch.data_ptr()
        self._calls = [
            [call(turn, ready, address + work, address) for turn in (0, 1)]
            for ready in (False, True)
        ]
        self._memory = (kept, scratch)
        self._packed = False

    def run(self) -> Tensor:
        """Take a step; the output is overwritten by the step after the next."""
        turn = self.turn
        self.kernel.forward(self._calls[self._packed][turn])
        self._packed = True
        self.turn = 1 - turn
        return self.outputs[1 - turn]

    @property
    def state(self) -> State:
        """The state tensors themselves, each ``[B, size]``, until the next step."""
        return (self.outputs[self.turn], *self.others)


def _shapes_forward(
    name: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Optional,
    bias_ih: Optional,
    bias_hh: Optional,
    start: Sequence[Tensor],
    lengths: Optional,
    resets: Optional,
    reverse: bool,
    every: bool,
    keep: bool,
) -> list[Tensor]:
    kernel = library.kernel(name, x.dtype)
    steps, lanes, _ = x.shape
    units = weight_ih.shape[0] // kernel.projected
    states = [
        x.new_empty(steps, lanes, units) for _ in range(kernel.states if every or keep else 1)
    ]
    final = [x.new_empty(lanes, units) for _ in range(kernel.states)]
    kept = [x.new_empty(steps * lanes, kernel.slots, units)] if keep else []
    return [*states, *final, *kept]


def _shapes_backward(
    name: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Optional,
    bias_ih: Optional,
    bias_hh: Optional,
    start: Sequence[Tensor],
    lengths: Optional,
    resets: Optional,
    reverse: bool,
    states: Sequence[Tensor],
    kept: Tensor,
    d_states: Sequence[Optional],
    d_final: Sequence[Optional],
    wanted: Sequence[bool],
    norms: bool,
) -> list[Tensor]:
    tensors = (x, weight_ih, weight_hh, bias_ih, bias_hh, *start)
    results = [
        x.new_empty(t.shape) if want and t is not None else x.new_empty(0)
        for t, want in zip(tensors, wanted, strict=True)
    ]
    return results + [x.new_empty(x.shape[:2]) for _ in states if norms]


_LIBRARY.impl("forward", _forward, "CPU")
_LIBRARY.impl("backward", _backward, "CPU")
torch.library.register_fake("unrolled::forward", _shapes_forward, lib=_LIBRARY)
torch.library.register_fake("unrolled::backward", _shapes_backward, lib=_LIBRARY)
