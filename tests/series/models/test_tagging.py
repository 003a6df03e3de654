"""The network: one sentence as in a batch, every parameter learning, and what it refuses."""

from typing import Any

import pytest
import torch

from tests.compare import assert_close_by_name
from unrolled.series.data.encoded import UNKNOWN, TaggedBatch
from unrolled.series.models.tagging import CELLS, TaggingNetwork

BMES = ["B", "M", "E", "S"]


def network(**options: Any) -> TaggingNetwork:
    options = {"embedding_size": 5, "buckets": 11, **options}
    return TaggingNetwork(9, options.pop("tags", BMES), 6, **options)


def batch() -> TaggedBatch:
    lengths = torch.tensor([4, 2, 3])
    tags = torch.tensor([[0, 3, 3], [1, 3, 0], [1, 0, 2], [2, 0, 0]])  # BMME, SS, SBE
    return TaggedBatch(torch.randint(2, 9, (4, 3)), torch.randint(11, (4, 3, 2)), tags, lengths)


def alone(whole: TaggedBatch, b: int) -> TaggedBatch:
    length = int(whole.lengths[b])
    tokens, features, tags = (part[:length, b : b + 1] for part in whole[:3])
    return TaggedBatch(tokens, features, tags, whole.lengths[b : b + 1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_sentence_is_the_same_alone_and_in_a_batch(cell: str) -> None:
    model, whole = network(cell=cell, depth=2).eval().double(), batch()
    nats, path, marginals = model.nats(whole), model.predict(whole), model.probabilities(whole)
    for b, length in enumerate(whole.lengths.tolist()):
        one = alone(whole, b)
        got = {"nats": nats[b : b + 1], "marginals": marginals[:length, b : b + 1]}
        expected = {"nats": model.nats(one), "marginals": model.probabilities(one)}
        assert_close_by_name(got, expected, length)
        assert torch.equal(path.tags[:length, b : b + 1], model.predict(one).tags)
    assert torch.allclose(model.loss(whole), nats.sum() / 9)


def test_padding_changes_nothing() -> None:
    model, whole = network().eval(), batch()
    other = TaggedBatch(*(part.clone() for part in whole))
    other.tokens[2:, 1], other.features[2:, 1], other.tags[2:, 1] = 8, 10, 3
    assert torch.equal(model.nats(whole), model.nats(other))


@pytest.mark.parametrize("constrained", [True, False])
def test_every_parameter_learns(constrained: bool) -> None:
    model = network(constrained=constrained)
    model.loss(batch()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_token_that_is_not_known_is_told_by_its_features() -> None:
    model = network().eval()
    tokens = torch.full((3, 1), UNKNOWN)
    one, other = torch.zeros(3, 1, 2, dtype=torch.int64), torch.ones(3, 1, 2, dtype=torch.int64)
    assert not torch.equal(model(tokens, one), model(tokens, other))
    without = network(buckets=0).eval()
    assert without.features is None
    assert torch.equal(without(tokens, one), without(tokens, other))


def test_training_hides_tokens() -> None:
    model, whole = network(token_dropout=0.999), batch()
    hidden = TaggedBatch(torch.full_like(whole.tokens, UNKNOWN), *whole[1:])
    assert torch.equal(model.loss(whole), model.loss(hidden))
    model.eval()
    assert not torch.equal(model.loss(whole), model.loss(hidden))


def test_it_is_made_again_from_its_config() -> None:
    model, whole = (
        network(cell="elman", activation="relu", dropout=0.2, tags=["N", "V", "A", "S"]),
        batch(),
    )
    again = TaggingNetwork(**model.config)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval().nats(whole), model.eval().nats(whole))
    assert not again.crf.is_constrained
    assert network().crf.is_constrained


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tags": "BMES"}, TypeError, "tags: got 'BMES', expected a list of names"),
        ({"tags": []}, ValueError, "tags: got 0, expected 1 to 4096, each once"),
        ({"tags": ["S", "S"]}, ValueError, "tags: got 2, expected 1 to 4096, each once"),
        ({"buckets": -1}, ValueError, "buckets: got -1, expected at least 0"),
        ({"depth": 0}, ValueError, "depth: got 0, expected at least 1"),
        ({"constrained": 1}, TypeError, "constrained: got 1, expected True or False"),
        ({"cell": "gru2"}, ValueError, "cell: got 'gru2', expected one of elman, lstm, gru"),
        ({"dropout": 1.0}, ValueError, "dropout: got 1.0, expected a number from 0"),
        (
            {"activation": "relu"},
            ValueError,
            "activation: got 'relu' with cell='lstm', expected 'elman'",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        network(**options)
