"""The scores, against the same computed by hand from the logits."""

import math

import pytest
import torch
from torch import Tensor

from unrolled.text.data import Batch
from unrolled.text.measures import TokenScores, evaluate
from unrolled.text.models import Cloze, Prediction

V = 9


class Told(Cloze):
    """Predicts what it is told, for what it is told."""

    def __init__(self, *told: tuple[Tensor, Tensor]) -> None:
        super().__init__(V, 2, embedding_size=2)
        self.told = iter(told)
        self.modes: list[bool] = []

    def predict(self, batch: Batch) -> Prediction:
        self.modes.append(self.training)
        return Prediction(*next(self.told))


NOTHING = Batch(torch.zeros(0, 0), torch.zeros(0))


def by_hand(logits: Tensor, targets: Tensor) -> tuple[float, int, int]:
    """The sum of nats, and how many targets are first and among the first five."""
    nats, first, five = 0.0, 0, 0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        nats -= row[target] - math.log(sum(math.exp(x) for x in row))
        better = sum(x > row[target] for x in row)
        first += better == 0
        five += better < 5
    return nats, first, five


def test_scores_are_means_over_tokens_of_all_batches() -> None:
    told = [(torch.randn(n, V), torch.randint(V, (n,))) for n in (1, 40, 7)]
    sums = [sum(column) for column in zip(*(by_hand(*pair) for pair in told), strict=True)]
    got = evaluate(Told(*told), [NOTHING] * 3)
    assert got.tokens == 48
    assert got.nats == pytest.approx(sums[0] / 48, rel=1e-5)
    assert got.top1 == pytest.approx(sums[1] / 48)
    assert got.top5 == pytest.approx(sums[2] / 48)
    assert 0 < got.top1 < got.top5 < 1
    assert got.perplexity == pytest.approx(math.exp(sums[0] / 48), rel=1e-5)


def test_a_perfect_and_a_uniform_prediction() -> None:
    targets = torch.arange(V)
    sure = evaluate(Told((1e4 * torch.eye(V), targets)), [NOTHING])
    assert (sure.nats, sure.top1, sure.top5, sure.perplexity) == (0, 1, 1, 1)
    even = evaluate(Told((torch.zeros(V, V), targets)), [NOTHING])
    assert even.nats == pytest.approx(math.log(V))
    assert even.perplexity == pytest.approx(V, rel=1e-5)


def test_nothing_scores_nan() -> None:
    for batches, told in [([], []), ([NOTHING], [(torch.zeros(0, V), torch.zeros(0).long())])]:
        scores = evaluate(Told(*told), batches)
        assert scores.tokens == 0
        assert all(math.isnan(x) for x in (scores.nats, scores.top1, scores.top5))


def test_perplexity_overflows_to_infinity() -> None:
    assert TokenScores(1e6, 0, 0, 1).perplexity == math.inf


@pytest.mark.parametrize("training", [True, False])
def test_it_measures_in_eval_mode_and_restores_the_mode(training: bool) -> None:
    model = Told((torch.zeros(1, V), torch.zeros(1).long())).train(training)
    evaluate(model, [NOTHING])
    assert model.modes == [False]
    assert model.training is training
    with pytest.raises(RuntimeError, match="StopIteration"):
        evaluate(model, [NOTHING])
    assert model.training is training


def test_it_leaves_no_gradient() -> None:
    model = Cloze(V, 2, embedding_size=2)
    evaluate(model, [Batch(torch.tensor([[2, 5, 3]]).T, torch.tensor([3]))])
    assert all(p.grad is None for p in model.parameters())
