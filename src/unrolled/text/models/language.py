"""The language model: the next token from all before it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.bptt import checkpointed_loss
from unrolled.cells import Cell, State
from unrolled.layers import Recurrent
from unrolled.modules import evaluating
from unrolled.shapes import check_size, real_steps
from unrolled.text.data.dataset import Batch
from unrolled.text.data.vocabulary import END, PAD, START, UNKNOWN
from unrolled.text.models.token_model import TokenModel


class LanguageModel(TokenModel):
    """Predicts each token, and the end, from all tokens before it: y_t = g(V A_{t-1}).

    Source: Mikolov et al., "Recurrent neural network based language model", Interspeech 2010.
    """

    kind = "lm"
    directions = 1

    def recurrent(
        self, cell: type[Cell], input_size: int, hidden_size: int, **options: Any
    ) -> Recurrent:
        return Recurrent(cell, input_size, hidden_size, **options)

    def context(self, embedded: Tensor, lengths: Tensor, memory: int | str | None = None) -> Tensor:
        """A_{t-1} for every t after ``<s>``: ``[T-1, B, H]``."""
        states: Tensor = self.read(embedded[:-1], lengths - 1, memory)
        return states

    def loss(self, batch: Batch, *, memory: int | str | None = None) -> Tensor:
        """The mean cross-entropy of the real tokens, in nats per token.

        Args:
            batch: sentences.
            memory: bytes, or a text such as "64 MiB", that the gradient may take in all; see
                ``unrolled.bptt.checkpointed_loss``.
        """
        if memory is None:
            return super().loss(batch)
        targets, counts = self.targets(batch)
        real = real_steps(counts, len(targets))
        parts = (batch.tokens[:-1], targets, real)
        total = checkpointed_loss(self, self.total, *parts, lengths=counts, memory=memory)
        return total / counts.sum()

    def states(self, tokens: Tensor, *, memory: int | str | None = None) -> Tensor:
        """What is known after each of the ``tokens`` ``[T, B]`` of a text without end: ``[T, B, H]``.

        The layers begin in the state that they are handed; see ``unrolled.bptt.Carry``. ``memory`` is what
        they may take for the gradient besides their inputs and outputs.
        """
        states: Tensor = self.read(self._embedded(tokens), None, memory)
        return states

    def total(self, tokens: Tensor, targets: Tensor, real: Tensor) -> Tensor:
        """The sum of the cross-entropies of the ``targets`` ``[T, B]``, where ``real``, in nats."""
        return self.total_of(self.states(tokens), targets, real)

    def total_of(self, states: Tensor, targets: Tensor, real: Tensor) -> Tensor:
        """As ``total``, from the states that are known before each target."""
        rows = real.flatten().nonzero().squeeze(1)
        if not len(rows):
            return states.sum() * 0
        known = states.flatten(0, 1).index_select(0, rows)
        return self.loss_of(known, targets.flatten().index_select(0, rows)) * len(rows)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.tokens[1:], batch.lengths - 1

    @torch.no_grad()
    def generate(
        self,
        prompt: Sequence[int] = (),
        *,
        longest: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[int]:
        """Continue ``prompt`` token by token, each drawn from softmax(logits / temperature).

        Args:
            prompt: token numbers, without ``<s>``.
            longest: how many tokens to add at most; it ends earlier at ``</s>``.
            temperature: below 1 sharpens the distribution, above 1 flattens it; 0 takes the most
                probable token.
            top_k: draw only from the k most probable tokens (Fan, Lewis & Dauphin, "Hierarchical
                Neural Story Generation", 2018).
            generator: the source of chance; by default PyTorch's own.

        Returns:
            The added token numbers, without ``</s>``. ``<unk>`` is never among them.
        """
        check_size("longest", longest, least=0)
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature: got {temperature!r}, expected a number of 0 or more")
        if top_k is not None:
            check_size("top_k", top_k)
        with evaluating(self):
            device = self.embedding.weight.device
            read = torch.tensor([[START], *([n] for n in prompt)], device=device)
            state: State | None = None
            added: list[int] = []
            while len(added) < longest:
                states, state = self.layers(self.embedding(read), state)
                logits = self.logits(states[-1, 0])
                logits[[PAD, UNKNOWN, START]] = -torch.inf
                n = _drawn(logits, temperature, top_k, generator)
                if n == END:
                    break
                added.append(n)
                read = torch.tensor([[n]], device=device)
        return added


def _drawn(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.where(logits >= logits.topk(top_k).values[-1], -torch.inf)
    probabilities = torch.softmax((logits - logits.max()).double() / temperature, -1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
