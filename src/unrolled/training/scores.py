"""What an evaluation finds."""

from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True)
class Scores:
    """Means over so many of a ``unit``; NaN over none. A subclass has a field for each.

    ``measure`` is the field that a training makes small, ``unit`` that with the number; no evaluation
    has none of it.
    """

    measure: ClassVar[str]
    unit: ClassVar[str]

    @property
    def loss(self) -> float:
        """What a training makes small."""
        return float(getattr(self, self.measure))

    @property
    def count(self) -> int:
        """Over how many the means are."""
        return int(getattr(self, self.unit))

    def figures(self) -> dict[str, float]:
        """The means by their names, ``measure`` first."""
        names = sorted(
            (f.name for f in fields(self) if f.name != self.unit), key=self.measure.__ne__
        )
        return {name: getattr(self, name) for name in names}
