"""Which column of a table is what."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unrolled.errors import CallError

Names = str | Sequence[str]


@dataclass(frozen=True)
class Roles:
    """Which column is what.

    Args:
        time: the column of times; ``None``: the rows of a series are its steps, in order.
        series: the columns that name a series; none: the table is one series.
        targets: the columns to forecast.
        known: columns that are known ahead, such as holidays.
        past: columns that are known up to now, such as weather.
        static: columns that do not change within a series; a column of ``series`` may be one too.
        categories: those of ``known``, ``past`` and ``static`` that are no quantities, though they are
            numbers.
        label: what is to be told of each series; then there need be no target.

    Raises:
        CallError: no target, or a column with two roles.
    """

    time: str | None
    targets: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    label: str | None = None

    def __post_init__(self) -> None:
        for role in ("time", "label"):
            if not isinstance(getattr(self, role), str | None):
                raise CallError(
                    f"{role}: got {getattr(self, role)!r}, expected the name of a column"
                )
        for role in ("targets", "series", "known", "past", "static", "categories"):
            object.__setattr__(self, role, names_of(role, getattr(self, role)))
        if not self.targets and not self.label and not self.past:
            raise CallError("targets: got none, expected the columns to forecast (--target)")
        taken: dict[str, str] = {}
        for name, role in self.of_columns():
            both = {taken.get(name, role), role}
            if name in taken and both != {"series", "static"}:
                raise CallError(
                    f"{role}: got {name!r}, which is given as {taken[name]} too; expected one role "
                    "for a column"
                )
            taken[name] = role
        for name in self.categories:
            if taken.get(name) not in ("known", "past", "static", "label"):
                raise CallError(
                    f"categories: got {name!r}, expected a column of known, past or static, or the label"
                )

    def of_columns(self) -> list[tuple[str, str]]:
        """Each column with its role, in order."""
        found = [] if self.time is None else [(self.time, "time")]
        found += [(name, "series") for name in self.series]
        found += [(name, "target") for name in self.targets]
        for role in ("known", "past", "static"):
            found += [(name, role) for name in getattr(self, role)]
        return found if self.label is None else [*found, (self.label, "label")]


def names_of(role: str, given: Names | None) -> tuple[str, ...]:
    """Names as a tuple, of one or several; none of ``None``."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise CallError(f"{role}: got {given!r}, expected names of columns")
    return tuple(given)
