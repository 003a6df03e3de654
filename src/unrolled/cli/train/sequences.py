"""Networks that tell something of whole sequences: their class, or a number."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from unrolled.cli.options import fraction, whole
from unrolled.cli.printing import note, say, tell
from unrolled.cli.train.application import Application, Kind, Option
from unrolled.cli.train.begin import planned, settings_of
from unrolled.cli.train.options import LAYERS, TRAINING, TWO_WAY, cell, every
from unrolled.cli.train.series import COLUMN, COLUMNS, say_plan
from unrolled.errors import CallError, DataError
from unrolled.series.data import read_table, sequence_roles, sequences_of
from unrolled.series.data.labelled import Labelled
from unrolled.series.models.sequence import CELLS, ClassNetwork, ValueNetwork
from unrolled.series.sequence_run import (
    SequenceFeed,
    SequenceRun,
    network_config,
    scores_of,
    with_length,
)
from unrolled.series.sequence_tables import splits_of
from unrolled.training import Trainer
from unrolled.training.remedies import reshaped
from unrolled.training.run import Run
from unrolled.training.scores import Scores

SCALINGS = ("all", "each", "none")
SOURCES = ("data", "id", "time", "label", "features")
GROUPS: dict[str, dict[str, Option]] = {
    "the most used": {
        "data": Option(
            None,
            "a CSV or Parquet file, or - for standard input",
            {"metavar": "DATA", "nargs": "?"},
            is_positional=True,
        ),
        "id": Option(None, "the columns that name a sequence", COLUMNS),
        "time": Option(None, "the column of times; by default rows are steps", COLUMN),
        "label": Option(None, "the column of what is to be told", COLUMN),
        "features": Option([], "the columns to tell it from; by default all others", COLUMNS),
        "minutes": Option(None, "time to train", every("minutes")["minutes"].settings),
        "epochs": Option(
            None,
            "passes over the training split, instead; by default as many as make 2,000 steps",
            every("epochs")["epochs"].settings,
        ),
        "cell": cell(CELLS, "lstm"),
        **every("depth", "seed", hidden=64),
    },
    "table": {
        "categories": Option([], "columns of numbers that are no quantities", COLUMNS),
        "frequency": Option(
            "infer",
            "such as hour or 30min, or irregular; by default as the times show",
            {"metavar": "NAME"},
        ),
        "zone": Option(None, "of times that say none, such as Europe/Berlin", {"metavar": "NAME"}),
        "validation_share": Option(
            0.1, "of the sequences, to keep the best weights by", {"type": fraction}
        ),
        "test_share": Option(0.1, "of the sequences, to measure it on", {"type": fraction}),
    },
    "model": {
        "bidirectional": Option(True, "read in both directions", TWO_WAY),
        "scaling": Option("all", "of features: by all sequences, or each", {"choices": SCALINGS}),
        **every("residual", "layer_norm", dropout=0.2),
        **every("variational_dropout", "weight_drop", "zoneout"),
    },
    "training": {
        "batch_size": Option(16, "sequences of a batch", {"type": whole(1)}),
        **every("memory", batch_steps=1 << 14),
        **every(*TRAINING),
        **every(learning_rate=3e-3, schedule="cosine", weight_decay=0.01),
        **every(evaluations=20, patience=5),
    },
}
CLASSES = {
    "classify": Kind(
        "on sequences, what tells their class",
        ClassNetwork.kind,
        "Train a classifier of sequences, on a table with a row a step, into a run directory.",
    )
}
VALUES = {
    "regress": Kind(
        "on sequences, what tells a number",
        ValueNetwork.kind,
        "Train a regressor of sequences, on a table with a row a step, into a run directory.",
    )
}
OF_CLASSES = {"nats": "nats", "accuracy": "accuracy"}
OF_VALUES = {"rmse": "RMSE", "r2": "R²"}


class Sequences(Application):
    """What is told of whole sequences."""

    usage = "DATA --id COLUMN --label COLUMN"
    groups = GROUPS
    sources = SOURCES
    reads = "sequences"

    def completed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        complete = super().completed(options)
        return complete | {"minutes": options.get("minutes")}

    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        for name in ("data", "id", "label"):
            if not options[name]:
                raise CallError(
                    f"{self.options[name].flag(name)}: missing, expected {MISSING[name]}"
                )
        kind, is_class = self.kinds[options["kind"]].holds, "classify" in self.kinds
        say(f"reading {options['data']}")
        table = read_table(options["data"])
        roles = sequence_roles(
            table,
            id=options["id"],
            time=options["time"],
            label=options["label"],
            features=options["features"],
            categories=options["categories"],
            is_class=is_class,
        )
        sequences = sequences_of(
            table,
            roles,
            frequency=options["frequency"],
            zone=options["zone"],
            shares=(options["validation_share"], options["test_share"]),
        )
        say_plan(sequences.plan)
        splits, labels = splits_of(sequences, is_class=is_class)
        _say_what_is_there(splits, labels, is_class=is_class)
        network = {n: options[n] for n in ("cell", "bidirectional", "scaling", *LAYERS)}
        config = network_config(
            splits["train"],
            kind,
            len(labels),
            hidden_size=options["hidden"],
            **network | reshaped(options["remedy"]),
        )
        settings = planned(
            SequenceRun.kinds[kind],
            config,
            with_length(settings_of(options), splits),
            lambda model, how: SequenceFeed(model, splits, how),
        )
        train = splits["train"]
        return SequenceRun.create(
            directory,
            splits,
            kind=kind,
            labels=labels,
            model_config=config,
            settings=settings,
            command=options,
            data={
                "columns": None,
                "features": train.values.shape[1],
                "step": None if train.gaps is None else 1.0,
                "targets": None,
                "plan": sequences.plan.record(),
            },
        )

    def finished(self, trainer: Trainer) -> None:
        run = cast(SequenceRun, trainer.run)
        for split in ("validation", "test"):
            if run.counts[split]:
                scores = scores_of(run.model(), trainer.data, split)
                tell(
                    f"on the {split} split, of {run.counts[split]:,} sequences: {self.told(scores)}"
                )

    def told(self, scores: Any) -> str:
        """What is said of scores."""
        raise NotImplementedError

    def longest(self, run: Run, data: Any, split: str) -> int:  # noqa: ARG002
        return int(data[split].lengths.max())

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:
        run = cast(SequenceRun, trainer.run)
        measured = {
            split: dict(scores_of(run.model(), trainer.data, split).figures())
            for split in ("validation", "test")
            if run.counts[split]
        }
        return {"sequences": run.counts, **measured}

    def scores(self, run: Run, split: str) -> Scores:
        run = cast(SequenceRun, run)
        if not run.counts[split]:
            raise DataError(f"its {split} split is empty")
        return scores_of(run.model(), run.dataset(), split)


class Classes(Sequences):
    """The class of a sequence."""

    kinds = CLASSES
    figures = OF_CLASSES
    measure, unit = "nats per sequence", "nats"

    def told(self, scores: Any) -> str:
        return f"accuracy {scores.accuracy:.1%}, {scores.nats:.4f} nats per sequence"


class Values(Sequences):
    """A number that is told of a sequence."""

    kinds = VALUES
    figures = OF_VALUES
    measure, unit = "standard deviations (RMSE)", "standard deviations"

    def told(self, scores: Any) -> str:
        return f"R² {scores.r2:.4f}, RMSE {scores.rmse:.4f} standard deviations"


MISSING = {
    "data": "a CSV or Parquet file",
    "id": "the columns that name a sequence",
    "label": "the column of what is to be told",
}


def _say_what_is_there(
    splits: Mapping[str, Labelled], labels: list[Any], *, is_class: bool
) -> None:
    """Say what there is to learn, and what may be amiss."""
    train = splits["train"]
    if is_class:
        counts = np.bincount(train.labels, minlength=len(labels))
        shown = ", ".join(f"{n:,} {label}" for n, label in zip(counts, labels[:20], strict=False))
        say(f"classes in training: {shown}{', …' * (len(labels) > 20)}")
        absent = [str(labels[k]) for k in np.flatnonzero(counts == 0)]
        if absent:
            note(
                f"no sequence of class {', '.join(absent)} is in the training split; give more data"
            )
    if "validation" not in splits:
        note(
            "the validation split is empty, so that the last weights are kept, not the best: "
            "give more data, or a larger --validation-share"
        )


CLASSIFY, REGRESS = Classes(), Values()
