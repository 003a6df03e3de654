"""Truncated backpropagation through time: every k1 steps, back through k2."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from unrolled.bptt.carry import Carry, chosen_rows, copied
from unrolled.bptt.inject import Injection, States
from unrolled.layers.finding import is_recurrent
from unrolled.shapes import (
    Lengths,
    check_dense,
    check_flags,
    check_generator,
    check_lengths,
    check_saved,
    check_size,
    real_steps,
    shape_or_type,
)

ALPHA = 4.0  # how slowly the odds of an end fall with the length of a span; above 1


class PastWindow(NamedTuple):
    """A window that has been read: the states before it, and what was read."""

    states: States
    inputs: tuple[Tensor, ...]  # [K, B, ...] each
    resets: Tensor | None  # [K, B]
    real: Tensor | None  # [K, B]

    def kept(self) -> "PastWindow":
        """The same in memory of its own: the caller may fill a tensor anew for each window."""
        own = copied if torch.is_inference_mode_enabled() else torch.clone
        flags = (None if f is None else own(f) for f in (self.resets, self.real))
        return PastWindow(self.states, tuple(own(x) for x in self.inputs), *flags)


class Truncated:
    """A model on an endless sequence: each window's gradient goes back through the last ``k2`` steps.

    BPTT(k1, k2) of Williams & Peng: ``y = truncated(x)`` of the next k1 steps; the gradient of y goes
    back through the last k2 steps, these k1 among them, and no further. Where k2 is larger than k1, the
    steps before the window are read again, from the state in which the sequence passed there, so that
    the weights may change between windows. Outputs are given once only, for the new steps; so each
    loss counts once.

        >>> import torch, unrolled
        >>> from unrolled import bptt
        >>> layer = unrolled.GRU(3, 5)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> truncated = bptt.Truncated(layer, 14)
        >>> for x in torch.randn(4, 7, 2, 3):  # k1 = 7
        ...     optimizer.zero_grad()
        ...     truncated(x).square().mean().backward()
        ...     optimizer.step()

    States are kept as by ``Carry``; training and evaluation have their own. Chance (dropout) is drawn
    anew where steps are read again. In evaluation none are: a gradient there ends with the window.

    With ``randomised`` the truncation has no bias: after each window it is drawn whether the gradient
    ends there, with probability c, and ``truncates`` says so; else what comes back through that point
    is multiplied by 1 / (1 - c). The losses of the windows from one truncation to the next, k2 steps on
    average, are to be added, and differentiated when ``truncates``:

        >>> truncated = bptt.Truncated(layer, 14, randomised=True)
        >>> losses = []
        >>> for x in torch.randn(8, 7, 2, 3):
        ...     losses.append(truncated(x).square().mean())
        ...     if truncated.truncates:
        ...         sum(losses).backward()
        ...         losses.clear()

    Sources: Williams & Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent
    Network Trajectories", Neural Computation 2 (1990); Tallec & Ollivier, "Unbiasing Truncated
    Backpropagation Through Time", 2017. c falls with the length of the span, so that the factors grow
    but as a power of it: c = α / ((α - 1) L + δ) after δ windows, with L their number on average, α = 4.

    Args:
        model: called with the inputs, ``[T, B, ...]`` each; its outputs, a tensor or a structure of
            them, have the steps first too. Of a recurrent layer they are y alone. What makes the inputs
            of parameters, such as an embedding, belongs into it: that is run again too.
        k2: how many steps the gradient goes back; on average if ``randomised``.
        randomised: whether truncation is drawn.
        generator: the source of chance for that; by default PyTorch's own.
        initial: as for ``Carry``.
        batch_first: whether all is ``[B, T, ...]``.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    truncates = True
    """Whether the gradient ends with the last window: always, unless ``randomised``."""

    def __init__(
        self,
        model: nn.Module,
        k2: int,
        *,
        randomised: bool = False,
        generator: torch.Generator | None = None,
        initial: Mapping[str, Tensor | Sequence[Tensor]] | None = None,
        batch_first: bool = False,
    ) -> None:
        self.carry = Carry(model, initial=initial, batch_first=batch_first)
        self.model = model
        self.k2 = check_size("k2", k2)
        self.randomised = randomised
        check_generator(generator)
        self.generator = generator
        self.time = 1 if batch_first else 0
        self._history: list[PastWindow] = []
        self._pending: Tensor | None = None  # rows that begin anew with the next window, [B]
        self._span = 0  # windows since the last truncation

    def __call__(
        self, *inputs: Tensor, resets: Tensor | None = None, lengths: Lengths | None = None
    ) -> Any:
        """The outputs of the next window's steps.

        Args:
            inputs: ``[k1, B, ...]`` each; k1 may differ from window to window.
            resets: boolean ``[k1, B]``, as for ``Carry.window``.
            lengths: ``[B]``, as for ``Carry.window``.

        Raises:
            ValueError: k1 is larger than k2; or a shape does not fit, also not to the window before.
            RuntimeError: no recurrent layer of the model ran.
        """
        steps, batch_size = self._steps_of(inputs), inputs[0].shape[1 - self.time]
        if steps > self.k2:
            raise ValueError(
                f"k1: got a window of {steps} steps with k2 = {self.k2}, expected at most k2; "
                f"the smallest k2 that works is {steps}"
            )
        mode = self.carry.mode()
        if resets is not None:
            resets = check_flags("resets", resets, steps, batch_size, batch_first=self.time == 1)
        counts = None if lengths is None else check_lengths(lengths, steps, batch_size)
        is_training = mode == "training"
        if is_training:
            resets = self._with_pending(resets, steps, batch_size)
        self.carry.refuse_ended(mode, resets, counts)
        real = None if counts is None else real_steps(counts, steps)
        window = PastWindow(self.carry.kept[mode], inputs, resets, real)
        reach = self._reach(window) if is_training else [window]
        output, injection = self._read(reach)
        output = self._latest(output, steps)
        if is_training:
            self._pending = None
            if self.randomised:
                self._draw(injection, steps)
            else:
                self._history = [*reach[:-1], window.kept()]
        self.carry.commit(mode, injection, detach=self.truncates or not is_training)
        return output

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Begin anew with the next window, in all rows or in those of these numbers."""
        if rows is None or not self.model.training:
            self.carry.reset(rows)
            if self.model.training:
                self._history, self._pending, self._span, self.truncates = [], None, 0, True
            return
        states = self.carry.kept[self.carry.mode()]
        if states:
            first = next(iter(states.values()))[0]
            chosen = chosen_rows(rows, first.shape[1], torch.device("cpu"))
            self._pending = chosen if self._pending is None else chosen | self._pending

    def state_dict(self) -> dict[str, Tensor]:
        """The states and what is to be read again, as tensors by name.

        Raises:
            RuntimeError: a randomised span has not ended; save where ``truncates``.
        """
        if not self.truncates:
            raise RuntimeError(
                "state_dict: a span is under way, whose graph cannot be saved; save after a window "
                "with truncates=True"
            )
        saved = {f"carry/{key}": tensor for key, tensor in self.carry.state_dict().items()}
        for k, window in enumerate(self._history):
            for name, state in window.states.items():
                for i, tensor in enumerate(state):
                    saved[f"{k}/state/{name}/{i}"] = copied(tensor)
            for i, tensor in enumerate(window.inputs):
                saved[f"{k}/input/{i}"] = copied(tensor)
            for kind in ("resets", "real"):
                if (flags := getattr(window, kind)) is not None:
                    saved[f"{k}/{kind}"] = copied(flags)
        if self._pending is not None:
            saved["pending"] = self._pending.clone()
        return saved

    @torch.inference_mode(False)
    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            ValueError: it is of a model with other layers; nothing has been changed.
        """
        check_saved(saved)
        numbers = {int(k.split("/")[0]) for k in saved if k.split("/")[0].isdecimal()}
        history = []
        for k in sorted(numbers):
            mine = _below(f"{k}/", saved)
            states, inputs = self.carry.states_from(_below("state/", mine)), _below("input/", mine)
            read = tuple(inputs[str(i)].clone() for i in range(len(inputs)))
            history.append(PastWindow(states, read, mine.get("resets"), mine.get("real")))
        self.carry.load_state_dict(_below("carry/", saved))
        self._history, self._pending = history, saved.get("pending")
        self._span, self.truncates = 0, True

    # --- Reading ---------------------------------------------------------------------------------

    def _reach(self, window: PastWindow) -> list[PastWindow]:
        """The windows that hold the last k2 steps, ``window`` being the newest."""
        reach, steps = [window], self._steps_of(window.inputs)
        batch_size = window.inputs[0].shape[1 - self.time]
        for earlier in reversed(self._history):
            if steps >= self.k2:
                break
            before = earlier.inputs[0].shape[1 - self.time]
            if before != batch_size:
                raise ValueError(
                    f"x: got {batch_size} rows, expected {before} as in the window before; keep the batch "
                    "size, or begin anew with reset()"
                )
            reach.insert(0, earlier)
            steps += self._steps_of(earlier.inputs)
        return reach

    def _read(self, windows: Sequence[PastWindow]) -> tuple[Any, Injection]:
        """The model's output on the last k2 steps of ``windows``, and the injection that ran it."""
        inputs = tuple(
            _cat(parts, self.time) for parts in zip(*(c.inputs for c in windows), strict=True)
        )
        resets, real = (self._flags_of(windows, kind) for kind in ("resets", "real"))
        steps, states = self._steps_of(inputs), windows[0].states
        before = max(0, steps - self.k2)
        if before:  # from where a state was kept to where the gradient ends
            with torch.no_grad(), self._injection(states, resets, real, 0, before) as injection:
                self.model(*(x.narrow(self.time, 0, before) for x in inputs))
            states = states | injection.finals
        with self._injection(states, resets, real, before, steps) as injection:
            output = self.model(*(x.narrow(self.time, before, steps - before) for x in inputs))
        self.carry.require_run(injection)
        return output, injection

    def _injection(
        self, states: States, resets: Tensor | None, real: Tensor | None, begin: int, end: int
    ) -> Injection:
        resets = None if resets is None else resets[begin:end]
        return self.carry.injection(states, resets, None if real is None else real[begin:end])

    def _flags_of(self, windows: Sequence[PastWindow], kind: str) -> Tensor | None:
        """The resets or the real steps of ``windows`` one after another."""
        parts = [getattr(window, kind) for window in windows]
        if all(part is None for part in parts):
            return None
        batch_size = windows[0].inputs[0].shape[1 - self.time]
        filled = [
            torch.full((self._steps_of(window.inputs), batch_size), kind == "real", device="cpu")
            if p is None
            else p.cpu()
            for window, p in zip(windows, parts, strict=True)
        ]
        return torch.cat(filled)

    def _latest(self, output: Any, steps: int) -> Any:
        """The outputs of the last ``steps`` steps."""
        if is_recurrent(self.model):
            output = output[0]

        def latest(y: Any) -> Any:
            if not isinstance(y, Tensor) or y.dim() <= self.time or y.shape[self.time] < steps:
                raise ValueError(
                    f"model: gave {shape_or_type(y)}, expected outputs with {steps} steps or more in "
                    f"dimension {self.time}; wrap it in a module that returns those alone"
                )
            return y.narrow(self.time, y.shape[self.time] - steps, steps)

        return pytree.tree_map(latest, output)

    def _draw(self, injection: Injection, steps: int) -> None:
        """Whether the gradient ends here; if not, what comes back is multiplied."""
        self._span += 1
        average = self.k2 / steps
        odds = min(1.0, ALPHA / ((ALPHA - 1) * average + self._span))
        self.truncates = bool(torch.rand((), generator=self.generator, device="cpu") < odds)
        if self.truncates:
            self._span = 0
        else:
            factor = 1 / (1 - odds)
            injection.finals = {
                name: tuple(_Scaled.apply(s, factor) for s in state)  # type: ignore[no-untyped-call]
                for name, state in injection.finals.items()
            }

    def _steps_of(self, inputs: Sequence[Tensor]) -> int:
        """K, which all inputs share."""
        for x in inputs:
            shape = "[B, T, ...]" if self.time else "[T, B, ...]"
            if not isinstance(x, Tensor) or x.dim() < 2:
                raise ValueError(f"x: got {shape_or_type(x)}, expected a tensor {shape}")
            check_dense("x", x, shape)
        counts = {x.shape[self.time] for x in inputs}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"x: got {sorted(counts)} steps, expected one number of 1 or more")
        return counts.pop()

    def _with_pending(self, resets: Tensor | None, steps: int, batch_size: int) -> Tensor | None:
        """``resets`` and those that ``reset`` asked for."""
        if self._pending is None or len(self._pending) != batch_size:
            return resets
        asked = torch.zeros(steps, batch_size, dtype=torch.bool, device="cpu")
        asked[0] = self._pending
        return asked if resets is None else asked | resets.cpu()


def truncated(
    model: nn.Module,
    x: Tensor | Sequence[Tensor],
    *,
    k1: int,
    k2: int | None = None,
    resets: Tensor | None = None,
    lengths: Lengths | None = None,
    randomised: bool = False,
    generator: torch.Generator | None = None,
    initial: Mapping[str, Tensor | Sequence[Tensor]] | None = None,
    batch_first: bool = False,
) -> Iterator[tuple[Any, slice]]:
    """Truncated BPTT over a whole sequence: every ``k1`` steps, back through ``k2``.

    For each k1 steps, the model's outputs at them and which steps they are; take the loss there,
    ``backward()``, and a step of the optimizer. With k2 of T or more, and no step of the optimizer
    between, the gradients add up to that of full BPTT. ``Truncated`` says more, and is for sequences
    without an end.

        >>> import torch, unrolled
        >>> from unrolled import bptt
        >>> layer, x = unrolled.GRU(3, 5), torch.randn(20, 2, 3)
        >>> [steps.stop for y, steps in bptt.truncated(layer, x, k1=7, k2=14)]
        [7, 14, 20]

    Args:
        model: as for ``Truncated``.
        x: ``[T, B, ...]``, or several of them, of which the model is given as many.
        k1: how many steps at a time; the last ones may be fewer.
        k2: how many steps the gradient goes back; k1 by default.
        resets: boolean ``[T, B]``, as for ``Carry.window``.
        lengths: ``[B]``, each from 0 to T: the layers read no further.
        randomised: whether truncation is drawn after each k1 steps, k2 apart on average. What is given
            then are the outputs of all steps from one truncation to the next.
        generator: as for ``Truncated``.
        initial: likewise.
        batch_first: likewise.

    Returns:
        An iterator over (outputs ``[K, B, ...]``, the slice of the steps that they are).

    Raises:
        TypeError, ValueError: k1 is larger than k2 or T, or an argument is not as above.
    """
    inputs = tuple(x) if isinstance(x, list | tuple) else (x,)
    check_size("k1", k1)
    k2 = k1 if k2 is None else check_size("k2", k2)
    if k1 > k2:
        raise ValueError(
            f"k1: got {k1} with k2 = {k2}, expected at most k2; the smallest k2 that works is {k1}"
        )
    learner = Truncated(
        model,
        k2,
        randomised=randomised,
        generator=generator,
        initial=initial,
        batch_first=batch_first,
    )
    steps = learner._steps_of(inputs)
    batch_size = inputs[0].shape[1 - learner.time]
    if k1 > steps:
        raise ValueError(f"k1: got {k1}, expected at most {steps}, the steps of x")
    if resets is not None:
        resets = check_flags("resets", resets, steps, batch_size, batch_first=batch_first)
    counts = None if lengths is None else check_lengths(lengths, steps, batch_size)

    def spans() -> Iterator[tuple[Any, slice]]:
        outputs, first = [], 0
        for begin in range(0, steps, k1):
            end = min(begin + k1, steps)
            parts = [x.narrow(learner.time, begin, end - begin) for x in inputs]
            flags = None if resets is None else resets[begin:end]
            if flags is not None and batch_first:
                flags = flags.transpose(0, 1)
            left = None if counts is None else (counts - begin).clamp(0, end - begin)
            outputs.append(learner(*parts, resets=flags, lengths=left))
            if learner.truncates or end == steps:
                whole = pytree.tree_map(lambda *ys: _cat(ys, learner.time), *outputs)
                yield whole, slice(first, end)
                outputs, first = [], end

    return spans()


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x, factor):  # type: ignore[no-untyped-def]
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient * ctx.factor, None


def _below(prefix: str, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is saved under names that begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): t for k, t in saved.items() if k.startswith(prefix)}


def _cat(parts: Sequence[Tensor], time: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), time)
