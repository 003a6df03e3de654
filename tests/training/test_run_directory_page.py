"""The page on the run directory names every file of a finished run, and every field."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.sentences import write_corpus
from unrolled.cli import main
from unrolled.training import Settings
from unrolled.training.loop import OPTIMIZER_STATE, PROGRESS

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "run-directory.md"
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")))
SMALL = ("--epochs", "1", "--hidden", "4", "--threads", "1")


def unnamed(names: set[str]) -> set[str]:
    """Those that the page does not name; what is said of the training split holds for the others."""
    return {n for n in names if re.sub("^(validation|test)\\b", "train", n) not in NAMED}


@pytest.fixture(scope="module", params=["cloze", "lm"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    corpus, out = write_corpus(folder / "corpus.txt", 200), folder / "run"
    more = {
        "cloze": ["--watch", "5", "--words", "--average", "0.9"],
        "lm": ["--bptt", "truncated", "--k1", "5", "--batch-size", "2", "--remedy", "autoclip=10"],
    }[request.param]
    assert (
        main(["train", request.param, "--data", str(corpus), *SMALL, *more, "--out", str(out)]) == 0
    )
    return out


def test_every_file_is_named(run: Path) -> None:
    names = {path.name for path in run.rglob("*") if path.is_file()}
    assert {"config.json", "train.tokens", ".lock"} <= names
    assert not unnamed(names)


def test_every_field_of_the_config_is_named(run: Path) -> None:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert not unnamed(set(config) | set(config["text"]) | set(config["training"]))
    assert set(config["training"]) == {field.name for field in fields(Settings)}


def test_every_note_and_owner_of_a_tensor_is_named(run: Path) -> None:
    with safe_open(run / "training.safetensors", framework="pt") as file:
        owners = {name.split(".", 1)[0] for name in file.keys()}  # noqa: SIM118
        notes = json.loads(file.metadata()["notes"])
    assert set(notes) == set(PROGRESS) and not unnamed(set(notes))
    assert owners <= {name.split(".", 1)[0] for name in NAMED}
    assert not unnamed({name for names in OPTIMIZER_STATE.values() for name in names} - {"step"})


def test_a_file_that_is_not_named_is_seen() -> None:
    assert unnamed({"config.json", "test.tokens", "other.json"}) == {"other.json"}
