"""``--config``, ``--quiet``, ``--json`` of ``train``, ``completion``; what a failed start leaves."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, Call
from tests.cli.test_commands import QUICK, failed
from unrolled.text.run import TextRun
from unrolled.training.run import BEGINNING, LOCK

MINIMAL = """
[train]
hidden = 16
embedding = 8
batch-tokens = 400
threads = 1
epochs = 1
learning_rate = 0.02
layer-norm = false
resume = false
memory = "8MiB"
remedy = ["chrono_bias=30", "clip_states=1"]
data = "{data}"

[evaluate]
split = "train"
json = true
"""


def test_a_file_holds_the_options_of_every_command_and_the_call_wins(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    file, out = tmp_path / "a.toml", tmp_path / "run"
    file.write_text(MINIMAL.format(data=corpus_file), "utf-8")
    done = call("train", "lm", "--config", file, "--hidden", 9, "--out", out)
    assert (done.code, done.err) == (0, "")
    run = TextRun(out)
    assert (run.model_config["hidden_size"], run.model_config["embedding_size"]) == (9, 8)
    assert (run.settings.learning_rate, run.settings.memory) == (0.02, 8 << 20)
    assert run.settings.remedy == {"chrono_bias": 30, "clip_states": 1.0}
    scores = json.loads(call("evaluate", out, f"--config={file}").out)
    assert scores["split"] == "train"
    again = call("train", "lm", "--config", file, "--out", out, "--resume")
    failed(again, 2, "--hidden: got 16", "begun with 9")
    minutes = ("--minutes", 0.004, "--out", tmp_path / "other")
    assert call("train", "lm", "--config", file, *minutes).code == 0
    assert TextRun(tmp_path / "other").settings.epochs is None


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[trian]", ("[trian]: no command of that name, expected one of train",)),
        ("hidden = 3", ("hidden: got 3, expected options in a table",)),
        ("[train]\nhiden = 3", ("[train] hiden: no option of that name; hidden?",)),
        ("[train]\nkind = 'lm'", ("[train] kind: no option of that name",)),
        ("[train]\nhelp = true", ("[train] help: no option of that name",)),
        ("[train]\nhidden = '8'", ("[train] hidden: got '8', expected a number",)),
        ("[train]\nhidden = true", ("[train] hidden: got True, expected a number",)),
        ("[train]\nhidden = [8]", ("[train] hidden: got [8], expected one value",)),
        ("[train]\nhidden = 0", ("[train] hidden: got '0', expected a whole number from 1",)),
        ("[train]\nepochs = inf", ("[train] epochs: got 'inf', expected a number above 0",)),
        ("[train]\ncell = 'rnn'", ("[train] cell: got 'rnn', expected one of elman",)),
        ("[train]\nout = 3", ("[train] out: got 3, expected a text in quotes",)),
        ("[train]\nresume = 1", ("[train] resume: got 1, expected true or false",)),
        ("[train]\ndata = [3]", ("[train] data: got 3, expected a text in quotes",)),
        ("[train]\nremedy = 'x'", ("[train] remedy: got 'x', expected one of orthogonal",)),
        ("[fill]\ntop = 0", ("[fill] top: got '0'",)),
        ("[train", ("not TOML",)),
    ],
)
def test_what_a_file_cannot_say_is_refused_by_name(
    content: str, parts: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(content, "utf-8")
    failed(call("train", "lm", "--config", file, "--out", tmp_path / "run"), 2, str(file), *parts)
    failed(
        call("info", "--json") if False else call("show", "--config", file), 2, str(file), *parts
    )
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, call: Call) -> None:
    failed(call("show", "--config", tmp_path / "no.toml"), 2, "--config: got", "no.toml")
    failed(call("show", "--config", tmp_path), 2, "--config", "cannot be read")


# What is said


def test_train_can_print_json_alone_or_nothing(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    train = ("train", "lm", "--data", corpus_file, *QUICK)
    done = call(*train, "--out", tmp_path / "a", "--json")
    found = json.loads(done.out)
    run = TextRun(tmp_path / "a")
    assert (found["step"], found["steps"]) == (run.settings.steps, run.settings.steps)
    assert found["validation_nats"] == run.weights_notes()["validation_nats"]
    assert sum(found["sentences"].values()) == 500 and found["seconds"] > 0
    assert "sentences: " in done.err and "best on the validation split" in done.err
    assert call(*train, "--out", tmp_path / "b", "--quiet") == (0, "", "")
    quiet = call(*train, "--out", tmp_path / "c", "--quiet", "--json")
    assert quiet.err == "" and json.loads(quiet.out)["step"] == found["step"]


def test_quiet_leaves_notes_out_and_answers_and_errors_in(cloze_run: Path, call: Call) -> None:
    asked = ("fill", cloze_run, "我今天____一本Ω书。")
    loud, quiet = call(*asked), call(*asked, "--quiet")
    assert "Ω" in loud.err and quiet == (0, loud.out, "")
    failed(call("generate", cloze_run, "--quiet"), 1, "kind")


def test_a_time_goes_on_where_a_run_does(corpus_file: Path, tmp_path: Path, call: Call) -> None:
    train = ("train", "lm", "--out", tmp_path / "a", "--json")
    first = json.loads(call(*train, "--data", corpus_file, *QUICK).out)["seconds"]
    assert json.loads(call(*train, "--resume").out)["seconds"] == first  # nothing was done


# A failed start


@pytest.mark.parametrize("there", [False, True])
def test_a_start_that_fails_leaves_the_place_as_it_was(
    there: bool, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "a" / "b"
    if there:
        out.mkdir(parents=True)
    done = call("train", "lm", "--data", tmp_path / "no.txt", "--out", out, *SMALL)
    failed(done, 1, "no.txt: no such file")
    assert list(tmp_path.rglob("*")) == ([tmp_path / "a", out] if there else [])


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        ([], "an empty directory, expected a run"),
        ([LOCK], "an empty directory, expected a run"),
        ([LOCK, BEGINNING], "the start of a run that was stopped before its data was encoded"),
        (["a.txt", "b.txt"], "no run: it holds a.txt, b.txt, but no config.json"),
    ],
)
def test_what_is_there_in_place_of_a_run_is_said(
    holds: list[str], said: str, tmp_path: Path, call: Call
) -> None:
    for name in holds:
        (tmp_path / name).touch()
    failed(call("evaluate", tmp_path), 1, str(tmp_path), said, "'unrolled train'")


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_completes_commands_options_and_choices(shell: str, call: Call) -> None:
    done = call("completion", shell)
    assert (done.code, done.err) == (0, "")
    for word in ("train", "compare", "remedy", "layer-norm", "truncated", "elman"):
        assert word in done.out
    if shell == "bash":
        check = "COMP_WORDS=(unrolled train cloze --ce); COMP_CWORD=3; _shtab_unrolled; "
        check += "echo ${COMPREPLY[@]}"
        found = subprocess.run(
            ["bash", "-c", f"{done.out}\n{check}"], capture_output=True, text=True, check=True
        )
        assert found.stdout.split() == ["--cell"]
