"""A tag for every token, as an estimator: ``fit``, ``predict``, ``score``."""

import inspect
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.errors import CallError
from unrolled.series.data.encoded import Encoder
from unrolled.series.data.tagged import Tagged, words_of
from unrolled.series.models.tagging import TaggingNetwork
from unrolled.series.tag_run import (
    TagFeed,
    TagRun,
    network_config,
    rows_of_like_length,
    tagged,
    write_data,
)
from unrolled.series.tag_scores import TagScores, score_tags
from unrolled.shapes import check_fraction
from unrolled.training import Callback, Settings, Trainer, steps_of
from unrolled.training.files import write_tensors
from unrolled.training.packing import packed
from unrolled.training.run import WEIGHTS, beginning, place_of_a_run, prepare_directory, weights_of

EPOCHS = 10.0  # where neither epochs nor minutes are given

Sentence = Sequence[str]
"""Tokens; a string is its characters."""


class SequenceTagger:
    """A tag for every token of a sequence, by a bidirectional network and a conditional random field.

    It is trained by the same trainer as a run of ``unrolled train tag``; see
    ``unrolled.series.models.tagging.TaggingNetwork`` for the network.

        >>> from unrolled.series import SequenceTagger
        >>> from unrolled.series.data.tagged import tag_characters
        >>> words = [(a, b, c) for a in "我你他" for b in "爱去看" for c in ("北京", "上海")]
        >>> X, y = zip(*map(tag_characters, words))
        >>> tagger = SequenceTagger(hidden_size=16, epochs=30, seed=0).fit(X, y)
        >>> tagger.predict(["我看北京"])
        [['S', 'S', 'B', 'E']]

    Args:
        cell: "elman", "lstm" or "gru".
        hidden_size: units of each direction of each layer.
        embedding_size: width of the vectors of tokens and features.
        depth: layers.
        buckets: vectors of features; 0: tokens have none, and one that is not known says nothing.
        dropout: the share of features dropped in training.
        token_dropout: the share of tokens that training hides.
        min_count: a token that is there more rarely is unknown.
        minutes: time to train; or else
        epochs: passes over the training split, by default 10.
        batch_steps: tokens of a batch, with padding.
        learning_rate: at its highest.
        validation_share: of the sentences, chosen by their hash: not trained on, but the best weights are
            those that do best on them.
        patience: evaluations without a gain before it stops early.
        seed: the source of all chance.
        threads: processor threads; by default all.
        out: the run directory that is made; by default it is not kept.
    """

    network_: TaggingNetwork
    encoder_: Encoder

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 128,
        *,
        embedding_size: int = 64,
        depth: int = 1,
        buckets: int = 1 << 14,
        dropout: float = 0.3,
        token_dropout: float = 0.1,
        min_count: int = 1,
        minutes: float | None = None,
        epochs: float | None = None,
        batch_steps: int = 1024,
        learning_rate: float = 5e-3,
        validation_share: float = 0.1,
        patience: int = 5,
        seed: int = 0,
        threads: int | None = None,
        out: str | Path | None = None,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size
        self.depth = depth
        self.buckets = buckets
        self.dropout = dropout
        self.token_dropout = token_dropout
        self.min_count = min_count
        self.minutes = minutes
        self.epochs = epochs
        self.batch_steps = batch_steps
        self.learning_rate = learning_rate
        self.validation_share = validation_share
        self.patience = patience
        self.seed = seed
        self.threads = threads
        self.out = out

    # --- Learning ------------------------------------------------------------------------------------

    def fit(
        self,
        X: Sequence[Sentence],  # noqa: N803, the name that scikit-learn gives it
        y: Sequence[Sequence[str]],
        *,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Learn the tags ``y`` of the sentences ``X``.

        Raises:
            TypeError, ValueError: a sentence is no sequence of strings, or has not as many tags.
            DataError: there are too few sentences.
            CallError: ``out`` is not empty.
        """
        sentences = checked(X, y)
        if self.minutes is not None and self.epochs is not None:
            raise CallError("minutes, epochs: got both, expected one of them")
        share = check_fraction("validation_share", self.validation_share)
        with self._place() as directory, _global_state_kept():
            with beginning(directory):
                run = self._begin(directory, sentences, share)
            Trainer(run).train(callbacks)
            self._take(run)
        return self

    def _begin(self, directory: Path, sentences: list[Tagged], share: float) -> TagRun:
        """A new run, of which a ``share`` is held out."""
        data = write_data(
            directory,
            sentences,
            buckets=self.buckets,
            min_count=self.min_count,
            shares=(1 - share, share, 0.0),
            purpose="held out",
        )
        names = ("cell", "hidden_size", "embedding_size", "depth", "dropout", "token_dropout")
        config = network_config(data, **{name: getattr(self, name) for name in names})
        settings = self._settings()
        torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        steps = steps_of(
            TaggingNetwork(**config), settings, lambda model, how: TagFeed(model, data, how)
        )
        return TagRun.create(
            directory,
            encoder=data.encoder,
            model_config=config,
            settings=settings.with_steps(steps),
            command={},
        )

    def _settings(self) -> Settings:
        epochs = EPOCHS if self.minutes is None and self.epochs is None else self.epochs
        return Settings(
            seed=self.seed,
            steps=1,
            epochs=epochs,
            minutes=self.minutes,
            batch_steps=self.batch_steps,
            optimizer="adam",
            learning_rate=self.learning_rate,
            schedule="linear",
            weight_decay=0.0,
            clip=1.0,
            evaluations=10,
            patience=self.patience,
            threads=torch.get_num_threads() if self.threads is None else self.threads,
        )

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """Where the run is."""
        if self.out is not None:
            with place_of_a_run(Path(self.out), is_new=True):
                yield Path(self.out)
            return
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            yield Path(directory)

    def _take(self, run: TagRun) -> None:
        self.network_, self.encoder_ = run.model(), run.encoder
        self.settings_ = run.settings
        self.classes_ = np.array(run.encoder.tags)

    # --- Telling -------------------------------------------------------------------------------------

    def predict(self, X: Sequence[Sentence]) -> list[list[str]]:  # noqa: N803
        """The most probable tags of each sentence, by Viterbi."""
        return tagged(self._fitted(), self.encoder_, checked_sentences(X))

    def predict_proba(self, X: Sequence[Sentence]) -> list[NDArray[np.float32]]:  # noqa: N803
        """Of each sentence the probability of each tag at each token, ``[T, K]``, as in ``classes_``.

        Given the whole sentence: the marginals of the conditional random field.
        """
        model, sentences = self._fitted(), checked_sentences(X)
        found = [np.empty((0, len(self.classes_)), np.float32)] * len(sentences)
        for rows in rows_of_like_length([len(tokens) for tokens in sentences]):
            batch = self.encoder_.batch([sentences[row] for row in rows])
            marginals = model.probabilities(batch).numpy()
            for b, row in enumerate(rows):
                found[row] = marginals[: len(sentences[row]), b]
        return found

    def score(self, X: Sequence[Sentence], y: Sequence[Sequence[str]]) -> float:  # noqa: N803
        """The F1 of all spans, or where the tags mark none the share of right ones."""
        return self.scores(X, y).main

    def scores(self, X: Sequence[Sentence], y: Sequence[Sequence[str]]) -> TagScores:  # noqa: N803
        """Precision, recall and F1 of the spans of each type and of all; the share of right tags."""
        sentences = checked(X, y)
        predicted = self.predict([sentence.tokens for sentence in sentences])
        return score_tags([sentence.tags for sentence in sentences], predicted)

    def tag(self, text: Sentence) -> list[tuple[str, str]]:
        """The words of a text with their tags, or its spans with their types, "O" outside of any.

        A string is read as characters if the model has learnt characters, else as words with spaces
        between.
        """
        model = self._fitted()
        tokens = (
            text.split() if isinstance(text, str) and self.encoder_.unit == "token" else list(text)
        )
        (tags,) = tagged(model, self.encoder_, checked_sentences([tokens]))
        return words_of(tokens, tags)

    def _fitted(self) -> TaggingNetwork:
        if not hasattr(self, "network_"):
            raise CallError(
                "this SequenceTagger has learnt nothing yet; call fit, or SequenceTagger.load"
            )
        return self.network_

    # --- Files ---------------------------------------------------------------------------------------

    def save(self, directory: str | Path, *, is_packed: bool = True) -> None:
        """Write the model into a new or empty directory, as a run that ``unrolled tag`` reads.

        ``is_packed``: its matrices as whole numbers of 8 bits with a scale a row, in a quarter of the
        space; see ``unrolled.training.packing``.
        """
        model, directory = self._fitted(), Path(directory)
        prepare_directory(directory)
        weights = weights_of(model)
        write_tensors(directory / WEIGHTS, packed(weights) if is_packed else weights, {"step": 1})
        TagRun.create(
            directory,
            encoder=self.encoder_,
            model_config=model.config,
            settings=self.settings_,
            command={},
        )

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """That which ``save``, ``fit`` with ``out``, or ``unrolled train tag`` left there.

        Raises:
            RunError: it is no run of a tagger, or damaged.
        """
        run = TagRun(directory)
        config, settings = run.model_config, run.settings
        tagger = cls()
        for name in tagger.get_params():
            if name in config:
                setattr(tagger, name, config[name])
            elif name != "out" and hasattr(settings, name):
                setattr(tagger, name, getattr(settings, name))
        tagger._take(run)
        return tagger

    # --- What scikit-learn asks of it ----------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002, there is none within
        """The arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Set arguments by name.

        Raises:
            ValueError: there is none of that name.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{name}: got it, expected one of {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=True))

    def __repr__(self) -> str:
        usual = {n: p.default for n, p in inspect.signature(type(self)).parameters.items()}
        changed = (f"{n}={v!r}" for n, v in self.get_params().items() if v != usual[n])
        return f"{type(self).__name__}({', '.join(changed)})"


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """PyTorch's source of chance and its threads are afterwards as before."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def checked_sentences(X: Iterable[Sentence]) -> list[list[str]]:  # noqa: N803
    """Sentences as lists of tokens; or an error."""
    if isinstance(X, str):
        raise TypeError(f"X: got the text {X[:20]!r}, expected a list of sentences; write [text]")
    sentences = []
    for k, sentence in enumerate(X):
        tokens = list(sentence)
        wrong = next((token for token in tokens if not isinstance(token, str) or not token), None)
        if wrong is not None:
            raise TypeError(
                f"X: sentence {k} has the token {wrong!r}, expected strings that are not empty"
            )
        sentences.append(tokens)
    return sentences


def checked(X: Iterable[Sentence], y: Iterable[Sequence[str]]) -> list[Tagged]:  # noqa: N803
    """Sentences with their tags; or an error."""
    sentences, tags = checked_sentences(X), [list(names) for names in y]
    if len(sentences) != len(tags):
        raise ValueError(f"y: got tags of {len(tags)} sentences, expected {len(sentences)} as X")
    for k, (tokens, names) in enumerate(zip(sentences, tags, strict=True)):
        if len(tokens) != len(names):
            raise ValueError(
                f"y: got {len(names)} tags for sentence {k}, expected {len(tokens)}, one a token"
            )
        wrong = next((name for name in names if not isinstance(name, str) or not name), None)
        if wrong is not None:
            raise TypeError(
                f"y: sentence {k} has the tag {wrong!r}, expected strings that are not empty"
            )
    return [Tagged(*pair) for pair in zip(sentences, tags, strict=True) if pair[0]]
