"""From a cell to the aten operations of its step, forward and backward."""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vjp
from torch.utils._python_dispatch import TorchDispatchMode

from unrolled.cells import Cell, State
from unrolled.errors import UnrolledError

_TORCH = str(Path(torch.__file__).parent)


class Unsupported(UnrolledError):  # noqa: N818 - a verdict, not a fault
    """A cell's step or projection is beyond the compiler; the text is one line that says why."""


@dataclass(frozen=True)
class Trace:
    """The step of one cell as a graph of aten operations.

    The graph's inputs are projected, the states, the parameters, the buffers and the gradients of
    the next states; its outputs are the next states and the gradients of projected, of the states
    and of the parameters. All in this order.
    """

    cell: str
    """The cell's dotted name."""
    equations: tuple[str, ...]
    """What the cell's docstring says it computes."""
    module: fx.GraphModule
    """The graph, and the constants it reads."""
    boundary: str
    """The name of the first node of the backward pass."""
    lanes: int
    """B, no other size of the cell's."""
    units: int
    """H."""
    states: int
    """How many state tensors there are."""
    projected: int
    """The projection's width, in blocks of H."""
    parameters: dict[str, tuple[int, ...]]
    """The shape of each parameter."""
    buffers: dict[str, tuple[int, ...]]
    """The shape of each floating-point buffer."""
    projection: tuple[str, ...]
    """The projection's weight and its biases: project(x) = x weightᵀ + their sum."""
    where: Callable[[fx.Node], str]
    """The line of the cell's code that a node comes from, as " (file, line n: `code`)", or ""."""

    def __str__(self) -> str:
        """The operations, one a line."""
        states = [f"state[{k}]" for k in range(self.states)]
        d_next = [f"d_next[{k}]" for k in range(self.states)]
        inputs = iter(("projected", *states, *self.parameters, *self.buffers, *d_next))
        lines = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                lines.append(f"{node.name} = {next(inputs)}")
            elif node.op == "output":
                lines.append(f"return {', '.join(map(str, node.args[0]))}")
            else:
                lines.append(f"{node.name} = {operation(node)}({', '.join(map(str, node.args))})")
        return "\n".join(lines)


class _Method(nn.Module):
    """A method of a cell as a module's forward, which ``functional_call`` asks for."""

    def __init__(self, cell: Cell, method: str) -> None:
        super().__init__()
        self.cell = cell
        self.method = method

    def forward(self, *arguments: Any) -> Any:
        return getattr(self.cell, self.method)(*arguments)


@contextmanager
def _plain() -> Iterator[None]:
    """None of the modes that the caller may be in."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield


@_plain()
def trace(cell: Cell) -> Trace:
    """Record ``cell.step``, its gradient, and what ``cell.project`` is made of.

    Raises:
        Unsupported: the step depends on values, or the projection is not linear.
    """
    sizes = cell.state_sizes
    if len(set(sizes)) != 1:
        raise Unsupported(f"the state tensors have widths {sizes}, expected equal ones")
    units = sizes[0]
    # Zeros in the place of the cell's own tensors: neither their device nor their dtype matters.
    parameters = {name: _zeros(*p.shape) for name, p in cell.named_parameters()}
    buffers = {n: _zeros(*b.shape) for n, b in cell.named_buffers() if b.is_floating_point()}
    names = [f"cell.{name}" for name in (*parameters, *buffers)]
    tensors = (*parameters.values(), *buffers.values())
    widths = {units, cell.input_size, *(n for tensor in tensors for n in tensor.shape)}
    taken = widths | {width // units for width in widths}
    lanes = next(n for n in range(5, 2 * len(taken) + 7, 2) if n not in taken)  # a size of its own

    projecting = _Method(cell, "project")

    def project(x: Tensor, *tensors: Tensor) -> Any:
        return functional_call(projecting, dict(zip(names, tensors, strict=True)), (x,))

    x = _zeros(lanes, cell.input_size)
    projection, projected = _projection(project, x, tensors, tuple(parameters))
    if projected.shape[1] % units:
        raise Unsupported(
            f"project(x) has {projected.shape[1]} features, expected a multiple of H = {units}"
        )

    stepping, count = _Method(cell, "step"), len(parameters)

    def both(projected: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state, tensors = rest[: len(sizes)], rest[len(sizes) : -len(sizes)]
        d_next = rest[-len(sizes) :]

        def step(projected: Tensor, state: State, parameters: State) -> State:
            every = (*parameters, *tensors[count:])
            bound = dict(zip(names, every, strict=True))
            after: State = functional_call(stepping, bound, (projected, state))
            shapes = [tuple(s.shape) for s in after]
            if shapes != [tuple(s.shape) for s in state]:
                raise Unsupported(f"step gives tensors of shapes {shapes}, expected the state's")
            return tuple(after)

        pulling: Any = vjp(step, projected, tuple(state), tuple(tensors[:count]))
        after, pull = pulling
        d_next = tuple(torch.ops.aten.alias.default(d) for d in d_next)  # marks the boundary
        d_projected, d_state, d_parameters = pull(d_next)
        return (*after, d_projected, *d_state, *d_parameters)

    state = [_zeros(lanes, units) for _ in sizes]
    d_next = [_zeros(lanes, units) for _ in sizes]
    arguments = (projected, *state, *tensors, *d_next)
    module = _record("step", both, arguments)
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-len(sizes)]
    boundary = next(n for n in last.users if n.target is torch.ops.aten.alias.default)

    return Trace(
        cell=_dotted(type(cell)),
        equations=_equations(type(cell)),
        module=module,
        boundary=boundary.name,
        lanes=lanes,
        units=units,
        states=len(sizes),
        projected=projected.shape[1] // units,
        parameters={name: tuple(t.shape) for name, t in parameters.items()},
        buffers={name: tuple(t.shape) for name, t in buffers.items()},
        projection=projection,
        where=lambda node: _where(both, arguments, node),
    )


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def _record(
    method: str, function: Callable[..., Any], arguments: tuple[Tensor, ...]
) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

    try:
        return make_fx(function)(*arguments)
    except Unsupported:
        raise
    except Exception as error:
        where = _line(traceback.extract_tb(error.__traceback__))
        if "_local_scalar_dense" in str(error):
            raise Unsupported(f"{method} depends on a tensor's value{where}") from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unsupported(f"{method} cannot be traced{where}: {reason}") from error


def _projection(
    project: Callable[..., Any], x: Tensor, tensors: tuple[Tensor, ...], names: tuple[str, ...]
) -> tuple[tuple[str, ...], Tensor]:
    """The names of the weight and the biases that ``project`` is made of, and zeros of its shape."""
    module = _record("project", project, (x, *tensors))
    shapes = dict(zip(names, (tuple(tensor.shape) for tensor in tensors), strict=False))
    # What each value is, and of which parameters.
    values: dict[fx.Node, tuple[str, tuple[str, ...]]] = {}
    kinds = {1: "bias", 2: "weight"}
    inputs = iter([("x", ()), *((kinds.get(len(s), ""), (name,)) for name, s in shapes.items())])
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs, ("buffer", ()))
            continue
        if node.op == "output":
            break
        operands = [values[a] for a in node.args if isinstance(a, fx.Node)]
        match operation(node), operands:
            case (("detach" | "alias" | "clone"), [value]):
                values[node] = value
            case _, [("weight", names)] if turns(node):
                values[node] = ("turned", names)
            case "mm", [("x", ()), ("turned", names)]:
                values[node] = ("affine", names)
            case "addmm", [("bias", biases), ("x", ()), ("turned", names)]:
                values[node] = ("affine", (*names, *biases))
            case "add", [("bias" | "affine" as same, names), ("bias", biases)]:
                values[node] = (same, (*names, *biases))
            case "add", [("bias", biases), ("affine", names)]:
                values[node] = ("affine", (*names, *biases))
        if node not in values or node.kwargs:
            where = _where(project, (x, *tensors), node)
            raise Unsupported(
                f"project(x) is not x @ weight.T + biases: it calls {node.target}{where}"
            )
    result = node.args[0]
    kind, found = values[result] if isinstance(result, fx.Node) else ("", ())
    widths = {shapes[name][0] for name in found}
    if kind != "affine" or len(widths) != 1 or len(set(found)) != len(found):
        raise Unsupported("project(x) is not x @ weight.T + biases, each as wide and only once")
    return found, _zeros(x.shape[0], *widths)


def turns(node: fx.Node) -> bool:
    """Whether a node swaps the two axes of a matrix."""
    dims: Any = node.args[1:]
    match operation(node):
        case "t" | "numpy_T":
            return True
        case "permute":
            return [dim % 2 for dim in dims[0]] == [1, 0]
        case "transpose":
            return bool((dims[0] - dims[1]) % 2)
    return False


def operation(node: fx.Node) -> str:
    """The operation's name without its overload: "add" for aten.add.Tensor."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Where each call of one operation came from."""

    def __init__(self, target: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.target = target
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.target:
            self.lines.append(_line(traceback.extract_stack()[:-1]))
        return func(*args, **(kwargs or {}))


def _where(function: Callable[..., Any], arguments: tuple[Tensor, ...], node: fx.Node) -> str:
    same = [other for other in node.graph.nodes if other.target is node.target]
    with _plain(), _Calls(node.target) as calls:
        function(*arguments)
    return calls.lines[same.index(node)] if len(calls.lines) == len(same) else ""


def _line(stack: list[traceback.FrameSummary]) -> str:
    """The innermost line that is neither PyTorch's nor this file's."""
    for frame in reversed(stack):
        if not frame.filename.startswith(_TORCH):
            if frame.filename == __file__:
                return ""
            return f" ({Path(frame.filename).name}, line {frame.lineno}: `{frame.line}`)"
    return ""


def _dotted(kind: type) -> str:
    """The class's shortest public name: unrolled.cells.LSTM, not unrolled.cells.lstm.LSTM."""
    package = kind.__module__.rpartition(".")[0]
    public = getattr(sys.modules.get(package), kind.__name__, None) is kind
    return f"{package if public else kind.__module__}.{kind.__qualname__}"


def _equations(kind: type) -> tuple[str, ...]:
    """The docstring's title and its indented lines that hold an equals sign."""
    title, *rest = inspect.cleandoc(kind.__dict__.get("__doc__") or kind.__name__).splitlines()
    formulas = (line for line in rest if line.startswith("    ") and " = " in line)
    lines = (title, *(line for line in formulas if line.lstrip()[:3] not in (">>>", "...")))
    return tuple(line.rstrip("\\ ") for line in lines)  # a comment's line must not go on
