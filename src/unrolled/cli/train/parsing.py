"""The parser of ``unrolled train``: of each kind of model its own."""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from unrolled.cli.options import add_common, positive, whole
from unrolled.cli.train.application import Application
from unrolled.training.remedies import forms

Train = Callable[[Application, argparse.Namespace], None]


def add_to(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    applications: Iterable[Application],
    train: Train,
) -> None:
    """Add the command to the parser, with a command for every kind of the ``applications``."""
    parser = commands.add_parser(
        "train",
        help="train a model",
        description="Train a model into a run directory.",
        usage="unrolled train KIND … --out DIR [options]",
        epilog="'unrolled train KIND --help' lists the options of a kind.",
        argument_default=argparse.SUPPRESS,
    )
    kinds = parser.add_subparsers(
        title="kinds of model", dest="kind", required=True, metavar="KIND", prog="unrolled train"
    )
    for application in applications:
        for name in application.kinds:
            _add_kind(kinds, application, name, train)


def _add_kind(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]",
    application: Application,
    name: str,
    train: Train,
) -> None:
    kind = application.kinds[name]
    listed_remedies = "\n".join(f"  {form:<34} {about}" for form, about in forms())
    parser = kinds.add_parser(
        name,
        help=kind.help,
        description=kind.about,
        usage=f"unrolled train {name} {application.usage} --out DIR [options]",
        epilog=f"remedies (NAME[=VALUE] of --remedy):\n{listed_remedies}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    for number, (title, options) in enumerate(application.groups.items()):
        group = parser.add_argument_group(title)
        first = [n for n in options if n in application.sources] if number == 0 else []
        for option_name in first:
            option = options[option_name]
            _add_option(parser if option.is_positional else group, application, option_name)
        if number == 0:
            _add_place(group)
        for option_name in options:
            if option_name not in first:
                _add_option(group, application, option_name)
    _add_following(parser.add_argument_group("following it"))
    add_common(parser)
    parser.set_defaults(command=partial(train, application))


def _add_place(group: argparse._ActionsContainer) -> None:
    group.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run directory")
    group.add_argument(
        "--resume", action="store_true", help="continue where DIR stopped, if it did"
    )


def _add_option(place: argparse._ActionsContainer, application: Application, name: str) -> None:
    option = application.options[name]
    settings = dict(option.settings)
    if option.is_positional:  # needed by a new run alone
        place.add_argument(name, help=option.help, **{"nargs": "?", **settings})
        return
    default = option.default
    usual = [] if default in (None, {}, []) else [str(default)]
    if isinstance(default, list) and default:
        usual = [",".join(map(str, default))]
    recipes = application.recipes.items()
    usual += [f"{kind}: {recipe[name]}" for kind, recipe in recipes if name in recipe]
    shown = f" ({'; '.join(usual)})" if usual else ""
    if not settings.keys() & {"choices", "action"}:
        settings = {"metavar": "N", **settings}
    place.add_argument(option.flag(name), help=option.help + shown, **settings)


def _add_following(group: argparse._ActionsContainer) -> None:
    group.add_argument("--log", type=Path, metavar="FILE", help="append JSON lines to FILE")
    group.add_argument("--tensorboard", type=Path, metavar="DIR", help="write TensorBoard events")
    group.add_argument(
        "--watch", type=whole(1), metavar="N", help="look where the gradient goes, every N steps"
    )
    group.add_argument(
        "--checkpoint-seconds", type=positive, metavar="N", help="time between checkpoints (30)"
    )
    group.add_argument("--json", action="store_true", help="print what came of it as JSON")
