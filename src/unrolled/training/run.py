"""A run directory: everything a trained model needs, and everything to go on training it.

config.json            what the run is: model, text, training
vocabulary.json        the tokens
weights.safetensors    the best weights so far on the validation split
training.safetensors   the latest weights, the optimizer's state, the step
data/                  the encoded splits
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import unrolled
from unrolled.data import Dataset, Tokenizer, Vocabulary
from unrolled.errors import CallError, DataError, RunError
from unrolled.models import KINDS, TokenModel
from unrolled.training.files import read_json, read_tensors, write_json, write_tensors

FORMAT = 1
CONFIG, VOCABULARY = "config.json", "vocabulary.json"
WEIGHTS, TRAINING, DATA = "weights.safetensors", "training.safetensors", "data"


@dataclass(frozen=True)
class Settings:
    """How a run trains; recorded whole in ``config.json``.

    ``steps`` follows from ``epochs``, or from ``minutes`` by a calibration at the start; from then on
    only ``steps`` counts, so that a resumed run does not depend on the clock.
    """

    seed: int
    steps: int
    epochs: float | None
    minutes: float | None
    batch_tokens: int
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float
    clip: float
    evaluations: int
    patience: int
    threads: int

    def with_steps(self, steps: int) -> "Settings":
        """The same with another number of steps."""
        return replace(self, steps=steps)


class Run:
    """A run directory that holds a model.

    Args:
        directory: made by ``Run.create``, which is what ``unrolled train`` calls.

    Raises:
        RunError: it is no run directory, of a newer format, or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not directory.is_dir():
            raise RunError(f"{directory}: no such directory; 'unrolled train' makes one")
        config = read_json(directory / CONFIG)
        version = config.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise RunError(
                f"{directory}: run format {version} is newer than {FORMAT}, the newest that unrolled "
                f"{unrolled.__version__} reads; upgrade with: pip install --upgrade unrolled"
            )
        try:
            if version != FORMAT:
                raise ValueError(f"format: got {version!r}, expected {FORMAT}")
            self.kind: str = config["kind"]
            if self.kind not in KINDS:
                raise ValueError(f"kind: got {self.kind!r}, expected one of {', '.join(KINDS)}")
            self.tokenizer = Tokenizer(**config["text"])
            self.command: dict[str, Any] = dict(config["command"])
            self.longest = int(self.command["longest"])
            self.model_config: dict[str, Any] = dict(config["model"])
            self.settings = Settings(**config["training"])
            KINDS[self.kind](**{**self.model_config, "vocabulary_size": 5})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{directory / CONFIG}: not the config of a run ({error})") from None
        tokens = read_json(directory / VOCABULARY).get("tokens")
        try:
            if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
                raise ValueError("tokens: expected a list of strings")
            self.vocabulary = Vocabulary(tokens)
        except ValueError as error:
            raise RunError(f"{directory / VOCABULARY}: not a vocabulary ({error})") from None
        if self.model_config["vocabulary_size"] != len(self.vocabulary):
            raise RunError(
                f"{directory}: {VOCABULARY} has {len(self.vocabulary)} tokens, but {CONFIG} says "
                f"{self.model_config['vocabulary_size']}; the files are not of one run"
            )

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        kind: str,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer,
        model_config: Mapping[str, Any],
        settings: Settings,
        command: Mapping[str, Any],
    ) -> "Run":
        """Write the files that define a run; ``config.json`` last, since it makes the directory one.

        ``command`` records the options it was begun with: for the record, and to hold a later
        ``--resume`` to them.
        """
        write_json(directory / VOCABULARY, {"tokens": vocabulary.tokens})
        config = {
            "format": FORMAT,
            "kind": kind,
            "unrolled": unrolled.__version__,
            "text": asdict(tokenizer),
            "model": dict(model_config),
            "training": asdict(settings),
            "command": dict(command),
        }
        write_json(directory / CONFIG, config)
        return cls(directory)

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether ``directory`` already is a run."""
        return (directory / CONFIG).is_file()

    def new_model(self) -> TokenModel:
        """The model with fresh weights."""
        return KINDS[self.kind](**self.model_config)

    def model(self) -> TokenModel:
        """The model with the best weights, ready for use (in eval mode)."""
        model = self.new_model()
        tensors, _ = read_tensors(self.directory / WEIGHTS)
        fit(model, tensors, self.directory / WEIGHTS)
        return model.eval()

    def dataset(self) -> Dataset:
        """The encoded splits."""
        return Dataset(self.directory / DATA)

    def save_weights(self, model: nn.Module, notes: Mapping[str, Any]) -> None:
        """Replace the weights to be used by ``model``'s."""
        write_tensors(self.directory / WEIGHTS, weights_of(model), notes)


def prepare_directory(directory: Path) -> None:
    """Make ``directory`` ready for a new run, without touching anything of somebody else's.

    Raises:
        CallError: there is a run already, or other files.
        RunError: it cannot be made.
    """
    if Run.exists(directory):
        raise CallError(
            f"{directory}: already holds a run; go on with --resume, or choose another --out"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        own = {DATA, f".{DATA}.partial", VOCABULARY, f".{VOCABULARY}.partial", f".{CONFIG}.partial"}
        foreign = sorted(path.name for path in directory.iterdir() if path.name not in own)
        if foreign:
            raise CallError(
                f"{directory}: not empty ({foreign[0]}) and not a run; choose another --out"
            )
        for name in own:  # left by a run that was stopped before it began
            path = directory / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{directory}: cannot be used ({error.strerror or error})") from None


def write_data(
    directory: Path, sentences: Iterable[str], tokenizer: Tokenizer, **options: Any
) -> tuple[Dataset, Vocabulary]:
    """Encode ``sentences`` into the run directory, whole or not at all."""
    partial, final = directory / f".{DATA}.partial", directory / DATA
    try:
        partial.mkdir()
        _, vocabulary = Dataset.write(partial, sentences, tokenizer, **options)
        partial.replace(final)
        return Dataset(final), vocabulary
    except OSError as error:
        raise DataError(f"{partial}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by name, a shared one once."""
    return dict(model.named_parameters())


def fit(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``tensors`` into ``model``, or refuse and change nothing.

    Raises:
        RunError: a name is missing or too many, or a shape or dtype differs.
    """
    expected = weights_of(model)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise RunError(f"{path}: {name} is missing; the weights are not of this model")
        if name not in expected:
            raise RunError(f"{path}: {name} is not in the model; the weights are not of this model")
        got, wanted = tensors[name], expected[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise RunError(
                f"{path}: {name}: got {list(got.shape)} {got.dtype}, expected {list(wanted.shape)} "
                f"{wanted.dtype}; the weights are not of this model"
            )
    for name, parameter in expected.items():
        parameter.data.copy_(tensors[name])
