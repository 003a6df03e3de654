"""``--config FILE``: options of any command, from a TOML file with a table for each."""

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unrolled.cli.options import Collecting, memory, names, quantiles
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
        kinds = kinds_of(commands[name])
        if not kinds:
            _put(commands[name], _values(commands[name], options, f"{path}: [{name}]", name))
            continue
        own = {kind: options.pop(kind) for kind in kinds if isinstance(options.get(kind), dict)}
        values = _values_of_kinds(kinds, options, f"{path}: [{name}]", name)
        for kind, parser in kinds.items():
            where = f"{path}: [{name}.{kind}]"
            _put(parser, values[kind] | _values(parser, own.get(kind, {}), where, f"{name} {kind}"))


def kinds_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of a command's own commands, such as those of ``train``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: Mapping[str, argparse.ArgumentParser] = action.choices
            return found
    return {}


def _put(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> None:
    """Make ``values``, by the names of the arguments, the defaults of ``parser``."""
    for action in parser._actions:
        if action.dest in values:
            action.required = False
    parser.set_defaults(**values, configured=values)


def _values_of_kinds(
    kinds: Mapping[str, argparse.ArgumentParser], options: Mapping[str, Any], where: str, name: str
) -> dict[str, dict[str, Any]]:
    """What each kind takes of ``options``, which are of all: what it has.

    Raises:
        CallError: none has such an option, or one that has it takes no such value.
    """
    actions = {kind: _actions(parser) for kind, parser in kinds.items()}
    values: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for key, value in options.items():
        option = key.replace("_", "-")
        having = [kind for kind in kinds if option in actions[kind]]
        refused = {}
        for kind in having:
            try:
                values[kind] |= _values(kinds[kind], {key: value}, where, name)
            except CallError as error:
                refused[kind] = error
        if not having:
            everywhere = [option for kind in kinds for option in actions[kind]]
            raise _unknown(f"{where} {key}", option, everywhere, f"{name} KIND")
        for kind, why in refused.items():
            if len(refused) == len(having):
                raise why
            raise CallError(f"{why}, of {kind}; what is for one kind alone stands in [{name}.KIND]")
    return values


def _values(
    parser: argparse.ArgumentParser, options: Mapping[str, Any], where: str, name: str
) -> dict[str, Any]:
    """What ``parser`` takes of ``options``, by the names of its arguments.

    Raises:
        CallError: it has no such option, or one that takes no such value.
    """
    actions = _actions(parser)
    values = {}
    for key, value in options.items():
        action = actions.get(key.replace("_", "-"))
        if action is None:
            raise _unknown(f"{where} {key}", key.replace("_", "-"), actions, name)
        read = _value(action, value, f"{where} {key}")
        if read is not False or action.nargs != 0 or _is_two_way(action):
            values[action.dest] = read
    return values


def _unknown(where: str, option: str, known: Iterable[str], name: str) -> CallError:
    near = difflib.get_close_matches(option, list(dict.fromkeys(known)), 1)
    meant = f"; {near[0]}?" if near else f"; 'unrolled {name} --help' lists them"
    return CallError(f"{where}: no option of that name{meant}")


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
    if action.type is names and all(isinstance(part, str) for part in value):
        return list(value)
    if action.type is quantiles:
        return _single(action, ",".join(map(str, value)), where)
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
