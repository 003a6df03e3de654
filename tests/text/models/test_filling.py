"""Filling blanks, with a small model trained on a small grammar."""

import copy
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.sentences import corpus
from tests.text.models.words import priors, random_cloze, single
from unrolled.errors import CallError
from unrolled.text.data import Dataset, Tokenizer, Vocabulary
from unrolled.text.data.vocabulary import END, SPECIALS, START, UNKNOWN
from unrolled.text.models import Cloze, fill, fill_all
from unrolled.text.models import candidates as search
from unrolled.text.models import filling as module
from unrolled.text.models.filling import Blank, Filled, Filling
from unrolled.text.models.forms import word_of

CHAR = Tokenizer("char")


def trained(
    unit: str, directory: Path, *, words: bool = False
) -> tuple[Cloze, Vocabulary, Tokenizer]:
    """A cloze model that knows the grammar of ``tests.sentences``."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(unit)  # type: ignore[arg-type]
    data, vocabulary = Dataset.write(directory, corpus(600), tokenizer, longest=50, words=words)
    model = Cloze(len(vocabulary), 24, embedding_size=12, cell="gru", dropout=0.0, words=words)
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


@pytest.fixture(scope="module")
def of_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cloze, Vocabulary, Tokenizer]:
    """By characters, and it learned words of several."""
    return trained("char", tmp_path_factory.mktemp("words"), words=True)


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


# Several blanks together


def joint(parts: Parts, text: str) -> Filling:
    """What fills the blanks of ``text`` before they settle."""
    model, vocabulary, tokenizer = parts
    searching = module._Search(model, vocabulary, 5, 0.0, 1.0)
    with torch.no_grad():
        (found,) = searching._jointly([module._sentence(vocabulary, tokenizer, text)])
    return found


def joint_by_hand(parts: Parts, text: str, longest: int, beam: int) -> tuple[list[int], Filling]:
    """The order of the blanks, and the best of all ways to fill them, each tried if ``beam`` is wide.

    The next blank is the open one with the most probable single token, the best beginning given;
    each step of the chain rule sees what fills the blanks before it, and ``<unk>`` in the others.
    """
    model, vocabulary, _ = parts
    pieces = [
        vocabulary.encode(part)[1:-1] for part in text.replace("<blank>", "____").split("____")
    ]

    def sentence(filling: Filling, which: int) -> tuple[list[int], int]:
        numbers, place = [START, *pieces[0]], 0
        for k, tokens in enumerate(filling):
            place = len(numbers) if k == which else place
            numbers += [*(tokens or (UNKNOWN,)), *pieces[k + 1]]
        return [*numbers, END], place

    fillings: dict[Filling, float] = {(None,) * (len(pieces) - 1): 1.0}
    order: list[int] = []
    while None in (best := max(fillings, key=lambda filling: fillings[filling])):
        peaks = {
            k: max(single(model, *sentence(best, k)).values())
            for k, tokens in enumerate(best)
            if tokens is None
        }
        which = max(peaks, key=lambda k: peaks[k])
        order.append(which)
        longer: dict[Filling, float] = {}
        for filling, p in fillings.items():
            steps = priors(model, *sentence(filling, which), longest)
            for tokens in sorted(steps, key=lambda one: -steps[one])[:beam]:
                longer[(*filling[:which], tokens, *filling[which + 1 :])] = p * steps[tokens]
        width = max(1, 2 * beam // len(best))
        fillings = dict(sorted(longer.items(), key=lambda one: -one[1])[:width])
    return order, best


TOGETHER = ("a____bc____a", "____c____", "b____<blank>a", "____b____a____", "c____<blank>____")


@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
@pytest.mark.parametrize("beam", [1, 2, 3, 10_000])
def test_the_joint_filling_is_the_most_probable_of_all_that_the_beam_holds(
    beam: int, words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAM", beam)
    monkeypatch.setattr(search, "FOLLOWED", (100,) * 2)
    orders, lengths = set(), set()
    for seed in range(4):
        parts = (random_cloze(3, words=words, seed=seed), Vocabulary([*SPECIALS, *"abc"]), CHAR)
        for text in TOGETHER[: 3 if words and beam > 3 else None]:
            order, expected = joint_by_hand(parts, text, 2, beam)
            assert joint(parts, text) == expected, text
            orders.add(tuple(order))
            lengths |= {len(tokens) for tokens in expected if tokens is not None}
    assert orders >= {(0, 1), (1, 0)}
    assert lengths == ({1, 2} if words else {1})


def test_one_blank_after_the_other_would_not_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beam matters: with one filling to go on with, the best of all is missed."""
    monkeypatch.setattr(search, "FOLLOWED", (100,) * 2)
    parts = (random_cloze(3, seed=1), Vocabulary([*SPECIALS, *"abc"]), CHAR)
    texts = [*TOGETHER, "____a____c", "a____b____", "cc____<blank>"]
    found = []
    for beam in (1, 10_000):
        monkeypatch.setattr(module, "BEAM", beam)
        found.append([joint(parts, text) for text in texts])
    assert found[0] != found[1]


@pytest.mark.parametrize("rescoring", [0.0, 0.25])
@pytest.mark.parametrize(
    "text",
    [
        "他昨天____了一杯____。",
        "老师昨天____<blank>一碗米饭。",
        "____昨天____一____咖啡。",
        "我____想____。",
        "____喜欢看____,不喜欢____看。",
        "妈妈____要喝一<blank>___吗?",
        "____,____想看电影。",
    ],
)
def test_what_has_settled_is_the_best_for_each_blank_given_the_others(
    text: str, rescoring: float, of_words: Parts, by_char: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLING", 50)  # until all agree
    for parts in (of_words, by_char):
        model, *rest = parts
        parts = (copy.deepcopy(model).double(), *rest)
        result = fill(*parts, text, top=6, rescoring=rescoring)
        words = best(result)
        for k, blank in enumerate(result.blanks):
            chosen = iter([*words[:k], "____", *words[k + 1 :]])
            alone = module.BLANK.sub(lambda _: next(chosen), text)  # noqa: B023, used at once
            (other,) = fill(*parts, alone, top=6, rescoring=rescoring).blanks
            assert [c.text for c in blank.candidates] == [c.text for c in other.candidates]
            wanted = pytest.approx([c.probability for c in other.candidates], rel=2e-13)
            assert [c.probability for c in blank.candidates] == wanted


def settled_by_hand(parts: Parts, text: str, rounds: int) -> tuple[list[Blank], list[str], int]:
    """The blanks, each filled alone, the others given, in rounds; their words, and rounds that moved."""
    words = ["".join(parts[1].tokens[n] for n in tokens or ()) for tokens in joint(parts, text)]
    blanks: list[Blank | None] = [None] * len(words)
    moved = 0
    for _ in range(rounds):
        before = list(words)
        for k in range(len(words)):
            chosen = iter([*words[:k], "____", *words[k + 1 :]])
            alone = module.BLANK.sub(lambda _: next(chosen), text)  # noqa: B023, used at once
            (blanks[k],) = fill(*parts, alone, top=4, rescoring=0).blanks
            words[k] = blanks[k].candidates[0].text  # type: ignore[union-attr]
        if words == before:
            break
        moved += 1
    return blanks, words, moved  # type: ignore[return-value]


@pytest.mark.each_value
@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
@pytest.mark.parametrize("rounds", [1, 2, 20])
def test_blanks_settle_one_after_the_other_as_by_hand(
    rounds: int, words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLING", rounds)
    monkeypatch.setattr(search, "FOLLOWED", (100,) * 2)
    moved = []
    for seed in range(4):
        parts = (random_cloze(3, words=words, seed=seed), Vocabulary([*SPECIALS, *"abc"]), CHAR)
        for text in TOGETHER:
            blanks, chosen, times = settled_by_hand(parts, text, rounds)
            result = fill(*parts, text, top=4, rescoring=0)
            assert best(result) == chosen
            moved.append(times)
            for one, other in zip(result.blanks, blanks, strict=True):
                assert [c.text for c in one.candidates] == [c.text for c in other.candidates]
                wanted = pytest.approx([c.probability for c in other.candidates], rel=1e-11)
                assert [c.probability for c in one.candidates] == wanted
    assert 0 in moved and max(moved) >= min(rounds, 2)  # some had nothing to settle, others had


# Words of several characters


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("老师昨天买了一部____。", "手机"),
        ("我昨天看了一场____。", "电影"),
        ("妈妈今天吃了一碗____。", "米饭"),
        ("他昨天____了一杯咖啡。", "喝"),
        ("明天,老师想吃____果。", "苹"),
    ],
)
def test_a_word_has_the_characters_that_the_language_asks_for(
    text: str, word: str, of_words: Parts
) -> None:
    result = fill(*of_words, text)
    assert best(result) == [word]
    assert result.filled == text.replace("____", word)
    assert result.blanks[0].candidates[0].probability > 0.3


def test_candidates_of_different_lengths_compete(of_words: Parts) -> None:
    (blank,) = fill(*of_words, "明天,老师想喝____。", top=3).blanks
    assert {c.text for c in blank.candidates} == {"水", "茶", "咖啡"}
    (blank,) = fill(*of_words, "____昨天喝了一杯咖啡。", top=8).blanks
    assert {c.text for c in blank.candidates} >= {"我", "你", "她", "他", "妈妈"}


def test_a_model_without_words_fills_one_character_alone(by_char: Parts, of_words: Parts) -> None:
    for parts, longest in ((by_char, 1), (of_words, 4)):
        (blank,) = fill(*parts, "明天,老师想喝____。", top=1000).blanks
        assert max(len(c.text) for c in blank.candidates) == longest


@pytest.mark.parametrize(
    ("text", "verbs"),
    [("老师昨天____<blank>一碗米饭。", "吃"), ("他昨天____<blank>____咖啡。", "喝")],
)
def test_blanks_side_by_side_agree(text: str, verbs: str, of_words: Parts) -> None:
    result = fill(*of_words, text)
    assert len(result.blanks) == text.count("____") + 1
    assert result.filled in {
        f"老师昨天{verbs}了一碗米饭。",
        f"他昨天{verbs}了一杯咖啡。",
    }


@pytest.mark.parametrize("rescoring", [0.0, 0.25])
def test_words_probabilities_are_distinct_best_first_and_no_more_than_one(
    rescoring: float, of_words: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "我今天____一本书。"
    (blank,) = fill(*of_words, text, top=1000, rescoring=rescoring).blanks
    monkeypatch.setattr(module, "one_a_word", lambda _, guesses: guesses)
    (apart,) = fill(*of_words, text, top=1000, rescoring=rescoring).blanks
    for found in (blank, apart):
        texts = [c.text for c in found.candidates]
        p = [c.probability for c in found.candidates]
        assert len(set(texts)) == len(texts)
        assert not any(special in text for text in texts for special in SPECIALS)
        assert p == sorted(p, reverse=True) and min(p) >= 0 and sum(p) <= 1 + 1e-5
    assert len(apart.candidates) == sum(search.FOLLOWED)
    words: dict[str, float] = {}
    for one in apart.candidates:
        words[word_of(one.text)] = words.get(word_of(one.text), 0.0) + one.probability
    assert {word_of(c.text): c.probability for c in blank.candidates} == pytest.approx(words)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6, 40.0])
def test_temperature_is_the_exponent_of_the_shares(temperature: float, of_words: Parts) -> None:
    text = "明天,老师想喝____。"
    (plain,), (got,) = (
        fill(*of_words, text, top=search.RESCORED, temperature=t).blanks for t in (1.0, temperature)
    )
    p = {c.text: c.probability for c in plain.candidates}
    assert len(p) == search.RESCORED  # none is a form of another
    scale = sum(p.values()) / sum(q ** (1 / temperature) for q in p.values())
    expected = {text: q ** (1 / temperature) * scale for text, q in p.items()}
    assert {c.text: c.probability for c in got.candidates} == pytest.approx(expected, rel=1e-9)


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
    monkeypatch.setattr(search, "WORTH", 0.0)
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
    monkeypatch.setattr(search, "WORTH", 0.0)
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
    with pytest.raises(CallError, match="61 tokens, expected at most 60"):
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


@pytest.mark.each_value
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
        fill(*by_char, text, temperature=1.0001),
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
    ("name", "values", "expected"),
    [
        ("rescoring", (-1, -1e-9, math.nan, -math.inf, math.inf), "a number from 0"),
        ("temperature", (0, 0.0, -1.5, math.nan, -math.inf, math.inf, 1e-320), "a number from"),
    ],
)
def test_rescoring_and_temperature_that_cannot_be_are_refused(
    name: str, values: tuple[float, ...], expected: str, by_char: Parts
) -> None:
    for value in values:
        match = re.escape(f"{name}: got {value!r}, expected {expected}")
        with pytest.raises(ValueError, match=match):
            fill(*by_char, "我____", **{name: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=match):  # at once
            fill_all(*by_char, ["我____"], **{name: value})  # type: ignore[arg-type]


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
