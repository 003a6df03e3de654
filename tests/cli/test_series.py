"""From a table to a forecast on the command line: train, forecast, back-test."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from unrolled.cli import main
from unrolled.series import Forecaster

SMALL = ("--horizon", "6", "--epochs", "2", "--hidden", "8", "--threads", "1")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "sales.csv"
    chance = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["shop", "when", "sales"])
        for shop, level in (("north", 50.0), ("south", 150.0)):
            for t in range(300):
                when = np.datetime64("2024-01-01T00") + np.timedelta64(t, "h")
                value = level + 20 * np.sin(t * np.pi / 12) + chance.normal()
                rows.writerow([shop, when, round(value, 2)])
    return path


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("series") / "run"
    roles = ("--time", "when", "--series", "shop", "--target", "sales")
    assert main(["train", "series", str(table), *roles, *SMALL, "--out", str(out)]) == 0
    return out


def test_the_plan_is_printed_before_and_the_verdict_after(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = ("--time", "when", "--series", "shop", "--target", "sales")
    out = tmp_path / "run"
    assert main(["train", "series", str(table), *roles, *SMALL, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = next(k for k, line in enumerate(lines) if line.startswith("sales"))
    steps = next(k for k, line in enumerate(lines) if line.startswith("training: "))
    verdicts = ("better than the seasonal naive", "it LOSES to the seasonal naive")
    test = next(k for k, line in enumerate(lines) if line.startswith(verdicts))
    assert plan < steps < test
    assert any(line.startswith("seasonal naive") for line in lines[test:])


def test_a_forecast_is_that_of_the_library(run: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "told.csv"
    assert main(["forecast", str(run), str(table), "--horizon", "9", "--out", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open(newline="") as file:
        given = list(csv.DictReader(file))
    columns = {name: np.array([row[name] for row in given]) for name in given[0]}
    expected = Forecaster.load(run).predict(columns, horizon=9)
    assert list(rows[0]) == ["shop", "when", "q0.1", "q0.5", "q0.9"] and len(rows) == 18
    told = [float(row["q0.5"]) for row in rows]
    np.testing.assert_allclose(told, np.asarray(expected["q0.5"], float), rtol=1e-6)


def test_a_back_test_is_printed_and_is_json(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["backtest", str(run), str(table), "--origins", "20"]
    page = tmp_path / "page.html"
    assert main([*arguments, "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert "seasonal naive" in said and page.stat().st_size > 10_000
    assert main([*arguments, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["network"]["forecasts"] == 2 * 20 * 6
    assert scores["network"]["mase"] > 0 and scores["seasonal_naive"]["mase"] > 0


def test_a_finished_run_resumes_to_the_same(run: Path, table: Path) -> None:
    before = Forecaster.load(run).spread
    assert main(["train", "series", "--resume", "--out", str(run)]) == 0
    assert (Forecaster.load(run).spread == before).all()


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (("--time", "wen", "--target", "sales"), "did you mean 'when'?"),
        (("--time", "when", "--target", "sold"), "no column 'sold'"),
        (("--time", "when"), "--target: missing"),
        (("--time", "when", "--target", "sales"), "the series goes back from"),
    ],
)
def test_what_is_wrong_is_said(
    roles: tuple[str, ...],
    said: str,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert main(["train", "series", str(table), *roles, *SMALL, "--out", str(out)]) != 0
    error = capsys.readouterr().err
    assert said in error and error.startswith("unrolled: error: ") and error.count("\n") == 1
    assert not out.exists()


def test_a_run_of_text_forecasts_nothing(
    cloze_run: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", str(cloze_run), str(table)]) == 1
    assert "expected 'forecast', made by 'unrolled train series'" in capsys.readouterr().err
