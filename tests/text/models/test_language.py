"""The language model reads forwards only, and generates what it reads."""

import pytest
import torch
from torch import Tensor

from unrolled.text.data import Batch
from unrolled.text.data.vocabulary import END, PAD, SPECIALS, START, UNKNOWN
from unrolled.text.models import LanguageModel
from unrolled.text.models.token_model import CELLS

V, H, E = 11, 5, 3


def language_model(cell: str = "gru", depth: int = 1, **options: object) -> LanguageModel:
    model = LanguageModel(V, H, embedding_size=E, cell=cell, depth=depth, **options)  # type: ignore[arg-type]
    return model.double().eval()


def batch(*lengths: int) -> Batch:
    """Random sentences of ``lengths`` tokens, framed and padded."""
    tokens = torch.full((max(lengths) + 2, len(lengths)), PAD)
    for sequence, length in enumerate(lengths):
        tokens[0, sequence], tokens[length + 1, sequence] = START, END
        tokens[1 : length + 1, sequence] = torch.randint(4, V, (length,))
    return Batch(tokens, torch.tensor(lengths) + 2)


def next_logits(model: LanguageModel, numbers: list[int]) -> Tensor:
    """The logits of what follows ``<s>`` and ``numbers``, from the whole sequence at once."""
    tokens = torch.tensor([[START, *numbers, END]]).T
    return model(tokens, torch.tensor([len(tokens)]))[-1, 0]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_prediction_depends_on_all_tokens_before_it_and_on_none_after(
    cell: str, depth: int
) -> None:
    model, given = language_model(cell, depth), batch(5, 2)
    embedded = model.embedding(given.tokens).detach().requires_grad_()
    logits = model.logits(model.context(embedded, given.lengths))
    assert logits.shape == (6, 2, V)
    weights = torch.randn(V, dtype=torch.float64)
    for sequence, length in enumerate((5, 2)):
        for t in range(1, length + 2):  # the last is </s>
            (gradient,) = torch.autograd.grad(
                logits[t - 1, sequence] @ weights, embedded, retain_graph=True
            )
            reached = gradient.norm(dim=-1)
            assert (reached[:t, sequence] > 0).all()
            assert (reached[t:, sequence] == 0).all()
            assert (reached[:, 1 - sequence] == 0).all()


def test_targets_are_all_tokens_and_the_end() -> None:
    given = batch(2, 0)
    _, targets = language_model().predict(given)
    assert targets.tolist() == [int(given.tokens[1, 0]), END, int(given.tokens[2, 0]), END]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_is_its_sentences_one_at_a_time(cell: str, depth: int) -> None:
    model, given = language_model(cell, depth), batch(5, 1, 0, 8)
    together = model(given.tokens, given.lengths)
    for sequence, length in enumerate(given.lengths.tolist()):
        alone = model(given.tokens[:length, sequence : sequence + 1], torch.tensor([length]))
        torch.testing.assert_close(together[: length - 1, sequence], alone[:, 0])


def test_padding_never_counts() -> None:
    model, given = language_model(), batch(4, 2)
    noisy = Batch(torch.cat([given.tokens, torch.full((3, 2), 8)]), given.lengths)
    noisy.tokens[4:, 1] = 9
    torch.testing.assert_close(model.loss(noisy), model.loss(given), rtol=1e-14, atol=0)


# Generating


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_is_the_whole_sequence(cell: str, depth: int) -> None:
    model = language_model(cell, depth)
    with torch.no_grad():
        model.output.bias[END] = -1  # else it may end at once
    prompt = [4, 9, 5]
    greedy = model.generate(prompt, longest=12, temperature=0)
    assert greedy
    for k in range(len(greedy) + 1):
        logits = next_logits(model, prompt + greedy[:k])
        logits[[PAD, UNKNOWN, START]] = -torch.inf
        if k < len(greedy):
            assert int(logits.argmax()) == greedy[k]
        elif k < 12:  # it ended by itself
            assert int(logits.argmax()) == END


def biased(bias: dict[int, float]) -> LanguageModel:
    """A model whose distribution is softmax(``bias``) everywhere; 0 where none is given."""
    model = language_model(tied=False)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
        for n, value in bias.items():
            model.output.bias[n] = value
    return model


def test_specials_are_never_drawn_however_probable() -> None:
    model = biased({PAD: 50.0, UNKNOWN: 50.0, START: 50.0, END: -5000.0})
    for temperature in (0.0, 0.5, 1.0, 100.0):
        added = model.generate(longest=50, temperature=temperature)
        assert len(added) == 50
        assert min(added) >= len(SPECIALS)


def test_it_ends_at_the_end_token_which_is_not_returned() -> None:
    assert biased({END: 50.0}).generate(longest=50) == []
    assert biased({END: 50.0}).generate([5, 6], longest=50, temperature=0) == []


@pytest.mark.parametrize("longest", [0, 1, 7])
def test_it_adds_longest_tokens_at_the_most(longest: int) -> None:
    assert len(biased({END: -50.0}).generate([4], longest=longest)) == longest


def test_temperature_0_is_the_most_probable_token_without_chance() -> None:
    model = biased({7: 1.0, 8: 0.9, END: 0.8})
    state = torch.get_rng_state()
    assert model.generate(longest=5, temperature=0) == [7] * 5
    assert torch.equal(torch.get_rng_state(), state)


def shares(model: LanguageModel, **options: object) -> Tensor:
    """How often each token is drawn, of 600."""
    added = model.generate(
        longest=600, generator=torch.Generator().manual_seed(0), **options  # type: ignore[arg-type]
    )  # fmt: skip
    return torch.bincount(torch.tensor(added), minlength=V) / len(added)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_softmax_of_logits_over_temperature(temperature: float) -> None:
    bias = {4: 0.0, 5: 1.0, 6: 2.0, END: -99.0} | dict.fromkeys(range(7, V), -99.0)
    expected = torch.softmax(torch.tensor([0.0, 1.0, 2.0]) / temperature, 0)
    # A share of 600 draws has a standard deviation of 0.02 at most; this is four of them.
    assert (shares(biased(bias), temperature=temperature)[4:7] - expected).abs().max() < 0.08


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_draws_from_the_k_most_probable_only(k: int) -> None:
    bias = {4: 0.0, 5: 0.1, 6: 0.2, 7: 0.3, END: -99.0} | dict.fromkeys(range(8, V), -1.0)
    drawn = shares(biased(bias), top_k=k).nonzero().flatten().tolist()
    assert drawn == [7, 6, 5][:k][::-1]


def test_top_k_above_the_vocabulary_is_no_limit() -> None:
    model = language_model()
    a = model.generate(longest=30, top_k=10**6, generator=torch.Generator().manual_seed(1))
    b = model.generate(longest=30, generator=torch.Generator().manual_seed(1))
    assert a == b


def test_a_very_low_temperature_is_greedy_and_overflows_nothing() -> None:
    model = language_model()
    greedy = model.generate(longest=20, temperature=0)
    assert model.generate(longest=20, temperature=1e-300) == greedy


def test_the_generator_decides() -> None:
    model = biased({END: -50.0})
    draws = [
        model.generate(longest=30, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_without_a_prompt_it_begins_after_the_start() -> None:
    model = language_model()
    logits = next_logits(model, [])
    logits[[PAD, UNKNOWN, START]] = -torch.inf
    assert model.generate(longest=1, temperature=0) == [int(logits.argmax())]


def test_dropout_is_off_and_the_mode_is_restored() -> None:
    model = language_model(dropout=0.9).train()
    greedy = model.generate(longest=20, temperature=0)
    assert model.training
    assert model.eval().generate(longest=20, temperature=0) == greedy
    assert not model.training
    with pytest.raises(IndexError):
        model.train().generate([V], longest=1)
    assert model.training


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}]
    + [{"top_k": 0}, {"longest": -1}],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: got"):
        language_model().generate(**options)  # type: ignore[arg-type]
