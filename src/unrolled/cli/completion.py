"""``unrolled completion``: what makes the Tab key complete a command."""

import argparse
from typing import TYPE_CHECKING

import shtab

from unrolled.cli.config import kinds_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SHELLS = ("bash", "zsh", "fish")
WHERE = {
    "bash": "unrolled completion bash > ~/.local/share/bash-completion/completions/unrolled",
    "zsh": "unrolled completion zsh > ~/.zfunc/_unrolled    (with ~/.zfunc in fpath, before compinit)",
    "fish": "unrolled completion fish > ~/.config/fish/completions/unrolled.fish",
}
DIRECTORIES = ("run", "runs", "out", "tensorboard")
FILES = ("data", "input", "output", "log", "html", "page", "svg", "future", "config")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    where = "\n".join(f"  {line}" for line in WHERE.values())
    parser = commands.add_parser(
        "completion",
        help="completion for a shell",
        description="Print the script with which a shell completes commands, options, their choices, files "
        f"and directories. Where it goes:\n{where}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Print the script."""
    from unrolled.cli import parser

    root, commands = parser()
    _mark_places(commands)
    print(shtab.complete(root, shell=arguments.shell))


def _mark_places(commands: "Mapping[str, argparse.ArgumentParser]") -> None:
    """Say which arguments are files, and which directories."""
    for parser in commands.values():
        _mark_places(kinds_of(parser))
        for action in parser._actions:
            if action.dest in DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.dest in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
