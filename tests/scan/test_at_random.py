"""Kernels of any instruction set, with any shape and any options, are the reference."""

import shlex

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.examples import MANY
from tests.scan import at_random
from tests.scan.at_random import Drawn, check, main
from tests.scan.calls import CELLS
from unrolled.scan.native import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="no native library")

SETS = library.built() if library.missing() is None else ["serial"]
# An entry of a gradient may miss by a share of the tensor's largest. Where there is but one, its terms can
# cancel, and then rounding alone is more: so no tensor is that small here. One sequence, one feature and
# one unit have tests of their own, in ``test_native.py``.
SHAPES = st.tuples(
    st.integers(1, 7),
    st.integers(2, 20),
    st.integers(2, 40),
    st.one_of(st.integers(4, 70), st.sampled_from([64, 65, 100])),
)


@settings(max_examples=500 if MANY else 60)
@given(
    st.builds(
        Drawn, st.sampled_from(SETS), st.sampled_from(sorted(CELLS)), SHAPES, st.integers(0, 10**6)
    )
)
def test_with_any_shape_and_any_options_it_is_the_reference(call: Drawn) -> None:
    check(call)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last number that a kernel gives is off."""
    run = at_random.run

    def off(*arguments: object, **options: object) -> dict[str, Tensor]:
        found = run(*arguments, **options)  # type: ignore[arg-type]
        if options.get("backend") != "reference":
            last = list(found)[-1]
            found[last] = found[last] + 1
        return found

    monkeypatch.setattr(at_random, "run", off)


def test_one_that_fails_says_how_to_run_it_alone(
    wrong: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Drawn(SETS[-1], "RNN tanh", (3, 5, 2, 7), 12)
    with pytest.raises(AssertionError) as caught:
        check(call)
    (line,) = caught.value.__notes__
    assert line.startswith("rerun: .venv/bin/python -m tests.scan.at_random --set ")
    assert line.endswith(" --cell 'RNN tanh' --shape 3 5 2 7 --seed 12")
    arguments = shlex.split(line)[4:]
    torch.manual_seed(99)  # whatever ran before
    with pytest.raises(AssertionError) as again:
        main(arguments)
    assert str(again.value) == str(caught.value)  # the same numbers
    monkeypatch.undo()
    main(arguments)
