"""What carried state brings a language model: the same training on continuous text, with and without.

    python -m benchmarks.carry [--minutes N] [--seeds N …] [--smallest] [--json FILE]

An LSTM over the characters of Shakespeare's plays (H = 256, E = 128), trained by truncated BPTT in
windows of k1 = k2 = 35 characters and 24 sequences, for the same time each. "carried": the state goes on
from window to window. "cut": it begins anew with every window. Both are measured on the same held-out
passages, in both ways of reading them: "read on" carries the state through a passage, "read in windows"
begins anew every 35 characters.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import results
from benchmarks.shakespeare import K, trained
from unrolled.text.feeds import WindowFeed, windows_of
from unrolled.text.measures import TokenWindow, evaluate_continuous


class Cut(WindowFeed):
    """Windows that know nothing of those before them."""

    def epoch(self, number: int, first: int) -> Iterator[TokenWindow]:
        return map(cut, super().epoch(number, first))


def cut(window: TokenWindow) -> TokenWindow:
    """``window``, with a new sequence in every sequence."""
    resets = window.resets.clone()
    resets[0] = window.lengths > 0
    return window._replace(resets=resets)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, metavar="N", help="of each training (2)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="0 1 2"
    )
    results.add_options(parser)
    given = parser.parse_args(arguments)
    rows = []
    print("nats a character, test split      steps   read on   read in windows")
    for seed in [0] if given.smallest else given.seeds:
        for name, feed in (("carried", WindowFeed), ("cut", Cut)):
            row = measured(name, feed, seed, given.minutes, smallest=given.smallest)
            rows.append(row)
            results.write(given.json, rows)
            print(
                f"seed {seed}, {name:<8}              {row['steps']:>8,} {row['read_on']:>9.4f} "
                f"{row['read_in_windows']:>17.4f}",
                flush=True,
            )


def measured(
    name: str, feed: type[WindowFeed], seed: int, minutes: float, *, smallest: bool = False
) -> dict[str, Any]:
    """Train one model, and measure it both ways."""
    made = trained("lstm", seed=seed, minutes=minutes, feed=feed, smallest=smallest)
    with made as (model, data, steps):
        windows = list(windows_of(data, "test", 16, K))
        on = evaluate_continuous(model, windows)
        apart = evaluate_continuous(model, map(cut, windows))
    return {
        "seed": seed,
        "training": name,
        "steps": steps,
        "read_on": on.nats,
        "read_in_windows": apart.nats,
        "tokens": on.tokens,
    }


if __name__ == "__main__":
    main()
