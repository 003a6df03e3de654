"""The schedule against the dynamic programme whose optimum it is, and budgets against their own account."""

import math
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.bptt.schedule import (
    UNITS,
    Memory,
    Plan,
    TooSmallError,
    cost,
    first_part,
    forwards,
    parse,
    plan,
    repeats,
    spoken,
)

SEGMENTS, STATES = 40, 12


@cache
def optimum(segments: int, states: int) -> int:
    """Gruslys et al. 2016, section 3.1: the fewest runs, over all places of the first state kept."""
    if segments == 1:
        return 1
    if states == 1:
        return segments * (segments + 1) // 2
    return min(
        y + optimum(segments - y, states - 1) + optimum(y, states) for y in range(1, segments)
    )


def walked(segments: int, slots: int) -> int:
    """The runs of one who goes by ``first_part``."""
    if segments == 1:
        return 1
    part = first_part(segments, slots)
    return part + walked(segments - part, max(0, slots - 1)) + walked(part, slots)


def test_the_schedule_is_the_optimum_of_the_dynamic_programme() -> None:
    for n in range(1, SEGMENTS):
        for slots in range(STATES):
            assert forwards(n, slots) == optimum(n, slots + 1), (n, slots)
            assert walked(n, slots) == optimum(n, slots + 1), (n, slots)


def test_a_first_part_is_neither_empty_nor_all() -> None:
    for n in range(2, 200):
        for slots in range(25):
            assert 1 <= first_part(n, slots) < n


def test_binomials_say_how_far_a_number_of_repeats_reaches() -> None:
    for n in range(1, 200):
        for states in range(1, 10):
            r = repeats(n, states)
            assert math.comb(states + r, states) >= n
            assert r == 0 or math.comb(states + r - 1, states) < n


def test_more_slots_never_cost_more_runs_and_enough_cost_one_each() -> None:
    for n in range(1, 100):
        found = [forwards(n, slots) for slots in range(n + 3)]
        assert found == sorted(found, reverse=True)
        assert found[0] == n * (n + 1) // 2
        assert found[n - 1 :] == [2 * n - 1] * 4


@pytest.mark.parametrize("slots", [0, 1, 4, 20])
def test_each_segment_is_run_as_often_as_the_binomials_say_at_the_most(slots: int) -> None:
    for n in (1, 2, 10, 100, 1000):
        assert forwards(n, slots) <= (repeats(n, slots + 1) + 1) * n
    # 20 states do for a hundred thousand segments, at a cost of less than 6 runs each.
    assert repeats(50_000, 21) <= 5


def test_what_is_repeated_is_a_share_of_the_sequence() -> None:
    assert Plan(100, 1, 0, 1).repeated() == 0
    assert Plan(1, 10, 9, 1).repeated() == 9 / 10
    assert Plan(1, 10, 6, 4).repeated() == 6 / 10
    assert Plan(1, 10, 0, 1).repeated() == 45 / 10


# --- Plans ---------------------------------------------------------------------------------------

sizes = st.one_of(st.integers(0, 10), st.integers(0, 10**6))
memories = st.builds(Memory, step=sizes, call=sizes, state=sizes.map(lambda size: size + 1))
steps = st.one_of(st.integers(1, 12), st.integers(1, 20_000))
shares = st.one_of(st.integers(0, 2**40), st.integers(0, 1000))


@given(steps, memories, shares)
def test_a_plan_covers_the_sequence_within_its_budget(
    steps: int, memory: Memory, more: int
) -> None:
    budget = memory.least() + more
    found = plan(steps, budget, memory)
    assert found.bytes(memory) <= budget
    assert found.segments == math.ceil(steps / found.length)
    assert 0 <= found.slots < found.segments
    assert 1 <= found.kept <= found.segments
    if Plan(steps, 1, 0, 1).bytes(memory) <= budget:
        assert found.repeated() == 0


@given(steps, memories, st.data())
def test_a_budget_that_is_too_small_is_refused_with_one_that_works(
    steps: int, memory: Memory, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(0, memory.least() - 1))
    with pytest.raises(TooSmallError, match=r"^memory: got .* expected at least ") as caught:
        plan(steps, budget, memory)
    assert caught.value.least == memory.least()
    named = re.search("at least (.*), which one step", str(caught.value))
    assert named is not None
    plan(steps, parse(named[1]), memory)
    plan(steps, memory.least(), memory)


@given(steps, memories, shares, shares)
def test_a_larger_budget_never_costs_more_than_a_few_percent(
    steps: int, memory: Memory, more: int, still_more: int
) -> None:
    budget = memory.least() + more
    less = plan(steps, budget, memory)
    much = plan(steps, budget + still_more, memory)
    # Not never: states come before segments that are kept, so one state may take several's place.
    assert steps + cost(much, steps) <= 1.1 * (steps + cost(less, steps))


@pytest.mark.parametrize("steps", [1, 7, 1000, 100_000])
def test_a_budget_for_all_is_spent_on_one_segment(steps: int) -> None:
    memory = Memory(step=300, call=1000, state=50)
    assert plan(steps, 300 * steps + 1050, memory) == Plan(steps, 1, 0, 1)
    assert plan(steps, 2**62, memory) == Plan(steps, 1, 0, 1)


def test_a_budget_of_a_few_states_costs_a_few_repeats() -> None:
    memory = Memory(step=10_000, call=0, state=1_000)
    # T / sqrt(T) segments of sqrt(T) steps: Chen et al. 2016.
    assert plan(10_000, 100 * (10_000 + 1_000) + 1_000, memory).repeated() <= 1
    assert plan(10_000, 100_000, memory).repeated() < 4


# --- Sizes as text -------------------------------------------------------------------------------


@given(st.integers(1, 2**80))
def test_a_size_that_is_spoken_is_understood_and_rounded_up(size: int) -> None:
    back = parse(spoken(size))
    assert size <= back <= size * 9 / 8 + 1


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_understood(unit: str) -> None:
    for text in (f"3{unit}", f" 3 {unit.upper()} ", f"3.0\t{unit}"):
        assert parse(text) == 3 * UNITS[unit]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (1, 1),
        ("1", 1),
        ("1.9", 1),
        ("0.5 KiB", 512),
        (".5MB", 500_000),
        ("1e3 kB", 10**6),
        (2**70 + 1, 2**70 + 1),
        (10**400, 10**400),
    ],
)
def test_sizes(given: int | str, size: int) -> None:
    assert parse(given) == size


@pytest.mark.parametrize(
    "given",
    ["", "MiB", "64 MiB MiB", "64 bits", "64 k", "sixty", "0x10", "1,5 MB", "MiB 64", "--1", "i"],
)
def test_a_text_that_is_no_size_is_refused(given: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^memory: got {given!r}, expected a text such as '64 MiB'"
    ):
        parse(given)


@pytest.mark.parametrize("given", [0, -1, "0", "-3 MiB", "0.5", "inf", "nan", "1e308 TB"])
def test_no_bytes_and_endless_ones_are_refused(given: int | str) -> None:
    with pytest.raises(ValueError, match=rf"^memory: got {given!r}, expected 1 byte or more"):
        parse(given)


@pytest.mark.parametrize("given", [True, None, 1.5, [64], b"64 MiB"])
def test_what_is_neither_number_nor_text_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=r"^memory: got .* expected bytes, or a text such as"):
        parse(given)  # type: ignore[arg-type]
