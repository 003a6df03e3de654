"""What online learners share: the call, the state between calls, and how the past enters a gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from unrolled.bptt.carry import chosen_rows, lasting
from unrolled.bptt.online.influence import Chunk, Influence, Scans, Tensors, forgotten
from unrolled.cells import Cell, State
from unrolled.layers.finding import layer_of
from unrolled.layers.recurrent import Recurrent
from unrolled.scan.hooks import computed_names, computing_hooks, has_hooks
from unrolled.shapes import check_flags, check_input, check_saved, check_valued, is_autocast


class Learner:
    """A recurrent layer that is called step by step, and learns from all steps without keeping them.

    A call takes a step, or a chunk of steps, from the state that the last call left. Within the call
    the gradient is autograd's own. Where it reaches the state at the call's start, the influence J =
    ∂s/∂θ of the parameters on that state takes it into the past: v = ∂L/∂s becomes v J. J is carried
    forward from call to call, without a graph, so memory is the same after any number of steps.

    The gradient in ``x`` is what passes within the call: a layer below learns from that alone. An
    update of the weights between two calls leaves J as it is, of the weights as they were; it is exact
    for fixed weights, and close while they move slowly.

    The influence runs on PyTorch's operations, whatever the layer's ``backend`` is; the call itself goes
    by the kernels where they can take it, except for ``SnAp1`` of cells whose units hear of one another.
    """

    layer: nn.Module
    _state: Scans
    _kept: Tensors
    _fresh: Tensor

    @torch.inference_mode(False)
    def __init__(self, layer: nn.Module, make: Callable[[Recurrent], Influence]) -> None:
        self.layer = layer
        self._recurrent = as_recurrent(layer)
        for parameter in self._recurrent.parameters():
            check_valued("layer", parameter)
        self._learnt = trained(self._recurrent)
        if not self._learnt:
            raise ValueError("layer: got no parameter that requires a gradient, expected some")
        self._influence = make(self._recurrent)
        self._influence.shapes(1)
        self.reset()

    @property
    def form(self) -> str:
        """What is kept of the past: "dense", "by unit", "by unit, approximate" or "rank one"."""
        return self._influence.form

    @property
    def size(self) -> int:
        """How many numbers are kept of the past, a row."""
        return self._influence.size

    @property
    def batch_size(self) -> int:
        """B, as in the last call; 0 before the first."""
        return len(self._fresh)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer!r}, {self.form}, {self.size} numbers a row)"

    # --- Steps -----------------------------------------------------------------------------------

    def __call__(self, x: Tensor, *, resets: Tensor | None = None) -> Tensor:
        """Take one step, or a chunk of them.

        Args:
            x: ``[B, D]`` for one step, or ``[T, B, D]`` (``[B, T, D]`` if the layer is
                ``batch_first``).
            resets: boolean ``[B]``, or for a chunk ``[T, B]`` (``[B, T]``): where true, a new sequence
                begins with that step; its state and its influence start anew.

        Returns:
            The output, ``[B, F]`` or for a chunk ``[T, B, F]`` (``[B, T, F]``). Its backward pass, once,
            puts the gradient through all steps so far into the parameters.

        Raises:
            TypeError, ValueError: ``x`` or ``resets`` has another shape, dtype or device; there are
                other rows than in the last call; or other parameters require a gradient than when the
                learner was made.
            RuntimeError: something is random, as dropout is in training; or autocast is on.
        """
        if torch.is_inference_mode_enabled():  # in which nothing can be differentiated
            with torch.inference_mode(False), torch.no_grad():
                return self(lasting(x) if isinstance(x, Tensor) else x, resets=resets)
        layer = self._current()
        first = bool(self.layer.batch_first)
        is_chunk = isinstance(x, Tensor) and x.dim() == 3
        if isinstance(x, Tensor) and (x.dim() not in (2, 3) or x.shape[-1] != layer.input_size):
            several = f"[{'B, T' if first else 'T, B'}, {layer.input_size}]"
            raise ValueError(
                f"x: got shape {list(x.shape)}, expected [B, {layer.input_size}], or {several} for a chunk"
            )
        chunk = x if is_chunk or not isinstance(x, Tensor) else x.unsqueeze(0)
        check_input(chunk, layer.input_size, next(layer.parameters()), batch_first=first)
        if is_autocast(chunk):
            raise RuntimeError("autocast: got it switched on, expected off; leave its context")
        chunk = chunk.transpose(0, 1) if first and is_chunk else chunk
        steps, batch_size, _ = chunk.shape
        self._check_layer(layer, chunk)
        flags = self._flags(resets, steps, batch_size, first and is_chunk, chunk)
        if not steps or not batch_size:
            y = cast(Tensor, layer(chunk)[0])
        else:
            self._admit(chunk, batch_size)
            flags[0] |= self._fresh
            y = self._advance(layer, chunk, flags)
        return y[0] if not is_chunk else y.transpose(0, 1) if first else y

    def _advance(self, layer: Recurrent, x: Tensor, resets: Tensor) -> Tensor:
        """The chunk ``x`` ``[T, B, D]``, in which everything is right."""
        influence = forgotten(self._kept, resets[0])
        counts = [len(state) for state in self._state]
        flat = _Past.apply(  # type: ignore[no-untyped-call]
            self._influence.pull,
            sum(counts),
            len(influence),
            *(s for state in self._state for s in state),
            *influence,
            *self._influence.parameters(layer),
        )
        start = tuple(flat[sum(counts[:k]) :][:count] for k, count in enumerate(counts))
        chunk = Chunk(x, resets, self._state)
        y, final, kept = self._influence.run(layer, start, influence, chunk)
        self._state = tuple(tuple(s.detach() for s in state) for state in final)
        self._kept = tuple(part.detach() for part in kept)
        self._fresh = torch.zeros_like(self._fresh)
        return y

    def _flags(
        self, resets: Tensor | None, steps: int, batch_size: int, batch_first: bool, x: Tensor
    ) -> Tensor:
        """``resets`` as ``[T, B]``, the caller's own untouched."""
        if resets is None:
            return torch.zeros(steps, batch_size, dtype=torch.bool, device=x.device)
        if isinstance(resets, Tensor) and resets.dim() == 1 and not batch_first and steps == 1:
            resets = resets.unsqueeze(0)
        checked = check_flags("resets", resets, steps, batch_size, batch_first=batch_first)
        return checked.to(x.device, copy=True)

    def _admit(self, x: Tensor, batch_size: int) -> None:
        """Make room for the rows of the first call; refuse others than there are."""
        if not self.batch_size:
            self._begin(batch_size, x)
        if batch_size != self.batch_size:
            raise ValueError(
                f"x: got {batch_size} rows, expected {self.batch_size} as in the last call; call reset() "
                "to begin anew"
            )
        kept = self._state[0][0]
        if (kept.dtype, kept.device) != (x.dtype, x.device):
            raise TypeError(
                f"layer: got {x.dtype} on {x.device}, expected {kept.dtype} on {kept.device} as in "
                "the last call; call reset() to begin anew"
            )

    @torch.inference_mode(False)
    def _begin(self, batch_size: int, like: Tensor) -> None:
        """Rows all of whose sequences are still to come."""
        cells = cast(Sequence[Cell], self._recurrent.cells)
        shapes = self._influence.shapes(batch_size)
        self._state = tuple(
            tuple(like.new_zeros(batch_size, size) for size in cell.state_sizes) for cell in cells
        )
        self._kept = tuple(like.new_zeros(shape) for shape in shapes)
        self._fresh = torch.ones(batch_size, dtype=torch.bool, device=like.device)

    def _current(self) -> Recurrent:
        """The layer as a ``Recurrent`` that takes ``[T, B, D]``, over the parameters of this moment."""
        if self._recurrent is not self.layer:
            pairs = zip(self.layer.parameters(), self._recurrent.parameters(), strict=False)
            if any(now is not then for now, then in pairs):
                self._recurrent = as_recurrent(self.layer)
        return self._recurrent.as_recurrent()

    def _check_layer(self, layer: Recurrent, x: Tensor) -> None:
        """Refuse a layer that has changed since the learner was made, or in which something is random."""
        if trained(layer) != self._learnt:
            raise ValueError(
                "layer: other parameters require a gradient than when the learner was made; make a "
                f"new {type(self).__name__}"
            )
        random = [
            name
            for name in ("dropout", "variational_dropout", "weight_drop")
            if layer.training and getattr(layer, name) and (name != "dropout" or layer.depth > 1)
        ]
        between = getattr(self.layer, "num_layers", 1) > 1 and getattr(self.layer, "dropout", 0.0)
        if self._recurrent is not self.layer and self.layer.training and between:
            random.append("dropout")
        for cell in cast(Sequence[Cell], layer.cells):
            if type(cell).noise is not Cell.noise and cell.noise(1, x.shape[1], x) is not None:
                random.append(f"noise of {type(cell).__name__}")
        if random:
            raise RuntimeError(
                f"layer: got {', '.join(dict.fromkeys(random))} at work, expected a layer in which "
                "nothing is random; call layer.eval(), which stops no gradient, or leave it out"
            )

    # --- The state -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """A copy of the state, in the layer's own form; before the first call it has no rows."""
        with torch.no_grad():
            scans = []
            anew = self._fresh.unsqueeze(1)
            for cell, state in zip(self._recurrent.cells, self._state, strict=True):
                fresh = cast(Cell, cell).initial_state(self.batch_size, state[0])
                pairs = zip(fresh, state, strict=True)
                scans.append(tuple(torch.where(anew, f, s) for f, s in pairs))
            return self._recurrent.by_layer(scans)

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Let the sequences in these rows be over: new ones begin with the next step.

        By default all of them; then the next call may have any number of rows.

        Args:
            rows: numbers of rows, or a boolean a row.

        Raises:
            IndexError: there is no such row.
        """
        if rows is None:
            self._begin(0, next(self._recurrent.parameters()).detach())
        else:
            self._fresh = lasting(
                self._fresh | chosen_rows(rows, self.batch_size, self._fresh.device)
            )

    def state_dict(self) -> dict[str, Tensor]:
        """The state and the influence as tensors by name: for ``torch.save`` or safetensors."""
        saved = {f"state/{k}": s for k, s in enumerate(self.state)}
        saved |= {f"influence/{k}": part.clone() for k, part in enumerate(self._kept)}
        return saved | {"fresh": self._fresh.clone()}

    @torch.inference_mode(False)
    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned, in as many rows as it has.

        Raises:
            TypeError, ValueError: it is of another layer or of another kind of learner; nothing has
                been changed.
        """
        check_saved(saved)
        like = next(self._recurrent.parameters()).detach()
        fresh = saved.get("fresh", torch.zeros(0, dtype=torch.bool, device="cpu"))
        shapes = {
            f"{kind}/{k}": shape
            for kind, own in (
                ("state", self._recurrent.state_shapes(len(fresh))),
                ("influence", self._influence.shapes(len(fresh))),
            )
            for k, shape in enumerate(own)
        } | {"fresh": (len(fresh),)}
        tensors = {name: tensor for name, tensor in saved.items() if name != "generator"}
        got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if got != shapes:
            raise ValueError(
                f"saved: got {_listed(got)}, expected {_listed(shapes)}; load what a "
                f"{type(self).__name__} of such a layer has saved"
            )
        for name, tensor in tensors.items():
            if tensor.dtype != (torch.bool if name == "fresh" else like.dtype):
                raise TypeError(
                    f"saved: got {tensor.dtype} for {name!r}, expected {like.dtype} as the weights"
                )
        taken = {name: tensor.to(like.device, copy=True) for name, tensor in tensors.items()}
        state = tuple(s for name, s in taken.items() if name.startswith("state/"))
        self._state = tuple(self._recurrent.by_scan(state))
        self._kept = tuple(p for name, p in taken.items() if name.startswith("influence/"))
        self._fresh = taken["fresh"]


def _listed(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"


class _Past(torch.autograd.Function):
    """The state at a call's start: a constant, whose gradient goes into the past by the influence."""

    @staticmethod
    def forward(
        ctx: Any, pull: Callable[..., Tensors], states: int, parts: int, *tensors: Tensor
    ) -> Any:
        ctx.pull, ctx.counts = pull, (states, parts)
        ctx.save_for_backward(*tensors[states : states + parts])
        return tuple(s.clone() for s in tensors[:states])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph: got True, but the influence of the past is a constant here, so that "
                "second derivatives would be wrong; use BPTT for them"
            )
        from_past = ctx.pull(ctx.saved_tensors, gradients)
        return (None,) * (3 + sum(ctx.counts)) + tuple(from_past)


# --- The layer -------------------------------------------------------------------------------------


def as_recurrent(layer: nn.Module) -> Recurrent:
    """``layer``, or a ``Recurrent`` over the very parameters of a layer of ``torch.nn`` or a drop-in layer.

    Raises:
        TypeError: it is no recurrent layer.
        ValueError: it is bidirectional, has a ``proj_size`` or weights that are computed.
    """
    recurrent = layer_of(layer)
    if recurrent is None:
        raise TypeError(
            f"layer: got {type(layer).__name__}, expected a Recurrent, or an RNN, LSTM or GRU of "
            "unrolled or torch.nn"
        )
    if recurrent.directions == 2:
        raise ValueError(
            "layer: got a bidirectional one, whose backward half needs the future; use BPTT"
        )
    made = recurrent.as_recurrent()
    if "mask" in recurrent.masks:  # a Recurrent
        for name, part in made.cells.named_modules():
            if computing_hooks(part) or has_hooks(part):
                raise ValueError(
                    f"layer: got hooks on cells.{name}, which a learner does not call, expected none; "
                    "take torch.nn.utils.parametrizations, or prune.remove, or use BPTT"
                )
        return cast(Recurrent, layer)
    if size := getattr(layer, "proj_size", 0):
        raise ValueError(f"layer: got proj_size={size}, expected 0; use Recurrent with projection=")
    if names := [name for part in layer.modules() for name in computed_names(part)]:
        raise ValueError(
            f"{names[0]}: got a weight that is computed, expected a parameter; use Recurrent"
        )
    return made


def trained(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter that requires a gradient, by name."""
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
