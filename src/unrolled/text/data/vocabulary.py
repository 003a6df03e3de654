"""Tokens and their numbers."""

from collections.abc import Iterable, Mapping, Sequence

from unrolled.shapes import check_size

PAD, UNKNOWN, START, END = range(4)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


class Vocabulary:
    """The tokens a model knows, numbered from 0; the first four are ``<pad> <unk> <s> </s>``.

    >>> words = Vocabulary.count({"to": 2, "be": 2, "or": 1}, min_count=2)
    >>> words.tokens
    ('<pad>', '<unk>', '<s>', '</s>', 'be', 'to')
    >>> words.encode(["to", "be", "or"])
    [2, 5, 4, 1, 3]

    Args:
        tokens: all of them, special ones first, each once.

    Raises:
        ValueError: the special ones are not the first, or a token is there twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        if self.tokens[: len(SPECIALS)] != SPECIALS:
            raise ValueError(f"tokens: expected the first to be {' '.join(SPECIALS)}")
        self.numbers = {token: number for number, token in enumerate(self.tokens)}
        if len(self.numbers) < len(self.tokens):
            raise ValueError("tokens: expected each token once")

    @classmethod
    def count(
        cls, counts: Mapping[str, int], *, min_count: int = 1, max_size: int | None = None
    ) -> "Vocabulary":
        """The tokens seen ``min_count`` times or more, the most frequent ``max_size`` at most."""
        check_size("min_count", min_count)
        most = None
        if max_size is not None:
            most = check_size("max_size", max_size, least=len(SPECIALS) + 1) - len(SPECIALS)
        kept = sorted(
            (token for token, n in counts.items() if n >= min_count and token not in SPECIALS),
            key=lambda token: (-counts[token], token),
        )
        return cls(SPECIALS + tuple(kept[:most]))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """``<s>``, the number of each token (``<unk>`` where it has none), ``</s>``."""
        return [START, *(self.numbers.get(token, UNKNOWN) for token in tokens), END]

    def unknown(self, tokens: Iterable[str]) -> list[str]:
        """Those of ``tokens`` that have no number, each once."""
        return list(dict.fromkeys(token for token in tokens if token not in self.numbers))

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The tokens of ``numbers``, without ``<pad>``, ``<s>`` and ``</s>``."""
        return [self.tokens[n] for n in numbers if n not in (PAD, START, END)]
