"""From a cell to the aten operations of its step, forward and backward."""

import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.func import vjp
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from unrolled.cells import Cell, State
from unrolled.errors import UnrolledError
from unrolled.modules import functional, rebuilt

Result = TypeVar("Result")
_TORCH = str(Path(torch.__file__).parent)
STATES = 4
"""The most state tensors a compiled cell may have: UNROLLED_STATES in csrc/unrolled.h."""


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
    batch_size: int
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
    """The projection's weight and its biases: project(x) = x weightᵀ + their sum. Empty if it is not
    of this form: then it is computed before the kernel runs."""
    apart: str
    """Why the projection is more than x weightᵀ + biases, in one line; "" if it is not."""
    fused: bool
    """Whether it is x weightᵀ, of which the step then makes more."""
    noise: int
    """How many blocks of H the step is given as noise, behind the projection."""
    prologue: fx.GraphModule | None
    """What the step computes of parameters and buffers alone: once a call, before the kernel runs.
    Its results count among ``parameters``, by the names "derived_0", "derived_1", …"""
    step: Callable[..., tuple[Tensor, ...]]
    """The step without the prologue: of projected and noise, the states, ``parameters`` and ``buffers``."""
    where: Callable[[fx.Node], str]
    """The line of the cell's code that a node comes from, as " (file, line n: `code`)", or ""."""

    def __str__(self) -> str:
        """The operations, one a line."""
        states = [f"state[{k}]" for k in range(self.states)]
        d_next = [f"d_next[{k}]" for k in range(self.states)]
        inputs = iter(("projected", *states, *self.parameters, *self.buffers, *d_next))
        lines = []
        if self.prologue is not None:
            lines.append("before the scan, once:")
            lines += [f"  {line}" for line in str(self.prologue.graph).splitlines()[1:]]
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                lines.append(f"{node.name} = {next(inputs)}")
            elif node.op == "output":
                lines.append(f"return {', '.join(map(str, node.args[0]))}")
            else:
                lines.append(f"{node.name} = {operation(node)}({', '.join(map(str, node.args))})")
        return "\n".join(lines)


def apart(call: Callable[[], Result]) -> Result:
    """``call()`` in none of the modes that the caller may be in.

    A thread of its own has none that belong to a thread: hooks of saved tensors, dispatch, function and
    fake modes, a default device, autocast, inference, transforms of ``torch.func``. The others, which
    belong to the process, are set aside. What is called from within is there already: a cell may hold
    a layer, whose cells are traced then.
    """

    def called() -> Result:
        _here.is_apart = True
        return call()

    if getattr(_here, "is_apart", False):
        return call()
    with _alone, _plain(), ThreadPoolExecutor(1) as thread:
        return thread.submit(called).result()


_here = threading.local()
_alone = threading.Lock()


@contextmanager
def _plain() -> Iterator[None]:
    """None of the process's modes, and none of the random numbers that the caller will draw."""
    caching = parametrize._cache_enabled
    parametrize._cache_enabled = 0  # what is traced is no result
    dtype, strict = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        with torch.autograd.set_detect_anomaly(False), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        parametrize._cache_enabled = caching


def _skeleton(cell: Cell) -> Cell:
    """A cell like this one, on no memory of its parameters and floating-point buffers, its own or inside.

    What is done to either is not seen by the other; what is shared stays shared.
    """
    empty: dict[int, nn.Parameter] = {}

    def emptied(tensor: Tensor | None) -> Any:
        if tensor is None or not tensor.is_floating_point():
            return tensor
        return empty.setdefault(id(tensor), nn.Parameter(torch.empty_like(tensor, device="meta")))

    def empty_all(module: nn.Module) -> None:
        module._parameters = {name: emptied(p) for name, p in module._parameters.items()}
        buffers = {name: emptied(b) for name, b in module._buffers.items()}
        module._buffers = {
            n: b.detach() if isinstance(b, nn.Parameter) else b for n, b in buffers.items()
        }

    return rebuilt(cell, empty_all)


def trace(cell: Cell, *, fused: bool = True) -> Trace:
    """Record ``cell.step``, its gradient, and what ``cell.project`` is made of.

    Args:
        cell: the cell.
        fused: whether what ``project`` makes of x weightᵀ becomes a part of the step, so that the
            kernel computes all of it.

    Raises:
        Unsupported: the step depends on values, or the projection is not linear.
    """
    return apart(partial(_trace, cell, fused))


def _trace(cell: Cell, fused: bool) -> Trace:
    sizes = cell.state_sizes
    if len(sizes) > STATES:
        raise Unsupported(f"there are {len(sizes)} state tensors; {STATES} is the most")
    if len(set(sizes)) != 1:
        raise Unsupported(f"the state tensors have widths {sizes}, expected equal ones")
    units = sizes[0]
    # Zeros in the place of the cell's own tensors: neither their device nor their dtype matters.
    parameters = {name: _zeros(*p.shape) for name, p in cell.named_parameters()}
    buffers = {n: _zeros(*b.shape) for n, b in cell.named_buffers() if b.is_floating_point()}
    names = (*parameters, *buffers)
    tensors = (*parameters.values(), *buffers.values())
    widths = {units, cell.input_size, *(n for tensor in tensors for n in tensor.shape)}
    taken = widths | {width // units for width in widths}
    # A size of its own.
    batch_size = next(n for n in range(5, 2 * len(taken) + 7, 2) if n not in taken)
    x = _zeros(batch_size, cell.input_size)
    noise = cell.noise(2, batch_size, x)
    made = _skeleton(cell)  # of this cell as it is now, since the steps outlive it
    projecting = functional(made, lambda cell, x: cell.project(x))
    stepping = functional(made, lambda cell, *given: cell.step(*given))

    def project(x: Tensor, *tensors: Tensor) -> Any:
        return projecting(dict(zip(names, tensors, strict=True)), x)

    apart, further = "", None
    try:
        projection, projected = _projection(project, x, tensors, tuple(parameters))
    except Unsupported as reason:
        projection, projected, apart = (), _evaluated(project, x, tensors), str(reason)
        found = _further(project, x, tensors, tuple(parameters)) if fused else None
        if found is not None and found[1].shape[0] % units == 0:
            name, weight, further = found
            projection, projected = (name,), _zeros(batch_size, weight.shape[0])
    width = projected.shape[-1]
    if projected.dim() != 2 or not projected.shape[1] or projected.shape[1] % units:
        raise Unsupported(
            f"project(x) has {projected.shape[-1]} features, expected a multiple of H = {units}"
        )
    if noise is not None:
        if noise.shape[-1] % units:
            raise Unsupported(
                f"noise has {noise.shape[-1]} features, expected a multiple of H = {units}"
            )
        projected = torch.cat([projected, _zeros(batch_size, noise.shape[-1])], -1)

    def step(projected: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        if further is not None and noise is None:
            projected = further(projected, *rest[len(sizes) :])
        elif further is not None:
            plain, drawn = torch.split(projected, [width, projected.shape[-1] - width], -1)
            projected = torch.cat([further(plain, *rest[len(sizes) :]), drawn], -1)
        own = dict(zip(names, rest[len(sizes) :], strict=True))
        after: State = stepping(own, projected, rest[: len(sizes)])
        if not isinstance(after, tuple):
            raise Unsupported(f"step returns a {type(after).__name__}, expected a tuple of tensors")
        shapes = [tuple(s.shape) for s in after]
        if shapes != [(batch_size, units)] * len(sizes):
            raise Unsupported(f"step gives tensors of shapes {shapes}, expected the state's")
        return after

    state = [_zeros(batch_size, units) for _ in sizes]
    whole = _record("step", step, (projected, *state, *tensors))
    located = partial(_located, whole, step, (projected, *state, *tensors))
    for node in whole.graph.nodes:
        if broken := _broken(node):
            raise Unsupported(f"step calls aten.{operation(node)}{located(node)}, {broken}")
    split = _split(whole, 1 + len(sizes), 1 + len(sizes) + len(parameters), batch_size)

    def joined(*given: Tensor) -> Any:
        own, (prologue, run) = given[1 + len(sizes) :], cast(Any, split)
        own = (*own[: len(parameters)], *prologue(*own), *own[len(parameters) :])
        return run(*given[: 1 + len(sizes)], *own)

    if split and not _alike(step, joined, (projected, *state, *tensors)):
        split = None  # a gradient of the step's own making, or one that was stopped
    rest, run = parameters, step
    if split is not None:
        prologue, run = split
        derived = prologue(*tensors)
        rest = parameters | {f"derived_{k}": _zeros(*d.shape) for k, d in enumerate(derived)}
    inputs = (*rest.values(), *buffers.values())

    def both(projected: Tensor, *rest_: Tensor) -> tuple[Tensor, ...]:
        state, given = rest_[: len(sizes)], rest_[len(sizes) : -len(sizes)]
        fixed = given[len(rest) :]

        def differentiated(projected: Tensor, state: State, some: State) -> State:
            return run(projected, *state, *some, *fixed)

        pulling: Any = vjp(differentiated, projected, tuple(state), tuple(given[: len(rest)]))
        after, pull = pulling
        # The boundary.
        d_next = tuple(map(torch.ops.aten.alias.default, rest_[-len(sizes) :]))
        d_projected, d_state, d_parameters = pull(d_next)
        return (*after, d_projected, *d_state, *d_parameters)

    d_next = [_zeros(batch_size, units) for _ in sizes]
    arguments = (projected, *state, *inputs, *d_next)
    module = _record("step", both, arguments)
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-len(sizes)]
    boundary = next(n for n in last.users if n.target is torch.ops.aten.alias.default)

    return Trace(
        cell=_dotted(type(cell)),
        equations=_equations(type(cell)),
        module=module,
        boundary=boundary.name,
        batch_size=batch_size,
        units=units,
        states=len(sizes),
        projected=projected.shape[1] // units - (0 if noise is None else noise.shape[-1] // units),
        noise=0 if noise is None else noise.shape[-1] // units,
        parameters={name: tuple(t.shape) for name, t in rest.items()},
        buffers={name: tuple(t.shape) for name, t in buffers.items()},
        projection=projection,
        apart=apart,
        fused=further is not None,
        prologue=None if split is None else split[0],
        step=run,
        where=located,
    )


def _evaluated(project: Callable[..., Any], x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Zeros of the shape that ``project`` gives."""
    try:
        projected = project(x, *tensors)
    except Exception as error:
        where = _line(traceback.extract_tb(error.__traceback__))
        raise Unsupported(f"project fails{where}: {error}") from error
    if not isinstance(projected, Tensor):
        raise Unsupported(f"project(x) gives a {type(projected).__name__}, expected a tensor")
    if projected.dtype != x.dtype:
        raise Unsupported(f"project(x) gives {projected.dtype} for {x.dtype}, expected the same")
    return _zeros(*projected.shape)


_VIEWS_OF_VECTORS = (
    "split",
    "split_with_sizes",
    "getitem",
    "view",
    "unsqueeze",
    "squeeze",
    "slice",
)


def _split(
    module: fx.GraphModule, moving: int, trained: int, batch_size: int
) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """What depends on parameters and buffers alone, and the rest; ``None`` if there is no such thing.

    Args:
        module: a step.
        moving: how many of its first inputs change from step to step; all others do not.
        trained: where its parameters end, and its buffers begin.
        batch_size: B; what has an axis of sequences is left to the step.
    """
    nodes = list(module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    given = set(inputs[moving:])  # and all that is computed of them
    constant: set[fx.Node] = set()
    plain = {node: len(node.meta["val"].shape) for node in given}  # views of one tensor: its axes
    for node in nodes:
        sources = node.all_input_nodes
        if node.op in ("placeholder", "output") or _has_batch(node, batch_size):
            continue
        if node.op == "get_attr":
            # Written in the step, as in torch.tensor(2.0); else it may be another one tomorrow.
            if all(operation(user) == "lift_fresh_copy" for user in node.users):
                constant.add(node)
        elif all(source in constant for source in sources):
            constant.add(node)
        elif all(source in constant or source in given for source in sources) and _is_floating(
            node
        ):
            given.add(node)
            name = operation(node)
            view = name in ("alias", "detach", "clone", "contiguous") or turns(node)
            view = view or (name in _VIEWS_OF_VECTORS and plain.get(sources[0]) == 1)
            if view and len(sources) == 1 and sources[0] in plain:
                plain[node] = plain[sources[0]]
    needed = {s for node in nodes if node not in given for s in node.all_input_nodes if s in given}
    derived = [node for node in nodes if node in needed and node not in plain]
    if not derived:
        return None
    before, after = fx.Graph(), fx.Graph()
    known = {node: before.placeholder(node.name) for node in inputs[moving:]}
    for node in nodes:
        if node not in known and (node in given or node in constant):
            known[node] = before.node_copy(node, known.__getitem__)
    before.output(tuple(known[node] for node in derived))
    known = {node: after.placeholder(node.name) for node in inputs[:trained]}
    known |= {node: after.placeholder(f"derived_{k}") for k, node in enumerate(derived)}
    known |= {node: after.placeholder(node.name) for node in inputs[trained:]}
    for node in nodes:
        if node not in known and (node not in given or node in plain):
            known[node] = after.node_copy(node, known.__getitem__)
    for graph in (before, after):
        graph.eliminate_dead_code()
    module.meta["left"] = {node.name for node in after.nodes}
    return fx.GraphModule(module, before), fx.GraphModule(module, after)


def _values(node: fx.Node) -> Sequence[Any]:
    """The tensors that a node gives."""
    value = node.meta.get("val")
    return value if isinstance(value, tuple | list) else (value,)


def _has_batch(node: fx.Node, batch_size: int) -> bool:
    return any(isinstance(v, Tensor) and v.shape[:1] == (batch_size,) for v in _values(node))


def _is_floating(node: fx.Node) -> bool:
    return all(isinstance(v, Tensor) and v.is_floating_point() for v in _values(node))


def _alike(one: Callable[..., Any], other: Callable[..., Any], arguments: Sequence[Tensor]) -> bool:
    """Whether two functions have the same values and gradients, by one random example."""
    drawn = [torch.rand_like(tensor) for tensor in arguments]
    found = []
    for function in (one, other):
        pulling: Any = vjp(function, *drawn)
        after, pull = pulling
        several = after if isinstance(after, tuple) else (after,)
        weights = tuple(torch.linspace(1, 2, a.numel()).view(a.shape) for a in several)
        found.append((*several, *pull(weights if isinstance(after, tuple) else weights[0])))
    pairs = zip(*found, strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs)


def _broken(node: fx.Node) -> str:
    """What no step may do: "which" and the rule it breaks, or ""."""
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
        return "which draws random numbers"
    schema = getattr(target, "_schema", None)
    return "which changes a tensor in place" if schema is not None and schema.is_mutable else ""


def _located(
    whole: fx.GraphModule, step: Callable[..., Any], arguments: tuple[Tensor, ...], node: fx.Node
) -> str:
    """The line of ``step`` that ``node`` comes from: one of ``whole``, or of a trace that calls the same.

    A trace leaves out what is computed before; what is left comes in the same order.
    """
    own = [other for other in whole.graph.nodes if other.target is node.target]
    if node.graph is not whole.graph:
        same = [other for other in node.graph.nodes if other.target is node.target]
        left = [other for other in own if other.name in (whole.meta.get("left") or {other.name})]
        place = same.index(node)
        if place >= len(left):
            return ""
        node = left[place]
    return _where(step, arguments, node)


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
            case (("alias" | "clone"), [value]):
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


def _further(
    project: Callable[..., Any], x: Tensor, tensors: tuple[Tensor, ...], names: tuple[str, ...]
) -> tuple[str, Tensor, fx.GraphModule] | None:
    """Of a projection that reads x only as x weightᵀ: the weight, and what is made of the product."""
    try:
        module = _record("project", project, (x, *tensors))
    except Unsupported:
        return None
    nodes = list(module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    users = [node for node in inputs[0].users if node.op == "call_function"]
    if len(users) != 1 or any(map(_broken, nodes)):
        return None
    (product,) = users
    operands = product.args
    if operation(product) not in ("mm", "addmm") or operands[-2] is not inputs[0] or product.kwargs:
        return None
    (*bias, _, turned) = operands
    if not isinstance(turned, fx.Node) or not turns(turned) or turned.args[0] not in inputs:
        return None
    place = inputs.index(cast(fx.Node, turned.args[0])) - 1
    if place >= len(names):
        return None
    graph = fx.Graph()
    known = {product: graph.placeholder("product")}
    known |= {node: graph.placeholder(node.name) for node in inputs[1:]}
    for node in nodes:
        if node is product and bias:  # the bias is added in the step
            known[node] = graph.call_function(
                torch.ops.aten.add.Tensor, (known[node], known[cast(fx.Node, bias[0])])
            )
        if node not in known and node is not inputs[0]:
            known[node] = graph.node_copy(node, known.__getitem__)
    graph.eliminate_dead_code()
    rest = fx.GraphModule(module, graph)

    def joined(x: Tensor, *tensors: Tensor) -> Any:
        return rest(x @ tensors[place].T, *tensors)

    return (names[place], tensors[place], rest) if _alike(project, joined, (x, *tensors)) else None


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
    with _Calls(node.target) as calls:
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
