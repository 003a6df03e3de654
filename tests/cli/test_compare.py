"""``compare``: runs side by side."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, Call, trained
from tests.cli.test_commands import contents, failed
from unrolled.text.run import TextRun
from unrolled.training.files import read_tensors
from unrolled.training.run import TRAINING


@pytest.fixture(scope="module")
def runs(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two language models of the same text, and one of another kind."""
    place = tmp_path_factory.mktemp("runs")
    options = ("--data", corpus_file, *SMALL, "--epochs", 1)
    return [
        trained(place / "a", "lm", *options),
        trained(place / "b", "lm", *options, "--cell", "lstm", "--remedy", "chrono_bias=20"),
        trained(place / "c", "cloze", *options, "--min-count", 30),
    ]


def test_a_table_has_what_differs_and_what_came_of_it(runs: list[Path], call: Call) -> None:
    before = [contents(run) for run in runs]
    done = call("compare", *runs[:2])
    assert (done.code, done.err) == (0, "")
    head, first, second = done.out.splitlines()
    assert re.split("  +", head)[:3] == ["run", "cell", "remedy"] and "hidden" not in head
    assert re.split("  +", second)[1:3] == ["lstm", "chrono_bias=20"]
    for run, line in zip(runs, (first, second), strict=False):
        scores = json.loads(call("evaluate", run, "--json").out)
        assert line.split()[-3:] == [f"{scores[name]:.4f}" for name in ("nats", "top1", "top5")]
        assert f"  {TextRun(run).weights_notes()['validation_nats']:.4f}  " in line
    assert [contents(run) for run in runs] == before


def test_json_has_the_curve_of_every_run(runs: list[Path], call: Call) -> None:
    done = call("compare", *runs, "--json", "--split", "validation")
    assert done.err.startswith("unrolled: note: the runs have other tokens")
    found = json.loads(done.out)
    recipe = {"schedule", "dropout", "weight_drop", "token_dropout", "average"}  # of a cloze model
    assert set(found["differing"]) == {"kind", "cell", "min_count", "remedy"} | recipe
    for run, record in zip(runs, found["runs"], strict=True):
        evaluations = read_tensors(run / TRAINING)[1]["evaluations"]
        assert [(p["step"], p["nats"]) for p in record["validation"]] == [
            (step, nats) for step, nats, *_ in evaluations
        ]
        assert len(evaluations) == 8 and record["best"] == min(nats for _, nats, *_ in evaluations)
        assert record["scores"]["nats"] == pytest.approx(record["best"], rel=1e-5)
        assert record["seconds"] > 0 and record["step"] == record["steps"]


def test_a_page_has_the_table_and_asks_for_nothing(
    runs: list[Path], tmp_path: Path, call: Call
) -> None:
    done = call("compare", *runs[:2], "--html", tmp_path / "a.html")
    assert done.code == 0 and done.out.endswith(f"the page: {tmp_path / 'a.html'}\n")
    text = (tmp_path / "a.html").read_text("utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "chrono_bias=20" in own and own.count("<tr>") == 11
    assert "http" not in own.replace("http-equiv", "").replace("https://vega.github.io/schema", "")
    chart = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["chart"]
    (points,) = chart["datasets"].values()
    assert list(chart["datasets"]) == [chart["data"]["name"]] and len(points) == 16


def test_what_cannot_be_compared_gets_one_line(
    runs: list[Path], tmp_path: Path, call: Call
) -> None:
    failed(call("compare", runs[0], runs[0]), 2, "RUN: got a run twice")
    failed(call("compare", runs[0], tmp_path / "no"), 1, "no such directory")


def test_a_run_without_its_text_or_its_state_has_what_there_is(
    runs: list[Path], tmp_path: Path, call: Call
) -> None:
    import shutil

    bare = Path(shutil.copytree(runs[0], tmp_path / "bare"))
    shutil.rmtree(bare / "data")
    (bare / TRAINING).unlink()
    (bare / "time.json").unlink()
    config = json.loads((bare / "config.json").read_text("utf-8"))
    config["command"]["data"] = [str(tmp_path / "gone.txt")]
    (bare / "config.json").write_text(json.dumps(config), "utf-8")
    done = call("compare", bare, "--json")
    (record,) = json.loads(done.out)["runs"]
    assert (record["scores"], record["seconds"], record["validation"]) == (None, None, [])
    assert "no scores: " in done.err and "gone.txt" in done.err and record["best"] > 0
    assert call("compare", bare).out.count("\n") == 2
