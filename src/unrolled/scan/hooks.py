"""Hooks and parametrizations of a cell: what is done once a call of it, before its steps and around them.

A cell is not called as a module at every step: a scan is its call. ``torch.nn.utils.parametrize``
computes a weight whenever it is read; ``prune``, ``weight_norm`` and ``spectral_norm`` of
``torch.nn.utils`` do it before each call, by a hook.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from unrolled.cells import Cell, State
from unrolled.modules import alias, kind_of

Kind = TypeVar("Kind", bound=nn.Module)

COMPUTING = (prune.BasePruningMethod, WeightNorm, SpectralNorm)
"""Hooks of ``torch.nn.utils`` that write a weight into a module before its call."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
FLAGS = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_is_full_backward_hook",
)


def computing_hooks(module: nn.Module) -> dict[int, Any]:
    """The hooks of ``module`` that compute a weight, by their number."""
    hooks = module._forward_pre_hooks
    return {k: hook for k, hook in hooks.items() if isinstance(hook, COMPUTING)} if hooks else {}


def has_hooks(module: nn.Module) -> bool:
    """Whether ``module`` itself has hooks that do something else than compute a weight."""
    others = module._forward_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(others) or len(computing_hooks(module)) < len(module._forward_pre_hooks)


def computed_names(module: nn.Module) -> list[str]:
    """The weights of ``module`` itself that are computed whenever it is called."""
    names = [_name_of(hook) for hook in computing_hooks(module).values()]
    if parametrize.is_parametrized(module):
        names += list(cast(nn.ModuleDict, module.parametrizations))
    return names


def computed(module: Kind) -> Kind:
    """``module``; or one that shares all with it but the weights that are computed, which are tensors.

    They are computed now, once; autograd leads back from them to what they are computed from.
    """
    parts = module._modules
    inside = (
        {name: computed(part) for name, part in parts.items() if part is not None} if parts else {}
    )
    changed = {name: part for name, part in inside.items() if part is not parts[name]}
    hooks, is_parametrized = computing_hooks(module), parametrize.is_parametrized(module)
    if not (hooks or is_parametrized or changed):
        return module
    found: dict[str, Tensor] = {}
    if is_parametrized:
        found = {
            name: getattr(module, name) for name in cast(nn.ModuleDict, module.parametrizations)
        }
        changed = {name: part for name, part in changed.items() if name != "parametrizations"}
    for hook in hooks.values():
        hook(module, ())
        found[_name_of(hook)] = getattr(module, _name_of(hook))
    plain = alias(module, kind_of(module))  # without the properties of a parametrised one
    for name in found:
        plain.__dict__.pop(name, None)
    sources = {f"{name}_{part}" for name in found for part in ("orig", "g", "v")}
    left = {name: p for name, p in module._parameters.items() if name not in sources}
    plain._parameters = cast(dict[str, nn.Parameter | None], left | found)
    plain._modules = {**module._modules, **changed}
    if is_parametrized:
        del plain._modules["parametrizations"]
    if hooks:
        others = {k: h for k, h in module._forward_pre_hooks.items() if k not in hooks}
        plain._forward_pre_hooks = OrderedDict(others)
    return plain


def settled(module: Kind) -> Kind:
    """``computed(module)``, to look at: computing changes nothing, such as an estimate of a norm."""
    buffers = [(b, b.detach().clone()) for b in module.buffers()]
    with torch.no_grad():
        found = computed(module)
        for buffer, before in buffers if found is not module else ():
            buffer.copy_(before)
    return found


def _name_of(hook: Any) -> str:
    """The weight that a hook computes."""
    return str(hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name)


class Called(nn.Module):
    """``run(x, state)``, a scan of ``cell``, as the call of a module, which runs the cell's hooks."""

    def __init__(self, cell: Cell, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run
        for name in HOOKS:
            hooks = {
                k: hook
                for k, hook in getattr(cell, name).items()
                if not isinstance(hook, COMPUTING)
            }
            told = OrderedDict((k, partial(_told, hook, cell)) for k, hook in hooks.items())
            setattr(self, name, told)
        for name in FLAGS:
            setattr(self, name, getattr(cell, name))

    def forward(self, x: Tensor, state: State | None) -> Any:
        return self.run(x, state)


def _told(hook: Callable[..., Any], cell: Cell, _: nn.Module, *arguments: Any) -> Any:
    return hook(cell, *arguments)


def hooked(module: nn.Module) -> Iterator[str]:
    """The names of the modules in ``module`` that have hooks of a user's own; its own name is empty."""
    return (name for name, part in module.named_modules() if has_hooks(part))
