"""Make the models in the box: train them, and write them where the package looks for them.

    python -m unrolled.pretrained [zh] [en] [--runs DIR] [--epochs N]

Each is trained with one thread, by ``unrolled train`` with the options below, into DIR/zh and DIR/en;
what was stopped goes on. The Chinese one then goes on with more text, in DIR/zh-further. Then the
matrices are rounded to int8, the temperature is fitted to blanks of the validation split, and the test
split is measured with the rounded weights.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unrolled.cli import main as unrolled
from unrolled.data import Dataset, sentences
from unrolled.models.candidates import Tokens
from unrolled.models.filling import RESCORING
from unrolled.models.forms import word_of
from unrolled.pretrained import CREDITS, NAMES
from unrolled.pretrained.blanks import at, drawn, fitted_temperature, guessed, reliability
from unrolled.training import Run, Trainer, evaluate, prepare_directory, steps_of, write_data
from unrolled.training.files import read_json, read_tensors, write_json, write_tensors
from unrolled.training.packing import packed, unpacked
from unrolled.training.run import CONFIG, VOCABULARY, WEIGHTS, beginning, locked
from unrolled.training.watchers import progress_bar

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

FURTHER: dict[str, dict[str, Any]] = {
    "zh": {
        "data": ["tatoeba-zh", "hsk-zh", "hsk-zh", "hsk-zh"],
        "epochs": 1.0,
        "learning_rate": 1.5e-3,
        "evaluations": 1,
        "patience": 3,
    },
}
"""The options with which a model, trained and rounded, is trained further: a text named three times
counts as much."""

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


def train(name: str, directory: Path, epochs: float | None) -> Run:
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
    return Run(directory)


def train_further(first: Run, directory: Path, options: dict[str, Any]) -> Run:
    """The run that goes on from the rounded weights of ``first``, trained to its end."""
    command = first.command | options
    if not Run.exists(directory):
        prepare_directory(directory)
        with beginning(directory):
            data, vocabulary = write_data(
                directory,
                sentences(command["data"]),
                first.tokenizer,
                longest=first.longest,
                vocabulary=first.vocabulary,
                words=command["words"],
            )
            changed = {name: value for name, value in options.items() if name != "data"}
            settings = replace(first.settings, **changed)
            Run.create(
                directory,
                kind=first.kind,
                vocabulary=vocabulary,
                tokenizer=first.tokenizer,
                model_config=first.model_config,
                settings=settings.with_steps(steps_of(first.new_model(), data, settings)),
                command=command,
            )
    run = Run(directory)
    with locked(directory):
        trainer = Trainer(run)
        tensors, _ = read_tensors(first.directory / WEIGHTS)
        for model in trainer.models.values():
            model.load_state_dict(unpacked(packed(tensors)), strict=False)
        trainer.restore()
        with progress_bar(run.settings.steps, trainer.step) as followers:
            trainer.train(followers)
    return run


def write(run: Run, directory: Path, data: Dataset) -> dict[str, Any]:
    """Write the model of ``run`` into ``directory``; return its figures on ``data``, rounded."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors, notes = read_tensors(run.directory / WEIGHTS)
    write_tensors(directory / WEIGHTS, packed(tensors), notes)
    write_json(directory / VOCABULARY, {"tokens": run.vocabulary.tokens})
    config = read_json(run.directory / CONFIG)
    config = {name: config[name] for name in KEPT} | {"credit": CREDITS[directory.name]}
    write_json(directory / CONFIG, config)

    model = Run(directory).model()
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
            "blanks, each form apart": asdict(reliability(asked, found)),
        }
    write_json(
        directory / CONFIG,
        config | {"filling": {"rescoring": RESCORING, "temperature": temperature}},
    )
    return {"temperature": temperature, **figures}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the models that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m unrolled.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; by default both"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrain"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument(
        "--epochs", type=float, help="for a quick look; the files are not the box's"
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
        data = run.dataset()
        if name in FURTHER:
            further = FURTHER[name] | ({"epochs": arguments.epochs} if arguments.epochs else {})
            run = train_further(run, arguments.runs / f"{name}-further", further)
        figures = write(run, arguments.out / name, data)
        size = sum(path.stat().st_size for path in (arguments.out / name).iterdir())
        print(json.dumps({"model": name, "bytes": size, **figures}, indent=1))


if __name__ == "__main__":
    main()
