"""What was seen, as text, for a terminal, as plain data and as files."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import unrolled
from tests.lens.nets import inputs, linear, make
from unrolled import lens
from unrolled.lens import watch
from unrolled.lens.causes import causes_of
from unrolled.lens.lags import estimated_lags
from unrolled.lens.verdict import Verdict, worst

T, B, D, H = 6, 3, 3, 4


def seen(layer: nn.Module, steps: int = T, **options: Any) -> lens.Report:
    with watch(layer) as found:
        x = torch.randn(steps, B, D, dtype=next(layer.parameters()).dtype)
        layer(x, **options)[0].sum().backward()
    return found.report()


def strict(text: str) -> Any:
    """JSON without the numbers that only Python reads."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("kind", ["Elman", "LSTM", "GRU", "LRU", "torch LSTM", "drop-in layer RNN"])
def test_the_record_has_what_the_measures_say(kind: str) -> None:
    layer = make(kind, 2, bidirectional=True)
    x = inputs(T, 1)
    with watch(layer) as found:
        layer(x)[0].sum().backward()
    record = strict(found.report().to_json())
    assert record == found.report().record()
    scans = lens.recurrences(layer, x)
    assert [(r["level"], r["direction"]) for r in record["rows"]] == [
        (s.level, s.direction) for s in scans
    ]
    for row, scan, causes, flow in zip(
        record["rows"], scans, lens.causes(layer, x), found.flows, strict=True
    ):
        place = {"level": scan.level, "direction": scan.direction}
        view = row["view"]
        states = scan.in_time(scan.states[0][1:, 0])
        torch.testing.assert_close(torch.tensor(view["states"]).double(), states, rtol=1e-4, atol=0)
        lags = torch.tensor([[math.nan if v is None else v for v in r] for r in view["lags"]])
        want = lens.lag_matrix(layer, x, **place)
        torch.testing.assert_close(lags.double(), want, rtol=1e-4, atol=0, equal_nan=True)
        assert not view["estimated"]
        got = {n: torch.tensor(v).double() for n, v in view["eigenvalues"].items()}
        assert set(got) == set(causes.matrices)
        for name, matrix in causes.matrices.items():
            expected = torch.view_as_real(matrix.eigenvalues)
            torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-12)
        gate = None if causes.gate is None else causes.gate.name
        assert (view["gate"] and view["gate"]["name"]) == gate
        torch.testing.assert_close(
            torch.tensor(row["norms"]).double(), flow.h[:, 0].double(), rtol=1e-4, atol=0
        )


def test_a_state_of_many_units_is_thinned_and_its_lags_are_estimated() -> None:
    layer = nn.LSTM(D, 70)
    (row,) = seen(layer).rows
    assert row.view is not None and row.view.estimated
    assert row.view.states.shape == (T, 64) and row.view.lags.shape == (T, T)
    layer = nn.LSTM(D, 64)
    (row,) = seen(layer).rows
    assert row.view is not None and not row.view.estimated and row.view.states.shape == (T, 64)


def test_random_directions_stand_for_all() -> None:
    layer, x, probes = make("LSTM"), inputs(T, 1), 40000
    (scan,) = lens.recurrences(layer, x)
    exact, estimate = lens.lag_matrix(layer, x), estimated_lags(scan, probes)
    # The squares are means over the directions, each off by √(2 / probes) at most: here 0.7 %.
    torch.testing.assert_close(
        estimate, exact, rtol=5 * math.sqrt(2 / probes) / 2, atol=0, equal_nan=True
    )
    torch.testing.assert_close(
        estimated_lags(scan, 3), estimated_lags(scan, 3), rtol=0, atol=0, equal_nan=True
    )
    all_of_them, some = causes_of(scan), causes_of(scan, probes=probes)
    most = 5 * math.sqrt(2 / probes) / 2 / (T - 1)
    assert some.growth == pytest.approx(all_of_them.growth, abs=most)
    assert some.factors is not None
    assert sum(some.factors.values()) == pytest.approx(some.growth, abs=1e-9)


def test_random_directions_of_a_linear_net_are_exact() -> None:
    weight = torch.linalg.qr(torch.randn(H, H, dtype=torch.float64))[0] * 0.5
    (scan,) = lens.recurrences(linear(weight), inputs(T, 2))
    want = 0.5 ** torch.arange(T, dtype=torch.float64)
    torch.testing.assert_close(estimated_lags(scan, 2)[-1], want)
    assert causes_of(scan, probes=1).growth == pytest.approx(math.log(0.5))


def test_nothing_is_drawn_from_the_callers_numbers() -> None:
    layer = unrolled.LSTM(D, 140)  # wide enough for every estimate
    with watch(layer) as found:
        layer(torch.randn(T, B, D))[0].sum().backward()
    before = torch.get_rng_state()
    found.report()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_worst_verdict_stands_for_the_report() -> None:
    def verdict(state: Any, growth: float) -> Verdict:
        return Verdict("", 0, 0, state, growth, 1.0, "", ())

    fair, slow, fast = verdict("healthy", 0.9), verdict("vanishing", 0.8), verdict("exploding", 1.9)
    assert worst([fair, slow, fast]) is fast and worst([fair, slow]) is slow
    assert worst([fair, verdict("healthy", math.nan)]) is fair and worst([]) is None
    assert worst([fast, gone := verdict("dead", 0.0)]) is gone
    layer = linear(0.1 * torch.eye(H, dtype=torch.float64))
    report = seen(layer)
    assert report.verdict is report.rows[0].verdict and report.verdict is not None
    assert report.verdict.state == "vanishing"


def test_a_terminal_shows_the_same() -> None:
    report = seen(make("LSTM", 2, bidirectional=True))
    page = io.StringIO()
    Console(file=page, width=200, color_system=None).print(report)
    shown, plain = page.getvalue(), str(report)
    for row in report.rows:
        assert row.verdict is not None
        for said in (row.place, row.ends, row.verdict.evidence, row.verdict.state):
            assert said in shown and said in plain
    assert "±" in plain and len(report.rows) == 4


def test_names_are_not_markup() -> None:
    model = nn.ModuleDict({"[bold]x[": nn.GRU(D, H)})
    with watch(model) as found:
        model["[bold]x["](torch.randn(T, B, D))[0].sum().backward()
    page = io.StringIO()
    Console(file=page, width=200).print(found.report())
    assert "[bold]x[, 0" in page.getvalue()


@pytest.mark.parametrize("name", ["r.html", "r.svg", "r.png", "r.json"])
def test_a_report_is_saved_by_its_suffix(name: str, tmp_path: Path) -> None:
    report = seen(make("GRU"))
    report.save(tmp_path / name)
    found = (tmp_path / name).read_bytes()
    if name == "r.json":
        assert strict(found.decode()) == report.record()
    else:
        assert found.startswith({"h": b"<!", "s": b"<svg", "p": b"\x89PNG"}[name[2]])
    with pytest.raises(FileNotFoundError):
        report.save(tmp_path / "none" / name)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: got 'r.txt', expected a name that ends in .html"):
        seen(make("GRU")).save(tmp_path / "r.txt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_underflow_is_said(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.RNN(3, 8, bidirectional=True).to(dtype)
    with watch(layer) as lens_:
        y, _ = layer(torch.randn(400, 2, 3, dtype=dtype))
        y[300].sum().backward()
    forward, backward = lens_.report().rows
    assert forward.verdict is not None
    if dtype == torch.float64:
        assert "underflow" not in str(lens_.report())
        return
    small = int((forward.norms[:301] < torch.finfo(dtype).tiny).sum())
    assert forward.norms[0] == 0 and (forward.norms[301:] == 0).all()
    assert forward.ends == "underflow … 0.0e+00 ±0e+00"  # the loss does not depend on the last
    said = f"; underflow: too small for float32 at {small} of 400 steps"
    assert small > 100 and forward.verdict.evidence.endswith(said)
    assert backward.ends == "0.0e+00 ±0e+00 … underflow"
