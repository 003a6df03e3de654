"""The scan by a compiled kernel: whether there is one for a call, and its place in autograd.

Everything is checked before a pointer is passed: shapes and dtypes by the layers and by
``unsupported_reasons``, the rest here. The operators are opaque to ``torch.compile`` and ``torch.export``;
the gradient of the gradient goes through the reference.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from unrolled.cells import GRU, LSTM, Cell, Elman, State
from unrolled.cells.cell import GatedCell
from unrolled.scan import jit, library, onnx, reference
from unrolled.scan.computed import hooked
from unrolled.scan.operators import (
    Optional,
    Weights,
    backward_operator,
    constant_in_graphs,
    forward_operator,
)

KINDS: dict[str, type[GatedCell]] = {str(kind.kernel): kind for kind in (Elman, LSTM, GRU)}


# --- Which kernel, and why not -------------------------------------------------------------------


def kind_of(cell: Cell) -> type[Cell]:
    """The class of ``cell``; of a parametrised one, the class it had before."""
    kind = type(cell)
    return kind.__bases__[0] if is_parametrized(cell) else kind


def kernel_name(cell: Cell) -> str | None:
    """The kernel that computes what ``cell`` does, if there is one."""
    if isinstance(cell, GatedCell) and cell.extras:
        return None
    kernel = kind_of(cell).kernel
    if kernel is not None and isinstance(cell, Elman):
        return f"{kernel}_{cell.activation}" if isinstance(cell.activation, str) else None
    return kernel


def reasons_of_cell(
    cell: Cell, dtype: torch.dtype = torch.float32, *, compiled: bool = True
) -> list[str]:
    """Why no kernel computes what ``cell`` does: a line each, none if one does.

    It is compiled now if need be, unless not ``compiled``.
    """
    if kernel_name(cell) is not None:
        return []
    if torch.compiler.is_compiling():
        if is_operator(cell):
            return []
        return ["torch.compile is on, and takes a cell of your own by the reference"]
    for name in hooked(cell):
        return [
            f"{f'its {name}' if name else 'it'} has hooks, which a kernel of your own cell would not run"
        ]
    reason = jit.built(cell, dtype) if compiled else jit.unsupported_reason(cell, dtype)
    return [] if reason is None else [reason]


def is_operator(cell: Cell) -> bool:
    """Whether ``torch.onnx.export`` is at work, and ONNX has an operator for a cell without a kernel."""
    return (
        onnx.is_exporting()
        and isinstance(cell, GatedCell)
        and not cell.extras
        and onnx.is_form(cast(type[GatedCell], kind_of(cell)))
    )


def reasons_of_tensors(x: Tensor, *others: Tensor | None) -> list[str]:
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


def is_transformed(*tensors: Tensor) -> bool:
    """Whether a transform of ``torch.func`` is at work, or one of these has a forward-mode tangent."""
    functorch, forward = torch._C._functorch, torch.autograd.forward_ad
    if functorch.peek_interpreter_stack() is not None:
        return True
    if any(functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors):
        return True
    if forward._current_level < 0:
        return False
    return any(
        forward.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
    )


def is_vmapped() -> bool:
    """Whether ``torch.vmap`` is at work."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


@constant_in_graphs
def missing() -> str | None:
    """Why there is no kernel library, in one line; None if there is one."""
    return library.missing()


def instruction_set() -> str:
    """The instruction set whose kernels run: "avx512", "avx2", "neon" or "serial"."""
    return library.instruction_set()


def threads() -> int:
    """How many threads a kernel uses at most: as many as PyTorch."""
    return torch.get_num_threads()


def unsupported_reasons(cell: Cell, x: Tensor, state: Sequence[Tensor] = ()) -> list[str]:
    """Every reason why the kernel cannot take this call, a line each; none if it can."""
    absent = missing()
    if absent is not None:
        return [absent]
    if kernel_name(cell) is None:
        buffers = (buffer for buffer in cell.buffers() if buffer.is_floating_point())
        reasons = reasons_of_tensors(x, *cell.parameters(), *buffers, *state)
        return reasons or reasons_of_cell(cell, x.dtype)
    built_in = cast(GatedCell, cell)  # a weight need not be a parameter: it may be computed
    weights = (built_in.weight_ih, built_in.weight_hh, built_in.bias_ih, built_in.bias_hh)
    return reasons_of_tensors(x, *weights, *state)


def kernel_of(cell: Cell) -> tuple[str, Weights] | None:
    """The kernel of ``cell``, which there is, and its weights now; ``None`` if a scan does more.

    More than the kernel: a projection that is not x weightᵀ + biases, or a ``read``.
    """
    name = kernel_name(cell)
    if name is not None:
        return name, _weights(cell, name)
    recipe = jit.recipe(cell)
    if isinstance(recipe, str) or not recipe.is_projected or type(cell).read is not Cell.read:
        return None
    return recipe.name, recipe.tensors(cell)


def _weights(cell: Cell, name: str) -> Weights:
    """The weights of a built-in cell."""
    built_in = cast(GatedCell, cell)
    weights = Weights(built_in.weight_ih, built_in.weight_hh, built_in.bias_ih, built_in.bias_hh)
    if name != "gru" and (weights.bias_ih is None or weights.bias_hh is None):
        weights = weights._replace(bias_ih=None, bias_hh=None)  # as GatedCell.bias() has it
    return weights


# --- The call ------------------------------------------------------------------------------------


def check_weights(
    name: str,
    weights: Weights,
    inputs: int,
    units: int,
    names: Sequence[str] = Weights._fields,
    projected: int = 0,
) -> None:
    """Refuse weights that are not what the kernel ``name`` reads for D ``inputs`` and H ``units``.

    Or where W meets an h that is ``projected``, of so many.
    """
    rows = KINDS[name.partition("_")[0]].gates * units
    expected = ((rows, inputs), (rows, projected or units), (rows,), (rows,))
    for k, (weight, shape) in enumerate(zip(weights, expected, strict=True)):
        if weight is None and k < 2:
            raise ValueError(f"{names[k]}: got None, expected {list(shape)}")
        if weight is not None and weight.shape != shape:
            raise ValueError(f"{names[k]}: got shape {list(weight.shape)}, expected {list(shape)}")


def scan(
    cell: Cell,
    x: Tensor,
    state: State | None,
    *,
    noise: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    return_states: bool,
    norms: Sequence[Tensor] | None,
    clip: float | None = None,
) -> tuple[State, State]:
    """As ``unrolled.scan.scan`` with a kernel; returns the states at every step, and the final ones."""
    name = kernel_name(cell)
    options: dict[str, Any] = {
        "lengths": lengths,
        "resets": resets,
        "noise": noise,
        "reverse": reverse,
        "return_states": return_states,
        "norms": norms,
    }
    if name is None and torch.compiler.is_compiling():  # and is_operator(cell)
        gated = cast(GatedCell, cell)
        weights = Weights(gated.weight_ih, gated.weight_hh, gated.bias_ih, gated.bias_hh)
        kind = cast(type[GatedCell], kind_of(cell))
        return onnx.run(kind, "", x, state, weights, **options)
    if name is None:
        recipe = jit.recipe(cell)
        assert isinstance(recipe, jit.Recipe)
        name, weights = recipe.name, recipe.tensors(cell, x)
        if noise is not None:
            options["noise"] = noise = noise.to(x.dtype)
        recipe.check_noise(cell, noise)
        x = x if recipe.is_projected else recipe.projected(cell, x, lengths)
    else:
        weights = _weights(cell, name)
        check_weights(name, weights, cell.input_size, cell.hidden_size)
    return run(name, x, state, weights, clip=clip, **options)


def run(
    name: str,
    x: Tensor,
    state: State | None,
    weights: Weights,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    noise: Tensor | None = None,
    reverse: bool = False,
    return_states: bool = False,
    norms: Sequence[Tensor] | None = None,
    clip: float | None = None,
) -> tuple[State, State]:
    """Run the kernel ``name``: the outputs, with ``return_states`` all states at every step; final state.

    With ``batch_sizes``, those of a ``PackedSequence``, ``x`` and what is returned for every step are
    packed rows; ``state`` must be given.
    """
    if torch.compiler.is_compiling() and onnx.is_exporting():
        kernel, _, activation = name.partition("_")
        return onnx.run(
            KINDS[kernel],
            activation,
            x,
            state,
            weights,
            lengths=lengths,
            reverse=reverse,
            resets=resets,
            batch_sizes=batch_sizes,
            noise=noise,
            return_states=return_states,
            norms=norms,
        )
    if x.stride(-1) != 1:
        x = x.contiguous()
    start: tuple[Tensor | None, ...] = state if state is not None else ()
    tensors = (x, *weights, *start)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        # The backward pass reads them again: what the caller writes into them meanwhile is not meant.
        masks = (t if t is None else t.clone() for t in (lengths, resets, batch_sizes, noise))
        outputs = _Sweep.apply(name, *masks, reverse, return_states, norms, clip, *tensors)  # type: ignore[no-untyped-call]
        count = len(outputs) // 2 if return_states else 1
        return outputs[:count], outputs[count:]
    outputs = forward_operator()(
        name,
        *tensors[:5],
        list(start),
        lengths,
        resets,
        batch_sizes,
        noise,
        reverse,
        return_states,
        False,
    )
    count = len(outputs) // 2 if return_states else 1
    return tuple(outputs[:count]), tuple(outputs[count:])


def run_reference(
    name: str,
    x: Tensor,
    state: State | None,
    weights: Weights,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    norms: Sequence[Tensor] | None = None,
    clip: float | None = None,
    **_: None,
) -> tuple[State, State]:
    """As ``run``, by the reference over these very tensors."""
    rows: Tensor | None = None
    if batch_sizes is not None:
        x, lengths, rows = _padded(x, batch_sizes)
    states, final = reference.scan(
        cell_over(name, weights),
        x,
        state,
        noise=None,
        lengths=lengths,
        resets=resets,
        reverse=reverse,
        norms=norms,
        clip=clip,
    )
    if rows is not None:
        states = _rows_of(states, rows)
    return states, final


def _padded(x: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed rows as ``[T, B, D]``, the lengths, and where in ``[T * B]`` each row stands."""
    real = torch.arange(int(batch_sizes[0]), device="cpu") < batch_sizes.unsqueeze(1)  # [T, B]
    rows = real.flatten().nonzero().squeeze(1).to(x.device)
    padded = x.new_zeros(real.numel(), x.shape[1]).index_copy(0, rows, x)
    return padded.view(*real.shape, x.shape[1]), real.sum(0), rows


def _rows_of(states: State, rows: Tensor) -> State:
    """``[T, B, size]`` each as packed rows."""
    return tuple(s.flatten(0, 1).index_select(0, rows) for s in states)


class _Sweep(torch.autograd.Function):
    """The kernel's forward and backward, joined."""

    @staticmethod
    def forward(ctx, name, *arguments):  # type: ignore[no-untyped-def]
        lengths, resets, batch_sizes, noise, reverse, return_states, norms, clip, *tensors = (
            arguments
        )
        x, weight_ih, weight_hh, bias_ih, bias_hh, *start = tensors
        outputs = forward_operator()(
            name,
            x,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            start,
            lengths,
            resets,
            batch_sizes,
            noise,
            reverse,
            True,
            True,
        )
        count = (len(outputs) - 1) // 2
        states, final, kept = outputs[:count], outputs[count:-1], outputs[-1]
        masks = (lengths, resets, batch_sizes, noise)
        shown = states if return_states else states[:1]
        # The caller may write into what is shown: the backward pass asks whether, and then runs anew.
        if torch.compiler.is_compiling():  # where nobody can ask
            ctx.versions, held = None, [s.clone() for s in states]
        else:
            ctx.versions, held = _Versions(shown), [s.data for s in states]
        ctx.save_for_backward(*tensors, *held, kept, *masks)
        ctx.settings = (name, reverse, return_states, norms, clip, count, len(tensors))
        ctx.set_materialize_grads(False)
        return (*shown, *final)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        name, reverse, return_states, norms, clip, count, inputs = ctx.settings
        *saved, kept, lengths, resets, batch_sizes, noise = ctx.saved_tensors
        masks = (lengths, resets, batch_sizes, noise)
        tensors, states = saved[:inputs], saved[inputs:]
        shown = count if return_states else 1
        d_states = [*gradients[:shown], *[None] * (count - shown)]
        d_final = list(gradients[shown:])
        wanted = list(ctx.needs_input_grad[9:])
        nothing = (None,) * 9
        given = [d for d in gradients if d is not None]
        if torch.is_grad_enabled() or any(map(reference.is_batched, given)):
            # The gradient itself will be differentiated, or many are asked for at once.
            return nothing + _by_reference(
                name, masks, reverse, tensors, wanted, d_states, d_final, norms, clip
            )
        x, weight_ih, weight_hh, bias_ih, bias_hh, *start = tensors
        if ctx.versions is not None and ctx.versions.have_changed():
            call = (name, *tensors[:5], start, *masks, reverse, True, True)
            outputs = forward_operator()(*call)
            states, kept = outputs[:count], outputs[-1]
        results = backward_operator()(
            name,
            x,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            start,
            *masks,
            reverse,
            list(states),
            kept,
            d_states,
            d_final,
            wanted,
            norms is not None,
            clip,
        )
        if norms is not None:
            for target, norm in zip(norms, results[inputs:], strict=True):
                target.copy_(norm)
        return nothing + tuple(
            result if want else None for result, want in zip(results[:inputs], wanted, strict=True)
        )


class _Versions:
    """Whether somebody has written into tensors since; of the tensors themselves it holds nothing."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._witnesses = [tensor.detach() for tensor in tensors]  # whose count of writes is theirs
        self._then = [tensor._version for tensor in tensors]
        for witness in self._witnesses:
            witness.data = witness.new_empty(0)

    def have_changed(self) -> bool:
        return [witness._version for witness in self._witnesses] != self._then


Masks = tuple[Optional, Optional, Optional, Optional]
"""The lengths, resets and batch sizes of a call, and its noise."""


def cell_over(name: str, weights: Weights) -> Cell:
    """The cell whose kernel is ``name``, over these very tensors; nothing is drawn or registered."""
    if name.startswith("own_"):
        return jit.by_name(name).cell(weights)
    assert weights.weight_ih is not None
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
    masks: Masks,
    reverse: bool,
    tensors: Sequence[Optional],
    wanted: Sequence[bool],
    d_states: Sequence[Optional],
    d_final: Sequence[Optional],
    norms: Sequence[Tensor] | None,
    clip: float | None,
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
            name, masks, reverse, tensors, wanted, d_states, d_final, norms, clip, later
        )


def _differentiate(
    name: str,
    masks: Masks,
    reverse: bool,
    tensors: Sequence[Optional],
    wanted: Sequence[bool],
    d_states: Sequence[Optional],
    d_final: Sequence[Optional],
    norms: Sequence[Tensor] | None,
    clip: float | None,
    create_graph: bool,
) -> tuple[Optional, ...]:
    x, *start = (t for i, t in enumerate(tensors) if t is not None and (i == 0 or i > 4))
    cell = cell_over(name, Weights(*tensors[1:5]))
    lengths, resets, batch_sizes, noise = masks
    if batch_sizes is not None:
        x, lengths, rows = _padded(x, batch_sizes)
    states, final = reference.scan(
        cell,
        x,
        tuple(start) if start else None,
        noise=noise,
        lengths=lengths,
        resets=resets,
        reverse=reverse,
        norms=norms,
        clip=clip,
    )
    if batch_sizes is not None:
        states = _rows_of(states, rows)
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
