"""The command: a run and a list in, a table and JSON out."""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import benchmarks.everyday
from benchmarks import cloze, results
from benchmarks.everyday import LISTS, TOP, Sentence, Shares, met, rank, read, scored
from benchmarks.ngram import TwoSided
from unrolled.cli import runs
from unrolled.text.data.vocabulary import END, SPECIALS, UNKNOWN
from unrolled.text.models import Cloze, fill
from unrolled.text.models.filling import BLANK, MARK
from unrolled.text.run import TextRun

Guess = Callable[[str], list[str]]  # the candidates for the blank of a text, best first


class Result(NamedTuple):
    """One model's candidates for each sentence, the answers' ranks, and the shares of them."""

    candidates: list[list[str]]
    ranks: list[int | None]
    over_all: Shares | None
    over_met: Shares | None  # of the sentences that one token of the vocabulary can meet


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    chosen = runs.chosen(given.run, None, given.list, Cloze)
    run, sentences = chosen.run, read(given.list)[: TOP if given.smallest else None]
    several = chosen.model.join_words is not None
    meets = met(sentences, run.vocabulary.tokens[len(SPECIALS) :], several=several)
    peer = built(run, smallest=given.smallest)
    guesses = {"network": network(chosen), "two-sided 4-gram": ngram(run, peer)}
    report: dict[str, Any] = {"list": given.list, "sentences": len(sentences), "met": sum(meets)}
    found: dict[str, Result] = {}
    for name, guess in guesses.items():
        found[name] = judged(sentences, meets, guess)
        report[name] = row_json(found[name])
        if name != "network":
            report[name]["alpha"] = peer.alpha
        results.write(given.json, report)

    print(
        f"{len(sentences)} sentences ({given.list}); {sum(meets)} can be met by "
        f"{'one to four tokens' if several else 'one token'} of the "
        f"{len(run.vocabulary) - len(SPECIALS):,} that {chosen.name} knows"
    )
    show(found, len(sentences), sum(meets))
    if given.show:
        for name, result in found.items():
            show_misses(name, sentences, result)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.everyday",
        description=benchmarks.everyday.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        metavar="RUN_DIR",
        help="of 'unrolled train cloze'; by default the bundled model",
    )
    parser.add_argument("--list", choices=LISTS, default="zh", help="of which language (zh)")
    results.add_options(parser)
    parser.add_argument(
        "--show",
        action="store_true",
        help="print every miss; the list is a test set: nothing may be tuned on what is seen",
    )
    return parser.parse_args(arguments)


def network(chosen: runs.Chosen[Cloze]) -> Guess:
    """What ``unrolled fill`` proposes."""
    parts, options = (chosen.model, chosen.run.vocabulary, chosen.tokenizer), chosen.run.filling

    def guess(text: str) -> list[str]:
        (blank,) = fill(*parts, text, top=TOP, **options).blanks
        return [candidate.text for candidate in blank.candidates]

    return guess


def built(run: TextRun, *, smallest: bool = False) -> TwoSided:
    """The peer, of the run's training split; if ``smallest``, of a few sentences."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        few = results.few_sentences(run.command["data"][0], folder) if smallest else None
        data = runs.data_of(run, few, folder)
        peer = cloze.two_sided(data, len(run.vocabulary))
        del data  # its files are mapped
    return peer


def ngram(run: TextRun, peer: TwoSided) -> Guess:
    """What the peer proposes; like the network it proposes no special token."""

    def guess(text: str) -> list[str]:
        order = np.argsort(-peer.log_probabilities(*numbered(run, text)), kind="stable")
        proposed = (run.vocabulary.tokens[n] for n in order if n >= len(SPECIALS))
        return list(itertools.islice(proposed, TOP))

    return guess


def numbered(run: TextRun, text: str) -> tuple[list[int], int]:
    """The numbers of ``text``, with its start, its end and any token for its blank; the blank's place."""
    tokenizer, vocabulary = run.tokenizer, run.vocabulary
    marked = tokenizer.normalise(BLANK.sub(MARK, text))
    left, right = (vocabulary.encode(tokenizer.cut(part)) for part in marked.split(MARK))
    return [*left[:-1], UNKNOWN, *right[1:-1], END], len(left) - 1


def judged(sentences: Sequence[Sentence], meets: Sequence[bool], guess: Guess) -> Result:
    """Fill every sentence with ``guess``, and score it."""
    candidates = [guess(sentence.text) for sentence in sentences]
    ranks = [rank(s, found) for s, found in zip(sentences, candidates, strict=True)]
    return Result(candidates, ranks, scored(ranks), scored(list(itertools.compress(ranks, meets))))


def row_json(result: Result) -> dict[str, Any]:
    found = {"all": result.over_all, "met": result.over_met}
    return {name: shares and shares._asdict() for name, shares in found.items()}


def show(results: dict[str, Result], count: int, meets: int) -> None:
    print(f"{'':18}{f'of all {count}':>18}{f'of those {meets}':>18}")
    print(f"{'':18}{'top-1':>9}{'top-5':>9}{'top-1':>9}{'top-5':>9}")
    for name, result in results.items():
        figures = "".join(
            f"{shares.top1:9.2f}{shares.top5:9.2f}" if shares else f"{'-':>9}" * 2
            for shares in (result.over_all, result.over_met)
        )
        print(f"{name:18}{figures}")


def show_misses(name: str, sentences: Sequence[Sentence], result: Result) -> None:
    """Each sentence whose first candidate is no answer: the answer's rank, the usual answer, what came."""
    print(f"\n{name}: missed, with the rank of the first answer, the usual answer, the candidates")
    for sentence, found, place in zip(sentences, result.candidates, result.ranks, strict=True):
        if place != 1:
            print(f"{place or '-'}  {sentence.text}  {sentence.answers[0]}  {' '.join(found)}")


if __name__ == "__main__":
    main()
