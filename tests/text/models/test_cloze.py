"""The cloze model sees everything but what it predicts."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.text.data import Batch
from unrolled.text.data.vocabulary import END, PAD, START
from unrolled.text.models import Cloze
from unrolled.text.models import cloze as module
from unrolled.text.models.cloze import gathered, steps_through_words
from unrolled.text.models.token_model import CELLS

V, H, E = 11, 5, 3


def cloze(cell: str = "gru", depth: int = 1, **options: object) -> Cloze:
    model = Cloze(V, H, embedding_size=E, cell=cell, depth=depth, **options)  # type: ignore[arg-type]
    return model.double().eval()


def batch(*lengths: int) -> Batch:
    """Random sentences of ``lengths`` tokens, framed and padded."""
    tokens = torch.full((max(lengths) + 2, len(lengths)), PAD)
    for sequence, length in enumerate(lengths):
        tokens[0, sequence], tokens[length + 1, sequence] = START, END
        tokens[1 : length + 1, sequence] = torch.randint(4, V, (length,))
    return Batch(tokens, torch.tensor(lengths) + 2)


def influence(model: Cloze, given: Batch) -> Tensor:
    """‖∂ logits of sequence b at t / ∂ embedded input of sequence c at k‖, as ``[P, B, T, B]``."""
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
    for sequence, length in enumerate(lengths):
        for t in range(1, length + 1):
            row = reached[t - 1, sequence]
            assert row[t, sequence] == 0  # exactly
            others = [k for k in range(length + 2) if k != t]
            assert (row[others, sequence] > 0).all()
            row[:, sequence][: length + 2] = 0
            assert (row == 0).all()  # neither padding nor another sequence


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
    for sequence, length in enumerate((5, 2)):
        for t in range(1, length + 1):
            assert reached[t - 1, sequence, t, sequence] == 0
    assert reached.count_nonzero() > 0


@pytest.mark.parametrize("cell", CELLS)
def test_replacing_the_target_changes_no_bit_of_its_prediction(cell: str) -> None:
    model, given = cloze(cell, 2), batch(7)
    logits = model(given.tokens, given.lengths)
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
    together = model(given.tokens, given.lengths)
    for sequence, length in enumerate(given.lengths.tolist()):
        alone = model(given.tokens[:length, sequence : sequence + 1], torch.tensor([length]))
        torch.testing.assert_close(together[: length - 2, sequence], alone[:, 0])


def test_targets_are_the_tokens_between_the_ends() -> None:
    given = batch(3, 0, 2)
    _, targets = cloze().predict(given)
    # By time and then sequence: the first of sequences 0 and 2, then the second, then sequence 0's third.
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


# Words


def spoken(*lengths: int) -> Batch:
    """``batch``, in words of random lengths; the last token of a sentence ends one."""
    given = batch(*lengths)
    ends = torch.rand(given.tokens.shape) < 0.4
    ends[0] = True
    for sequence, length in enumerate(lengths):
        ends[length:, sequence] = True
    return given._replace(ends=ends)


def steps_by_hand(given: Batch) -> list[tuple[int, int, int, int]]:
    """(sequence, i, j, x): x stands first between i and j; ``</s>``: nothing does."""
    assert given.ends is not None
    found = []
    for sequence, length in enumerate(given.lengths.tolist()):
        for t in range(1, length - 1):
            last = t
            while not given.ends[last, sequence]:
                last += 1
            found.append((sequence, t - 1, last + 1, int(given.tokens[t, sequence])))
            if last == t:
                found.append((sequence, t, t + 1, END))
    return found


@pytest.mark.parametrize("lengths", [(6, 1, 0, 3, 6), (1,), (9,), (2, 2), (0, 7)])
def test_the_steps_through_words_are_those_of_a_loop(lengths: tuple[int, ...]) -> None:
    for _ in range(5):
        given = spoken(*lengths)
        assert given.ends is not None
        before, after, tokens = steps_through_words(given.tokens, given.lengths, given.ends)
        B = len(lengths)
        assert ((before - after) % B == 0).all()  # both in one sequence
        rows = zip(before.tolist(), after.tolist(), tokens.tolist(), strict=True)
        found = [(i % B, i // B, j // B, x) for i, j, x in rows]
        assert sorted(found) == sorted(steps_by_hand(given))


def losses_by_hand(model: Cloze, given: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """The cross-entropy of each token alone, and of each step through a word; a sequence at a time."""

    def entropy(join: nn.Module | None, known: list[Tensor], token: int) -> Tensor:
        assert join is not None
        return -model.output(F.gelu(join(torch.cat(known)))).log_softmax(-1)[token]

    read = []
    for sequence, length in enumerate(given.lengths.tolist()):
        (forward, backward), _ = model.layers(
            model.embedding(given.tokens[:length, sequence : sequence + 1])
        )
        read.append((forward[:, 0], backward[:, 0]))
    alone = [
        entropy(
            model.join,
            [read[sequence][0][t - 1], read[sequence][1][t + 1]],
            int(given.tokens[t, sequence]),
        )
        for sequence, length in enumerate(given.lengths.tolist())
        for t in range(1, length - 1)
    ]
    if model.join_words is None:
        return alone, []
    words = [
        entropy(model.join_words, [read[sequence][0][i], read[sequence][1][j]], token)
        for sequence, i, j, token in steps_by_hand(given)
    ]
    return alone, words


def assert_same_loss_and_gradients(model: Cloze, loss: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    names, weights = zip(*model.named_parameters(), strict=True)
    pairs = [
        torch.autograd.grad(value, weights, retain_graph=True, materialize_grads=True)
        for value in (loss, expected)
    ]
    for name, got, wanted in zip(names, *pairs, strict=True):
        # Sums over at most 9 steps and 60 rows, of terms no larger than 1.
        torch.testing.assert_close(
            got, wanted, rtol=0, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_the_loss_is_the_mean_over_tokens_alone_and_all_steps_through_words(
    cell: str, depth: int
) -> None:
    model, given = cloze(cell, depth, words=True), spoken(6, 1, 0, 9, 3)
    alone, words = losses_by_hand(model, given)
    assert len(words) > len(alone) == 19
    assert_same_loss_and_gradients(model, model.loss(given), torch.stack([*alone, *words]).mean())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_learns_from_a_share_of_the_steps(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARE_OF_WORDS", share)
    model, given = cloze(words=True, dropout=0.0).train(), spoken(5, 2)
    alone, words = losses_by_hand(model, given)
    expected = torch.stack([*alone, *(words if share else [])]).mean()
    assert_same_loss_and_gradients(model, model.loss(given), expected)


def test_the_share_is_drawn_anew_from_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    real = module.gathered

    def watched(forward: Tensor, backward: Tensor, before: Tensor, after: Tensor) -> Tensor:
        seen.append(before)
        return real(forward, backward, before, after)

    monkeypatch.setattr(module, "gathered", watched)
    model, given = cloze(words=True, dropout=0.0).train(), spoken(8, 8, 8)
    steps = len(steps_by_hand(given))
    for _ in range(100):
        model.loss(given)
    # 100 draws of each: the standard deviation of the share is sqrt(0.25 · 0.75 / (100 · 36)).
    share = sum(map(len, seen)) / (100 * steps)
    assert share == pytest.approx(module.SHARE_OF_WORDS, abs=5 * (0.1875 / (100 * steps)) ** 0.5)
    assert len({tuple(rows.tolist()) for rows in seen}) > 90


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_without_the_ends_of_words_the_loss_is_that_of_tokens_alone(mode: bool) -> None:
    given = spoken(6, 2, 4)
    for model, spared in (
        (cloze(words=True, dropout=0.0), given._replace(ends=None)),
        (cloze(words=False, dropout=0.0), given),
    ):
        model.train(mode)
        expected = torch.stack(losses_by_hand(model, given)[0]).mean()
        assert_same_loss_and_gradients(model, model.loss(spared), expected)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_through_a_word_sees_neither_its_token_nor_the_rest_of_the_word(
    cell: str, depth: int
) -> None:
    model, given = cloze(cell, depth, words=True), spoken(6, 1, 4)
    assert given.ends is not None
    embedded = model.embedding(given.tokens).detach().requires_grad_()
    before, after, _ = steps_through_words(given.tokens, given.lengths, given.ends)
    logits = model.word_logits(gathered(*model.read(embedded, given.lengths, None), before, after))
    weights, hidden = torch.randn(V, dtype=torch.float64), []
    for y, row, end in zip(logits, before.tolist(), after.tolist(), strict=True):
        (reached,) = torch.autograd.grad(y @ weights, embedded, retain_graph=True)
        (sequence, i), j = (row % 3, row // 3), end // 3
        length = int(given.lengths[sequence])
        seen = [*range(i + 1), *range(j, length)]
        assert (reached[seen, sequence].norm(dim=-1) > 0).all()
        reached[seen, sequence] = 0
        assert (
            reached == 0
        ).all()  # exactly: its own, the rest of its word, other sequences, padding
        hidden.append((sequence, i, j))
    assert sorted(hidden) == sorted(step[:3] for step in steps_by_hand(given))
    assert {j - i - 1 for _, i, j in hidden} >= {0, 1, 2}  # a word's close hides nothing


def test_padding_never_counts_in_words_either() -> None:
    model, given = cloze(words=True), spoken(4, 2)
    assert given.ends is not None
    longer = Batch(
        torch.cat([given.tokens, torch.full((3, 2), PAD)]),
        given.lengths,
        torch.cat([given.ends, torch.ones(3, 2, dtype=torch.bool)]),
    )
    noisy = longer._replace(tokens=longer.tokens.clone())
    noisy.tokens[6:] = 7
    noisy.tokens[4:, 1] = 9
    for other in (longer, noisy):
        torch.testing.assert_close(model.loss(other), model.loss(given), rtol=1e-14, atol=0)


def test_words_are_asked_for_by_true_or_false_and_kept_in_the_config() -> None:
    assert cloze(words=True).config["words"] is True
    assert cloze().config["words"] is False
    with pytest.raises(TypeError, match="words: got 1, expected True or False"):
        cloze(words=1)
    with pytest.raises(ValueError, match=r"words: got a model made without them.*words=True"):
        cloze().word_logits(torch.zeros(1, 2 * H, dtype=torch.float64))
