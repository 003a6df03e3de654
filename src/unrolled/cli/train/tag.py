"""Taggers: a tag for every token of a sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from unrolled.cli.options import fraction, whole
from unrolled.cli.printing import note, say
from unrolled.cli.train.application import Application, Kind, Option
from unrolled.cli.train.begin import planned, settings_of
from unrolled.cli.train.options import LAYERS, TRAINING, cell, every
from unrolled.errors import CallError, DataError
from unrolled.series.data.encoded import SPLITS, TaggedData
from unrolled.series.data.schemes import marks_spans
from unrolled.series.data.tagged import FORMATS, read_all
from unrolled.series.models.tagging import CELLS, WIDEST, TaggingNetwork
from unrolled.series.tag_run import (
    TagFeed,
    TaggingScores,
    TagRun,
    evaluate,
    network_config,
    write_data,
)
from unrolled.training import Trainer
from unrolled.training.remedies import reshaped
from unrolled.training.run import Run

COLUMN = whole(-(2**31))
GROUPS: dict[str, dict[str, Option]] = {
    "the most used": {
        "data": Option(
            None,
            "tagged text: CoNLL or TSV, or words with their tags (.gz too), or - for standard input",
            {"nargs": "*", "metavar": "FILE"},
            is_positional=True,
        ),
        **every("minutes", "epochs"),
        "cell": cell(CELLS, "lstm"),
        **every("depth", "seed", hidden=128),
    },
    "text": {
        "format": Option(
            None, "of the files; by default columns or words, as they look", {"choices": FORMATS}
        ),
        "token_column": Option(0, "the column of tokens, from 0", {"type": COLUMN}),
        "tag_column": Option(-1, "that of tags; negative: from the last", {"type": COLUMN}),
        "encoding": Option("utf-8", "of the files", {"metavar": "NAME"}),
        "min_count": Option(1, "a rarer token becomes <unk>", {"type": whole(1)}),
        "max_vocabulary": Option(50_000, "the largest number of tokens", {"type": whole(5)}),
        "longest": Option(500, "tokens of a sentence; a longer one is cut", {"type": whole(1)}),
    },
    "model": {
        "embedding": Option(64, "width of a token's embedding", {"type": whole(1, WIDEST)}),
        "buckets": Option(
            1 << 14, "vectors for what tokens have in common; 0: none", {"type": whole(0)}
        ),
        **every("residual", "layer_norm", dropout=0.3),
        "token_dropout": Option(0.1, "share of input tokens hidden", {"type": fraction}),
        **every("variational_dropout", "weight_drop", "zoneout"),
    },
    "training": {**every("batch_steps"), **every(*TRAINING)},
}
GROUPS["training"] |= every(learning_rate=5e-3, batch_steps=1024, patience=5)


KINDS = {
    "tag": Kind(
        "on tagged text, what tags tokens",
        TaggingNetwork.kind,
        "Train a tagger on sentences with a tag for every token, into a run directory.",
    )
}
FIGURES = {"nats": "nats", "f1": "F1", "accuracy": "accuracy"}


class Tags(Application):
    """Models that tag tokens."""

    kinds = KINDS
    usage = "FILE…"
    groups = GROUPS
    reads = "text"
    figures = FIGURES
    measure, unit = "nats per token", "nats"

    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        if options["data"] is None:
            raise CallError("FILE: missing, expected tagged sentences")
        names = ("format", "token_column", "tag_column", "encoding")
        data = write_data(
            directory,
            read_all(options["data"], **{name: options[name] for name in names}),
            buckets=options["buckets"],
            min_count=options["min_count"],
            max_size=options["max_vocabulary"],
            longest=options["longest"],
        )
        config = network_config(
            data,
            hidden_size=options["hidden"],
            embedding_size=options["embedding"],
            **{name: options[name] for name in ("cell", "token_dropout", *LAYERS)},
        )
        config |= reshaped(options["remedy"])
        _say_what_is_there(data, config)
        settings = planned(
            TaggingNetwork,
            config,
            settings_of(options),
            lambda model, how: TagFeed(model, data, how),
        )
        return TagRun.create(
            directory,
            encoder=data.encoder,
            model_config=config,
            settings=settings,
            command=options,
        )

    def longest(self, run: Run, data: Any, split: str) -> int:  # noqa: ARG002
        return int(np.diff(data.arrays[split]["offsets"]).max(initial=1))

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:
        run, data = cast(TagRun, trainer.run), cast(TaggedData, trainer.data)
        return {
            "sentences": {split: data.sentences(split) for split in SPLITS},
            "vocabulary": len(run.encoder.vocabulary),
            "tags": len(run.encoder.tags),
        }

    def scores(self, run: Run, split: str) -> TaggingScores:
        run = cast(TagRun, run)
        data = run.dataset()
        if not data.sentences(split):
            raise DataError(f"its {split} split is empty")
        return evaluate(run.model(), data.batches(split))[0]


def _say_what_is_there(data: TaggedData, config: Mapping[str, Any]) -> None:
    """Say what was understood of the text."""
    encoder = data.encoder
    counts = ", ".join(f"{data.sentences(split):,} {split}" for split in SPLITS)
    say(f"sentences: {counts}; vocabulary: {len(encoder.vocabulary):,} tokens")
    say(f"tags: {len(encoder.tags):,}")
    if config["constrained"]:
        say("every sentence keeps to the scheme of its tags, and so will the tagger")
    elif marks_spans(encoder.tags):
        note("some sentences do not keep to the scheme of their tags; the tagger need not either")
    if not data.sentences("validation"):
        note(
            "the validation split is empty, so that the last weights are kept, not the best: "
            "give more text, or other sentences"
        )


TAGS = Tags()
