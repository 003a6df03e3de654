"""The command line: one file a command, each a thin layer over the library."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import unrolled
from unrolled.cli.printing import note, warnings_as_notes
from unrolled.errors import UnrolledError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``unrolled`` with ``argv``; return its exit code: 0, 1 (data or model), 2 (the call)."""
    hint = ""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal of another encoding must not end a run
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
        arguments = parser().parse_args(argv)
        hint = "; go on with the same command and --resume" if "out" in arguments else ""
        with warnings_as_notes():
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
        print(f"unrolled: error: {text}", file=sys.stderr)
    for said in getattr(error, "__notes__", ()):
        note(said)
    return code


def parser() -> argparse.ArgumentParser:
    """The parser of every command; each puts the function to call into ``command``."""
    from unrolled.cli import diagnose, evaluate, fill, generate, info, show, train

    root = argparse.ArgumentParser(
        prog="unrolled", description="Recurrent networks: train, fill in blanks, generate text."
    )
    root.add_argument("--version", action="version", version=f"unrolled {unrolled.__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (train, fill, generate, evaluate, diagnose, show, info):
        command.add_to(commands)
    return root


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())
