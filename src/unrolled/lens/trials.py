"""Every remedy tried on a copy of the model, and measured again."""

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.cells import cell_len, set_cell_size
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils import _pytree as pytree

from unrolled import remedies
from unrolled.layers.accelerate import accelerate
from unrolled.layers.finding import Layer
from unrolled.lens.formatting import plain, steps_in_words
from unrolled.lens.report import Report, Row
from unrolled.lens.verdict import (
    FADED,
    GROWN,
    Condition,
    Verdict,
    distance,
    horizon_of_growth,
    worst,
)
from unrolled.lens.watching import Lens, watch
from unrolled.remedies.initialising import LONGEST
from unrolled.remedies.weights import cells_of
from unrolled.shapes import check_loss, check_module, check_size

AS_IT_IS = "as it is"
CLIP = "remedies.clip_states_"
SEED = 0  # of every draw, of weights and of dropout

Loss = Callable[[Any], Tensor]
Input = Tensor | PackedSequence


class _Read(NamedTuple):
    """What a remedy may ask about what its layer reads."""

    longest: int
    variance: float
    """The mean square of x."""


Apply = Callable[[Layer, _Read], Layer]


def _sensible(layer: Layer, _: _Read) -> Layer:
    list(cells_of(layer))  # or its error, where sensible_weights_ would do nothing
    return remedies.sensible_weights_(layer)


REMEDIES: dict[str, Apply] = {
    "remedies.orthogonal_weights_": lambda layer, _: remedies.orthogonal_weights_(layer),
    "remedies.chrono_bias_": lambda layer, read: remedies.chrono_bias_(layer, read.longest),
    "remedies.forget_bias_": lambda layer, _: remedies.forget_bias_(layer),
    "remedies.critical_weights_": lambda layer, read: remedies.critical_weights_(
        layer, input_variance=read.variance
    ),
    "remedies.identity_weights_, with ReLU": lambda layer, _: remedies.identity_weights_(
        remedies.with_activation(layer, "relu")
    ),
    "remedies.glorot_weights_": lambda layer, _: remedies.glorot_weights_(layer),
    "remedies.sensible_weights_": _sensible,
    "remedies.with_activation, ReLU": lambda layer, _: remedies.with_activation(layer, "relu"),
    "remedies.as_gru": lambda layer, _: remedies.as_gru(layer),
    "remedies.as_lstm": lambda layer, _: remedies.as_lstm(layer),
}
"""What is tried, besides ``clip_states_``, which is measured in another way."""


@dataclass(frozen=True)
class Trial:
    """A model after a remedy, judged by its worst scan.

    That is the one whose growth is the farthest from 1, among those that are not healthy if there are
    any. ``state``, ``growth`` (a step back) and ``horizon`` are its verdict's; where the states themselves
    are not finite, it explodes, with a growth of infinity. ``loss``: on the batch, before any training.
    ``norms``: ``‖∂L/∂h_t‖`` of that scan, ``[T]``, the mean over sequences. ``verdicts``: of every scan.
    """

    remedy: str
    state: Condition
    growth: float
    horizon: float
    loss: float
    norms: Tensor = field(repr=False)
    verdicts: tuple[Verdict, ...] = field(repr=False)


@dataclass(frozen=True)
class Trials:
    """What each remedy makes of a model. As text it is a table, the model as it is at the top."""

    before: Trial
    """The model as it is."""
    after: tuple[Trial, ...]
    """The remedies, the best first; see ``order``."""
    left_out: Mapping[str, str]
    """By the name of a remedy why it was not tried, or on which layers it was not; and by that of a layer
    why it cannot be watched."""

    @property
    def best(self) -> Trial:
        """The first of all, in which the model as it is counts too."""
        return order((self.before, *self.after))[0]

    def __str__(self) -> str:
        return self.told()

    def told(self, said: Callable[[str], str] = str) -> str:
        """The text, whose every piece is as ``said`` has it, in another language for example."""
        table = [("remedy", "verdict", "growth a step", "horizon", "loss")]
        for trial in (self.before, *self.after):
            far = steps_in_words(trial.horizon)
            table.append(
                (trial.remedy, trial.state, f"{trial.growth:.3f}", far, f"{trial.loss:.3g}")
            )
        cells = [[said(cell) for cell in row] for row in table]
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in cells]
        left_out = (said(f"left out: {name}: {why}") for name, why in self.left_out.items())
        return "\n".join([*lines, *left_out])

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON data, the model as it is first; numbers not finite are ``None``."""
        names = ("remedy", "state", "growth", "horizon", "loss")
        trials = [
            {name: getattr(trial, name) for name in names} | {"norms": trial.norms.tolist()}
            for trial in (self.before, *self.after)
        ]
        return {"trials": plain(trials), "left_out": dict(self.left_out)}

    def to_json(self) -> str:
        """``record`` as one JSON object."""
        return json.dumps(self.record(), ensure_ascii=False)


def try_remedies(
    model: nn.Module,
    batch: Input | Sequence[Input],
    loss: Loss | None = None,
    *,
    longest: int | None = None,
) -> Trials:
    """Try every remedy on a copy of ``model``, and measure again: which helps here, and how much.

    Each is applied to all recurrent layers that take it; then ``watch`` observes one forward and one
    backward pass. What is drawn, weights as well as dropout, is drawn from the same seed, 0, in every
    trial. The model, its gradients and PyTorch's random numbers are left as they are; its hooks run on the
    copies too.

    Ranked is the growth a step of the worst scan, from its Jacobians: it does not depend on the loss.
    These ``clip_states_`` leaves as they are, so that the growth of a scan that explodes is there what
    is seen: of the norms from the last step that has one to the first, clipped at the norm at the last.

        >>> import torch
        >>> from unrolled import Recurrent, cells, lens
        >>> layer = Recurrent(cells.Elman, 3, 16, activation="identity")
        >>> found = lens.try_remedies(layer, torch.randn(50, 4, 3))
        >>> found.before.state, found.best.state
        ('vanishing', 'healthy')

    Args:
        model: with recurrent layers: ``Recurrent``, the drop-in layers, or those of ``torch.nn``. It runs
            in the mode, of training or evaluation, in which it is.
        batch: what it is called with, a tensor or several, packed sequences too; of two steps or more.
        loss: of what the model returns, a scalar. By default the mean square of the last step of the
            first tensor in it: time is the first dimension, or the second if the first recurrent layer
            is ``batch_first``. One of fewer than three dimensions counts as a whole.
        longest: for ``chrono_bias_``, in steps; by default those of the longest sequence in the batch.

    Raises:
        TypeError, ValueError: an argument is not as above, or no recurrent layer can be watched.
        Exception: what the model raises on the batch.
    """
    inputs = _checked(model, batch, loss)
    if longest is not None:
        check_size("longest", longest, least=2, most=LONGEST)
    with _aside():
        lens, report, value = _measured(copy.deepcopy(model), inputs, loss)
        before = _trial(AS_IT_IS, lens, report, value)
        read = {name: _Read(longest or _steps(lens), _variance(lens, name)) for name in lens.layers}
        left_out = {f"layer {name!r}": why for name, why in lens.unseen.items()}
        after = []
        for name, apply in {**REMEDIES, CLIP: _clipping(report)}.items():
            torch.manual_seed(SEED)
            made, refused = _applied(apply, copy.deepcopy(model), read)
            if refused:
                left_out[name] = _reason(name, refused, len(read))
            if len(refused) == len(read):
                continue
            try:
                seen, report, value = _measured(made, inputs, loss)
            except Exception as error:  # of a model that is not made for it
                left_out[name] = f"the model does not run with it: {_named(error)}"
                continue
            report = _by_flow(report) if name == CLIP else report
            after.append(_trial(name, seen, report, value))
    return Trials(before, order(after), left_out)


def order(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The best first: those whose worst scan is healthy, then by how near its growth a step is to 1.

    In the logarithm, to five decimals, so that 0.5 is as far as 2. Of equals the first stays first.
    """
    return tuple(sorted(trials, key=lambda t: (t.state != "healthy", round(distance(t.growth), 5))))


# --- One trial -----------------------------------------------------------------------------------


@contextmanager
def _aside() -> Iterator[None]:
    """Inside, gradients are on and random numbers are others', whatever mode the caller is in."""
    devices = range(torch.cuda.device_count())
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        yield


def _measured(
    model: nn.Module, inputs: Sequence[Input], loss: Loss | None
) -> tuple[Lens, Report, float]:
    """What is seen of one pass, without a gradient in any parameter, and the loss."""
    torch.manual_seed(SEED)
    with watch(model) as lens:
        if not lens.layers:
            whys = "; ".join(f"{name or 'model'}: {why}" for name, why in lens.unseen.items())
            raise ValueError(f"model: got no recurrent layer that can be watched; {whys}")
        parameters = [p for layer in lens.layers.values() for p in layer.parameters()]
        weights: list[Tensor] = [p.requires_grad_() for p in parameters if p.is_floating_point()]
        try:
            returned = model(*map(_copied, inputs))
        except Exception as error:
            error.add_note("raised by the model, which try_remedies called with the batch")
            raise
        if loss is None:
            loss = partial(last_step, batch_first=next(iter(lens.layers.values())).batch_first)
        value = check_loss(loss(returned))
        if not value.requires_grad:
            raise ValueError(
                "loss: returned a number without gradient, expected one with; make it of what the "
                "model returns, without detach() or no_grad()"
            )
        gradients = torch.autograd.grad(value, weights, allow_unused=True) if weights else ()
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "loss: no gradient of it comes to a recurrent layer, expected one; make it of what "
                "the model returns, without detach() or no_grad()"
            )
    return lens, lens.report(views=False), value.item()


def last_step(returned: Any, *, batch_first: bool = False) -> Tensor:
    """The loss by default, as ``try_remedies`` says; of packed rows, the last step of each sequence."""
    leaves = pytree.tree_leaves(returned, is_leaf=lambda part: isinstance(part, PackedSequence))
    first = next((leaf for leaf in leaves if isinstance(leaf, Tensor | PackedSequence)), None)
    if first is None:
        raise TypeError(
            f"loss: got None, and the model returns {type(returned).__name__} without a tensor; "
            "give a function of what it returns"
        )
    if isinstance(first, PackedSequence):
        y, lengths = pad_packed_sequence(first)
        first = y[lengths - 1, torch.arange(len(lengths), device=lengths.device)]
    elif first.dim() >= 3:
        if not first.shape[1 if batch_first else 0]:
            raise ValueError(
                f"batch: the model returns {list(first.shape)}, which has no step; expected a batch of "
                "at least 2 steps"
            )
        first = first[:, -1] if batch_first else first[-1]
    return first.square().mean()


def _trial(remedy: str, lens: Lens, report: Report, loss: float) -> Trial:
    verdicts = tuple(row.verdict for row in report.rows if row.verdict is not None)
    if report.broken is not None:
        for row in report.rows:
            if row.verdict is None:
                return Trial(remedy, "exploding", math.inf, math.inf, loss, row.norms, verdicts)
    chosen = worst([verdict for verdict in verdicts if not math.isnan(verdict.growth)])
    if chosen is None:
        raise ValueError(
            f"batch: got {_steps(lens)} real step, expected at least 2, since growth is from step to step"
        )
    norms = next(row.norms for row in report.rows if row.verdict is chosen)
    return Trial(remedy, chosen.state, chosen.growth, chosen.horizon, loss, norms, verdicts)


# --- Applying ------------------------------------------------------------------------------------


def _applied(
    apply: Apply, model: nn.Module, read: Mapping[str, _Read]
) -> tuple[nn.Module, dict[str, str]]:
    """``model`` with each of its layers treated, and by name why some refused it."""
    refused = {}
    for name, of_layer in read.items():
        layer: Any = model.get_submodule(name)
        kept = copy.deepcopy(layer.state_dict())
        try:
            made = apply(layer, of_layer)
        except (TypeError, ValueError, RuntimeError) as error:
            layer.load_state_dict(kept)  # it may have come half way
            refused[name] = str(error).partition("\n")[0]
        else:
            model = _replaced(model, layer, made)
    return model, refused


def _replaced(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """``model`` with ``new`` wherever it holds ``old``."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, part in parent._modules.items():
            if part is old:
                setattr(parent, name, new)
    return model


def _clipping(report: Report) -> Apply:
    """``clip_states_`` at the largest norm with which the way back through a scan that explodes begins."""
    exploding = [row for row in report.rows if row.verdict and row.verdict.state == "exploding"]
    begins = [norm for row in exploding for norm in _way_back(row)[:1].tolist()]

    def apply(layer: Layer, _: _Read) -> Layer:
        if report.broken is not None and not exploding:
            raise ValueError("clip_states_: the states are not finite, and stay so")
        if not begins:
            raise ValueError("clip_states_: nothing explodes that a gradient comes to")
        return remedies.clip_states_(accelerate(layer, report=None), max(begins))

    return apply


def _by_flow(report: Report) -> Report:
    """``report`` in which a scan that explodes is judged by the norms that were seen."""
    rows = []
    for row in report.rows:
        verdict, norms = row.verdict, _way_back(row)
        if verdict is not None and verdict.state == "exploding" and len(norms) > 1:
            row = replace(row, verdict=_seen(verdict, norms))
        rows.append(row)
    return replace(report, rows=tuple(rows))


def _seen(verdict: Verdict, norms: Tensor) -> Verdict:
    """``verdict`` by ``norms`` on the way back."""
    whole = float(norms[-1] / norms[0])
    growth = whole ** (1 / (len(norms) - 1))
    return replace(
        verdict,
        state="exploding" if whole > GROWN else "vanishing" if whole < FADED else "healthy",
        growth=growth,
        horizon=horizon_of_growth(growth),
        evidence=f"clipped, a step back multiplies the gradient that is seen by {growth:.3f}",
        remedies=(),
    )


def _way_back(row: Row) -> Tensor:
    """The norms of the gradients that came, in the order in which the backward pass has them."""
    norms = row.norms if row.direction else row.norms.flip(0)
    return norms[norms.isfinite() & (norms > 0)]


# --- Checks --------------------------------------------------------------------------------------


def _checked(model: object, batch: object, loss: object) -> tuple[Input, ...]:
    """What the model is called with, or an error."""
    check_module("model", model)
    if loss is not None and not callable(loss):
        raise TypeError(
            f"loss: got {type(loss).__name__}, expected a function of what the model returns"
        )
    single = isinstance(batch, Tensor | PackedSequence)
    inputs = tuple(batch) if isinstance(batch, tuple | list) and not single else (batch,)
    if not inputs:
        raise TypeError(
            "batch: got nothing, expected a tensor or several, with which the model is called"
        )
    for part in inputs:
        if not isinstance(part, Tensor | PackedSequence):
            raise TypeError(
                f"batch: got {type(part).__name__}, expected a tensor or a PackedSequence, or a tuple "
                "of such, with which the model is called; wrap the model if it takes others"
            )
    return tuple(part for part in inputs if isinstance(part, Tensor | PackedSequence))


def _copied(part: Input) -> Input:
    if isinstance(part, PackedSequence):
        return PackedSequence(part.data.detach().clone(), *part[1:])
    return part.detach().clone()


def _steps(lens: Lens) -> int:
    """How many real steps without a reset there are in a row, at most."""
    stretches = (flow.longest() for flow in lens.flows)
    return max((len(stretch.steps) for stretch in stretches if stretch is not None), default=0)


def _variance(lens: Lens, name: str) -> float:
    """The mean square of what a layer read, at its real steps."""
    rows = lens.read_by(name)
    return 1.0 if rows is None else rows.double().square().mean().item()


def _reason(remedy: str, refused: Mapping[str, str], layers: int) -> str:
    """Why layers refused, each named unless it is all of them for one reason."""
    own = f"{remedy.removeprefix('remedies.')}: "
    whys = {name: why.removeprefix(own) for name, why in refused.items()}
    if len(whys) == layers and len(set(whys.values())) == 1:
        return next(iter(whys.values()))
    return "; ".join(f"{name}: {why}" for name, why in whys.items())


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
