"""The Chinese bundled model on Tatoeba's test split, beside its peers.

``python -m benchmarks.pretrained [--runs NAME=DIR …] [--smallest] [--json FILE]`` prints top-1, top-5
and nats per character of the shipped file; of a two-sided 4-gram model of the same training split,
without and with the text of reviews; and of any runs of 'unrolled train' on the same text. The end of a
sentence, which only a language model predicts, is left out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.cloze import CORPUS, characters, ngram_characters, size, two_sided
from unrolled.cli.runs import data_of
from unrolled.text.data import sentences
from unrolled.text.pretrained import load
from unrolled.text.run import TextRun

REVIEWS = "reviews-zh"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=DIR")
    results.add_options(parser)
    given = parser.parse_args(arguments)
    bundled, rows = load("zh"), {}
    with tempfile.TemporaryDirectory() as directory:
        sources, reviews = None, [REVIEWS]
        if given.smallest:
            sources = results.few_sentences(CORPUS, Path(directory))
            reviews = results.few_sentences(REVIEWS, Path(directory))
        data = data_of(bundled.run, sources, Path(directory))
        rows["the bundled model"] = {"parameters": size(bundled.model)} | characters(
            bundled.model, data
        )
        show("the bundled model", rows)
        results.write(given.json, rows)
        for named in given.runs:
            name, _, path = named.partition("=")
            run = TextRun(Path(path))
            if run.vocabulary.tokens != bundled.run.vocabulary.tokens:
                parser.error(
                    f"--runs: {path} has another vocabulary, expected that of the bundled model"
                )
            model = run.model()
            rows[name] = {"parameters": size(model)} | characters(model, data)
            show(name, rows)
            results.write(given.json, rows)
        encode, tokens = bundled.run.vocabulary.encode, bundled.run.tokenizer.tokens
        more = (encode(tokens(text)) for text in sentences(reviews))
        for name, others in (("two-sided 4-gram", ()), ("two-sided 4-gram, with reviews", more)):
            peer = two_sided(data, len(bundled.run.vocabulary), others)
            rows[name] = {"alpha": peer.alpha} | ngram_characters(peer, data)
            show(name, rows)
            results.write(given.json, rows)
        del data  # its files are mapped


def show(name: str, rows: dict[str, Any]) -> None:
    print(
        f"{name:32}" + "  ".join(f"{key} {value}" for key, value in rows[name].items()), flush=True
    )


if __name__ == "__main__":
    main()
