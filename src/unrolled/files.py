"""Files that are replaced whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_SYNCED = ContextVar("synced", default=True)


def replace(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: whoever reads sees all of the old file or of the new.

    Raises:
        OSError: it cannot be written; the error has ``path`` as its file's name, and what was there
            before is kept.
    """
    target = Path(os.path.realpath(path))  # what a link points to, which stays a link
    partial = target.with_name(f".{target.name}.partial")
    try:
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                if _SYNCED.get():
                    os.fsync(file.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut, where the system can."""
    if os.name != "posix" or not _SYNCED.get():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def unsynced() -> Iterator[None]:
    """Within, nothing is made to survive a power cut: for a directory that is removed in the end."""
    token = _SYNCED.set(False)
    try:
        yield
    finally:
        _SYNCED.reset(token)
