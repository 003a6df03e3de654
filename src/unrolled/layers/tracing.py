"""What tools that trace a model need to know of the layers: ``torch.compile`` and ``torch.fx``.

PyTorch takes its own recurrent layers for leaves of ``torch.fx``, and leaves them out of the graphs of
``torch.compile``. The drop-in layers are to be leaves too; and, where the kernels run them, parts of a
graph.
"""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

from torch import fx, nn

from unrolled.modules import rebuilt

Layer = TypeVar("Layer", bound=nn.Module)
BUILDER = "torch._dynamo.variables.builder"  # a second's work to import: left to whoever compiles


def is_symbolic(x: object) -> bool:
    """Whether ``x`` stands for a value in a graph that ``torch.fx`` is tracing."""
    return isinstance(x, fx.Proxy)


def as_leaf(module: nn.Module, x: Any, *arguments: object, **options: object) -> Any:
    """The call of ``module`` as one node of the graph that ``torch.fx`` is tracing, as of ``torch.nn``.

    Raises:
        TypeError: ``module`` itself is what is traced.
    """
    tracer = x.tracer
    if module is getattr(tracer, "root", None):
        kind = type(module).__name__
        raise TypeError(
            f"root: got {kind}, a leaf of torch.fx, expected a model that holds one; "
            "put it into torch.nn.Sequential"
        )
    name = tracer.path_of_module(module)
    return tracer.create_proxy("call_module", name, (x, *arguments), options)


def enter_graphs(kind: type[Layer], welcome: Callable[[Layer], bool], advice: str) -> None:
    """Let ``torch.compile`` take into its graphs those instances of ``kind`` that are ``welcome``.

    Dynamo refuses every instance of ``torch.nn.RNN``, ``LSTM`` and ``GRU`` unless its setting
    ``allow_rnn`` is on, since it would unroll PyTorch's loops. The kernels' operators have no loop to
    unroll. The setting is on for the one look at such an instance, so that other layers are treated as
    ever; where this PyTorch has no such setting, nothing is done.

    Of an instance that is not welcome ``forward`` itself leaves the graph, by ``outside_graphs``; where
    the graph must be whole, Dynamo's error gives the ``advice``. A refusal by Dynamo would hold for that
    method's code, and so for every other instance from then on.
    """

    def enter(builder: ModuleType) -> None:
        from torch._dynamo import config

        if not hasattr(config, "allow_rnn"):
            return
        wrap_module = builder.VariableBuilder.wrap_module

        @cache
        def never_traced() -> None:  # late, since Dynamo is not whole yet
            import torch._dynamo

            alone: Any = torch._dynamo.disable  # has no types
            takes_reason = "reason" in inspect.signature(alone).parameters  # not in older PyTorch
            told = {"reason": advice} if takes_reason else {}
            kind.outside_graphs = alone(kind.outside_graphs, **told)  # type: ignore[attr-defined]

        @functools.wraps(wrap_module)
        def wrap(self: Any, value: nn.Module) -> Any:
            if not isinstance(value, kind):
                return wrap_module(self, value)
            value.__dict__["enters_graphs"] = welcome(value)
            never_traced()
            with config.patch(allow_rnn=True):
                return wrap_module(self, value)

        builder.VariableBuilder.wrap_module = wrap

    when_imported(BUILDER, enter)


def script_copies(kind: type[nn.Module]) -> None:
    """Let ``torch.jit.script`` prepare a copy of a model that holds a ``kind``, not the model itself.

    It puts what ``__prepare_scriptable__`` gives into the modules that hold it; so these are copied
    first. Parameters, buffers and all else stay shared. Where this PyTorch does it otherwise, nothing
    is done.
    """
    from torch.jit import _script

    prepare = getattr(_script, "call_prepare_scriptable_func", None)
    if prepare is None:
        return

    @functools.wraps(prepare)
    def prepare_copy(model: Any) -> Any:
        if isinstance(model, nn.Module) and any(isinstance(m, kind) for m in model.modules()):
            model = rebuilt(model, lambda _: None)
        return prepare(model)

    _script.call_prepare_scriptable_func = prepare_copy


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call ``then`` with the module ``name``: at once if it is imported, else when it has been."""
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Waiting(name, then))


class _Waiting(MetaPathFinder):
    """Finds the module ``name`` as the other finders do, and calls ``then`` after it has run."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self.name, self.then = name, then

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_tell(module: ModuleType) -> None:
                run(module)
                self.then(module)

            spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec
