"""An application beside text: what ``train``, ``compare`` and ``diagnose`` do with any."""

import json
import math
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Call, trained
from tests.cli.test_commands import contents, failed, misused
from tests.cli.waves import WAVES, WaveRun
from unrolled.cli.options import names
from unrolled.cli.runs import RUNS, class_of, open_run
from unrolled.cli.train import application_of
from unrolled.cli.train.application import Option
from unrolled.cli.train.text import TEXT
from unrolled.errors import RunError
from unrolled.text.run import TextRun
from unrolled.training.files import read_tensors
from unrolled.training.run import TRAINING

QUICK = ("--epochs", 2, "--threads", 1)


@pytest.fixture(autouse=True)
def _waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.cli.train.APPLICATIONS", (TEXT, WAVES))
    monkeypatch.setitem(RUNS, "wave", "tests.cli.waves:WaveRun")


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    rows = [[math.sin(k + t / 2) for t in range(9 + k)] for k in range(12)]
    file = tmp_path / "waves.txt"
    file.write_text("\n".join(" ".join(map(str, row)) for row in rows), "utf-8")
    return file


@pytest.fixture
def run(waves: Path, tmp_path: Path) -> Path:
    return trained(tmp_path / "run", "waves", waves, "--columns", 'a,"b, c"', *QUICK)


# train


def test_a_kind_has_its_own_options_and_those_of_every_training(call: Call) -> None:
    shown = call("train", "waves", "--help").out
    assert shown.startswith("usage: unrolled train waves DATA --out DIR [options]\n")
    for part in ("positional arguments:\n  DATA ", "--columns NAME,…", "--resume", "--watch N"):
        assert part in shown
    assert shown.index("--columns") < shown.index("--out DIR  ") < shown.index("--epochs")
    assert "units of each direction and layer (7)" in shown and "{elman,gru,indrnn,lstm}" in shown
    assert "--unit" not in shown and "--bptt" not in shown
    everything = call("train", "--help").out
    assert all(f"\n    {name} " in everything for name in ("cloze", "lm", "waves"))
    misused(call("train", "waves", "x", "--out", "y", "--unit", "word"), "--unit")


def test_it_trains_to_its_end_and_says_what_came_of_it(
    waves: Path, tmp_path: Path, call: Call
) -> None:
    train = ("train", "waves", *QUICK, waves, "--out", tmp_path / "run")
    done = call(*train)
    assert (done.code, done.err) == (0, "")
    run = WaveRun(tmp_path / "run")
    best = run.weights_notes()["validation_square"]
    said = done.out.splitlines()
    assert said[0] == "training: 16 steps, 1 threads, waves"
    assert f"best on the validation split: {best:.4f} square per value" in said
    assert "a run of more --epochs will be better" in said[-1] and " square in the" in said[-1]
    found = json.loads(call(*train, "--resume", "--json").out)
    assert list(found) == [
        *("run", "step", "steps", "stopped_early", "validation_square", "waves", "seconds")
    ]
    assert (found["validation_square"], found["waves"], found["step"]) == (best, 8, 16)
    assert run.command["hidden"] == 7 and run.command["kind"] == "waves"


def test_a_run_is_resumed_by_its_own_kind_with_its_own_options(run: Path, call: Call) -> None:
    before = contents(run)
    resume = ("train", "waves", "--out", run, "--resume")
    assert call(*resume).code == 0
    assert call(*resume, "--columns", 'a, "b, c"').code == 0
    failed(
        call(*resume, "--columns", "a"), 2, "--columns: got a, but the run in", "begun with a b, c"
    )
    failed(call("train", "waves", "other", *resume[2:]), 2, "DATA: got other")
    failed(
        call("train", "lm", *resume[2:], "--hidden", 9),
        2,
        "the kind of model: got lm",
        "with waves",
    )
    assert contents(run) == before


def test_a_start_that_fails_leaves_nothing(waves: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "a" / "b"
    failed(call("train", "waves", "--out", out), 2, "DATA: missing")
    waves.write_text("")
    failed(call("train", "waves", waves, "--out", out), 1, "empty")
    refused = ("--remedy", "with_activation=relu", "--out", out)
    failed(call("train", "waves", waves, *refused), 2, "got --cell indrnn, expected --cell elman")
    assert not out.parent.exists()


def test_a_command_trains_the_same_again(run: Path, waves: Path) -> None:
    line = WAVES.again(WaveRun(run), ["--cell", "lstm"])
    assert line is not None
    assert shlex.split(line) == [
        *("unrolled", "train", "waves", str(waves), "--columns", 'a,"b, c"', "--epochs", "2.0"),
        *("--cell", "lstm", "--out", f"{run}-lstm"),
    ]
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["command"] = {}
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    assert WAVES.again(WaveRun(run), ["--cell", "lstm"]) is None  # who knows how it was begun


def test_again_says_what_differs_from_the_kind_s_recipe(cloze_run: Path) -> None:
    line = TEXT.again(TextRun(cloze_run), ["--remedy", "clip_states=1"])
    assert line is not None
    parts = shlex.split(line)
    assert parts[parts.index("--cell") + 1] == "gru"  # and not the recipe's lstm
    assert "--schedule" not in parts and "--average" not in parts


# --config


def test_a_file_has_what_all_kinds_take_and_what_one_does(
    waves: Path, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        "[train]\nhidden = 5\nepochs = 1\nthreads = 1\nembedding = 4\n"
        "[train.waves]\nhidden = 6\ncolumns = ['x', 'y']\n"
        "[train.lm]\nmin-count = 1\n",
        "utf-8",
    )
    done = call("train", "waves", waves, "--config", file, "--out", tmp_path / "a")
    assert (done.code, done.err) == (0, "")
    found = WaveRun(tmp_path / "a")
    assert (found.model_config["hidden_size"], found.columns) == (6, ["x", "y"])
    done = call("train", "lm", "--data", corpus_file, "--config", file, "--out", tmp_path / "b")
    assert (done.code, done.err) == (0, "")
    command = TextRun(tmp_path / "b").command
    assert (command["hidden"], command["embedding"], command["min_count"]) == (5, 4, 1)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            "[train]\nnone = 1",
            ("[train] none: no option of that name; 'unrolled train KIND --help'",),
        ),
        ("[train]\ncolum = 'x'", ("[train] colum: no option of that name; columns?",)),
        ("[train.waves]\nunit = 'word'", ("[train.waves] unit: no option of that name",)),
        ("[train.waves]\nhidden = 'x'", ("[train.waves] hidden: got 'x', expected a number",)),
        ("[train]\ncell = 'indrnn'", ("[train] cell: got 'indrnn'", "of cloze;", "[train.KIND]")),
        ("[train]\ncell = 'rnn'", ("[train] cell: got 'rnn', expected one of elman",)),
        ("[train]\nwaves = 3", ("[train] waves: no option of that name",)),
        ("[train.lm]\nkind = 'lm'", ("[train.lm] kind: no option of that name",)),
        ("[train]\ncolumns = [3]", ("[train] columns: got [3], expected one value",)),
        ("[train]\ncolumns = 'a,a'", ("[train] columns: got 'a,a', expected names that differ",)),
    ],
)
def test_what_no_kind_takes_is_refused_by_name(
    content: str, parts: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(content, "utf-8")
    failed(call("train", "waves", "x", "--config", file, "--out", "y"), 2, str(file), *parts)


@pytest.mark.parametrize("text", ["a", "a,b", 'a,"b, c"', '"a ""x""",b'])
def test_names_are_written_as_they_are_read(text: str) -> None:
    (_, written) = Option(None, "", {"type": names}).written("past", names(text))
    assert names(written) == names(text)


# What is done with a run


def test_a_run_is_opened_by_the_kind_that_it_holds(
    run: Path, lm_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(open_run(run)) is WaveRun and type(open_run(lm_run)) is TextRun
    assert application_of(open_run(run)) is WAVES and application_of(open_run(lm_run)) is TEXT
    monkeypatch.delitem(RUNS, "wave")
    with pytest.raises(RunError, match=r"config.json: .*kind: got 'wave', expected one of cloze"):
        class_of(run)


def test_what_is_for_text_alone_refuses_it_by_name(run: Path, call: Call) -> None:
    for command, kinds in ((("fill", run, "a ____ b"), "cloze"), (("generate", run), "lm")):
        said = f"holds a model of kind 'wave', expected '{kinds}', made by 'unrolled train {kinds}'"
        failed(call(*command), 1, f"{run}: {said}")
    both = "expected 'cloze' or 'lm', made by 'unrolled train cloze|lm'"
    failed(call("evaluate", run), 1, "kind 'wave'", both)


def test_runs_are_compared_by_their_own_scores(run: Path, waves: Path, call: Call) -> None:
    other = trained(run.parent / "other", "waves", waves, "--hidden", 5, *QUICK)
    done = call("compare", run, other)
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split()[:3] == ["run", "columns", "hidden"]
    assert head.split()[-3:] == ["test", "square", "largest"]
    found = json.loads(call("compare", run, other, "--json", "--split", "validation").out)
    for directory, row, record in zip((run, other), rows, found["runs"], strict=True):
        opened = WaveRun(directory)
        scores = WAVES.scores(opened, "test").figures()
        assert row.split()[-2:] == [f"{scores[name]:.4f}" for name in ("square", "largest")]
        steps = read_tensors(directory / TRAINING)[1]["evaluations"]
        assert [[p["step"], p["square"]] for p in record["validation"]] == [s[:2] for s in steps]
        assert record["best"] == min(square for _, square, _ in steps)
        assert set(record["scores"]) == {"square", "largest", "values"}
    none = call("compare", run, "--split", "train", "--json")
    assert "no scores: a run of kind 'wave' is scored on its validation split alone" in none.err
    assert json.loads(none.out)["runs"][0]["scores"] is None


def test_runs_of_other_data_stand_in_one_table_and_page(
    run: Path, lm_run: Path, tmp_path: Path, call: Call
) -> None:
    page = tmp_path / "a.html"
    done = call("compare", run, lm_run, "--html", page)
    assert done.code == 0 and "the runs are of other data" in done.err
    head, wave, lm, _ = done.out.splitlines()
    assert head.endswith("  test square  largest  test nats  top-1   top-5")
    assert len(wave) < head.index("test nats") < len(lm)
    text = page.read_text("utf-8")
    assert '"loss on the validation split"' in text and '"loss":' in text


def test_a_run_is_diagnosed_on_what_its_training_reads(run: Path, call: Call) -> None:
    before = contents(run)
    done = call("diagnose", run, "--json", "--try")
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    opened = WaveRun(run)
    feed = opened.feed(opened.model(), opened.dataset())
    item = feed.data["train"][4]
    assert len(record["rows"][0]["norms"]) == len(item) - 1
    assert record["plain"] is None and "as it is" in {t["remedy"] for t in record["trials"]}
    assert record["trials"][0]["loss"] == pytest.approx(feed.loss(item).item(), rel=1e-5)
    told = call("diagnose", run).out
    assert told.startswith(f"{run}, train, loss: {feed.loss(item).item():.4g}\n")
    for name, value in (("--split", "test"), ("--data", "x"), ("--model", "zh")):
        failed(call("diagnose", run, name, value), 2, f"{name}: got {value}", "for a model of text")
    assert contents(run) == before


def test_a_run_that_fades_is_told_the_command_of_a_new_one(
    waves: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.lens.verdict.FADED", 1.0)  # any gradient has vanished
    run = trained(tmp_path / "gru", "waves", waves, "--cell", "gru", *QUICK)
    commands = json.loads(call("diagnose", run, "--json").out)["commands"]
    (name, line), *_ = commands.items()
    assert name.startswith("--remedy chrono_bias=")
    assert call(*shlex.split(line)[1:]).code == 0
    assert WaveRun(f"{run}-chrono_bias").settings.remedy.keys() == {"chrono_bias"}


def test_a_watched_training_keeps_its_reports(waves: Path, tmp_path: Path, call: Call) -> None:
    done = call("train", "waves", waves, "--out", tmp_path / "run", *QUICK, "--watch", 8)
    assert (done.code, done.err) == (0, "")
    lines = (tmp_path / "run" / "lens.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 8, 16]
