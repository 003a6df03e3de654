"""Tagged sentences as numbers: splits, features, batches, and files that are damaged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import DataError
from unrolled.series.data.encoded import (
    SPLITS,
    Encoder,
    TaggedData,
    cut,
    position_of,
    split_sentences,
    unit_of,
)
from unrolled.series.data.features import COUNTS, features_of
from unrolled.series.data.schemes import spans
from unrolled.series.data.tagged import Tagged


def sentences(count: int) -> list[Tagged]:
    """Different ones, of one to seven characters."""
    texts = [f"{k:b}"[-(k % 7 + 1) :] + "abc"[k % 3] for k in range(count)]
    return [Tagged(list(f"{k}{text}"), ["S"] * len(f"{k}{text}")) for k, text in enumerate(texts)]


def test_a_sentence_is_in_one_split_wherever_it_stands() -> None:
    given_ = sentences(400)
    splits = split_sentences([*given_, *given_[::-1]])
    assert sorted(map(len, splits.values())) == sorted(2 * len(set_) for set_ in _sets(splits))
    assert not set.intersection(*_sets(splits))
    again = split_sentences(given_[::-1])
    assert _sets(again) == _sets(splits)
    shares = [len(splits[split]) / 800 for split in SPLITS]
    assert shares == pytest.approx([0.90, 0.05, 0.05], abs=0.05)


def _sets(splits: dict[str, list[Tagged]]) -> list[set[str]]:
    return [{"".join(s.tokens) for s in splits[split]} for split in SPLITS]


def test_a_split_can_be_split_again() -> None:
    train = split_sentences(sentences(400))["train"]
    shares = (0.9, 0.1, 0.0)
    inner = split_sentences(train, shares, "held out")
    assert 0.05 < len(inner["validation"]) / len(train) < 0.15
    assert not inner["test"]
    assert position_of(["a"]) != position_of(["a"], "held out")
    assert position_of(["ab"]) != position_of(["a", "b"])


@given(st.integers(0, 12))
def test_no_split_of_few_sentences_is_empty(count: int) -> None:
    splits = split_sentences(sentences(count))
    assert sum(bool(part) for part in splits.values()) == min(count, 3)
    assert sum(map(len, splits.values())) == count
    if count:
        assert splits["train"]


def test_the_encoder_knows_what_is_frequent() -> None:
    train = [Tagged(list("aab"), ["X", "X", "Y"]), Tagged(list("bca"), ["Y", "X", "X"])]
    others = [Tagged(["z"], ["Z"])]
    encoder = Encoder.of(train, others, buckets=8, min_count=2)
    assert encoder.vocabulary == ("<pad>", "<unk>", "a", "b")
    assert encoder.tags == ("X", "Y", "Z")
    assert encoder.unit == "char"
    assert encoder.tokens_of(["b", "c", "<pad>"]) == [3, 1, 0]
    assert encoder.named([2, 0]) == ["Z", "X"]
    assert Encoder.of(train, buckets=8, max_size=3).vocabulary == ("<pad>", "<unk>", "a")
    assert unit_of([["ab"], ["c"]]) == "token"


def test_an_encoder_that_is_none() -> None:
    for vocabulary, unit, message in (
        (("a",), "char", "vocabulary: expected <pad> <unk> to be the first"),
        (("<pad>", "<unk>", "a", "a"), "char", "vocabulary: expected each token once"),
        (("<pad>", "<unk>"), "byte", "unit: got 'byte', expected one of char, token"),
    ):
        with pytest.raises(ValueError, match=message):
            Encoder(vocabulary, ("X",), unit, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["char", "token"])
def test_features_are_the_same_everywhere(unit: str) -> None:
    """A hash that changed would make every trained model read something else."""
    tokens = {"char": list("我爱1998年A。"), "token": ["Kim", "COVID-19", "x", "北京"]}[unit]
    found = features_of(tokens, unit, 1000)  # type: ignore[arg-type]
    assert found.shape == (len(tokens), COUNTS[unit])  # type: ignore[index]
    assert found.dtype == np.int32
    assert found.min() >= 0 and found.max() < 1000
    expected = {"char": EXPECTED_CHAR, "token": EXPECTED_TOKEN}[unit]
    assert found[0].tolist() == expected
    assert features_of([], unit, 1000).shape == (0, COUNTS[unit])  # type: ignore[arg-type,index]


EXPECTED_CHAR = [355, 181, 850, 32]
EXPECTED_TOKEN = [927, 570, 134, 683, 71, 230, 258, 767]


def test_what_characters_features_see() -> None:
    """Those of a character are of it and its neighbours, and no more."""
    first, second = (features_of(list(text), "char", 1 << 30) for text in ("abcd", "xbcy"))
    assert (first[1] != second[1]).tolist() == [True, False, True, False]
    assert (first[2] != second[2]).tolist() == [False, True, True, False]
    kinds = features_of(list("1２三四中A。"), "char", 1 << 30)[:, 3]
    assert kinds[0] == kinds[1] and kinds[2] == kinds[3]
    assert len(set(kinds.tolist())) == 5


def test_what_tokens_features_see() -> None:
    upper, lower, other = features_of(["Talking", "talking", "walking"], "token", 1 << 30)
    assert (upper != lower).tolist() == [False, True] + [False] * 6
    assert (lower != other).tolist() == [True, False, True, True, True, False, False, False]


def encoded(tmp_path: Path, count: int = 60) -> TaggedData:
    splits = split_sentences(sentences(count))
    encoder = Encoder.of(splits["train"], buckets=64)
    TaggedData.write(tmp_path, splits, encoder)
    return TaggedData(tmp_path, encoder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    splits = split_sentences(sentences(60))
    data = encoded(tmp_path)
    for split in SPLITS:
        assert data.sentences(split) == len(splits[split])
        assert data.tokens(split) == sum(len(s.tokens) for s in splits[split])
        batches = data.batches(split, 30, shuffle=(0, 1))
        rows = list(batches.rows())
        assert sorted(np.concatenate(rows).tolist()) == list(range(len(splits[split])))
        for numbers, batch in zip(rows, batches, strict=True):
            assert len(numbers) == 1 or batch.tokens.numel() <= 30
            for b, number in enumerate(numbers):
                tokens, tags = splits[split][number]
                length = len(tokens)
                assert batch.lengths[b] == length
                assert batch.tokens[:length, b].tolist() == data.encoder.tokens_of(tokens)
                assert data.encoder.named(batch.tags[:length, b].tolist()) == tags
                expected = data.encoder.features_of(tokens)
                assert (batch.features[:length, b].numpy() == expected).all()
                assert not batch.tokens[length:, b].any()


def test_the_order_follows_from_seed_and_epoch(tmp_path: Path) -> None:
    data = encoded(tmp_path)

    def order(*shuffle: int) -> list[list[int]]:
        return [rows.tolist() for rows in data.batches("train", 30, shuffle=shuffle).rows()]  # type: ignore[arg-type]

    assert order(0, 1) == order(0, 1) != order(0, 2)
    assert len(order(0, 1)) == len(order(0, 2)) == len(data.batches("train", 30))
    rest = list(data.batches("train", 30, shuffle=(0, 1)).start(2))
    assert [batch.lengths.tolist() for batch in rest] == [
        batch.lengths.tolist() for batch in list(data.batches("train", 30, shuffle=(0, 1)))[2:]
    ]


def test_sentences_without_tags_make_a_batch() -> None:
    encoder = Encoder.of(sentences(10), buckets=0)
    batch = encoder.batch([["a", "?"], [], ["b"]])
    assert batch.lengths.tolist() == [2, 0, 1]
    assert batch.features.shape == (2, 3, 0)


@given(
    st.lists(st.sampled_from(["S", "BE", "BME", "BMMMME"]), min_size=1, max_size=9),
    st.integers(1, 6),
)
def test_pieces_are_whole(words: list[str], longest: int) -> None:
    tags = list("".join(words))
    sentence = Tagged([str(t) for t in range(len(tags))], tags)
    pieces = list(cut(sentence, longest))
    assert [token for piece in pieces for token in piece.tokens] == sentence.tokens
    assert [tag for piece in pieces for tag in piece.tags] == tags
    assert all(1 <= len(piece.tokens) <= longest for piece in pieces)
    if longest >= max(map(len, words)):
        assert sum(len(spans(piece.tags)) for piece in pieces) == len(words)
    assert list(cut(sentence, None)) == [sentence]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("tokens", np.zeros(3, np.int32), "train.tokens is not whole"),
        ("offsets", np.array([0, 0]), "train.tokens is not whole"),
        ("tags", np.zeros(1, np.int16), "train.features or .tags are not those of its tokens"),
        ("features", np.zeros((1, 4), np.int32), "train.features or .tags are not those"),
        ("tags", None, "train.tags has a number that is not known"),
        ("features", None, "train.features has a number that is not known"),
        ("tokens", None, "train.tokens has a number that is not known"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    data = encoded(tmp_path)
    if array is None:
        array = np.array(data.arrays["train"][name]) * 0 + 999
    encoder = data.encoder
    del data
    np.save(tmp_path / f"train.{name}.npy", array)
    with pytest.raises(DataError, match=message):
        TaggedData(tmp_path, encoder)


def test_offsets_rise(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    offsets = np.array(data.arrays["train"]["offsets"])
    offsets[1] = offsets[2]
    encoder = data.encoder
    del data
    np.save(tmp_path / "train.offsets.npy", offsets)
    with pytest.raises(DataError, match=r"train\.offsets does not rise"):
        TaggedData(tmp_path, encoder)
    (tmp_path / "train.tokens.npy").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        TaggedData(tmp_path, encoder)
