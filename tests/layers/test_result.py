"""What a layer returns: two parts to unpack, and more by name, wherever PyTorch takes it."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells
from unrolled.layers import Result
from unrolled.scan import ScanOptions, scan

T, B, D, H = 5, 3, 4, 6
LENGTHS = [5, 0, 2]


@pytest.mark.parametrize("sizes", [[H, H], [5, H]], ids=["even", "uneven"])
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "separate"])
def test_final_is_what_each_direction_says_after_its_own_last_step(
    merge: str, sizes: list[int]
) -> None:
    layer = Recurrent(cells.LSTM, D, sizes, bidirectional=True, merge=merge).double()
    result = layer(torch.randn(T, B, D).double(), lengths=LENGTHS)
    assert result.final.shape == (B, 2 * H)
    if merge in ("concat", "separate"):
        ys = result.y if merge == "separate" else result.y.split(H, -1)
        expected = torch.zeros(B, 2 * H).double()
        for sequence, n in enumerate(LENGTHS):
            if n:
                expected[sequence] = torch.cat([ys[0][n - 1, sequence], ys[1][0, sequence]])
        assert torch.equal(result.final, expected)


def test_with_one_direction_final_is_the_last_real_output() -> None:
    layer = Recurrent(cells.GRU, D, H, depth=2, batch_first=True)
    result = layer(torch.randn(B, T, D), lengths=[5, 1, 2])
    assert torch.equal(result.final, result.y[torch.arange(3), torch.tensor([4, 0, 1])])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sizes", [[H, H], [5, H]], ids=["even", "uneven"])
def test_states_are_those_of_every_step_layer_and_direction(
    sizes: list[int], batch_first: bool
) -> None:
    layer = Recurrent(cells.LSTM, D, sizes, bidirectional=True, batch_first=batch_first).double()
    x = torch.randn(T, B, D).double()
    lengths = torch.tensor(LENGTHS)
    given = x.transpose(0, 1) if batch_first else x
    result = layer(given, lengths=lengths, states=True)
    assert layer(given, lengths=lengths).states is None
    got = [
        [s.transpose(0, 1) if batch_first else s for s in kind.unbind(0)] for kind in result.states
    ]
    flat = [s for kind in got for s in kind]  # h of every scan, then c of every scan
    for level in range(2):
        ys = []
        for direction in range(2):
            k = 2 * level + direction
            (h, c), _ = scan(
                layer.cells[k],
                x,
                None,
                ScanOptions(lengths=lengths, reverse=direction == 1, return_states=True),
            )
            assert_close_by_name({"h": flat[k], "c": flat[4 + k]}, {"h": h, "c": c}, T)
            ys.append(h)
        x = torch.cat(ys, -1)


def test_it_unpacks_indexes_and_copies_as_a_pair() -> None:
    result = Recurrent(cells.LSTM, D, H)(torch.randn(T, B, D), states=True)
    assert isinstance(result, tuple) and len(result) == 2
    y, state = result
    assert y is result.y is result[0] and state is result.state is result[1]
    detached = Result(*(y.detach(), tuple(s.detach() for s in state)))
    same = Result(y.detach(), detached.state, tuple(s.detach() for s in result.states), 1, 0)
    for drop_in in (copy.copy(same), copy.deepcopy(same), pickle.loads(pickle.dumps(same))):
        assert torch.equal(drop_in.y, y)
        assert torch.equal(drop_in.final, result.final)
        assert torch.equal(drop_in.states[1], result.states[1])
    assert repr(detached).startswith("Result(y=tensor(")


REBUILT: dict[str, Callable[[Any], Any]] = {
    "items": lambda result: type(result)(*result),
    "generator": lambda result: type(result)(part for part in result),
    "list": lambda result: type(result)(list(result)),
    "copy": copy.copy,
    "pytree": lambda result: pytree.tree_map(lambda t: t.view_as(t), result),
}


@pytest.mark.parametrize("sizes", [[H, H], [5, H]], ids=["even", "uneven"])
@pytest.mark.parametrize("how", REBUILT)
def test_one_rebuilt_of_its_items_says_what_the_first_said(how: str, sizes: list[int]) -> None:
    layer = Recurrent(cells.LSTM, D, sizes, bidirectional=True)
    for states in (True, False):
        result = layer(torch.randn(T, B, D), states=states)
        rebuilt = REBUILT[how](result)
        assert type(rebuilt) is Result
        assert torch.equal(rebuilt.y, result.y) and torch.equal(rebuilt.final, result.final)
        assert (rebuilt.states is None) == (not states)
        if states:
            assert all(map(torch.equal, rebuilt.states, result.states))


def test_a_full_backward_hook_leaves_it_as_it_is() -> None:
    layer = Recurrent(cells.LSTM, D, H, bidirectional=True)
    x = torch.randn(T, B, D, requires_grad=True)
    want = layer(x, states=True)
    seen = []
    layer.register_full_backward_hook(lambda _, __, given: seen.append(given[0]))
    got = layer(x, states=True)
    assert torch.equal(got.final, want.final) and torch.equal(got.states[1], want.states[1])
    got.y.sum().backward()
    assert torch.equal(seen[0], torch.ones_like(got.y))


def test_of_one_put_together_from_single_tensors_only_the_items_are_known() -> None:
    result = Recurrent(cells.LSTM, D, H, bidirectional=True)(torch.randn(T, B, D), states=True)
    y, state = result
    moved = type(result)((y.detach(), type(state)(s.detach() for s in state)))
    assert torch.equal(moved.y, y) and torch.equal(moved.state[1], state[1])
    for name in ("final", "states"):
        with pytest.raises(RuntimeError, match=f"{name}: got a Result that was put together"):
            getattr(moved, name)
    with pytest.raises(TypeError, match="got 3 items, expected two"):
        type(result)([y, y, y])


def test_a_saved_state_is_loaded_as_a_plain_tuple_of_tensors_alone() -> None:
    _, state = Recurrent(cells.LSTM, D, H)(torch.randn(T, B, D), states=True)
    file = io.BytesIO()
    torch.save({"state": tuple(state), "as given": pytree.tree_map(torch.detach, state)}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert type(loaded["as given"]) is tuple
    assert all(map(torch.equal, loaded["as given"], state))


class Named(nn.Module):
    """A model that uses what a result has by name."""

    def __init__(self, cell: type[cells.Cell], **options: object) -> None:
        super().__init__()
        self.layer = Recurrent(cell, D, H, depth=2, bidirectional=True, **options)

    def forward(self, x: Tensor) -> tuple[Result, Tensor, Tensor]:
        result = self.layer(x, states=True)
        return result, result.final, result.states[0]


@pytest.mark.each_value
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "residual": True}], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_it_passes_through_torch_compile(backend: str, options: dict[str, object]) -> None:
    model = Named(cells.LSTM, backend=backend, **options)
    x = torch.randn(T, B, D)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    (result, final, states), expected = compiled(x), model(x)[0]
    assert isinstance(result, Result)
    assert_close_by_name(
        {"y": result.y, "final": final, "its final": result.final, "states": states},
        {
            "y": expected.y,
            "final": expected.final,
            "its final": expected.final,
            "states": expected.states[0],
        },
        T,
    )
    result.y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_options_that_draw_at_random_compile_whole(backend: str) -> None:
    options = {"variational_dropout": 0.3, "weight_drop": 0.3, "learn_initial_state": True}
    layer = Recurrent(cells.GRU, D, H, depth=2, dropout=0.3, backend=backend, **options)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x, found = torch.randn(T, B, D), []
    for module in (compiled, layer):
        torch.manual_seed(4)
        y = module(x).y
        found.append(
            {"y": y}
            | dict(
                zip(
                    "ab",
                    torch.autograd.grad(
                        y.sum(), [layer.cells[0].weight_hh, layer.cells[1].initial[0]]
                    ),
                    strict=True,
                )
            )
        )
    assert_close_by_name(*found, T)


def test_it_passes_through_torch_export_and_a_file() -> None:
    model = Recurrent(cells.GRU, D, H, bidirectional=True).eval()
    x = torch.randn(T, B, D)
    program = torch.export.export(model, (x,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    result, expected = torch.export.load(file).module()(x), model(x)
    assert isinstance(result, Result)
    assert torch.equal(result.y, expected.y)
    assert torch.equal(result.final, expected.final)


def test_it_passes_through_vmap() -> None:
    layer = Recurrent(cells.GRU, D, H, bidirectional=True)
    x = torch.randn(2, T, B, D)
    result = torch.vmap(layer)(x)
    expected = torch.stack([layer(one).final for one in x])
    assert_close_by_name({"final": result.final}, {"final": expected}, T)
