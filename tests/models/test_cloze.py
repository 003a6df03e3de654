"""The cloze model sees everything but what it predicts."""

import pytest
import torch
from torch import Tensor

from unrolled.data import Batch
from unrolled.data.vocabulary import END, PAD, START
from unrolled.models import Cloze
from unrolled.models.token_model import CELLS

V, H, E = 11, 5, 3


def cloze(cell: str = "gru", depth: int = 1, **options: object) -> Cloze:
    model = Cloze(V, H, embedding_size=E, cell=cell, depth=depth, **options)  # type: ignore[arg-type]
    return model.double().eval()


def batch(*lengths: int) -> Batch:
    """Random sentences of ``lengths`` tokens, framed and padded."""
    tokens = torch.full((max(lengths) + 2, len(lengths)), PAD)
    for lane, length in enumerate(lengths):
        tokens[0, lane], tokens[length + 1, lane] = START, END
        tokens[1 : length + 1, lane] = torch.randint(4, V, (length,))
    return Batch(tokens, torch.tensor(lengths) + 2)


def influence(model: Cloze, given: Batch) -> Tensor:
    """‖∂ logits of lane b at t / ∂ embedded input of lane c at k‖, as ``[P, B, T, B]``."""
    embedded = model.embedding(given.tokens).detach().requires_grad_()
    logits = model.logits(model.context(embedded, given.lengths))
    weights = torch.randn(V, dtype=torch.float64)
    rows = [torch.autograd.grad(y @ weights, embedded, retain_graph=True)[0].norm(dim=-1)
            for y in logits.flatten(0, 1)]  # fmt: skip
    return torch.stack(rows).unflatten(0, logits.shape[:2])


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_prediction_depends_on_every_other_token_and_not_at_all_on_its_own(
    cell: str, depth: int
) -> None:
    lengths = (6, 1, 3, 6)
    given = batch(*lengths)
    reached = influence(cloze(cell, depth), given)
    assert reached.shape == (6, 4, 8, 4)
    for lane, length in enumerate(lengths):
        for t in range(1, length + 1):
            row = reached[t - 1, lane]
            assert row[t, lane] == 0  # exactly
            others = [k for k in range(length + 2) if k != t]
            assert (row[others, lane] > 0).all()
            row[:, lane][: length + 2] = 0
            assert (row == 0).all()  # neither padding nor another lane


def test_the_probe_would_see_a_leak() -> None:
    class Leaky(Cloze):
        def context(self, embedded: Tensor, lengths: Tensor) -> Tensor:
            (forward, backward), _ = self.layers(embedded, lengths=lengths)
            return torch.cat([forward[1:-1], backward[2:]], -1)

    model = Leaky(V, H, embedding_size=E).double().eval()
    reached = influence(model, batch(4))
    assert all(reached[t - 1, 0, t, 0] > 0 for t in range(1, 5))


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.5},
        {"variational_dropout": 0.2, "weight_drop": 0.2, "zoneout": 0.2},
        {"residual": True, "layer_norm": True},
    ],
)
def test_in_training_too_dropout_and_the_layers_options_open_no_path(
    options: dict[str, object],
) -> None:
    given = batch(5, 2)
    reached = influence(cloze(depth=3, **options).train(), given)
    for lane, length in enumerate((5, 2)):
        for t in range(1, length + 1):
            assert reached[t - 1, lane, t, lane] == 0
    assert reached.count_nonzero() > 0


@pytest.mark.parametrize("cell", CELLS)
def test_replacing_the_target_changes_no_bit_of_its_prediction(cell: str) -> None:
    model, given = cloze(cell, 2), batch(7)
    logits = model(*given)
    for t in range(1, 8):
        other = given.tokens.clone()
        other[t, 0] = 4 if other[t, 0] != 4 else 5
        changed = model(other, given.lengths)
        assert torch.equal(changed[t - 1], logits[t - 1])
        assert (changed != logits).flatten(1).any(1).sum() == 6  # all the others


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_is_its_sentences_one_at_a_time(cell: str, depth: int) -> None:
    model, given = cloze(cell, depth), batch(5, 1, 8, 0, 3)
    together = model(*given)
    for lane, length in enumerate(given.lengths.tolist()):
        alone = model(given.tokens[:length, lane : lane + 1], torch.tensor([length]))
        torch.testing.assert_close(together[: length - 2, lane], alone[:, 0])


def test_targets_are_the_tokens_between_the_ends() -> None:
    given = batch(3, 0, 2)
    _, targets = cloze().predict(given)
    # By time and then lane: the first of lanes 0 and 2, then the second, then lane 0's third.
    expected = [given.tokens[t, b] for t, b in [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0)]]
    assert targets.tolist() == [int(t) for t in expected]


def test_padding_never_counts() -> None:
    model, given = cloze(), batch(4, 2)
    longer = Batch(torch.cat([given.tokens, torch.full((3, 2), PAD)]), given.lengths)
    noisy = Batch(longer.tokens.clone(), given.lengths)
    noisy.tokens[6:] = 7  # whatever stands in the padding
    noisy.tokens[4:, 1] = 9
    for other in (longer, noisy):
        assert torch.equal(model.predict(other).targets, model.predict(given).targets)
        torch.testing.assert_close(model.loss(other), model.loss(given), rtol=1e-14, atol=0)


def test_the_loss_is_the_mean_over_tokens_not_over_sentences() -> None:
    model, given = cloze(), batch(7, 1)
    alone = [
        model.loss(Batch(given.tokens[: n + 2, k : k + 1], torch.tensor([n + 2])))
        for k, n in enumerate((7, 1))
    ]
    torch.testing.assert_close(model.loss(given), (7 * alone[0] + alone[1]) / 8)


def test_a_sentence_of_one_token_is_predicted_from_its_ends_alone() -> None:
    model = cloze()
    tokens = torch.tensor([[START, 5, END], [START, 9, END]]).T
    logits = model(tokens, torch.tensor([3, 3]))
    assert logits.shape == (1, 2, V)
    torch.testing.assert_close(logits[0, 0], logits[0, 1])
