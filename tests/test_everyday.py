"""The lists of everyday sentences, how candidates are scored, and the command."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import regex
from benchmarks.everyday import LISTS, Sentence, Shares, accepted, met, parse, rank, read, scored
from benchmarks.everyday import __main__ as program
from torch import Tensor

from tests.sentences import make_run
from unrolled import Recurrent
from unrolled.cli.runs import Chosen
from unrolled.errors import RunError
from unrolled.layers import Result
from unrolled.text.models import Cloze
from unrolled.text.models.filling import BLANK
from unrolled.text.run import TextRun
from unrolled.training import Trainer

DAY = Sentence("A day has ____ hours.", ("24", "Many"))


# The lists


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_a_hundred_sentences_and_each_once(name: str) -> None:
    sentences = read(name)
    assert len(sentences) == 100
    assert len({re.sub(r"\W", "", s.text).casefold() for s in sentences}) == 100


@pytest.mark.parametrize("name", LISTS)
def test_every_sentence_has_one_blank_and_answers_that_differ(name: str) -> None:
    for text, answers in read(name):
        assert text.count("____") == 1 and text.count("_") == 4, text
        assert text == text.strip() and len(BLANK.sub("", text)) > 4, text
        assert len({answer.casefold() for answer in answers}) == len(answers), text


@pytest.mark.parametrize(("name", "form"), [("zh", r"[\p{Han}\d]{1,4}"), ("en", r"\w+")])
def test_an_answer_has_one_to_four_characters_or_is_one_word(name: str, form: str) -> None:
    for text, answers in read(name):
        assert answers, text
        for answer in answers:
            assert regex.fullmatch(form, answer), (text, answer)


# Parsing


def test_a_line_is_a_sentence_and_its_answers() -> None:
    text = "# a list\nA day has ____ hours.\t24|Many\n他____人。\t是\n"
    assert parse(text) == [DAY, Sentence("他____人。", ("是",))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A day has ____ hours.", "line 2: got 0 tabs, expected one"),
        ("A day has ____ hours.\t24\tmany", "line 2: got 2 tabs, expected one"),
        ("A day has 24 hours.\t24", "line 2: got 0 blanks, expected one"),
        ("A ____ has ____ hours.\tday", "line 2: got 2 blanks, expected one"),
        ("A day has ____ hours.\t24||many", "line 2: an answer is empty"),
        ("A day has ____ hours.\t", "line 2: an answer is empty"),
        ("", "line 2: got 0 tabs, expected one"),
    ],
)
def test_a_line_of_another_form_is_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(f"# a list\n{line}\n")


# Scoring


def test_an_answer_is_accepted_whole_and_in_any_case() -> None:
    assert accepted(DAY, "24") and accepted(DAY, "many") and accepted(DAY, "MANY")
    for candidate in ("2", "man", "24 ", "24|Many", ""):
        assert not accepted(DAY, candidate)


def test_a_sentence_is_met_by_a_token_that_is_an_answer() -> None:
    sentences = [DAY, Sentence("我不____他。", ("相信", "信")), Sentence("我____了。", ("孤独",))]
    assert met(sentences, ["2", "4", "mANY", "信", "孤", "独"]) == [True, True, False]
    assert met(sentences, []) == [False] * 3


def test_several_tokens_of_one_character_meet_an_answer_of_up_to_four() -> None:
    sentences = [Sentence("____", (answer,)) for answer in ("Ab", "abc", "aaaa", "aaaaa")]
    assert met(sentences, "ab", several=True) == [True, False, True, False]
    assert met(sentences, ["a", "b", "abc"]) == [False, True, False, False]


def test_the_rank_is_the_first_answers_among_five() -> None:
    assert rank(DAY, ["24", "many", "few"]) == 1
    assert rank(DAY, ["few", "2", "many", "24"]) == 3
    assert rank(DAY, ["a", "b", "c", "d", "many"]) == 5
    assert rank(DAY, ["a", "b", "c", "d", "e", "many"]) is None
    assert rank(DAY, []) is None


def test_shares_are_of_all_sentences() -> None:
    assert scored([1, None, 5, 1]) == Shares(4, 0.5, 0.75)
    assert scored([None]) == Shares(1, 0.0, 0.0)
    assert scored([]) is None


# The command, with a model that has learnt the grammar of ``tests.sentences``

TOY = [
    Sentence("老师昨天买了一____手机。", ("部",)),
    Sentence("我今天喝了一____水。", ("杯", "大杯")),
    Sentence("妈妈早上吃了一碗____。", ("米饭",)),  # two characters: met by no token
    Sentence("爸爸晚上要看一场电____吗？", ("脑",)),  # 影 comes first
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    sizes = {"hidden_size": 24, "embedding_size": 12, "dropout": 0.0}
    run = make_run(
        tmp_path_factory.mktemp("everyday") / "run",
        count=600, model=sizes, steps=180, learning_rate=0.02,
    )  # fmt: skip
    Trainer(run).train()
    return run


def call(run: TextRun, directory: Path, *options: str) -> dict[str, object]:
    path = directory / "figures.json"
    program.main([str(run.directory), "--json", str(path), *options])
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def test_the_network_and_its_peer_are_scored_on_the_list(
    run: TextRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "read", lambda name: TOY if name == "zh" else [])
    found = call(run, tmp_path)
    assert (found["list"], found["sentences"], found["met"]) == ("zh", 4, 3)
    for name in ("network", "two-sided 4-gram"):  # 部 and 杯 first; 脑 is the only other after 电
        row = found[name]
        assert isinstance(row, dict)
        assert row["all"] == {"sentences": 4, "top1": 0.5, "top5": 0.75}, name
        assert row["met"] == pytest.approx({"sentences": 3, "top1": 2 / 3, "top5": 1}), name
    first, *_, network, peer = capsys.readouterr().out.splitlines()
    known = len(run.vocabulary) - 4
    assert first == (
        f"4 sentences (zh); 3 can be met by one token of the {known} that {run.directory} knows"
    )
    assert network.split() == ["network", "0.50", "0.75", "0.67", "1.00"]
    assert peer.split() == ["two-sided", "4-gram", "0.50", "0.75", "0.67", "1.00"]


def test_misses_are_printed_only_when_asked_for(
    run: TextRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "read", lambda _: TOY)
    call(run, tmp_path)
    assert "____" not in capsys.readouterr().out
    call(run, tmp_path, "--show")
    _, *blocks = capsys.readouterr().out.split("\n\n")
    for block, name in zip(blocks, ("network", "two-sided 4-gram"), strict=True):
        head, rice, film = block.splitlines()
        assert head.startswith(f"{name}: missed")
        assert rice.startswith(f"-  {TOY[2].text}  米饭  ")
        assert re.match(rf"[2-5]  {TOY[3].text}  脑  影 ", film)


def test_a_vocabulary_that_meets_nothing_has_no_share_of_it(
    run: TextRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "read", lambda _: TOY[2:3])
    row = call(run, tmp_path)["network"]
    assert row == {"all": {"sentences": 1, "top1": 0.0, "top5": 0.0}, "met": None}
    assert capsys.readouterr().out.splitlines()[-2].split() == ["network", "0.00", "0.00", "-", "-"]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_whole(run: TextRun, tmp_path: Path, name: str) -> None:
    found = call(run, tmp_path, "--list", name)
    tokens = set(run.vocabulary.tokens)
    assert (found["list"], found["sentences"]) == (name, 100)
    assert found["met"] == sum(not tokens.isdisjoint(s.answers) for s in read(name))


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind="lm")
    Trainer(run).train()
    with pytest.raises(RunError, match="holds a model of kind 'lm', expected 'cloze'"):
        program.main([str(run.directory)])


def test_the_help_says_that_the_list_is_a_test_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert "nothing may be tuned" in " ".join(capsys.readouterr().out.split())


# The peer reads what the network reads


@pytest.mark.parametrize(
    "text", ["____我今天。", "我今天____", "我 ＿＿＿ 书，ＡＢ", "<blank>了", "x____y"]
)
def test_the_peer_reads_the_numbers_that_the_network_reads(
    run: TextRun, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    model = run.model()
    assert isinstance(model, Cloze)
    stack = Recurrent.forward

    def spied(self: Recurrent, x: Tensor, *rest: Any, **options: Any) -> Result:
        table = model.embedding.weight
        seen.append([int((table == e).all(1).nonzero()[0]) for e in x[:, 0]])
        return stack(self, x, *rest, **options)

    monkeypatch.setattr(Recurrent, "forward", spied)
    program.network(Chosen("", run, model, run.tokenizer))(text)
    numbers, place = program.numbered(run, text)
    left, right = seen[:2]  # each towards the blank
    assert numbers == [*left, 1, *reversed(right)]
    assert numbers[place] == 1


def test_the_peer_proposes_five_tokens_and_no_special_one(run: TextRun) -> None:
    guess = program.ngram(run, program.built(run))
    for text in ("____", "他____书", "零____零"):
        found = guess(text)
        assert len(set(found)) == 5
        assert set(found) <= set(run.vocabulary.tokens[4:])
