import json
import random
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sentences import corpus
from unrolled.errors import DataError
from unrolled.text.data import Dataset, Tokenizer, Vocabulary, split_of
from unrolled.text.data import dataset as module
from unrolled.text.data.dataset import SPLITS, assigned, pieces
from unrolled.text.data.vocabulary import END, PAD, START, UNKNOWN

CHAR = Tokenizer("char")
TEXT = corpus(600)
FULL_TO_HALF = str.maketrans("，。！？", ",。!?")


def written(
    directory: Path, text: list[str] = TEXT, tokenizer: Tokenizer = CHAR, **options: int
) -> tuple[Dataset, Vocabulary]:
    directory.mkdir(exist_ok=True)
    return Dataset.write(directory, text, tokenizer, **{"longest": 200, **options})


def sides(text: list[str]) -> dict[str, str]:
    """The split of each sentence of ``text``, normalised as ``Dataset.write`` does."""
    return {sentence: split_of(CHAR.normalise(sentence)) for sentence in text}


def decoded(data: Dataset, vocabulary: Vocabulary, split: str) -> list[str]:
    """Every stored sentence of ``split`` as text, in the order of the file."""
    batches = data.batches(split, 1)  # each a batch of its own
    rows = sorted(batches.rows(), key=lambda rows: int(rows[0])) if data.sentences(split) else []
    return ["".join(vocabulary.decode(batches.read(r).tokens[:, 0].tolist())) for r in rows]


# Splits


def test_a_sentence_stays_on_its_side_wherever_and_however_often_it_stands(tmp_path: Path) -> None:
    turned = [*TEXT[::-1], *TEXT[:100], "另一句话。"]
    random.Random(1).shuffle(turned)
    data, vocabulary = written(tmp_path / "a")
    other, other_vocabulary = written(tmp_path / "b", turned)
    for split in SPLITS:
        stored, again = (
            set(decoded(data, vocabulary, split)),
            set(decoded(other, other_vocabulary, split)),
        )
        assert stored == again - {"另一句话。"}
        assert stored


def test_no_sentence_is_on_two_sides(tmp_path: Path) -> None:
    data, vocabulary = written(tmp_path, [*TEXT, *TEXT])
    found = {split: set(decoded(data, vocabulary, split)) for split in SPLITS}
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == len(TEXT)


def test_full_and_half_width_are_on_the_same_side(tmp_path: Path) -> None:
    half = [sentence.translate(FULL_TO_HALF) for sentence in TEXT]
    assert half != TEXT
    (data, vocabulary), (other, other_vocabulary) = (
        written(tmp_path / "a"),
        written(tmp_path / "b", half),
    )
    assert vocabulary.tokens == other_vocabulary.tokens
    for split in SPLITS:
        assert decoded(data, vocabulary, split) == decoded(other, other_vocabulary, split)


def test_splits_are_about_90_5_and_5_percent() -> None:
    # 20,000 draws: the standard deviation of a share of 5 % is 0.15 %, of 90 % 0.21 %.
    found = Counter(split_of(f"第{k}句话。") for k in range(20_000))
    assert abs(found["train"] / 20_000 - 0.90) < 0.0085
    assert abs(found["validation"] / 20_000 - 0.05) < 0.0062
    assert abs(found["test"] / 20_000 - 0.05) < 0.0062


def test_the_split_is_that_of_every_machine_and_version() -> None:
    # Changing the hash would let a model of an earlier version be tested on what it was taught.
    sides = [split_of(f"第{k}句话。") for k in range(60)]
    assert [k for k, side in enumerate(sides) if side == "validation"] == [0, 4, 13, 19, 24, 35, 42]
    assert [k for k, side in enumerate(sides) if side == "test"] == [12, 20, 51, 52]


# Writing


@pytest.mark.parametrize("unit", ["char", "word"])
def test_every_sentence_comes_back(unit: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(unit)  # type: ignore[arg-type]
    data, vocabulary = written(tmp_path, tokenizer=tokenizer)
    found = [s for split in SPLITS for s in decoded(data, vocabulary, split)]
    # The vocabulary is the training split's, and a small grammar has no other words.
    assert Counter(found) == Counter(CHAR.normalise(s) for s in TEXT)


def test_sentences_are_kept_in_the_order_of_the_text(tmp_path: Path) -> None:
    data, vocabulary = written(tmp_path)
    for split in SPLITS:
        expected = [CHAR.normalise(s) for s, side in sides(TEXT).items() if side == split]
        assert decoded(data, vocabulary, split) == expected


def test_the_vocabulary_counts_the_training_split_only(tmp_path: Path) -> None:
    marks = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"
    text = [f"{mark}{k}。" for k in range(60) for mark in marks]
    _, vocabulary = written(tmp_path, text, min_count=1)
    counts = Counter("".join(s for s, side in sides(text).items() if side == "train"))
    assert vocabulary.tokens == Vocabulary.count(counts).tokens


def test_min_count_and_max_size_hold_in_the_training_split(tmp_path: Path) -> None:
    counts = Counter(
        "".join(CHAR.normalise(s) for s, side in sides(TEXT).items() if side == "train")
    )
    _, rare = written(tmp_path / "a", min_count=100)
    assert set(rare.tokens[4:]) == {c for c, n in counts.items() if n >= 100}
    _, few = written(tmp_path / "b", max_size=10)
    assert few.tokens == Vocabulary.count(counts).tokens[:10]


def test_a_token_of_the_other_splits_alone_is_unknown(tmp_path: Path) -> None:
    test = next(f"猫{k}" for k in range(1000) if split_of(f"猫{k}") == "test")
    data, vocabulary = written(tmp_path, [*TEXT, test])
    assert "猫" not in vocabulary.numbers
    tokens = data.tokens["test"][-len(test) - 2 :].tolist()
    assert tokens[:2] == [START, UNKNOWN] and tokens[-1] == END


def test_another_text_is_encoded_in_the_vocabulary_given(tmp_path: Path) -> None:
    _, vocabulary = written(tmp_path / "a", min_count=100)
    text = ["我不认识龙。", *TEXT[:50]]
    data, same = written(tmp_path / "b", text, vocabulary=vocabulary)  # type: ignore[arg-type]
    assert same is vocabulary
    found = Counter(s for split in SPLITS for s in decoded(data, vocabulary, split))
    known = set(vocabulary.tokens)
    expected = ["".join(c if c in known else "<unk>" for c in CHAR.normalise(s)) for s in text]
    assert found == Counter(expected)


def test_an_empty_text_has_no_sentences_and_no_batches(tmp_path: Path) -> None:
    data, vocabulary = written(tmp_path, [])
    assert len(vocabulary) == 4
    for split in SPLITS:
        assert data.sentences(split) == 0
        assert list(data.batches(split, 100)) == []
        assert len(data.batches(split, 100)) == 0


def test_a_sentence_of_white_space_alone_is_none(tmp_path: Path) -> None:
    data, _ = written(tmp_path, [" ", "\u3000\t", ""])
    assert [data.sentences(split) for split in SPLITS] == [0, 0, 0]


def test_a_long_sentence_is_cut_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    text = ["".join(TEXT[:40])]
    data, vocabulary = written(tmp_path, text, longest=30)
    (split,) = (s for s in SPLITS if data.sentences(s))  # the pieces stay together
    found = decoded(data, vocabulary, split)
    assert len(found) > 10 and max(map(len, found)) <= 30
    if split == "train":  # else its tokens are unknown
        assert "".join(found) == CHAR.normalise(text[0])


@pytest.mark.parametrize("longest", [1, 2, 3, 7, 100])
def test_pieces_are_the_whole_in_order_and_none_is_too_long(longest: int) -> None:
    tokens = list("一二三。四五六七八九十!甲乙丙丁戊己庚辛")
    found = list(pieces(tokens, longest))
    assert [t for piece in found for t in piece] == tokens
    assert all(0 < len(piece) <= longest for piece in found)


def test_a_cut_falls_after_the_end_of_a_sentence_where_there_is_one() -> None:
    assert ["".join(p) for p in pieces(list("一二三。四五六七八"), 6)] == ["一二三。", "四五六七八"]
    assert ["".join(p) for p in pieces(list("一。二三四五六七八"), 6)] == ["一。二三四五", "六七八"]


def test_more_tokens_than_16_bits_number_come_back(tmp_path: Path) -> None:
    # One character each: Han of the planes 0 and 2, and Hangul.
    ranges = [(0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x2A6E0)]
    text = [chr(code) for start, stop in ranges for code in range(start, stop)]
    data, vocabulary = written(tmp_path, text)
    assert len(vocabulary) > 1 << 16
    assert int(data.tokens["train"].max()) == len(vocabulary) - 1
    trained = [s for s in text if split_of(s) == "train"]
    numbers = data.tokens["train"].reshape(-1, 3)[:, 1].tolist()
    assert [vocabulary.tokens[n] for n in numbers] == trained


def test_the_text_is_read_once_in_memory_that_does_not_grow_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 300)
    size = 0

    def text(sentences: int) -> Iterator[str]:
        nonlocal size
        for k in range(sentences):
            sentence = f"{k % 977}第{k % 89}句话" * 8
            size += len(sentence.encode())
            yield sentence

    def peak(name: str, sentences: int) -> int:
        (tmp_path / name).mkdir()
        tracemalloc.start()
        try:
            data, _ = Dataset.write(tmp_path / name, text(sentences), CHAR, longest=200)
            assert sum(map(data.sentences, SPLITS)) == sentences
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak("small", 500), peak("large", 4_000)
    assert large < 1.2 * small + 10_000
    assert large < size / 4


def test_memory_is_bounded_by_blocks_when_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = written(tmp_path)
    monkeypatch.setattr(module, "BLOCK", 64)
    batches = data.batches("train", 200, shuffle=(0, 0))
    rows = [r.tolist() for r in batches.rows()]
    assert len(rows) == len(batches)
    assert sorted(n for r in rows for n in r) == list(range(data.sentences("train")))
    assert all(len({n // 64 for n in r}) == 1 for r in rows)


def test_writing_in_chunks_is_writing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a")
    monkeypatch.setattr(module, "CHUNK", 7)
    written(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# Batches


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("data"))[0]


ORDERS = [None, (0, 0), (0, 1), (7, 3)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 50, 333, 10**9])
def test_an_epoch_has_each_sentence_exactly_once(
    data: Dataset, split: str, order: tuple[int, int] | None, size: int
) -> None:
    batches = data.batches(split, size, shuffle=order)
    rows = np.concatenate(list(batches.rows()))
    assert sorted(rows.tolist()) == list(range(data.sentences(split)))


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_holds_the_sentences_framed_and_padded(
    data: Dataset, order: tuple[int, int] | None
) -> None:
    batches = data.batches("train", 333, shuffle=order)
    offsets, tokens = data.offsets["train"], data.tokens["train"]
    for rows, (padded, lengths, _) in zip(batches.rows(), batches, strict=True):
        assert padded.shape == (int(lengths.max()), len(rows))
        for sequence, row in enumerate(rows):
            stored = tokens[offsets[row] : offsets[row + 1]].tolist()
            length = int(lengths[sequence])
            assert padded[:length, sequence].tolist() == stored
            assert stored[0] == START and stored[-1] == END
            assert set(padded[length:, sequence].tolist()) <= {PAD}


@pytest.mark.parametrize("size", [1, 15, 50, 333, 5000])
@pytest.mark.parametrize("order", ORDERS)
def test_no_batch_is_larger_than_asked_unless_it_is_one_sentence(
    data: Dataset, size: int, order: tuple[int, int] | None
) -> None:
    for tokens, lengths, _ in data.batches("train", size, shuffle=order):
        assert tokens.numel() <= size or len(lengths) == 1


@pytest.mark.parametrize("size", [1, 50, 333, 5000])
def test_how_many_batches_there_are_does_not_depend_on_the_order(data: Dataset, size: int) -> None:
    counts = {len(data.batches("train", size, shuffle=order)) for order in ORDERS}
    seen = {len(list(data.batches("train", size, shuffle=order))) for order in ORDERS}
    assert counts == seen and len(counts) == 1


def test_little_of_a_batch_is_padding(tmp_path: Path) -> None:
    source = random.Random(0)  # lengths from 1 to 60, as uneven as they come
    text = ["字" * source.randint(1, 60) + str(k) for k in range(3000)]
    data, _ = written(tmp_path, text)
    for order in ORDERS:
        shapes = [
            (t.numel(), int(n.sum())) for t, n, _ in data.batches("train", 832, shuffle=order)
        ]
        padded, real = (sum(column) for column in zip(*shapes, strict=True))
        assert 1 - real / padded < 0.02
        assert padded / len(shapes) > 0.9 * 832  # nor are batches small


def order_of(data: Dataset, order: tuple[int, int]) -> list[list[int]]:
    return [rows.tolist() for rows in data.batches("train", 333, shuffle=order).rows()]


def test_seed_and_epoch_decide_the_order(data: Dataset) -> None:
    assert order_of(data, (3, 5)) == order_of(data, (3, 5))
    others = [order_of(data, order) for order in [(3, 5), (3, 6), (4, 5), (5, 3)]]
    assert all(a != b for k, a in enumerate(others) for b in others[:k])


def test_who_shares_a_batch_differs_between_epochs(data: Dataset) -> None:
    def together(order: tuple[int, int]) -> set[frozenset[int]]:
        return {frozenset(rows) for rows in order_of(data, order)}

    assert len(together((0, 0)) & together((0, 1))) < len(together((0, 0))) / 2


def test_shuffled_batches_do_not_come_from_short_to_long(data: Dataset) -> None:
    longest = [t.shape[0] for t, *_ in data.batches("train", 333, shuffle=(0, 0))]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_the_global_random_state_neither_matters_nor_changes(data: Dataset) -> None:
    np.random.seed(0)
    before = order_of(data, (0, 0))
    drawn = np.random.random()
    assert order_of(data, (0, 0)) == before
    np.random.seed(0)
    assert np.random.random() == drawn


# Damaged files


@pytest.mark.parametrize("name", [f"{s}.{e}" for s in SPLITS for e in ("tokens", "offsets")])
@pytest.mark.parametrize("cut", [0, 1, 2, 8, -1, -2, -8])
def test_a_truncated_file_is_refused(name: str, cut: int, tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read") as caught:
        Dataset(tmp_path, 1000)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["dtype.json", *(f"{s}.{e}" for s in SPLITS for e in ("tokens", "offsets"))]
)
def test_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        Dataset(tmp_path, 1000)


@pytest.mark.parametrize("content", ["", "{", "3", "null", '"<u2"', "[2]", "4", "\udcff", "2.5"])
def test_another_dtype_is_refused(content: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "dtype.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="cannot be read"):
        Dataset(tmp_path, 1000)


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="cannot be read"):
            Dataset(path, 1000)


def test_what_is_written_is_read_by_another_process_state(tmp_path: Path) -> None:
    data, vocabulary = written(tmp_path)
    again = Dataset(tmp_path, len(vocabulary))
    for split in SPLITS:
        assert np.array_equal(data.tokens[split], again.tokens[split])
        assert np.array_equal(data.offsets[split], again.offsets[split])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted(
        [".json"] + 3 * [".tokens", ".offsets"]
    )
    assert json.loads((tmp_path / "dtype.json").read_text()) in (2, 4)


def test_the_corpus_is_normalised_text_only_once(tmp_path: Path) -> None:
    twice = [unicodedata.normalize("NFKC", s) for s in TEXT]
    written(tmp_path / "a")
    written(tmp_path / "b", twice)
    for split in SPLITS:
        name = f"{split}.tokens"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# Short text


@pytest.mark.parametrize("passage", [None, 1, 128])
@pytest.mark.parametrize("count", [1, 2, 3, 20, 400])
def test_no_split_is_empty_that_need_not_be(count: int, passage: int | None) -> None:
    text = [f"第{k}句。" for k in range(count)]
    found = list(assigned(text, passage))
    assert [sentence for sentence, _ in found] == text
    assert {split for _, split in found} == set(SPLITS[:count])
    assert found == list(assigned(iter(text), passage))
    if count == 400:
        assert sum(split == "train" for _, split in found) > 0.8 * count


def test_of_a_text_with_all_splits_each_is_that_of_the_hash() -> None:
    text = [f"第{k}句。" for k in range(5000)]
    assert [split for _, split in assigned(text, None)] == list(map(split_of, text))
    by_passage = [split_of(f"passage {k // 128}") for k in range(5000)]
    assert [split for _, split in assigned(text, 128)] == by_passage


def test_a_sentence_that_goes_over_does_so_wherever_it_stands() -> None:
    text = ["甲。", "乙。", "丙。", "甲。", "乙。", "丙。", "甲。"]
    sides = dict(assigned(text, None))
    assert all(sides[sentence] == split for sentence, split in assigned(text, None))
    assert set(sides.values()) == set(SPLITS)


# Continuous text


@pytest.mark.parametrize("passage", [1, 7])
def test_a_passage_stays_together_and_in_order(passage: int, tmp_path: Path) -> None:
    data, vocabulary = written(tmp_path, passage=passage)
    expected: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    before = ""
    for start in range(0, len(TEXT), passage):
        split = split_of(f"passage {start // passage}")
        if split != before:
            expected[split].append([])
        expected[split][-1] += [CHAR.normalise(line) for line in TEXT[start : start + passage]]
        before = split
    assert data.is_continuous
    for split in SPLITS:
        documents = data.documents(split)
        assert len(documents) == len(expected[split])
        for (tokens, targets), lines in zip(documents, expected[split], strict=True):
            assert tokens[1:].tolist() == targets[:-1].tolist()
            known = [
                [START, *(vocabulary.numbers.get(c, UNKNOWN) for c in line), END] for line in lines
            ]
            assert [*tokens.tolist(), int(targets[-1])] == [n for line in known for n in line]


def test_by_sentences_there_are_no_documents(tmp_path: Path) -> None:
    data, _ = written(tmp_path)
    assert not data.is_continuous
    with pytest.raises(DataError, match="expected passages"):
        data.documents("train")


@pytest.mark.parametrize("begun", [[], [1], [0, 0], [0, 5, 3], [0, 10**6], [-1]])
def test_passages_that_were_not_written_so_are_refused(begun: list[int], tmp_path: Path) -> None:
    _, vocabulary = written(tmp_path, passage=7)
    (tmp_path / "train.passages").write_bytes(np.array(begun, "<i8").tobytes())
    with pytest.raises(DataError, match=r"train\.passages"):
        Dataset(tmp_path, len(vocabulary))


# Where words end


def ends_of(data: Dataset, split: str) -> list[list[bool]]:
    """The stored ends of each sentence of ``split``, in the order of the file."""
    assert data.ends[split].dtype == np.bool_
    return [data.ends[split][i:j].tolist() for i, j in pairwise(data.offsets[split].tolist())]


MIXED = [*TEXT, *(f"我在Python {k}里买了手机，it's {k}.5 ok" for k in range(60)), "", "书"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_says_where_the_words_of_its_sentences_end(
    order: tuple[int, int] | None, tmp_path: Path
) -> None:
    data, _ = written(tmp_path, MIXED, words=True)
    for split in SPLITS:
        texts = [s for s in map(CHAR.normalise, MIXED) if s and split_of(s) == split]
        batches, seen = data.batches(split, 333, shuffle=order), 0
        for rows, (tokens, lengths, ends) in zip(batches.rows(), batches, strict=True):
            assert ends is not None
            assert (ends.dtype, ends.shape) == (torch.bool, tokens.shape)
            for sequence, row in enumerate(rows.tolist()):
                length = int(lengths[sequence])
                expected = [True, *CHAR.ends(texts[row]), True]
                assert ends[:length, sequence].tolist() == expected
                assert ends[length:, sequence].all()
                seen += 1
        assert seen == len(texts) > 10
    assert not all(map(all, ends_of(data, "train")))  # words of several characters are there


@pytest.mark.parametrize("longest", [1, 2, 4, 5, 200])
@pytest.mark.parametrize(
    "text", ["我" + "手机电脑" * 9, "他买了手机。手机很好!我们去公园玩,a long word"]
)
def test_where_a_sentence_is_cut_a_word_ends(text: str, longest: int, tmp_path: Path) -> None:
    data, _ = written(tmp_path, [text], longest=longest, words=True)
    (split,) = (s for s in SPLITS if data.sentences(s))
    whole, start, broken = CHAR.ends(CHAR.normalise(text)), 0, 0
    for ends in ends_of(data, split):
        stop = start + len(ends) - 2
        assert ends == [True, *whole[start : stop - 1], True, True]
        broken += not whole[stop - 1]
        start = stop
    assert start == len(text)
    assert (broken > 0) == (longest < 200)


def test_of_words_as_tokens_each_ends_one(tmp_path: Path) -> None:
    data, _ = written(tmp_path, MIXED, Tokenizer("word"), words=True)
    for split in SPLITS:
        assert data.ends[split].all() and len(data.ends[split]) == len(data.tokens[split])


def test_nothing_is_said_of_words_unless_asked_for(tmp_path: Path) -> None:
    data, _ = written(tmp_path / "a", MIXED)
    assert data.ends == {} and not list((tmp_path / "a").glob("*.ends"))
    assert all(ends is None for _, _, ends in data.batches("train", 333))
    written(tmp_path / "b", MIXED, words=True)
    for path in (tmp_path / "a").iterdir():  # and all else is the same
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_passages_say_where_words_end_too(tmp_path: Path) -> None:
    data, _ = written(tmp_path, MIXED, passage=7, words=True)
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for k, sentence in enumerate(MIXED):
        texts[split_of(f"passage {k // 7}")] += [CHAR.normalise(sentence)] if sentence else []
    for split in SPLITS:
        assert ends_of(data, split) == [[True, *CHAR.ends(s), True] for s in texts[split]]


def test_words_written_in_chunks_are_those_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a", MIXED, words=True)
    monkeypatch.setattr(module, "CHUNK", 7)
    written(tmp_path / "b", MIXED, words=True)
    for name in (f"{split}.ends" for split in SPLITS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-1],
        lambda whole: whole + b"\x01",
        lambda whole: b"\0" * len(whole),
        lambda whole: whole[:-1] + b"\0",  # </s>
        lambda whole: whole[:-2] + b"\0\x01",  # the token before it
        lambda whole: b"\x01" + whole[:-1],  # moved by one
    ],
    ids=["empty", "short", "long", "zeros", "no </s>", "last word open", "moved"],
)
def test_ends_that_are_not_those_of_the_tokens_are_refused(
    split: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    _, vocabulary = written(tmp_path, MIXED, words=True)
    path = tmp_path / f"{split}.ends"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"cannot be read .{split}\.ends") as caught:
        Dataset(tmp_path, len(vocabulary))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
