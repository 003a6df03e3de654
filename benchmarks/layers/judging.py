"""Ratios and targets from rows: pure functions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from benchmarks.layers.measuring import Problem, Row

Table = dict[Problem, dict[str, Row]]
Ratios = dict[Problem, float]

PEERS = ("torch.nn", "JAX", "ONNX Runtime")
RAGGED = (  # contestant, what it is measured against
    ("unrolled, packed", "torch.nn, packed"),
    ("Recurrent, lengths", "torch.nn, packed"),
    ("unrolled, packed", "unrolled, full"),
    ("Recurrent, lengths", "Recurrent, full"),
)
LARGE = (100, 64, 256)  # from here on the share of the peak counts


@dataclass(frozen=True)
class Target:
    """``reached`` is ``None`` where it was not measured."""

    name: str
    target: str
    reached: float | None
    met: bool | None
    where: str = ""


def grouped(rows: Iterable[Row], section: str) -> Table:
    """The rows of a section, by problem, then by contestant."""
    table: Table = {}
    for row in rows:
        if row.problem.section == section:
            table.setdefault(row.problem, {})[row.contestant] = row
    return table


def ratios(table: Table, own: str, peer: str) -> Ratios:
    """How many times as long as ``own`` the ``peer`` takes."""
    return {
        problem: row[peer].median / row[own].median
        for problem, row in table.items()
        if own in row and peer in row
    }


def best_peer(table: Table) -> Ratios:
    """The same against the quickest peer of each problem."""
    found = [ratios(table, "unrolled", peer) for peer in PEERS]
    return {p: min(r[p] for r in found if p in r) for p in table}


def all_ratios(rows: Sequence[Row]) -> dict[str, Any]:
    """For JSON: every ratio; and geometric means by section, cell, directions and peer."""
    single: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    pairs: dict[str, Sequence[tuple[str, str]]] = {
        "training": [("unrolled", peer) for peer in PEERS],
        "inference": [("unrolled", peer) for peer in PEERS],
        "streaming": [("unrolled", peer) for peer in ("torch.nn.LSTMCell", *PEERS[1:])],
        "ragged": RAGGED,
        "model": [
            ("unrolled", p) for p in ("torch.nn", "torch.nn, our head", "unrolled, reference")
        ],
    }
    for section, contests in pairs.items():
        table = grouped(rows, section)
        for own, peer in contests:
            found = ratios(table, own, peer)
            for p, ratio in found.items():
                single.append(vars(p) | {"contestant": own, "against": peer, "ratio": ratio})
            for cell, directions in sorted({(p.cell, p.directions) for p in found}):
                some = [r for p, r in found.items() if (p.cell, p.directions) == (cell, directions)]
                means.append(
                    {"section": section, "cell": cell, "directions": directions}
                    | {"contestant": own, "against": peer, "geometric_mean": geometric_mean(some)}
                )
    return {"rows": single, "geometric_means": means}


def targets(rows: Sequence[Row], sgemm: float | None, xla: float | None) -> list[Target]:
    """What was hoped for, and what was reached, of the sections that were measured."""
    found: list[Target] = []
    training = grouped(rows, "training")
    if training:
        against = ratios(training, "unrolled", "torch.nn")
        for cell, least in (("RNN", 4.5), ("GRU", 6.0), ("LSTM", 1.7)):
            some = {p: r for p, r in against.items() if p.cell == cell}
            found.append(mean(f"training, {cell}, against torch.nn", least, some))
        found.append(worst("training against torch.nn", 1.1, against))
        against = ratios(training, "unrolled", "JAX")
        found.append(mean("training against JAX", 2.5, against))
        found.append(worst("training against JAX", 1.0, against))
        for name, peak in (("the sgemm peak", sgemm), ("XLA's sgemm peak", xla)):
            shares = {
                p: row["unrolled"].gflops / peak
                for p, row in training.items()
                if peak and is_large(p)
            }
            found.append(worst(f"training, share of {name}, from (100, 64, 256)", 0.75, shares))
    inference = grouped(rows, "inference")
    if inference:
        against = best_peer(inference)
        found.append(mean("inference against the best peer", 1.2, against))
        found.append(worst("inference against the best peer", 0.95, against))
    streaming = grouped(rows, "streaming")
    if streaming:
        for peer, least in (("torch.nn.LSTMCell", 4.0), ("ONNX Runtime", 2.5)):
            some = ratios(streaming, "unrolled", peer)
            found.append(worst(f"streaming against {peer}", least, some))
    ragged = grouped(rows, "ragged")
    if ragged:
        for own, peer in RAGGED:
            some = ratios(ragged, own, peer)
            if peer.endswith("full"):
                times = {p: 1 / r for p, r in some.items()}
                name = f"ragged, {own}, time of {peer}"
                found.append(extreme(name, 0.62, times, max, "<="))
            else:
                found.append(worst(f"ragged, {own}, against {peer}", 3.0, some))
    model = grouped(rows, "model")
    if model:
        found.append(worst("model against torch.nn", 2.0, ratios(model, "unrolled", "torch.nn")))
    return found


def is_large(problem: Problem) -> bool:
    """Whether it is ``LARGE`` or larger: in size, and in the work of all steps."""
    steps, batch_size, size = LARGE
    work = problem.steps * problem.batch_size * problem.size**2
    return problem.size >= size and work >= steps * batch_size * size**2


def mean(name: str, least: float, values: Ratios) -> Target:
    if not values:
        return Target(f"{name}, geometric mean", f">= {least:g}", None, None)
    reached = geometric_mean(values.values())
    return Target(f"{name}, geometric mean", f">= {least:g}", reached, reached >= least)


def worst(name: str, least: float, values: Ratios) -> Target:
    return extreme(name, least, values, min, ">=")


def extreme(
    name: str, bound: float, values: Ratios, choose: Callable[..., Problem], sign: str
) -> Target:
    """A bound that every problem is to keep; the one that is furthest off is named."""
    if not values:
        return Target(f"{name}, every size", f"{sign} {bound:g}", None, None)
    where = choose(values, key=values.__getitem__)
    reached = values[where]
    met = reached >= bound if sign == ">=" else reached <= bound
    return Target(f"{name}, every size", f"{sign} {bound:g}", reached, met, str(where))
