"""Step by step: a layer that keeps its own state between calls, for sequences that come and go."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.cells import State
from unrolled.layers.base import RecurrentLayer, as_tuple, weight_of
from unrolled.modules import evaluating
from unrolled.scan.hooks import hooked
from unrolled.scan.native.calls import Step
from unrolled.shapes import check_dense, check_flags, check_size, check_state


class Saved(TypedDict):
    """What a stream saves: tensors alone, which ``torch.load(…, weights_only=True)`` reads."""

    ids: Tensor
    state: State


class Stream:
    """A layer taken step by step, without gradient: ``y_t = stream(x_t)``.

    The state stays inside. Everything is as in evaluation, whether or not the layer is training:
    nothing is dropped. With the kernels nothing is allocated or packed again at a step. Weights that
    an optimizer or ``load_state_dict`` changes take effect at the next one; a change through
    ``weight.data`` in place cannot be seen.

        >>> import torch, unrolled
        >>> layer = unrolled.LSTM(3, 5)
        >>> x = torch.randn(7, 2, 3)
        >>> stream = layer.stream(2)
        >>> y = torch.stack([stream(x_t) for x_t in x])
        >>> torch.allclose(y, layer(x)[0], atol=1e-6)
        True

    Sequences may join and leave. Each has a number, and ``ids`` says which row is whose:

        >>> stream.join(2)
        [2, 3]
        >>> stream.leave([0])
        >>> stream.ids
        [1, 2, 3]

    Args:
        layer: of one direction; ``layer.stream(batch_size)`` says which.
        batch_size: B, the sequences stepped together at first.

    Raises:
        TypeError: ``layer`` is a layer of ``torch.nn``, or none.
        ValueError: the layer is bidirectional: its backward direction needs the future.
        RuntimeError: the layer has ``backend="native"``, and the kernels cannot run it.
    """

    reasons: tuple[str, ...]
    """Why the kernels do not run it, a line each; empty if they do."""
    ids: list[int]
    """The number of the sequence in each row of x, y and the state."""

    def __init__(self, layer: RecurrentLayer, batch_size: int = 1) -> None:
        if not hasattr(layer, "step_kernels"):
            raise TypeError(
                f"layer: got {type(layer).__name__}, expected a Recurrent; a drop-in layer has "
                "layer.stream(batch_size), and unrolled.accelerate makes one of torch.nn's"
            )
        if layer.directions == 2:
            raise ValueError("layer: got a bidirectional one, whose backward half needs the future")
        self.layer = layer.module
        self._recurrent = layer
        self.ids = list(range(check_size("batch_size", batch_size)))
        self._joined = batch_size  # how many ever joined
        self._room = batch_size  # how many rows there is memory for
        self._prepare()
        self._write(slice(None), self._fresh(batch_size))

    @property
    def batch_size(self) -> int:
        """B, the sequences that are stepped together now."""
        return len(self.ids)

    # --- Steps -----------------------------------------------------------------------------------

    def __call__(self, x: Tensor, *, resets: Tensor | None = None) -> Tensor:
        """Take one step, or a chunk of them.

        Args:
            x: ``[B, D]`` for one step, or ``[T, B, D]`` (``[B, T, D]`` if the layer is
                ``batch_first``), its rows in the order of ``ids``.
            resets: boolean ``[B]``, or for a chunk ``[T, B]`` (``[B, T]``): where true, a new sequence
                begins with that step.

        Returns:
            The output, ``[B, F]`` or for a chunk ``[T, B, F]`` (``[B, T, F]``).

        Raises:
            ValueError, TypeError: ``x`` or ``resets`` has another shape, dtype or device.
        """
        first = self._recurrent.batch_first
        row = [self.batch_size, self._recurrent.input_size]
        check_dense("x", x, str(row))
        is_chunk = x.dim() == 3
        given = x.transpose(0, 1) if is_chunk and first else x if is_chunk else x.unsqueeze(0)
        if list(given.shape[1:]) != row:
            chunk = [row[0], "T", row[1]] if first else ["T", *row]
            expected = f"{row}, or {chunk} for a chunk".replace("'", "")
            raise ValueError(f"x: got shape {list(x.shape)}, expected {expected}")
        if x.dtype is not self._like.dtype or x.device != self._like.device:
            wanted = f"{self._like.dtype} on {self._like.device}"
            raise TypeError(f"x: got {x.dtype} on {x.device}, expected {wanted} as the weights")
        if self._signature() != self._seen:
            self._renew(self._room)
        if self._is_bare and not is_chunk and resets is None:
            # torch.no_grad() takes half as long as a small kernel
            return self._by_steps(x.detach())
        with torch.no_grad():
            if resets is not None:
                y = self._with_resets(given, self._checked(resets, len(given), is_chunk))
            else:
                y = self._run(given)
        return y[0] if not is_chunk else y.transpose(0, 1) if first else y

    def _checked(self, resets: Tensor, steps: int, is_chunk: bool) -> Tensor:
        """``resets`` as ``[T, B]``."""
        if not is_chunk and isinstance(resets, Tensor) and resets.dim() == 1:
            resets = resets.unsqueeze(0)
        first = is_chunk and self._recurrent.batch_first
        return check_flags("resets", resets, steps, self.batch_size, batch_first=first)

    def _with_resets(self, x: Tensor, resets: Tensor) -> Tensor:
        """The steps between resets at once, each after the sequences that are reset have started anew."""
        times = resets.any(1).nonzero().flatten().tolist()
        outputs = []
        for begin, end in pairwise(sorted({0, *times, len(x)})):
            rows = resets[begin].nonzero().flatten().to(x.device)
            self._write(rows, self._fresh(len(rows)))
            outputs.append(self._run(x[begin:end]))
        return torch.cat(outputs) if outputs else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        """Some steps ``[T, B, D]``, or none."""
        if self._steps and len(x) == 1:
            with evaluating(self.layer):
                return self._by_steps(x[0]).unsqueeze(0)
        if not x.shape[:2].numel():
            return x.new_empty(*x.shape[:2], self._width)
        x = x.transpose(0, 1) if self._recurrent.batch_first else x
        with evaluating(self.layer):
            y, final = self.layer(x, self._recurrent.as_given(self.state))
        self._write(slice(0, self.batch_size), as_tuple(final))
        return cast(Tensor, y.transpose(0, 1) if self._recurrent.batch_first else y)

    def _by_steps(self, x: Tensor) -> Tensor:
        """One step ``[B, D]`` by the kernels, layer by layer."""
        layer, batch_size = self._recurrent, self.batch_size
        for level, step in enumerate(self._steps):
            if not step.is_fed:
                step.enter(x)
            y = step.run(batch_size)
            if not self._is_chained:
                (y,) = layer.joined(level, [y], [x])
            x = y
        return x.clone()

    def bare(self) -> "Bare":
        """Its one sequence without checks and copies, for callers that count microseconds.

        Raises:
            ValueError: it is not of one sequence, or not of numbers that NumPy has.
        """
        return Bare(self)

    # --- The state -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """A copy of the state, in the layer's own form; set it to go on from there."""
        return tuple(s[:, : self.batch_size].clone() for s in self._tensors())

    @state.setter
    def state(self, state: Sequence[Tensor]) -> None:
        given = check_state(state, self._recurrent.state_shapes(self.batch_size), self._like)
        self._write(slice(0, self.batch_size), tuple(s.detach() for s in given))

    def state_dict(self) -> Saved:
        """The state and whose it is, as tensors alone, to be saved with ``torch.save``."""
        return {"ids": torch.tensor(self.ids, dtype=torch.int64, device="cpu"), "state": self.state}

    def load_state_dict(self, saved: Saved) -> None:
        """Go on from what ``state_dict`` gave, whatever sequences there are now.

        Raises:
            TypeError, ValueError: it is of a layer with another state.
        """
        ids = saved["ids"].tolist()
        check_state(saved["state"], self._recurrent.state_shapes(len(ids)), self._like)
        if len(ids) > self._room:
            self._renew(len(ids))
        self.ids = ids
        self._joined = max([self._joined, *(number + 1 for number in ids)])
        self.state = saved["state"]

    def join(self, count: int = 1) -> list[int]:
        """Let ``count`` new sequences join, in rows after all others; their numbers.

        Memory doubles when it is full, so that many joining one by one copy each row but a few times.
        """
        batch_size = self.batch_size + check_size("count", count)
        if batch_size > self._room:
            self._renew(max(batch_size, 2 * self._room))
        new = list(range(self._joined, self._joined + count))
        self._write(slice(self.batch_size, batch_size), self._fresh(count))
        self.ids += new
        self._joined += count
        return new

    def leave(self, ids: Sequence[int]) -> None:
        """Let the sequences of these numbers leave; the others close ranks, in the same order.

        Memory halves when but a quarter of it is in use.

        Raises:
            ValueError: there is no such sequence.
        """
        leaving = set(ids)
        if unknown := leaving.difference(self.ids):
            raise ValueError(f"ids: got {sorted(unknown)}, expected some of those in stream.ids")
        rows = [row for row, number in enumerate(self.ids) if number not in leaving]
        state = tuple(s[:, rows] for s in self._tensors())
        self.ids = [self.ids[row] for row in rows]
        if 4 * self.batch_size <= self._room:
            self._room = max(1, self._room // 2)
            self._prepare()
        self._write(slice(0, self.batch_size), state)

    # --- Memory ----------------------------------------------------------------------------------

    def _renew(self, room: int) -> None:
        """Choose the path again, with memory for so many rows; the state stays."""
        state = self.state
        self._room = room
        self._prepare()
        self.state = state

    @torch.inference_mode(False)  # whose tensors could not be written to once it is left
    @torch.no_grad()
    def _prepare(self) -> None:
        """Choose the path, and fix the kernels' addresses."""
        layer = self._recurrent
        with evaluating(layer.module):
            reasons = layer.unsupported_reasons()
            kernels = [] if reasons else layer.step_kernels()
            if None in kernels or any(True for _ in hooked(layer.module)):
                kernels = []  # a scan of one step, by the kernel all the same
        if reasons and layer.backend == "native":
            raise RuntimeError("backend: got 'native', but " + "; ".join(reasons))
        self.reasons = tuple(reasons)
        self._like = weight_of(layer.module)
        self._seen = self._signature()
        self._is_chained, self._width = layer.is_chained, layer.output_size
        self._state = tuple(
            self._like.new_zeros(shape) for shape in self._recurrent.state_shapes(self._room)
        )
        self._steps: list[Step] = []
        for kernel in filter(None, kernels):
            below = self._steps[-1] if self._steps and self._is_chained else None
            self._steps.append(Step(kernel, self._room, self._like.dtype, below))
        # Whether there is nothing but kernels between x and y.
        bare = (step.project is None and step.read is None for step in self._steps)
        self._is_bare = bool(self._steps) and self._is_chained and all(bare)

    def _signature(self) -> list[int]:
        """What changes when an optimizer, a loaded state dict or a move changes the weights."""
        seen: list[int] = []
        for module in self._holders():
            for weight in module._parameters.values():
                if weight is not None:
                    version = 0 if weight.is_inference() else weight._version
                    seen += (version, weight.data_ptr())
        return seen

    def _holders(self) -> Sequence[nn.Module]:
        """What holds the weights that the kernels read."""
        # modules() takes longer than a small kernel, and most owners have none but themselves
        return [
            p
            for own in self._recurrent.holders()
            for p in (own.modules() if own._modules else (own,))
        ]

    def _tensors(self) -> State:
        """The state of all rows that there is memory for; a copy if the kernels hold it."""
        if not self._steps:
            return self._state
        states = [step.state for step in self._steps]
        return self._recurrent.by_layer(states)

    def _write(self, rows: slice | Tensor, state: State) -> None:
        """Write a state of some rows, in the layer's own form."""
        if not self._steps:
            for target, s in zip(self._state, state, strict=True):
                target[:, rows] = s
            return
        for step, own in zip(self._steps, self._recurrent.by_scan(state), strict=True):
            for target, s in zip(step.state, own, strict=True):
                target[rows] = s

    def _fresh(self, batch_size: int) -> State:
        """The state in which so many sequences begin."""
        with torch.no_grad():
            return self._recurrent.fresh_state(batch_size, self._like)


class Bare:
    """One sequence through a layer in NumPy's arrays, without a check, a copy or an allocation.

    The weights have to stay as they are while it is used. Any number of sequences can take turns: each
    keeps its ``state``.

        >>> import torch, unrolled
        >>> layer = unrolled.LSTM(3, 5)
        >>> bare = layer.stream().bare()
        >>> bare.x[:] = 1.0
        >>> y = bare.step().copy()
        >>> torch.allclose(torch.from_numpy(y), layer(torch.ones(1, 1, 3))[0], atol=1e-6)
        True

    Args:
        stream: of one sequence; it takes the same steps.

    Raises:
        ValueError: it has other sequences, or numbers that NumPy has not.
    """

    x: NDArray[np.floating]
    """``[D]``: what the next step reads, to be filled in."""

    def __init__(self, stream: Stream) -> None:
        if stream.batch_size != 1 or stream._like.device.type != "cpu":
            raise ValueError(
                f"stream: got {stream.batch_size} sequences on {stream._like.device}, expected one on the "
                "CPU: layer.stream(1)"
            )
        self._stream = stream
        self._steps = stream._steps if stream._is_bare else []
        size = stream._recurrent.input_size
        self._x = self._steps[0].x if self._steps else stream._like.new_zeros(1, size)
        self.x = self._x.detach()[0].numpy()
        if self._steps:
            turns = (0, 1)
            self._y = [self._steps[-1].outputs[turn][0].numpy() for turn in turns]
            self._views = [
                [s[0].numpy() for step in self._steps for s in step.states[turn]] for turn in turns
            ]

    def step(self) -> NDArray[np.floating]:
        """Take a step; ``[F]``, which is overwritten by the step after the next."""
        if not self._steps:
            y: NDArray[np.floating] = self._stream(self._x)[0].numpy()
            return y
        for step in self._steps:
            step.advance()
        return self._y[step.turn]

    @property
    def state(self) -> list[NDArray[np.floating]]:
        """A copy of the state of each level, each ``[size]``; set it to go on from there."""
        if not self._steps:
            scans = self._stream._recurrent.by_scan(self._stream.state)
            return [s[0].numpy() for state in scans for s in state]
        return [view.copy() for view in self._views[self._steps[0].turn]]

    @state.setter
    def state(self, state: Sequence[NDArray[np.floating]]) -> None:
        if self._steps:
            for view, own in zip(self._views[self._steps[0].turn], state, strict=True):
                view[:] = own
            return
        depth = self._stream._recurrent.depth
        of_level = len(state) // depth
        rows = [torch.from_numpy(s).unsqueeze(0) for s in state]
        scans = [tuple(rows[k * of_level : (k + 1) * of_level]) for k in range(depth)]
        self._stream.state = self._stream._recurrent.by_layer(scans)
