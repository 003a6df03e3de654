"""The estimator: what it learns, keeps and tells, and its runs."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from unrolled.errors import CallError, DataError, RunError
from unrolled.series import SequenceTagger
from unrolled.series.data.tagged import Tagged
from unrolled.series.tag_run import TagRun, evaluate
from unrolled.training import Callback, Outcome, Trainer
from unrolled.training.run import WEIGHTS

WORDS = ["我", "你", "爱", "北京", "天安门", "喝茶", "图书馆"]


def texts(count: int) -> tuple[list[str], list[list[str]]]:
    """Sentences of drawn words, and where these begin and end."""
    drawn = np.random.default_rng(0).integers(len(WORDS), size=(count, 4))
    X, y = [], []
    for row in drawn:
        words = [WORDS[k] for k in row]
        X.append("".join(words))
        y.append(
            [p for w in words for p in ("S" if len(w) == 1 else "B" + "M" * (len(w) - 2) + "E")]
        )
    return X, y


def small(**options: Any) -> SequenceTagger:
    usual = {
        "hidden_size": 16,
        "embedding_size": 12,
        "buckets": 256,
        "epochs": 12,
        "batch_steps": 200,
    }
    return SequenceTagger(**{**usual, **options})


@pytest.fixture(scope="module")
def fitted() -> SequenceTagger:
    torch.set_num_threads(1)
    return small().fit(*texts(200))


def test_it_learns_to_segment(fitted: SequenceTagger) -> None:
    X, y = texts(30)
    scores = fitted.scores(X, y)
    assert fitted.score(X, y) == scores.main > 0.95
    assert scores.micro is not None and set(scores.types) == {""}
    assert fitted.tag("我爱北京天安门") == [("我", ""), ("爱", ""), ("北京", ""), ("天安门", "")]


def test_probabilities_are_those_of_the_tags_given_the_sentence(fitted: SequenceTagger) -> None:
    X, y = texts(30)
    found = fitted.predict_proba([*X, ""])
    assert found[-1].shape == (0, 4)
    for tokens, tags, marginals in zip(X, y, found, strict=False):
        assert marginals.shape == (len(tokens), 4)
        assert np.allclose(marginals.sum(1), 1, atol=1e-5)
        most = fitted.classes_[marginals.argmax(1)].tolist()
        assert sum(a == b for a, b in zip(most, tags, strict=True)) > len(tags) / 2


def test_the_order_and_company_of_sentences_change_nothing(fitted: SequenceTagger) -> None:
    X, _ = texts(30)
    together = fitted.predict([*X, "", "没见过"])
    assert together[30] == []
    assert together[:30] == [fitted.predict([list(tokens)])[0] for tokens in X]
    assert fitted.predict(X[::-1]) == together[:30][::-1]
    assert fitted.predict([]) == []


def test_the_same_seed_learns_the_same(fitted: SequenceTagger) -> None:
    again = clone(fitted).fit(*texts(200))
    for (name, one), other in zip(
        fitted.network_.named_parameters(), again.network_.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_words_and_spans() -> None:
    names = ["Kim", "Lee Ann", "Bo", "Ada Lovelace"]
    X = [
        [*name.split(), verb, "in", city]
        for name in names
        for verb in ("lives", "works")
        for city in ("Oslo", "Rome")
    ]
    y = [["B-PER", *["I-PER"] * (len(tokens) - 4), "O", "O", "B-LOC"] for tokens in X]
    tagger = small(epochs=60, threads=1).fit(X * 3, y * 3)
    assert tagger.encoder_.unit == "token"
    assert tagger.network_.crf.is_constrained
    found = tagger.tag("Ada Lovelace works in Paris")
    assert found == [("Ada Lovelace", "PER"), ("works", "O"), ("in", "O"), ("Paris", "LOC")]
    assert tagger.scores(X, y).types.keys() == {"PER", "LOC"}


def test_tags_against_their_scheme_are_learnt_without_it() -> None:
    """As those of IOB1, where a span may begin with I."""
    others = ["is", "was", "sees", "x", "y"]
    X = [["Kim", a, b] for a in others for b in others] + [
        [a, b, "Kim"] for a in others for b in others
    ]
    y = [["I-PER" if token == "Kim" else "O" for token in tokens] for tokens in X]
    tagger = small(epochs=30, threads=1).fit(X, y)
    assert not tagger.network_.crf.is_constrained
    assert tagger.score(X, y) == 1.0


def test_saved_in_a_quarter_of_the_space_it_tells_the_same(
    fitted: SequenceTagger, tmp_path: Path
) -> None:
    X, _ = texts(30)
    fitted.save(tmp_path / "packed")
    fitted.save(tmp_path / "whole", is_packed=False)
    packed, whole = (SequenceTagger.load(tmp_path / name) for name in ("packed", "whole"))
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("packed", "whole")]
    assert sizes[0] < 0.5 * sizes[1]
    assert whole.predict(X) == packed.predict(X) == fitted.predict(X)
    assert whole.get_params() == fitted.get_params() | {"threads": 1}
    for a, b in zip(whole.predict_proba(X), fitted.predict_proba(X), strict=True):
        assert (a == b).all()
    with pytest.raises(CallError, match="already holds a run"):
        fitted.save(tmp_path / "whole")
    with pytest.raises(RunError, match="no such directory"):
        SequenceTagger.load(tmp_path / "none")


def test_a_run_that_is_kept(tmp_path: Path) -> None:
    X, y = texts(20)
    tagger = small(epochs=1, threads=1, out=tmp_path / "run").fit(X, y)
    assert SequenceTagger.load(tmp_path / "run").predict(X) == tagger.predict(X)


def test_learning_leaves_the_rest_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    small(epochs=1, threads=2).fit(*texts(5))
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == 1


def test_it_can_be_pickled(fitted: SequenceTagger) -> None:
    X, _ = texts(5)
    assert pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)


def test_scikit_learn_can_search_over_it() -> None:
    X, y = texts(40)
    tagger = small(epochs=1, threads=1)
    assert len(cross_val_score(tagger, X, y, cv=2)) == 2
    search = GridSearchCV(tagger, {"hidden_size": [4, 8]}, cv=2).fit(X, y)
    assert search.best_params_["hidden_size"] in (4, 8)
    assert search.predict(X[:2]) == search.best_estimator_.predict(X[:2])


def test_its_parameters() -> None:
    tagger = small(cell="gru")
    assert repr(tagger) == (
        "SequenceTagger(cell='gru', hidden_size=16, embedding_size=12, buckets=256, epochs=12, "
        "batch_steps=200)"
    )
    assert clone(tagger).get_params() == tagger.get_params()
    assert tagger.set_params(seed=3).seed == 3
    with pytest.raises(ValueError, match="units: got it, expected one of cell, hidden_size"):
        tagger.set_params(units=3)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (
            "我爱",
            [["S", "S"]],
            TypeError,
            r"X: got the text '我爱', expected a list.*write \[text\]",
        ),
        ([["a", 1]], [["S", "S"]], TypeError, "X: sentence 0 has the token 1, expected strings"),
        ([["a", ""]], [["S", "S"]], TypeError, "X: sentence 0 has the token '', expected strings"),
        (["ab"], [], ValueError, "y: got tags of 0 sentences, expected 1 as X"),
        (["a", "ab"], [["S"], ["S"]], ValueError, "y: got 1 tags for sentence 1, expected 2"),
        (["a"], [[0]], TypeError, "y: sentence 0 has the tag 0, expected strings"),
        (["a"], [["S"]], DataError, "sentences that differ: got 1, expected at least 2"),
        ([], [], DataError, "sentences that differ: got 0"),
        (["", ""], [[], []], DataError, "sentences that differ: got 0"),
    ],
)
def test_what_cannot_be_learnt(x: Any, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small().fit(x, y)


def test_what_is_asked_wrongly(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="learnt nothing yet"):
        small().predict(["a"])
    with pytest.raises(CallError, match="minutes, epochs: got both"):
        small(minutes=1).fit(*texts(5))
    (tmp_path / "mine").touch()
    with pytest.raises(CallError, match="not empty"):
        small(out=tmp_path).fit(*texts(5))
    with pytest.raises(ValueError, match="cell: got 'cnn'"):
        small(cell="cnn").fit(*texts(5))


# --- Its runs ------------------------------------------------------------------------------------


class StoppedError(Exception):
    """A training that is stopped."""


class StopAt:
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: Any) -> None:
        if step.step == self.at:
            raise StoppedError

    def evaluated(self, step: int, scores: Any) -> None: ...

    def seen(self, step: int, report: Any) -> None: ...


def run_in(directory: Path) -> TagRun:
    directory.mkdir()
    sentences = [Tagged(list(tokens), tags) for tokens, tags in zip(*texts(60), strict=True)]
    return small(epochs=4, threads=1)._begin(directory, sentences, 0.2)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, stopped = run_in(tmp_path / "whole"), run_in(tmp_path / "stopped")
    outcome = Trainer(whole).train()
    assert isinstance(outcome, Outcome) and outcome.step == whole.settings.steps > 6
    with pytest.raises(StoppedError):
        follower: Callback = StopAt(5)
        Trainer(stopped).train([follower], checkpoint_seconds=0)
    trainer = Trainer(TagRun(tmp_path / "stopped"))
    trainer.restore()
    assert 0 < trainer.step <= 5
    trainer.train()
    names = ("weights.safetensors", "training.safetensors")
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "stopped" / name
        ).read_bytes()


def test_a_run_is_evaluated_and_watched(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    trainer = Trainer(run)
    trainer.train(watch_every=3)
    data, model = run.dataset(), run.model()
    scores, spans = evaluate(model, data.batches("validation", 100))
    assert scores.tokens == spans.tokens == data.tokens("validation")
    assert scores.f1 == spans.main
    assert 0 < scores.loss == scores.nats < 2
    assert list(scores.figures()) == ["nats", "f1", "accuracy"]
    assert [len(row) for row in trainer.evaluations] == [4] * 10
    empty, _ = evaluate(model, [])
    assert empty.count == 0 and np.isnan(empty.loss)


def test_files_of_another_run_are_refused(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    path = run.directory / "vocabulary.json"
    for content, message in (
        (
            '{"unit": "char", "tokens": ["<pad>", "<unk>"]}',
            "vocabulary.json has 2 tokens, but config",
        ),
        ('{"unit": "char"}', "not a vocabulary of tokens"),
        ('{"unit": "byte", "tokens": ["<pad>", "<unk>"]}', "unit: got 'byte'"),
        ('{"unit": "char", "tokens": [1]}', "tokens: expected a list of strings"),
    ):
        path.write_text(content)
        with pytest.raises(RunError, match=message):
            TagRun(run.directory)
