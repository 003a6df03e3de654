"""Modules for a while in another form: aliases, functions of their parameters, evaluation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Kind = TypeVar("Kind", bound=nn.Module)


def kind_of(module: Kind) -> type[Kind]:
    """The class of ``module``; of a parametrised one, the class it had before."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def alias(module: Kind, kind: type[Kind] | None = None) -> Kind:
    """A module that shares all with ``module``, but for what is set on it afterwards.

    ``copy.copy`` does the same, but does not compile, and refuses a parametrised module.
    """
    kind = kind or type(module)
    made = kind.__new__(kind)
    made.__dict__.update(module.__dict__)
    return made


def rebuilt(
    module: Kind, change: Callable[[nn.Module], object], known: dict[int, nn.Module] | None = None
) -> Kind:
    """An ``alias`` of ``module``, and of each module inside, once each, as ``change`` leaves it."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    known = {} if known is None else known
    if id(module) not in known:
        known[id(module)] = shared = alias(module)
        change(shared)
        shared._modules = {
            name: None if part is None else rebuilt(part, change, known)
            for name, part in module._modules.items()
        }
    return known[id(module)]  # type: ignore[return-value]


class _Bound(nn.Module):
    """A function of a module, as the ``forward`` that ``functional_call`` can reach."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.module, *arguments)


def functional(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(module, …)`` as a function of (parameters by name, …); others stay as they are."""
    bound = _Bound(module, function)

    def call(parameters: dict[str, Tensor], *arguments: Any) -> Any:
        named = {f"module.{name}": p for name, p in parameters.items()}
        return torch.func.functional_call(bound, named, arguments)

    return call


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, ``module`` and all in it are as in evaluation; afterwards each is as it was."""
    training = [part for part in module.modules() if part.training] if module.training else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
