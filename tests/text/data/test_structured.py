import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unrolled.errors import DataWarning
from unrolled.text.data import sentences
from unrolled.text.data.corpora import texts
from unrolled.text.data.structured import HEAD, structure_of

TEXTS = ['Good, and "cheap".', "好;不错", "No."]
SAID = {
    "a.csv": 'id,text\n1,"Good, and ""cheap""."\n2,好;不错\n3,No.\n',
    "b.txt": 'id,text\n1,"Good, and ""cheap""."\n2,好;不错\n3,No.\n',
    "semicolons.csv": 'id;text\n1;"Good, and ""cheap""."\n2;"好;不错"\n3;No.\n',
    "no-header.csv": '1,"Good, and ""cheap""."\n2,好;不错\n3,No.\n',
    "a.tsv": 'id\ttext\n1\t"Good, and ""cheap""."\n2\t好;不错\n3\tNo.\n',
    "tabs": '1\t"Good, and ""cheap""."\n2\t好;不错\n3\tNo.\n',
    "a.jsonl": '{"id": 1, "text": "Good, and \\"cheap\\"."}\n{"text": "好;不错"}\n{"text": "No."}\n',
    "a.json": '[{"text": "Good, and \\"cheap\\"."}, {"text": "好;不错"}, {"text": "No."}]\n',
    "a.html": "<!doctype html>\n<style>p{}</style>\n<p>Good, and &quot;cheap&quot;.</p>好;不错<br>\nNo.\n",
    "a.xml": '<doc>\n<p>Good, and "cheap".</p>\n<p>好;不错</p>\n<p>No.</p>\n</doc>\n',
}


@pytest.mark.parametrize("name", SAID)
def test_a_structure_is_named_and_the_command_leaves_the_texts_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(SAID[name].replace("\\", "\\"), "utf-8")
    kind = {"csv": "CSV", "txt": "CSV", "tsv": "TSV", "jsonl": "JSON lines"}
    named = kind.get(name.rpartition(".")[2], "TSV" if name == "tabs" else name[2:].upper())
    with pytest.warns(DataWarning, match=f"{name}: it looks like {named}[ ,]") as caught:
        read = list(sentences([name]))
    assert (
        len(read) == SAID[name].count("\n") and len(caught) == 1
    )  # all of it is read, all the same
    command = "python -c " + str(caught[0].message).split("python -c ")[1]
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": places})
    (new,) = set(Path().iterdir()) - {Path(name)}
    assert list(sentences([str(new)])) == TEXTS


PLAIN = {
    "sentences with commas": ["Yes, I do.", "Well, I see.", "No, thanks.", "Oh, come on."],
    "couplets": ["床前明月光,疑是地上霜.", "举头望明月,低头思故乡.", "白日依山尽,黄河入海流."],
    "full-width commas": ["今天，我来。", "明天，你来。", "后天，他来。"],
    "a list of numbers": ["1, 2, 3", "and 4, 5, 6", "so 7, 8, 9"],
    "footnotes": ["[1] See above.", "[2] See below."],
    "sentences in marks": ["<s> I am </s>", "<s> you are </s>", "<s> he is </s>"],
    "less than": ["<3 is a heart", "2 < 3 > 1"],
    "C": ["#include <stdio.h>", "int main(void) {", "  int a[3] = {1,2,3};", "}"],
    "Python": ["{", "    'a': 1,", "}"],
    "Markdown": ["# Title", "", "- one, two", "- three, four"],
    "an outline": ["\tone", "\ttwo", "\tthree"],
    "dialogue with a tab here and there": ["A:\tHello.", "B: Hi.", "A:\tBye."],
    "one line": ["a,b,c"],
    "nothing": ["", " "],
    "a field beyond csv's limit": [f"{'a' * 200_000},1", "b,2", "c,3"],
    "an end of a line that csv refuses": ["a\rb,1", "b,2", "c,3"],
    "long numbers that are none": ["a,b", *[f"{'1' * 60_000}x,c"] * 3],
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_text_is_no_structure(case: str) -> None:
    assert structure_of(PLAIN[case], "a.txt") is None


def test_sentences_that_are_called_a_table_are_none() -> None:
    assert structure_of(["text", "Good, really.", "Bad."], "a.csv") is None


def test_what_begins_as_a_table_is_told_after_its_first_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id,text\n" + b"1,Good.\n" * 5 * HEAD))
    with pytest.warns(DataWarning, match="'text' alone write a file with one text a line"):
        assert next(texts(str(tmp_path / "a.csv.gz"))) == "id,text"
        for _ in zip(range(HEAD), texts(str(tmp_path / "a.csv.gz")), strict=False):
            pass
