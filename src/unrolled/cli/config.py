"""``--config FILE``: options of any command, from a TOML file with a table for each."""

import argparse
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unrolled.cli.options import Collecting, memory
from unrolled.errors import CallError


def named_in(argv: Sequence[str]) -> Path | None:
    """The file that ``--config`` names, if it is there."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    try:
        namespace, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return None  # the command's own parser says what is wrong
    path: Path | None = namespace.config
    return path


def apply(path: Path, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Make the options of the file at ``path`` the defaults of ``commands``, as if they had been given.

    Raises:
        CallError: the file cannot be read; or a command or an option is unknown, or a value of another
            type.
    """
    for name, options in _read(path).items():
        if not isinstance(options, dict):
            raise CallError(
                f"{path}: {name}: got {options!r}, expected options in a table, such as [train]"
            )
        if name not in commands:
            known = ", ".join(commands)
            raise CallError(f"{path}: [{name}]: no command of that name, expected one of {known}")
        parser = commands[name]
        actions = _actions(parser)
        values = {}
        for key, value in options.items():
            where = f"{path}: [{name}] {key}"
            action = actions.get(key.replace("_", "-"))
            if action is None:
                near = difflib.get_close_matches(key.replace("_", "-"), actions, 1)
                meant = f"; {near[0]}?" if near else f"; 'unrolled {name} --help' lists them"
                raise CallError(f"{where}: no option of that name{meant}")
            read = _value(action, value, where)
            if read is not False or action.nargs != 0 or _is_two_way(action):
                values[action.dest] = read
                action.required = False
        parser.set_defaults(**values, configured=values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise CallError(f"--config: got {path}, expected a file that is there") from None
    except OSError as error:
        raise CallError(f"--config: {path} cannot be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CallError(f"{path}: not TOML ({error})") from None


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Those of options, by their names without dashes."""
    return {
        action.option_strings[0].lstrip("-"): action
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", "config")
    }


def _is_two_way(action: argparse.Action) -> bool:
    return isinstance(action, argparse.BooleanOptionalAction)


def _value(action: argparse.Action, value: Any, where: str) -> Any:
    """``value`` as the command line would read it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise CallError(f"{where}: got {value!r}, expected true or false")
        return value
    if not isinstance(value, list):
        if action.nargs == "+":
            return [_single(action, value, where)]
        read = _single(action, value, where)
        return dict([read]) if isinstance(read, tuple) else read
    if action.nargs != "+" and not isinstance(action, Collecting):
        raise CallError(f"{where}: got {value!r}, expected one value")
    parts = [_single(action, part, where) for part in value]
    return dict(parts) if isinstance(action, Collecting) else parts


def _single(action: argparse.Action, value: Any, where: str) -> Any:
    is_number = action.metavar == "N" and action.type is not memory
    kinds = (int, float) if is_number else (int, str) if action.type is memory else (str,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise CallError(
            f"{where}: got {value!r}, expected {'a number' if is_number else 'a text in quotes'}"
        )
    try:
        read = action.type(str(value)) if callable(action.type) else value
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise CallError(f"{where}: {error}") from None
    if action.choices is not None and read not in action.choices:
        raise CallError(
            f"{where}: got {value!r}, expected one of {', '.join(map(str, action.choices))}"
        )
    return read
