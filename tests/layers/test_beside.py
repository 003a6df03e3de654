"""What every level reads beside the one below, and directions that read different things."""

import pytest
import torch
from torch import Tensor

import unrolled
from tests.cells.test_observed import series
from tests.compare import assert_close_by_name, collect
from unrolled import Recurrent, cells, lens
from unrolled.cells import observed

T, B, V, D, H = 9, 3, 2, 8, 5
KINDS = ["GRUD", "ContinuousTimeLSTM"]


class Timed(cells.Elman):
    """An Elman cell that reads the last feature of the input at every level."""

    beside = 1


def features(reverse: bool = False, lengths: list[int] | None = None) -> Tensor:
    x, times = series(5, steps=T, batch_size=B, variables=V)
    return observed(x, times, lengths=lengths, reverse=reverse).features


@pytest.mark.parametrize("residual", [False, True, "highway"])
@pytest.mark.parametrize("merge", ["concat", "mean", "separate"])
def test_it_is_the_levels_one_after_another(merge: str, residual: bool | str) -> None:
    options = {"merge": merge, "residual": residual, "bidirectional": True}
    layer = Recurrent(Timed, 3, H, depth=2, **options)
    x = torch.randn(T, B, 3)
    first, plain = Recurrent(Timed, 3, H, bidirectional=True, merge=merge), layer(x).y
    first.load_state_dict(
        {k: v for k, v in layer.state_dict().items() if k[:7] in ("cells.0", "cells.1")}
    )
    below = first(x).y
    streams = below if isinstance(below, tuple) else (below, below)
    got = []
    for direction, y in enumerate(streams):
        one = Recurrent(Timed, y.shape[-1] + 1, H)
        one.cells[0] = layer.cells[2 + direction]
        seen = torch.cat([y, x[..., -1:]], -1)
        got.append(one(seen.flip(0)).y.flip(0) if direction else one(seen).y)
    if merge != "separate":
        got = [torch.cat(got, -1) if merge == "concat" else (got[0] + got[1]) / 2]
        streams, plain = streams[:1], (plain,)
    if residual is True:
        got = [y + read for y, read in zip(got, streams, strict=True)]
    elif residual:
        gates = [torch.sigmoid(h(read)) for h, read in zip(layer.highways, streams, strict=True)]
        got = [g * y + (1 - g) * r for g, y, r in zip(gates, got, streams, strict=True)]
    for y, expected in zip(got, plain, strict=True):
        torch.testing.assert_close(y, expected)


def test_dropout_leaves_it_whole() -> None:
    seen = []

    class Looking(Timed):
        def project(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().project(x)

    x = torch.ones(T, B, 3)
    for options in ({"dropout": 0.5}, {"variational_dropout": 0.5}):
        seen.clear()
        Recurrent(Looking, 3, H, depth=2, backend="reference", **options)(x)
        *_, above = seen
        assert above.shape[-1] == H + 1
        assert (above[..., :-1] == 0).any() and (above[..., -1] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_read_one_by_each_direction(kind: str) -> None:
    lengths = [T, 4, 0]
    ahead, behind = features(lengths=lengths), features(reverse=True, lengths=lengths)
    layer = Recurrent(getattr(cells, kind), D, H, bidirectional=True, depth=2)
    y = layer((ahead, behind), lengths=lengths).y
    for b, n in enumerate(lengths):
        own = slice(b, b + 1)
        alone = layer((ahead[:n, own], behind[:n, own])).y
        assert_close_by_name({"y": y[:n, own]}, {"y": alone}, 4 * T)
    assert not torch.allclose(y[:, 0], layer(ahead).y[:, 0])
    first = Recurrent(getattr(cells, kind), D, H, batch_first=True, bidirectional=True)
    pair = (ahead.transpose(0, 1), behind.transpose(0, 1))
    got = first(pair, lengths=lengths).y
    first.batch_first = False
    assert torch.equal(got.transpose(0, 1), first((ahead, behind), lengths=lengths).y)


def test_a_pair_that_does_not_fit_is_refused() -> None:
    x = torch.randn(T, B, 3)
    with pytest.raises(ValueError, match=r"^x: got a pair, .* the layer is not bidirectional"):
        Recurrent(cells.GRU, 3, H)((x, x))
    both = Recurrent(cells.GRU, 3, H, bidirectional=True)
    with pytest.raises(ValueError, match=r"^x: got shapes \[9, 3, 3\] and \[8, 3, 3\]"):
        both((x, x[1:]))
    with pytest.raises(TypeError, match=r"^x: got tuple, expected a tensor"):
        both((x, x, x))
    with pytest.raises(ValueError, match=r"^x: got shape \[9, 3, 2\]"):
        both((x, x[..., 1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_sees_a_layer_that_knows_of_time(kind: str) -> None:
    layer = Recurrent(getattr(cells, kind), D, H, depth=2, bidirectional=True)
    with unrolled.watch(layer) as watched:
        layer((features(), features(reverse=True))).y[-1].sum().backward()
    report = watched.report()
    assert len(report.rows) == 4 and all(max(row.norms) > 0 for row in report.rows)
    found = lens.causes(layer, features())
    assert [cause.cell for cause in found] == [kind] * 4
    scans = lens.recurrences(layer, features())
    assert [scan.x.shape[-1] for scan in scans] == [D, D, 2 * H + 2, 2 * H + 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [False, True])
def test_windows_and_skipped_steps_go_the_same_way(kind: str, mask: bool) -> None:
    layer = Recurrent(getattr(cells, kind), D, H, depth=2)
    x = features()
    skip = torch.rand(T, B) < 0.7 if mask else torch.ones(T, B, dtype=torch.bool)
    found = []
    for backend in ("native", "reference"):
        layer.backend = backend
        y, state = layer(x[:4], mask=skip[:4])
        z, state = layer(x[4:], state, mask=skip[4:])
        outputs = {"y": torch.cat([y, z])} | {f"state {k}": s for k, s in enumerate(state)}
        found.append(collect(outputs, dict(layer.named_parameters())))
    assert_close_by_name(*found, 2 * T)
    whole = layer(x, mask=skip)
    assert_close_by_name({"y": found[0]["y"]}, {"y": whole.y.detach()}, 2 * T)
    assert not whole.y[~skip].any()
