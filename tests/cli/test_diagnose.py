"""``diagnose``, and training under ``--watch``, end to end."""

import errno
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import SMALL, Call, Done
from tests.cli.test_commands import contents, failed, misused
from tests.sentences import write_corpus
from unrolled import Recurrent, cells, watch
from unrolled.cli import main
from unrolled.cli.show import CELLS
from unrolled.errors import RunError
from unrolled.text.run import TextRun
from unrolled.training.run import TRAINING, WEIGHTS

RECORD = ["rows", "notes", "broken", "clipping"]
SIZES = ("--hidden", 8, "--input", 5, "--steps", 12, "--batch", 3)


def record_of(done: Done) -> dict[str, Any]:
    """The one line of JSON that was printed, and nothing else."""
    assert (done.code, done.err) == (0, "") and done.out.count("\n") == 1
    record: dict[str, Any] = json.loads(done.out)
    assert list(record)[:4] == RECORD
    return record


# A network by itself


def test_a_network_by_itself_is_looked_at_as_one_would_by_hand(call: Call) -> None:
    options = ("--depth", 2, "--bidirectional", "--seed", 3, "--activation", "sigmoid")
    record = record_of(call("diagnose", "--cell", "elman", *SIZES, *options, "--json"))
    torch.manual_seed(3)
    layer = Recurrent(cells.Elman, 5, 8, depth=2, bidirectional=True, activation="sigmoid")
    x = torch.randn(12, 3, 5)
    with watch(layer) as seen:
        y = layer(x).y
        torch.cat([y[-1, :, :8], y[0, :, 8:]], -1).square().mean().backward()
    assert record == json.loads(seen.report().to_json())
    assert [(row["level"], row["direction"]) for row in record["rows"]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell_is_diagnosed(cell: str, call: Call) -> None:
    (row,) = record_of(call("diagnose", "--cell", cell, *SIZES, "--json"))["rows"]
    assert len(row["norms"]) == 12 and row["calls"] == 1
    assert row["verdict"]["state"] in ("healthy", "vanishing")
    assert row["norms"][-1] > 0


def test_the_table_says_what_was_measured_and_the_trials_come_after_it(call: Call) -> None:
    done = call("diagnose", "--cell", "elman", "--activation", "sigmoid", *SIZES, "--try")
    assert (done.code, done.err) == (0, "")
    first, header, row, *rest = done.out.splitlines()
    assert first.startswith("Elman (sigmoid), H = 8, 12 steps of noise, mean square of the last ")
    assert math.isfinite(float(first.rpartition(": ")[2]))
    assert header.startswith("layer") and row.startswith("layer, 0")
    assert row.endswith("vanishing")
    table = rest[rest.index("") + 1 :]
    assert table[0].startswith("remedy") and table[1].startswith("as it is")
    assert any(line.startswith("remedies.identity_weights_, with ReLU") for line in table)


def test_json_with_trials_has_both_in_one_object(call: Call) -> None:
    record = record_of(call("diagnose", "--cell", "lstm", *SIZES, "--try", "--json"))
    assert list(record) == [*RECORD, "trials", "left_out"]
    before, *after = record["trials"]
    assert before["remedy"] == "as it is"
    assert before["growth"] == record["rows"][0]["verdict"]["growth"]
    assert before["norms"] == record["rows"][0]["norms"]
    assert "remedies.chrono_bias_" in {trial["remedy"] for trial in after}


def test_on_a_terminal_the_report_has_colours(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from unrolled.cli import printing

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    plain = call("diagnose", "--cell", "gru", *SIZES)
    assert "\x1b[" not in plain.out
    console = printing.Console
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(printing, "Console", lambda: console(force_terminal=True))
    coloured = call("diagnose", "--cell", "gru", *SIZES)
    assert coloured.code == 0 and "\x1b[" in coloured.out
    assert "healthy" in coloured.out and "layer, 0" in coloured.out


# A run


@pytest.mark.parametrize("kind", ["cloze", "lm"])
def test_a_run_is_looked_at_on_its_validation_split(
    kind: str, request: pytest.FixtureRequest, call: Call
) -> None:
    directory: Path = request.getfixturevalue(f"{kind}_run")
    before = contents(directory)
    record = record_of(call("diagnose", directory, "--json"))
    run = TextRun(directory)
    batches = run.dataset().batches("validation", run.settings.batch_steps)
    batch = list(batches)[len(batches) // 2]
    model = run.model()
    with watch(model) as seen:
        loss = model.loss(batch)
        loss.backward()
    expected = json.loads(seen.report().to_json())
    assert record.pop("commands") == {}
    has_learnt = loss.item() < record.pop("plain")
    assert has_learnt == (kind == "cloze")
    if has_learnt:  # a remedy is of no use to it
        assert f"has learnt its task: {loss.item():.3g} nats" in record["notes"].pop()
        for row in expected["rows"]:
            row["verdict"]["remedies"] = []
    assert record == expected
    text = call("diagnose", directory).out
    assert text.startswith(f"{directory}, validation, nats per token: {loss.item():.4g}\n")
    assert text.count("\nlayers, 0") == (2 if kind == "cloze" else 1)
    assert contents(directory) == before  # the run stays as it is


def test_other_text_another_split_and_remedies_for_a_run(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    text = write_corpus(tmp_path / "other.txt", 60, seed=5)
    given = ("diagnose", cloze_run, "--data", text, "--split", "train")
    record = record_of(call(*given, "--json", "--try"))
    own = record_of(call("diagnose", cloze_run, "--split", "train", "--json"))
    assert record["rows"][0]["norms"] != own["rows"][0]["norms"]
    assert {"as it is", "remedies.chrono_bias_"} <= {t["remedy"] for t in record["trials"]}
    assert "other.txt" not in (done := call(*given)).out and "train, nats" in done.out


def test_a_continuous_text_is_read_on_from_its_beginning(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    given = ("--bptt", "truncated", "--batch-size", 4, "--k1", 9, "--passage", 8, "--epochs", 1)
    sizes = ("--hidden", 8, "--embedding", 6, "--threads", 1)
    out = tmp_path / "run"
    assert call("train", "lm", "--data", corpus_file, "--out", out, *given, *sizes).code == 0
    record = record_of(call("diagnose", out, "--json", "--try"))
    (row,) = record["rows"]
    assert len(row["norms"]) > 100 and row["verdict"] is not None
    assert record["trials"][0]["norms"] == row["norms"]


def test_a_page_is_written_with_the_trials_in_it(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    page = tmp_path / "lens.html"
    done = call("diagnose", cloze_run, "--html", page, "--try")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"\nthe page: {page}\n")
    text = page.read_text("utf-8")
    assert f"<title>{cloze_run}, validation</title>" in text
    step = json.loads((cloze_run / "config.json").read_text())["training"]["steps"]
    (at,) = json.loads(text.partition('"at":')[2].partition(',"rows"')[0])
    assert 0 < at <= step  # the step of the best weights
    assert "Remedies tried" in text and "remedies.chrono_bias_" in text
    assert "http-equiv" in text and 'src="http' not in text


@pytest.mark.parametrize("json_too", [True, False])
def test_a_page_that_fails_keeps_the_old_one_and_the_report(
    json_too: bool, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    page = tmp_path / "lens.html"
    page.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    given = ("diagnose", "--cell", "gru", *SIZES, *(["--json"] if json_too else []))
    done = call(*given, "--html", page)
    failed(done, 1, f"{page}: No space left")
    assert done.out == call(*given).out
    assert page.read_text() == "old"


def test_a_page_is_written_though_nobody_reads_on(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("unrolled.cli.diagnose.print_report", gone)
    done = call("diagnose", "--cell", "gru", *SIZES, "--html", tmp_path / "lens.html")
    failed(done, 1, "output: full")
    assert (tmp_path / "lens.html").stat().st_size > 1000


def test_standard_output_that_is_closed_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["diagnose", "--cell", "gru", *map(str, SIZES)]) == 0


def test_a_model_whose_loss_is_nan_is_diagnosed(
    lm_run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unrolled.text.models import LanguageModel

    loss = LanguageModel.loss
    monkeypatch.setattr(LanguageModel, "loss", lambda self, batch: loss(self, batch) * math.nan)
    done = call("diagnose", lm_run)
    assert (done.code, done.err) == (0, "")
    assert (
        "nats per token: nan\n" in done.out and "the first NaN came up in the gradient" in done.out
    )


# Bad calls


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("x", "--cell", "gru"), ("DIR", "--cell", "both")),
        (("x", "--hidden", 3), ("--hidden: got 3", "--cell")),
        (("x", "--bidirectional"), ("--bidirectional: got it, which", "--cell")),
        (("--cell", "gru", "--data", "y", "z.txt"), ("--data: got y z.txt, which", "DIR")),
        (("--cell", "gru", "--split", "test"), ("--split: got test", "DIR")),
        (("--cell", "lstm", "--activation", "relu"), ("--activation: got relu", "--cell elman")),
        (("--cell", "gru", "--steps", 1, "--try"), ("--steps: got 1", "2 or more")),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[object, ...], parts: tuple[str, ...], call: Call
) -> None:
    failed(call("diagnose", *arguments), 2, *parts)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--cell", "rnn"), ("--activation", "gelu"), ("--hidden", "0"), ("--steps", "many")],
)
def test_a_value_that_cannot_be_is_refused(option: str, value: str, call: Call) -> None:
    misused(call("diagnose", "--cell=elman", f"{option}={value}"), option, value)


def test_what_is_no_run_or_cannot_be_written_gets_one_line(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    failed(call("diagnose", tmp_path / "nowhere"), 1, "no such directory")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("page.svg", "a name that ends in .html"),
        ("page", "a name that ends in .html"),
        ("nowhere/page.html", "a folder that is there"),
        ("folder.html", "a file that can be written"),
        ("closed.html", "a file that can be written"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(
    name: str, expected: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "closed.html").touch()
    monkeypatch.setattr("unrolled.cli.diagnose.command", lambda _: pytest.fail("it was begun"))
    monkeypatch.setattr("os.access", lambda path, _: path.name != "closed.html")  # for root too
    path = tmp_path / name
    misused(call("diagnose", "--cell", "gru", "--html", path), f"--html: got '{path}'", expected)


def test_an_empty_split_says_what_to_do(tmp_path: Path, call: Call) -> None:
    text = tmp_path / "one.txt"
    text.write_text("今天天气很好,今天天气很好。\n" * 9, "utf-8")
    done = call("train", "lm", "--data", text, "--out", tmp_path / "run", *SMALL, "--epochs", 1)
    assert done.code == 0 and done.err.startswith(
        "unrolled: note: the validation split is empty, so"
    )
    failed(
        call("diagnose", tmp_path / "run"), 1, "validation split is empty", "--split train (of 9)"
    )
    assert call("diagnose", tmp_path / "run", "--split", "train").code == 0


def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.pages.find_spec", lambda _: None)


def test_a_page_without_the_extra_says_which_command_installs_it(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_the_extra(monkeypatch)
    done = call("diagnose", "--cell", "gru", *SIZES, "--html", tmp_path / "a.html")
    failed(done, 1, "pip install altair", "extra 'report'")
    assert call("diagnose", "--cell", "gru", *SIZES).code == 0


# train --watch


def test_a_watched_training_has_the_same_weights_a_history_and_a_page(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    command = ("train", "cloze", "--data", corpus_file, *SMALL, "--epochs", 2, "--dropout", 0.2)
    log = tmp_path / "log"
    plain = call(*command, "--out", tmp_path / "plain")
    done = call(*command, "--out", tmp_path / "run", "--watch", 10, "--log", log)
    assert (plain.code, done.code, done.err) == (0, 0, "")
    page = tmp_path / "run" / "lens.html"
    assert done.out.endswith(f"\nthe gradient over the training: {page}\n")
    for name in (WEIGHTS, TRAINING, "config.json"):  # --watch is not what a run is
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    rows = [
        json.loads(s) for s in (tmp_path / "run" / "lens.jsonl").read_text("utf-8").splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 10, 20, 30, 32]
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    for row, said in zip(rows, (line for line in logged if "lens" in line), strict=True):
        growth = row["record"]["rows"][0]["verdict"]["growth"]
        assert said["lens"]["layers.0"]["growth"] == pytest.approx(growth, rel=1e-4)
    # Resumed at its end, nothing is seen anew, and nothing is lost.
    before = contents(tmp_path / "run")
    assert call(*command, "--out", tmp_path / "run", "--resume", "--watch", 5).code == 0
    assert contents(tmp_path / "run") == before


def test_a_watched_training_names_remedies_as_options_of_a_new_one(
    tmp_path: Path, call: Call
) -> None:
    text, run = tmp_path / "a.txt", tmp_path / "run"
    text.write_text("abcdefgh" * 10 + "\n" + "hgfedcba" * 10 + "\n")
    command = ("train", "lm", "--data", text, "--out", run, "--epochs", 1, "--watch", 1)
    assert call(*command, *SMALL, "--min-count", 1).code == 0
    (line,) = (run / "lens.jsonl").read_text("utf-8").splitlines()[:1]
    names = {
        remedy["name"]
        for row in json.loads(line)["record"]["rows"]
        for remedy in row["verdict"]["remedies"]
    }
    assert names == {"--remedy chrono_bias=82"}  # of 80 characters, <s> and </s>
    page = (run / "lens.html").read_text("utf-8")
    assert "<code>--remedy chrono_bias=82</code>" in page and "<code>remedies." not in page


def test_a_watched_training_that_diverges_says_where_and_leaves_its_page(
    corpus_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unrolled.text.models import LanguageModel

    loss, calls = LanguageModel.loss, []

    def spoiled(self: LanguageModel, batch: Any, **_: object) -> torch.Tensor:
        calls.append(batch)
        return loss(self, batch) * (math.nan if len(calls) > 4 else 1)

    monkeypatch.setattr(LanguageModel, "loss", spoiled)
    out = tmp_path / "run"
    done = call(
        "train", "lm", "--data", corpus_file, "--out", out, *SMALL, "--epochs", 1, "--watch", 3
    )
    failed(
        done, 1, "loss is nan at step 5 of", "the first NaN came up in the gradient of the state"
    )
    assert '"at":[1,3]' in (out / "lens.html").read_text("utf-8")


def test_an_error_in_training_is_not_hidden_by_one_of_the_page(
    corpus_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def full(*_: object) -> None:
        raise RunError("lens.html: the disk is full")

    monkeypatch.setattr("unrolled.training.Trainer.train", stopped)
    monkeypatch.setattr("unrolled.training.history.write_page", full)
    out = tmp_path / "run"
    done = call("train", "lm", "--data", corpus_file, "--out", out, *SMALL, "--watch", 3)
    assert done.code == 130
    assert done.err.splitlines() == [
        "unrolled: error: stopped; continue with the same command and --resume",
        "unrolled: note: there is no new page: lens.html: the disk is full",
    ]


def test_watching_without_the_extra_is_refused_before_anything_is_done(
    corpus_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_the_extra(monkeypatch)
    command = ("train", "lm", "--data", corpus_file, "--out", tmp_path / "run", *SMALL)
    failed(call(*command, "--watch", 3), 1, "pip install altair", "extra 'report'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["0", "-1", "often"])
def test_watching_every_so_many_steps_needs_a_whole_number(value: str, call: Call) -> None:
    misused(call("train", "lm", "--out", "x", f"--watch={value}"), "--watch", value)


def test_a_damaged_history_is_named_on_resuming(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    run = shutil.copytree(cloze_run, tmp_path / "run")
    (run / "lens.jsonl").write_text("mine\n")
    done = call("train", "cloze", "--out", run, "--resume", "--watch", 5)
    failed(done, 1, str(run / "lens.jsonl"), "line 1 is damaged")
    assert call("train", "cloze", "--out", run, "--resume").code == 0
