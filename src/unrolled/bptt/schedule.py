"""Where to keep a state, so that a long sequence's gradient fits into memory at the least cost.

A sequence is cut into segments. What a segment needs for its gradient is made when the backward pass
comes to it, by going forward again from a state that was kept: some states stand in ``slots``, the
others are made again in turn. Which ones to keep is the binomial schedule: with s states, the first one
among them, C(s + r, s) segments can be reached if each is run forward r times at most besides the
one time for its own gradient.

Sources: Griewank, "Achieving Logarithmic Growth of Temporal and Spatial Complexity in Reverse Automatic
Differentiation", Optimization Methods and Software 1 (1992); Chen, Xu, Zhang & Guestrin, "Training Deep
Nets with Sublinear Memory Cost", 2016; Gruslys, Munos, Danihelka, Lanctot & Graves, "Memory-Efficient
Backpropagation Through Time", NeurIPS 2016, whose optimum it equals (section 3.1).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """What steps and states take, in bytes.

    ``step``: of a step, for its gradient. ``call``: of a segment, besides its steps. ``state``: of a
    state that is kept.
    """

    step: int
    call: int
    state: int

    def least(self) -> int:
        """The smallest budget: one step at a time, every state made again from the first."""
        return self.step + self.call + self.state


class TooSmallError(ValueError):
    """A budget in which not even one step at a time fits; ``least`` bytes would do."""

    def __init__(self, budget: int, least: int) -> None:
        self.least = least
        super().__init__(
            f"memory: got {spoken(budget)}, expected at least {spoken(least)}, which one step at a "
            "time takes"
        )


@dataclass(frozen=True)
class Plan:
    """How a sequence is cut.

    ``length``: steps of a segment; the last may be shorter. ``segments``: how many. ``slots``: states
    kept at once, besides the first. ``kept``: the last segments, 1 or more, which are not made again.
    """

    length: int
    segments: int
    slots: int
    kept: int

    def bytes(self, memory: Memory) -> int:
        """What it takes at most."""
        segment = self.length * memory.step + memory.call
        return self.kept * segment + (self.slots + 1) * memory.state

    def repeated(self) -> float:
        """The share of the sequence that is run forward again."""
        count = self.segments - self.kept + 1
        return (forwards(count, self.slots) - count) / self.segments


def repeats(segments: int, states: int) -> int:
    """r, the least for which C(states + r, states) is ``segments`` or more."""
    r = 0
    while math.comb(states + r, states) < segments:
        r += 1
    return r


def first_part(segments: int, slots: int) -> int:
    """How many of ``segments``, 2 or more, come before the first state that is kept.

    >>> first_part(10, 9), first_part(10, 2), first_part(10, 0)
    (1, 4, 9)
    """
    states = slots + 1  # the first one too
    r = repeats(segments, states)
    reach = math.comb(slots + r, slots)  # of those after it, which have one state less
    return max(1, math.comb(states + r - 2, states), segments - reach)


def forwards(segments: int, slots: int) -> int:
    """How many segments are run forward in all: each for its own gradient, and to reach those.

    >>> forwards(10, 9), forwards(10, 2), forwards(10, 0)
    (19, 25, 55)
    """
    states = slots + 1
    r = repeats(segments, states)
    return (r + 1) * segments - math.comb(states + r, states + 1)


CALL = 2.0  # what a call of a segment costs besides its steps, in steps
CANDIDATES = 48  # lengths that are tried


def plan(steps: int, budget: int, memory: Memory) -> Plan:
    """The cheapest plan for ``steps`` within ``budget`` bytes.

    Raises:
        TooSmallError: not even one step at a time fits; it says what does.
    """
    if Plan(steps, 1, 0, 1).bytes(memory) <= budget:
        return Plan(steps, 1, 0, 1)
    best: Plan | None = None
    ratio = steps ** (1 / CANDIDATES)
    for length in sorted({max(1, int(steps / ratio**k)) for k in range(CANDIDATES + 1)} | {1}):
        candidate = _with_length(steps, length, budget, memory)
        if candidate is not None and (best is None or cost(candidate, steps) < cost(best, steps)):
            best = candidate
    if best is None:
        raise TooSmallError(budget, memory.least())
    return best


def _with_length(steps: int, length: int, budget: int, memory: Memory) -> Plan | None:
    """The plan of segments of ``length``: states first, what remains keeps segments."""
    segment = length * memory.step + memory.call
    count = math.ceil(steps / length)
    slots = (budget - segment) // memory.state - 1
    if slots < 0:
        return None
    slots = min(slots, count - 1)
    kept = (budget - (slots + 1) * memory.state) // segment
    return Plan(length, count, slots, min(kept, count))


def cost(chosen: Plan, steps: int) -> float:
    """What ``chosen`` runs forward again, and all its calls, in steps."""
    return chosen.repeated() * steps + CALL * chosen.segments * (1 + chosen.repeated())


UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def spoken(size: int) -> str:
    """``size`` bytes for a message, rounded up: it works when it is given back.

    >>> spoken(1000), spoken(70_000)
    ('1000 B', '69 KiB')
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= 8 * unit:
            return f"{-(-size // unit)} {name}"
    return f"{size} B"


def parse(memory: int | str) -> int:
    """Bytes from a number of them, or from a text such as "64 MiB".

    >>> parse("64 MiB"), parse("1.5GB"), parse(4096)
    (67108864, 1500000000, 4096)

    Raises:
        TypeError, ValueError: it is neither, or not above 0.
    """
    if isinstance(memory, bool) or not isinstance(memory, int | str):
        raise TypeError(f"memory: got {memory!r}, expected bytes, or a text such as '64 MiB'")
    size: float = 0
    if isinstance(memory, int):
        size = memory
    else:
        text = memory.strip().lower()
        number = text.rstrip("bikmgt ")
        unit = text[len(number) :].strip()
        try:
            size = float(number) * UNITS[unit]
        except (KeyError, ValueError):
            raise ValueError(f"memory: got {memory!r}, expected a text such as '64 MiB'") from None
    if not 1 <= size < math.inf:
        raise ValueError(f"memory: got {memory!r}, expected 1 byte or more")
    return int(size)
