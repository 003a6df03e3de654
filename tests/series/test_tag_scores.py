"""Scores of spans and steps, on cases made by hand and on what must hold of all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.series.data.schemes import (
    OUTSIDE,
    Span,
    keep_scheme,
    marks_spans,
    may_follow,
    rules_of,
    spans,
)
from unrolled.series.tag_scores import SpanScores, score_tags

SCHEMES = {
    "BIO": ["O", "B-x", "I-x", "B-y", "I-y"],
    "BIOES": ["O", "B-x", "I-x", "E-x", "S-x"],
    "BILOU": ["O", "B-x", "I-x", "L-x", "U-x"],
    "BMES": ["B", "M", "E", "S"],
}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-x I-x O B-y", [("x", 0, 2), ("y", 3, 4)]),
        ("B-x B-x I-x", [("x", 0, 1), ("x", 1, 3)]),
        ("B-x I-y", [("x", 0, 1), ("y", 1, 2)]),  # another type: another span
        ("I-x I-x O I-x", [("x", 0, 2), ("x", 3, 4)]),  # IOB1
        ("B M E S B E", [("", 0, 3), ("", 3, 4), ("", 4, 6)]),
        ("B-x L-x U-y", [("x", 0, 2), ("y", 2, 3)]),
        ("B S M E", [("", 0, 1), ("", 1, 2), ("", 2, 4)]),  # against the scheme
        ("S-x I-x E-x E-x", [("x", 0, 1), ("x", 1, 3), ("x", 3, 4)]),
        ("B_x I_x", [("x", 0, 2)]),
        ("B-x-y I-x-y", [("x-y", 0, 2)]),
    ],
)
def test_spans(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == [Span(*span) for span in expected]


def test_which_tags_mark_spans() -> None:
    assert all(marks_spans(tags) for tags in SCHEMES.values())
    assert not marks_spans(["NOUN", "VERB"])
    assert not marks_spans(["O"])
    assert not marks_spans(["B", "NN"])
    assert not marks_spans([])


def test_scores_by_hand() -> None:
    expected = [["B-x", "I-x", "O", "B-y"], ["O", "B-x"]]
    predicted = [["B-x", "I-x", "O", "B-x"], ["B-y", "B-x"]]
    scores = score_tags(expected, predicted)
    assert (scores.sentences, scores.tokens, scores.right) == (2, 6, 4)
    assert scores.micro == SpanScores(expected=3, predicted=4, right=2)
    assert scores.types == {"x": SpanScores(2, 3, 2), "y": SpanScores(1, 1, 0)}
    assert scores.micro.precision == 0.5
    assert scores.micro.recall == scores.types["x"].precision == pytest.approx(2 / 3)
    assert scores.main == scores.micro.f1 == pytest.approx(4 / 7)
    assert scores.types["y"].f1 == 0.0
    assert scores.record()["types"] == {
        "x": {
            "precision": pytest.approx(2 / 3),
            "recall": 1.0,
            "f1": pytest.approx(0.8),
            "spans": 2,
        },
        "y": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "spans": 1},
    }


def test_tags_without_spans_have_an_accuracy() -> None:
    scores = score_tags([["DET", "NOUN"]], [["DET", "VERB"]])
    assert scores.micro is None
    assert scores.main == scores.accuracy == 0.5
    assert scores.record() == {"sentences": 1, "tokens": 2, "accuracy": 0.5}


def test_nothing_is_no_division_by_zero() -> None:
    assert score_tags([], []).main == 0.0
    assert SpanScores(0, 0, 0).f1 == SpanScores(0, 2, 0).recall == 0.0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="predicted: got 0 sentences, expected 1"):
        score_tags([["O"]], [])
    with pytest.raises(ValueError, match="predicted: got 2 tags for sentence 1, expected 1"):
        score_tags([["O"], ["O"]], [["O"], ["O", "O"]])


tags_of = st.sampled_from(sorted(SCHEMES)).flatmap(
    lambda name: st.lists(
        st.lists(st.tuples(*[st.sampled_from(SCHEMES[name])] * 2), min_size=1, max_size=9),
        max_size=5,
    )
)


@given(tags_of)
def test_what_holds_of_all_scores(pairs: list[list[tuple[str, str]]]) -> None:
    expected = [[a for a, _ in sentence] for sentence in pairs]
    predicted = [[b for _, b in sentence] for sentence in pairs]
    there, back = score_tags(expected, predicted), score_tags(predicted, expected)
    assert there.accuracy == back.accuracy
    assert 0 <= there.main <= 1
    same = score_tags(expected, expected)
    assert same.right == same.tokens
    if same.micro is not None and same.micro.expected:
        assert same.micro.f1 == 1.0
    if there.micro is not None and back.micro is not None:
        assert there.micro.precision == back.micro.recall
        assert there.micro.f1 == pytest.approx(back.micro.f1)
        assert there.micro.right == sum(t.right for t in there.types.values())
        alone = [
            score_tags([a], [b]).micro or SpanScores(0, 0, 0)
            for a, b in zip(expected, predicted, strict=True)
        ]
        assert there.micro.right == sum(scores.right for scores in alone)


@given(st.lists(st.tuples(st.sampled_from("xyO"), st.integers(1, 4)), max_size=6))
def test_spans_that_keep_to_a_scheme_come_back(blocks: list[tuple[str, int]]) -> None:
    """In BIO and in BMES with types."""
    for first, inner, last, alone in ("BIIB", "BMES"):
        tags, expected = list[str](), list[Span]()
        for kind, length in blocks:
            if kind == "O":
                tags += ["O"] * length
                continue
            expected.append(Span(kind, len(tags), len(tags) + length))
            places = alone if length == 1 else first + inner * (length - 2) + last
            tags += [f"{place}-{kind}" for place in places]
        assert spans(tags) == expected
        names = [f"{place}-{kind}" for place in first + inner + last + alone for kind in "xy"]
        assert keep_scheme([tags], sorted({*names, "O"}))


@pytest.mark.parametrize("name", SCHEMES)
def test_the_constraints_are_the_scheme(name: str) -> None:
    tags = SCHEMES[name]
    has_ends = name != "BIO"
    rules = rules_of(tags)
    assert rules is not None
    for i, before in enumerate(tags):
        assert rules.start[i] == may_follow(OUTSIDE, before, has_ends=has_ends)
        assert rules.end[i] == may_follow(before, OUTSIDE, has_ends=has_ends)
        for j, after in enumerate(tags):
            assert rules.follow[i][j] == may_follow(before, after, has_ends=has_ends)


def test_what_a_scheme_allows() -> None:
    for before, after, has_ends, expected in (
        ("O", "I-x", False, False),
        ("B-x", "I-x", False, True),
        ("B-x", "I-y", False, False),
        ("I-x", "B-x", False, True),
        ("B", "S", True, False),
        ("B", "E", True, True),
        ("M", "M", True, True),
        ("E", "M", True, False),
        ("S", "B", True, True),
    ):
        assert may_follow(before, after, has_ends=has_ends) is expected, (before, after)


def test_which_sequences_keep_to_their_scheme() -> None:
    bio, bmes = SCHEMES["BIO"], SCHEMES["BMES"]
    assert keep_scheme([["B-x", "I-x", "O"], [], ["B-y"]], bio)
    for wrong in (["I-x"], ["B-x", "I-y"], ["O", "I-x"]):
        assert not keep_scheme([["O"], wrong], bio), wrong
    assert keep_scheme([["B", "M", "E", "S"]], bmes)
    for wrong in (["E"], ["B"], ["B", "S"], ["S", "E"], ["B", "M"]):
        assert not keep_scheme([wrong], bmes), wrong
    assert not keep_scheme([["NOUN"]], ["NOUN", "VERB"])


def test_tags_that_leave_no_way_are_freed() -> None:
    """As where a small corpus has no span of one token."""
    rules = rules_of(["B", "E"])
    assert rules is not None
    assert all(rules.end)  # a sequence of one step has to end in B
    rules = rules_of(["I-x", "B-y"])
    assert rules is not None
    assert rules.start == [False, True]
    assert rules.follow == [[True, True], [False, True]]
    assert rules_of(["NOUN", "VERB"]) is None
