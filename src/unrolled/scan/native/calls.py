"""Calls of a kernel: tensors in, the C interface's call, tensors out; as PyTorch operators, or a step.

Shapes and dtypes have been checked by ``unrolled.scan.native``, but for the values of lengths, which a
compiled caller cannot know.
"""

import math
import threading
from collections.abc import Callable, Sequence
from ctypes import Array, addressof
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.scan.native import interface, library

Optional = Tensor | None


class Weights(NamedTuple):
    """The parameters of a cell as its kernel takes them; names as in ``torch.nn``."""

    weight_ih: Tensor | None
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None


_LIBRARY: Any = torch.library.Library("unrolled", "FRAGMENT")  # type: ignore[no-untyped-call]
_WEIGHTS = "Tensor x, Tensor? weight_ih, Tensor? weight_hh, Tensor? bias_ih, Tensor? bias_hh"
_GIVEN = f"str name, {_WEIGHTS}, Tensor[] start, Tensor? lengths, Tensor? resets, "
_GIVEN += "Tensor? batch_sizes, Tensor? noise, bool reverse"
_LIBRARY.define(f"forward({_GIVEN}, bool every, bool keep) -> Tensor[]")
_LIBRARY.define(
    f"backward({_GIVEN}, Tensor[] states, Tensor kept, Tensor?[] d_states, Tensor?[] d_final, "
    "bool[] wanted, bool norms, float? clip) -> Tensor[]"
)


Function = TypeVar("Function", bound=Callable[..., object])


def constant_in_graphs(function: Function) -> Function:
    """Let a compiler call ``function`` once, and take what it returns for a constant of its graph.

    As ``torch.compiler.assume_constant_result``, which imports all of Dynamo: a second's work.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def operator(name: str, function: Function) -> Function:
    """The operator ``name`` where a compiler or a dispatch mode sees it, else its bare ``function``."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return getattr(torch.ops.unrolled, name).default  # type: ignore[no-any-return]
    return function


_work_sizes: dict[tuple[object, ...], tuple[int, int]] = {}


def _sizes(
    kernel: library.Kernel,
    call: interface.Call,
    key: tuple[object, ...],
    backward: bool,
    ragged: bool,
) -> tuple[int, int]:
    """Bytes of scratch and of packed weights that a call needs; the same for the same shapes."""
    found = None if ragged else _work_sizes.get(key)
    if found is None:
        address = addressof(call)
        work, packed = (
            kernel.work_bytes(address, backward),
            0 if backward else kernel.packed_bytes(address),
        )
        found = ((work + 63) // 64 * 64, (packed + 63) // 64 * 64)
        if not ragged:  # with lengths it depends on each of them
            if len(_work_sizes) > 1000:
                _work_sizes.clear()
            _work_sizes[key] = found
    return found


_SCRATCH = threading.local()
_SCRATCH_KEPT = 128 * 2**20


def scratch(count: int) -> Tensor:
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


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _point(pointers: "Array[Any]", tensors: Sequence[Tensor | None]) -> None:
    """Let ``pointers`` be those of ``tensors``; what is beyond them stays null."""
    for i, tensor in enumerate(tensors):
        if tensor is not None:
            pointers[i] = tensor.data_ptr()


def _dense(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def _written(gradient: Optional) -> Optional:
    """``gradient`` with its numbers in memory: PyTorch may put off a change of sign, or zeros."""
    if gradient is None or not (gradient.is_neg() or gradient._is_zerotensor()):
        return gradient
    return torch.zeros(gradient.shape, dtype=gradient.dtype, device="cpu") + gradient


def _strides(tensor: Tensor, batch_size: int) -> tuple[int, int]:
    """From step to step and sequence to sequence of ``[T, B, size]``, or of packed rows ``[R, size]``."""
    step, *sequence, _ = tensor.stride()
    return (step, sequence[0]) if sequence else (batch_size * step, step)


def check_packed(batch_sizes: Tensor, batch_size: int, rows: int) -> None:
    """Refuse ``batch_sizes`` that do not describe so many packed rows of so many sequences.

    Raises:
        RuntimeError: as in ``torch.nn``.
    """
    total = int(batch_sizes.sum())
    falls = int(batch_sizes[0]) == batch_size and bool((batch_sizes.diff() <= 0).all())
    if total != rows or not falls or int(batch_sizes[-1]) < 1:
        raise RuntimeError(
            f"input: got {rows} rows of data and batch_sizes whose sum is {total}; expected batch_sizes "
            f"that never rise from the first, {batch_size}, and whose sum is the number of rows"
        )


def _unpacked(batch_sizes: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Of packed rows: each sequence's length, and each step's first row."""
    lengths = (torch.arange(batch_size, device="cpu") < batch_sizes.unsqueeze(1)).sum(0)
    return lengths, batch_sizes.cumsum(0) - batch_sizes


class _Given:
    """A call with what both passes set alike; holds every tensor whose address was taken."""

    def __init__(
        self,
        name: str,
        x: Tensor,
        weight_ih: Optional,
        weight_hh: Optional,
        bias_ih: Optional,
        bias_hh: Optional,
        start: Sequence[Tensor],
        lengths: Optional,
        resets: Optional,
        batch_sizes: Optional = None,
        noise: Optional = None,
    ) -> None:
        self.kernel = kernel = library.kernel(name, x.dtype)
        *self.rows, inputs = x.shape  # T and B, or R of packed rows
        self.count = self.real = math.prod(self.rows)
        steps, batch_size = self.rows if batch_sizes is None else (len(batch_sizes), len(start[0]))
        self.weight_hh = _dense(weight_hh)
        units = kernel.units(inputs, weight_ih)
        self.sizes = (steps, batch_size, inputs, units)
        self.x, self.weight_ih = x if x.stride(-1) == 1 else x.contiguous(), _dense(weight_ih)
        self.bias_ih, self.bias_hh = _dense(bias_ih), _dense(bias_hh)
        self.start = [_dense(s) for s in start]
        self.lengths = self.offsets = None
        if batch_sizes is not None:
            check_packed(batch_sizes, batch_size, len(x))
            if self.real < steps * batch_size:
                self.lengths, self.offsets = _unpacked(batch_sizes, batch_size)
        elif lengths is not None:
            lengths = lengths.to("cpu", torch.int64).contiguous()
            least, most = (int(n) for n in lengths.aminmax())
            if least < 0 or most > steps:  # which a compiled caller could not see before
                raise ValueError(f"lengths: got {least} to {most}, expected from 0 to T = {steps}")
            if least < steps:
                self.lengths, self.real = lengths, int(lengths.sum())
        self.resets = None if resets is None else resets.to("cpu", torch.uint8).contiguous()
        biases = {"bias_ih": self.bias_ih, "bias_hh": self.bias_hh}
        self.noise = noise if noise is None or noise.stride(-1) == 1 else noise.contiguous()
        self.call = call = interface.Call()
        call.steps, call.batch, call.inputs, call.units = self.sizes
        call.threads = torch.get_num_threads()
        call.x = self.x.data_ptr()
        call.x_step, call.x_batch = _strides(self.x, batch_size)
        call.lengths, call.offsets = _pointer(self.lengths), _pointer(self.offsets)
        call.resets = _pointer(self.resets)
        if self.noise is not None:
            step, call.noise_batch = _strides(self.noise, batch_size)
            call.noise, call.noise_step = self.noise.data_ptr(), step if len(self.noise) > 1 else 0
        call.weight_in, call.weight = _pointer(self.weight_ih), _pointer(self.weight_hh)
        _point(call.bias, [biases[name] for name in kernel.biases])
        call.vectors = _pointer(biases[kernel.vectors]) if kernel.vectors else None
        _point(call.initial, self.start)


def _gradients(inputs: Sequence[Any], wanted: Sequence[bool]) -> list[Tensor]:
    """Memory for the gradients of x, the weights and the start, empty where not ``wanted``."""
    _, x, *weights, start = inputs[:7]
    pairs = zip((x, *weights, *start), wanted, strict=True)
    return [x.new_empty(t.shape if want and t is not None else 0) for t, want in pairs]


def forward(*arguments: Any) -> list[Tensor]:
    """The states at every step, or the outputs alone; the final states; what is kept, if anything is."""
    *inputs, reverse, every, keep = arguments
    given = _Given(*inputs)
    kernel, (_, batch_size, _, units), x = given.kernel, given.sizes, given.x
    every = every or keep or kernel.staged  # whose stages read all states before the step
    states = [
        x.new_empty((*given.rows, units) if every or s == 0 else (batch_size, units))
        for s in range(kernel.states)
    ]
    final = [x.new_empty(batch_size, units) for _ in range(kernel.states)]
    slots = (given.count, kernel.slots, units)
    call = given.call
    call.reverse, call.keep, call.every = reverse, keep, every
    _point(call.states, states)
    _point(call.finals, final)
    key = (id(kernel), call.threads, keep, every, *given.sizes)
    work, packed = _sizes(kernel, call, key, False, given.lengths is not None)
    shown = states if arguments[-2] or keep else states[:1]
    kept = x.new_empty(slots) if keep else None
    memory = scratch(work + packed + (0 if keep else math.prod(slots) * x.itemsize))
    call.work = address = memory.data_ptr()
    call.packed = address + work
    call.kept = address + work + packed if kept is None else kept.data_ptr()
    kernel.forward(addressof(call))
    if kept is None:
        return [*shown, *final]
    if given.real < given.count:
        kept[given.real :].zero_()  # so that equal calls give equal tensors
    return [*shown, *final, kept]


def backward(*arguments: Any) -> list[Tensor]:
    """Gradients of x, the weights and the start, empty where not wanted; then norms, if wanted."""
    *inputs, reverse, states, kept, d_states, d_final, wanted, norms, clip = arguments
    given = _Given(*inputs)
    kernel, (steps, batch_size, *_), x = given.kernel, given.sizes, given.x
    d_states = [
        d if d is None or d.stride(-1) == 1 else d.contiguous() for d in map(_written, d_states)
    ]
    d_final = [_dense(d) for d in map(_written, d_final)]
    results = _gradients(inputs, wanted)
    asked = (r if want else None for r, want in zip(results, wanted, strict=True))
    d_x, d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh, *d_start = asked
    biases = {"bias_ih": d_bias_ih, "bias_hh": d_bias_hh}
    summed = [d for d in (biases[n] for n in kernel.biases) if d is not None]
    found = [x.new_empty(steps, batch_size) for _ in range(kernel.states)] if norms else []
    call = given.call
    call.reverse, call.keep, call.every, call.kept = reverse, True, True, kept.data_ptr()
    _point(call.states, states)
    _point(call.d_states, d_states)
    for i, d in enumerate(d_states):
        if d is not None:
            call.d_step[i], call.d_batch[i] = _strides(d, batch_size)
    _point(call.d_finals, d_final)
    call.d_x, call.d_weight_in, call.d_weight = map(_pointer, (d_x, d_weight_ih, d_weight_hh))
    call.d_bias = summed[0].data_ptr() if summed else None
    call.d_vectors = _pointer(biases[kernel.vectors]) if kernel.vectors else None
    _point(call.d_initial, d_start)
    _point(call.norms, found)
    call.clip = clip or 0.0
    key = (id(kernel), call.threads, norms or clip is not None, *given.sizes)
    work, _ = _sizes(kernel, call, key, True, given.lengths is not None)
    memory = scratch(work)
    call.work = memory.data_ptr()
    kernel.backward(addressof(call))
    for other in summed[1:]:
        other.copy_(summed[0])
    return [*results, *found]


class StepKernel(NamedTuple):
    """What takes the steps of one cell."""

    name: str
    """The kernel."""
    weights: Weights
    """The cell's, as they are now."""
    units: int
    """H."""
    project: Callable[[Tensor], Tensor] | None = None
    """What the kernel reads of x, where it does not project itself."""
    read: Callable[[State], Tensor] | None = None
    """What the cell shows of its states, where that is not the first."""


class Step:
    """One layer, one step a call, without gradient: every address is fixed and every weight packed.

    Args:
        given: the kernel and the weights, which are packed at the first step.
        batch_size: B.
        dtype: of everything.
        below: the layer whose output this one reads, if neither ``project`` nor ``read`` come between;
            by default ``enter`` is told what to read.
    """

    def __init__(
        self, given: StepKernel, batch_size: int, dtype: torch.dtype, below: "Step | None" = None
    ) -> None:
        name, weights, units, self.project, self.read = given
        weight = weights.weight_ih
        if self.project is not None or (below is not None and below.read is not None):
            below = None
        self.is_fed = below is not None
        self.kernel = kernel = library.kernel(name, dtype)
        empty = partial(torch.zeros, dtype=dtype, device="cpu")
        self.x = empty(batch_size, units * kernel.projected if weight is None else weight.shape[1])
        # Read and written in turn.
        self.states = [[empty(batch_size, units) for _ in range(kernel.states)] for _ in (0, 1)]
        self.outputs = (self.states[0][0], self.states[1][0])
        self.turn = 0
        bare_weights = Weights(*(w if w is None else w.detach() for w in weights))
        self._given = [
            _Given(
                name,
                (self.x if below is None else below.outputs[1 - turn]).unsqueeze(0),
                *bare_weights,
                start=self.states[turn],
                lengths=None,
                resets=None,
            )
            for turn in (0, 1)
        ]
        kept = empty(batch_size, kernel.slots, units)
        self._calls = tuple(given.call for given in self._given)
        self._addresses = tuple(map(addressof, self._calls))
        for turn, call in enumerate(self._calls):
            _point(call.states, self.states[1 - turn])
            call.kept = kept.data_ptr()
        work = kernel.work_bytes(self._addresses[0], 0)
        packed = kernel.packed_bytes(self._addresses[0])
        memory = torch.empty(work + packed, dtype=torch.uint8, device="cpu")
        for call in self._calls:
            call.work, call.packed = memory.data_ptr(), memory.data_ptr() + work
        self._memory = (kept, memory)
        self._is_packed = False

    def enter(self, x: Tensor) -> None:
        """Read ``x`` ``[b, D]`` at the next step, in the first b of the B rows."""
        self.x[: len(x)] = x if self.project is None else self.project(x)

    def advance(self) -> None:
        """Take a step."""
        self.kernel.forward(self._addresses[self.turn])
        if not self._is_packed:
            self._is_packed = True
            for call in self._calls:
                call.packed_ready = 1
        self.turn = 1 - self.turn

    def run(self, rows: int) -> Tensor:
        """Take a step; the output of the first ``rows``, to be overwritten by the step after the next."""
        self.advance()
        if self.read is None:
            return self.outputs[self.turn][:rows]
        return self.read(tuple(s[:rows] for s in self.states[self.turn]))

    @property
    def state(self) -> State:
        """The state tensors themselves, each ``[B, size]``, until the next step."""
        return tuple(self.states[self.turn])


def _shapes_forward(*arguments: Any) -> list[Tensor]:
    name, x, weight_ih, *_, every, keep = arguments
    kernel = library.kernel(name, x.dtype)
    rows = x.shape[:-1]
    batch_size = rows[1] if len(rows) == 2 else arguments[6][0].shape[0]
    units = kernel.units(x.shape[-1], weight_ih)
    states = [x.new_empty(*rows, units) for _ in range(kernel.states if every or keep else 1)]
    final = [x.new_empty(batch_size, units) for _ in range(kernel.states)]
    kept = [x.new_empty(math.prod(rows), kernel.slots, units)] if keep else []
    return [*states, *final, *kept]


def _shapes_backward(*arguments: Any) -> list[Tensor]:
    *inputs, _, states, _, _, _, wanted, norms, _ = arguments
    x: Tensor = inputs[1]
    return _gradients(inputs, wanted) + [x.new_empty(x.shape[:-1]) for _ in states if norms]


_LIBRARY.impl("forward", forward, "CPU")
_LIBRARY.impl("backward", backward, "CPU")
torch.library.register_fake("unrolled::forward", _shapes_forward, lib=_LIBRARY)
torch.library.register_fake("unrolled::backward", _shapes_backward, lib=_LIBRARY)
