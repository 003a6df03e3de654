"""What every test shares."""

import pytest
import torch
from hypothesis import settings

from tests.examples import MANY, covering

# The same examples each time. A deadline would ask how busy the machine is.
settings.register_profile("few", max_examples=20, deadline=None, derandomize=True, database=None)
settings.register_profile("many", settings.get_profile("few"), max_examples=200)
settings.load_profile("many" if MANY else "few")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases of a test with ``each_value`` that bring no value of their own."""
    if MANY:
        return
    cases: dict[tuple[object, str], list[pytest.Function]] = {}
    for item in items:
        mark = item.get_closest_marker("each_value")
        if mark is not None and isinstance(item, pytest.Function):
            cases.setdefault((item.path, item.originalname), []).append(item)
    left = set[pytest.Item]()
    for group in cases.values():
        mark = group[0].get_closest_marker("each_value")
        assert mark is not None
        taken = covering([values_of(item) for item in group], *mark.args)
        left |= {item for k, item in enumerate(group) if k not in set(taken)}
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def values_of(item: pytest.Function) -> dict[str, tuple[int, ...]]:
    """Which values a case has, of each ``parametrize`` and of each fixture with parameters."""
    marks = [mark.args[0] for mark in item.iter_markers("parametrize")]
    groups = [mark.replace(" ", "").split(",") if isinstance(mark, str) else mark for mark in marks]
    params = item.callspec.params
    groups += [[name] for name in params if not any(name in group for group in groups)]
    return {",".join(group): tuple(id(params[name]) for name in group) for group in groups}


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed every test alike, so that none depends on which ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The models of the tests are too small to gain from more than one thread."""
    torch.set_num_threads(1)
