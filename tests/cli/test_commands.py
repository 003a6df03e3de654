"""The commands that use a run, in process: what they print, their exit codes, what they refuse."""

import json
import math
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

import unrolled
from tests.cli.conftest import SMALL, Call, Done
from tests.sentences import write_corpus
from unrolled.scan import native
from unrolled.scan.native import library
from unrolled.text.measures import TokenScores, evaluate
from unrolled.text.run import TextRun
from unrolled.training.callbacks import TIME
from unrolled.training.run import TRAINING, WEIGHTS

QUICK = (*SMALL, "--epochs", "1")


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``, except how long it took."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != TIME
    }


def nothing_in(directory: Path) -> bool:
    """Whether ``directory`` is not there."""
    return not directory.exists()


def failed(done: Done, code: int, *parts: str) -> None:
    """``done`` ended with ``code`` and exactly one line, which says each of ``parts``."""
    assert done.code == code
    assert done.err.startswith("unrolled: error: ")
    assert done.err.count("\n") == 1 and done.err.endswith("\n")
    assert len(done.err) < 700
    for part in parts:
        assert part in done.err


def misused(done: Done, *parts: str) -> None:
    """argparse refused the call: a usage, then one line of error."""
    assert done.code == 2 and done.out == ""
    lines = done.err.splitlines()
    assert lines[0].startswith("usage: unrolled")
    assert lines[-1].startswith("unrolled") and "error: " in lines[-1]
    assert "Traceback" not in done.err
    for part in parts:
        assert part in lines[-1]


# Fill


def test_fill_prints_the_sentence_and_five_candidates(cloze_run: Path, call: Call) -> None:
    done = call("fill", cloze_run, "老师昨天____了一杯咖啡。")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "老师昨天喝了一杯咖啡。"
    assert lines[1].startswith("blank 1: 喝 0.") and len(lines) == 2
    assert len(lines[1].removeprefix("blank 1: ").split("  ")) == 5


def test_fill_json_has_exactly_the_documented_shape(cloze_run: Path, call: Call) -> None:
    text = "____昨天，喝了一杯<blank>＿＿＿？"
    done = call("fill", cloze_run, text, "--json", "--top", 3)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    got = json.loads(done.out)
    assert list(got) == ["text", "blanks", "filled"]
    assert got["text"] == text
    assert [blank["position"] for blank in got["blanks"]] == [0, 11, 18]
    for blank in got["blanks"]:
        assert set(blank) == {"position", "candidates"}
        assert len(blank["candidates"]) == 3
        for candidate in blank["candidates"]:
            assert set(candidate) == {"text", "probability"}
            assert isinstance(candidate["text"], str) and 0 < candidate["probability"] <= 1
    first, second, third = (blank["candidates"][0]["text"] for blank in got["blanks"])
    assert got["filled"] == f"{first}昨天，喝了一杯{second}{third}？"
    assert "\\u" not in done.out  # Chinese is written as such


def test_fill_says_which_characters_it_does_not_know(cloze_run: Path, call: Call) -> None:
    done = call("fill", cloze_run, "龙龘龙昨天____水", "--json")
    assert done.code == 0
    assert done.err == "unrolled: note: not in the vocabulary, read as <unk>: 龙 龘\n"
    json.loads(done.out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("我打算买手机。", "no blank"),
        ("", "no blank"),
        ("__", "no blank"),
        ("____", "only blanks"),
        (" ____ ___ ", "only blanks"),
        ("我" * 1000 + "____", "1,001 tokens"),
    ],
)
def test_a_text_that_cannot_be_filled_is_a_fault_of_the_call(
    text: str, message: str, cloze_run: Path, call: Call
) -> None:
    failed(call("fill", cloze_run, text), 2, message)
    failed(call("fill", cloze_run, text, "--json"), 2, message)


@pytest.mark.parametrize(
    "text",
    ["我____\udcff\udce4", "____\u0301", "\u200d____", "\ufeff我____", "我____\n\n他___", "😀___"],
)
def test_strange_texts_are_filled(text: str, cloze_run: Path, call: Call) -> None:
    done = call("fill", cloze_run, text, "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["blanks"]) == text.count("___")
    done.out.encode("utf-8")


def test_fill_takes_a_cloze_model_only(lm_run: Path, call: Call) -> None:
    done = call("fill", lm_run, "我____")
    failed(done, 1, str(lm_run), "kind 'lm'", "expected 'cloze'", "unrolled train cloze")


# Generate


def test_generate_continues_the_prompt(lm_run: Path, call: Call) -> None:
    done = call("generate", lm_run, "--prompt", "老师昨天")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("老师昨天") and done.out.count("\n") == 1
    assert len(done.out) > 6
    assert call("generate", lm_run, "--prompt", "老师昨天") == done  # the default seed


def test_generate_json_holds_prompt_text_and_tokens(lm_run: Path, call: Call) -> None:
    done = call("generate", lm_run, "--prompt", "明天，", "--json", "--seed", 5)
    got = json.loads(done.out)
    assert list(got) == ["prompt", "text", "tokens"]
    assert got["prompt"] == "明天，"
    assert got["tokens"] and not set(got["tokens"]) & {"<pad>", "<unk>", "<s>", "</s>"}
    assert got["text"].replace(" ", "") == "明天," + "".join(got["tokens"])


def test_generate_options_reach_the_model(lm_run: Path, call: Call) -> None:
    def tokens(*options: object) -> list[str]:
        return json.loads(call("generate", lm_run, "--json", *options).out)["tokens"]

    assert len(tokens("--longest", 2)) == 2
    assert tokens("--temperature", 0) == tokens("--top-k", 1) == tokens("--temperature", 1e-9)
    assert len({tuple(tokens("--temperature", 2, "--seed", seed)) for seed in range(6)}) > 3


@pytest.mark.parametrize("prompt", ["", "   ", "龙", "\udcff", "a" * 3000, "\n"])
def test_any_prompt_is_continued(prompt: str, lm_run: Path, call: Call) -> None:
    done = call("generate", lm_run, "--prompt", prompt, "--json", "--longest", 3)
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["tokens"]) <= 3


def test_generate_takes_a_language_model_only(cloze_run: Path, call: Call) -> None:
    done = call("generate", cloze_run)
    failed(done, 1, str(cloze_run), "kind 'cloze'", "expected 'lm'", "unrolled train lm")


# Evaluate


def test_evaluate_prints_the_scores_of_the_test_split(cloze_run: Path, call: Call) -> None:
    done = call("evaluate", cloze_run)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("test, ") and done.out.count("\n") == 1
    for part in ("nats per token", "perplexity", "top-1", "top-5"):
        assert part in done.out


def test_evaluate_json_agrees_with_the_library(cloze_run: Path, call: Call) -> None:
    got = json.loads(call("evaluate", cloze_run, "--json").out)
    assert set(got) == {"nats", "top1", "top5", "tokens", "perplexity", "split"}
    run = TextRun(cloze_run)
    scores = evaluate(run.model(), run.dataset().batches("test", 1))
    assert got["nats"] == pytest.approx(scores.nats, rel=1e-5)
    assert (got["top1"], got["top5"]) == pytest.approx((scores.top1, scores.top5))
    assert got["tokens"] == scores.tokens > 50
    assert got["perplexity"] == pytest.approx(math.exp(got["nats"]))
    assert got["split"] == "test"
    assert 0.3 < got["top1"] < got["top5"] <= 1  # it has learnt something


def test_evaluate_takes_every_split_and_other_text(
    cloze_run: Path, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    def tokens(*options: object) -> int:
        return json.loads(call("evaluate", cloze_run, "--json", *options).out)["tokens"]

    splits = [tokens("--split", split) for split in ("train", "validation", "test")]
    text = corpus_file.read_text("utf-8").replace("\n", "")
    assert sum(splits) == len(text)
    # The same text given by name falls into the same split.
    assert tokens("--data", corpus_file) == splits[2]
    other = write_corpus(tmp_path / "other.txt", 200, seed=1)
    assert 0 < tokens("--data", other) < sum(splits)


def test_evaluate_on_an_empty_split_or_bad_text_gets_one_line(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "one.txt").write_text("今天天气很好。\n", "utf-8")
    failed(call("evaluate", cloze_run, "--data", tmp_path / "one.txt"), 1, "test split is empty")
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    failed(call("evaluate", cloze_run, "--data", tmp_path / "bad.txt"), 1, "not UTF-8")
    failed(call("evaluate", cloze_run, "--data", tmp_path / "no.txt"), 1, "no such file")


def test_evaluating_changes_nothing_in_the_run(
    cloze_run: Path, corpus_file: Path, call: Call
) -> None:
    before = contents(cloze_run)
    call("evaluate", cloze_run)
    call("evaluate", cloze_run, "--data", corpus_file)
    call("fill", cloze_run, "我____")
    assert contents(cloze_run) == before


# Runs that cannot be used


@pytest.mark.parametrize(
    "command", [("fill", "我____"), ("generate",), ("evaluate",)], ids=lambda c: c[0]
)
@pytest.mark.parametrize(
    "damage",
    ["nowhere", "a file", "empty", "newer", "no weights", "half the weights", "half the config"]
    + ["other weights", "no vocabulary", "config is a list", "config is a directory"],
)
def test_a_run_that_cannot_be_used_gets_one_line(
    command: tuple[str, ...], damage: str, cloze_run: Path, lm_run: Path, tmp_path: Path, call: Call
) -> None:
    good, other = (lm_run, cloze_run) if command[0] == "generate" else (cloze_run, lm_run)
    run = tmp_path / "run"
    if damage == "a file":
        run.write_text("mine")
    elif damage == "empty":
        run.mkdir()
    elif damage != "nowhere":
        shutil.copytree(good, run)
    config = run / "config.json"
    match damage:
        case "newer":
            config.write_text(config.read_text().replace('"format": 1', '"format": 2'))
        case "no weights":
            (run / WEIGHTS).unlink()
        case "half the weights":
            (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:1000])
        case "half the config":
            config.write_text(config.read_text()[:200])
        case "other weights":
            shutil.copy(other / WEIGHTS, run / WEIGHTS)
        case "no vocabulary":
            (run / "vocabulary.json").unlink()
        case "config is a list":
            config.write_text("[]")
        case "config is a directory":
            config.unlink()
            config.mkdir()
    name, *rest = command
    failed(call(name, run, *rest), 1, str(run))
    if run.is_dir() and damage not in ("empty", "no weights", "config is a directory"):
        before = contents(run)
        if damage not in ("half the weights", "other weights"):
            failed(call("train", "cloze", "--out", run, "--resume"), 1, str(run))
        assert contents(run) == before


@pytest.mark.parametrize("damage", ["half", "none", "of another run"])
def test_resuming_from_a_damaged_state_gets_one_line_and_changes_nothing(
    damage: str, cloze_run: Path, lm_run: Path, tmp_path: Path, call: Call
) -> None:
    run = Path(shutil.copytree(cloze_run, tmp_path / "run"))
    state = run / TRAINING
    if damage == "half":
        state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    elif damage == "none":
        shutil.rmtree(run / "data")
    else:
        shutil.copy(lm_run / TRAINING, state)
    before = contents(run)
    failed(call("train", "cloze", "--out", run, "--resume"), 1, str(run))
    assert contents(run) == before


@pytest.mark.parametrize("nats", [math.nan, math.inf, 800.0])
def test_scores_that_are_not_finite_are_null_in_json(
    nats: float, lm_run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.cli.evaluate.evaluate", lambda *_: TokenScores(nats, 0.5, 0.5, 2))
    done = call("evaluate", lm_run, "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["perplexity"] is None
    assert found["nats"] == (nats if math.isfinite(nats) else None)


# Info


def test_info_prints_versions_threads_and_backends(call: Call) -> None:
    done = call("info")
    assert (done.code, done.err) == (0, "")
    rows = dict(line.split(":", 1) for line in done.out.splitlines())
    facts = {name: value.strip() for name, value in rows.items()}
    assert facts["unrolled"] == unrolled.__version__
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["backends"] == f"reference yes, native {'no' if native.missing() else 'yes'}"
    assert facts["native"].startswith(native.missing() or native.instruction_set())


def test_info_json_says_the_same(call: Call) -> None:
    facts = json.loads(call("info", "--json").out)
    assert facts["unrolled"] == unrolled.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["backends"] == {"reference": True, "native": native.missing() is None}
    assert facts["native"]["reason"] == native.missing()
    assert facts["optional"]["hsg"] == metadata.version("hsg")
    assert facts["corpora"] == dict.fromkeys(unrolled.text.data.CORPORA, True)


@pytest.mark.skipif(native.missing() is not None, reason="no kernel library")
def test_info_tells_the_instruction_set_in_use_from_those_there_are(call: Call) -> None:
    facts = json.loads(call("info", "--json").out)["native"]
    assert facts["instruction_set"] == native.instruction_set()
    assert set(facts["instruction_sets"]) == set(library.built())


def no_library() -> str:
    return "the kernel library is not built"


def no_such_set() -> str:
    raise ValueError("UNROLLED_INSTRUCTION_SET: got 'mmx', expected one of serial")


@pytest.mark.parametrize(
    ("missing", "used", "reason"),
    [
        (no_library, lambda: "serial", "the kernel library is not built"),
        (lambda: None, no_such_set, "UNROLLED_INSTRUCTION_SET: got 'mmx', expected one of serial"),
    ],
    ids=["not built", "no such set"],
)
def test_info_says_why_no_kernel_runs(
    missing: Callable[[], str | None],
    used: Callable[[], str],
    reason: str,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "missing", missing)
    monkeypatch.setattr(native, "instruction_set", used)
    facts = json.loads(call("info", "--json").out)
    assert facts["backends"] == {"reference": True, "native": False}
    assert facts["native"] == {"instruction_set": None, "instruction_sets": [], "reason": reason}
    told = call("info").out
    assert "native no" in told and reason in told


def test_info_works_without_any_optional_package(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    facts = json.loads(call("info", "--json").out)
    assert set(facts["optional"].values()) == {None}
    assert set(facts["corpora"].values()) == {False}
    assert "not installed" in call("info").out


def test_version_and_help_go_to_standard_output(call: Call) -> None:
    assert call("--version").out == f"unrolled {unrolled.__version__}\n"
    for command in ("train", "fill", "generate", "evaluate", "compare", "info", "completion"):
        done = call(command, "--help")
        assert done.code == 0 and done.err == "" and f"unrolled {command}" in done.out
