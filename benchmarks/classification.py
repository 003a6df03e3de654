"""Classification of sequences on real sets: accuracy on their test splits, and with values removed.

``pip install --no-deps aeon`` first: five sets lie in that package (BSD 3-Clause), of which nothing but
the data is read. ``python -m benchmarks.classification [--seeds 0 1 2 3 4] [--sets NAME …] [--json FILE]
[--smallest]`` fits ``SequenceClassifier()`` with its defaults to each set's own training split, and prints
the accuracy on its test split, with the seconds of a processor that a fit took. Then, on JapaneseVowels
with 30, 50 and 70 % of all values removed at random from both splits: the cells that are told what is
missing, against the same LSTM on values filled with the mean, and with the last one before. Rows that FILE
has are not measured again.

The sets: JapaneseVowels (Kudo, Toyama & Shimbo 1999, by UCI, CC BY 4.0), and of the UCR and UEA archives
ItalyPowerDemand (Keogh et al. 2006), GunPoint (Ratanamahatana & Keogh 2004), OSULeaf (Gandhi 2002),
BasicMotions (2016).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import results
from unrolled.errors import MissingExtraError
from unrolled.series import SequenceClassifier

SETS = ("JapaneseVowels", "ItalyPowerDemand", "BasicMotions", "GunPoint", "OSULeaf")
REMOVED = (30, 50, 70)  # per cent
Array = NDArray[Any]
Arrays = list[Array]


class Split(NamedTuple):
    """Sequences ``[T, D]`` and their classes."""

    values: Arrays
    labels: Array


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    results.add_options(parser)
    given = parser.parse_args(arguments)
    if given.smallest:
        options = {"epochs": 1, "hidden_size": 4}
        measure({"made up": (made_up(0), made_up(1))}, "made up", [0], given.json, options)
        return
    sets = {name: (read(name, "TRAIN"), read(name, "TEST")) for name in given.sets}
    measure(sets, "JapaneseVowels", given.seeds, given.json, {})


def measure(
    sets: dict[str, tuple[Split, Split]],
    thinned: str,
    seeds: Sequence[int],
    path: Path | None,
    options: dict[str, Any],
) -> None:
    """Fit, score, print, and write what was found to ``path``."""
    rows: dict[str, Any] = {}
    if path is not None and path.exists():
        rows = json.loads(path.read_text(encoding="utf-8"))
    rows["machine"] = rows.get("machine") or results.machine()
    for name, splits in sets.items():
        row = rows.setdefault(name, {})
        for seed in seeds:
            found(row, str(seed), lambda: scored(*splits, seed, options))  # noqa: B023
            results.write(path, rows)
        show(name, row)
    if thinned not in sets:
        return
    for share in REMOVED:
        for way, (prepare, of_way) in WAYS.items():
            row = rows.setdefault(f"{thinned}, {share} % removed", {}).setdefault(way, {})
            for seed in seeds:
                train, test = (
                    prepare(removed(split, share / 100, (seed, k)))
                    for k, split in enumerate(sets[thinned])
                )
                found(row, str(seed), lambda: scored(train, test, seed, options | of_way))  # noqa: B023
                results.write(path, rows)
            show(f"{share} % removed, {way}", row)


def found(row: dict[str, Any], key: str, work: Callable[[], Any]) -> None:
    """Set ``row[key]`` to what ``work`` finds, unless it is there."""
    if key not in row:
        row[key] = work()


def scored(train: Split, test: Split, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """The accuracy on ``test`` of a classifier that was fitted to ``train``, and the seconds it took."""
    classifier = SequenceClassifier(random_state=seed, **options)
    begin = time.process_time()
    classifier.fit(*train)
    seconds = time.process_time() - begin
    accuracy = float((classifier.predict(test.values) == test.labels).mean())
    return {"accuracy": round(accuracy, 4), "seconds": round(seconds, 1)}


def show(name: str, row: dict[str, dict[str, float]]) -> None:
    every = [one["accuracy"] for one in row.values()]
    most = max(one["seconds"] for one in row.values())
    shown = " ".join(f"{accuracy:.4f}" for accuracy in every)
    print(f"{name:32}{np.mean(every):.4f}   {shown}   {most:.0f} s at most", flush=True)


# --- Values that are missing ----------------------------------------------------------------------


def removed(split: Split, share: float, seed: tuple[int, ...]) -> Split:
    """The same with a share of all values NaN."""
    random = np.random.default_rng(seed)
    values = [np.where(random.random(x.shape) < share, np.nan, x) for x in split.values]
    return Split(values, split.labels)


def as_it_is(split: Split) -> Split:
    return split


def mean_filled(split: Split) -> Split:
    """Each missing value by its feature's mean over the split: 0 in the network's standard units."""
    mean = np.nanmean(np.concatenate(split.values), axis=0)
    return Split([np.where(np.isnan(x), mean, x) for x in split.values], split.labels)


def forward_filled(split: Split) -> Split:
    """Each missing value by the last one before; before the first by the mean."""
    values = []
    for x in split.values:
        rows = np.where(np.isnan(x), -1, np.arange(len(x))[:, None])
        last = np.maximum.accumulate(rows, axis=0)
        filled = np.take_along_axis(x, np.maximum(last, 0), axis=0)
        values.append(np.where(last < 0, np.nan, filled))
    return mean_filled(Split(values, split.labels))


WAYS: dict[str, tuple[Callable[[Split], Split], dict[str, Any]]] = {
    "by default": (as_it_is, {}),
    "LSTM, mask": (as_it_is, {"cell": "lstm"}),
    "LSTM, filled with the mean": (mean_filled, {"cell": "lstm"}),
    "LSTM, filled forward": (forward_filled, {"cell": "lstm"}),
}


# --- Sets -----------------------------------------------------------------------------------------


def read(name: str, split: str) -> Split:
    """A set as the package aeon brings it, from its file of the form ``.ts``."""
    package = find_spec("aeon")
    if package is None or package.origin is None:
        raise MissingExtraError("a set of sequences", "aeon", "none; add --no-deps")
    path = Path(package.origin).parent / "datasets" / "data" / name / f"{name}_{split}.ts"
    values, labels = [], []
    for line in _rows(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        *features, label = line.split(":")
        columns = [np.array(feature.split(","), float) for feature in features]
        values.append(np.stack(columns, 1))
        labels.append(label)
    return Split(values, np.array(labels))


def _rows(lines: Iterable[str]) -> Iterable[str]:
    """What stands after ``@data``."""
    rows = iter(lines)
    for line in rows:
        if line.strip().lower() == "@data":
            break
    return (line.strip() for line in rows if line.strip())


def made_up(seed: int) -> Split:
    """Waves of two periods."""
    random = np.random.default_rng(seed)
    labels = np.arange(8) % 2
    times = [np.arange(random.integers(5, 12)) for _ in labels]
    values = [np.sin(t / (1 + label))[:, None] for t, label in zip(times, labels, strict=True)]
    return Split(values, labels)


if __name__ == "__main__":
    main()
