"""Every recurrent layer of a model is handed its state for one pass, and what it ends with is taken."""

from collections.abc import Mapping
from functools import partial, reduce
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from unrolled.cells import State
from unrolled.layers.base import RecurrentLayer, as_tuple
from unrolled.layers.finding import adapted, layer_of, recurrent_layers
from unrolled.layers.result import Result
from unrolled.shapes import (
    check_flags,
    check_lengths,
    check_module,
    listed,
    real_steps,
    shape_or_type,
)

States = dict[str, State]
"""The state of each recurrent layer of a model, by the layer's name in it."""


class Injection:
    """Inside the block, each recurrent layer of a model begins in the state that is meant for it.

    A layer called without a state is given its own. Afterwards the state it ended in is in ``finals``,
    as part of the graph, and ``ended`` says which rows ended before the last step. Of a bidirectional
    layer only the forward direction is given a state: what the backward one would need comes later,
    and it begins anew. The layers are as before when the block is left, in whatever way.

    Args:
        layers: as ``layers_of`` gives them.
        states: of the layers, before the first step; one that is missing begins anew.
        initial: the state of a new sequence, ``[L*S, 1, size]`` each, for layers that do not learn
            their own.
        resets: boolean ``[T, B]``: where a new sequence begins.
        real: boolean ``[T, B]``: which steps are real; or how many, ``[B]``; by default all.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        states: Mapping[str, State],
        *,
        initial: Mapping[str, State] | None = None,
        resets: Tensor | None = None,
        real: Tensor | None = None,
    ) -> None:
        self.layers = {name: adapted(module) for name, module in layers.items()}
        self.states = states
        self.initial = initial or {}
        self.resets = resets
        self.real = real
        self.finals: States = {}
        self.ended: Tensor | None = None
        self._before: dict[str, Any] = {}

    def __enter__(self) -> Self:
        modules = {name: layer.module for name, layer in self.layers.items()}
        before = {name: vars(module).get("forward") for name, module in modules.items()}
        if any(isinstance(forward, _Injected) for forward in before.values()):
            raise RuntimeError(
                "window: got one inside another of the same layers; leave that first"
            )
        self._before = before
        for name, module in modules.items():
            vars(module)["forward"] = _Injected(self._call, name, module.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for name, before in self._before.items():
            own = vars(self.layers[name].module)
            del own["forward"]
            if before is not None:
                own["forward"] = before

    def _call(self, name: str, forward: Any, *arguments: Any, **options: Any) -> Any:
        """``forward`` of the layer ``name``, with its state where the caller gives none."""
        layer = self.layers[name]
        x_name, state_name = layer.arguments
        if len(arguments) > 2:
            raise TypeError(
                f"{_called(name)}: got {len(arguments)} arguments by position, expected {x_name} and "
                f"{state_name} at most"
            )
        named = dict(zip((x_name, state_name), arguments, strict=False)) | options
        x, state = named.pop(x_name), named.pop(state_name, None)
        if state is None and name in self.finals:
            raise RuntimeError(
                f"{_called(name)}: called twice in one window without a state, expected once; "
                "hand the state from call to call yourself"
            )
        if state is not None:
            result = forward(x, state, **named)
        elif isinstance(x, Tensor) and x.dim() == 2 and "mask" not in layer.masks:
            result = self._without_batch(name, forward, x, named)
        else:
            result = self._begin(name, forward, x, named)
        # The caller has these very tensors, and may write into them.
        final = tuple(s.clone() for s in as_tuple(result[1]))
        is_single = final[0].dim() == 2
        self.finals[name] = tuple(s.unsqueeze(1) for s in final) if is_single else final
        return result

    def _without_batch(self, name: str, forward: Any, x: Tensor, options: dict[str, Any]) -> Any:
        """One sequence ``[T, D]``, as ``torch.nn`` takes it."""
        layer = self.layers[name]
        time = 1 if layer.batch_first else 0
        y, state = self._begin(name, forward, x.unsqueeze(1 - time), options)
        return y.squeeze(1 - time), layer.as_given([s.squeeze(1) for s in as_tuple(state)])

    def _begin(self, name: str, forward: Any, x: Any, options: dict[str, Any]) -> Any:
        """``forward`` from the layer's own state, through the resets on its way."""
        layer = self.layers[name]
        batch_size, like = _batch_of(layer, x)
        resets, real = self._of(name, x, options.pop("resets", None))
        fresh: State | None = None
        if resets is not None or name in self.initial or layer.directions == 2:
            fresh = self.fresh(name, batch_size, like)
        start = self._start(name, batch_size, fresh)
        if start is None and name in self.initial:
            start = fresh
        if resets is not None and fresh is not None:
            if start is not None:
                start = where_rows(resets[0], fresh, start)
            resets = resets.clone()
            resets[0] = False  # done; the backward direction has nothing before the window
            resets = resets if resets.any() else None
        if real is not None:
            options = self._masked(name, real, options)
        if resets is None:
            return forward(x, None if start is None else layer.as_given(start), **options)
        if self._goes_in_parts(name, options):
            assert fresh is not None
            return _in_parts(layer, forward, x, start or fresh, fresh, resets)
        if name in self.initial or "resets" not in layer.masks:
            raise ValueError(
                f"resets: got some within the window, which {_called(name)} cannot take: it is "
                "bidirectional, or has lengths; use unrolled's own layers, with learn_initial_state="
            )
        options["resets"] = resets.transpose(0, 1) if layer.batch_first else resets
        return forward(x, None if start is None else layer.as_given(start), **options)

    def _of(self, name: str, x: Any, resets_of_call: Any) -> tuple[Tensor | None, Tensor | None]:
        """The resets, with those of the call, and the real steps for ``x``.

        ``[T, B]`` on its device, if there are any.
        """
        resets, real = self.resets, self.real
        if resets is None and real is None and resets_of_call is None:
            return None, None
        first = self.layers[name].batch_first
        kind = "resets" if real is None else "lengths"
        if isinstance(x, PackedSequence):
            raise ValueError(
                f"{kind}: got them, but {_called(name)} reads a PackedSequence; expected a tensor"
            )
        steps, batch_size = x.shape[1::-1] if first else x.shape[:2]
        if real is not None and real.dim() == 1:
            real = real_steps(check_lengths(real, steps, batch_size), steps)
        for kind, flags in (("resets", resets), ("lengths", real)):
            if flags is not None and tuple(flags.shape) != (steps, batch_size):
                raise ValueError(
                    f"{kind}: got T, B = {list(flags.shape)}, but {_called(name)} reads "
                    f"{[steps, batch_size]}"
                )
        real = None if real is None or real.all() else real.to(x.device)
        self.ended = None if real is None else ~real[-1]
        all_resets = [] if resets is None else [resets.to(x.device)]
        if resets_of_call is not None:
            own = check_flags(
                "resets", resets_of_call, steps, batch_size, batch_first=first, like=x
            )
            all_resets.append(own)
        resets = reduce(torch.logical_or, all_resets) if all_resets else None
        return resets if resets is not None and resets.any() else None, real

    def _start(self, name: str, batch_size: int, fresh: State | None) -> State | None:
        """The state that is meant for the layer, if there is one."""
        layer, state = self.layers[name], self.states.get(name)
        if state is None:
            return None
        if state[0].shape[1] != batch_size:
            raise ValueError(
                f"x: got {batch_size} rows in {_called(name)}, expected {state[0].shape[1]} as in the "
                "window before; keep the batch size, or begin anew with reset()"
            )
        if layer.directions == 1 or fresh is None:
            return state
        forward = torch.arange(state[0].shape[0], device=state[0].device) % 2 == 0
        kept = forward.view(-1, 1, 1)
        return tuple(torch.where(kept, s, f) for s, f in zip(state, fresh, strict=True))

    def fresh(self, name: str, batch_size: int, like: Tensor) -> State:
        """The state in which ``batch_size`` sequences begin in a layer."""
        if name in self.initial:
            return tuple(s.expand(-1, batch_size, -1).to(like) for s in self.initial[name])
        return self.layers[name].fresh_state(batch_size, like)

    def _masked(self, name: str, real: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """``options`` with the real steps, unless the caller gives them."""
        layer = self.layers[name]
        if "lengths" in options or "mask" in options:
            return options
        lengths = real.sum(0)
        is_prefix = bool((real == real_steps(lengths, len(real))).all())
        if "mask" in layer.masks and not is_prefix:
            return options | {"mask": real.transpose(0, 1) if layer.batch_first else real}
        if "lengths" in layer.masks and is_prefix:
            return options | {"lengths": lengths}
        if "lengths" in layer.masks:
            raise ValueError(
                f"lengths: got rows that begin anew after their end within k2 steps, but "
                f"{_called(name)} takes one end a row; use Recurrent"
            )
        kind = f"torch.nn.{type(layer.module).__name__}"
        raise ValueError(
            f"lengths: got rows that end early, but {_called(name)} is a {kind} and reads every step; "
            "use Recurrent, or unrolled.accelerate(model) where each row ends once"
        )

    def _goes_in_parts(self, name: str, options: Mapping[str, Any]) -> bool:
        """Whether resets are to be met by ending one call and beginning another."""
        layer = self.layers[name]
        if layer.directions == 2 or any(v is not None and v is not False for v in options.values()):
            return False
        takes_resets = "resets" in layer.masks and layer.why_unwatched() is None  # no proj_size
        return name in self.initial or not layer.starts_at_zero or not takes_resets


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The recurrent layers of ``model``, itself included, by name; a shared one once.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: there is none inside, or one that cannot be handed a state.
    """
    check_module("model", model)
    for part in model.modules():
        compiled = hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None)
        if compiled and any(True for _ in recurrent_layers(part)):
            raise ValueError(
                "model: got one compiled by torch.compile, whose graph has no place for a state; give "
                "the model itself, and compile what stands around its recurrent layers"
            )
    layers = dict(recurrent_layers(model))
    if not layers:
        raise ValueError(
            f"model: got {type(model).__name__}, which holds no recurrent layer (cells that are stepped "
            "by hand keep their state there)"
        )
    for name, layer in layers.items():
        if layer_of(layer) is None:
            raise ValueError(
                f"{_called(name)}: got {type(layer).__name__}, which takes no state so"
            )
    return layers


def check_initial(
    layers: Mapping[str, nn.Module], initial: Mapping[str, Any] | None
) -> dict[str, State]:
    """``initial`` by layer, or an error unless each is ``[L*S, 1, size]`` a state tensor."""
    checked: dict[str, State] = {}
    if initial is not None and not isinstance(initial, Mapping):
        raise TypeError(
            f"initial: got {type(initial).__name__}, expected states by the names of their layers"
        )
    for name, states in (initial or {}).items():
        if name not in layers:
            raise ValueError(f"initial: got {name!r}, expected one of {', '.join(layers)}")
        state = as_tuple(states)
        expected = adapted(layers[name]).state_shapes(1)
        if [s.shape for s in state] != expected:
            got = listed(s.shape for s in state)
            raise ValueError(
                f"initial: got shapes {got} for {_called(name)}, expected {listed(expected)}"
            )
        checked[name] = state
    return checked


class _Injected(partial[Any]):
    """The ``forward`` of a layer inside the block."""


def _called(name: str) -> str:
    """How a message names a layer."""
    return f"layer {name!r}" if name else "the layer"


def _batch_of(layer: RecurrentLayer, x: Any) -> tuple[int, Tensor]:
    """B of a layer's input, and a tensor of its dtype and device."""
    if isinstance(x, PackedSequence):
        return int(x.batch_sizes[0]), x.data
    if not isinstance(x, Tensor) or x.dim() != 3:
        raise ValueError(f"x: got {shape_or_type(x)}, expected [T, B, D]")
    return x.shape[0 if layer.batch_first else 1], x


def where_rows(rows: Tensor, new: State, old: State) -> State:
    """The state ``new`` for the ``rows`` that are true, ``old`` for the others."""
    chosen = rows.view(1, -1, 1)
    return tuple(torch.where(chosen, n, o) for n, o in zip(new, old, strict=True))


def _in_parts(
    layer: RecurrentLayer, forward: Any, x: Tensor, state: State, fresh: State, resets: Tensor
) -> Any:
    """``forward`` from each reset to the next, as one result."""
    time = 1 if layer.batch_first else 0
    steps = x.shape[time]
    times = resets.any(1).nonzero().flatten().tolist()
    outputs, result = [], None
    for begin, end in pairwise(sorted({0, *times, steps})):
        state = where_rows(resets[begin], fresh, state)
        result = forward(x.narrow(time, begin, end - begin), layer.as_given(state))
        outputs.append(result[0])
        state = as_tuple(result[1])
    y = torch.cat(outputs, time)
    if isinstance(result, Result):
        return Result(y, state, None, *result._known("final")[1:])
    return y, layer.as_given(state)
