"""What the models over tokens share: embedding, layers, softmax over the vocabulary."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.bptt.checkpointed import checkpointed
from unrolled.cells import GRU, LSTM, Cell, Elman
from unrolled.layers import Recurrent
from unrolled.layers.cross_entropy import linear_cross_entropy
from unrolled.remedies import sensible_weights_
from unrolled.shapes import check_fraction, check_size, real_steps
from unrolled.text.data.dataset import Batch
from unrolled.text.data.vocabulary import SPECIALS, UNKNOWN
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


class Prediction(NamedTuple):
    """``logits`` ``[N, V]`` for the N real tokens that are predicted, and those tokens ``[N]``."""

    logits: Tensor
    targets: Tensor


class TokenModel(Model, ABC):
    """Embedding → recurrent layers → softmax over the vocabulary.

    Between the layers and the softmax stands the output function g of the primer's y_t = g(V A_t):
    GELU, into as many features as the embedding has; its matrix is then also the softmax's (Inan,
    Khosravi & Socher, "Tying Word Vectors and Word Classifiers", 2016; Press & Wolf, "Using the
    Output Embedding to Improve Language Models", 2016). Dropout is on what enters and leaves the
    layers, never between time steps (Zaremba, Sutskever & Vinyals, "Recurrent Neural Network
    Regularization", 2014), unless ``zoneout`` or ``weight_drop`` are asked for.

    Args:
        vocabulary_size: V.
        hidden_size: H of each direction of each layer.
        embedding_size: E, the width of the embedding.
        cell: "elman", "lstm" or "gru".
        depth: L, how many layers.
        dropout: the share of features dropped in training.
        token_dropout: the share of input tokens that training replaces by ``<unk>``, so that the
            model learns what to do with a token that it does not know.
        tied: whether embedding and softmax share one matrix.
        variational_dropout: as in ``Recurrent``; on top of ``dropout``.
        weight_drop: as in ``Recurrent``.
        zoneout: as in ``GatedCell``; one number, or one for each state tensor.
        residual: as in ``Recurrent``; nothing with one layer.
        layer_norm: as in ``GatedCell``.
        activation: of ``cell="elman"``, as in ``cells.Elman``; by default tanh.
    """

    kind: ClassVar[str]
    directions: ClassVar[int]

    def __init__(
        self,
        vocabulary_size: int,
        hidden_size: int,
        *,
        embedding_size: int,
        cell: str = "gru",
        depth: int = 1,
        dropout: float = 0.05,
        token_dropout: float = 0.0,
        tied: bool = True,
        variational_dropout: float = 0.0,
        weight_drop: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        residual: bool | Literal["highway"] = False,
        layer_norm: bool = False,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_size("vocabulary_size", vocabulary_size, least=len(SPECIALS) + 1, most=2**31 - 1)
        for name, size, most in (
            ("hidden_size", hidden_size, WIDEST),
            ("embedding_size", embedding_size, WIDEST),
            ("depth", depth, DEEPEST),
        ):
            check_size(name, size, most=most)
        for name, value in (("tied", tied), ("layer_norm", layer_norm)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: got {value!r}, expected True or False")
        if cell not in CELLS:
            raise ValueError(f"cell: got {cell!r}, expected one of {', '.join(CELLS)}")
        self.config: dict[str, Any] = {
            "vocabulary_size": vocabulary_size,
            "hidden_size": hidden_size,
            "embedding_size": embedding_size,
            "cell": cell,
            "depth": depth,
            "dropout": check_fraction("dropout", dropout),
            "token_dropout": check_fraction("token_dropout", token_dropout),
            "tied": tied,
            "variational_dropout": variational_dropout,
            "weight_drop": weight_drop,
            "zoneout": zoneout,
            "residual": residual,
            "layer_norm": layer_norm,
        }
        self.token_dropout = token_dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        options = {name: self.config[name] for name in OF_THE_LAYERS}
        if activation is not None:
            if cell != "elman":
                raise ValueError(
                    f"activation: got {activation!r} with cell={cell!r}, expected 'elman'"
                )
            self.config["activation"] = options["activation"] = activation
        layers = self.recurrent(CELLS[cell], embedding_size, hidden_size, **options)
        self.layers = sensible_weights_(layers)
        self.join = nn.Linear(self.directions * hidden_size, embedding_size)
        self.output = nn.Linear(embedding_size, vocabulary_size)
        self.drop = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        nn.init.zeros_(self.output.bias)
        self.tie()

    def tie(self) -> None:
        """Make embedding and softmax share one matrix, if the model is ``tied``."""
        if self.config["tied"]:
            self.output.weight = self.embedding.weight

    @abstractmethod
    def recurrent(
        self, cell: type[Cell], input_size: int, hidden_size: int, **options: Any
    ) -> Recurrent:
        """The recurrent layers; ``options`` are those of ``Recurrent``."""

    @abstractmethod
    def context(self, embedded: Tensor, lengths: Tensor, memory: int | str | None = None) -> Tensor:
        """What is known of each predicted token: ``[T, B, E]`` to ``[P, B, S*H]``, P < T."""

    def read(self, embedded: Tensor, lengths: Tensor | None, memory: int | str | None) -> Any:
        """What the recurrent layers give, within ``memory`` if it is limited."""
        if memory is None:
            return self.layers(embedded, lengths=lengths).y
        return checkpointed(self.layers, embedded, lengths=lengths, memory=memory).y

    @abstractmethod
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The predicted tokens ``[P, B]``, and how many of them are real in each sequence, ``[B]``."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The logits of every predicted position.

        Args:
            tokens: ``[T, B]``, int64, each sequence ``<s> … </s> <pad> …``.
            lengths: ``[B]``, with ``<s>`` and ``</s>``.

        Returns:
            ``[P, B, V]``; at padding, logits without meaning.
        """
        return self.logits(self.context(self._embedded(tokens), lengths))

    def predict(self, batch: Batch) -> Prediction:
        """The logits and targets of the real tokens only: padding is neither computed nor counted."""
        context, targets = self._real(batch, self._context(batch))
        return Prediction(self.logits(context), targets)

    def loss(self, batch: Batch, *, memory: int | str | None = None) -> Tensor:
        """The mean cross-entropy of the real tokens, in nats per token.

        Args:
            batch: sentences.
            memory: bytes, or a text such as "64 MiB", that the recurrent layers may take for the
                gradient besides their inputs and outputs; see ``unrolled.bptt.checkpointed``.
        """
        embedded = self._embedded(batch.tokens)
        context, targets = self._real(batch, self.context(embedded, batch.lengths, memory))
        return self.loss_of(context, targets)

    def loss_of(self, context: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of ``targets`` ``[N]`` where ``context`` ``[N, S*H]`` is known."""
        features = self.features(context)
        return linear_cross_entropy(features, self.output.weight, self.output.bias, targets)

    def logits(self, context: Tensor) -> Tensor:
        """``[..., S*H]`` to ``[..., V]``: softmax's input, from the states."""
        logits: Tensor = self.output(self.features(context))
        return logits

    def features(self, context: Tensor, join: nn.Module | None = None) -> Tensor:
        """``[..., S*H]`` to ``[..., E]``: what the softmax's matrix is multiplied with."""
        features: Tensor = self.drop(F.gelu((join or self.join)(self.drop(context))))
        return features

    def _context(self, batch: Batch) -> Tensor:
        return self.context(self._embedded(batch.tokens), batch.lengths)

    def _real(self, batch: Batch, context: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of ``context`` that predict real tokens, and those tokens."""
        targets, counts = self.targets(batch)
        rows = real_steps(counts, len(targets)).flatten().nonzero().squeeze(1)
        # The gradient of `index_select` is a plain sum of rows; that of a mask sorts its places.
        return context.flatten(0, 1).index_select(0, rows), targets.flatten().index_select(0, rows)

    def _embedded(self, tokens: Tensor) -> Tensor:
        if self.training and self.token_dropout:
            words = tokens >= len(SPECIALS)
            drawn = torch.rand(tokens.shape, dtype=torch.float32, device=tokens.device)
            tokens = torch.where(words & (drawn < self.token_dropout), UNKNOWN, tokens)
        embedded: Tensor = self.drop(self.embedding(tokens))
        return embedded
