"""A published cell that the library does not have, in ten lines, compiled and trained on Shakespeare.

    python examples/own_cell.py [--steps N]

JANET (van der Westhuizen & Lasenby, "The unreasonable effectiveness of the forget gate", 2018) is an
LSTM of which the forget gate alone is left: half the weights, one state tensor.

    c_t = σ(f) ⊙ c_{t-1} + (1 - σ(f - β)) ⊙ tanh(g)        f, g = U x_t + W c_{t-1} + b

Here it predicts the next character of Shakespeare's plays beside the library's LSTM: same size, same
steps, same text. The last plays are held out.
"""

import argparse
import time
from collections.abc import Callable
from itertools import count
from statistics import median

import torch
from torch import Tensor, nn

from unrolled import Recurrent, cells, explain
from unrolled.cells import Cell
from unrolled.layers import linear_cross_entropy
from unrolled.text.data import sentences

T, B, E, H = 64, 32, 64, 128  # steps a window, sequences, width of the embedding, hidden units
HELD_OUT = 200  # steps of 256 sequences


class JANET(Cell):
    """The forget gate alone: van der Westhuizen & Lasenby, 2018, with β = 1."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.U = nn.Linear(input_size, 2 * hidden_size)
        self.W = nn.Linear(hidden_size, 2 * hidden_size, bias=False)

    def project(self, x):
        return self.U(x)

    def step(self, projected, state):
        f, g = (projected + self.W(state[0])).chunk(2, -1)
        return (torch.sigmoid(f) * state[0] + (1 - torch.sigmoid(f - 1)) * torch.tanh(g),)


class Characters(nn.Module):
    """The next of V characters from all before it: embedding → one layer of ``cell`` → softmax."""

    def __init__(self, cell: Callable[..., Cell], characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, E)
        self.layer = Recurrent(cell, E, H)
        self.head = nn.Linear(H, characters)

    def loss(
        self, text: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Nats a character of ``text`` ``[T+1, B]`` but the first, and the layer's state at the end."""
        y, state = self.layer(self.embedding(text[:-1]), state)
        loss = linear_cross_entropy(
            y.flatten(0, 1), self.head.weight, self.head.bias, text[1:].flatten()
        )
        return loss, tuple(s.detach() for s in state)


def training(model: Characters, text: Tensor) -> Callable[[], None]:
    """A function that takes one step of training: the next window, its state carried on."""
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    state, starts = None, count(step=T)

    def step() -> None:
        nonlocal state
        start = next(starts) % (len(text) - T)
        loss, state = model.loss(text[start : start + T + 1], state)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def make_windows(text: Tensor, number: int) -> Tensor:
    """``text`` in so many sequences side by side: ``[steps, number]``."""
    return text[: len(text) // number * number].view(number, -1).T.contiguous()


def milliseconds(step: Callable[[], None], backend: str, model: Characters) -> float:
    """The median of some steps on a path; the first ones are not counted."""
    model.layer.backend = backend
    taken = []
    for _ in range(13):
        start = time.perf_counter()
        step()
        taken.append(1e3 * (time.perf_counter() - start))
    return median(taken[3:])


def main() -> None:
    """Train both, and print what each knows of the held-out plays on the way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="of training; by default 400")
    steps = parser.parse_args().steps

    text = "\n".join(sentences(["shakespeare"]))
    number = {character: n for n, character in enumerate(sorted(set(text)))}
    encoded = torch.tensor([number[character] for character in text])
    cut = len(encoded) * 95 // 100
    learnt, held = make_windows(encoded[:cut], B), make_windows(encoded[cut:], 256)[: HELD_OUT + 1]

    print(explain(Recurrent(JANET, E, H)), end="\n\n")
    marks = sorted({steps * k // 4 for k in range(5)})
    print(f"{'nats a held-out character, step':32}{'':>9}" + "".join(f"{n:8}" for n in marks))
    for cell in (JANET, cells.LSTM):
        torch.manual_seed(0)
        model = Characters(cell, len(number))
        step, found = training(model, learnt), []
        for taken in range(steps + 1):
            if taken in marks:
                with torch.no_grad():
                    found.append(f"{float(model.loss(held)[0]):8.3f}")
            if taken < steps:
                step()
        size = sum(p.numel() for p in model.layer.parameters())
        print(f"{cell.__name__:8}{f'{size:,} weights in the layer':>33}{''.join(found)}")
        if cell is JANET:
            kernel, reference = (
                milliseconds(step, b, model) for b in (model.layer.backend, "reference")
            )
    print(
        f"\na training step of JANET, the whole model: {kernel:.1f} ms; by the reference "
        f"{reference:.1f} ms, {reference / kernel:.1f} times as long"
    )


if __name__ == "__main__":
    main()
