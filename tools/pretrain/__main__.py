"""Make the bundled models: train them, and write them where the package looks for them.

    python -m tools.pretrain [zh] [en] [--runs DIR] [--epochs N]

Each is trained with one thread, by ``unrolled train`` with the options below, into DIR/zh and DIR/en;
what was stopped goes on. Then the matrices are rounded to int8, the temperature is fitted to blanks of
the validation split, and the test split is measured with the rounded weights.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tools.pretrain.blanks import at, drawn, fitted_temperature, guessed, reliability
from unrolled.cli import main as unrolled
from unrolled.text import pretrained
from unrolled.text.measures import evaluate
from unrolled.text.models.candidates import Tokens
from unrolled.text.models.filling import RESCORING
from unrolled.text.models.forms import word_of
from unrolled.text.pretrained import CREDIT, NAMES
from unrolled.text.run import TextRun
from unrolled.training.files import read_json, read_tensors, write_json, write_tensors
from unrolled.training.packing import packed
from unrolled.training.run import CONFIG, VOCABULARY, WEIGHTS

RECIPES: dict[str, dict[str, Any]] = {
    "zh": {
        "data": "tatoeba-zh",
        "words": True,
        "epochs": 36,
        "hidden": 480,
        "embedding": 224,
        "evaluations": 36,
        "patience": 36,
    },
    "en": {
        "data": "tatoeba-en",
        "unit": "word",
        "epochs": 20,
        "hidden": 384,
        "embedding": 192,
        "evaluations": 20,
        "patience": 20,
    },
}
"""The options of ``unrolled train cloze``."""

SHARED: dict[str, Any] = {
    "cell": "lstm",
    "learning_rate": 5e-3,
    "schedule": "linear",
    "dropout": 0.2,
    "token_dropout": 0.1,
    "weight_drop": 0.35,
    "average": 0.999,
    "threads": 1,
    "seed": 0,
}
MINUTES = {"zh": 90, "en": 36}  # of one core, as measured
BLANKS = 2_000  # of a split
KEPT = ("format", "kind", "unrolled", "text", "model", "training", "command")


def train(name: str, directory: Path, epochs: float | None) -> TextRun:
    """The run of the model ``name``, trained to its end."""
    options = {**SHARED, **RECIPES[name]} | ({"epochs": epochs} if epochs else {})
    arguments = ["train", "cloze", "--resume", "--out", str(directory)]
    for option, value in options.items():
        arguments.append(f"--{option.replace('_', '-')}")
        if value is not True:
            arguments.append(str(value))
    code = unrolled(arguments)
    if code:
        raise SystemExit(code)
    return TextRun(directory)


def write(run: TextRun, directory: Path) -> dict[str, Any]:
    """Write the model of ``run`` into ``directory``, and return its figures, of what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors, notes = read_tensors(run.directory / WEIGHTS)
    write_tensors(directory / WEIGHTS, packed(tensors), notes)
    write_json(directory / VOCABULARY, {"tokens": run.vocabulary.tokens})
    config = read_json(run.directory / CONFIG)
    config = {name: config[name] for name in KEPT} | {"credit": CREDIT}
    write_json(directory / CONFIG, config)

    model, data = TextRun(directory).model(), run.dataset()
    figures: dict[str, Any] = {}
    temperature = 1.0

    def word(tokens: Tokens) -> str:
        return word_of("".join(run.vocabulary.tokens[n] for n in tokens))

    for split in ("validation", "test"):
        asked = drawn(data, split, run.vocabulary, BLANKS)
        with torch.no_grad():
            found = guessed(model, asked, rescoring=RESCORING)  # type: ignore[arg-type]
        if split == "validation":
            temperature = fitted_temperature(asked, found, word)
        figures[split] = {
            **asdict(evaluate(model, data.batches(split, 4096))),
            "blanks": asdict(reliability(asked, [at(temperature, of) for of in found], word)),
            "blanks at temperature 1": asdict(reliability(asked, found, word)),
        }
    write_json(
        directory / CONFIG,
        config | {"filling": {"rescoring": RESCORING, "temperature": temperature}},
    )
    return {"temperature": temperature, **figures}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the models that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; by default both"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrain"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(pretrained.__file__).parent, metavar="DIR")
    parser.add_argument(
        "--epochs", type=float, help="for a quick look; the files are not the bundled ones"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in arguments.names or NAMES:
        if name not in NAMES:
            parser.error(f"NAME: got {name!r}, expected one of {', '.join(NAMES)}")
        print(
            f"{name}: about {MINUTES[name]} minutes on one core; stop it when you like, it goes on"
        )
        run = train(name, arguments.runs / name, arguments.epochs)
        figures = write(run, arguments.out / name)
        size = sum(path.stat().st_size for path in (arguments.out / name).iterdir())
        print(json.dumps({"model": name, "bytes": size, **figures}, indent=1))


if __name__ == "__main__":
    main()
