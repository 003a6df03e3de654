"""The reference lists what is public."""

import re
from importlib import import_module
from pathlib import Path

import pytest

REFERENCE = (Path(__file__).parent.parent / "docs" / "reference.md").read_text("utf-8")
LISTED = re.findall(r"^\.\. (?:auto|py:)\w+:: (?:[\w.]+\.)?(\w+)$", REFERENCE, re.M)


@pytest.mark.parametrize(
    "package",
    [
        "bptt",
        "cells",
        "lens",
        "series.data",
        "text.data",
        "text.models",
        "text.pretrained",
        "training",
    ],
)
def test_what_a_package_exports_is_listed(package: str) -> None:
    exported = import_module(f"unrolled.{package}").__all__
    assert exported and set(exported) <= set(LISTED)


def test_a_name_that_is_not_listed_is_seen() -> None:
    assert "Report" in LISTED and "Reports" not in LISTED
