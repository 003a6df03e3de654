"""The files of a run: replaced whole or not at all, and read without running any code."""

import json
from collections.abc import Mapping
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unrolled import files
from unrolled.errors import RunError

NOTES = "notes"


def replace(path: Path, content: bytes) -> None:
    """As ``unrolled.files.replace``.

    Raises:
        RunError: the disk is full, or the file cannot be written; the old one is still there.
    """
    try:
        files.replace(path, content)
    except OSError as error:
        raise RunError(
            f"{path}: cannot write {len(content):,} bytes ({error.strerror}); "
            "what was there before is kept"
        ) from None


def append(file: RawIOBase, path: Path, line: bytes) -> None:
    """Write ``line`` to ``file``, which is ``path``, unbuffered and open at its end: all of it or nothing.

    Raises:
        RunError: the disk is full, or the file cannot be written.
    """
    done = 0
    try:
        while done < len(line):
            count = file.write(line[done:])
            if not count:
                raise OSError(f"only {done} of {len(line)} bytes were taken")
            done += count
    except OSError as error:
        if done:
            with suppress(OSError):  # no pipe can take it back
                file.truncate(file.tell() - done)
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_json(path: Path, value: object) -> None:
    """``value`` as JSON, atomically."""
    replace(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{path}: no such file; expected a directory made by 'unrolled train'"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged, not JSON ({error})") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: got a JSON {type(value).__name__}, expected an object")
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """``tensors`` as safetensors, atomically; ``notes`` are kept beside them as JSON."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # one note: safetensors writes several in any order, and the same run must be the same bytes
    replace(path, save(whole, {NOTES: json.dumps(dict(notes), sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the notes in ``path``."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = json.loads((file.metadata() or {}).get(NOTES, "{}"))
            if not isinstance(notes, dict):
                raise ValueError(f"notes: got {notes!r}, expected an object")
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path}: damaged, not whole safetensors ({error})") from None
    return tensors, notes
