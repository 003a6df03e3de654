"""What tools that trace a model need to know of the layers: ``torch.compile`` and ``torch.fx``.

PyTorch takes its own recurrent layers for leaves of ``torch.fx``, and leaves them out of the graphs of
``torch.compile``. The twins are to be leaves too; and, where the kernels run them, parts of a graph.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch._dynamo
from torch import fx, nn
from torch._dynamo.variables.builder import VariableBuilder

Layer = TypeVar("Layer", bound=nn.Module)


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


def enter_graphs(kind: type[Layer], welcome: Callable[[Layer], bool]) -> None:
    """Let ``torch.compile`` take into its graphs those instances of ``kind`` that are ``welcome``.

    Dynamo refuses every instance of ``torch.nn.RNN``, ``LSTM`` and ``GRU`` unless its setting
    ``allow_rnn`` is on, since it would unroll PyTorch's loops. The kernels' operators have no loop to
    unroll. The setting is on for the one look at such an instance, so that other layers are treated as
    ever; where this PyTorch has no such setting, nothing is done.
    """
    if not hasattr(torch._dynamo.config, "allow_rnn"):
        return
    wrap_module = VariableBuilder.wrap_module

    @functools.wraps(wrap_module)
    def wrap(builder: VariableBuilder, value: nn.Module) -> Any:
        if not (isinstance(value, kind) and welcome(value)):
            return wrap_module(builder, value)
        with torch._dynamo.config.patch(allow_rnn=True):
            return wrap_module(builder, value)

    VariableBuilder.wrap_module = wrap  # type: ignore[method-assign,assignment]
