"""The norms of the gradient through time, as autograd has them; and nothing else changes."""

import gc
import json
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import unrolled
from tests.compare import assert_close_by_name
from unrolled import Recurrent, bptt, cells
from unrolled.lens import watch
from unrolled.lens.report import sparkline

T, B, D, H = 9, 3, 4, 5


def by_hand(layer: Recurrent, x: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    """The norms by retained gradients, step by step; each state is an alias seen from outside alone."""
    (cell,) = layer.cells
    state = cell.initial_state(B, x)
    seen: list[tuple[Tensor, ...]] = []
    outputs = []
    for t, projected in enumerate(cell.project(x)):
        after = tuple(s.view_as(s) for s in cell.step(projected, state))
        for s in after:
            s.retain_grad()
        seen.append(after)
        real = torch.tensor([t < n for n in lengths]).unsqueeze(1)
        state = tuple(torch.where(real, new, old) for new, old in zip(after, state, strict=True))
        outputs.append(torch.where(real, after[0], 0))
    loss(torch.stack(outputs)).backward()
    real = torch.arange(T)[:, None] < torch.tensor(lengths)
    return {
        name: torch.stack([norm(s[k].grad) for s in seen]) * real
        for k, name in enumerate(("h", "c")[: len(cell.state_sizes)])
    }


def norm(gradient: Tensor | None) -> Tensor:
    return torch.zeros(B, dtype=torch.float64) if gradient is None else gradient.norm(dim=-1)


def loss(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() + y[-1].sum()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
@pytest.mark.parametrize("lengths", [[T, T, T], [T, 4, 1]])
def test_the_norms_are_autograds(
    cell: Callable[..., cells.Cell], lengths: list[int], backend: unrolled.scan.Backend
) -> None:
    layer = Recurrent(cell, D, H, backend=backend).double()
    x = torch.randn(T, B, D, dtype=torch.float64)
    with watch(layer) as lens:
        loss(layer(x, lengths=lengths).y).backward()
    (flow,) = lens.flows
    assert flow.reached and flow.real.sum(0).tolist() == lengths
    got = {name: n.nan_to_num(0) * flow.real for name, n in flow.norms.items()}
    assert_close_by_name(got, by_hand(layer, x, lengths), T)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "drop-in layer": lambda: unrolled.LSTM(D, H, 2, bidirectional=True),
    "torch LSTM": lambda: nn.LSTM(D, H, 2, bidirectional=True),
    "torch GRU": lambda: nn.GRU(D, H, batch_first=True),
    "torch RNN": lambda: nn.RNN(D, H, nonlinearity="relu"),
    "recurrent": lambda: Recurrent(cells.GRU, D, H, depth=2, bidirectional=True, merge="sum"),
    "own": lambda: Recurrent(cells.LRU, D, H),
}


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_is_computed_changes(name: str) -> None:
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    x = torch.randn(T, B, D, dtype=torch.float64)
    kind, results = type(layer), []
    for watched in (False, True):
        layer.zero_grad()
        if watched:
            with watch(layer) as lens:
                y = layer(x)[0]
                loss(y).backward()
            rows = 4 if "bidirectional" in repr(layer) else 1
            assert len(lens.flows) == rows and all(f.reached for f in lens.flows)
        else:
            y = layer(x)[0]
            loss(y).backward()
        results.append({"y": y.detach()} | {n: p.grad.clone() for n, p in layer.named_parameters()})
    assert_close_by_name(results[1], results[0], T)
    assert type(layer) is kind and "watcher" not in vars(layer)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("batch_size", [1, B])
@pytest.mark.parametrize("power", [-44, -37, -20, -12, 0, 12, 20, 37])
def test_a_norm_is_right_wherever_the_dtype_has_it(
    power: int, batch_size: int, backend: unrolled.scan.Backend
) -> None:
    layer = Recurrent(cells.LSTM, D, H, backend=backend)
    x, scale = torch.randn(T, batch_size, D), float(torch.tensor(10.0**power))
    weight = torch.linspace(0.5, 1.0, H)
    with watch(layer) as lens:
        (layer(x).y[-1] * (weight * scale)).sum().backward()
    sent = (weight * scale).double()  # which is rounded where it is not normal
    torch.testing.assert_close(
        lens.flows[0].h[-1].double(), sent.norm().expand(batch_size), rtol=1e-5, atol=1.5e-45
    )
    layer.zero_grad()
    bound = scale / 4
    if bound > 1e-37:  # below, the quotient of the norms is not normal
        unrolled.remedies.clip_states_(layer, bound)
        with watch(layer) as lens:
            (layer(x).y[-1] * (weight * scale)).sum().backward()
        clipped = lens.flows[0].h[-1].double()
        torch.testing.assert_close(clipped, torch.full_like(clipped, bound), rtol=1e-5, atol=0)
        assert any(bool(p.grad.any()) for p in layer.parameters() if p.grad is not None)


def test_packed_rows_are_seen_too() -> None:
    layer = nn.LSTM(D, H).double()
    parts = [torch.randn(n, D, dtype=torch.float64) for n in (5, 8, 2)]
    with watch(layer) as lens:
        layer(pack_sequence(parts, enforce_sorted=False))[0].data.square().sum().backward()
    (flow,) = lens.flows
    assert flow.real.sum(0).tolist() == [8, 5, 2]
    for sequence, part in enumerate(sorted(parts, key=len, reverse=True)):
        with watch(layer) as alone:
            layer(part.unsqueeze(1))[0].square().sum().backward()
        got, want = flow.h[: len(part), sequence], alone.flows[0].h[:, 0]
        assert_close_by_name({"h": got}, {"h": want}, 8)


def test_windows_and_segments_are_seen() -> None:
    layer = unrolled.GRU(D, H).double()
    x = torch.randn(12, B, D, dtype=torch.float64)
    with watch(layer) as whole:
        loss(layer(x)[0]).backward()
    with watch(layer) as parts:
        loss(bptt.checkpointed(layer, x, segments=4)[0]).backward()
    reached = [flow for flow in parts.flows if flow.reached]
    assert_close_by_name({"h": reached[-1].h}, {"h": whole.flows[0].h}, 12)
    with watch(layer) as windows:
        for y, _ in bptt.truncated(layer, x, k1=4):
            y.sum().backward()
    assert [flow.call for flow in windows.flows] == [0, 1, 2]
    assert all(flow.reached for flow in windows.flows)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(TypeError, match=r"model: got str"), watch("model"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="holds no recurrent layer"), watch(nn.Linear(2, 2)):
        pass
    layer = unrolled.GRU(D, H)
    with watch(layer) as lens:
        with pytest.raises(ValueError, match="watched already"), watch(layer):
            pass
        assert layer.watcher is not None
    with pytest.raises(RuntimeError, match="no recurrent layer ran inside"):
        lens.report()
    with pytest.raises(KeyError), watch(layer):
        raise KeyError
    assert layer.watcher is None


def test_no_backward_pass_is_a_note() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as lens:
        layer(torch.randn(T, B, D))
    assert not lens.flows[0].reached
    assert "no backward pass" in str(lens.report()) and "no gradient came" in str(lens.report())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_layers_that_cannot_be_watched_are_named() -> None:
    class Mine(nn.LSTM):
        pass

    model = nn.ModuleDict(
        {"mine": Mine(D, H), "proj": nn.LSTM(D, H, proj_size=2), "gru": nn.GRU(D, H)}
    )
    x = torch.randn(T, B, D)
    with watch(model) as lens:
        sum(model[name](x)[0].sum() for name in model).backward()
    assert set(lens.unseen) == {"mine", "proj"} and [f.layer for f in lens.flows] == ["gru"]
    report = str(lens.report())
    assert "mine is not watched" in report and "proj_size is 2" in report


@pytest.mark.parametrize("lengths", [None, [0, 1, 1], [0, 0, 0]])
def test_short_sequences_have_a_report(lengths: list[int] | None) -> None:
    layer = Recurrent(cells.LSTM, D, H)
    with watch(layer) as lens:
        layer(torch.randn(1, B, D), lengths=lengths).y.sum().backward()
    report = lens.report()
    assert len(report.rows) == 1 and str(report) and json.loads(report.to_json())["rows"]


@pytest.mark.parametrize("a", [0.5, 0.9, 1.0, 1.1, 1.5])
def test_a_system_whose_growth_is_known(a: float) -> None:
    layer = Recurrent(cells.Elman, 1, H, activation="identity", bias=False)
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(a * torch.eye(H))
    with watch(layer) as lens:
        layer(torch.randn(40, B, 1)).y[-1].sum().backward()
    (row,) = lens.report().rows
    expected = math.sqrt(H) * a ** torch.arange(39, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(row.norms, expected, rtol=1e-4, atol=0)
    assert row.verdict is not None
    assert row.verdict.growth == pytest.approx(a, rel=1e-5)
    state = "vanishing" if a == 0.5 else "exploding" if a == 1.5 else "healthy"
    if a in (0.5, 1.0, 1.5):
        assert row.verdict.state == state
    assert row.verdict.horizon == pytest.approx(
        math.inf if a >= 1 else math.log(0.01) / math.log(a), rel=1e-3
    )


def test_a_saturated_and_a_dead_network_are_found() -> None:
    found = {}
    for name, bias in (("sigmoid", 8.0), ("relu", -50.0)):
        layer = Recurrent(cells.Elman, D, H, activation=name)
        with torch.no_grad():
            layer.cells[0].bias_ih.fill_(bias)
        with watch(layer) as lens:
            layer(torch.randn(30, B, D)).y.sum().backward()
        verdict = lens.report().rows[0].verdict
        assert verdict is not None
        found[name] = (verdict.state, [r.name for r in verdict.remedies])
    assert found["sigmoid"][0] == "saturated" and found["relu"][0] == "dead"
    assert all(names for _, names in found.values())


def test_a_gate_that_is_open_is_healthy_and_one_that_is_closed_is_not() -> None:
    states = []
    for bias in (-3.0, 6.0):
        layer = Recurrent(cells.LSTM, D, H, forget_bias=bias)
        with watch(layer) as lens:
            layer(torch.randn(60, B, D)).y[-1].sum().backward()
        verdict = lens.report().rows[0].verdict
        assert verdict is not None
        states.append(verdict.state)
    assert states == ["vanishing", "healthy"]


def test_nothing_stays_alive() -> None:
    layer = unrolled.LSTM(D, H)
    with watch(layer) as lens:
        y = layer(torch.randn(T, B, D))[0]
        y.sum().backward()
    lens.report()
    kept = weakref.ref(lens)
    del lens
    gc.collect()
    assert kept() is None


def test_a_sparkline_is_logarithmic() -> None:
    assert sparkline(torch.tensor([1e-8, 1e-4, 1.0])) == "▁▄█"
    assert len(sparkline(torch.rand(1000))) == 24
    assert sparkline(torch.full((3,), torch.nan)) == "   "
    assert sparkline(torch.tensor([0.0, torch.inf, 2.0])) == "  ▄"
