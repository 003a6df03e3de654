"""A tag for every token: embedding, recurrent layers in both directions, a conditional random field."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unrolled.cells import GRU, LSTM, Cell, Elman
from unrolled.layers import Recurrent
from unrolled.remedies import sensible_weights_
from unrolled.series.data.encoded import UNKNOWN, TaggedBatch
from unrolled.series.data.schemes import rules_of
from unrolled.series.models.crf import MOST_TAGS, Allowed, Decoded, LinearChainCRF
from unrolled.shapes import check_fraction, check_size
from unrolled.training.model import Model

WIDEST, DEEPEST = 1 << 16, 256
CELLS: dict[str, type[Cell]] = {"elman": Elman, "lstm": LSTM, "gru": GRU}
OF_THE_LAYERS = (
    "depth",
    "dropout",
    "variational_dropout",
    "weight_drop",
    "zoneout",
    "residual",
    "layer_norm",
)
"""The options that go on to ``Recurrent``, by their names there."""


class TaggingNetwork(Model):
    """Embedding → bidirectional layers → a score for each tag → conditional random field.

    A token enters as a vector of its own plus the sum of those of its features, so that one that was
    never seen is known by these. They are numbered by a hash, and may share a vector (Weinberger et
    al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009); see
    ``unrolled.series.data.features``.

    Source: Huang, Xu & Yu, "Bidirectional LSTM-CRF Models for Sequence Tagging", 2015; features in place
    of a network over characters: Bojanowski et al., "Enriching Word Vectors with Subword Information",
    TACL 2017.

    Args:
        vocabulary_size: V; 0 stands for padding, 1 for a token that is not known.
        tags: the K tags by name.
        hidden_size: H of each direction of each layer.
        embedding_size: E, the width of the vectors of tokens and features.
        buckets: vectors of features; 0: a token has none.
        cell: "elman", "lstm" or "gru".
        depth: L, how many layers.
        constrained: whether only such tags may follow each other as the scheme of ``tags`` allows (BIO,
            BIOES, BMES); nothing, if they are of none.
        dropout: the share of features dropped in training, of what enters and leaves the layers.
        token_dropout: the share of tokens that training replaces by the unknown one, so that the model
            learns to do without; they keep their features.
        variational_dropout, weight_drop, residual: as in ``Recurrent``.
        zoneout, layer_norm: as in ``GatedCell``.
        activation: of ``cell="elman"``; by default tanh.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    kind = "tag"

    def __init__(
        self,
        vocabulary_size: int,
        tags: Sequence[str],
        hidden_size: int,
        *,
        embedding_size: int,
        buckets: int = 0,
        cell: str = "lstm",
        depth: int = 1,
        constrained: bool = True,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        variational_dropout: float = 0.0,
        weight_drop: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        residual: bool | Literal["highway"] = False,
        layer_norm: bool = False,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.tags = _checked_tags(tags)
        for name, size, least, most in (
            ("vocabulary_size", vocabulary_size, UNKNOWN + 1, 2**31 - 1),
            ("hidden_size", hidden_size, 1, WIDEST),
            ("embedding_size", embedding_size, 1, WIDEST),
            ("buckets", buckets, 0, 2**31 - 1),
            ("depth", depth, 1, DEEPEST),
        ):
            check_size(name, size, least=least, most=most)
        for name, value in (("constrained", constrained), ("layer_norm", layer_norm)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: got {value!r}, expected True or False")
        if cell not in CELLS:
            raise ValueError(f"cell: got {cell!r}, expected one of {', '.join(CELLS)}")
        self.config = {
            "vocabulary_size": vocabulary_size,
            "tags": list(self.tags),
            "hidden_size": hidden_size,
            "embedding_size": embedding_size,
            "buckets": buckets,
            "cell": cell,
            "depth": depth,
            "constrained": constrained,
            "dropout": check_fraction("dropout", dropout),
            "token_dropout": check_fraction("token_dropout", token_dropout),
            "variational_dropout": variational_dropout,
            "weight_drop": weight_drop,
            "zoneout": zoneout,
            "residual": residual,
            "layer_norm": layer_norm,
        }
        self.token_dropout = token_dropout
        options: dict[str, Any] = {name: self.config[name] for name in OF_THE_LAYERS}
        if activation is not None:
            if cell != "elman":
                raise ValueError(
                    f"activation: got {activation!r} with cell={cell!r}, expected 'elman'"
                )
            self.config["activation"] = options["activation"] = activation
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.features = nn.EmbeddingBag(buckets, embedding_size, mode="sum") if buckets else None
        self.layers = sensible_weights_(
            Recurrent(CELLS[cell], embedding_size, hidden_size, bidirectional=True, **options)
        )
        self.drop = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden_size, len(self.tags))
        allowed = allowed_by_scheme(self.tags) if constrained else None
        self.crf = LinearChainCRF(len(self.tags), allowed=allowed)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        if self.features is not None:
            nn.init.normal_(self.features.weight, std=embedding_size**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The scores of each tag at each step, ``[T, B, K]``.

        Args:
            tokens: ``[T, B]``, int64, each below V.
            features: ``[T, B, F]``, int64, each below ``buckets``; not read if there are none.
            lengths: ``[B]``; all T by default.
        """
        if self.training and self.token_dropout:
            drawn = torch.rand(tokens.shape, dtype=torch.float32, device=tokens.device)
            tokens = tokens.masked_fill((drawn < self.token_dropout) & (tokens > UNKNOWN), UNKNOWN)
        x = self.embedding(tokens)
        if self.features is not None:
            x = x + self.features(features.flatten(0, 1)).view_as(x)
        y = self.layers(self.drop(x), lengths=lengths).y
        scores: Tensor = self.output(self.drop(y))
        return scores

    def loss(self, batch: TaggedBatch) -> Tensor:
        """The mean over the batch of -log p(tags), in nats per token."""
        return self.nats(batch).sum() / batch.lengths.sum().clamp(min=1)

    def nats(self, batch: TaggedBatch) -> Tensor:
        """-log p(tags) of each sequence, ``[B]``."""
        likelihood: Tensor = self.crf(
            self(batch.tokens, batch.features, batch.lengths), batch.tags, batch.lengths
        )
        return -likelihood

    def predict(self, batch: TaggedBatch) -> Decoded:
        """The most probable tags of each sequence; those of the batch are not read."""
        scores = self(batch.tokens, batch.features, batch.lengths)
        return self.crf.decode(scores, batch.lengths)

    def probabilities(self, batch: TaggedBatch) -> Tensor:
        """The probability of each tag at each step, given the whole sequence: ``[T, B, K]``."""
        scores = self(batch.tokens, batch.features, batch.lengths)
        return self.crf.marginals(scores, batch.lengths)


def allowed_by_scheme(tags: Sequence[str]) -> Allowed | None:
    """Which tags may follow each other, by ``rules_of``; ``None`` if they mark no spans."""
    rules = rules_of(tags)
    if rules is None:
        return None
    return Allowed(*(torch.tensor(flags, device="cpu") for flags in rules))  # also if made on meta


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"tags: got {tags!r}, expected a list of names")
    if not 1 <= len(set(tags)) == len(tags) <= MOST_TAGS:
        raise ValueError(f"tags: got {len(tags)}, expected 1 to {MOST_TAGS}, each once")
    return tuple(tags)
