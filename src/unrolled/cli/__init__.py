"""The command line: one file a command, each a thin layer over the library."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from unrolled.cli import config
from unrolled.cli.language import Parser, translated
from unrolled.cli.options import add_common
from unrolled.cli.printing import logs_as_notes, note, speaking, warnings_as_notes
from unrolled.errors import UnrolledError
from unrolled.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``unrolled`` with ``argv``; return its exit code: 0, 1 (data or model), 2 (the call)."""
    hint = ""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal of another encoding must not end a run
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
        arguments = parsed(sys.argv[1:] if argv is None else argv)
        hint = "; continue with the same command and --resume" if "out" in arguments else ""
        by_name = vars(arguments)
        with (
            speaking(quiet="quiet" in by_name, json=bool(by_name.get("json"))),
            warnings_as_notes(),
            logs_as_notes(),
        ):
            arguments.command(arguments)
        return 0
    except UnrolledError as error:
        return _failed(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        return _failed(f"stopped{hint}", 130, error)
    except BrokenPipeError:  # whoever read our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(f"{error.filename or 'output'}: {error.strerror or error}", 1, error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        return _failed("out of memory; try a smaller model or batch", 1, error)


def _failed(text: str, code: int, error: BaseException) -> int:
    if sys.stderr is not None:
        print(translated(f"unrolled: error: {text}", sys.stderr), file=sys.stderr)
    for said in getattr(error, "__notes__", ()):
        note(said)
    return code


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments: those of ``argv``, over those of the file of ``--config`` if one is named."""
    root, commands = parser()
    path = config.named_in(argv)
    if path is not None:
        config.apply(path, commands)
    return root.parse_args(argv)


def parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser, and that of every command; each puts the function to call into ``command``."""
    from unrolled.cli import (
        backtest,
        compare,
        completion,
        diagnose,
        evaluate,
        fill,
        forecast,
        generate,
        info,
        predict,
        show,
        tag,
        train,
    )

    root = Parser(
        prog="unrolled", description="Recurrent networks: train, fill in blanks, generate text."
    )
    root.add_argument("--version", action="version", version=f"unrolled {__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        train,
        fill,
        generate,
        forecast,
        backtest,
        tag,
        predict,
        evaluate,
        diagnose,
        compare,
        show,
        info,
        completion,
    ):
        command.add_to(commands)
    parsers: Mapping[str, argparse.ArgumentParser] = commands.choices
    for name, parser in parsers.items():
        if name not in ("info", "completion"):
            add_common(parser)
    return root, parsers


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())
