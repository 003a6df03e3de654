"""What the estimators of whole sequences share: scikit-learn's contract, over a run and the trainer."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.errors import CallError, MissingExtraError, RunError
from unrolled.files import unsynced
from unrolled.series.data.labelled import Labelled
from unrolled.series.data.sequences import ragged
from unrolled.series.models.sequence import SequenceNetwork
from unrolled.series.sequence_run import SequenceRun, answers_of, begin, figures_of, split
from unrolled.shapes import check_size
from unrolled.training import Callback, Settings, Trainer
from unrolled.training.callbacks import clock, progress_bar
from unrolled.training.run import Run, beginning, place_of_a_run

try:
    from sklearn.base import BaseEstimator
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise MissingExtraError("an estimator of sequences", "scikit-learn", "series") from None

Array = NDArray[Any]
OF_THE_NETWORK = ("hidden_size", "cell", "depth", "bidirectional", "dropout", "scaling")
BATCH_STEPS = 1 << 14
EVALUATIONS = 20  # of a training, where there is something to validate on


class SequenceEstimator(BaseEstimator):  # type: ignore[misc]
    """A network, trained by ``unrolled.training`` in a run directory, behind ``fit`` and ``predict``."""

    kind: ClassVar[str]
    network_: SequenceNetwork
    settings_: Settings
    evaluations_: list[dict[str, float]]
    passes_: int
    """How often ``partial_fit`` was called since the training began."""
    _optimizer: dict[str, Any] | None
    _read_as: dict[str, Any]
    """How sequences are given, and what is to be known of those of the training."""

    def __init__(
        self,
        *,
        cell: str = "lstm",
        hidden_size: int = 64,
        depth: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.2,
        scaling: str = "all",
        epochs: float | None = None,
        minutes: float | None = None,
        batch_size: int = 16,
        batch_steps: int = BATCH_STEPS,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        validation_share: float | None = None,
        patience: int = 5,
        random_state: Any = 0,
        threads: int = 1,
        out: str | Path | None = None,
        resume: bool = False,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.depth = depth
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.scaling = scaling
        self.epochs = epochs
        self.minutes = minutes
        self.batch_size = batch_size
        self.batch_steps = batch_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_share = validation_share
        self.patience = patience
        self.random_state = random_state
        self.threads = threads
        self.out = out
        self.resume = resume
        self.verbose = verbose

    # --- Learning ------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,  # noqa: N803, as scikit-learn has it
        y: Any,
        sample_weight: Any = None,
        *,
        times: Any = None,
    ) -> Self:
        """Learn ``y`` from the sequences ``X``; what was learnt before is forgotten.

        What comes of it does not depend on the order of the sequences, and one of weight 2 is the same as
        the same one twice.

        Args:
            X: N sequences: a list of arrays ``[T, D]``, each T of its own, all D alike; or an array
                ``[N, T, D]``; or one ``[N, T]``, of one number a step. NaN is a missing number.
            y: what is to be told of each.
            sample_weight: ``[N]``, none below 0.
            times: when the steps were, N arrays ``[T]`` of numbers or dates, none before the one ahead of
                it. Where they are evenly spaced, or not given, nothing is made of time.

        Raises:
            TypeError, ValueError: an argument is not as above.
            CallError: the options of the estimator cannot be served.
            RunError: the run in ``out`` cannot be used, or the training came to no finite number.
        """
        if self.minutes is not None and self.epochs is not None:
            raise CallError("minutes, epochs: got both, expected one of them")
        self._forget()
        sequences, labels = self._labelled(X, y, sample_weight, times)
        with self._place() as (directory, is_new), _with_threads(self.threads):
            if is_new:
                with beginning(directory):
                    run = self._begin(directory, sequences, labels, self._settings())
            else:
                run = SequenceRun(directory)
                self._refuse_changes(run)
            trainer = Trainer(run)
            trainer.restore()
            with ExitStack() as stack:
                followers: list[Callback] = []
                if self.out is not None:
                    followers += stack.enter_context(clock(directory))
                if self.verbose:
                    followers += stack.enter_context(progress_bar(run.settings.steps, trainer.step))
                trainer.train(followers)
            self._take(run)
        names = ("step", *figures_of(self.kind))
        self.evaluations_ = [dict(zip(names, row, strict=True)) for row in trainer.evaluations]
        return self

    def _read_on(self, sequences: Labelled, labels: list[Any]) -> Self:
        """A pass over the sequences, from the network and the optimizer as they are."""
        network, settings = getattr(self, "network_", None), self._settings()
        seed = (settings.seed + self.passes_) % 2**31
        settings = replace(settings, seed=seed, epochs=1.0, minutes=None, schedule="constant")
        with _temporary() as directory, _with_threads(self.threads):
            run = self._begin(directory, sequences, labels, settings, network)
            trainer = Trainer(run)
            if network is not None:
                trainer.model.load_state_dict(network.state_dict())
            if self._optimizer is not None:
                trainer.optimizer.load_state_dict(self._optimizer)
            trainer.train()
            self._take(run)
        self._optimizer = trainer.optimizer.state_dict()
        self.passes_ += 1
        return self

    def _begin(
        self,
        directory: Path,
        sequences: Labelled,
        labels: list[Any],
        settings: Settings,
        network: SequenceNetwork | None = None,
    ) -> SequenceRun:
        """A new run; where there is a network, of its like, with all sequences to train on."""
        options = {name: _plain(getattr(self, name)) for name in OF_THE_NETWORK}
        share = _plain(self.validation_share) if network is None else 0.0
        is_class = self.kind == "classify"
        return begin(
            directory,
            split(sequences.distinct(), share, settings.seed, is_class=is_class),
            kind=self.kind,
            labels=labels,
            network=options if network is None else network.config,
            settings=settings,
            command=self._command(),
            data=self._read_as,
        )

    def _settings(self) -> Settings:
        return Settings(
            seed=self._seed(),
            steps=1,
            epochs=_plain(self.epochs),
            minutes=_plain(self.minutes),
            batch_steps=_plain(self.batch_steps),
            batch_size=_plain(self.batch_size),
            optimizer="adam",
            learning_rate=_plain(self.learning_rate),
            schedule="cosine",
            weight_decay=_plain(self.weight_decay),
            clip=1.0,
            evaluations=EVALUATIONS,
            patience=_plain(self.patience),
            threads=_plain(self.threads),
        )

    def _seed(self) -> int:
        state = _plain(self.random_state)
        return state if isinstance(state, int) else int(check_random_state(state).randint(2**31))

    def _command(self) -> dict[str, Any]:
        """The options by name, as JSON has them."""
        found = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        if not isinstance(found["random_state"], int):
            found["random_state"] = None
        return {n: v for n, v in found.items() if n not in ("out", "resume", "verbose")}

    def _refuse_changes(self, run: SequenceRun) -> None:
        """Hold what is to be resumed to what was begun."""
        asked = "resume it with that, or choose another out"
        for name, now in self._command().items():
            was = run.command.get(name)
            if was != now and name != "threads":
                raise CallError(
                    f"{name}: got {now!r}, but {run.directory} was begun with {was!r}; {asked}"
                )
        if run.data != self._read_as:
            raise CallError(
                f"X, y: got other sequences than {run.directory} was begun with; {asked}"
            )

    @contextmanager
    def _place(self) -> Iterator[tuple[Path, bool]]:
        """Where the run is, and whether it is a new one."""
        if self.out is None:
            with _temporary() as directory:
                yield directory, True
            return
        directory = Path(self.out)
        is_new = not Run.exists(directory)
        if not is_new and not self.resume:
            raise CallError(
                f"out: {directory} already holds a run; continue it with resume=True, read it with "
                f"{type(self).__name__}.load, or choose another"
            )
        with place_of_a_run(directory, is_new=is_new):
            yield directory, is_new

    def _forget(self) -> None:
        """Be as before any training."""
        self.__dict__.pop("network_", None)
        self._optimizer = None
        self.passes_ = 0

    def _take(self, run: SequenceRun) -> None:
        """Be what ``run`` has come to."""
        self.network_, self.settings_ = run.model(), run.settings

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """That which ``fit`` with ``out``, or ``unrolled train``, left in a run directory.

        Raises:
            RunError: it is no such run, or damaged.
        """
        run = SequenceRun(directory)
        if run.kind != cls.kind:
            raise RunError(
                f"{directory}: a run of kind '{run.kind}', expected '{cls.kind}'; read it with "
                f"{ESTIMATORS[run.kind]}.load"
            )
        estimator = cls(**cls._options_of(run))
        estimator._forget()
        estimator._read_as = run.data
        estimator._take(run)
        estimator._named(run.labels)
        estimator.n_features_in_ = run.data["columns"] or run.data["features"]
        return estimator

    @classmethod
    def _options_of(cls, run: SequenceRun) -> dict[str, Any]:
        """The options that a run was asked for with."""
        known = run.model_config | asdict(run.settings) | run.command
        known |= {"random_state": run.settings.seed}
        return {name: known[name] for name in cls._get_param_names() if name in known}

    # --- Telling -------------------------------------------------------------------------------------

    def _answers(self, X: Any, times: Any) -> Array:  # noqa: N803
        """What the network answers to each sequence, computed in float64.

        So that it does not depend on which sequences are read together.
        """
        check_is_fitted(self, "network_")
        sequences = self._sequences(X, reset=False)
        gaps = self._gaps(times, sequences, reset=False)
        nothing = np.zeros(len(sequences), np.int64)
        with _with_threads(self.threads):
            return answers_of(self.network_, Labelled.of(sequences, nothing, gaps=gaps))

    # --- What is given -------------------------------------------------------------------------------

    def _labelled(
        self,
        X: Any,  # noqa: N803
        y: Any,
        sample_weight: Any,
        times: Any,
        labels: list[Any] | None = None,
        *,
        reset: bool = True,
    ) -> tuple[Labelled, list[Any]]:
        """The sequences with their labels, and those by name; ``reset``: others may have been before."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        if reset:
            self._read_as = {}
        sequences = self._sequences(X, reset=reset)
        targets, labels = self._targets(y, labels)
        check_consistent_length(sequences, targets)
        weights = _weights(sample_weight, len(sequences))
        weights = weights * self._own_weights(targets, labels, weights)
        gaps = self._gaps(times, sequences, reset=reset)
        found = Labelled.of(sequences, targets, weights, gaps)
        if reset:
            digest = blake2b(b"".join(sorted(found.digests())), digest_size=16)
            digest.update(np.ascontiguousarray(np.sort(found.weights)).tobytes())
            self._read_as["digest"] = digest.hexdigest()
        return found, labels

    def _targets(self, y: Any, labels: list[Any] | None) -> tuple[Array, list[Any]]:
        """What the network learns of each sequence, and its names."""
        raise NotImplementedError

    def _named(self, labels: list[Any]) -> None:
        """Take over what ``_targets`` called them."""
        raise NotImplementedError

    def _own_weights(self, targets: Array, labels: list[Any], weights: Array) -> Array:  # noqa: ARG002
        """By what the ``weights`` of the sequences are multiplied."""
        return np.ones(len(targets))

    def _sequences(self, X: Any, *, reset: bool) -> list[Array]:  # noqa: N803
        """The sequences as arrays ``[T, D]`` of float64; of the same D, or T, as those before."""
        if isinstance(X, np.ndarray) and X.dtype == np.object_ and X.ndim == 1:
            X = list(X) if all(map(np.ndim, X)) else X
        if _is_table(X):
            as_before = reset or self._read_as["columns"] is not None
            options = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
            if as_before:
                table = validate_data(self, X, reset=reset, **options)
            else:
                table = check_array(X, **options)
            sequences, columns = list(table[:, :, None]), table.shape[1]
        else:
            sequences, columns = ragged(X), None
        features = sequences[0].shape[1]
        if reset:
            self._read_as |= {"columns": columns, "features": features}
            self.n_features_in_ = columns or features
            if columns is None:
                self.__dict__.pop("feature_names_in_", None)
        elif features != self._read_as["features"]:
            raise ValueError(
                f"X: got {features} features a step, expected {self._read_as['features']} as in fit"
            )
        return sequences

    def _gaps(self, times: Any, sequences: list[Array], *, reset: bool) -> list[Array] | None:
        """The time since the step before, in usual steps, 0 at the first; none if all are alike."""
        if reset:
            self._read_as["step"] = None
        if times is None:
            return None
        if len(times) != len(sequences):
            raise ValueError(
                f"times: got those of {len(times)} sequences, expected {len(sequences)} as X"
            )
        gaps = [
            _since(given, len(sequence), k)
            for k, (given, sequence) in enumerate(zip(times, sequences, strict=True))
        ]
        if reset:
            every = np.concatenate([gap[1:] for gap in gaps])
            step = float(np.median(every[every > 0])) if (every > 0).any() else 1.0
            if np.allclose(every, step, rtol=1e-6):
                return None
            self._read_as["step"] = step
        step = self._read_as["step"]
        return None if step is None else [gap / step for gap in gaps]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        return tags


ESTIMATORS = {"classify": "SequenceClassifier", "regress": "SequenceRegressor"}


def _is_table(x: Any) -> bool:
    """Whether N sequences are given as the rows of one table."""
    if hasattr(x, "shape"):
        return len(x.shape) != 3
    if not isinstance(x, list | tuple):
        return True
    shapes = {np.shape(one) for one in x}
    return len(shapes) <= 1 and all(len(shape) < 2 for shape in shapes)


def _weights(given: Any, count: int) -> Array:
    """``sample_weight`` as an array; or an error."""
    if given is None:
        return np.ones(count)
    weights = np.asarray(given, dtype=np.float64)
    if weights.shape not in ((), (count,)):
        raise ValueError(f"sample_weight: got shape {weights.shape}, expected ({count},)")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight: expected finite numbers, none below 0")
    if not weights.any():
        raise ValueError("sample_weight: got no weight above zero, expected at least one")
    return np.broadcast_to(weights, count)


def _since(given: Any, count: int, k: int) -> Array:
    """The time since the step before, 0 at the first."""
    times = np.asarray(given)
    if times.shape != (count,):
        raise ValueError(f"times[{k}]: got shape {times.shape}, expected ({count},) as X[{k}]")
    if times.dtype.kind == "M":
        times = times.astype("datetime64[ns]").astype(np.int64)
    since = np.diff(times, prepend=times[:1]).astype(np.float64)
    if not np.isfinite(since).all() or (since < 0).any():
        raise ValueError(f"times[{k}]: expected finite times, none before the one ahead of it")
    return since


def _plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's, a path as text, a mapping as pairs."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return [[_plain(name), _plain(one)] for name, one in value.items()]
    return str(value) if isinstance(value, Path) else value


@contextmanager
def _temporary() -> Iterator[Path]:
    """A directory for the time of a training."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, unsynced():
        yield Path(directory)


@contextmanager
def _with_threads(threads: int) -> Iterator[None]:
    """So many of PyTorch's; afterwards, they and its source of chance are as before."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(check_size("threads", _plain(threads), most=1024))
            yield
        finally:
            torch.set_num_threads(before)
