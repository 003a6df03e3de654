"""Records as ``Report.record`` gives them: of true measures, and of the strangest kinds."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import lens
from unrolled.layers.finding import Layer

Record = dict[str, Any]
BATCH_SIZE, FEATURES = 4, 3


def record(layer: Layer, x: Tensor, name: str = "rnn") -> Record:
    """Of ``layer`` over ``x`` ``[T, B, D]``, with a loss on its last output."""
    model = nn.ModuleDict({name: layer})
    with lens.watch(model) as seen:
        layer(x)[0][-1].square().mean().backward()
    return seen.report().record()


def lstm(steps: int = 50, hidden: int = 24) -> Record:
    torch.manual_seed(0)
    layer = nn.LSTM(FEATURES, hidden, num_layers=2, bidirectional=True)
    return record(layer, torch.randn(steps, BATCH_SIZE, FEATURES))


def elman(steps: int = 50, hidden: int = 24, scale: float = 1.0, name: str = "rnn") -> Record:
    torch.manual_seed(0)
    layer = nn.RNN(FEATURES, hidden)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(scale)
    return record(layer, torch.randn(steps, BATCH_SIZE, FEATURES), name)


def history(count: int = 5, steps: int = 30, hidden: int = 12) -> dict[int, Record]:
    """Of a simple network whose W grows from vanishing to exploding."""
    scales = torch.linspace(0.6, 4.0, count).tolist()
    found = {100 * i: elman(steps, hidden, scale) for i, scale in enumerate(scales)}
    last = found[100 * (count - 1)]
    last["clipping"] = {
        "calls": 400,
        "clipped": 31,
        "factor": 0.42,
        "spikes": [
            {"call": 211 + i, "norm": 12.5 / (i + 1), "bound": 1.0, "lag": 9 - 2 * i}
            | {"layer": "rnn", "level": 0, "direction": 0, "step": 20 + i}
            for i in range(3)
        ],
    }
    last["clipping"]["spikes"].append({"call": 300, "norm": None, "bound": 1.0})
    last["notes"] = ["call 17 of rnn was shorter than the others"]
    return found


def trials(steps: int = 30, hidden: int = 12) -> Record:
    """Of remedies, each with the norms of a network of its own."""
    scales = {"as it is": 0.6, "remedies.orthogonal_weights_": 1.8, "remedies.as_gru": 1.4}
    found = []
    for remedy, scale in scales.items():
        worst = elman(steps, hidden, scale)["rows"][0]
        verdict = {k: worst["verdict"][k] for k in ("state", "growth", "horizon")}
        found.append({"remedy": remedy, **verdict, "loss": 0.25, "norms": worst["norms"]})
    return {"trials": found, "left_out": {"remedies.forget_bias_": "got cells of Elman"}}


INJECTION = "</script><script>document.title='taken'</script><b>&\"'`\u2028"


def empty_row(**changes: Any) -> Record:
    row = {"layer": "rnn", "level": 0, "direction": 0, "calls": int("norms" in changes)}
    row |= {"norms": [], "spread": [], "verdict": None, "view": None} | changes
    norms, spread = (
        torch.tensor([math.nan if v is None else v for v in row[name]], dtype=torch.float64)
        for name in ("norms", "spread")
    )
    place = row["layer"], row["level"], row["direction"], row["calls"]
    told = lens.Row(*place, norms, spread, None)
    return row | {"ends": told.ends}


def whole(*rows: Record, **changes: Any) -> Record:
    return {"rows": list(rows), "notes": [], "broken": None, "clipping": None} | changes


def verdict(**changes: Any) -> Record:
    place = {"layer": "rnn", "level": 0, "direction": 0, "state": "vanishing", "growth": 0.5}
    return place | {"horizon": 6.6, "evidence": "seen", "remedies": []} | changes


def view(**changes: Any) -> Record:
    shown = {"states": [[0.5]], "every": 1, "lags": [[1.0]], "estimated": False, "eigenvalues": {}}
    return shown | {"gate": None, "slopes": None, "factors": None} | changes


def nulls() -> Record:
    """Nothing in it was finite."""
    seen = empty_row(norms=[None] * 3, spread=[None] * 3)
    seen["verdict"] = verdict(growth=None, horizon=None)
    seen["view"] = view(
        states=[[None, None]] * 3,
        lags=[[None] * 3] * 3,
        eigenvalues={"s": [[None, None]]},
        gate={"name": "f", "mean": None, "time_scale": [None, None]},
    )
    broken = {"where": "backward", "layer": "rnn", "level": 0, "direction": 0}
    return whole(seen, broken=broken | {"call": 0, "step": 2, "sequence": 0, "value": "nan"})


def zeros() -> Record:
    seen = empty_row(norms=[0.0] * 4, spread=[0.0] * 4, verdict=verdict(state="dead", growth=0.0))
    return whole(seen | {"view": view(states=[[0.0] * 3] * 4, lags=[[1.0, 0.0, 0.0, 0.0]] * 4)})


def huge() -> Record:
    seen = empty_row(norms=[1e300, 1e-300], spread=[1e300, 0.0])
    return whole(seen | {"view": view(states=[[1e30], [-1e30]], lags=[[1.0, None], [1.0, 1e300]])})


def hostile() -> tuple[dict[int, Record], Record]:
    seen = empty_row(layer=INJECTION, norms=[1.0, 2.0], spread=[0.0, 0.0])
    seen["verdict"] = verdict(evidence=INJECTION)
    tried = {"remedy": INJECTION, "state": "healthy", "growth": 1.0, "horizon": None}
    tried |= {"loss": None, "norms": [1.0, 2.0]}
    return {0: whole(seen, notes=[INJECTION])}, {"trials": [tried]}


def many() -> Record:
    names = [*(f"layers.{i}" for i in range(99)), "encoder." * 40 + "rnn"]
    seen = {
        "norms": [0.5, 1.0],
        "spread": [0.1] * 2,
        "verdict": verdict(growth=0.9),
        "view": view(),
    }
    return whole(*(empty_row(layer=name, **seen) for name in names))


def flat(*norms: float) -> Record:
    return whole(empty_row(norms=list(norms), spread=[0.1] * len(norms)))


# Everything that may come and nobody expects: records by training step, and trials.
STRANGE: dict[str, Callable[[], tuple[dict[int, Record], Record | None]]] = {
    "nothing ran": lambda: ({0: whole(notes=["rnn did not run inside the block"])}, None),
    "an empty row": lambda: ({0: whole(empty_row())}, None),
    "one step of one unit": lambda: ({0: elman(steps=1, hidden=1)}, None),
    "one unit": lambda: ({0: elman(steps=5, hidden=1)}, None),
    "no view": lambda: ({0: flat(0.1, 1.0)}, None),
    "nothing but null": lambda: ({0: nulls()}, None),
    "all zero": lambda: ({0: zeros()}, None),
    "no gradient": lambda: (
        {0: whole(empty_row(norms=[None] * 3, spread=[None] * 3, calls=0))},
        None,
    ),
    "the largest numbers": lambda: ({0: huge()}, None),
    "hostile text": hostile,
    "a hundred layers": lambda: ({0: many()}, None),
    "a layer that comes later": lambda: (
        {0: whole(), 1: flat(), 2: elman(steps=3, hidden=2)},
        {"trials": []},
    ),
    "a hundred snapshots": lambda: (dict.fromkeys(range(100), flat(1.0, 2.0)), None),
}
