"""The demo, judged: what ``make demo`` gives by chance and by the steps that a machine has time for.

``python -m benchmarks.demo [--seeds N …] [--steps N …] [--data NAME …] [--words] [--runs DIR]
[--smallest] [--json FILE]`` trains what ``make demo`` trains, with one thread, for each seed and each
number of steps; and prints, for each, nats on the validation split, nats, top-1 and top-5 on Tatoeba's
test split, the shares of the everyday sentences, and the candidates for the demo's sentence. The rate
of learning does not depend on the number of steps, so that a run is trained once and measured on its
way. What was stopped goes on; a result is written as soon as it is there, all seeds of the fewest steps
first. ``--data`` and ``--words`` try another recipe, with a ``--runs`` of its own.

The everyday sentences and the demo's are test sets: the recipe is chosen on the validation split, but for
the second corpus, of which one trial was also judged by them (docs/guides/demo.md).
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import everyday, results
from benchmarks.cloze import CORPUS, SENTENCES
from benchmarks.everyday.__main__ import judged, network
from unrolled.cli import runs
from unrolled.cli.train import begin_run
from unrolled.text.measures import evaluate
from unrolled.text.models import Cloze, fill
from unrolled.text.run import TextRun
from unrolled.training import Trainer
from unrolled.training.files import read_json
from unrolled.training.run import beginning, locked, place_of_a_run
from unrolled.training.settings import OPEN_WARM_UP, WARM_UP

SOURCES = (CORPUS, "hsk-zh", "hsk-zh", "hsk-zh")  # as the Makefile has it
SEEDS = (0, 1, 2, 3, 4)
STEPS = (5_000, 9_000, 14_000)
FEWEST = round(OPEN_WARM_UP / WARM_UP)  # steps from which on their number does not count
SENTENCE = SENTENCES[0]
ANSWERS = ("买", "换")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="N")
    parser.add_argument("--data", nargs="+", default=SOURCES, metavar="NAME")
    parser.add_argument("--words", action="store_true", help="learn words of several characters")
    parser.add_argument("--runs", type=Path, default=Path("runs/demos"), metavar="DIR")
    results.add_options(parser)
    given = parser.parse_args(arguments)
    if given.smallest:
        with tempfile.TemporaryDirectory() as folder:
            sources = results.few_sentences(CORPUS, Path(folder))
            measure(sources, sources, given.words, [0], [2, 4], Path(folder), given.json)
    else:
        if min(given.steps) < FEWEST and len(given.steps) > 1:
            parser.error(
                f"--steps: got {min(given.steps)} beside others, expected {FEWEST:,} or more: of a shorter "
                "training the rate rises faster, and a longer one does not pass through it"
            )
        measure(
            [*given.data],
            [CORPUS],
            given.words,
            given.seeds,
            sorted(given.steps),
            given.runs,
            given.json,
        )


def measure(
    sources: list[str],
    tested: list[str],
    words: bool,
    seeds: Sequence[int],
    budgets: Sequence[int],
    folder: Path,
    json: Path | None,
) -> None:
    """Train on ``sources``, judge on ``tested`` and print each seed at each number of steps."""
    rows: dict[str, Any] = read_json(json) if json is not None and json.exists() else {}
    for steps in budgets:
        for seed in seeds:
            name = f"seed {seed}, {steps:,} steps"
            if name not in rows:
                directory = folder / f"seed-{seed}"
                run = begin(directory, sources, words, seed)
                rows[name] = trained(run, steps) | judge(directory, tested)
                results.write(json, rows)
            show(name, rows[name])
        show(f"all seeds, {steps:,} steps", together(rows, seeds, steps))


def begin(directory: Path, sources: list[str], words: bool, seed: int) -> TextRun:
    """The run in ``directory``; it is begun as ``unrolled train cloze`` does, if there is none."""
    if TextRun.exists(directory):
        return TextRun(directory)
    with place_of_a_run(directory, is_new=True), beginning(directory):
        given = {"kind": "cloze", "data": sources, "words": words}
        given |= {"seed": seed, "threads": 1, "epochs": 1.0}
        begin_run(directory, given)
    return TextRun(directory)


def trained(run: TextRun, steps: int) -> dict[str, Any]:
    """Train ``run`` on, to ``steps``: what a run of so many steps would have come to."""
    torch.set_num_threads(1)
    with locked(run.directory):
        trainer = Trainer(run)
        trainer.settings = run.settings.with_steps(steps)
        trainer.restore()
        first, start = trainer.step, time.process_time()
        outcome = trainer.train()
    seconds = time.process_time() - start
    return {
        "validation_nats": round(outcome.best, 4),
        "weights_of_step": run.weights_step(),
        "cpu_ms_per_step": round(1e3 * seconds / max(1, outcome.step - first), 1),
    }


def judge(directory: Path, tested: list[str]) -> dict[str, Any]:
    """What the kept weights do on ``tested``'s test split, the everyday list and the demo's sentence."""
    chosen = runs.chosen(directory, None, "zh", Cloze)
    with tempfile.TemporaryDirectory() as folder:
        data = runs.data_of(chosen.run, tested, Path(folder))
        scores = evaluate(chosen.model, data.batches("test", 4096))
        del data  # its files are mapped, and must go before their directory does
    sentences = everyday.read("zh")
    shares = judged(sentences, [True] * len(sentences), network(chosen)).over_all
    assert shares is not None
    found = (
        fill(chosen.model, chosen.run.vocabulary, chosen.tokenizer, SENTENCE).blanks[0].candidates
    )
    places = (k for k, c in enumerate(found, start=1) if c.text in ANSWERS)
    return {
        "test": {name: round(getattr(scores, name), 4) for name in ("nats", "top1", "top5")},
        "everyday": {"top1": round(shares.top1, 4), "top5": round(shares.top5, 4)},
        "place": next(places, None),
        "sentence": "  ".join(f"{c.text} {c.probability:.3f}" for c in found),
    }


def together(rows: dict[str, Any], seeds: Sequence[int], steps: int) -> dict[str, Any]:
    """The means over the seeds, and how often an answer is among the first three and five."""
    found = [rows[f"seed {seed}, {steps:,} steps"] for seed in seeds]
    figures: dict[str, Any] = {
        part: {
            name: round(sum(row[part][name] for row in found) / len(found), 4)
            for name in found[0][part]
        }
        for part in ("test", "everyday")
    }
    places = [row["place"] or 6 for row in found]
    for most in (3, 5):
        figures[f"{' or '.join(ANSWERS)} among {most}"] = (
            f"{sum(place <= most for place in places)} of {len(places)}"
        )
    return figures


def show(name: str, row: dict[str, Any]) -> None:
    print(name)
    for key, value in row.items():
        print(f"  {key}: {value}")
    print(flush=True)


if __name__ == "__main__":
    main()
