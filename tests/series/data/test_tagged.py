"""Files of tagged sentences: what is read, and what is said of those that cannot be."""

import gzip
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import CallError, DataError
from unrolled.series.data.tagged import Tagged, format_of, read_tagged, tag_characters, words_of

NER = [Tagged(["Kim", "lives"], ["B-PER", "O"]), Tagged(["Hi"], ["O"])]


def read(tmp_path: Path, content: str | bytes, **options: Any) -> list[Tagged]:
    path = tmp_path / "tagged.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_tagged(path, **options))


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("Kim\tB-PER\nlives\tO\n\nHi\tO\n", {}),
        ("Kim B-PER\nlives   O\n\n\n \nHi O", {}),
        ("\n\nKim\tB-PER\r\nlives\tO\r\n\r\nHi\tO\r\n", {}),
        ("\ufeffKim\tB-PER\nlives\tO\n\nHi\tO\n", {}),
        ("-DOCSTART- -X- O\n\nKim NNP B-PER\nlives VBZ O\n\nHi UH O\n", {}),
        ("# text = Kim lives\nKim\tB-PER\nlives\tO\n\n# a comment\nHi\tO\n", {}),
        ("B-PER\tx\tKim\nO\tx\tlives\n\nO\tx\tHi\n", {"token": 2, "tag": 0}),
        (
            "# sent_id = 1\n1\tKim\tB-PER\n2-3\tdoesn't\t_\n2\tlives\tO\n2.1\tx\t_\n\n1\tHi\tO\n",
            {"token": 1},
        ),
    ],
    ids=["tabs", "spaces", "windows", "mark", "conll 2003", "comments", "columns", "conll-u"],
)
def test_columns(tmp_path: Path, content: str, options: dict[str, int]) -> None:
    assert read(tmp_path, content, **options) == NER


def test_what_looks_like_a_comment_may_be_a_token(tmp_path: Path) -> None:
    assert read(tmp_path, "a\tO\n#\tB-X\n\n#\tO\n") == [
        Tagged(["a", "#"], ["O", "B-X"]),
        Tagged(["#"], ["O"]),
    ]


def test_a_wide_space_is_a_token(tmp_path: Path) -> None:
    assert read(tmp_path, "\u3000 S\n我 S\n") == [Tagged(["\u3000", "我"], ["S", "S"])]


def test_words_become_characters(tmp_path: Path) -> None:
    expected = [Tagged(list("我爱北京"), ["S-r", "S-v", "B-ns", "E-ns"]), Tagged(["/"], ["S-w"])]
    assert read(tmp_path, "我/r  爱/v  北京/ns\n\n//w\n") == expected
    joined = "[中央/n  电台/n]nt  [/w"
    assert words_of(*read(tmp_path, joined)[0]) == [("中央", "n"), ("电台", "n"), ("[", "w")]
    assert read(tmp_path, "我 爱 北京\n", format="segmented")[0].tags == ["S", "S", "B", "E"]


def test_other_encodings_gzip_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "我/r 爱/v\n"
    expected = [Tagged(["我", "爱"], ["S-r", "S-v"])]
    assert read(tmp_path, content.encode("gb18030"), encoding="gb18030") == expected
    packed = tmp_path / "tagged.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert list(read_tagged(packed)) == expected
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    assert list(read_tagged("-")) == expected


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "tagged.txt: empty, expected a token and its tag a line"),
        ("\n \n", {}, "tagged.txt: empty"),
        ("# only\n", {}, "tagged.txt: empty"),
        ("", {"format": "words"}, "tagged.txt: empty"),
        (
            "a\n",
            {},
            r"line 1 has 1 column \('a'\), expected a token and its tag with a tab or spaces",
        ),
        (
            "a\tO\n\nb\tO\tx\n",
            {},
            r"line 3 has 3 columns \('b O x'\), expected 2 as line 1 with tabs between",
        ),
        ("a O\nb\n", {}, r"line 2 has 1 column \('b'\), expected 2 as line 1 with spaces between"),
        ("a\tO\nb\t\n", {}, "line 2 has an empty tag, expected one"),
        ("\ta\tO\n", {}, "line 1 has an empty token, expected one"),
        (
            "a/n b\n",
            {"format": "words"},
            "line 1 has 'b', expected a word and its tag as in 北京/ns",
        ),
        (b"a\tO\nb\t\xff\n", {}, r"line 2 is not UTF-8 \(byte 3 of the line\); convert the file"),
        ("a\tO\n".encode("utf-16"), {}, "line 1 has a zero byte, expected text; convert UTF-16"),
        ("a" * 1_000_001, {}, "line 1 has more than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(
    tmp_path: Path, content: str | bytes, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "format: got 'xml', expected one of columns, words, segmented"),
        ({"encoding": "hex"}, "encoding: got 'hex', expected one such as utf-8"),
        ({"encoding": "utf-16"}, "encoding: got 'utf-16'.*convert a file of another to UTF-8"),
        ({"tag": 2}, r"tag column: got 2, but .*tagged.txt has 2 columns, expected from 0 to 1"),
        ({"token": -3}, "token column: got -3"),
        ({"token": 1}, "token column, tag column: got 1 and -1, expected two of 2"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        read(tmp_path, "a\tO\n", **options)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: no such file"):
        list(read_tagged(tmp_path / "none.tsv"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_tagged(tmp_path))
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"a\tO\n" * 1000)[:-9])
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(read_tagged(broken))


def test_the_format_is_told() -> None:
    assert format_of(["", "1/2 B-x", "b O"]) == "columns"
    assert format_of([]) == "columns"


@given(
    st.lists(
        st.tuples(st.text("我爱北京a/", min_size=1, max_size=4), st.sampled_from(["n", "v"])),
        min_size=1,
        max_size=6,
    )
)
def test_words_come_back(words: list[tuple[str, str]]) -> None:
    assert words_of(*tag_characters(words)) == words
    assert [word for word, _ in words_of(*tag_characters(w for w, _ in words))] == [
        word for word, _ in words
    ]


def test_words_of_spans_of_tokens() -> None:
    tokens, tags = ["Kim", "Lee", "is", "in"], ["B-PER", "I-PER", "O", "O"]
    assert words_of(tokens, tags) == [("Kim Lee", "PER"), ("is", "O"), ("in", "O")]
    assert words_of(["a", "b"], ["DET", "NOUN"]) == [("a", "DET"), ("b", "NOUN")]
