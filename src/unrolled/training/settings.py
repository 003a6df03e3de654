"""How a run trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from unrolled.shapes import check_fraction, check_size

WARM_UP = 0.05  # the share of the steps in which the learning rate rises
OPEN_WARM_UP = 250  # steps of it at most, where the end does not count
SLOW = 2000  # steps after which such a rate has fallen by the root of two

OPTIMIZERS = ("adam", "sgd")
BPTT = ("whole", "truncated")


def _rising(step: int, over: float) -> float:
    return min(1.0, (step + 1) / max(1.0, over))


def _to_the_end(fall: Callable[[float], float]) -> Callable[[int, int], float]:
    """Rises, then follows ``fall``, of the share of the steps that is done."""
    return lambda step, steps: _rising(step, WARM_UP * steps) * fall(step / steps)


def _inverse_sqrt(step: int, steps: int) -> float:
    return _rising(step, min(OPEN_WARM_UP, WARM_UP * steps)) / math.sqrt(1 + step / SLOW)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": _to_the_end(lambda done: 1 - done),
    "cosine": _to_the_end(lambda done: (1 + math.cos(math.pi * done)) / 2),
    "constant": _to_the_end(lambda _: 1.0),
    "inverse-sqrt": _inverse_sqrt,
}
"""The share of the highest rate at a step, from 0, of so many."""


@dataclass(frozen=True)
class Settings:
    """How a run trains; recorded whole in ``config.json``.

    ``steps`` follows from ``epochs``, or from ``minutes`` by a calibration at the start; from then on
    only ``steps`` counts, so that a resumed run does not depend on the clock.

    ``bptt``: "whole" sequences in batches of up to ``batch_steps`` steps with padding, or "truncated":
    the data as one, in ``batch_size`` rows, every ``k1`` steps, back through ``k2``. ``memory``: bytes
    that the gradient may take, if they are limited. ``average``: the decay of the average of the weights
    that is kept for use; 0: none. ``remedy``: what it begins with, by the names of
    ``training.remedies.REMEDIES``, each with its value or ``None``.

    Raises:
        TypeError, ValueError: a field is of another type, or out of its range.
    """

    seed: int
    steps: int
    epochs: float | None
    minutes: float | None
    batch_steps: int
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float
    clip: float
    evaluations: int
    patience: int
    threads: int
    bptt: str = "whole"
    k1: int = 35
    k2: int = 35
    batch_size: int = 24
    memory: int | None = None
    average: float = 0.0
    remedy: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_size("seed", self.seed, least=0, most=2**31 - 1)
        check_size("threads", self.threads, most=1024)
        for name in ("steps", "batch_steps", "evaluations", "patience", "k1", "k2", "batch_size"):
            check_size(name, getattr(self, name), most=2**53)
        for name in ("learning_rate", "clip", "epochs", "minutes", "weight_decay"):
            value = getattr(self, name)
            if value is None and name in ("epochs", "minutes"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: got {value!r}, expected a number")
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "weight_decay"):
                raise ValueError(f"{name}: got {value!r}, expected a finite number above 0")
        if self.memory is not None:
            check_size("memory", self.memory, most=2**62)
        check_fraction("average", self.average)
        if self.k1 > self.k2:
            raise ValueError(
                f"k1: got {self.k1} with k2 = {self.k2}, expected at most k2; the smallest k2 that "
                f"works is {self.k1}"
            )
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", tuple(SCHEDULES)),
            ("bptt", BPTT),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {known}")

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Settings":
        """Those that a run was written with."""
        names = {"batch_tokens": "batch_steps"}  # of 0.1's first days
        return cls(**{names.get(name, name): value for name, value in renamed(record).items()})

    def with_steps(self, steps: int) -> "Settings":
        """The same with another number of steps."""
        return replace(self, steps=steps)

    def rate(self, step: int) -> float:
        """The learning rate of ``step``: it rises, then follows the schedule.

        That of "inverse-sqrt" does not depend on ``steps``, where they are 5,000 or more (after Vaswani
        et al., "Attention Is All You Need", 2017): a long training passes through the shorter ones.
        """
        return self.learning_rate * SCHEDULES[self.schedule](step, self.steps)

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after ``step`` steps: ``evaluations`` times, evenly spread."""
        return step * self.evaluations // self.steps > (step - 1) * self.evaluations // self.steps


def renamed(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record by today's names; one of 0.1's first days has ``batch_size`` under "lanes"."""
    names = {"lanes": "batch_size"}
    return {names.get(name, name): value for name, value in dict(record).items()}
