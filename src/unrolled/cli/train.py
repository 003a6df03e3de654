"""``unrolled train``: a model from text."""

import argparse
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from unrolled.bptt.schedule import TooSmallError, spoken
from unrolled.cli.language import translated
from unrolled.cli.options import (
    Collecting,
    fraction,
    memory,
    not_negative,
    positive,
    remedy,
    whole,
)
from unrolled.cli.printing import is_quiet, note, print_json, say
from unrolled.cli.runs import longest_of, with_options
from unrolled.errors import CallError, DataError
from unrolled.text.data import CORPORA, Tokenizer, sentences
from unrolled.text.data.corpora import listed
from unrolled.text.data.dataset import SPLITS
from unrolled.text.data.vocabulary import SPECIALS
from unrolled.text.feeds import feed_of
from unrolled.text.models import KINDS
from unrolled.text.models.token_model import CELLS, DEEPEST, OF_THE_LAYERS, WIDEST
from unrolled.text.run import TextRun, write_data
from unrolled.training import Settings, Trainer, steps_of
from unrolled.training.callbacks import clock, logs, progress_bar, seconds_of
from unrolled.training.history import PAGE, history
from unrolled.training.loop import HEADROOM
from unrolled.training.remedies import (
    CLIPPING,
    NETWORK,
    REMEDIES,
    begun,
    check_remedies,
    forms,
    reshaped,
)
from unrolled.training.run import beginning, place_of_a_run
from unrolled.training.settings import BPTT, OPTIMIZERS, SCHEDULES

K1 = 35
TRUNCATED = ("k1", "k2", "batch_size", "passage")  # options of --bptt truncated alone
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
    "max_vocabulary": (50_000, "the largest number of tokens", {"type": whole(5)}),
    "longest": (200, "tokens of a sentence; a longer one is cut", {"type": whole(1)}),
    "seed": (0, "the source of all chance", {"type": whole(0)}),
    "minutes": (None, f"time to train, {MINUTES:g} by default", {"type": positive}),
    "epochs": (None, "passes over the training split, instead", {"type": positive}),
    "bptt": ("whole", "through sentences, or the text as one, truncated", {"choices": BPTT}),
    "k1": (K1, "tokens of a window, with --bptt truncated", {"type": whole(1)}),
    "k2": (None, "tokens that its gradient goes back; as many as k1", {"type": whole(1)}),
    "batch_size": (24, "places of the text that a window reads at once", {"type": whole(1)}),
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
    "remedy": (
        {},
        "begin with a remedy against vanishing or exploding gradients; again for another",
        {"action": Collecting, "type": remedy, "metavar": "NAME[=VALUE]"},
    ),
}

# What --help lists together; what is in none of these is listed with the training.
GROUPS: dict[str, tuple[str, ...]] = {
    "the most used": ("minutes", "epochs", "cell", "hidden", "depth", "unit", "seed"),
    "text": ("words", "simplify", "min_count", "max_vocabulary", "longest"),
    "model": (
        *("embedding", "tied", "residual", "layer_norm"),
        *("dropout", "token_dropout", "variational_dropout", "weight_drop", "zoneout"),
    ),
    "continuous text, and memory": ("bptt", "k1", "k2", "batch_size", "passage", "memory"),
    "training": (),
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
        usage="unrolled train cloze|lm --data NAME|FILE… --out DIR [options]",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("kind", choices=sorted(KINDS), help="fill in the blank, or language model")
    placed = {name for names in GROUPS.values() for name in names}
    others = tuple(name for name in DECISIVE if name not in placed)
    first, *groups = (
        (parser.add_argument_group(title), names or others) for title, names in GROUPS.items()
    )
    first[0].add_argument(
        "--data",
        nargs="+",
        metavar="NAME|FILE",
        help=f"corpora ({', '.join(CORPORA)}), UTF-8 files (.gz too), or - for standard input",
    )
    first[0].add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the run directory"
    )
    first[0].add_argument(
        "--resume", action="store_true", help="continue where DIR stopped, if it did"
    )
    for group, names in (first, *groups):
        for name in names:
            default, text, settings = DECISIVE[name]
            usual = [] if default is None or name == "remedy" else [str(default)]
            usual += [f"{kind}: {of[name]}" for kind, of in RECIPES.items() if name in of]
            shown = f" ({'; '.join(usual)})" if usual else ""
            if not settings.keys() & {"choices", "action"}:
                settings = {**settings, "metavar": "N"}
            group.add_argument(f"--{name.replace('_', '-')}", help=text + shown, **settings)
    following = parser.add_argument_group("following it")
    following.add_argument("--log", type=Path, metavar="FILE", help="append JSON lines to FILE")
    following.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write TensorBoard events"
    )
    following.add_argument(
        "--watch", type=whole(1), metavar="N", help="look where the gradient goes, every N steps"
    )
    following.add_argument(
        "--checkpoint-seconds", type=positive, metavar="N", help="time between checkpoints (30)"
    )
    following.add_argument("--json", action="store_true", help="print what came of it as JSON")
    listed_remedies = "\n".join(f"  {form:<34} {about}" for form, about in forms())
    parser.epilog = f"remedies (NAME[=VALUE] of --remedy):\n{listed_remedies}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(command=train)


def train(arguments: argparse.Namespace) -> None:
    """Make a run, or take it up again, and train it to its end."""
    options = vars(arguments)
    directory: Path = options["out"]
    if {"minutes", "epochs"} <= options.keys() and not _dropped_for_the_call(options):
        raise CallError("--minutes and --epochs: got both, expected one of them")
    _refuse_contradictions(options)
    if "watch" in options:
        from unrolled.lens.render import require

        require()
    with _memory_that_is_too_small(options), ExitStack() as stack:
        followers = stack.enter_context(
            logs(log=options.get("log"), tensorboard=options.get("tensorboard"))
        )
        resumed = "resume" in options and TextRun.exists(directory)
        stack.enter_context(place_of_a_run(directory, is_new=not resumed))
        if resumed:
            run = TextRun(directory)
            _refuse_changes(run, options)
        else:
            with beginning(directory):
                run = begin_run(directory, options)
        torch.set_num_threads(run.settings.threads)
        trainer = Trainer(run)
        if resumed:
            trainer.restore()
            say(f"resumed at step {trainer.step:,} of {run.settings.steps:,}")
        if "watch" in options:
            longest = longest_of(trainer.data, "train", run)
            told = partial(with_options, run=run, longest=longest)
            followers += stack.enter_context(history(directory, trainer.step, told, translated))
        followers += stack.enter_context(clock(directory))
        if not is_quiet():
            followers += stack.enter_context(
                progress_bar(
                    run.settings.steps, trainer.step, lambda text: translated(text, sys.stderr)
                )
            )
        outcome = trainer.train(
            followers, options.get("checkpoint_seconds", 30.0), watch_every=options.get("watch")
        )
    if "json" in options:
        print_json(
            {
                "run": str(directory),
                "step": outcome.step,
                "steps": run.settings.steps,
                "stopped_early": outcome.stopped_early,
                "validation_nats": outcome.best if math.isfinite(outcome.best) else None,
                "sentences": {split: trainer.data.sentences(split) for split in SPLITS},
                "vocabulary": len(run.vocabulary),
                "seconds": round(seconds_of(directory) or 0.0, 1),
            }
        )
    early = ", stopped early" if outcome.stopped_early else ""
    say(f"{directory}: trained for {outcome.step} of {run.settings.steps} steps{early}")
    if trainer.data.sentences("validation"):
        say(f"best on the validation split: {outcome.best:.4f} nats per token")
        _say_if_short(trainer)
    else:
        say("the validation split is empty: the last weights are kept")
    if "watch" in options and (directory / PAGE).exists():
        say(f"the gradient over the training: {directory / PAGE}")


def _say_if_short(trainer: Trainer) -> None:
    """Say that a longer training would be better, where what there is shows it."""
    more = "minutes" if trainer.settings.epochs is None else "epochs"
    share = trainer.step / len(trainer.feed)
    if share < 1:
        say(f"it has read {share:.0%} of the training text: a run of more --{more} will be better")
        return
    for (before, was, *_), (after, nats, *_) in pairwise(trainer.evaluations[-2:]):
        if was - nats > LEARNING:
            say(
                f"it was still learning, by {was - nats:.3f} nats in the last {after - before:,} "
                f"steps: a run of more --{more} will be better"
            )


def begin_run(directory: Path, options: dict[str, Any]) -> TextRun:
    """A new run in the empty ``directory``: the text encoded, the number of steps known.

    ``options`` are those that were given, by name, and ``kind``; others are as in the kind's recipe, or
    as always.
    """
    if "data" not in options:
        raise CallError("--data: missing, expected a corpus's name or a file")
    recipe = RECIPES.get(options["kind"], {})
    complete = {
        name: options.get(name, recipe.get(name, default))
        for name, (default, _, _) in DECISIVE.items()
    }
    sources: list[str] = options["data"]
    for source in dict.fromkeys(sources):
        if source in CORPORA:
            say(f"{source}: {CORPORA[source].credit}")
    if complete["simplify"] is None:
        complete["simplify"] = any(CORPORA[s].simplify for s in sources if s in CORPORA)
    if complete["minutes"] is None and complete["epochs"] is None:
        complete["minutes"] = MINUTES
    if complete["k2"] is None:
        complete["k2"] = complete["k1"]
    if complete["threads"] is None:
        complete["threads"] = torch.get_num_threads()
    torch.set_num_threads(complete["threads"])

    tokenizer = Tokenizer(complete["unit"], complete["simplify"])
    data, vocabulary = write_data(
        directory,
        sentences(sources),
        tokenizer,
        longest=complete["longest"],
        min_count=complete["min_count"],
        max_size=complete["max_vocabulary"],
        passage=complete["passage"] if complete["bptt"] == "truncated" else None,
        words=complete["words"],
    )
    counts = {split: data.sentences(split) for split in SPLITS}
    if sum(counts.values()) < 2:
        raise DataError(f"{listed(sources)}: got one sentence, expected at least two")
    if not counts["train"]:
        raise DataError(
            f"{listed(sources)}: too little text, no sentence falls into the training split"
        )
    if len(vocabulary) == len(SPECIALS):
        raise DataError(
            f"{listed(sources)}: no token is there {complete['min_count']} times; "
            "more text is needed, or a smaller --min-count"
        )
    parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    say(f"sentences: {parts}; vocabulary: {len(vocabulary):,} tokens")
    if not counts["validation"]:
        cure = "a smaller --passage" if complete["bptt"] == "truncated" else "other sentences"
        note(
            "the validation split is empty, so that the last weights are kept, not the best: "
            f"give more text, or {cure}"
        )

    model_config = {
        "vocabulary_size": len(vocabulary),
        "hidden_size": complete["hidden"],
        "embedding_size": complete["embedding"],
        **{name: complete[name] for name in ("cell", "token_dropout", "tied", *OF_THE_LAYERS)},
        **({"words": True} if complete["words"] else {}),
    }
    model_config |= reshaped(complete["remedy"])
    by_name = {**complete, "steps": 1, "batch_steps": complete["batch_tokens"]}
    settings = Settings(**{name: by_name[name] for name in Settings.__dataclass_fields__})
    torch.manual_seed(settings.seed)
    try:
        model = begun(KINDS[options["kind"]], model_config, settings)
    except (TypeError, ValueError) as error:
        if not settings.remedy:
            raise
        raise CallError(f"--remedy: {error}") from None
    settings = settings.with_steps(steps_of(model, settings, partial(feed_of, data=data)))
    through = ""
    if settings.bptt == "truncated":
        through = f", every {settings.k1} tokens back through {settings.k2}"
    say(f"training: {settings.steps:,} steps, {settings.threads} threads{through}")
    return TextRun.create(
        directory,
        kind=options["kind"],
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        model_config=model_config,
        settings=settings,
        command={"kind": options["kind"], "data": sources, **complete},
    )


def again(run: TextRun, more: Sequence[str]) -> str:
    """The command that trains a run as ``run`` was trained, with the options ``more``, beside it."""
    began = run.command
    parts = ["unrolled", "train", run.kind, "--data", *began["data"]]
    for name, (default, _, settings) in DECISIVE.items():
        value = began.get(name, default)
        option = f"--{name.replace('_', '-')}"
        if value is None or value == default or option in more[:1] or name == "threads":
            continue
        if name == "k2" and value == began.get("k1"):
            continue
        if name == "simplify" and value == any(
            CORPORA[s].simplify for s in began["data"] if s in CORPORA
        ):
            continue
        if name == "remedy":
            for key, setting in value.items():
                parts += [option, key if setting is None else f"{key}={setting}"]
        elif settings.get("action") is argparse.BooleanOptionalAction:
            parts.append(option if value else option.replace("--", "--no-", 1))
        else:
            parts += [option, str(value)]
    mark = "-".join(part.lstrip("-").partition("=")[0] for part in more[1:])
    return shlex.join([*parts, *more, "--out", f"{run.directory}-{mark}"])


@contextmanager
def _memory_that_is_too_small(options: dict[str, Any]) -> Iterator[None]:
    """Where the model does not fit into ``--memory``, it is the call that is at fault."""
    try:
        yield
    except TooSmallError as error:
        least = spoken(math.ceil(error.least * HEADROOM))
        raise CallError(
            f"--memory: got {spoken(options['memory'])}, expected at least {least} for this model and text"
        ) from None


def _refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    if "resume" in options and TextRun.exists(options["out"]):
        return  # all are held against those that the run was begun with
    _refuse_remedies(options)
    if options.get("words") and (options["kind"], options.get("unit", "char")) != ("cloze", "char"):
        raise CallError("--words: is for cloze with --unit char; elsewhere a token is a word")
    if options.get("bptt", "whole") == "truncated":
        if options["kind"] != "lm":
            raise CallError(
                f"--bptt: got truncated for {options['kind']}, expected lm: what fills a blank reads "
                "whole sentences"
            )
        if "batch_tokens" in options:
            raise CallError(
                "--batch-tokens: got it with --bptt truncated, expected --batch-size and --k1"
            )
        k1, k2 = options.get("k1", K1), options.get("k2")
        if k2 is not None and k1 > k2:
            raise CallError(
                f"--k1: got {k1} with --k2 {k2}, expected at most k2; the smallest k2 that works is {k1}"
            )
        return
    for name in TRUNCATED:
        if name in options:
            raise CallError(
                f"--{name.replace('_', '-')}: got {options[name]}, which is for --bptt truncated"
            )


def _dropped_for_the_call(options: dict[str, Any]) -> bool:
    """Whether one of --minutes and --epochs came from --config alone: it is left out for the other."""
    configured: dict[str, Any] = options.get("configured", {})
    for name, other in (("minutes", "epochs"), ("epochs", "minutes")):
        if configured.get(name) == options[name] and other not in configured:
            del options[name]
            return True
    return False


def _refuse_remedies(options: dict[str, Any]) -> None:
    """Refuse remedies that do not go together, or not with another option."""
    chosen = options.get("remedy", {})
    try:
        check_remedies(chosen)
    except ValueError as error:
        raise CallError(f"--remedy: {error}") from None
    cell = options.get("cell", DECISIVE["cell"][0])
    for name in chosen:
        if REMEDIES[name].sets == NETWORK and cell != "elman":
            raise CallError(f"--remedy {name}: got --cell {cell}, expected --cell elman")
        if REMEDIES[name].sets == CLIPPING and "clip" in options:
            raise CallError(
                f"--clip: got {options['clip']:g} with --remedy {name}, expected one of them"
            )


def _told(value: Any) -> str:
    """An option's value as it is given."""
    if isinstance(value, dict):
        parts = (key if setting is None else f"{key}={setting}" for key, setting in value.items())
        return " ".join(parts) or "none"
    return " ".join(value) if isinstance(value, list) else str(value)


def _refuse_changes(run: TextRun, options: dict[str, Any]) -> None:
    """Refuse options that differ from those the run was begun with."""
    defaults = {name: default for name, (default, _, _) in DECISIVE.items()}  # of what came later
    for name, began in {**defaults, **run.command}.items():
        if name in options and options[name] != began:
            option = f"--{name.replace('_', '-')}" if name != "kind" else "the kind of model"
            got, before = map(_told, (options[name], began))
            raise CallError(
                f"{option}: got {got}, but the run in {run.directory} was begun with "
                f"{before}; leave it out, or begin a new run in another --out"
            )
