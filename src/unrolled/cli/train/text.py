"""Models of text: what fills a blank, and language models."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from unrolled.cli.evaluate import scored
from unrolled.cli.options import fraction, whole
from unrolled.cli.printing import note, say
from unrolled.cli.runs import data_of, longest_of
from unrolled.cli.train.application import Application, Kind, Option
from unrolled.cli.train.begin import planned, settings_of
from unrolled.cli.train.options import TRAINING, TWO_WAY, cell, every
from unrolled.errors import CallError, DataError
from unrolled.text.data import CORPORA, Dataset, Tokenizer, sentences
from unrolled.text.data.corpora import listed
from unrolled.text.data.dataset import SPLITS
from unrolled.text.data.vocabulary import SPECIALS
from unrolled.text.feeds import feed_of
from unrolled.text.measures import TokenScores
from unrolled.text.models import KINDS
from unrolled.text.models.token_model import CELLS, OF_THE_LAYERS, WIDEST
from unrolled.text.run import TextRun, write_data
from unrolled.training import Trainer
from unrolled.training.remedies import reshaped
from unrolled.training.run import Run
from unrolled.training.settings import BPTT

K1 = 35
TRUNCATED = ("k1", "k2", "batch_size", "passage")  # options of --bptt truncated alone
ABOUT = "Train a model on text into a run directory."


COMMANDS = {
    "cloze": Kind("on text, what fills in a blank", "cloze", ABOUT),
    "lm": Kind("on text, a language model", "lm", ABOUT),
}
GROUPS: dict[str, dict[str, Option]] = {
    "the most used": {
        "data": Option(
            None,
            f"corpora ({', '.join(CORPORA)}), UTF-8 files (.gz too), or - for standard input",
            {"nargs": "+", "metavar": "NAME|FILE"},
        ),
        **every("minutes", "epochs"),
        "cell": cell(CELLS),
        **every("hidden", "depth"),
        "unit": Option("char", "what a token is", {"choices": ["char", "word"]}),
        **every("seed"),
    },
    "text": {
        "words": Option(
            False,
            "cloze of characters: learn to fill a blank with a word of several, too",
            TWO_WAY,
        ),
        "simplify": Option(
            None,
            "Traditional Chinese to Simplified; by default if a named corpus asks for it",
            TWO_WAY,
        ),
        "min_count": Option(2, "a rarer token becomes <unk>", {"type": whole(1)}),
        "max_vocabulary": Option(50_000, "the largest number of tokens", {"type": whole(5)}),
        "longest": Option(200, "tokens of a sentence; a longer one is cut", {"type": whole(1)}),
    },
    "model": {
        "embedding": Option(128, "width of a token's embedding", {"type": whole(1, WIDEST)}),
        "tied": Option(True, "one matrix for embedding and softmax", TWO_WAY),
        **every("residual", "layer_norm", "dropout"),
        "token_dropout": Option(0.0, "share of input tokens hidden", {"type": fraction}),
        **every("variational_dropout", "weight_drop", "zoneout"),
    },
    "continuous text, and memory": {
        "bptt": Option(
            "whole", "through sentences, or the text as one, truncated", {"choices": BPTT}
        ),
        "k1": Option(K1, "tokens of a window, with --bptt truncated", {"type": whole(1)}),
        "k2": Option(None, "tokens that its gradient goes back; as many as k1", {"type": whole(1)}),
        "batch_size": Option(
            24, "places of the text that a window reads at once", {"type": whole(1)}
        ),
        "passage": Option(128, "sentences that follow each other in a split", {"type": whole(1)}),
        **every("memory"),
    },
    "training": {
        "batch_tokens": Option(832, "tokens of a batch, with padding", {"type": whole(1)}),
        **every(*TRAINING),
    },
}
# Chosen on Tatoeba's validation split.
RECIPES: dict[str, dict[str, Any]] = {
    "cloze": {
        "cell": "lstm",
        "hidden": 208,
        "dropout": 0.1,
        "token_dropout": 0.1,
        "weight_drop": 0.2,
        "schedule": "inverse-sqrt",
        "average": 0.9999,
    },
}
OTHER_TOKENS = (
    "the runs have other tokens: nats per token of one do not compare with those of another"
)
FIGURES = {"nats": "nats", "top1": "top-1", "top5": "top-5"}


class Text(Application):
    """Models over the tokens of a text."""

    kinds = COMMANDS
    usage = "--data NAME|FILE…"
    groups = GROUPS
    recipes = RECIPES
    reads = "text"
    figures = FIGURES
    measure, unit = "nats per token", "nats"

    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        sources: list[str] | None = options["data"]
        if sources is None:
            raise CallError("--data: missing, expected a corpus's name or a file")
        for source in dict.fromkeys(sources):
            if source in CORPORA:
                say(f"{source}: {CORPORA[source].credit}")
        for name, value in self.implied(options).items():
            if options[name] is None:
                options[name] = value
        tokenizer = Tokenizer(options["unit"], options["simplify"])
        data, vocabulary = write_data(
            directory,
            sentences(sources),
            tokenizer,
            longest=options["longest"],
            min_count=options["min_count"],
            max_size=options["max_vocabulary"],
            passage=options["passage"] if options["bptt"] == "truncated" else None,
            words=options["words"],
        )
        _check_amount(data, len(vocabulary), options)
        model_config = {
            "vocabulary_size": len(vocabulary),
            "hidden_size": options["hidden"],
            "embedding_size": options["embedding"],
            **{name: options[name] for name in ("cell", "token_dropout", "tied", *OF_THE_LAYERS)},
            **({"words": True} if options["words"] else {}),
        }
        model_config |= reshaped(options["remedy"])
        settings = settings_of(options, batch_steps=options["batch_tokens"])
        through = ""
        if settings.bptt == "truncated":
            through = f", every {settings.k1} tokens back through {settings.k2}"
        reading = partial(feed_of, data=data)
        settings = planned(KINDS[options["kind"]], model_config, settings, reading, through=through)
        return TextRun.create(
            directory,
            kind=options["kind"],
            vocabulary=vocabulary,
            tokenizer=tokenizer,
            model_config=model_config,
            settings=settings,
            command=options,
        )

    def refuse(self, options: Mapping[str, Any]) -> None:
        kind = options["kind"]
        if options.get("words") and (kind, options.get("unit", "char")) != ("cloze", "char"):
            raise CallError("--words: is for cloze with --unit char; elsewhere a token is a word")
        if options.get("bptt", "whole") == "truncated":
            if kind != "lm":
                raise CallError(
                    f"--bptt: got truncated for {kind}, expected lm: what fills a blank reads "
                    "whole sentences"
                )
            if "batch_tokens" in options:
                raise CallError(
                    "--batch-tokens: got it with --bptt truncated, expected --batch-size and --k1"
                )
            k1, k2 = options.get("k1", K1), options.get("k2")
            if k2 is not None and k1 > k2:
                raise CallError(
                    f"--k1: got {k1} with --k2 {k2}, expected at most k2; the smallest k2 that works is "
                    f"{k1}"
                )
            return
        for name in TRUNCATED:
            if name in options:
                raise CallError(
                    f"--{name.replace('_', '-')}: got {options[name]}, which is for --bptt truncated"
                )

    def implied(self, options: Mapping[str, Any]) -> dict[str, Any]:
        sources = options["data"] or ()
        of_corpora = any(CORPORA[s].simplify for s in sources if s in CORPORA)
        return {"k2": options["k1"], "simplify": of_corpora}

    def longest(self, run: Run, data: Any, split: str) -> int:
        return longest_of(data, split, cast(TextRun, run))

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:
        return {
            "sentences": {split: trainer.data.sentences(split) for split in SPLITS},
            "vocabulary": len(cast(TextRun, trainer.run).vocabulary),
        }

    def scores(self, run: Run, split: str) -> TokenScores:
        run = cast(TextRun, run)
        with tempfile.TemporaryDirectory() as directory:
            data = data_of(run, None, Path(directory))
            if not data.sentences(split):
                raise DataError(f"its {split} split is empty")
            scores = scored(run.model(), data, split)
            del data  # its files are mapped, and must go before their directory does
        return scores

    def incomparable(self, runs: Sequence[Run]) -> str:
        of_text = cast(Sequence[TextRun], runs)
        if len({(tuple(run.vocabulary.tokens), run.tokenizer) for run in of_text}) > 1:
            return OTHER_TOKENS
        return ""


def _check_amount(data: Dataset, vocabulary_size: int, options: Mapping[str, Any]) -> None:
    """Refuse too little text, and say how much there is.

    Raises:
        DataError: there is nothing to train on.
    """
    sources = listed(options["data"])
    counts = {split: data.sentences(split) for split in SPLITS}
    if sum(counts.values()) < 2:
        raise DataError(f"{sources}: got one sentence, expected at least two")
    if not counts["train"]:
        raise DataError(f"{sources}: too little text, no sentence falls into the training split")
    if vocabulary_size == len(SPECIALS):
        raise DataError(
            f"{sources}: no token is there {options['min_count']} times; "
            "more text is needed, or a smaller --min-count"
        )
    parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    say(f"sentences: {parts}; vocabulary: {vocabulary_size:,} tokens")
    if not counts["validation"]:
        cure = "a smaller --passage" if options["bptt"] == "truncated" else "other sentences"
        note(
            "the validation split is empty, so that the last weights are kept, not the best: "
            f"give more text, or {cure}"
        )


TEXT = Text()
