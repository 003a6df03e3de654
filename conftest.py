"""Runs every Python example of the documentation, the READMEs and the docstrings as a test."""

import os
from doctest import ELLIPSIS

import torch
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

os.environ["UNROLLED_LANG"] = "en"  # whatever the locale is of who runs them


def _same_random_numbers(_namespace: dict[str, object]) -> None:
    """Seed every document alike, so that none depends on which ran before it."""
    torch.manual_seed(0)


collect_ignore_glob = ["*/.*"]  # what editors and systems leave beside a file

# A file's examples share one namespace and run from top to bottom.
pytest_collect_file = (
    Sybil(
        parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)],
        patterns=["*.md"],
        excludes=["docs/tutorials/vanishing*.md"],  # which tests/test_tutorials.py runs
        setup=_same_random_numbers,
    )
    + Sybil(
        parsers=[DocTestParser(optionflags=ELLIPSIS)],
        path="src",
        patterns=["*.py"],
        setup=_same_random_numbers,
    )
).pytest()
