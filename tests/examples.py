"""How many examples a test takes: few by default, many with ``UNROLLED_EXAMPLES=many``, as in CI."""

import os
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import TypeVar

T = TypeVar("T")
MANY = os.environ.get("UNROLLED_EXAMPLES") == "many"


def some(every: Collection[T], *chosen: T) -> list[T]:
    """The ``chosen`` ones of ``every``; all of them where many are asked for."""
    missing = [value for value in chosen if value not in every]
    if missing or not chosen:
        raise ValueError(f"chosen: got {missing or 'none'}, expected some of {list(every)}")
    return list(every) if MANY else list(chosen)


def covering(cases: Sequence[Mapping[str, Hashable]], together: int = 1) -> list[int]:
    """The numbers of few ``cases`` that have, of any ``together`` parameters, all values.

    A case has a value for each parameter. One after the other is taken that brings the
    most which none before has brought.
    """
    brought = [set(combinations(case.items(), min(together, len(case)))) for case in cases]
    missing, taken = set().union(*brought), []
    while missing:
        best = max(range(len(cases)), key=lambda k: len(brought[k] & missing))
        missing -= brought[best]
        taken.append(best)
    return sorted(taken)


@contextmanager
def rerun(command: str) -> Iterator[None]:
    """What fails inside says by which command it alone is run again."""
    try:
        yield
    except Exception as error:
        error.add_note(f"rerun: {command}")
        raise
