"""Which kernel computes a call, and why none does.

Everything is checked before a pointer is passed: shapes and dtypes by the layers and by
``unsupported_reasons``, the weights by ``check_weights``.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.cells import GRU, LSTM, Cell, Elman
from unrolled.cells.cell import GatedCell
from unrolled.modules import kind_of
from unrolled.scan.hooks import hooked
from unrolled.scan.native import jit, library, onnx
from unrolled.scan.native.calls import StepKernel, Weights, constant_in_graphs

KINDS: dict[str, type[GatedCell]] = {str(kind.kernel): kind for kind in (Elman, LSTM, GRU)}


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


def step_kernel(cell: Cell) -> StepKernel | None:
    """What takes the steps of ``cell`` in evaluation; ``None`` if there is no kernel."""
    name, units = kernel_name(cell), cell.state_sizes[0]
    if name is not None:
        return StepKernel(name, weights_of(cell, name), units)
    recipe = jit.recipe(cell)
    if isinstance(recipe, str):
        return None
    project = None if recipe.is_projected else cell.project
    read = None if type(cell).read is Cell.read else cell.read
    return StepKernel(recipe.name, recipe.tensors(cell), units, project, read)


def weights_of(cell: Cell, name: str) -> Weights:
    """The weights of a built-in cell."""
    built_in = cast(GatedCell, cell)
    weights = Weights(built_in.weight_ih, built_in.weight_hh, built_in.bias_ih, built_in.bias_hh)
    if name != "gru" and (weights.bias_ih is None or weights.bias_hh is None):
        weights = weights._replace(bias_ih=None, bias_hh=None)  # as GatedCell.bias() has it
    return weights


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


def cell_over(name: str, weights: Weights) -> Cell:
    """The cell whose kernel is ``name``, over these very tensors; nothing is drawn or registered."""
    if name.startswith("own_"):
        return jit.CellOver(jit.by_name[name], weights)
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
