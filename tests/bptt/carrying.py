"""Layers of every kind that a ``Carry`` takes, run over windows; and the graphs that stay alive."""

import weakref

import torch
from torch import nn

import unrolled
from unrolled import Recurrent, cells
from unrolled.layers.base import as_tuple

D, H = 3, 5
FLOAT64 = torch.float64

KINDS = {
    "Elman": lambda **o: Recurrent(cells.Elman, D, H, depth=2, **o),
    "LSTM": lambda **o: Recurrent(cells.LSTM, D, H, depth=2, **o),
    "GRU": lambda **o: Recurrent(cells.GRU, D, H, **o),
    "uneven LSTM": lambda **o: Recurrent(cells.LSTM, D, [H, 4], **o),
    "learnt": lambda **o: learnt(Recurrent(cells.LSTM, D, H, learn_initial_state=True, **o)),
    "IndRNN": lambda **o: Recurrent(cells.IndRNN, D, H, depth=2, **o),
    "LRU": lambda **o: Recurrent(cells.LRU, D, 6, **o),
    "reference": lambda **o: Recurrent(cells.GRU, D, H, backend="reference", **o),
    "drop-in layer RNN": lambda **o: unrolled.RNN(D, H, **o),
    "drop-in layer LSTM": lambda **o: unrolled.LSTM(D, H, 2, **o),
    "drop-in layer GRU": lambda **o: unrolled.GRU(D, H, **o),
    "torch RNN": lambda **o: nn.RNN(D, H, 2, **o),
    "torch LSTM": lambda **o: nn.LSTM(D, H, 2, **o),
    "torch GRU": lambda **o: nn.GRU(D, H, **o),
}
OWN = [kind for kind in KINDS if not kind.startswith("torch")]


def learnt(layer):
    """The layer with initial states that are not zero."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "initial" in name:
                parameter.normal_()
    return layer


def make(kind, **options):
    return KINDS[kind](**options).double()


def named(y, state):
    return {"y": y} | {f"state {k}": s for k, s in enumerate(as_tuple(state))}


def detached(tensors):
    return {name: tensor.detach() for name, tensor in tensors.items()}


def windows(carry, layer, x, sizes, time=0, **masks):
    """The layer over windows of ``sizes`` steps: all outputs, and the final states."""
    ys, begin = [], 0
    for part in x.split(sizes, time):
        span = slice(begin, begin := begin + part.shape[time])
        with carry.window(**{name: mask[span] for name, mask in masks.items()}):
            ys.append(layer(part)[0])
    return named(torch.cat(ys, time), carry.states[""])


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Saved:
    """What autograd keeps for the backward pass: alive as long as a graph is."""

    def __init__(self, tensor):
        self.tensor = tensor


class Graphs:
    """Inside it, how many tensors the graphs that are alive keep."""

    def __init__(self):
        self.alive = weakref.WeakSet()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda s: s.tensor)

    def pack(self, tensor):
        saved = Saved(tensor.detach())  # an output would hold the graph that holds it
        self.alive.add(saved)
        return saved

    def __enter__(self):
        self.hooks.__enter__()
        return self.alive

    def __exit__(self, *error):
        self.hooks.__exit__(*error)
