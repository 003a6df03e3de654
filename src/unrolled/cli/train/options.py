"""The options that every training may have."""

import argparse
from collections.abc import Iterable
from typing import Any

from unrolled.cli.options import (
    Collecting,
    fraction,
    memory,
    not_negative,
    positive,
    remedy,
    whole,
)
from unrolled.cli.train.application import MINUTES, Option
from unrolled.text.models.token_model import DEEPEST, WIDEST
from unrolled.training.settings import OPTIMIZERS, SCHEDULES

TWO_WAY = {"action": argparse.BooleanOptionalAction}
EVERY: dict[str, Option] = {
    "hidden": Option(256, "hidden units of each direction and layer", {"type": whole(1, WIDEST)}),
    "depth": Option(1, "recurrent layers", {"type": whole(1, DEEPEST)}),
    "dropout": Option(0.05, "share of features dropped", {"type": fraction}),
    "variational_dropout": Option(
        0.0,
        "share of each layer's inputs dropped, the same at every step",
        {"type": fraction},
    ),
    "weight_drop": Option(0.0, "share of the recurrent weights dropped", {"type": fraction}),
    "zoneout": Option(0.0, "share of units that keep their state in a step", {"type": fraction}),
    "residual": Option(False, "each layer but the first adds what it reads", TWO_WAY),
    "layer_norm": Option(False, "normalise what enters the cells", TWO_WAY),
    "seed": Option(0, "the source of all chance", {"type": whole(0)}),
    "minutes": Option(None, f"time to train, {MINUTES:g} by default", {"type": positive}),
    "epochs": Option(None, "passes over the training split, instead", {"type": positive}),
    "memory": Option(None, "bytes that the gradient may take, such as 256MiB", {"type": memory}),
    "batch_steps": Option(832, "steps of a batch, with padding", {"type": whole(1)}),
    "optimizer": Option("adam", "how gradients are applied", {"choices": OPTIMIZERS}),
    "learning_rate": Option(1e-2, "at its highest", {"type": positive}),
    "schedule": Option("linear", "how the rate falls", {"choices": sorted(SCHEDULES)}),
    "weight_decay": Option(0.0, "of matrices", {"type": not_negative}),
    "clip": Option(1.0, "largest norm of the gradient", {"type": positive}),
    "average": Option(0.0, "decay of the average of the weights that is kept", {"type": fraction}),
    "evaluations": Option(8, "on the validation split, evenly spread", {"type": whole(1)}),
    "patience": Option(3, "evaluations without a gain before it stops early", {"type": whole(1)}),
    "threads": Option(None, "processor threads; by default all", {"type": whole(1, 1024)}),
    "remedy": Option(
        {},
        "begin with a remedy against vanishing or exploding gradients; again for another",
        {"action": Collecting, "type": remedy, "metavar": "NAME[=VALUE]"},
    ),
}
LAYERS = (
    "depth",
    "dropout",
    "variational_dropout",
    "weight_drop",
    "zoneout",
    "residual",
    "layer_norm",
)
"""Those of ``Recurrent``, by their names there."""
TRAINING = (
    *("optimizer", "learning_rate", "schedule", "weight_decay", "clip", "average"),
    *("evaluations", "patience", "threads", "remedy"),
)
"""Those of ``Settings`` that every training has, beside its length and its seed."""


def every(*names: str, **defaults: Any) -> dict[str, Option]:
    """Those of ``EVERY`` by ``names``, and by the names of ``defaults`` with these as their own."""
    chosen = {name: EVERY[name] for name in names}
    return chosen | {name: EVERY[name]._replace(default=value) for name, value in defaults.items()}


def cell(choices: Iterable[str], default: str = "gru") -> Option:
    """Which of ``choices`` is the recurrent cell."""
    return Option(default, "the recurrent cell", {"choices": sorted(choices)})
