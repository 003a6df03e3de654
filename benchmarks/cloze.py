"""Fill in the blank on Tatoeba's Chinese sentences: the two-sided network against its peers.

``python -m benchmarks.cloze [--minutes 5.5] [--seeds 0 1 2] [--smallest] [--json FILE]`` trains, with the
commands a user has, a cloze model for each seed, and one forward-only language model of the same size
and time; builds a two-sided 4-gram model from the same training split; and prints, for the test
split, top-1, top-5 and nats per character; how often a blank is filled right, with and without
rescoring; and the candidates for some everyday sentences, as they come.
"""

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import results
from benchmarks.ngram import TwoSided
from unrolled.text.data import Dataset
from unrolled.text.data.vocabulary import END, SPECIALS
from unrolled.text.models import Cloze, LanguageModel, TokenModel, fill
from unrolled.text.run import TextRun

CORPUS = "tatoeba-zh"
BLANKS = 500
TUNED = 300  # sentences of the validation split, for the 4-gram model's one number
RESCORINGS = (0.0, 0.25, 0.5, 1.0)
SENTENCES = (
    "我的手机坏了,我打算____一部新手机。",
    "我肚子饿了,想____点东西。",
    "今天天气很____,我们去公园吧。",
    "外面在下雨,别忘了带雨____。",
    "他每天早上____咖啡。",
    "她在医____工作。",
)

Scorer = Callable[[list[int], int], Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"))
    results.add_options(parser)
    given = parser.parse_args(arguments)
    if given.smallest:
        with tempfile.TemporaryDirectory() as folder:
            data = results.few_sentences(CORPUS, Path(folder))
            measure(data, 0.01, [0], Path(folder), given.json)
    else:
        measure([CORPUS], given.minutes, given.seeds, given.runs, given.json)


def measure(
    sources: list[str], minutes: float, seeds: list[int], directory: Path, json: Path | None
) -> None:
    """Train, measure, print, and write what was found to ``json``."""
    rows: dict[str, Any] = {"minutes": minutes}
    for seed in seeds:
        name = f"two-sided, seed {seed}"
        run, seconds = trained(directory / f"cloze-{seed}", "cloze", sources, minutes, seed, [])
        data, model = run.dataset(), run.model()
        assert isinstance(model, Cloze)
        rows[name] = {"seconds": seconds, "parameters": size(model)} | characters(model, data)
        for split in ("validation", "test"):  # the library's weight was chosen on the former
            rows[name][f"blanks, {split}"] = {
                f"rescoring {r:g}": blanks(data, split, network(model, run, r)) for r in RESCORINGS
            }
        rows[name]["sentences"] = {s: candidates(model, run, s) for s in SENTENCES}
        show(name, rows[name])
        results.write(json, rows)

    hidden = same_size(run, size(model))
    forward, seconds = trained(
        directory / "lm", "lm", sources, minutes, seeds[0], ["--hidden", str(hidden)]
    )
    language = forward.model()
    rows["forward only"] = {"seconds": seconds, "parameters": size(language)}
    rows["forward only"] |= characters(language, forward.dataset())
    show("forward only", rows["forward only"])
    results.write(json, rows)

    start = time.perf_counter()
    peer = two_sided(data, len(run.vocabulary))
    rows["two-sided 4-gram"] = {"alpha": peer.alpha} | ngram_characters(peer, data)
    rows["two-sided 4-gram"]["blanks, test"] = {
        "as it is": blanks(data, "test", peer.log_probabilities)
    }
    rows["two-sided 4-gram"]["seconds"] = round(time.perf_counter() - start, 1)
    show("two-sided 4-gram", rows["two-sided 4-gram"])
    results.write(json, rows)


def trained(
    directory: Path, kind: str, data: list[str], minutes: float, seed: int, options: list[str]
) -> tuple[TextRun, float]:
    """A run made by the command, and the seconds that the whole command took (0 if it was there)."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "unrolled", "train", kind, "--data", *data, "--resume"]
    command += ["--minutes", str(minutes), "--seed", str(seed), "--out", str(directory), *options]
    subprocess.run(command, check=True)
    return TextRun(directory), round(time.perf_counter() - start, 1)


def size(model: TokenModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same_size(run: TextRun, parameters: int) -> int:
    """The hidden units with which a forward-only model has at least as many parameters."""
    hidden = run.model_config["hidden_size"]
    while size(LanguageModel(**{**run.model_config, "hidden_size": hidden})) < parameters:
        hidden += 8
    return int(hidden)


def scores(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sums over the targets: nats, top-1, top-5, how many."""
    rank = (log_probabilities > log_probabilities.gather(1, targets.unsqueeze(1))).sum(1)
    nats = F.nll_loss(log_probabilities, targets, reduction="sum").double()
    return torch.stack([nats, (rank < 1).sum(), (rank < 5).sum(), torch.tensor(len(targets))])


def means(sums: torch.Tensor) -> dict[str, Any]:
    nats, top1, top5, count = sums.tolist()
    return {
        "nats": round(nats / count, 4),
        "top1": round(top1 / count, 4),
        "top5": round(top5 / count, 4),
        "characters": int(count),
    }


@torch.no_grad()
def characters(model: TokenModel, data: Dataset) -> dict[str, Any]:
    """Of the test split's characters; the end of a sentence, which only one of the models predicts,
    is left out.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in data.batches("test", 4096):
        logits, targets = model.predict(batch)
        kept = targets != END
        sums += scores(F.log_softmax(logits[kept], -1), targets[kept])
    return means(sums)


def ngram_characters(peer: TwoSided, data: Dataset) -> dict[str, Any]:
    sums = torch.zeros(4, dtype=torch.float64)
    for sentence in read(data, "test"):
        places = range(1, len(sentence) - 1)
        table = np.stack([peer.log_probabilities(sentence, k) for k in places])
        sums += scores(torch.from_numpy(table), torch.tensor(sentence[1:-1]))
    return means(sums)


def blanks(data: Dataset, split: str, scorer: Scorer) -> dict[str, Any]:
    """One blank in each of the first sentences of ``split``, at a place drawn by a fixed seed."""
    draw = random.Random(0)
    sums = torch.zeros(4, dtype=torch.float64)
    for sentence in read(data, split)[:BLANKS]:
        known = [k for k in range(1, len(sentence) - 1) if sentence[k] >= len(SPECIALS)]
        place = draw.choice(known)
        found = torch.as_tensor(scorer(sentence, place)).unsqueeze(0)
        sums += scores(found.double(), torch.tensor([sentence[place]]))
    return means(sums)


def network(model: Cloze, run: TextRun, rescoring: float) -> Scorer:
    """The log-probabilities that ``fill`` gives a blank."""
    tokens = run.vocabulary.tokens

    def scorer(sentence: list[int], place: int) -> torch.Tensor:
        text = "".join("<blank>" if k == place else tokens[n] for k, n in enumerate(sentence))
        text = text.removeprefix("<s>").removesuffix("</s>").replace("<unk>", "\ufffd")
        result = fill(
            model, run.vocabulary, run.tokenizer, text, top=len(tokens), rescoring=rescoring
        )
        p = torch.zeros(len(tokens))
        for candidate in result.blanks[0].candidates:
            p[run.vocabulary.numbers[candidate.text]] = candidate.probability
        return p.log()

    return scorer


def candidates(model: Cloze, run: TextRun, text: str) -> str:
    found = fill(model, run.vocabulary, run.tokenizer, text).blanks[0].candidates
    return "  ".join(f"{c.text} {c.probability:.3f}" for c in found)


def two_sided(data: Dataset, vocabulary_size: int, more: Iterable[list[int]] = ()) -> TwoSided:
    """The 4-gram peer of the training split, and of ``more`` sentences."""
    peer = TwoSided([*read(data, "train"), *more], vocabulary_size)
    peer.tune(read(data, "validation")[:TUNED])
    return peer


def read(data: Dataset, split: str) -> list[list[int]]:
    """The sentences of ``split``, each with ``<s>`` and ``</s>``."""
    edges = itertools.pairwise(data.offsets[split].tolist())
    return [data.tokens[split][start:stop].tolist() for start, stop in edges]


def show(name: str, row: dict[str, Any]) -> None:
    print(f"\n{name}")
    for key, value in row.items():
        if isinstance(value, dict):
            print(f"  {key}")
            for inner, figures in value.items():
                print(f"    {inner}: {figures}")
        else:
            print(f"  {key}: {value}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
