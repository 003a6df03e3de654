"""The training loop: BPTT over what a feed gives, clipping, a schedule, evaluation, early stop.

Whatever a step draws at random follows from (seed, step) alone, and the order of the batches from
(seed, epoch). So a run that was stopped at any moment and resumed from its last checkpoint ends at
the same weights, to the bit, as one that never stopped.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unrolled.errors import RunError
from unrolled.lens import Lens, Report, watch
from unrolled.shapes import check_size
from unrolled.training.averaging import average_into
from unrolled.training.feed import Feed
from unrolled.training.files import read_tensors, write_tensors
from unrolled.training.model import Model
from unrolled.training.remedies import Clipper, begun
from unrolled.training.run import TRAINING, WEIGHTS, Run, check_fit, finite, in_float32, weights_of
from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

CALIBRATION_SECONDS = 6.0
HEADROOM = 1.25  # of a budget of memory, over what the first batches need


@dataclass(frozen=True)
class Step:
    """What one step of training did. ``gradient_norm`` is that before clipping.

    ``count``: how much it read, of ``unit``.
    """

    step: int
    epoch: int
    loss: float
    gradient_norm: float
    learning_rate: float
    count: int
    unit: str


class Callback(Protocol):
    """What follows the training: a progress bar, a log."""

    def step(self, step: Step) -> None:
        """Called after every step."""

    def evaluated(self, step: int, scores: Scores) -> None:
        """Called after every evaluation on the validation split."""

    def seen(self, step: int, report: Report) -> None:
        """Called after every step that was watched, where any is."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended: after ``step`` steps, early or not, and the best validation loss."""

    step: int
    stopped_early: bool
    best: float


class Trainer:
    """The state of a training: model, optimizer, the step, the best validation loss so far.

    ``kept`` is the model that is evaluated and kept for use: the one that is trained, or with
    ``settings.average`` a second one, with the average of its weights.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.settings = run.settings
        self.data = run.dataset()
        torch.manual_seed(self.settings.seed)
        with in_float32(), torch.device("cpu"):  # as its data
            if self.settings.remedy:
                self.model = begun(run.kinds[run.kind], run.model_config, self.settings).train()
            else:
                self.model = run.new_model().train()
        self.clipper = Clipper(self.model, self.settings)
        self.models = {"model": self.model}  # by their names in a checkpoint
        if self.settings.average:
            self.models["average"] = copy.deepcopy(self.model)
        self.kept = self.models.get("average", self.model)
        self.feed = run.feed(self.model, self.data)
        self.judge = run.feed(self.kept, self.data)
        self.optimizer = make_optimizer(self.model, self.settings)
        self.step = 0
        self.best = math.inf
        self.worse = 0  # evaluations since the best
        self.stopped_early = False
        self.evaluations: list[list[float]] = []  # of each: the step, and what ``Scores`` has

    def train(
        self,
        callbacks: Sequence[Callback] = (),
        checkpoint_seconds: float = 30,
        *,
        watch_every: int | None = None,
    ) -> Outcome:
        """Train to the end, or until the validation loss has not improved for ``patience`` evaluations.

        Args:
            callbacks: what is called after each step and evaluation.
            checkpoint_seconds: the time between checkpoints.
            watch_every: the first step, the last, and every so many, are run inside ``unrolled.watch``,
                which changes no number; the report is that before the step's update.

        Raises:
            RunError: a loss or the gradient is not finite; the best weights so far are kept.
            TypeError, ValueError: ``watch_every`` is not a whole number from 1 up.
        """
        settings = self.settings
        if watch_every is not None:
            check_size("watch_every", watch_every)
        torch.set_num_threads(settings.threads)
        if not (self.run.directory / WEIGHTS).exists():
            self.run.save_weights(self.kept, {"step": self.step})
        self.checkpoint()
        saved = time.monotonic()
        for epoch, item in self.feed.from_step(self.step):
            if self.step >= settings.steps or self.stopped_early:
                break
            done, report = self._step(epoch, item, watch_every)
            for callback in callbacks:
                if report is not None:
                    callback.seen(self.step, report)
                callback.step(done)
            if settings.evaluates(self.step):
                scores = self._evaluate()
                if scores.count:
                    for callback in callbacks:
                        callback.evaluated(self.step, scores)
            elif time.monotonic() - saved < checkpoint_seconds or not self._finite():
                continue  # weights that are not finite end the run at the next step
            self.checkpoint()
            saved = time.monotonic()
        return Outcome(self.step, self.stopped_early, self.best)

    def _step(
        self, epoch: int, item: Any, watch_every: int | None = None
    ) -> tuple[Step, Report | None]:
        settings, number = self.settings, self.step + 1
        rate = settings.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        is_watched = watch_every is not None and (
            number in (1, settings.steps) or number % watch_every == 0
        )
        fed = self.feed.state_dict() if watch_every else None
        with watch(self.model) if is_watched else nullcontext() as lens:
            loss, size = self._backward(item, lens)
        for name, value in (("loss", loss), ("gradient's norm", size)):
            if not math.isfinite(value):
                if fed is not None and lens is None:
                    lens = self._once_more(item, fed)
                raise self._diverged(name, value, number, lens)
        report = None if lens is None else lens.report()
        self.optimizer.step()
        if settings.average:
            average_into(self.kept, self.model, settings.average, number)
        self.step = number
        return Step(number, epoch, loss, size, rate, self.feed.count(item), self.feed.unit), report

    def _backward(self, item: Any, lens: Lens | None = None) -> tuple[float, float]:
        """The gradient of an item, clipped; its loss, and the norm before clipping."""
        # As torch.manual_seed, which notes it for other devices too, for as long as a small step.
        torch.default_generator.manual_seed((self.settings.seed << 32) + self.step)
        loss = self.feed.loss(item)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm, bound = self.clipper()
        if lens is not None and bound is not None:
            lens.clipped(norm, bound)
        return loss.item(), norm.item()

    def _once_more(self, item: Any, fed: Mapping[str, Tensor]) -> Lens:
        """The same step, from the same state, watched."""
        self.feed.load_state_dict(fed)
        with watch(self.model) as lens:
            self._backward(item)
        return lens

    def _evaluate(self) -> Scores:
        """Score the validation split; keep the weights if they are the best so far."""
        scores = self.judge.scores()
        if scores.count:
            self.evaluations.append([self.step, *scores.figures().values()])
        if not (self._finite() if scores.count == 0 else math.isfinite(scores.loss)):
            raise self._diverged("loss on the validation split", scores.loss, self.step)
        if scores.count == 0 or scores.loss < self.best:  # nothing to validate on: keep the latest
            self.best, self.worse = scores.loss if scores.count else math.inf, 0
            notes = {"step": self.step, f"validation_{scores.measure}": scores.loss}
            self.run.save_weights(self.kept, notes)
        else:
            self.worse += 1
            self.stopped_early = (
                self.worse >= self.settings.patience and self.step < self.settings.steps
            )
        return scores

    def _finite(self) -> bool:
        """Whether every weight, and the average of each, is a finite number."""
        return all(map(finite, self.models.values()))

    def _diverged(self, name: str, value: float, step: int, lens: Lens | None = None) -> RunError:
        """The error that ends the run; the weights that are kept for use are good ones."""
        if self.best == math.inf:  # none evaluated: the last checkpoint's are the latest good
            self.restore()
            self.run.save_weights(self.kept, {"step": self.step})
        broken = None if lens is None else lens.broken()
        where = "" if broken is None else f"; {broken}"
        return RunError(
            f"the {name} is {value} at step {step} of {self.settings.steps}{where}; stopped. The "
            f"weights of step {self.run.weights_step()} are kept in {self.run.directory}; start a new run "
            "with a lower --learning-rate or --clip"
        )

    def checkpoint(self) -> None:
        """Write all that resuming needs."""
        tensors: dict[str, Tensor] = {}
        for owner, model in self.models.items():
            tensors |= {f"{owner}.{name}": tensor for name, tensor in weights_of(model).items()}
        for k, state in self.optimizer.state_dict()["state"].items():
            for name, tensor in state.items():
                if tensor is not None:
                    tensors[f"optimizer.{k}.{name}"] = tensor
        tensors |= {f"feed.{name}": tensor for name, tensor in self.feed.state_dict().items()}
        tensors |= {f"clip.{name}": tensor for name, tensor in self.clipper.state_dict().items()}
        notes: dict[str, Any] = {name: getattr(self, name) for name in PROGRESS}
        write_tensors(self.run.directory / TRAINING, tensors, notes)

    def restore(self) -> None:
        """Go back to the last checkpoint; to the start where there is none yet.

        Raises:
            RunError: it is damaged, or not of this run.
        """
        path = self.run.directory / TRAINING
        if not path.exists():
            return
        tensors, notes = read_tensors(path)
        weights: dict[str, dict[str, Tensor]] = {owner: {} for owner in self.models}
        state: dict[int, dict[str, Tensor]] = {}
        fed: dict[str, Tensor] = {}
        clipped: dict[str, Tensor] = {}
        try:
            for name, tensor in tensors.items():
                owner, rest = name.split(".", 1)
                if owner in weights:
                    weights[owner][rest] = tensor
                elif owner == "feed":
                    fed[rest] = tensor
                elif owner == "clip":
                    clipped[rest] = tensor
                elif owner != "optimizer":
                    raise ValueError(f"{name}: no state of this run has that name")
                else:
                    k, key = rest.split(".", 1)
                    state.setdefault(int(k), {})[key] = tensor
            for owner, model in self.models.items():
                check_fit(model, weights[owner], f"{path}: {owner}")
            self.step = check_size("step", notes["step"], least=0, most=self.settings.steps)
            self.worse = check_size("worse", notes["worse"], least=0)
            self.best, self.stopped_early = float(notes["best"]), bool(notes["stopped_early"])
            self.evaluations = evaluations_of(notes)
            self._check_optimizer(state)
            self.feed.load_state_dict(fed)
            self.clipper.load_state_dict(clipped)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise RunError(f"{path}: not the training state of this run ({error!r})") from None
        for owner, model in self.models.items():
            for name, parameter in weights_of(model).items():
                parameter.data.copy_(weights[owner][name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _check_optimizer(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Refuse a state that the optimizer could not have: the kernels do not check."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        keys = OPTIMIZER_STATE[self.settings.optimizer]
        expected = {
            (k, key): () if key == "step" else tuple(parameter.shape)
            for k, parameter in enumerate(parameters)
            for key in keys
        }
        got = {(k, key): tuple(t.shape) for k, entry in state.items() for key, t in entry.items()}
        if got != (expected if self.step else {}):
            raise ValueError("the optimizer's state has other names or shapes")


def evaluations_of(notes: Mapping[str, Any]) -> list[list[float]]:
    """The evaluations that a checkpoint notes: of each the step, and the figures of its ``Scores``.

    Raises:
        TypeError, ValueError: they are not such.
    """
    evaluations: list[list[float]] = [list(row) for row in notes.get("evaluations", [])]
    for row in evaluations:
        expected = max(2, len(evaluations[0]))
        if len(row) != expected or not all(isinstance(value, int | float) for value in row):
            raise ValueError(f"evaluations: got {row!r}, expected {expected} numbers")
    return evaluations


# What a checkpoint notes beside the tensors.
PROGRESS = ("step", "best", "worse", "stopped_early", "evaluations")
OPTIMIZER_STATE = {"adam": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba, 2014; decoupled weight decay: Loshchilov & Hutter, 2017) or SGD.

    Only matrices decay, biases do not.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)


def steps_of_epochs(epochs: float, items: int) -> int:
    """How many steps so many passes over ``items`` make."""
    return max(1, round(epochs * items))


def steps_of(
    model: Model, settings: Settings, feed_of: Callable[[Any, Settings], Feed[Any]]
) -> int:
    """How many steps ``settings.epochs`` make, or fit into ``settings.minutes``.

    Minutes are turned into steps by training a copy of the model for a few seconds; that, and the
    time for evaluations, is allowed for. The model and PyTorch's source of chance stay as they were.

    Args:
        model: with its initial weights.
        settings: of the training; their ``steps`` do not count.
        feed_of: what a model reads with such settings.

    Raises:
        ValueError: the gradient does not fit into ``settings.memory``.
    """
    trial = copy.deepcopy(model).train()
    kept = copy.deepcopy(trial) if settings.average else trial
    feed = feed_of(trial, settings)
    if settings.memory is not None:  # too little is to be known before the run is one
        tight = replace(settings, memory=max(1, int(settings.memory / HEADROOM)))
        first = feed_of(trial, tight)
        with torch.random.fork_rng(devices=[]):
            first.loss(next(first.from_step(0))[1])
    if settings.epochs is not None:
        return steps_of_epochs(settings.epochs, len(feed))
    if settings.minutes is None:
        raise ValueError("settings: got neither epochs nor minutes, expected one of them")
    budget = settings.minutes * 60
    seconds = min(CALIBRATION_SECONDS, budget / 10)
    optimizer = make_optimizer(trial, settings)
    items = feed.from_step(0)

    def timed(work: Callable[[], object], seconds: float) -> float:
        """Seconds each time, after one to warm up."""
        work()
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < seconds:
            work()
            count += 1
        return (time.perf_counter() - start) / count

    def train() -> None:
        _, item = next(items)
        optimizer.zero_grad()
        torch.autograd.backward(feed.loss(item))
        nn.utils.clip_grad_norm_(trial.parameters(), settings.clip)
        optimizer.step()
        if settings.average:
            average_into(kept, trial, settings.average, 1)

    with torch.random.fork_rng(devices=[]):
        per_step = timed(train, seconds)
        count = feed.evaluations()
        few = min(count, 4)
        per_batch = timed(lambda: feed.scores(few), seconds / 5) / few if few else 0.0
    evaluating = settings.evaluations * per_batch * count
    return max(1, int((budget - 1.2 * seconds - evaluating) / per_step))
