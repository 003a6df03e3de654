import importlib
import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import torch
import vl_convert
from torch import nn

import unrolled.lens.render
from tests.examples import some
from tests.lens.render import records
from unrolled import Recurrent, cells, lens
from unrolled.errors import MissingExtraError
from unrolled.lens.render import charts, picture

STEPS, UNITS = 7, 5


def drawn(chart: alt.TopLevelMixin, **signals: Any) -> ElementTree.Element:
    """``chart`` as SVG, with a parameter set to each of ``signals``."""
    spec = chart.to_dict()
    assert {p["name"] for p in spec.get("params", ())} >= set(signals) - {"step"}
    for param in spec.get("params", ()):
        if param["name"] in signals:
            param.pop("expr", None)
            param["value"] = signals[param["name"]]
    version = ".".join(alt.SCHEMA_VERSION[1:].split(".")[:2])
    return ElementTree.fromstring(vl_convert.vegalite_to_svg(spec, vl_version=version))


def marks(svg: ElementTree.Element, kind: str) -> list[int]:
    """How many marks each group of a kind has, without those that are not seen."""
    return [
        len([mark for mark in group if mark.get("opacity") != "0"])
        for group in svg.iter("{http://www.w3.org/2000/svg}g")
        if f"mark-{kind} role-mark" in group.get("class", "")
    ]


def texts(svg: ElementTree.Element) -> set[str]:
    return {"".join(element.itertext()) for element in svg.iter() if element.tag.endswith("text")}


def test_the_rows_hold_what_was_measured() -> None:
    torch.manual_seed(1)
    layer = nn.LSTM(records.FEATURES, UNITS, bidirectional=True)
    x = torch.randn(STEPS, records.BATCH_SIZE, records.FEATURES)
    forward, backward = charts.rows_of({30: records.record(layer, x)})
    assert [forward[k] for k in ("snapshot", "at", "scan", "name")] == [0, 30, 0, "rnn, 0"]
    assert [backward[k] for k in ("scan", "name", "direction")] == [1, "rnn, 0, backward", 1]
    for row in (forward, backward):
        lags = lens.lag_matrix(layer, x[:, :1], direction=row["direction"])
        # Five digits are kept, of each lag and so of their mean.
        torch.testing.assert_close(
            torch.tensor(row["mean_lags"], dtype=torch.float64), lags.nanmean(0), rtol=1e-4, atol=0
        )
        assert len(row["norms"]) == len(row["factors"]) == len(row["states"]) == STEPS
        assert len(row["eigenvalues"]) == 4 * UNITS and row["units"] == UNITS
        assert row["scales"] == sorted(row["scales"])


def test_the_spread_is_a_factor_and_no_gradient_is_no_division() -> None:
    row = records.empty_row(norms=[2.0, 0.0, None], spread=[1.0, 0.0, None])
    (found,) = charts.rows_of({0: records.whole(row)})
    assert found["factors"] == [1.5, 1, 1]
    assert found["norm_ends"] == pytest.approx([2.0 / 1.5 / 1.2, 2.0 * 1.5 * 1.2])


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_states_use_all_colours(activation: str) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cells.Elman, records.FEATURES, UNITS, activation=activation)
    record = records.record(layer, torch.randn(STEPS, records.BATCH_SIZE, records.FEATURES))
    (row,) = charts.rows_of({0: record})
    states = [value for line in row["states"] for value in line]
    low, high = row["state_ends"]
    if activation == "sigmoid":
        assert [low, high] == [min(states), max(states)]
    else:
        assert -low == high == max(map(abs, states))
    svg = drawn(charts.chart({0: record}))
    seen = {path.get("fill") for path in svg.iter("{http://www.w3.org/2000/svg}path")}
    ends = {"#0b4884": "rgb(11, 72, 132)", "#8a3f00": "rgb(138, 63, 0)"}
    assert sum(one in seen or two in seen for one, two in ends.items()) >= 1 + (low > 0)


def test_a_long_sequence_shows_some_of_its_states() -> None:
    (row,) = charts.rows_of({0: records.elman(300, 3)})
    assert row["every"] == 3 and len(row["states"]) == 100 and len(row["lags"]) == 64
    torch.manual_seed(0)
    layer, x = nn.RNN(records.FEATURES, 3), torch.randn(300, records.BATCH_SIZE, records.FEATURES)
    expected = layer(x)[0][::3, 0].double()
    found = torch.tensor(row["states"], dtype=torch.float64)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("norms", "shown"),
    [
        ([1e-30, 1.0], {"1e-30", "1e-10"}),  # powers alone
        ([0.011, 0.9], {"0.02", "0.05", "0.1", "0.2", "0.5"}),
        ([0.5, 0.9], {"0.6", "0.7"}),
    ],
)
def test_a_logarithmic_axis_is_not_crowded(norms: list[float], shown: set[str]) -> None:
    row = records.empty_row(norms=norms, spread=[0.0] * 2)
    chart = charts.gradient(300).properties(
        datasets={"rows": charts.rows_of({0: records.whole(row)})}
    )
    chart.params = [alt.VariableParameter(n, value=0) for n in ("step", "scan", "snapshot")]
    found = texts(drawn(chart))
    assert shown <= found and "0.03" not in found


def test_axes_stay_while_training_goes_on() -> None:
    rows = charts.rows_of(records.history(count=3, steps=STEPS, hidden=UNITS))
    ends = [{k: v for k, v in row.items() if k.endswith("_ends")} for row in rows]
    assert len(ends) == 3 and ends[0] == ends[1] == ends[2]
    low, high = ends[0]["norm_ends"]
    assert all(low < norm < high for row in rows for norm in row["norms"])
    plane = ends[0]["plane_ends"][1]
    assert all(math.hypot(v["re"], v["im"]) < plane for row in rows for v in row["eigenvalues"])


def test_a_scan_that_did_not_run_has_an_empty_row() -> None:
    rows = charts.rows_of(records.STRANGE["a layer that comes later"]()[0])
    assert [(row["snapshot"], len(row["norms"])) for row in rows] == [(0, 0), (1, 0), (2, 3)]


def test_snapshots_are_thinned_evenly_and_keep_their_ends() -> None:
    found = {10 * i: records.whole() for i in range(1000)}
    kept = list(charts.thinned(found))
    assert len(kept) == charts.MOST and kept[0] == 0 and kept[-1] == 9990
    gaps = {b - a for a, b in pairwise(kept)}
    assert max(gaps) - min(gaps) == 10
    assert list(charts.thinned({3: records.whole(), 1: records.whole()})) == [1, 3]


def test_large_views_leave_room_for_fewer_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    record = records.whole(records.empty_row(view=records.view(states=[[0.0] * 9], lags=[[1.0]])))
    monkeypatch.setattr(charts, "ROOM", 50)
    assert len(charts.thinned(dict.fromkeys(range(30), record))) == 5
    monkeypatch.setattr(charts, "ROOM", 1)
    assert list(charts.thinned(dict.fromkeys(range(30), record))) == [0, 29]


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match=r"records: got none"):
        charts.thinned({})
    with pytest.raises(ValueError, match=r"records: got no rows"):
        charts.chart({0: records.whole()})


def test_the_chart_draws_every_state_lag_and_eigenvalue() -> None:
    record = records.elman(STEPS, UNITS)
    svg = drawn(charts.chart({0: record}))
    cells = marks(svg, "rect")
    assert STEPS * UNITS in cells  # h_t
    assert STEPS * (STEPS + 1) // 2 in cells  # the steps and lags that exist
    assert UNITS in marks(svg, "symbol")  # eigenvalues
    assert f"step {STEPS - 1} is selected" in texts(svg)


def test_the_parameters_choose_step_scan_and_snapshot() -> None:
    history = records.history(count=2, steps=STEPS, hidden=UNITS)
    chart = charts.chart(history)
    assert "training step 100" in texts(drawn(chart))
    svg = drawn(chart, snapshot=0, step=2)
    assert {"training step 0", "step 2 is selected"} <= texts(svg)
    both = charts.chart({0: records.lstm(STEPS, UNITS)})
    menu = next(p for p in both.to_dict()["params"] if p["name"] == "scan")
    assert menu["bind"]["labels"] == ["rnn, 0", "rnn, 0, backward", "rnn, 1", "rnn, 1, backward"]


def test_a_click_on_a_step_selects_it() -> None:
    spec = charts.chart({0: records.elman(STEPS, UNITS)}).to_dict()
    pick, step = spec["params"][:2]
    names = {layer.get("name") for part in spec["vconcat"] for layer in part.get("layer", ())}
    assert len(pick["views"]) == 3 and set(pick["views"]) <= names
    assert step == {"name": "step", "expr": f"pick.t ? pick.t[0] : {STEPS - 1}"}


@pytest.mark.parametrize(
    "name",
    some(
        [name for name in records.STRANGE if name != "nothing ran"],
        "nothing but null",
        "the largest numbers",
        "hostile text",
        "a layer that comes later",
    ),
)
def test_whatever_comes_is_drawn(name: str) -> None:
    found, _ = records.STRANGE[name]()
    svg = drawn(charts.chart(found))
    text = ElementTree.tostring(svg, encoding="unicode")
    assert "NaN" not in text and "Infinity" not in text
    assert 0 < float(svg.get("height")) < 3000  # an axis without an end would make it 1e308


def test_trials_are_drawn_with_what_they_began_from() -> None:
    trials = records.trials(STEPS, UNITS)
    growth = drawn(charts.trial_growth(trials, 300))
    assert {"as it is", "orthogonal_weights_", "as_gru"} <= texts(growth)
    assert marks(growth, "symbol") == [3]
    lines = drawn(charts.trial_gradient(trials, 300))
    assert marks(lines, "line") == [1, 1, 1] and max(marks(lines, "symbol")) == 3 * STEPS


def test_dark_and_light_differ_in_all_that_is_text() -> None:
    light, dark = charts.config(), charts.config(dark=True)
    assert light.keys() == dark.keys() and light["background"] == "transparent"
    for part in ("axis", "legend", "title"):
        colours = [key for key in light[part] if key.lower().endswith("color")]
        assert colours and all(light[part][key] != dark[part][key] for key in colours)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_picture_has_a_panel_for_each_scan(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    picture.write(path, records.lstm(STEPS, UNITS))
    data = path.read_bytes()
    if suffix == ".png":
        assert data.startswith(b"\x89PNG")
        return
    svg = ElementTree.fromstring(data)
    titles = [text for text in texts(svg) if text.startswith("rnn, ")]
    assert sorted(title.split(":")[0] for title in titles) == [
        "rnn, 0",
        "rnn, 0, backward",
        "rnn, 1",
        "rnn, 1, backward",
    ]
    assert {"‖∂s_t/∂s_{t−k}‖", "‖∂s_t/∂s_{t+k}‖"} <= texts(svg)
    # In each scan a line of the gradient, one of the mean lag and one of the last step.
    assert sum(marks(svg, "line")) == 4 * 3


def test_a_picture_of_the_backward_direction_begins_at_the_first_step() -> None:
    lags = [[1.0, 0.5], [1.0, None]]
    row = records.empty_row(direction=1, norms=[1.0, 1.0], spread=[0.0, 0.0])
    row["view"] = records.view(states=[[0.0]] * 2, lags=lags)
    line = picture.picture(records.whole(row)).to_dict()
    (found,) = next(d for d in line["datasets"].values() if d[0]["direction"] == 1)
    assert found["lags"] == lags[:1]


def test_a_picture_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: got '.*x\.gif', expected .* \.svg or \.png"):
        picture.write(tmp_path / "x.gif", records.elman(2, 1))
    with pytest.raises(ValueError, match=r"record: got no gradient and no lags"):
        picture.write(tmp_path / "x.svg", records.whole(records.empty_row()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "package"), [("altair", "altair"), ("vl_convert", "vl-convert-python")]
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for refused in (unrolled.lens.render.require, lambda: importlib.reload(unrolled.lens.render)):
        with pytest.raises(MissingExtraError, match=rf"pip install {package} \(the extra 'report'"):
            refused()


def test_rows_are_data_of_json() -> None:
    for make in records.STRANGE.values():
        json.dumps(charts.rows_of(make()[0]), allow_nan=False)
