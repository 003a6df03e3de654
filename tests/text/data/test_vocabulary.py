import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.text.data import Vocabulary
from unrolled.text.data.vocabulary import END, PAD, SPECIALS, START, UNKNOWN

COUNTS = {"的": 9, "我": 5, "你": 5, "书": 2, "猫": 1}


def test_the_special_tokens_are_the_first_four() -> None:
    assert Vocabulary.count(COUNTS).tokens[:4] == ("<pad>", "<unk>", "<s>", "</s>") == SPECIALS
    assert (PAD, UNKNOWN, START, END) == (0, 1, 2, 3)


def test_tokens_are_ordered_by_count_and_then_by_code_point() -> None:
    assert Vocabulary.count(COUNTS).tokens[4:] == ("的", "你", "我", "书", "猫")


def test_the_order_of_counting_does_not_matter() -> None:
    turned = dict(reversed(COUNTS.items()))
    assert Vocabulary.count(turned).tokens == Vocabulary.count(COUNTS).tokens


@pytest.mark.parametrize(("least", "size"), [(1, 9), (2, 8), (3, 7), (6, 5), (10, 4)])
def test_tokens_rarer_than_min_count_are_left_out(least: int, size: int) -> None:
    kept = Vocabulary.count(COUNTS, min_count=least)
    assert len(kept) == size
    assert all(COUNTS[token] >= least for token in kept.tokens[4:])


@pytest.mark.parametrize("size", [5, 6, 8, 9, 100])
def test_max_size_counts_the_special_tokens_and_keeps_the_most_frequent(size: int) -> None:
    kept = Vocabulary.count(COUNTS, max_size=size)
    assert kept.tokens == Vocabulary.count(COUNTS).tokens[:size]


@pytest.mark.parametrize("options", [{"min_count": 0}, {"max_size": 4}, {"max_size": -1}])
def test_sizes_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: got"):
        Vocabulary.count(COUNTS, **options)


def test_a_text_that_spells_a_special_token_does_not_become_it() -> None:
    counted = Vocabulary.count({"</s>": 100, "a": 1})
    assert counted.tokens == (*SPECIALS, "a")


def test_a_token_is_framed_and_an_unknown_one_is_unk() -> None:
    words = Vocabulary.count(COUNTS)
    assert words.encode(["我", "狗", "的"]) == [START, 6, UNKNOWN, 4, END]
    assert words.encode([]) == [START, END]


def test_decoding_leaves_out_frame_and_padding_but_shows_unk() -> None:
    words = Vocabulary.count(COUNTS)
    assert words.decode([START, 6, UNKNOWN, 4, END, PAD, PAD]) == ["我", "<unk>", "的"]


@given(st.lists(st.sampled_from(sorted(COUNTS))))
def test_known_tokens_come_back(tokens: list[str]) -> None:
    words = Vocabulary.count(COUNTS)
    assert words.decode(words.encode(tokens)) == tokens


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "first"),
        (["a", *SPECIALS], "first"),
        (["<unk>", "<pad>", "<s>", "</s>"], "first"),
        ([*SPECIALS, "a", "b", "a"], "once"),
        ([*SPECIALS, "<unk>"], "once"),
    ],
)
def test_a_list_that_is_no_vocabulary_is_refused(tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens)
