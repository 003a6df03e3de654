"""What ``unrolled train`` does, whatever it is that is trained."""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from unrolled.bptt.schedule import TooSmallError, spoken
from unrolled.cli.language import translated
from unrolled.cli.printing import is_quiet, print_json, say
from unrolled.cli.runs import open_run, with_options
from unrolled.cli.train.application import Application
from unrolled.errors import CallError
from unrolled.training import Trainer
from unrolled.training.callbacks import clock, logs, progress_bar, seconds_of
from unrolled.training.history import PAGE, history
from unrolled.training.loop import HEADROOM, Outcome
from unrolled.training.remedies import CLIPPING, NETWORK, REMEDIES, check_remedies
from unrolled.training.run import Run, beginning, place_of_a_run


def train(application: Application, arguments: argparse.Namespace) -> None:
    """Make a run, or take it up again, and train it to its end."""
    options = vars(arguments)
    directory: Path = options["out"]
    if {"minutes", "epochs"} <= options.keys() and not _dropped_for_the_call(options):
        raise CallError("--minutes and --epochs: got both, expected one of them")
    if not (
        "resume" in options and Run.exists(directory)
    ):  # which is held to what it was begun with
        _refuse_remedies(application, options)
        application.refuse(options)
    if "watch" in options:
        from unrolled.lens.render import require

        require()
    with _memory_that_is_too_small(application, options), ExitStack() as stack:
        followers = stack.enter_context(
            logs(log=options.get("log"), tensorboard=options.get("tensorboard"))
        )
        resumed = "resume" in options and Run.exists(directory)
        stack.enter_context(place_of_a_run(directory, is_new=not resumed))
        if resumed:
            run = open_run(directory)
            _refuse_changes(application, run, options)
        else:
            with beginning(directory):
                run = begin(application, directory, options)
        torch.set_num_threads(run.settings.threads)
        trainer = Trainer(run)
        if resumed:
            trainer.restore()
            say(f"resumed at step {trainer.step:,} of {run.settings.steps:,}")
        if "watch" in options:
            longest = application.longest(run, trainer.data, "train")
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
        finished = application.finish(trainer)
    if "json" in options:
        print_json({**_record(application, trainer, outcome), **finished})
    early = ", stopped early" if outcome.stopped_early else ""
    say(f"{directory}: trained for {outcome.step} of {run.settings.steps} steps{early}")
    if trainer.judge.evaluations():
        say(f"best on the validation split: {outcome.best:.4f} {application.measure}")
        _say_if_short(application, trainer)
    else:
        say("the validation split is empty: the last weights are kept")
    if "watch" in options and (directory / PAGE).exists():
        say(f"the gradient over the training: {directory / PAGE}")


def begin(application: Application, directory: Path, options: Mapping[str, Any]) -> Run:
    """A new run in the empty ``directory``.

    ``options`` are those that were given, by name, and ``kind``; others are as in the kind's recipe, or
    as always.
    """
    complete = application.completed(options)
    torch.set_num_threads(complete["threads"])
    return application.begin(directory, complete)


def _record(application: Application, trainer: Trainer, outcome: Outcome) -> dict[str, Any]:
    """What came of it, for JSON."""
    directory = trainer.run.directory
    measure = next(iter(application.figures))
    return {
        "run": str(directory),
        "step": outcome.step,
        "steps": trainer.settings.steps,
        "stopped_early": outcome.stopped_early,
        f"validation_{measure}": outcome.best if math.isfinite(outcome.best) else None,
        **application.outcome(trainer),
        "seconds": round(seconds_of(directory) or 0.0, 1),
    }


def _say_if_short(application: Application, trainer: Trainer) -> None:
    """Say that a longer training would be better, where what there is shows it."""
    more = "minutes" if trainer.settings.epochs is None else "epochs"
    share = trainer.step / len(trainer.feed)
    if share < 1:
        say(
            f"it has read {share:.0%} of the training {application.reads}: "
            f"a run of more --{more} will be better"
        )
        return
    for (before, was, *_), (after, loss, *_) in pairwise(trainer.evaluations[-2:]):
        if was - loss > application.least_gain:
            say(
                f"it was still learning, by {was - loss:.3f} {application.unit} in the last "
                f"{after - before:,} steps: a run of more --{more} will be better"
            )


@contextmanager
def _memory_that_is_too_small(
    application: Application, options: Mapping[str, Any]
) -> Iterator[None]:
    """Where the model does not fit into ``--memory``, it is the call that is at fault."""
    try:
        yield
    except TooSmallError as error:
        least = spoken(math.ceil(error.least * HEADROOM))
        raise CallError(
            f"--memory: got {spoken(options['memory'])}, expected at least {least} for this model and "
            f"{application.reads}"
        ) from None


def _dropped_for_the_call(options: dict[str, Any]) -> bool:
    """Whether one of --minutes and --epochs came from --config alone: it is left out for the other."""
    configured: dict[str, Any] = options.get("configured", {})
    for name, other in (("minutes", "epochs"), ("epochs", "minutes")):
        if configured.get(name) == options[name] and other not in configured:
            del options[name]
            return True
    return False


def _refuse_remedies(application: Application, options: Mapping[str, Any]) -> None:
    """Refuse remedies that do not go together, or not with another option."""
    chosen = options.get("remedy", {})
    try:
        check_remedies(chosen)
    except ValueError as error:
        raise CallError(f"--remedy: {error}") from None
    cell = application.completed(options)["cell"]
    for name in chosen:
        if REMEDIES[name].sets == NETWORK and cell != "elman":
            raise CallError(f"--remedy {name}: got --cell {cell}, expected --cell elman")
        if REMEDIES[name].sets == CLIPPING and "clip" in options:
            raise CallError(
                f"--clip: got {options['clip']:g} with --remedy {name}, expected one of them"
            )


def _refuse_changes(application: Application, run: Run, options: Mapping[str, Any]) -> None:
    """Refuse options that differ from those the run was begun with."""
    flags = {"kind": "the kind of model"}
    flags |= {name: option.flag(name) for name, option in application.options.items()}
    defaults = {name: option.default for name, option in application.options.items()}
    kind = next(
        (name for name, one in application.kinds.items() if one.holds == run.kind), run.kind
    )
    began = {"kind": kind, **defaults, **run.command}  # which has not what came later
    for name, before in began.items():
        if name in options and options[name] != before:
            raise CallError(
                f"{flags[name]}: got {_told(options[name])}, but the run in {run.directory} was begun "
                f"with {_told(before)}; leave it out, or begin a new run in another --out"
            )


def _told(value: Any) -> str:
    """An option's value as it is given."""
    if isinstance(value, dict):
        parts = (key if setting is None else f"{key}={setting}" for key, setting in value.items())
        return " ".join(parts) or "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
