"""Filling blanks, with a small model trained on a small grammar."""

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.text import corpus
from unrolled.data import Dataset, Tokenizer, Vocabulary
from unrolled.data.vocabulary import SPECIALS
from unrolled.errors import CallError
from unrolled.models import Cloze, fill, fill_all
from unrolled.models import candidates as search
from unrolled.models import filling as module
from unrolled.models.filling import Filled

CHAR = Tokenizer("char")


def trained(unit: str, directory: Path) -> tuple[Cloze, Vocabulary, Tokenizer]:
    """A cloze model that knows the grammar of ``tests.text``."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(unit)  # type: ignore[arg-type]
    data, vocabulary = Dataset.write(directory, corpus(600), tokenizer, longest=50)
    model = Cloze(len(vocabulary), 24, embedding_size=12, cell="gru", dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(6):
        for batch in data.batches("train", 400, shuffle=(0, epoch)):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
    return model.eval(), vocabulary, tokenizer


@pytest.fixture(scope="module")
def by_char(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cloze, Vocabulary, Tokenizer]:
    return trained("char", tmp_path_factory.mktemp("char"))


@pytest.fixture(scope="module")
def by_word(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cloze, Vocabulary, Tokenizer]:
    return trained("word", tmp_path_factory.mktemp("word"))


Parts = tuple[Cloze, Vocabulary, Tokenizer]


def best(result: Filled) -> list[str]:
    return [blank.candidates[0].text for blank in result.blanks]


# What is filled


def test_a_blank_is_filled_from_both_sides(by_char: Parts) -> None:
    # Only what follows decides: 书 is bought or seen by 本, 手机 by 部, 电脑 by 台.
    for measure, thing in [("部", "手机"), ("台", "电脑"), ("碗", "米饭")]:
        verb = "吃" if thing == "米饭" else "买"
        assert best(fill(*by_char, f"老师昨天{verb}了一____{thing}。")) == [measure]
    # And only what precedes: nothing after it tells one subject from another.
    found = fill(*by_char, "我今天喝了一杯____。").blanks[0].candidates[:2]
    assert {c.text for c in found} == {"水", "茶"}


def test_words_are_filled_with_words(by_word: Parts) -> None:
    result = fill(*by_word, "老师昨天买了一部____。")
    assert best(result) == ["手机"]
    assert result.filled == "老师昨天买了一部手机。"


@pytest.mark.parametrize(
    "mark", ["___", "____", "_" * 30, "<blank>", "＿＿＿", "＿＿＿＿＿", "_＿_"]
)
def test_every_way_of_marking_a_blank_is_the_same(mark: str, by_char: Parts) -> None:
    expected = fill(*by_char, "老师昨天买了一___手机。")
    got = fill(*by_char, f"老师昨天买了一{mark}手机。")
    assert got.blanks == expected.blanks
    assert got.filled == expected.filled == "老师昨天买了一部手机。"
    assert got.blanks[0].position == 7


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("____昨天买了一____手机____", [0, 9, 15]),
        ("____我今天喝水。", [0]),
        ("我今天要喝一杯水____", [8]),
        ("我今天____<blank>＿＿＿。", [3, 7, 14]),
        ("____，____想买书。", [0, 5]),
    ],
    ids=["start, middle, end", "start", "end", "adjacent", "two"],
)
def test_blanks_anywhere_are_reported_in_order_of_the_text(
    text: str, positions: list[int], by_char: Parts, by_word: Parts
) -> None:
    for parts in (by_char, by_word):
        result = fill(*parts, text)
        assert [blank.position for blank in result.blanks] == positions
        assert result.text == text
        words = iter(best(result))
        rebuilt = module.BLANK.sub(lambda _: next(words), text)  # noqa: B023, used at once
        assert result.filled == rebuilt
        assert not module.BLANK.search(result.filled)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("明天，老师想____手机。", "明天，老师想买手机。"),
        ("明天,老师想____手机.", "明天,老师想买手机."),
        ("  明天，\u3000老师想____手机  ！", "  明天，\u3000老师想买手机  ！"),
        ("\ue000明天，老师想____手机。", "\ue000明天，老师想买手机。"),
        ("明天__老师想____手机_。", "明天__老师想买手机_。"),
        ("(\\1\\g<0>){}%s明天，老师想____手机。", "(\\1\\g<0>){}%s明天，老师想买手机。"),
    ],
)
def test_the_users_own_text_is_kept_as_it_was_written(
    text: str, filled: str, by_char: Parts
) -> None:
    result = fill(*by_char, text)
    assert result.filled == filled
    assert result.text == text
    assert result.blanks[0].position == text.index("____")


def test_traditional_text_is_read_simplified_and_kept_traditional(by_char: Parts) -> None:
    model, vocabulary, _ = by_char
    result = fill(model, vocabulary, Tokenizer("char", simplify=True), "老師昨天____了一部手機。")
    assert result.filled == "老師昨天买了一部手機。"
    assert result.unknown == []


def test_full_and_half_width_give_the_same_candidates(by_char: Parts) -> None:
    full, half = fill(*by_char, "明天，老师想____手机。"), fill(*by_char, "明天,老师想____手机。")
    assert full.blanks == half.blanks


def test_the_tokens_beside_the_blanks_are_kept_as_the_model_reads_them(by_word: Parts) -> None:
    assert fill(*by_word, "____昨天，买了____ ！").tokens == ["昨天", ",", "买", "了", "!"]


def test_unknown_characters_are_named_once_and_read_as_unk(by_char: Parts) -> None:
    result = fill(*by_char, "龙昨天买了一____龘，龙龘。")
    assert result.unknown == ["龙", "龘"]
    assert (
        result.blanks[0].candidates
        == fill(*by_char, "龘昨天买了一____龘，龙龙。").blanks[0].candidates
    )
    assert fill(*by_char, "我昨天____水。").unknown == []


def test_of_several_blanks_the_surest_is_filled_first_and_the_others_then_know_it(
    by_char: Parts,
) -> None:
    # Alone, what is after 一 is anyone's guess; when the verb and its object must agree, it is not.
    result = fill(*by_char, "老师昨天____了一____咖____。")
    assert result.filled == "老师昨天喝了一杯咖啡。"


def test_several_blanks_are_filled_as_one_after_the_other_by_hand(by_char: Parts) -> None:
    model, vocabulary, tokenizer = by_char
    text = "____师昨____买了一____手机"
    tokens = tokenizer.tokens(module.BLANK.sub(module.MARK, text))
    numbers = vocabulary.encode(tokens)
    open_places = [k for k, token in enumerate(tokens, start=1) if token == module.MARK]
    while open_places:
        rows = {k: probabilities(model, numbers, k) for k in open_places}
        k = max(rows, key=lambda k: float(rows[k].max()))
        numbers[k] = int(rows[k].argmax())
        open_places.remove(k)
    assert fill(*by_char, text, rescoring=0).filled == "".join(vocabulary.decode(numbers))


# Candidates


@pytest.mark.parametrize("rescoring", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("top", [1, 2, 5, 10**6])
def test_candidates_are_distinct_best_first_and_never_special(
    top: int, rescoring: float, by_char: Parts
) -> None:
    vocabulary = by_char[1]
    result = fill(*by_char, "我____天____一本书。", top=top, rescoring=rescoring)
    for blank in result.blanks:
        tokens = [c.text for c in blank.candidates]
        p = [c.probability for c in blank.candidates]
        assert len(set(tokens)) == len(tokens) == min(top, len(vocabulary) - len(SPECIALS))
        assert not set(tokens) & set(SPECIALS)
        assert p == sorted(p, reverse=True)
        assert all(0 <= x <= 1 for x in p)
        assert sum(p) <= 1 + 1e-5
        if top == 10**6:
            assert sum(p) == pytest.approx(1, abs=1e-5)


def test_more_candidates_do_not_change_the_first(by_char: Parts) -> None:
    few = fill(*by_char, "我____天看了一本书。", top=3).blanks[0].candidates
    assert fill(*by_char, "我____天看了一本书。", top=9).blanks[0].candidates[:3] == few


def probabilities(model: Cloze, numbers: list[int], place: int) -> torch.Tensor:
    """p(· | rest) at ``place``, from the model's forward on the whole sentence."""
    tokens = torch.tensor([numbers]).T
    with torch.no_grad():
        logits = model(tokens, torch.tensor([len(numbers)]))[place - 1, 0]
    logits[: len(SPECIALS)] = -torch.inf
    return F.softmax(logits.double(), -1)


@pytest.mark.parametrize(
    ("weight", "rescored"), [(0.0, 3), (0.5, 3), (0.5, 50), (0.5, 1000), (1.0, 50), (3.0, 3)]
)
def test_rescoring_is_the_pseudo_likelihood_of_the_whole_sentence(
    weight: float, rescored: int, by_char: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RESCORED", rescored)
    model, vocabulary, tokenizer = by_char
    text = "昨天，龙想____咖啡。"  # one token of it is unknown, and is not among the others
    numbers = vocabulary.encode(tokenizer.tokens(text.replace("____", module.MARK)))
    place = 1 + text.index("____")
    prior = probabilities(model, numbers, place)
    first = prior.topk(min(rescored, len(vocabulary) - len(SPECIALS)))
    scores = {}
    for c in first.indices.tolist():
        sentence = [*numbers[:place], c, *numbers[place + 1 :]]
        scores[c] = math.log(prior[c]) + weight * sum(
            math.log(probabilities(model, sentence, s)[sentence[s]])
            for s in range(1, len(sentence) - 1)
            if s != place and sentence[s] >= len(SPECIALS)
        )
    whole = math.log(sum(math.exp(s) for s in scores.values()))
    share = float(first.values.sum())  # the rescored keep it together
    expected = {
        vocabulary.tokens[n]: math.exp(scores[n] - whole) * share
        if n in scores
        else float(prior[n])
        for n in range(len(SPECIALS), len(vocabulary))
    }
    (blank,) = fill(*by_char, text, top=1000, rescoring=weight).blanks
    got = {c.text: c.probability for c in blank.candidates}
    assert got == pytest.approx(expected, rel=2e-3, abs=1e-7)


def test_rescoring_reads_no_further_than_its_window(
    by_char: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WINDOW", 2)
    model, vocabulary, tokenizer = by_char
    text = "老师昨天____了一部手机。"
    numbers = vocabulary.encode(tokenizer.tokens(text.replace("____", module.MARK)))
    prior = probabilities(model, numbers, 5)
    scores = []
    for c in range(len(SPECIALS), len(vocabulary)):
        sentence = [*numbers[:5], c, *numbers[6:]]
        reads = [probabilities(model, sentence, s)[sentence[s]].log() for s in (3, 4, 6, 7)]
        scores.append(float(prior[c].log() + sum(reads)))
    monkeypatch.setattr(search, "RESCORED", len(vocabulary))
    expected = torch.tensor(scores).softmax(-1)
    (blank,) = fill(*by_char, text, top=1000, rescoring=1.0).blanks
    got = {c.text: c.probability for c in blank.candidates}
    wanted = dict(zip(vocabulary.tokens[4:], expected.tolist(), strict=True))
    assert got == pytest.approx(wanted, rel=2e-3, abs=1e-7)


def test_a_text_of_unknown_tokens_alone_is_filled_without_numbers_going_bad(
    by_char: Parts,
) -> None:
    (blank,) = fill(*by_char, "龙____龘").blanks
    assert all(math.isfinite(c.probability) for c in blank.candidates)


def test_filling_is_deterministic_and_restores_the_mode(by_char: Parts) -> None:
    model = by_char[0]
    model.train()
    try:
        model.drop.p = 0.5
        results = [fill(*by_char, "我今天____一本书。") for _ in range(2)]
        assert results[0] == results[1]
        assert model.training
    finally:
        model.drop.p = 0.0
        model.eval()


def test_the_longest_text_is_filled(by_char: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_TEXT", 60)
    text = "我今天喝水，" * 9 + "我今天____水。"
    assert len(CHAR.tokens(text.replace("____", "买"))) == 60
    assert len(fill(*by_char, text).blanks) == 1
    with pytest.raises(CallError, match="61 tokens, expected 60"):
        fill(*by_char, text + "！")


# Many texts at once

TEXTS = (
    "老师昨天____了一杯咖啡。",
    "____",  # cannot be filled
    "我____",
    "____天，____想买____。",
    "妈妈喜欢看____影，不喜欢昨天看。" + "我今天喝水，" * 6 + "你____天吃米饭",
    "没有",  # nor this
    "老师昨天____了一____咖____。",
    "龙____龘",
    "他____天要____一碗米饭吗？",
    "____书",
)


def assert_same(got: object, expected: object) -> None:
    """The same texts, tokens and order; probabilities up to rounding; of errors, the same text."""
    if isinstance(expected, CallError):
        assert isinstance(got, CallError) and str(got) == str(expected)
        return
    assert isinstance(got, Filled) and isinstance(expected, Filled)
    for name in ("text", "filled", "unknown", "tokens"):
        assert getattr(got, name) == getattr(expected, name), name
    for one, other in zip(got.blanks, expected.blanks, strict=True):
        assert one.position == other.position
        assert [c.text for c in one.candidates] == [c.text for c in other.candidates]
        # Sums of at most 60 logarithms of order 10 in double precision: 60 · 10 · 1e-16, doubled.
        wanted = pytest.approx([c.probability for c in other.candidates], rel=2e-13)
        assert [c.probability for c in one.candidates] == wanted


@pytest.mark.parametrize(
    ("together", "read", "largest"),
    [(256, 1 << 14, 1 << 20), (3, 1 << 14, 1 << 20), (256, 90, 1 << 20), (4, 1, 1), (1, 300, 700)],
)
@pytest.mark.parametrize("rescoring", [0.0, 0.25])
def test_many_texts_are_filled_as_each_alone(
    together: int,
    read: int,
    largest: int,
    rescoring: float,
    by_char: Parts,
    by_word: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for model, *rest in (by_char, by_word):
        parts = (copy.deepcopy(model).double(), *rest)
        expected: list[object] = []
        for text in TEXTS:
            try:
                expected.append(fill(*parts, text, top=3, rescoring=rescoring))
            except CallError as error:
                expected.append(error)
        with monkeypatch.context() as patch:
            patch.setattr(module, "TOGETHER", together)
            patch.setattr(search, "READ", read)
            patch.setattr(search, "LARGEST", largest)
            patch.setattr(module, "LARGEST", largest)
            got = list(fill_all(*parts, TEXTS, top=3, rescoring=rescoring))
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)


def test_what_compares_the_two_sees_a_difference(by_char: Parts) -> None:
    text = "老师昨天____了一杯咖啡。"
    expected = fill(*by_char, text)
    assert_same(fill(*by_char, text), expected)
    for got in (
        CallError("no"),
        fill(*by_char, text, rescoring=0.2501),
        fill(*by_char, text, top=4),
        fill(*by_char, f"{text} "),
    ):
        with pytest.raises(AssertionError):
            assert_same(got, expected)


def test_texts_are_read_as_they_are_needed(by_char: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER", 4)
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "我今天____水。"

    results = fill_all(*by_char, endless())
    assert taken == 0
    next(results)
    assert taken == 4
    assert len(list(itertools.islice(results, 4))) == 4 and taken == 8
    assert list(fill_all(*by_char, [])) == []


def test_the_mode_of_the_model_is_its_own_between_answers(by_char: Parts) -> None:
    model = by_char[0]
    model.train()
    try:
        results = fill_all(*by_char, ["我今天____水。", "我今天____茶。"])
        next(results)
        assert model.training and torch.is_grad_enabled()
    finally:
        model.eval()


# Faults of the call


@pytest.mark.parametrize(
    "text", ["我打算买手机。", "", " ", "__", "我打算__买", "＿＿", "<blank", "< blank>"]
)
def test_a_text_without_a_blank_says_how_to_mark_one(text: str, by_char: Parts) -> None:
    with pytest.raises(
        CallError, match=r"no blank in the text.*three or more underscores.*<blank>"
    ):
        fill(*by_char, text)


@pytest.mark.parametrize("text", ["____", " ____ ", "____ ____", "<blank>___", "\u3000＿＿＿\n"])
def test_nothing_but_blanks_is_refused(text: str, by_char: Parts, by_word: Parts) -> None:
    for parts in (by_char, by_word):
        with pytest.raises(CallError, match="only blanks"):
            fill(*parts, text)


@pytest.mark.parametrize("top", [0, -1])
def test_top_must_be_one_at_least(top: int, by_char: Parts) -> None:
    with pytest.raises(ValueError, match=f"top: got {top}"):
        fill(*by_char, "我____", top=top)
    with pytest.raises(ValueError, match=f"top: got {top}"):
        fill_all(*by_char, ["我____"], top=top)  # at once, not with the first answer


@pytest.mark.parametrize(
    "text",
    [
        "a____b____c",
        "e\u0301____e\u0301",
        "👩‍👩‍👧____👩‍👩‍👧",
        "\u200d____\u200d",
        "\u0301____",
        "____\u0301",
        "．．．____…",
    ]
    + ["____'s", "it's____", "1____2", "____\udcff", "ｶﾞ____"],
)
def test_strange_texts_keep_their_blanks(text: str, by_char: Parts, by_word: Parts) -> None:
    for parts in (by_char, by_word):
        result = fill(*parts, text)
        assert len(result.blanks) == text.count("____")
        pieces = text.split("____")
        expected = itertools.chain(*itertools.zip_longest(pieces, best(result), fillvalue=""))
        assert result.filled == "".join(expected)
