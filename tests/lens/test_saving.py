"""A report as files; also one of a model that is broken."""

import errno
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import unrolled
from tests.examples import some
from tests.lens.seeing import (
    B,
    D,
    H,
    T,
    inputs,
    made,
    strict,
    told,
)
from unrolled import lens
from unrolled.lens import Lens, watch


def broken_reports() -> dict[str, Lens]:
    """NaN in the input, an infinity backward, NaN weights; and no backward pass at all."""
    layer = made("torch LSTM", bidirectional=True)
    found = {}
    for name in ("input", "backward", "weights", "none"):
        x, weight = inputs(), torch.ones(T, B, 2 * H)
        if name == "input":
            x[0, 0] = math.nan
        if name == "backward":
            weight[T - 1] = math.inf
        if name == "weights":
            with torch.no_grad():
                layer.weight_hh_l0.fill_(math.nan)
        with watch(layer) as seen:
            y = layer(x)[0]
            if name != "none":
                y.backward(weight)
        found[name] = seen
    return found


@pytest.mark.each_value
@pytest.mark.parametrize("suffix", ["html", "svg", "png"])
@pytest.mark.parametrize("name", ["input", "backward", "weights", "none"])
def test_reports_of_broken_models_are_saved(name: str, suffix: str, tmp_path: Path) -> None:
    seen = broken_reports()[name]
    record, report = told(seen), seen.report()
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == record
    report.save(tmp_path / f"report.{suffix}")
    assert (tmp_path / f"report.{suffix}").stat().st_size > 1000
    if suffix != "html":
        return
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    assert strict(data)


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    layer, x = made("torch GRU"), inputs()
    x[0] = math.nan
    with watch(layer) as seen:
        layer(x)
    for suffix in ("svg", "png"):
        with pytest.raises(ValueError, match="record: got no gradient and no lags to draw"):
            seen.report().save(tmp_path / f"report.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_nan_did_come() -> None:
    seen = broken_reports()["weights"]
    assert all(flow.reached for flow in seen.flows)
    assert "no gradient came" not in str(seen.report())


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.json.gz"])
def test_an_unknown_suffix(name: str, tmp_path: Path) -> None:
    report = broken_reports()["input"].report()
    expected = rf"path: got '{name}', expected a name that ends in \.html, \.svg, \.png or \.json"
    with pytest.raises(ValueError, match=expected):
        report.save(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "suffix", some(["json", "html", "svg", "png", "PNG"], "json", "html", "PNG")
)
def test_on_a_full_disk_what_was_saved_before_is_kept(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    layer, path = made("torch GRU"), tmp_path / f"report.{suffix}"
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    seen.report().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        seen.report().save(path)
    assert caught.value.filename == str(path) and path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["json", "html", "svg", "png"])
def test_a_path_that_cannot_be_written(suffix: str, tmp_path: Path) -> None:
    layer = made("torch GRU")
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    report = seen.report()
    with pytest.raises(FileNotFoundError):
        report.save(tmp_path / "missing" / f"report.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(OSError, match="folder"):
        report.save(tmp_path / f"folder.{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [f"folder.{suffix}"]


@pytest.mark.parametrize("steps", [0, 1, -1, 2.5, "a", True])
def test_how_many_steps_is_checked(steps: Any) -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    with pytest.raises((TypeError, ValueError), match="steps: got"):
        seen.report(steps=steps)


def test_a_path_is_a_path(tmp_path: Path) -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    report = seen.report()
    with pytest.raises(TypeError, match="path: got NoneType, expected a path"):
        report.save(None)  # type: ignore[arg-type]
    report.save(tmp_path / "A.JSON", trials=lens.try_remedies(layer, inputs()))
    assert json.loads((tmp_path / "A.JSON").read_text())["trials"]
    with pytest.raises(ValueError, match="norm: got a number beyond every float"):
        seen.clipped(10**400, 1.0)


def test_an_infinite_gradient_has_no_spread() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        (layer(inputs())[0] * math.inf).sum().backward()
    assert "nan" not in seen.report().rows[0].ends.replace("NaN", "")


def test_json_needs_no_extra(tmp_path, monkeypatch) -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        layer(torch.randn(T, B, D))[0].sum().backward()
    for name in (
        "unrolled.lens.render",
        "unrolled.lens.render.page",
        "unrolled.lens.render.picture",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    seen.report().save(tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"path: got 'r.txt'"):
        seen.report().save(tmp_path / "r.txt")
    assert (tmp_path / "r.json").stat().st_size


def test_strict_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="NaN is no JSON"):
        strict('{"norm": NaN}')
