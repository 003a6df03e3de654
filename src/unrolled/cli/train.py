"""``unrolled train``: a model from text."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from unrolled.bptt.schedule import TooSmallError, spoken
from unrolled.cli.options import fraction, memory, not_negative, positive, whole
from unrolled.data import CORPORA, Tokenizer, sentences
from unrolled.data.corpora import listed
from unrolled.data.dataset import SPLITS
from unrolled.data.vocabulary import SPECIALS
from unrolled.errors import CallError, DataError
from unrolled.models import KINDS
from unrolled.models.token_model import CELLS, DEEPEST, OF_THE_LAYERS, WIDEST
from unrolled.training import (
    Run,
    Settings,
    Trainer,
    prepare_directory,
    steps_of,
    write_data,
)
from unrolled.training.history import PAGE, history
from unrolled.training.loop import HEADROOM
from unrolled.training.run import beginning, locked
from unrolled.training.settings import BPTT, OPTIMIZERS, SCHEDULES
from unrolled.training.watchers import Gain, logs, progress_bar

K1 = 35
TRUNCATED = ("k1", "k2", "lanes", "passage")  # options of --bptt truncated alone
MINUTES = 5.0  # where neither --minutes nor --epochs is given
LEARNING = 0.01  # nats gained from one evaluation to the next: it would go on learning

# Every option that decides what the weights become: its default, its help, argparse's settings. The
# parser leaves out what was not given, so that --resume can tell what was.
DECISIVE: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "cell": ("gru", "the recurrent cell", {"choices": sorted(CELLS)}),
    "hidden": (256, "hidden units of each direction and layer", {"type": whole(1, WIDEST)}),
    "embedding": (128, "width of a token's embedding", {"type": whole(1, WIDEST)}),
    "depth": (1, "recurrent layers", {"type": whole(1, DEEPEST)}),
    "dropout": (0.05, "share of features dropped", {"type": fraction}),
    "token_dropout": (0.0, "share of input tokens hidden", {"type": fraction}),
    "variational_dropout": (
        0.0,
        "share of each layer's inputs dropped, the same at every step",
        {"type": fraction},
    ),
    "weight_drop": (0.0, "share of the recurrent weights dropped", {"type": fraction}),
    "zoneout": (0.0, "share of units that keep their state in a step", {"type": fraction}),
    "residual": (
        False,
        "each layer but the first adds what it reads",
        {"action": argparse.BooleanOptionalAction},
    ),
    "layer_norm": (
        False,
        "normalise what enters the cells",
        {"action": argparse.BooleanOptionalAction},
    ),
    "tied": (
        True,
        "one matrix for embedding and softmax",
        {"action": argparse.BooleanOptionalAction},
    ),
    "unit": ("char", "what a token is", {"choices": ["char", "word"]}),
    "words": (
        False,
        "cloze of characters: learn to fill a blank with a word of several, too",
        {"action": argparse.BooleanOptionalAction},
    ),
    "simplify": (
        None,
        "Traditional Chinese to Simplified; by default if a named corpus asks for it",
        {"action": argparse.BooleanOptionalAction},
    ),
    "min_count": (2, "a rarer token becomes <unk>", {"type": whole(1)}),
    "max_vocabulary": (50_000, "tokens at the most", {"type": whole(5)}),
    "longest": (200, "tokens of a sentence; a longer one is cut", {"type": whole(1)}),
    "seed": (0, "the source of all chance", {"type": whole(0)}),
    "minutes": (None, f"time to train, {MINUTES:g} by default", {"type": positive}),
    "epochs": (None, "passes over the training split, instead", {"type": positive}),
    "bptt": ("whole", "through sentences, or the text as one, truncated", {"choices": BPTT}),
    "k1": (K1, "tokens of a window, with --bptt truncated", {"type": whole(1)}),
    "k2": (None, "tokens that its gradient goes back; as many as k1", {"type": whole(1)}),
    "lanes": (24, "places of the text that a window reads at once", {"type": whole(1)}),
    "passage": (128, "sentences that follow each other in a split", {"type": whole(1)}),
    "memory": (None, "bytes that the gradient may take, such as 256MiB", {"type": memory}),
    "batch_tokens": (832, "tokens of a batch, with padding", {"type": whole(1)}),
    "optimizer": ("adam", "how gradients are applied", {"choices": OPTIMIZERS}),
    "learning_rate": (1e-2, "at its highest", {"type": positive}),
    "schedule": ("linear", "how the rate falls", {"choices": sorted(SCHEDULES)}),
    "weight_decay": (0.0, "of matrices", {"type": not_negative}),
    "clip": (1.0, "largest norm of the gradient", {"type": positive}),
    "average": (0.0, "decay of the average of the weights that is kept", {"type": fraction}),
    "evaluations": (8, "on the validation split, evenly spread", {"type": whole(1)}),
    "patience": (3, "evaluations without a gain before it stops early", {"type": whole(1)}),
    "threads": (None, "processor threads; by default all", {"type": whole(1, 1024)}),
}

# What a kind of model is trained with in place of the above, chosen on Tatoeba's validation split.
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


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a model on text",
        description="Train a model on text into a run directory.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("kind", choices=sorted(KINDS), help="fill in the blank, or language model")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="NAME|FILE",
        help=f"corpora ({', '.join(CORPORA)}), UTF-8 files (.gz too), or - for standard input",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run directory")
    parser.add_argument("--resume", action="store_true", help="go on where DIR stopped, if it did")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append JSON lines to FILE")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write TensorBoard events")
    parser.add_argument(
        "--watch", type=whole(1), metavar="N", help="look where the gradient goes, every N steps"
    )
    parser.add_argument(
        "--checkpoint-seconds", type=positive, metavar="N", help="time between checkpoints (30)"
    )
    for name, (default, text, settings) in DECISIVE.items():
        usual = [str(default)] if default is not None else []
        usual += [f"{kind}: {recipe[name]}" for kind, recipe in RECIPES.items() if name in recipe]
        shown = f" ({'; '.join(usual)})" if usual else ""
        if not settings.keys() & {"choices", "action"}:
            settings = {**settings, "metavar": "N"}
        parser.add_argument(f"--{name.replace('_', '-')}", help=text + shown, **settings)
    parser.set_defaults(command=train)


def train(arguments: argparse.Namespace) -> None:
    """Make a run, or take it up again, and train it to its end."""
    given = vars(arguments)
    directory: Path = given["out"]
    if {"minutes", "epochs"} <= given.keys():
        raise CallError("--minutes and --epochs: got both, expected one of them")
    _refuse_contradictions(given)
    if "watch" in given:
        from unrolled.report import require

        require()
    with _memory_that_is_too_small(given), ExitStack() as stack:
        followers = stack.enter_context(
            logs(log=given.get("log"), tensorboard=given.get("tensorboard"))
        )
        resumed = "resume" in given and Run.exists(directory)
        if not resumed:
            prepare_directory(directory)
        stack.enter_context(locked(directory))
        if resumed:
            run = Run(directory)
            _refuse_changes(run, given)
        else:
            with beginning(directory):
                run = begun(directory, given)
        torch.set_num_threads(run.settings.threads)
        trainer = Trainer(run)
        if resumed:
            trainer.restore()
            print(f"resumed at step {trainer.step:,} of {run.settings.steps:,}")
        if "watch" in given:
            followers += stack.enter_context(history(directory, trainer.step))
        followers += stack.enter_context(progress_bar(run.settings.steps, trainer.step))
        followers.append(gain := Gain())
        outcome = trainer.train(
            followers, given.get("checkpoint_seconds", 30.0), watch_every=given.get("watch")
        )
    early = ", stopped early" if outcome.stopped_early else ""
    print(f"{directory}: trained for {outcome.step} of {run.settings.steps} steps{early}")
    if trainer.data.sentences("validation"):
        print(f"best on the validation split: {outcome.best:.4f} nats per token")
        if gain.nats > LEARNING:
            print(
                f"it was still learning, by {gain.nats:.3f} nats in the last {gain.steps:,} steps: a run "
                f"of more --{'minutes' if run.settings.epochs is None else 'epochs'} will be better"
            )
    else:
        print("the validation split is empty: the last weights are kept")
    if "watch" in given and (directory / PAGE).exists():
        print(f"the gradient over the training: {directory / PAGE}")


def begun(directory: Path, given: dict[str, Any]) -> Run:
    """A new run in the empty ``directory``: the text encoded, the number of steps known.

    ``given`` are options by name, and ``kind``; others are as in the kind's recipe, or as always.
    """
    if "data" not in given:
        raise CallError("--data: missing, expected a corpus's name or a file")
    recipe = RECIPES.get(given["kind"], {})
    options = {
        name: given.get(name, recipe.get(name, default))
        for name, (default, _, _) in DECISIVE.items()
    }
    sources: list[str] = given["data"]
    for source in sources:
        if source in CORPORA:
            print(f"{source}: {CORPORA[source].credit}")
    if options["simplify"] is None:
        options["simplify"] = any(CORPORA[s].simplify for s in sources if s in CORPORA)
    if options["minutes"] is None and options["epochs"] is None:
        options["minutes"] = MINUTES
    if options["k2"] is None:
        options["k2"] = options["k1"]
    if options["threads"] is None:
        options["threads"] = torch.get_num_threads()
    torch.set_num_threads(options["threads"])

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
    counts = {split: data.sentences(split) for split in SPLITS}
    if sum(counts.values()) < 2:
        raise DataError(f"{listed(sources)}: got one sentence, expected two at the least")
    if not counts["train"]:
        raise DataError(
            f"{listed(sources)}: too little text, no sentence falls into the training split"
        )
    if len(vocabulary) == len(SPECIALS):
        raise DataError(
            f"{listed(sources)}: no token is there {options['min_count']} times; "
            "more text is needed, or a smaller --min-count"
        )
    parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"sentences: {parts}; vocabulary: {len(vocabulary):,} tokens")

    model_config = {
        "vocabulary_size": len(vocabulary),
        "hidden_size": options["hidden"],
        "embedding_size": options["embedding"],
        **{name: options[name] for name in ("cell", "token_dropout", "tied", *OF_THE_LAYERS)},
        **({"words": True} if options["words"] else {}),
    }
    fields = (f for f in Settings.__dataclass_fields__ if f != "steps")
    settings = Settings(**{name: options[name] for name in fields}, steps=1)
    torch.manual_seed(settings.seed)
    model = KINDS[given["kind"]](**model_config)
    settings = settings.with_steps(steps_of(model, data, settings))
    through = ""
    if settings.bptt == "truncated":
        through = f", every {settings.k1} tokens back through {settings.k2}"
    print(f"training: {settings.steps:,} steps, {settings.threads} threads{through}")
    return Run.create(
        directory,
        kind=given["kind"],
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        model_config=model_config,
        settings=settings,
        command={"kind": given["kind"], "data": sources, **options},
    )


@contextmanager
def _memory_that_is_too_small(given: dict[str, Any]) -> Iterator[None]:
    """Where the model does not fit into ``--memory``, it is the call that is at fault."""
    try:
        yield
    except TooSmallError as error:
        least = spoken(int(error.least * HEADROOM))
        raise CallError(
            f"--memory: got {spoken(given['memory'])}, expected at least {least} for this model and text"
        ) from None


def _refuse_contradictions(given: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    if "resume" in given and Run.exists(given["out"]):
        return  # all are held against those that the run was begun with
    if given.get("words") and (given["kind"], given.get("unit", "char")) != ("cloze", "char"):
        raise CallError("--words: is for cloze with --unit char; elsewhere a token is a word")
    if given.get("bptt", "whole") == "truncated":
        if given["kind"] != "lm":
            raise CallError(
                f"--bptt: got truncated for {given['kind']}, expected lm: what fills a blank reads "
                "whole sentences"
            )
        if "batch_tokens" in given:
            raise CallError(
                "--batch-tokens: got it with --bptt truncated, expected --lanes and --k1"
            )
        k1, k2 = given.get("k1", K1), given.get("k2")
        if k2 is not None and k1 > k2:
            raise CallError(
                f"--k1: got {k1} with --k2 {k2}, expected at most k2; the smallest k2 that works is {k1}"
            )
        return
    for name in TRUNCATED:
        if name in given:
            raise CallError(f"--{name}: got {given[name]}, which is for --bptt truncated")


def _refuse_changes(run: Run, given: dict[str, Any]) -> None:
    """Refuse options that differ from those the run was begun with."""
    defaults = {name: default for name, (default, _, _) in DECISIVE.items()}  # of what came later
    for name, began in {**defaults, **run.command}.items():
        if name in given and given[name] != began:
            option = f"--{name.replace('_', '-')}" if name != "kind" else "the kind of model"
            got, before = (" ".join(v) if isinstance(v, list) else v for v in (given[name], began))
            raise CallError(
                f"{option}: got {got}, but the run in {run.directory} was begun with "
                f"{before}; leave it out, or begin a new run in another --out"
            )
