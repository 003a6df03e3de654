"""``unrolled fill --input``: a file of texts, answered line by line; and text the model cannot read."""

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.conftest import Call
from tests.cli.test_commands import failed, misused
from unrolled.text.models import filling

TEXTS = ("老师昨天____了一杯咖啡。", "我____天看了一____书。", "____昨天，喝了一杯<blank>＿＿＿？")


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def test_each_line_is_answered_as_by_a_call_of_its_own(
    batch: Path, cloze_run: Path, call: Call
) -> None:
    done = call("fill", cloze_run, "--input", batch, "--top", 3)
    assert (done.code, done.err) == (0, "")
    assert "\\u" not in done.out
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row.pop("line") for row in rows] == [1, 2, 3]
    for row, text in zip(rows, TEXTS, strict=True):
        alone = json.loads(call("fill", cloze_run, text, "--json", "--top", 3).out)
        assert list(row) == list(alone)
        assert (row["text"], row["filled"]) == (text, alone["filled"])
        for got, expected in zip(row["blanks"], alone["blanks"], strict=True):
            assert got["position"] == expected["position"]
            for one, other in zip(got["candidates"], expected["candidates"], strict=True):
                assert one["text"] == other["text"]
                # Sums of some 20 logarithms of order 10 in single precision: 20 · 10 · 1e-7.
                assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)


def test_the_other_options_hold_for_every_line(batch: Path, cloze_run: Path, call: Call) -> None:
    lines = call("fill", cloze_run, "--input", batch, "--rescoring", 0, "--why").out.splitlines()
    for line, text in zip(lines, TEXTS, strict=True):
        alone = json.loads(call("fill", cloze_run, text, "--rescoring", 0, "--why", "--json").out)
        got = json.loads(line)
        assert [w["text"] for w in got["why"]] == [w["text"] for w in alone["why"]]
        first = (row["blanks"][0]["candidates"][0]["probability"] for row in (got, alone))
        assert next(first) == pytest.approx(next(first), rel=1e-5)


def test_standard_input_and_gzip_are_read_and_a_file_is_written(
    batch: Path, cloze_run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = call("fill", cloze_run, "--input", batch)
    packed, out = tmp_path / "texts.gz", tmp_path / "answers.jsonl"
    packed.write_bytes(gzip.compress(batch.read_bytes()))
    done = call("fill", cloze_run, "--input", packed, "--output", out)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert out.read_bytes().decode("utf-8") == expected.out
    stdin = SimpleNamespace(buffer=io.BytesIO(batch.read_bytes().replace(b"\n", b"\r\n")))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert call("fill", cloze_run, "--input", "-") == expected


@pytest.mark.parametrize("together", [1, 2, 256])
def test_a_bad_line_ends_nothing_and_an_empty_one_is_passed_over(
    together: int, cloze_run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "TOGETHER", together)
    path = tmp_path / "texts.txt"
    path.write_text("\n我____水\n没有\n \n____\n你____茶\n\n", encoding="utf-8")
    done = call("fill", cloze_run, "--input", path)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["line"] for row in rows] == [2, 3, 5, 6]
    assert [set(row) for row in rows[1:3]] == [{"line", "error"}] * 2
    assert rows[1]["error"].startswith("no blank") and rows[2]["error"].startswith("only blanks")
    assert rows[0]["text"] == "我____水" and rows[3]["text"] == "你____茶"
    failed(done, 1, str(path), "2 of 4 lines", "the first is line 3: no blank")


def test_a_call_that_contradicts_itself_gets_its_usage(batch: Path, call: Call) -> None:
    misused(call("fill", "x", "我____", "--input", batch), "TEXT, --input: got both")
    misused(call("fill"), "TEXT, --input: got neither")
    misused(call("fill", batch.parent), "TEXT, --input: got neither")
    misused(call("fill", "x", "我____", "--output", "y"), "--output: got it without --input")


def test_options_may_come_before_the_text(cloze_run: Path, call: Call) -> None:
    expected = call("fill", cloze_run, TEXTS[0], "--json", "--top", 2)
    assert expected.code == 0
    assert call("fill", "--top", 2, cloze_run, "--json", TEXTS[0]) == expected


def test_files_that_cannot_be_used_get_one_line(
    batch: Path, cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    content = batch.read_bytes()
    missing, empty, wrong = (tmp_path / name for name in ("missing", "empty", "wrong"))
    empty.write_text(" \n\n", encoding="utf-8")
    wrong.write_bytes("我____水\n".encode("gb18030"))
    failed(call("fill", cloze_run, "--input", missing), 1, f"{missing}: no such file")
    failed(call("fill", cloze_run, "--input", empty), 1, f"{empty}: empty")
    failed(call("fill", cloze_run, "--input", wrong), 1, f"{wrong}: line 1 is not UTF-8")
    failed(call("fill", cloze_run, "--input", tmp_path), 1, str(tmp_path))
    failed(call("fill", cloze_run, "--input", batch, "--output", tmp_path), 1, str(tmp_path))
    done = call("fill", cloze_run, "--input", batch, "--output", batch)
    failed(done, 2, "--output: got the file of --input")
    assert batch.read_bytes() == content


def test_a_terminal_sees_a_bar_where_no_answers_go(
    batch: Path, cloze_run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = call("fill", cloze_run, "--input", batch, "--output", tmp_path / "answers")
    assert done.code == 0 and "3/3" in done.err and "texts/s" in done.err
    piped = call("fill", cloze_run, "--input", batch)
    assert "3/3" in piped.err
    assert piped.out == (tmp_path / "answers").read_text(encoding="utf-8")
    stdin = SimpleNamespace(buffer=io.BytesIO(batch.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    streamed = call("fill", cloze_run, "--input", "-")
    assert streamed.out == piped.out and "3/?" in streamed.err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call("fill", cloze_run, "--input", batch).err == ""


# Text that the model cannot read

WARNING = "is unknown to the model; do not trust the answer\n"


def test_a_text_that_is_mostly_unknown_is_not_to_be_trusted(cloze_run: Path, call: Call) -> None:
    done = call("fill", cloze_run, "สวัสดี ____ ครับ 水")
    assert done.code == 0
    last = done.err.splitlines(keepends=True)[-1]
    assert last == f"unrolled: note: most of the text, 10 of 11 characters, {WARNING}"
    assert WARNING in call("fill", cloze_run, "龙龘龙____水水").err  # three of five
    half = call("fill", cloze_run, "龙龘____水水")
    assert "龙 龘" in half.err and "most" not in half.err


def test_lines_that_are_mostly_unknown_are_named_together(
    cloze_run: Path, tmp_path: Path, call: Call
) -> None:
    path = tmp_path / "texts.txt"
    strange = ["ครับ____"] * 7
    path.write_text("\n".join(["我____水", "龙昨天____水", *strange]), encoding="utf-8")
    done = call("fill", cloze_run, "--input", path)
    assert done.code == 0 and done.out.count("\n") == 9
    assert done.err == (
        "unrolled: note: lines with tokens not in the vocabulary, read as <unk>: 8 of 9\n"
        "unrolled: note: most of the text is unknown to the model in 7 of 9 lines "
        "(3, 4, 5, 6, 7, …); do not trust their answers\n"
    )
