"""How well tags are predicted: each step, and each span."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from unrolled.series.data.schemes import marks_spans, spans


@dataclass(frozen=True)
class SpanScores:
    """Precision, recall and their harmonic mean of the spans of one type, or of all.

    A span counts as found only if its type, its start and its stop are right. A share of none is 0.

    ``expected``, ``predicted``, ``right``: how many spans there were, were predicted, and were both.
    """

    expected: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.expected if self.expected else 0.0

    @property
    def f1(self) -> float:
        total = self.predicted + self.expected
        return 2 * self.right / total if total else 0.0


@dataclass(frozen=True)
class TagScores:
    """The share of steps with the right tag, and the scores of spans where the tags mark any.

    ``micro`` counts the spans of all types together (``None``: the tags mark no spans), ``types`` each.
    """

    sentences: int
    tokens: int
    right: int
    micro: SpanScores | None = None
    types: dict[str, SpanScores] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        return self.right / self.tokens if self.tokens else 0.0

    @property
    def main(self) -> float:
        """The F1 of all spans, or where there are none the accuracy."""
        return self.accuracy if self.micro is None else self.micro.f1

    def record(self) -> dict[str, object]:
        """For JSON."""
        found: dict[str, object] = {
            "sentences": self.sentences,
            "tokens": self.tokens,
            "accuracy": self.accuracy,
        }
        if self.micro is not None:
            found |= _figures(self.micro)
            found["types"] = {name: _figures(scores) for name, scores in self.types.items()}
        return found


def _figures(scores: SpanScores) -> dict[str, object]:
    return {
        "precision": scores.precision,
        "recall": scores.recall,
        "f1": scores.f1,
        "spans": scores.expected,
    }


def score_tags(expected: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> TagScores:
    """The scores of ``predicted`` tags, sentence by sentence.

    >>> scores = score_tags([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]])
    >>> scores.accuracy, scores.micro.f1
    (0.6666666666666666, 0.0)

    Raises:
        ValueError: there are not as many sentences, or tags of one.
    """
    expected, predicted = list(expected), list(predicted)
    if len(expected) != len(predicted):
        raise ValueError(f"predicted: got {len(predicted)} sentences, expected {len(expected)}")
    for k, (wanted, got) in enumerate(zip(expected, predicted, strict=True)):
        if len(wanted) != len(got):
            raise ValueError(
                f"predicted: got {len(got)} tags for sentence {k}, expected {len(wanted)}"
            )
    pairs = [
        pair for both in zip(expected, predicted, strict=True) for pair in zip(*both, strict=True)
    ]
    right = sum(wanted == got for wanted, got in pairs)
    if not marks_spans({tag for pair in pairs for tag in pair}):
        return TagScores(len(expected), len(pairs), right)
    there, told, both_ = Counter[str](), Counter[str](), Counter[str]()
    for wanted, got in zip(expected, predicted, strict=True):
        first, second = set(spans(wanted)), set(spans(got))
        there.update(span.type for span in first)
        told.update(span.type for span in second)
        both_.update(span.type for span in first & second)
    types = {
        name: SpanScores(there[name], told[name], both_[name]) for name in sorted(there | told)
    }
    micro = SpanScores(there.total(), told.total(), both_.total())
    return TagScores(len(expected), len(pairs), right, micro, types)
