"""From a text to samples of it: a character-level language model, from the first line to the last.

    python examples/text_to_samples.py [FILE] [--steps N]

FILE is UTF-8 text; without it the plays of Shakespeare are read (the extra ``corpora``).
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from unrolled import Recurrent, bptt, cells
from unrolled.text.data import sentences

parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?", type=Path)
parser.add_argument("--steps", type=int, default=600)
given = parser.parse_args()

torch.manual_seed(0)
text = given.file.read_text("utf-8") if given.file else "\n".join(sentences(["shakespeare"]))
letters = sorted(set(text))
number = {letter: n for n, letter in enumerate(letters)}
stream = torch.tensor([number[letter] for letter in text])


class Model(nn.Module):
    """x_t → s_t = f(U x_t + W s_{t-1}), by gates → o_t = softmax(V s_t): the letter that comes next."""

    def __init__(self, letters: int, hidden: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, 64)
        self.rnn = Recurrent(cells.LSTM, 64, hidden)
        self.head = nn.Linear(hidden, letters)

    def forward(self, x: torch.Tensor, state: tuple | None = None) -> tuple[torch.Tensor, tuple]:
        y, state = self.rnn(self.embedding(x), state)
        return self.head(y), state


model = Model(len(letters))
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
carry = bptt.Carry(model)  # the state goes on from window to window, its gradient does not
windows = bptt.make_windows(
    (stream[:-1], stream[1:]), 32, 64
)  # 32 sequences side by side, 64 steps each
began, done = time.perf_counter(), 0
while done < given.steps:
    for window in windows[: given.steps - done]:
        x, target = window.data
        with carry.window(window.resets):
            logits, _ = model(x)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()  # through the 64 steps of the window
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if done % 100 == 0:
            print(f"step {done}: {loss.item():.3f} nats, {time.perf_counter() - began:.0f} s")
        done += 1

letter, state, sample = stream[:1], None, []
with torch.no_grad():
    for _ in range(300):
        logits, state = model(letter.view(1, 1), state)
        letter = torch.multinomial(F.softmax(logits[-1, 0], -1), 1)
        sample.append(letters[int(letter)])
print("".join(sample))
