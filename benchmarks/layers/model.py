"""Whole steps of training a cloze model, on ``unrolled`` and on ``torch.nn``'s layers.

Vocabulary, sentences and their lengths are drawn at random, about as Tatoeba's Chinese ones are;
batches, sizes and settings are those that 'unrolled train' has for every kind of model. ``torch.nn``'s
network is the same model with the same weights, of PyTorch's parts alone: its directions are two
layers, and each sequence is turned round within its length for the second; its head is ``nn.Linear`` and
``F.cross_entropy``, its optimizer AdamW, fused. A row of its own gives it the head of ``unrolled``, so
that layers and head can be told apart.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.layers.measuring import Contestant, Problem, Row, Values, compare, in_turns
from unrolled.cells.cell import GatedCell
from unrolled.cli.train.begin import settings_of
from unrolled.cli.train.text import TEXT
from unrolled.text.data import Batch
from unrolled.text.data.dataset import Batches
from unrolled.text.data.vocabulary import END, SPECIALS, START
from unrolled.text.models import Cloze
from unrolled.training.loop import make_optimizer

USUAL = TEXT.usual("lm")
VOCABULARY = 3_500
SENTENCES = 2_000
BATCHES = 6  # the steps of one measurement
CELLS = ("LSTM", "GRU")
CONTESTANTS = ("torch.nn", "torch.nn, our head", "unrolled", "unrolled, reference")
RATE = 1e-4  # so low that the weights, and with them the work, stay as they are
PHASES = ("embedding", "layers", "head and loss", "backward", "clipping", "optimizer")

Phases = dict[str, float]


class Outputs(NamedTuple):
    """What a model reads of its layers."""

    y: tuple[Tensor, Tensor]


class TorchLayers(nn.Module):
    """What ``Recurrent(…, bidirectional=True, merge="separate")`` computes, with two of ``torch.nn``'s."""

    def __init__(self, cell: str, recurrent: nn.Module) -> None:
        super().__init__()
        self.directions = nn.ModuleList()
        for source in cast(Sequence[GatedCell], recurrent.cells):
            layer: nn.RNNBase = getattr(nn, cell)(source.input_size, source.hidden_size)
            layer.load_state_dict({f"{k}_l0": v for k, v in source.state_dict().items()})
            self.directions.append(layer)

    def forward(self, x: Tensor, *, lengths: Tensor) -> Outputs:
        """Beyond a sequence's length the outputs are without meaning; the model does not read them."""
        forward, backward = self.directions
        t = torch.arange(len(x)).unsqueeze(1)
        turned = torch.where(t < lengths, lengths - 1 - t, t)  # its own inverse
        batch_size = torch.arange(x.shape[1])
        return Outputs((forward(x)[0], backward(x[turned, batch_size])[0][turned, batch_size]))


class PlainHead(Cloze):
    """A model whose softmax and loss are PyTorch's operations."""

    def loss_of(self, context: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(context), targets)


def measure(rounds: int, *, smallest: bool) -> Iterator[tuple[list[Row], list[dict[str, Any]]]]:
    """For each cell a row a contestant, a step's seconds; and where the time of a step goes."""
    batches = drawn()[: 1 if smallest else BATCHES]
    for name in CELLS:
        rows, profiles = [], []
        T = round(np.mean([len(batch.tokens) for batch in batches]))
        B = round(np.mean([batch.tokens.shape[1] for batch in batches]))
        problem = Problem("model", name, T, B, USUAL["hidden"], 2, "training")
        trainers = models(name)
        for batch in batches:
            compare(problem, [gradients(n, model, batch) for n, model in trainers.items()])
        passes = {n: one_pass(model, batches) for n, model in trainers.items()}
        seconds = in_turns({n: run for n, (run, _) in passes.items()}, rounds)
        tokens = sum(int(batch.lengths.sum()) for batch in batches)
        for contestant, taken in seconds.items():
            notes = {"tokens_per_second": round(tokens / median(taken))}
            row = Row(problem, contestant, [s / len(batches) for s in taken], notes)
            rows.append(row)
            phases = passes[contestant][1][-len(taken) :]
            profiles.append(
                {"cell": name, "contestant": contestant}
                | {k: median(p[k] for p in phases) for k in phases[0]}
            )
        yield rows, profiles


def drawn() -> list[Batch]:
    """Batches of as many tokens as a training's, of random tokens, from short to long sentences."""
    random = np.random.default_rng(0)
    words = np.clip(np.round(random.lognormal(2.25, 0.45, SENTENCES)), 1, 60).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(words + 2)])
    tokens = random.integers(len(SPECIALS), VOCABULARY, offsets[-1])
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = START, END
    batches = list(Batches(tokens, offsets, USUAL["batch_tokens"], None))
    # The middles of as many equal parts.
    return [batches[(2 * k + 1) * len(batches) // (2 * BATCHES)] for k in range(BATCHES)]


def models(cell: str) -> dict[str, Cloze]:
    """The contestants, of one set of weights."""
    options = {n: USUAL[n] for n in ("depth", "dropout", "token_dropout", "tied")}
    sizes = {"embedding_size": USUAL["embedding"], "cell": cell.lower()} | options

    def drawn_alike(kind: type[Cloze]) -> Cloze:
        torch.manual_seed(0)
        return kind(VOCABULARY, USUAL["hidden"], **sizes).train()

    kinds = (PlainHead, Cloze, Cloze, PlainHead)
    peer, mixed, native, reference = made = [drawn_alike(kind) for kind in kinds]
    for model in (peer, mixed):
        model.add_module("layers", TorchLayers(cell, model.layers))
    choose(native, "native")
    choose(reference, "reference")
    return dict(zip(CONTESTANTS, made, strict=True))


def choose(model: Cloze, backend: str) -> None:
    """Ask every layer of the model for one path."""
    layers = [module for module in model.modules() if hasattr(module, "backend")]
    if not layers:
        raise SystemExit("model: none of its layers has a backend to choose")
    for layer in layers:
        setattr(layer, "backend", backend)  # noqa: B010  (a module's attributes are Tensor | Module)


def gradients(name: str, model: Cloze, batch: Batch) -> Contestant:
    """The loss and its gradients with dropout of one seed, for the comparison."""
    parameters = {k: p for k, p in model.named_parameters() if not k.startswith("layers.")}
    layers = [p for k, p in model.named_parameters() if k.startswith("layers.")]
    parameters |= {f"layers.{k}": p for k, p in enumerate(layers)}  # of one order, if not one name

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        torch.manual_seed(0)
        loss = model.loss(batch)
        return loss.detach(), torch.autograd.grad(loss, list(parameters.values()))

    def read(result: Any) -> Values:
        loss, found = result
        of = zip(parameters, found, strict=True)
        return {"loss": loss} | {f"gradient of {name}": g for name, g in of}

    return Contestant(name, call, read)


def one_pass(model: Cloze, batches: list[Batch]) -> tuple[Callable[[], None], list[Phases]]:
    """A step for each batch, as ``Trainer`` makes them; and where its seconds went, a pass each.

    The timer reads the clock six times a step, which takes less than a microsecond.
    """
    given = TEXT.completed({"kind": "lm", "learning_rate": RATE})
    settings = settings_of(given | TEXT.implied(given), batch_steps=given["batch_tokens"])
    optimizer = make_optimizer(model, settings)
    passes: list[Phases] = []

    def step(batch: Batch) -> list[float]:
        """When each phase ended; it begins with the first."""
        clock = [time.perf_counter()]
        embedded = model._embedded(batch.tokens)
        clock.append(time.perf_counter())
        context = model.context(embedded, batch.lengths)
        clock.append(time.perf_counter())
        loss = model.loss_of(*model._real(batch, context))
        clock.append(time.perf_counter())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        clock.append(time.perf_counter())
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        loss.item(), norm.item()
        clock.append(time.perf_counter())
        optimizer.step()
        clock.append(time.perf_counter())
        return clock

    def run() -> None:
        clocks = np.array([step(batch) for batch in batches])
        passes.append(dict(zip(PHASES, np.diff(clocks).mean(0).tolist(), strict=True)))

    return run, passes
