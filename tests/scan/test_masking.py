"""Steps that sequences skip: each sequence alone, with its real steps cut out, gives the same."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.compare import (
    assert_close_by_name,
    check_derivatives,
    collect,
    leaves,
    named_state,
    run_by_hand,
    scanned,
)
from unrolled import Recurrent, cells
from unrolled.cells import Cell, State
from unrolled.scan import Backend, ScanOptions, native, scan

D, H = 3, 5
CELLS: dict[str, Callable[..., Cell]] = {
    "Elman": cells.Elman,
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
    "normed": functools.partial(cells.LSTM, layer_norm=True),
}
MASK = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0] * 6, [1, 0, 0, 0, 0, 1]]).T.bool()
RESETS = torch.tensor(
    [[0, 0, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0]]
)
RESETS = RESETS.T.bool()
backends = pytest.mark.parametrize(
    "backend",
    [
        "reference",
        pytest.param(
            "auto", marks=pytest.mark.skipif(native.missing() is not None, reason="no kernels")
        ),
    ],
)


def make(kind: str, steps: int, batch_size: int) -> tuple[Cell, Tensor, State]:
    cell = CELLS[kind](D, H).double()
    state = tuple(torch.randn(batch_size, size).double() for size in cell.state_sizes)
    return cell, torch.randn(steps, batch_size, D).double(), state


def cut_out(
    cell: Cell, x: Tensor, state: State, mask: Tensor, resets: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """Each sequence alone: its real steps, split at resets, each piece by the contract of a cell alone."""
    zeros = tuple(torch.zeros_like(s[:1]) for s in state)
    columns, finals = [], []
    for b in range(x.shape[1]):
        sequence = slice(b, b + 1)
        pieces: list[list[int]] = [[]]
        due = False
        for t in range(len(x)):
            due = due or (resets is not None and bool(resets[t, b]))
            if mask[t, b]:
                if due:
                    pieces.append([])
                due = False
                pieces[-1].append(t)
        order = pieces[::-1] if reverse else pieces
        column = list(x.new_zeros(len(x), H).unbind(0))
        own = tuple(s[sequence] for s in state)
        for k, piece in enumerate(order):
            if reverse and not piece:  # a reset at the first real step: nothing is read after it
                continue
            own = own if k == 0 else zeros
            times = piece[::-1] if reverse else piece
            if times:
                y, own = run_by_hand(cell, x[times][:, sequence], own)
                for t, row in zip(times, y, strict=True):
                    column[t] = row[0]
        columns.append(torch.stack(column))
        finals.append(own)
    return torch.stack(columns, 1), tuple(torch.cat(s) for s in zip(*finals, strict=True))


def run(
    call: Callable[..., tuple[Tensor, State]], cell: Cell, x: Tensor, state: State
) -> dict[str, Tensor]:
    x, *start = leaves(x, *state)
    y, final = call(cell, x, tuple(start))
    sources = {"x": x} | named_state(tuple(start), "_0") | dict(cell.named_parameters())
    return collect({"y": y} | named_state(final, "_n"), sources)


@backends
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("resets", [None, RESETS], ids=["whole", "resets"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_sequence_runs_as_if_the_steps_it_skips_were_not_there(
    kind: str, resets: Tensor | None, reverse: bool, backend: Backend
) -> None:
    cell, x, state = make(kind, 6, 4)
    options = {"resets": resets, "reverse": reverse}
    masked = ScanOptions(mask=MASK, backend=backend, **options)
    got = run(functools.partial(scanned, options=masked), cell, x, state)
    expected = run(functools.partial(cut_out, mask=MASK, **options), cell, x, state)
    assert_close_by_name(got, expected, 6)
    skipped = ~MASK
    assert not got["y"][skipped].any() and not got["grad of x"][skipped].any()


@given(data=st.data())
def test_with_any_mask_resets_and_lengths(data: st.DataObject) -> None:
    T, B = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 4))
    flags = st.lists(st.booleans(), min_size=T * B, max_size=T * B)
    mask = torch.tensor(data.draw(flags), dtype=torch.bool).view(T, B)
    resets = torch.tensor(data.draw(flags), dtype=torch.bool).view(T, B)
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    real = mask & (torch.arange(T).unsqueeze(1) < lengths)
    cell, x, state = make("GRU", T, B)
    (got,), final = scan(cell, x, state, ScanOptions(mask=mask, lengths=lengths, resets=resets))
    y, expected = cut_out(cell, x, state, real, resets, False) if T else (got, state)
    assert_close_by_name({"y": got, "h_n": final[0]}, {"y": y, "h_n": expected[0]}, T)


@backends
@pytest.mark.parametrize("filling", [torch.nan, torch.inf])
def test_what_stands_in_a_skipped_step_changes_no_bit(filling: float, backend: Backend) -> None:
    cell, x, state = make("LSTM", 6, 4)
    call = functools.partial(
        scanned, options=ScanOptions(mask=MASK, resets=RESETS, backend=backend)
    )
    clean = x.masked_fill(~MASK.unsqueeze(-1), 0)
    spoilt = x.masked_fill(~MASK.unsqueeze(-1), filling)
    expected, got = run(call, cell, clean, state), run(call, cell, spoilt, state)
    for name, value in expected.items():
        assert value.isfinite().all() and torch.equal(got[name], value), name


def test_a_mask_of_leading_steps_is_lengths_and_an_empty_sequence_keeps_its_state() -> None:
    cell, x, state = make("LSTM", 6, 3)
    lengths = torch.tensor([4, 0, 6])
    mask = torch.arange(6).unsqueeze(1) < lengths
    plain, masked = (
        scanned(cell, x, state, ScanOptions(lengths=lengths)),
        scanned(cell, x, state, ScanOptions(mask=mask)),
    )
    assert torch.equal(plain[0], masked[0])
    for before, a, b in zip(state, plain[1], masked[1], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b[1], before[1])


@backends
def test_states_and_norms_stand_at_their_own_steps(backend: Backend) -> None:
    cell, x, state = make("LSTM", 6, 4)
    norms = [torch.full((6, 4), 7.0).double() for _ in state]
    (h, c), _ = scan(
        cell, x, state, ScanOptions(mask=MASK, return_states=True, norms=norms, backend=backend)
    )
    assert not c[~MASK].any() and c[MASK].all()
    weight = torch.randn(6, 4, H).double()
    torch.autograd.grad((h * weight).sum(), cell.weight_ih)  # x has no part in it
    for b in range(4):
        times = MASK[:, b].nonzero().flatten()
        alone = [torch.zeros(len(times), 1).double() for _ in state]
        if len(times):
            (own,), _ = scan(
                cell,
                x[times, b : b + 1],
                tuple(s[b : b + 1] for s in state),
                ScanOptions(norms=alone),
            )
            (own * weight[times, b : b + 1]).sum().backward()
        for k, norm in enumerate(norms):
            torch.testing.assert_close(norm[times, b], alone[k][:, 0])
            assert not norm[~MASK[:, b], b].any()


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    cell, x, state = make("GRU", 3, 2)
    mask = torch.tensor([[0, 1], [1, 0], [1, 1]]).bool()
    check_derivatives(
        cell, lambda cell, x, *state: scanned(cell, x, state, ScanOptions(mask=mask)), x, *state
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_a_deep_layer_in_both_directions_skips_too(merge: str, batch_first: bool) -> None:
    options = {"depth": 2, "bidirectional": True, "merge": merge, "batch_first": batch_first}
    layer = Recurrent(cells.LSTM, D, H, **options).double()
    x = torch.randn(6, 4, D).double()
    flip = (lambda v: v.transpose(0, 1)) if batch_first else (lambda v: v)
    y, final = layer(flip(x), mask=flip(MASK))
    ys = y if merge == "separate" else (y,)
    for b in range(4):
        times = MASK[:, b].nonzero().flatten()
        own, last = layer(flip(x[times, b : b + 1]))
        for whole, alone in zip(ys, own if merge == "separate" else (own,), strict=True):
            got = {"y": flip(whole)[times, b : b + 1], "h": final[0][:, b : b + 1]}
            assert_close_by_name(got, {"y": flip(alone), "h": last[0]}, 6)
            assert not flip(whole)[~MASK[:, b], b].any()


@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        (torch.ones(4, 2), TypeError, r"^mask: got torch.float32, expected a boolean .*\[4, 2\]"),
        ([[True] * 2] * 4, TypeError, r"^mask: got list, expected a boolean tensor \[4, 2\]"),
        (torch.ones(2, 4).bool(), ValueError, r"^mask: got shape \[2, 4\], expected \[4, 2\]"),
    ],
    ids=["float", "list", "transposed"],
)
def test_a_mask_that_does_not_fit_is_refused(
    mask: object, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Recurrent(cells.GRU, 3, 5)(torch.zeros(4, 2, 3), mask=mask)
