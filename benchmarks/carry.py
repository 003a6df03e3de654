"""What carried state brings a language model: the same training on continuous text, with and without.

    python -m benchmarks.carry [--minutes N] [--seeds N …] [--json FILE]

An LSTM over the characters of Shakespeare's plays (H = 256, E = 128), trained by truncated BPTT in
windows of k1 = k2 = 35 characters and 24 lanes, for the same time each. "carried": the state goes on
from window to window. "cut": it begins anew with every window. Both are measured on the same held-out
passages, in both ways of reading them: "read on" carries the state through a passage, "read in windows"
begins anew every 35 characters.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from unrolled.data import Tokenizer, sentences
from unrolled.models import LanguageModel
from unrolled.training import (
    Run,
    Settings,
    Trainer,
    evaluate_continuous,
    steps_of,
    write_data,
)
from unrolled.training.feeds import Windows, windows_of
from unrolled.training.measures import TokenWindow

K, LANES, PASSAGE = 35, 24, 128
SIZES: dict[str, Any] = {"hidden_size": 256, "embedding_size": 128, "cell": "lstm", "dropout": 0.05}


class Cut(Windows):
    """Windows that know nothing of those before them."""

    def epoch(self, number: int, first: int) -> Iterator[TokenWindow]:
        return map(cut, super().epoch(number, first))


def cut(window: TokenWindow) -> TokenWindow:
    """``window``, with a new sequence in every lane."""
    resets = window.resets.clone()
    resets[0] = window.lengths > 0
    return window._replace(resets=resets)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, metavar="N", help="of each training (2)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="0 1 2"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    arguments = parser.parse_args()
    rows = []
    print("nats a character, test split      steps   read on   read in windows")
    for seed in arguments.seeds:
        for name, feed in (("carried", Windows), ("cut", Cut)):
            row = trained(name, feed, seed, arguments.minutes)
            rows.append(row)
            print(
                f"seed {seed}, {name:<8}              {row['steps']:>8,} {row['read_on']:>9.4f} "
                f"{row['read_in_windows']:>17.4f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def trained(name: str, kind: type[Windows], seed: int, minutes: float) -> dict[str, Any]:
    """Train one model, and measure it both ways."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        tokenizer = Tokenizer("char")
        data, vocabulary = write_data(
            directory,
            sentences(["shakespeare"]),
            tokenizer,
            longest=200,
            min_count=2,
            passage=PASSAGE,
        )
        settings = Settings(
            seed=seed, steps=1, epochs=None, minutes=minutes, batch_tokens=832, optimizer="adam",
            learning_rate=1e-2, schedule="linear", weight_decay=0.0, clip=1.0, evaluations=4,
            patience=4, threads=torch.get_num_threads(), bptt="truncated", k1=K, k2=K, lanes=LANES,
        )  # fmt: skip
        sizes = {"vocabulary_size": len(vocabulary), **SIZES}
        torch.manual_seed(seed)
        settings = settings.with_steps(steps_of(LanguageModel(**sizes), data, settings))
        run = Run.create(
            directory, kind="lm", vocabulary=vocabulary, tokenizer=tokenizer, model_config=sizes,
            settings=settings, command={"kind": "lm", "longest": 200, "passage": PASSAGE},
        )  # fmt: skip
        trainer = Trainer(run)
        trainer.feed = kind(trainer.model, data, settings)
        outcome = trainer.train()
        model = run.model()
        assert isinstance(model, LanguageModel)
        windows = list(windows_of(data, "test", 16, K))
        on = evaluate_continuous(model, windows)
        apart = evaluate_continuous(model, map(cut, windows))
    return {
        "seed": seed,
        "training": name,
        "steps": outcome.step,
        "read_on": on.nats,
        "read_in_windows": apart.nats,
        "tokens": on.tokens,
    }


if __name__ == "__main__":
    main()
