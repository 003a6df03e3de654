"""``unrolled train tag`` and ``unrolled tag``: from tagged files to tags and scores."""

import json
from itertools import product
from pathlib import Path

import pytest

from tests.cli.conftest import Call, trained
from unrolled.series import SequenceTagger
from unrolled.series.tag_run import TagRun

SMALL = ("--hidden", 16, "--embedding", 12, "--buckets", 256, "--batch-steps", 200, "--threads", 1)
WORDS = [
    f"{a}/r  {b}/v  {c}/ns"
    for a, b, c in product("我你他她", "爱去看画", ("北京", "上海", "天安门"))
]


@pytest.fixture(scope="session")
def words_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("\n".join(WORDS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tag_run(words_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tagger"
    return trained(out, "tag", words_file, "--epochs", 40, *SMALL)


def test_a_text_is_tagged(call: Call, tag_run: Path) -> None:
    assert call("tag", tag_run, "我爱北京").out == "我/r  爱/v  北京/ns\n"
    found = json.loads(call("tag", tag_run, "我爱北京", "--json").out)
    assert found["tokens"] == list("我爱北京")
    assert found["tags"] == ["S-r", "S-v", "B-ns", "E-ns"]
    assert found["words"][2] == {"text": "北京", "type": "ns"}
    assert call("tag", tag_run, "我爱", "--columns").out == "我\tS-r\n爱\tS-v\n\n"


def test_a_file_is_tagged_line_by_line(call: Call, tag_run: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "text.txt", tmp_path / "tagged.txt"
    source.write_text("我爱北京\n\n 你去上海 \n", encoding="utf-8")
    assert call("tag", tag_run, "--input", source, "--output", output).code == 0
    expected = "我/r  爱/v  北京/ns\n你/r  去/v  上海/ns\n"
    assert output.read_text(encoding="utf-8") == expected
    assert call("tag", tag_run, "--input", source).out == expected
    lines = call("tag", tag_run, "--input", source, "--json").out.splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == [list("我爱北京"), list("你去上海")]


def test_it_is_evaluated(call: Call, tag_run: Path, words_file: Path) -> None:
    shown = call("evaluate", tag_run).out
    assert shown.startswith("test, ") and "tokens: accuracy" in shown
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["type", "ns", "r", "v", "all"]
    found = json.loads(call("evaluate", tag_run, "--split", "validation", "--json").out)
    assert found["split"] == "validation"
    assert set(found) >= {"nats", "tokens", "accuracy", "precision", "recall", "f1", "types"}
    other = json.loads(call("evaluate", tag_run, "--data", words_file, "--json").out)
    assert other["data"] == [str(words_file)]
    assert other["sentences"] == len(WORDS)
    assert other["f1"] > 0.9


def test_tags_without_spans(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "parts.tsv"
    lines = (f"the\tDET\n{noun}\tNOUN\n{verb}\tVERB\n" for noun in "abcd" for verb in "xyz")
    path.write_text("\n".join(lines))
    out = tmp_path / "run"
    done = call("train", "tag", path, "--epochs", 30, *SMALL, "--out", out, "--json")
    record = json.loads(done.out)
    assert record["tags"] == 3
    assert sum(record["sentences"].values()) == 12
    assert record["validation_nats"] > 0
    assert "sentences: " in done.err and "tags: 3" in done.err
    assert "scheme" not in done.err
    assert call("tag", out, "the a x").out == "the/DET  a/NOUN  x/VERB\n"
    shown = call("evaluate", out).out
    assert "accuracy" in shown and "F1" not in shown


def test_spans_against_their_scheme_are_noted(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "iob1.tsv"
    path.write_text("\n".join(f"Kim\tI-PER\n{verb}\tO\n" for verb in "abcdefgh"))
    done = call("train", "tag", path, "--epochs", 1, *SMALL, "--out", tmp_path / "run")
    assert "some sentences do not keep to the scheme of their tags" in done.err
    assert not TagRun(tmp_path / "run").model_config["constrained"]


def test_what_was_stopped_is_resumed(call: Call, words_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    begun = call("train", "tag", words_file, "--epochs", 2, *SMALL, "--out", out)
    assert "every sentence keeps to the scheme of its tags" in begun.out
    assert "resumed at step" in call("train", "tag", "--out", out, "--resume").out
    refused = call("train", "tag", "--out", out, "--resume", "--hidden", 8)
    assert refused.code == 2
    assert "--hidden: got 8, but the run in" in refused.err
    loaded = SequenceTagger.load(out)
    assert loaded.hidden_size == 16


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("我", "--input", "x"), 2, "TEXT, --input: got both, expected one of them"),
        ((), 2, "TEXT, --input: got neither, expected one of them"),
        (("我", "--output", "x"), 2, "--output: got it without --input, expected both"),
        (("我", "--columns", "--json"), 2, "--columns, --json: got both, expected one of them"),
        (("--input", "none.txt"), 1, "none.txt: no such file"),
        (("  ",), 1, "TEXT: empty, expected a text to tag"),
    ],
)
def test_what_cannot_be_tagged(
    call: Call, tag_run: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = call("tag", tag_run, *arguments)
    assert done.code == code
    assert message in done.err


def test_what_cannot_be_trained_or_evaluated(call: Call, tag_run: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "one.tsv", tmp_path / "run"
    path.write_text("a\tX\n")
    for arguments, code, message in (
        (("train", "tag", "--out", out), 2, "FILE: missing, expected tagged sentences"),
        (
            ("train", "tag", path, "--out", out),
            1,
            "sentences that differ: got 1, expected at least 2",
        ),
        (("train", "tag", path, "--tag-column", 2, "--out", out), 2, "tag column: got 2, but"),
        (("train", "tag", "-", "-", "--out", out), 2, "standard input, '-', can be read only once"),
        (("train", "tag", tmp_path / "none", "--out", out), 1, "none: no such file"),
        (("evaluate", tag_run, "--data", tmp_path / "none"), 1, "none: no such file"),
        (("fill", tag_run, "我____"), 1, "holds a model of kind 'tag', expected 'cloze'"),
    ):
        done = call(*arguments)
        assert done.code == code, arguments
        assert message in done.err, done.err
        assert not out.exists()


def test_a_run_of_another_kind_is_no_tagger(call: Call, lm_run: Path) -> None:
    done = call("tag", lm_run, "我")
    assert done.code == 1
    assert "holds a model of kind 'lm', expected 'tag', made by 'unrolled train tag'" in done.err


def test_an_empty_split_says_which_is_not(call: Call, tmp_path: Path) -> None:
    path, out = tmp_path / "two.tsv", tmp_path / "run"
    path.write_text("a\tX\n\nb\tY\n")
    assert call("train", "tag", path, "--epochs", 1, *SMALL, "--out", out).code == 0
    done = call("evaluate", out)
    assert done.code == 1
    assert (
        "the test split is empty: give more text with --data, or --split train (of 1)" in done.err
    )
