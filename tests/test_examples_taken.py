"""Few examples stand for many: which are taken."""

from itertools import product

import pytest

from tests.examples import MANY, covering, some

CASES = [dict(zip("abc", c, strict=True)) for c in product(range(5), range(3), range(2))]


def test_each_value_is_taken_with_as_few_cases_as_there_are_values_of_one() -> None:
    taken = [CASES[k] for k in covering(CASES)]
    assert len(taken) == 5
    assert {v for case in taken for v in case.items()} == {
        v for case in CASES for v in case.items()
    }


def test_so_is_every_two_together() -> None:
    taken = [CASES[k] for k in covering(CASES, 2)]
    assert len(taken) < len(CASES)
    for one, other in ("ab", "ac", "bc"):
        pairs = {(case[one], case[other]) for case in CASES}
        assert {(case[one], case[other]) for case in taken} == pairs


def test_a_choice_must_be_one_of_all() -> None:
    assert set(some([1, 2, 3], 2)) in ({2}, {1, 2, 3})
    with pytest.raises(ValueError, match="chosen: got"):
        some([1, 2, 3], 4)


@pytest.mark.each_value
@pytest.mark.parametrize("second", range(3))
@pytest.mark.parametrize("first", range(3))
def test_these_cases_are_three_by_default(
    first: int, second: int, request: pytest.FixtureRequest
) -> None:
    mine = [
        i
        for i in request.session.items
        if getattr(i, "originalname", "") == request.node.originalname
    ]
    assert len(mine) == 9 if MANY else len(mine) <= 3
