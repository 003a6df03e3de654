"""A run directory: everything a trained model needs, and everything to go on training it.

config.json            what the run is: model, data, training
weights.safetensors    the best weights so far on the validation split
training.safetensors   the latest weights, their average if there is one, the optimizer's state, the step
vocabulary.json        the tokens, of text
data/                  the splits
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unrolled.errors import CallError, RunError
from unrolled.training.feed import Feed
from unrolled.training.files import read_json, read_tensors, write_json, write_tensors
from unrolled.training.model import Model
from unrolled.training.packing import unpacked
from unrolled.training.settings import Settings, renamed
from unrolled.version import __version__

FORMAT = 1
CONFIG, VOCABULARY = "config.json", "vocabulary.json"
WEIGHTS, TRAINING, DATA = "weights.safetensors", "training.safetensors", "data"
DRAWING = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_)
BEGINNING, LOCK = ".beginning", ".lock"  # a run that is not yet one; a run at work


class Run(ABC):
    """A run directory that holds a model; an application says in a subclass what else is in it.

    Args:
        directory: made by ``create``, which is what ``unrolled train`` calls.

    Raises:
        RunError: it is no run directory, of a newer format, or damaged.
    """

    kinds: ClassVar[Mapping[str, Callable[..., Any]]]
    """What such a run may hold: each kind of model by its name."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = directory = Path(directory)
        config = read_config(directory)
        try:
            self.kind: str = config["kind"]
            if self.kind not in self.kinds:
                raise ValueError(
                    f"kind: got {self.kind!r}, expected one of {', '.join(self.kinds)}"
                )
            self.command: dict[str, Any] = renamed(config["command"])
            self.model_config: dict[str, Any] = dict(config["model"])
            self.settings = Settings.of_record(config["training"])
            self.read(config)
            with without_values():  # takes no memory, whatever the sizes
                self.new_model()
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise RunError(f"{directory / CONFIG}: not the config of a run ({error})") from None

    @abstractmethod
    def read(self, config: Mapping[str, Any]) -> None:
        """Keep what else ``config.json`` has.

        Raises:
            KeyError, TypeError, ValueError: it does not have that.
        """

    @abstractmethod
    def dataset(self) -> Any:
        """The splits that the run is trained and evaluated on."""

    @abstractmethod
    def feed(self, model: Any, data: Any) -> Feed[Any]:
        """What ``model`` reads of ``data`` in training, as ``settings`` ask for.

        Raises:
            DataError: there is nothing to train on.
        """

    @classmethod
    def written(
        cls,
        directory: Path,
        *,
        kind: str,
        model_config: Mapping[str, Any],
        settings: Settings,
        command: Mapping[str, Any],
        **about: Any,
    ) -> Self:
        """Write ``config.json``, which makes ``directory`` a run, after all other files.

        ``command`` records the options it was begun with: for the record, and to hold a later
        ``--resume`` to them. ``about``: what else ``read`` is to find.
        """
        config = {
            "format": FORMAT,
            "kind": kind,
            "unrolled": __version__,
            **about,
            "model": dict(model_config),
            "training": asdict(settings),
            "command": dict(command),
        }
        write_json(directory / CONFIG, config)
        (directory / BEGINNING).unlink(missing_ok=True)
        return cls(directory)

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether ``directory`` already is a run."""
        return (directory / CONFIG).exists()

    def new_model(self) -> Any:
        """The model with fresh weights."""
        with in_float32():
            return self.kinds[self.kind](**self.model_config)

    def model(self) -> Any:
        """The model with the best weights, ready for use (in eval mode)."""
        path = self.directory / WEIGHTS
        tensors, _ = read_tensors(path)
        try:
            tensors = unpacked(tensors)
        except ValueError as error:
            raise RunError(f"{path}: {error}; the weights are damaged") from None
        with without_values():
            model: Model = self.new_model()
        check_fit(model, tensors, path)
        model.load_state_dict(tensors, strict=False, assign=True)
        if any(buffer.is_meta for buffer in model.buffers()):  # these follow from the config alone
            made = dict(self.new_model().named_buffers())
            for name, buffer in model.named_buffers():
                if buffer.is_meta:
                    owner, _, own = name.rpartition(".")
                    model.get_submodule(owner).register_buffer(own, made[name])
        model.tie()
        return model.eval()

    def weights_step(self) -> int:
        """After how many steps of training the best weights were written; 0: they are untrained."""
        step = self.weights_notes().get("step")
        return step if isinstance(step, int) else 0

    def weights_notes(self) -> dict[str, Any]:
        """What was noted with the best weights: the step, and the loss on the validation split if any."""
        return read_tensors(self.directory / WEIGHTS)[1]

    def save_weights(self, model: nn.Module, notes: Mapping[str, Any]) -> None:
        """Replace the weights to be used by ``model``'s."""
        write_tensors(self.directory / WEIGHTS, weights_of(model), notes)


def read_config(directory: Path) -> dict[str, Any]:
    """What ``config.json`` of a run says; its ``kind`` says of which application the run is.

    Raises:
        RunError: there is no run, or one of another format.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; 'unrolled train' makes one")
    if not Run.exists(directory):
        raise RunError(f"{directory}: {_instead_of_a_run(directory)}")
    config = read_json(directory / CONFIG)
    version = config.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise RunError(
            f"{directory}: run format {version} is newer than {FORMAT}, the newest that unrolled "
            f"{__version__} reads; upgrade unrolled"
        )
    if version != FORMAT:
        why = f"format: got {version!r}, expected {FORMAT}"
        raise RunError(f"{directory / CONFIG}: not the config of a run ({why})")
    return config


class _Unfilled(TorchFunctionMode):
    """Random numbers are not drawn. Those of the meta device come by way of Dynamo: a second's work."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def in_float32() -> Iterator[None]:
    """Modules made within are of the dtype in which a run is stored, whatever the default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def without_values() -> Iterator[None]:
    """Modules made within have parameters without memory."""
    with torch.device("meta"), _Unfilled():
        yield


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run in ``directory``, so that no second process trains it.

    Raises:
        RunError: another process holds it.
    """
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
        if not (directory / LOCK).exists():  # a start that failed has just taken it away
            lock.release()
            directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{directory}: another process is training this run") from None
    except OSError as error:
        raise RunError(f"{directory}: cannot be used ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def place_of_a_run(directory: Path, *, is_new: bool) -> Iterator[None]:
    """Hold ``directory``, which is made if the run is new; without a run in the end it is as it was before.

    Raises:
        CallError, RunError: as ``prepare_directory`` and ``locked``.
    """
    made = prepare_directory(directory) if is_new else []
    try:
        with locked(directory):
            try:
                yield
            finally:
                if not Run.exists(directory):
                    with suppress(OSError):  # some systems keep what is open
                        (directory / LOCK).unlink()
    finally:
        if not Run.exists(directory):
            for path in made:
                with suppress(OSError):  # somebody else put something there
                    path.rmdir()


def prepare_directory(directory: Path) -> list[Path]:
    """Make ``directory``, or refuse it as the place of a new run; return what was made, the last first.

    Only an empty directory becomes a run; it is marked before anything else is put into it, so that
    what a stopped beginning left behind is known from what is a user's own.

    Raises:
        CallError: there is a run already, or other files.
        RunError: it cannot be made.
    """
    if Run.exists(directory):
        raise CallError(
            f"{directory}: already holds a run; continue with --resume, or choose another --out"
        )
    try:
        made = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in directory.iterdir() if path.name != LOCK)
    except OSError as error:
        raise RunError(f"{directory}: cannot be used ({error.strerror or error})") from None
    if names and BEGINNING not in names:
        raise CallError(f"{directory}: not empty ({names[0]}) and not a run; choose another --out")
    return made


def _instead_of_a_run(directory: Path) -> str:
    """What is in ``directory``, which is no run, and what to do."""
    try:
        names = sorted(path.name for path in directory.iterdir() if path.name != LOCK)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if BEGINNING in names:
        return (
            "the start of a run that was stopped before its data was encoded; the same "
            "'unrolled train' command begins it anew"
        )
    there = f"no run: it holds {', '.join(names[:3])}{', …' * (len(names) > 3)}, but no {CONFIG}"
    if not names:
        there = "an empty directory, expected a run"
    return f"{there}; 'unrolled train' makes a run in the directory that --out names"


@contextmanager
def beginning(directory: Path) -> Iterator[None]:
    """Mark ``directory``, which is prepared and locked, until it holds a run; else leave it empty."""
    discard_beginning(directory)
    prepare_directory(directory)  # another process may have been here before the lock was ours
    (directory / BEGINNING).touch()
    try:
        yield
    finally:
        discard_beginning(directory)


def discard_beginning(directory: Path) -> None:
    """Remove what a beginning that did not become a run left in ``directory``."""
    if not (directory / BEGINNING).exists() or Run.exists(directory):
        return
    for name in (DATA, f".{DATA}.partial"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in (VOCABULARY, f".{VOCABULARY}.partial", f".{CONFIG}.partial", BEGINNING):
        (directory / name).unlink(missing_ok=True)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by name, a shared one once."""
    return dict(model.named_parameters())


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse ``tensors`` unless they are weights for ``model``.

    Raises:
        RunError: a name is missing or too many, a shape or dtype differs, or a value is not finite.
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
        if not got.isfinite().all():
            raise RunError(
                f"{path}: {name} has values that are not finite; the weights are damaged"
            )


def finite(model: nn.Module) -> bool:
    """Whether every weight is a finite number."""
    return all(bool(tensor.isfinite().all()) for tensor in weights_of(model).values())
