"""The state of a model, carried from one window of a long sequence to the next."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unrolled.bptt.inject import Injection, States, check_initial, layers_of, where_rows
from unrolled.cells import State
from unrolled.layers.base import weight_of
from unrolled.layers.finding import adapted
from unrolled.shapes import (
    check_flags,
    check_lengths,
    check_numbers,
    check_saved,
    listed,
    shape_or_type,
)

MODES = ("training", "evaluation")


class Carry:
    """The states of all recurrent layers in a model, kept between windows and cut from their past.

    Inside ``window()`` each layer, at any depth of the model, begins in the state that it ended in at
    the window before, without the graph that led there. So the gradient of a window ends at its
    beginning, and memory does not grow.

        >>> import torch, unrolled
        >>> from unrolled import bptt
        >>> model = torch.nn.ModuleDict({"rnn": unrolled.LSTM(3, 5), "head": torch.nn.Linear(5, 1)})
        >>> carry = bptt.Carry(model)
        >>> for x in torch.randn(4, 7, 2, 3):  # windows [T, B, D] of one long sequence a row
        ...     with carry.window():
        ...         y, _ = model["rnn"](x)
        ...         loss = model["head"](y).square().mean()
        ...     loss.backward()

    Training and evaluation have states of their own, told apart by ``model.training``: evaluation
    begins anew after each window of training, and training continues where it was.

    A call inside the window that gives a layer a state takes that one. A layer that is run again in the
    backward pass (``torch.utils.checkpoint``) would find no state there: use ``bptt.checkpointed``.

    Of a bidirectional layer the forward direction is carried alone, since the backward one comes from
    the future: in each window it begins anew at the window's end (Chen & Huo, "Training Deep
    Bidirectional LSTM Acoustic Model for LVCSR by a Context-Sensitive-Chunk BPTT Approach", 2016).

    Args:
        model: a model with recurrent layers: ``Recurrent``, the drop-in layers, or those of ``torch.nn``.
        initial: the state in which sequences begin, by the layer's name, ``[L*S, 1, size]`` a state
            tensor, zeros by default. If they are parameters they are learnt. A ``Recurrent`` with
            ``learn_initial_state`` needs none here.
        batch_first: whether ``resets`` are ``[B, T]``.

    Raises:
        TypeError, ValueError: the model holds no recurrent layer, or ``initial`` does not fit it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        initial: Mapping[str, Tensor | Sequence[Tensor]] | None = None,
        batch_first: bool = False,
    ) -> None:
        self.layers = layers_of(model)
        self.model = model
        self.initial = check_initial(self.layers, initial)
        self.batch_first = batch_first
        self.kept: dict[str, States] = {mode: {} for mode in MODES}
        self._ended: dict[str, Tensor | None] = dict.fromkeys(MODES)  # rows that ended early, [B]

    # --- Windows ---------------------------------------------------------------------------------

    @contextmanager
    def window(
        self, resets: Tensor | None = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> Iterator[None]:
        """The next window: call the model inside, once.

        The states move on when the block is left, unless by an error.

        Args:
            resets: boolean ``[T, B]``: where true, a new sequence begins with that step in that row,
                and neither state nor gradient crosses from the step before it.
            lengths: ``[B]``, of rows that end within the window. The layers read no further, if they
                can (``Recurrent`` and the drop-in layers); in later windows such a row must begin a new
                sequence, or have length 0.

        Raises:
            TypeError, ValueError: a shape does not fit, also not to the window before.
            RuntimeError: no recurrent layer ran inside, or one twice without being given a state.
        """
        mode = self.mode()
        resets, real = self.flags(resets, lengths)
        self.refuse_ended(mode, resets, real)
        with self.injection(self.kept[mode], resets, real) as injection:
            yield
        self.commit(mode, injection)

    @contextmanager
    def burn_in(
        self, resets: Tensor | None = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> Iterator[None]:
        """As ``window``, without gradient: the steps only bring the states up to what follows.

        Source: Kapturowski, Ostrovski, Quan, Munos & Dabney, "Recurrent Experience Replay in
        Distributed Reinforcement Learning", ICLR 2019.
        """
        with torch.no_grad(), self.window(resets, lengths=lengths):
            yield

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, the states begin anew; those from before come back when the block is left."""
        kept = (dict(self.kept), dict(self._ended))
        self.kept = {mode: {} for mode in MODES}
        self._ended = dict.fromkeys(MODES)
        try:
            yield
        finally:
            self.kept, self._ended = kept

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Begin anew, in all rows or in those of these numbers.

        A row begins in zeros, or in what is learnt as it is now, without its gradient; ``resets`` of
        the next window's first step give it that too.

        Raises:
            IndexError: there is no such row.
        """
        mode = self.mode()
        if rows is None:
            self.kept[mode], self._ended[mode] = {}, None
            return
        with torch.inference_mode(False), torch.no_grad():
            injection = self.injection({}, None, None)
            for name, state in self.kept[mode].items():
                count = state[0].shape[1]
                chosen = chosen_rows(rows, count, state[0].device)
                fresh = injection.fresh(name, count, state[0])
                self.kept[mode][name] = where_rows(chosen, fresh, state)
            ended = self._ended[mode]
            if ended is not None:
                self._ended[mode] = ended & ~chosen_rows(rows, len(ended), ended.device)

    @property
    def states(self) -> States:
        """The states now, by the layer's name; empty before the first window. Copies."""
        return {n: tuple(s.clone() for s in state) for n, state in self.kept[self.mode()].items()}

    # --- Save and load ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All states, as tensors by name: for ``torch.save`` or safetensors."""
        saved = {}
        for mode, states in self.kept.items():
            for name, state in states.items():
                for k, tensor in enumerate(state):
                    saved[f"{mode}/{name}/{k}"] = copied(tensor)
            ended = self._ended[mode]
            if ended is not None:
                saved[f"{mode}:ended"] = ended.clone()
        return saved

    @torch.inference_mode(False)  # so that a window outside of it can begin with them
    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            ValueError: it is of a model with other layers; nothing has been changed.
        """
        check_saved(saved)
        states: dict[str, dict[str, Tensor]] = {mode: {} for mode in MODES}
        ended: dict[str, Tensor | None] = dict.fromkeys(MODES)
        for key, tensor in saved.items():
            mode, slash, rest = key.partition("/")
            if not slash and key.removesuffix(":ended") in MODES and tensor.dtype == torch.bool:
                ended[key.removesuffix(":ended")] = tensor.clone()
            elif mode in MODES:
                states[mode][rest] = tensor
            else:
                raise ValueError(f"saved: got {key!r}, which no Carry saves")
        self.kept = {mode: self.states_from(tensors) for mode, tensors in states.items()}
        self._ended = ended

    @torch.inference_mode(False)
    def states_from(self, saved: Mapping[str, Tensor]) -> States:
        """States from tensors under names such as ``encoder/0``, or an error."""
        by_layer: dict[str, dict[int, Tensor]] = {}
        for key, tensor in saved.items():
            name, _, number = key.rpartition("/")
            if name not in self.layers or not number.isdecimal():
                known = ", ".join(map(repr, self.layers))
                raise ValueError(
                    f"saved: got {key!r}, but the model's recurrent layers are {known}"
                )
            device = weight_of(self.layers[name]).device
            by_layer.setdefault(name, {})[int(number)] = tensor.to(device, copy=True)
        return {name: self._checked(name, parts) for name, parts in by_layer.items()}

    def _checked(self, name: str, parts: Mapping[int, Tensor]) -> State:
        state = tuple(parts[k] for k in sorted(parts))
        batch_size = state[0].shape[1] if state[0].dim() == 3 else 1
        expected = adapted(self.layers[name]).state_shapes(batch_size)
        if sorted(parts) != [*range(len(expected))] or [s.shape for s in state] != expected:
            got = listed(s.shape for s in state)
            raise ValueError(
                f"saved: got shapes {got} for layer {name!r}, expected {listed(expected)}"
            )
        return state

    # --- For truncated BPTT ----------------------------------------------------------------------

    def injection(self, states: States, resets: Tensor | None, real: Tensor | None) -> Injection:
        """The layers begin in ``states`` inside it; nothing of it is kept."""
        return Injection(self.layers, states, initial=self.initial, resets=resets, real=real)

    def commit(self, mode: str, injection: Injection, *, detach: bool = True) -> None:
        """The states with which ``injection`` ended are those with which the next window begins."""
        self.require_run(injection)
        self.keep(mode, injection.finals, injection.ended, detach=detach)

    def keep(self, mode: str, finals: States, ended: Tensor | None, *, detach: bool = True) -> None:
        """The next window begins with ``finals``, and with these rows at an end."""
        if detach:
            finals = {n: tuple(s.detach() for s in state) for n, state in finals.items()}
        self.kept[mode] = {**self.kept[mode], **finals}
        self._ended[mode] = None if ended is None or not ended.any() else ended

    def require_run(self, injection: Injection) -> None:
        """Refuse a window in which no layer ran."""
        if not injection.finals:
            names = ", ".join(map(repr, self.layers))
            raise RuntimeError(
                f"window: no recurrent layer of the model ran inside ({names}); call the model there, "
                "the same object that was given to Carry"
            )

    def flags(
        self, resets: Tensor | None, lengths: Tensor | Sequence[int] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """``resets`` as ``[T, B]`` and ``lengths`` as ``[B]``, or an error."""
        if resets is not None:
            if not isinstance(resets, Tensor) or resets.dim() != 2:
                expected = "[B, T]" if self.batch_first else "[T, B]"
                raise TypeError(
                    f"resets: got {shape_or_type(resets)}, expected a boolean tensor {expected}"
                )
            steps, batch_size = resets.shape[::-1] if self.batch_first else resets.shape
            resets = check_flags("resets", resets, steps, batch_size, batch_first=self.batch_first)
        if lengths is not None:
            batch_size = len(lengths) if isinstance(lengths, Tensor | Sequence) else -1
            lengths = check_lengths(lengths, 2**62, batch_size)
        return resets, lengths

    def mode(self) -> str:
        """Training or evaluation; training drops the states of the latter."""
        training, evaluation = MODES
        if not self.model.training:
            return evaluation
        self.kept[evaluation], self._ended[evaluation] = {}, None
        return training

    def refuse_ended(self, mode: str, resets: Tensor | None, lengths: Tensor | None) -> None:
        """Refuse a window in which a row goes on that has ended."""
        ended = self._ended[mode]
        if ended is None:
            return
        wrong = ended.clone()
        for name, fine in (
            ("resets", None if resets is None else resets[:1].any(0)),
            ("lengths", None if lengths is None else lengths == 0),
        ):
            if fine is not None and fine.shape != wrong.shape:
                raise ValueError(
                    f"{name}: got {len(fine)} rows, expected {len(wrong)} as in the window before"
                )
            wrong &= True if fine is None else ~fine.to(wrong.device)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"lengths: row {row} ended in an earlier window, but goes on in this one; let resets "
                "begin a new sequence with its first step, or give it the length 0"
            )


def copied(tensor: Tensor) -> Tensor:
    """The numbers of ``tensor`` alone: no graph, no memory shared, and fit for use in any mode."""
    with torch.inference_mode(False):
        return tensor.detach().clone(memory_format=torch.contiguous_format)


def lasting(tensor: Tensor) -> Tensor:
    """``tensor`` without its graph, fit for use in any mode; a copy only if inference mode made it."""
    return copied(tensor) if tensor.is_inference() else tensor.detach()


def chosen_rows(rows: Sequence[int] | Tensor, count: int, device: torch.device) -> Tensor:
    """Which of ``count`` rows are meant, as a boolean ``[B]``."""
    expected = "numbers of rows, or a boolean a row"
    numbers = check_numbers("rows", rows, expected)
    if numbers.dtype == torch.bool and numbers.shape == (count,):
        return numbers.to(device)
    is_whole = numbers.dtype != torch.bool and not numbers.is_floating_point()
    if numbers.dim() != 1 or (numbers.numel() and not is_whole):  # an empty list has no dtype
        raise TypeError(f"rows: got {rows!r}, expected {expected}")
    chosen = torch.zeros(count, dtype=torch.bool, device=device)
    for number in numbers.tolist():
        if not 0 <= number < count:
            raise IndexError(f"rows: got {number}, expected from 0 to {count - 1}")
        chosen[number] = True
    return chosen
