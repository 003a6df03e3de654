"""A training step of GRU-D on series with missing values: by its kernel, by PyPOTS, by a loop.

    python -m benchmarks.irregular [--rounds N] [--smallest] [--json FILE]

A classifier of whole series: GRU-D, a linear map of its last state, the cross entropy, the gradient and
Adam's step; float32, half of the values missing. Nobody's preparation (last values, masks, times since)
is in the time: what ``cells.observed`` takes for it has a column of its own. "PyPOTS" is its
``BackboneGRUD``, whose equations are not quite the paper's; "loop" is the paper's equations in PyTorch's
operations, step by step, as most packages have them. Before anything is timed the kernel is held to the
loop, with the same weights.

PyPOTS is asked for with ``pip install --no-deps pypots``: of it this loads the one file of that network,
which needs PyTorch alone. Without it the loop stands in.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import results
from benchmarks.cells import seconds
from unrolled import Recurrent
from unrolled.cells import GRUD, observed
from unrolled.scan.native import library

CLASSES, MISSING = 5, 0.5
SIZES = [  # T, B, V, H: spoken vowels, a ward's first 48 hours, a week of hours
    (29, 32, 12, 64),
    (48, 32, 37, 64),
    (168, 32, 10, 64),
]
SMALLEST = [(5, 2, 3, 4)]
AT_LEAST = 10.0  # times as fast as PyPOTS
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


class Classifier(nn.Module):
    """The classes of whole series, of the last state of ``body``."""

    def __init__(self, body: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(hidden_size, CLASSES)

    def forward(self, given: Any) -> Tensor:
        return torch.as_tensor(self.head(self.body(given)))


class Kernel(nn.Module):
    """GRU-D by its kernel."""

    def __init__(self, variables: int, hidden_size: int) -> None:
        super().__init__()
        self.layer = Recurrent(GRUD, 3 * variables + 2, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        (last,) = self.layer(features).state
        return torch.as_tensor(last[0])


class Loop(Kernel):
    """The same cell's equations, one step after another."""

    def forward(self, features: Tensor) -> Tensor:
        cell = self.layer.cells[0]
        assert isinstance(cell, GRUD)
        count, rows = cell.variables, [2 * cell.hidden_size, cell.hidden_size]
        w_rz, w_n = torch.split(cell.weight_hh, rows)
        h = features.new_zeros(features.shape[1], cell.hidden_size)
        for step in features:
            last, mask, since, _ = torch.split(step, [count, count, count, 2], -1)
            assert cell.weight_dx is not None and cell.bias_dx is not None
            fade = torch.exp(-torch.relu(cell.weight_dx * since + cell.bias_dx))
            h = h * torch.exp(-torch.relu(F.linear(since, cell.weight_dh, cell.bias_dh)))
            filled = mask * last + (1 - mask) * (fade * last + (1 - fade) * cell.mean)
            u = F.linear(torch.cat([filled, mask], -1), cell.weight_ih, cell.bias())
            u_rz, u_n = torch.split(u, rows, -1)
            r, z = torch.sigmoid(u_rz + h @ w_rz.T).chunk(2, -1)
            h = (1 - z) * h + z * torch.tanh(u_n + (r * h) @ w_n.T)
        return h


def pypots() -> Any:
    """The module of PyPOTS that holds its GRU-D, or ``None`` if that is not installed."""
    found = importlib.util.find_spec("pypots")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "nn" / "modules" / "grud"
    name = (
        "pypots_grud"  # under a name of its own, since the package itself imports all of its peers
    )
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class OfPyPOTS(nn.Module):
    """PyPOTS' network, which reads series first and everything apart."""

    def __init__(self, module: Any, steps: int, variables: int, hidden_size: int) -> None:
        super().__init__()
        self.network = module.BackboneGRUD(steps, variables, hidden_size)
        self.mean = torch.zeros(variables)

    def forward(self, given: Inputs) -> Tensor:
        x, mask, since, last = given
        _, state = self.network(x, mask, since, self.mean, last)
        return torch.as_tensor(state)


def training(model: nn.Module, given: Any, labels: Tensor) -> Callable[[], float]:
    """A step of training."""
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(given), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def compare(size: tuple[int, int, int, int]) -> float:
    """How far the kernel's last state and gradients are from the loop's."""
    features, _ = drawn(size)
    torch.manual_seed(0)
    kernel, loop = Kernel(size[2], size[3]), Loop(size[2], size[3])
    loop.load_state_dict(kernel.state_dict())
    found = []
    for body in (kernel, loop):
        h = body(features)
        h.square().sum().backward()
        found.append([h, *(p.grad for p in body.parameters())])
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(*found, strict=True)
    )


def drawn(size: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """What is known of series at random at each row, and the series."""
    T, B, V, _ = size
    torch.manual_seed(1)
    x = torch.randn(T, B, V)
    x[torch.rand(T, B, V) < MISSING] = torch.nan
    return observed(x).features, x


def measured(size: tuple[int, int, int, int], rounds: int, module: Any) -> dict[str, Any]:
    """Seconds of each, by name."""
    T, B, V, H = size
    features, x = drawn(size)
    labels = torch.randint(CLASSES, (B,))
    last, mask, since = (
        part.transpose(0, 1).contiguous() for part in torch.split(features, V, -1)[:3]
    )
    calls: dict[str, Callable[[], Any]] = {
        "kernel": training(Classifier(Kernel(V, H), H), features, labels),
        "loop": training(Classifier(Loop(V, H), H), features, labels),
        "observed": lambda: observed(x),
    }
    if module is not None:
        given = (torch.where(mask > 0, last, 0), mask, since, last)
        calls["PyPOTS"] = training(Classifier(OfPyPOTS(module, T, V, H), H), given, labels)
    found = seconds(calls, rounds)
    peer = "PyPOTS" if module is not None else "loop"
    middle = {name: median(times) for name, times in found.items()}
    return {"size": size, "ratio": middle[peer] / middle["kernel"], "peer": peer, "seconds": found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, time, print, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    results.add_options(parser)
    given = parser.parse_args(arguments)
    sizes, rounds = (SMALLEST, 1) if given.smallest else (SIZES, given.rounds)
    module = pypots()
    peer = "not installed; the loop stands in" if module is None else version("pypots")
    print(
        f"{library.instruction_set()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"PyPOTS {peer}"
    )
    print(
        f"{'T, B, V, H':>18}{'kernel ms':>11}{'loop ms':>9}{'PyPOTS ms':>11}{'ratio':>7}{'observed ms':>13}"
    )
    rows: list[dict[str, Any]] = []
    for size in sizes:
        error = compare(size)
        assert error < 1e-4, f"{size}: kernel and loop differ by {error:.1e}"
        row = measured(size, rounds, module)
        rows.append(row)
        results.write(given.json, rows)
        middle = {name: median(times) * 1e3 for name, times in row["seconds"].items()}
        theirs = f"{middle['PyPOTS']:11.1f}" if "PyPOTS" in middle else f"{'-':>11}"
        print(
            f"{', '.join(map(str, size)):>18}{middle['kernel']:11.2f}{middle['loop']:9.1f}{theirs}"
            f"{row['ratio']:7.1f}{middle['observed']:13.2f}",
            flush=True,
        )
    missed = [f"{row['size']}: {row['ratio']:.1f}" for row in rows if row["ratio"] < AT_LEAST]
    print(f"\nless than {AT_LEAST:.0f} times: " + ("; ".join(missed) or "nothing"))


if __name__ == "__main__":
    main()
