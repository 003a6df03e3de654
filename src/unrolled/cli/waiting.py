"""What is said while something takes its time."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unrolled.cli.language import translated
from unrolled.cli.printing import is_quiet
from unrolled.training.callbacks import duration

PATIENCE, EVERY = 1.5, 10.0  # seconds until it is said, and from one time to the next


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say ``text`` on standard error if what is done inside takes long, and then how long it has taken."""
    if is_quiet() or sys.stderr is None:
        yield
        return
    done = threading.Event()
    file, told = sys.stderr, translated(text, sys.stderr)

    def watch() -> None:
        seconds = PATIENCE
        while not done.wait(PATIENCE if seconds == PATIENCE else EVERY):
            print(f"{told} …{'' if seconds == PATIENCE else f' {duration(seconds)}'}", file=file)
            seconds += EVERY

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
