"""``torch.export``: programs with time and batch left free, saved and loaded."""

import io
from typing import Any

import pytest
import torch
from torch.export import Dim

from tests.compare import assert_close_by_name
from tests.composition.layers import CELLS, DROP_INS, NATIVE, Model, input_of, make, named
from unrolled.scan.native import library

pytestmark = [
    pytest.mark.skipif(library.missing() is not None, reason="no native library"),
    # Dynamo makes an instance of every autograd.Function that it traces, and PyTorch warns of that.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

FREE = {0: Dim("T"), 1: Dim("B")}


def reloaded(program: torch.export.ExportedProgram) -> Any:
    """The program after it has been through a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize(
    ("kind", "strict"),
    [*((kind, False) for kind in NATIVE), ("LSTM", True), ("Recurrent LSTM", True)],
)
def test_a_saved_program_takes_any_number_of_steps_and_sequences(kind: str, strict: bool) -> None:
    model = Model(make(kind, depth=1)).eval()
    free = {"x": FREE}
    program = torch.export.export(model, (input_of(),), dynamic_shapes=free, strict=strict)
    call = reloaded(program)
    for steps, batch_size in ((7, 5), (2, 9), (1, 1)):
        x = input_of(steps, batch_size)
        assert_close_by_name(named(call(x)), named(model(x)), steps)


@pytest.mark.parametrize("kind", CELLS)
def test_what_recurrent_returns_keeps_its_names_and_lengths_may_change(kind: str) -> None:
    layer, x, lengths = make(kind), input_of(5, 3), torch.tensor([3, 0, 5])
    program = torch.export.export(layer, (x,), {"lengths": lengths})
    other = lengths - lengths // 2
    result = reloaded(program)(x, lengths=other)
    assert type(result) is type(layer(x))
    assert_close_by_name(named(result), named(layer(x, lengths=other)), 5)


@pytest.mark.parametrize("kind", DROP_INS)
def test_an_initial_state_is_an_input_of_the_program(kind: str) -> None:
    layer, x, h = make(kind), input_of(), torch.randn(4, 2, 5)
    state = (h, torch.randn(4, 2, 5)) if kind == "LSTM" else h
    call = reloaded(torch.export.export(layer, (x, state)))
    doubled = (2 * h, 2 * state[1]) if kind == "LSTM" else 2 * h
    assert_close_by_name(named(call(x, doubled)), named(layer(x, doubled)), 4)


def test_a_cell_of_ones_own_is_unrolled_over_the_steps_it_is_exported_with() -> None:
    layer = make("Recurrent Leaky")
    batch_size = {"x": {1: Dim("B")}}
    call = reloaded(torch.export.export(layer, (input_of(),), dynamic_shapes=batch_size))
    x = input_of(4, 7)
    assert_close_by_name(named(call(x)), named(layer(x)), 4)
    with pytest.raises(torch._dynamo.exc.UserError, match="T"):
        torch.export.export(layer, (input_of(),), dynamic_shapes={"x": FREE})
