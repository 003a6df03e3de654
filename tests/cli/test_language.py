"""The command line in Chinese: everything it says has a translation, which says the same."""

import ast
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import unrolled
from tests.sentences import write_corpus
from unrolled import errors
from unrolled.cli import main, parser
from unrolled.cli.config import kinds_of
from unrolled.cli.language import VARIABLES, columns, in_chinese, messages, translated

SOURCE = Path(unrolled.__file__).parent
FAMILY = {name for name in vars(errors) if name.endswith("Error")}
SAYING = {"print", "say", "tell", "note", "ArgumentTypeError", "_failed", "waiting"}
UNSPOKEN = ("--tensorboard", "--remedy: {}", ": {}", 'lang="en"')  # without a word
CHINESE = re.compile("[\u4e00-\u9fff]")

# What is put together from parts, and texts that it comes to.
COMPOSED = {
    "{}": [],
    "\n{}": [],
    "{}{}": [],
    "{}: {}": [
        "runs/a: Permission denied",
        "a.txt: it looks like CSV with the fields a, b, and is read as plain text, marks and all; for the "
        "field 'a' alone: python3 -c 1",
        "a.txt: a PDF, expected UTF-8 text; export its text as UTF-8, one sentence or paragraph a line",
    ],
    "unrolled: error: {}": ["unrolled: error: out of memory; try a smaller model or batch"],
    "a new run with {}:\n  {}": [],  # of two lines, too
    "{} …{}": [],  # of which the first is
    "{}: no option of that name{}": [
        "a.toml: [train] hiden: no option of that name; hidden?",
        "a.toml: [train] x: no option of that name; 'unrolled train KIND --help' lists them",
    ],
    "stopped{}": ["stopped", "stopped; continue with the same command and --resume"],
    "Print the script with which a shell completes commands, options, their choices, files and "
    "directories. Where it goes:\n{}": [],  # of two lines, which are translated apart
    "{} ({})": [],  # help, which the formatter takes apart
    "{}, {}: {}": [
        "runs/a, validation, nats per token: 2.1",
        "runs/a, train, loss: 2.1",
        "GRU, H = 8, 9 steps of noise, mean square of the last output: 0.1",
    ],
    "{}: trained for {} of {} steps{}": [
        "runs/a: trained for 3 of 9 steps, stopped early",
        "runs/a: trained for 9 of 9 steps",
    ],
    "sentences: {}; vocabulary: {} tokens": [
        "sentences: 8 train, 1 validation, 1 test; vocabulary: 30 tokens"
    ],
    "training: {} steps, {} threads{}": [
        "training: 9 steps, 1 threads",
        "training: 9 steps, 1 threads, every 35 tokens back through 70",
    ],
    "{}: {} of {} lines could not be filled; the first is {}": [
        "a.txt: 1 of 3 lines could not be filled; the first is line 2: only blanks in the text: "
        "expected some words beside them"
    ],
}


def template(node: ast.expr) -> str | None:
    """A string's text, with ``{}`` for what is put in; ``None`` of any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    return None


def said_in(tree: ast.AST, *, is_cli: bool) -> Iterator[str]:
    """What a module says to whoever uses the command line."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        found = node.args[:1] if name in FAMILY or (is_cli and name in SAYING) else []
        if is_cli:
            found = [*found, *(k.value for k in node.keywords if k.arg in ("help", "description"))]
            if name == "add_argument_group":
                found = [*found, *node.args]
        yield from (text for text in map(template, found) if text is not None)


def test_no_command_prints_words_past_the_translation() -> None:
    for path in (SOURCE / "cli").rglob("*.py"):
        if path.stem in ("printing", "language", "__init__"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and node.args:
                assert not re.search("[a-z]", template(node.args[0]) or ""), (path, node.lineno)


def everything() -> set[str]:
    paths = [path for path in SOURCE.rglob("*.py") if path.name != "language.py"]
    trees = [(path, ast.parse(path.read_text("utf-8"))) for path in paths]
    return {
        text
        for path, tree in trees
        for text in said_in(tree, is_cli="cli" in path.relative_to(SOURCE).parts)
    }


def test_what_is_said_is_found() -> None:
    code = "raise RunError(f'{a}: x {b!r}'); print('p'); p.add_argument(help='h' 'i'); raise ValueError(1)"
    assert list(said_in(ast.parse(code), is_cli=True)) == ["{}: x {}", "p", "hi"]
    assert list(said_in(ast.parse(code), is_cli=False)) == ["{}: x {}"]


def test_everything_that_is_said_has_a_translation() -> None:
    said = everything()
    assert len(said) > 100
    missing = sorted(said - messages().keys() - COMPOSED.keys())
    assert not missing, "\n".join(["for src/unrolled/cli/chinese.txt:", *missing])


@pytest.mark.parametrize("text", [text for texts in COMPOSED.values() for text in texts])
def test_what_is_put_together_is_translated(text: str) -> None:
    chinese = in_chinese(text)
    assert CHINESE.search(chinese)
    assert not re.search("[a-z]{3,} [a-z]{3,}", re.sub("'unrolled [^']+'", "", chinese)), chinese


def test_a_translation_has_what_the_message_has() -> None:
    for english, chinese in messages().items():
        has_words = re.search("[A-Za-z]", english)
        named = ("--tensorboard", "--remedy: {}", 'lang="en"')
        assert CHINESE.search(chinese) or not has_words or english in named, english
        used = {int(n) for n in re.findall(r"\{(\d+)(?::text|:list|:names)?\}", chinese)}
        assert used == set(range(english.count("{}"))), english
        assert set(re.findall(r"--[a-z][a-z0-9-]+", english)) <= set(
            re.findall(r"--[a-z][a-z0-9-]+", chinese)
        )


def test_every_option_has_help_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    monkeypatch.setenv("COLUMNS", "80")
    root, commands = parser()
    kinds = kinds_of(commands["train"])
    assert {"cloze", "lm"} <= kinds.keys()
    for one in (root, *commands.values(), *kinds.values()):
        said = [group.title for group in one._action_groups if group._group_actions]
        said += [(text or "").partition("\n")[0] for text in (one.description, one.epilog)]
        for line in filter(None, said):
            assert CHINESE.search(in_chinese(line)), line
        for action in one._actions:
            if action.help:
                shown = one._get_formatter()._expand_help(action)
                assert CHINESE.search(shown) or shown == "--tensorboard", action.help
        text = one.format_help()
        assert text.startswith("用法：") and "选项" in text


@pytest.mark.parametrize(
    ("variables", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_TW"}, True),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, True),  # what is empty is not set
        ({"LC_ALL": "zh_CN.UTF-8", "UNROLLED_LANG": "en"}, False),
        ({"LC_ALL": "C", "UNROLLED_LANG": "zh"}, True),
    ],
)
def test_the_locale_decides(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], chinese: bool
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert bool(CHINESE.search(translated("the run directory"))) is chinese


@pytest.mark.parametrize(
    ("encoding", "chinese"), [("utf-8", True), ("gb18030", True), ("ascii", False)]
)
def test_a_stream_that_has_no_chinese_is_spoken_to_in_english(
    monkeypatch: pytest.MonkeyPatch, encoding: str, chinese: bool, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert main(["generate", str(tmp_path / "none")]) == 1
    streams[1].flush()
    said = streams[1].buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert bool(CHINESE.search(said)) is chinese and "\\u" not in said


def test_a_call_that_is_refused_is_told_so_in_chinese(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    for arguments, said in (
        (["train", "cloze", "--out", "x", "--hidden", "0"], "参数 --hidden：得到 '0'，应为 1 到"),
        (["train"], "缺少必需的参数："),
        (["show", "--cell", "no"], "参数 --cell：得到 'no'，应为其中之一："),
        (["show", "--no"], "不认识的参数：--no"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        error = capsys.readouterr().err
        assert said in error and "：错误：" in error and error.startswith("用法：")
    assert main(["show", "--at", "9"]) == 2
    assert (
        capsys.readouterr().err == "unrolled：错误：--at：得到 9，应为不超过 --steps（4）的一步\n"
    )


def test_a_training_and_what_follows_speak_chinese_but_for_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    run, corpus = tmp_path / "run", write_corpus(tmp_path / "a.txt")
    small: list[Any] = ["--hidden", "4", "--embedding", "4", "--epochs", "1", "--threads", "1"]
    assert main(["train", "cloze", "--data", str(corpus), "--out", str(run), *small]) == 0
    said = capsys.readouterr().out
    assert "句子：训练 " in said and "：已训练 " in said
    assert not re.search("[a-z]{3,} [a-z]{3,}", said.replace(str(tmp_path), ""))
    assert main(["diagnose", str(run)]) == 0
    told = capsys.readouterr().out
    assert "每词元 nats：" in told and "每往回一步，梯度乘以" in told
    for arguments in (["diagnose", str(run), "--json"], ["info", "--json"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        json.loads(out)
        assert not CHINESE.search(out)


WORDS = re.compile("[a-z]{3,} [a-z]{3,}")  # English that was left


def test_what_is_installed_is_told_in_chinese(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert not WORDS.search(out), out
    for said in ("平台：", "线程：", "后端：", "原生内核：", "可选依赖：", "语料：", "cuda："):
        assert said in out


@pytest.mark.parametrize("cell", ["elman", "gru", "lru"])
def test_trials_are_told_in_chinese_in_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    assert main(["diagnose", "--cell", cell, "--hidden", "4", "--steps", "60", "--try"]) == 0
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert not any(map(WORDS.search, table)), table
    head, *rows = (line for line in table if not line.startswith("没有试："))
    assert head.startswith("对策") and rows[0].startswith("原样")
    at = columns(head.partition("结论")[0])
    for row in rows:
        state = re.search("健康|消失|爆炸|饱和|死亡", row)
        assert state is not None and columns(row[: state.start()]) == at, row


def test_a_report_is_coloured_on_a_terminal_in_chinese_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNROLLED_LANG", "zh")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["diagnose", "--cell", "gru", "--hidden", "4", "--steps", "60"]) == 0
    out = capsys.readouterr().out
    assert "从第一步到最后一步" in out and "消失" in out and not WORDS.search(out), out


@pytest.mark.parametrize("ends", ["underflow … 1e-3 ±1e-4", "1e-3 … underflow", "no gradient came"])
def test_the_ends_of_a_gradient_are_said_in_chinese(ends: str) -> None:
    assert not re.search("[a-z]{3}", in_chinese(ends))


@pytest.mark.parametrize(
    "figures",
    [
        "loss 3.036 (validation 3.070)  |gradient| 0.38  vanishing 0.84/step  9,276 tokens/s",
        "loss 3.036  |gradient| 0.38  9,276 tokens/s",
        "step 585 of 601: loss 3.036 (validation 3.070), |gradient| 0.38, 9,276 tokens/s, 0:01 left",
    ],
)
def test_the_progress_of_a_training_is_said_in_chinese(figures: str) -> None:
    chinese = in_chinese(figures)
    assert not re.search("[a-z]{3}", chinese), chinese
    assert re.findall(r"[\d.,:]*\d", chinese) == re.findall(r"[\d.,:]*\d", figures)


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_what_the_library_logs_is_a_note(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, options: list[str]
) -> None:
    def compiling(_: object) -> None:
        logging.getLogger("unrolled").warning(
            "unrolled: compiling %s, at its first use %s", "Mine", "x"
        )

    monkeypatch.setattr("unrolled.cli.show.command", compiling)
    assert main(["show", *options]) == 0
    assert len(caplog.records) == (not options)
