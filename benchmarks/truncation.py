"""How far the gradient of truncated BPTT is from that of full BPTT, by k2.

    python -m benchmarks.truncation [--minutes N] [--seeds N …] [--cells NAME …]
                                    [--smallest] [--json FILE] [--picture FILE.svg|.png]

A language model over the characters of Shakespeare's plays is trained as in ``benchmarks.carry``. Then
it reads 16 held-out passages without gradient for 400 characters, and 400 more, without dropout. Their
mean loss, differentiated with respect to the parameters of the recurrent layer all the way back to the
state carried in, is the full gradient. Against it stands what truncated BPTT adds up to over the same
characters: with k1 = 1, where each loss goes back exactly k2 steps, and with k1 = k2, in chunks. The
same of a model that is not trained.

cosine: of the angle between the two. norm: that of the truncated gradient over that of the full one.
W_hh: the same of that matrix alone. Randomised truncation (k1 = 5, k2 = 35 on average) has no bias but
a variance, so it is averaged over more and more draws, of the seeds 0, 1, …; of each number of draws
the table has the mean and the least cosine, and the mean norm, of the groups that they make.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import results
from benchmarks.shakespeare import trained
from unrolled import bptt
from unrolled.errors import MissingExtraError
from unrolled.text.data import Dataset
from unrolled.text.data.vocabulary import START
from unrolled.text.models import LanguageModel

BATCH_SIZE, BEFORE = 16, 400
CELLS = ("lstm", "gru", "elman")
K2 = (1, 2, 5, 10, 20, 35, 70, 140, 280, 400)  # the last is T
SCHEMES: dict[str, Callable[[int], int]] = {"k1 = 1": lambda _: 1, "k1 = k2": lambda k2: k2}
DRAWS: Sequence[int] = (1, 4, 16, 64)
RANDOM_K1, RANDOM_K2 = 5, 35
PACKAGES = {"altair": "altair", "vl_convert": "vl-convert-python"}  # that draw, by their modules
FLOOR, TINY, FONT = 1e-6, 1e-16, "Helvetica Neue, Helvetica, Arial, sans-serif"  # of the picture
COLOURS = {"lstm": "#2a6fbb", "gru": "#e07b39", "elman": "#3a9d6e"}


class Distance(NamedTuple):
    """Of a gradient from the full one."""

    one_minus_cosine: float
    norm: float


class Passages:
    """What a recurrent layer reads of held-out text, and the gradients of the mean loss there.

    A gradient is that of all parameters of the layer, in float64, in a row.
    """

    def __init__(self, model: LanguageModel, data: Dataset, steps: int) -> None:
        documents = data.documents("test")
        length = BEFORE + steps
        chosen = [d for d in documents if len(d[0]) >= length][:BATCH_SIZE]
        tokens, targets = (
            torch.from_numpy(np.stack([d[k][:length] for d in chosen], 1).astype(np.int64))
            for k in (0, 1)
        )
        self.model, self.steps = model.eval(), steps
        self.layer = model.layers.train()  # steps are read again in training alone
        carry = bptt.Carry(self.layer)
        with torch.no_grad(), carry.window():
            self.state = self.layer(model.embedding(tokens[:BEFORE])).state
            self.x = model.embedding(tokens[BEFORE:])
        self.carried = {f"carry/{name}": state for name, state in carry.state_dict().items()}
        self.targets = targets[BEFORE:]
        self.real = self.targets != START
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.parameters = list(self.layer.parameters())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.is_hh = torch.cat(
            [torch.full((p.numel(),), "weight_hh" in n) for n, p in self.layer.named_parameters()]
        )

    def full(self) -> tuple[Tensor, float]:
        """The full gradient, and the mean loss in nats a character."""
        loss = self.loss(self.layer(self.x, self.state).y, slice(None))
        return flat(torch.autograd.grad(loss, self.parameters)).double(), loss.item()

    def truncated(self, k1: int, k2: int, generator: torch.Generator | None = None) -> Tensor:
        """The gradient of truncated BPTT, added up over all windows; with ``generator``, randomised."""
        learner = bptt.Truncated(
            self.layer, k2, randomised=generator is not None, generator=generator
        )
        learner.load_state_dict(self.carried)
        total = [torch.zeros_like(p, dtype=torch.float64) for p in self.parameters]
        losses: list[Tensor] = []
        for begin in range(0, self.steps, k1):
            window = slice(begin, min(begin + k1, self.steps))
            losses.append(self.loss(learner(self.x[window]), window))
            if learner.truncates or window.stop == self.steps:
                found = torch.autograd.grad(torch.stack(losses).sum(), self.parameters)
                for whole, part in zip(total, found, strict=True):
                    whole += part
                losses.clear()
        return flat(total)

    def loss(self, y: Tensor, window: slice) -> Tensor:
        """The part of the steps in ``window`` in the mean loss."""
        total = self.model.total_of(y, self.targets[window], self.real[window])
        return total / self.real.sum()


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def distance(gradient: Tensor, full: Tensor) -> Distance:
    """1 - cosine as half the square between unit vectors, which loses no digit near 0."""
    size, full_size = gradient.norm(), full.norm()
    between = gradient / size - full / full_size
    return Distance(float(between.square().sum() / 2), float(size / full_size))


def measured(passages: Passages, name: str, draws: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of one model, printed as they come."""
    full, nats = passages.full()
    parts = {"all": torch.ones_like(passages.is_hh), "weight_hh": passages.is_hh}
    print(f"\n{name}: {nats:.3f} nats a character")
    print("".join([f"{'':8}", *(f"{scheme:<40}" for scheme in SCHEMES)]).rstrip())
    print(f"{'k2':>6}" + f"{'cosine':>10}{'norm':>8}{'W_hh cosine':>14}{'norm':>8}" * len(SCHEMES))
    rows: list[dict[str, Any]] = []
    for k2 in (k2 for k2 in K2 if k2 <= passages.steps):
        line = f"{k2:>6}"
        for scheme, k1_of in SCHEMES.items():
            gradient = passages.truncated(k1_of(k2), k2)
            for (part, chosen), width in zip(parts.items(), (10, 14), strict=True):
                found = distance(gradient[chosen], full[chosen])
                rows.append({"scheme": scheme, "k2": k2, "part": part, **found._asdict()})
                line += f"{1 - found.one_minus_cosine:>{width}.5f}{found.norm:>8.3f}"
        print(line, flush=True)
    print(f"randomised, k1 = {RANDOM_K1}, k2 = {RANDOM_K2} on average")
    print(f"{'draws':>6}{'cosine':>10}{'least':>8}{'norm':>8}")
    drawn = torch.stack(
        [
            passages.truncated(RANDOM_K1, RANDOM_K2, torch.Generator().manual_seed(seed))
            for seed in range(max(draws))
        ]
    )
    for count in draws:
        groups = [distance(group.mean(0), full) for group in torch.split(drawn, count)]
        cosines = [1 - group.one_minus_cosine for group in groups]
        norm = fmean(group.norm for group in groups)
        rows.append(
            {"scheme": "randomised", "k2": RANDOM_K2, "part": "all", "draws": count}
            | {"one_minus_cosine": 1 - fmean(cosines), "least_cosine": min(cosines), "norm": norm}
        )
        print(f"{count:>6}{fmean(cosines):>10.5f}{min(cosines):>8.3f}{norm:>8.3f}", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=1.0, metavar="N", help="of each training (1)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="0")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    results.add_options(parser)
    parser.add_argument(
        "--picture", type=picture_file, metavar="FILE", help="draw them: .svg, .png"
    )
    given = parser.parse_args(arguments)
    refusal = given.picture and missing()
    if refusal:
        print(refusal, file=sys.stderr, flush=True)  # before the minutes, not after them
    steps, draws, seeds, kinds = K2[-1], DRAWS, given.seeds, given.cells
    if given.smallest:
        steps, draws, seeds, kinds = K2[3], DRAWS[:1], [0], CELLS[-1:]
    rows = []
    for seed in seeds:
        for cell in kinds:
            made = trained(cell, seed=seed, minutes=given.minutes, smallest=given.smallest)
            with made as (model, data, taken):
                torch.manual_seed(seed)
                models = {"trained": model, "untrained": LanguageModel(**model.config)}
                for kind, it in models.items():
                    name = f"seed {seed}, {cell}, {kind}"
                    name += f" in {taken:,} steps" if kind == "trained" else ""
                    found = measured(Passages(it, data, steps), name, draws)
                    rows += [{"seed": seed, "cell": cell, "model": kind, **row} for row in found]
                    results.write(given.json, rows)
    if refusal:
        raise SystemExit(1)
    if given.picture:
        draw(rows, steps, given.minutes, given.picture)


def picture_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a name that ends in .svg or .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"got {text!r}, but there is no directory {path.parent}")
    return path


def missing() -> MissingExtraError | None:
    """The error that says which package a picture lacks, or none."""
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            return MissingExtraError("--picture", package, "bench")
    return None


def draw(rows: Sequence[dict[str, Any]], steps: int, minutes: float, path: Path) -> None:
    """The lines of all parameters, each the mean of the seeds."""
    import altair as alt

    points = mean_of_seeds(rows)
    cells = [cell for cell in CELLS if any(point["cell"] == cell for point in points)]
    x = (
        alt.X("k2:Q", title="k2, steps (log)")
        .scale(type="log", domain=[1, steps])
        .axis(
            values=[k2 for k2 in K2 if k2 <= steps],
            grid=False,
            labelFlush=False,
            labelOverlap=False,
            labelExpr=f"datum.value < {steps} && 1.5 * datum.value > {steps} ? '' : datum.label",
        )
    )
    colour = alt.Color("cell:N", title="cell", sort=cells).scale(
        domain=cells, range=[COLOURS[cell] for cell in cells]
    )
    dash = alt.StrokeDash("scheme:N", title="windows", sort=list(SCHEMES)).scale(
        domain=list(SCHEMES), range=[[1, 0], [5, 3]]
    )
    highest = 0.2 * math.ceil(5 * max(1.05, *(point["norm"] for point in points)))
    panels = {
        "1 \u2212 cosine": alt.Y("one_minus_cosine:Q", title="1 \u2212 cosine (log)")
        .scale(type="log", domain=[FLOOR, 1])
        .axis(format="~e", values=[10.0**-n for n in range(7)]),
        "norm ratio": alt.Y("norm:Q", title="norm, truncated / full").scale(
            domain=[0, highest], nice=False
        ),
    }

    def panel(model: str, name: str) -> Any:
        # at k2 = T the two gradients are one, whose logarithm is rounding's
        last = steps if name == "norm ratio" else steps - 1
        shown = [point for point in points if point["model"] == model and point["k2"] <= last]
        both = alt.Chart(alt.Data(values=shown)).encode(x=x, y=panels[name], color=colour)
        line = both.mark_line(clip=True, strokeWidth=1.8).encode(strokeDash=dash)
        layers = line + both.mark_circle(clip=True, size=22, opacity=1)
        about = f"trained for {minutes:g} min" if model == "trained" else model
        title = alt.Title(
            f"{about}: {name}", anchor="start", frame="group", fontSize=12, fontWeight="normal"
        )
        return layers.properties(width=360, height=200, title=title)

    rows_of_panels = [
        alt.hconcat(*(panel(model, name) for name in panels), bounds="flush", spacing=70)
        for model in ("trained", "untrained")
    ]
    title = alt.Title(
        "The gradient of truncated BPTT against that of full BPTT",
        subtitle=[
            f"Character language models of Shakespeare, H = 256; {steps} characters in {BATCH_SIZE} rows. "
            "All parameters of the recurrent layer.",
            "k1 = 1: each loss goes back exactly k2 steps. k1 = k2: chunks, each back to its beginning.",
        ],
        anchor="start", fontSize=15, subtitlePadding=5, offset=16,
    )  # fmt: skip
    chart = alt.vconcat(*rows_of_panels, spacing=28, title=title, background="white", padding=12)
    chart = chart.configure(font=FONT, aria=False).configure_view(stroke="#d0d0d0")
    chart.configure_axis(gridColor="#ececec", titleFontWeight="normal").save(path, scale_factor=2)


def mean_of_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One point a cell, model, scheme and k2: the mean norm ratio, the geometric mean of 1 - cosine."""
    keys = ("cell", "model", "scheme", "k2")
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["part"] == "all" and row["scheme"] in SCHEMES:
            grouped.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        dict(zip(keys, key, strict=True))
        | {
            "one_minus_cosine": geometric_mean(max(r["one_minus_cosine"], TINY) for r in found),
            "norm": fmean(r["norm"] for r in found),
        }
        for key, found in grouped.items()
    ]


if __name__ == "__main__":
    main()
