"""What both models share: the loss, ties, dropout, the layers' options."""

import math

import pytest
import torch
from torch import Tensor

from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells, explain
from unrolled.compiler import build
from unrolled.scan import native
from unrolled.text.data import Batch
from unrolled.text.data.vocabulary import END, PAD, SPECIALS, START, UNKNOWN
from unrolled.text.models import KINDS, Cloze, TokenModel

V, H, E = 12, 6, 4
TOKENS = torch.tensor([[START, 5, 7, 9, END], [START, 4, END, PAD, PAD]]).T
GIVEN = Batch(TOKENS, torch.tensor([5, 3]))


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> type[TokenModel]:
    return KINDS[request.param]


def made(kind: type[TokenModel], **options: object) -> TokenModel:
    return kind(V, H, embedding_size=E, **options).double()  # type: ignore[arg-type]


def test_tied_weights_are_one_tensor(kind: type[TokenModel]) -> None:
    model = made(kind)
    assert model.output.weight is model.embedding.weight
    assert "output.weight" not in dict(model.named_parameters())
    # Both uses reach it: a token that is only ever predicted moves, as does one that is only read.
    model.loss(GIVEN).backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None and (gradient.norm(dim=1) > 0).all()


def test_untied_weights_are_two(kind: type[TokenModel]) -> None:
    model = made(kind, tied=False).eval()
    assert model.output.weight is not model.embedding.weight
    model.loss(GIVEN).backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    read = set(TOKENS.flatten().tolist()) - {PAD}
    moved = set(gradient.norm(dim=1).nonzero().flatten().tolist())
    assert moved <= read and moved  # never padding, never a token that is not there


def test_the_loss_is_the_hand_computed_cross_entropy_of_the_real_tokens(
    kind: type[TokenModel],
) -> None:
    model = made(kind).eval()
    logits = model(GIVEN.tokens, GIVEN.lengths)  # [P, B, V]
    ends = kind.kind == "lm"
    places = {0: [5, 7, 9] + [END] * ends, 1: [4] + [END] * ends}
    total, count = 0.0, 0
    for sequence, targets in places.items():
        for p, target in enumerate(targets):
            row = [math.exp(x) for x in logits[p, sequence].tolist()]
            total -= math.log(row[target] / sum(row))
            count += 1
    assert model.loss(GIVEN).item() == pytest.approx(total / count, rel=1e-12)


def test_an_untrained_model_is_about_as_good_as_chance(kind: type[TokenModel]) -> None:
    assert made(kind).eval().loss(GIVEN).item() == pytest.approx(math.log(V), rel=0.2)


def test_dropout_is_off_in_eval_mode_and_on_in_training(kind: type[TokenModel]) -> None:
    model = made(kind, dropout=0.5, token_dropout=0.5)
    losses = {model.loss(GIVEN).item() for _ in range(4)}
    assert len(losses) == 4
    model.eval()
    assert len({model.loss(GIVEN).item() for _ in range(4)}) == 1


def test_without_dropout_training_and_eval_are_the_same(kind: type[TokenModel]) -> None:
    model = made(kind, dropout=0.0, depth=2)
    assert model.train().loss(GIVEN).item() == model.eval().loss(GIVEN).item()


def read_as(model: TokenModel, tokens: torch.Tensor) -> torch.Tensor:
    """Which tokens the layers get to see, from the embedding's rows."""
    with torch.no_grad():
        model.embedding.weight.copy_(torch.arange(V).unsqueeze(1).expand(V, E))
    seen = model._embedded(tokens)
    assert (seen == seen[..., :1]).all()
    return seen[..., 0].long()


def test_token_dropout_hides_words_as_unknown_and_never_a_special_one(
    kind: type[TokenModel],
) -> None:
    model = made(kind, dropout=0.0, token_dropout=0.3)
    tokens = torch.randint(0, V, (100, 100))
    seen = read_as(model, tokens)
    words = tokens >= len(SPECIALS)
    assert torch.equal(seen[~words], tokens[~words])
    changed = seen != tokens
    assert (seen[changed] == UNKNOWN).all()
    # Of about 6,700 words; the standard deviation of the share is 0.0056.
    assert abs(changed[words].double().mean() - 0.3) < 0.025
    model.eval()
    assert torch.equal(read_as(model, tokens), tokens)


def test_targets_are_never_hidden(kind: type[TokenModel]) -> None:
    model = made(kind, token_dropout=0.99)
    assert torch.equal(model.predict(GIVEN).targets, model.eval().predict(GIVEN).targets)
    assert UNKNOWN not in model.train().predict(GIVEN).targets.tolist()


def test_predict_agrees_with_forward(kind: type[TokenModel]) -> None:
    model = made(kind).eval()
    logits, targets = model.predict(GIVEN)
    whole = model(GIVEN.tokens, GIVEN.lengths)
    counts = (GIVEN.lengths - (1 if kind.kind == "lm" else 2)).tolist()
    rows = [whole[p, b] for p in range(len(whole)) for b in range(2) if p < counts[b]]
    assert len(targets) == sum(counts)
    torch.testing.assert_close(logits, torch.stack(rows))


def test_the_config_makes_the_same_model_again(kind: type[TokenModel]) -> None:
    model = made(kind, cell="lstm", depth=2, dropout=0.2, token_dropout=0.1, tied=False)
    again = kind(**model.config)
    assert again.config == model.config
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert {name: p.shape for name, p in again.named_parameters()} == shapes


# The options of the layers

OPTIONS = {
    "variational_dropout": 0.4,
    "weight_drop": 0.4,
    "zoneout": (0.2, 0.5),
    "residual": True,
    "layer_norm": True,
}


def losses_and_gradients(model: TokenModel, memory: str | None = None) -> dict[str, Tensor]:
    """The loss of ``GIVEN`` and the gradient of each parameter, always by the same draws."""
    model.zero_grad()
    torch.manual_seed(7)
    loss = model.loss(GIVEN, memory=memory)
    loss.backward()
    found = {"loss": loss}
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        found[f"grad of {name}"] = p.grad.clone()
    return found


@pytest.mark.parametrize("option", [*OPTIONS, "all"])
def test_an_option_of_the_layers_is_what_it_is_of_recurrent(
    kind: type[TokenModel], option: str
) -> None:
    options = OPTIONS if option == "all" else {option: OPTIONS[option]}
    model = made(kind, cell="lstm", depth=2, dropout=0.2, **options)
    both = {"bidirectional": True, "merge": "separate"} if kind.kind == "cloze" else {}
    layers = Recurrent(cells.LSTM, E, H, depth=2, dropout=0.2, **both, **options).double()  # type: ignore[arg-type]
    layers.load_state_dict(model.layers.state_dict())
    got = losses_and_gradients(model)
    plain = made(kind, cell="lstm", depth=2, dropout=0.2)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert losses_and_gradients(plain)["loss"] != got["loss"]
    model.layers = layers
    assert_close_by_name(losses_and_gradients(model), got, len(TOKENS))


def test_a_config_of_before_the_options_makes_the_model_it_made(kind: type[TokenModel]) -> None:
    before = {"vocabulary_size": V, "hidden_size": H, "embedding_size": E, "cell": "gru"}
    before |= {"depth": 2, "dropout": 0.1, "token_dropout": 0.0, "tied": True}
    off = dict.fromkeys(["variational_dropout", "weight_drop", "zoneout"], 0.0)
    off |= {"residual": False, "layer_norm": False}
    off |= {"words": False} if kind is Cloze else {}
    torch.manual_seed(0)
    model = kind(**before)
    assert model.config == before | off
    weights = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    expected = [f"cells.{k}.{name}" for k in range(2 * kind.directions) for name in weights]
    assert [name for name, _ in model.layers.named_parameters()] == expected
    torch.manual_seed(0)
    again = kind(**before, **off)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.each_value
@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_with_all_options_every_parameter_learns_and_evaluation_is_certain(
    kind: type[TokenModel], cell: str
) -> None:
    options = OPTIONS | {"zoneout": 0.2, "residual": "highway"}
    model = made(kind, cell=cell, depth=2, **options)
    for name, gradient in losses_and_gradients(model).items():
        assert gradient.isfinite().all() and gradient.any(), name
    assert len({model.loss(GIVEN).item() for _ in range(4)}) == 4
    model.eval()
    assert len({model.loss(GIVEN).item() for _ in range(4)}) == 1


def test_with_all_options_a_budget_changes_no_gradient(kind: type[TokenModel]) -> None:
    model = made(kind, cell="lstm", depth=2, **OPTIONS)
    if kind.kind == "lm":
        model.eval()  # its segments draw anew
    assert_close_by_name(
        losses_and_gradients(model, "64 KiB"), losses_and_gradients(model), len(TOKENS)
    )


@pytest.mark.skipif(
    (native.missing() or build.unsupported_reason()) is not None,
    reason="no kernel library or no compiler",
)
@pytest.mark.parametrize("training", [True, False])
def test_no_option_leaves_the_kernels(kind: type[TokenModel], training: bool) -> None:
    model = made(kind, cell="lstm", depth=2, **OPTIONS).train(training)
    assert explain(model).path == "native"
    got = losses_and_gradients(model)
    model.layers.backend = "reference"
    assert_close_by_name(losses_and_gradients(model), got, len(TOKENS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 4}, "vocabulary_size: got 4"),
        ({"vocabulary_size": True}, "vocabulary_size: got True"),
        ({"hidden_size": 0}, "hidden_size: got 0"),
        ({"embedding_size": 0}, "embedding_size: got 0"),
        ({"depth": 0}, "depth: got 0"),
        ({"cell": "rnn"}, "cell: got 'rnn', expected one of elman, lstm, gru"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"dropout": -0.1}, "dropout: got -0.1"),
        ({"token_dropout": 1}, "token_dropout: got 1"),
        ({"dropout": float("nan")}, "dropout: got nan"),
        ({"variational_dropout": -0.1}, "variational_dropout: got -0.1"),
        ({"weight_drop": 1.0}, "weight_drop: got 1.0"),
        ({"weight_drop": "much"}, "weight_drop: got 'much'"),
        ({"zoneout": 1.0}, "zoneout: got 1.0"),
        ({"zoneout": [0.1, 0.5]}, "zoneout: got 2 numbers, expected 1, one a state tensor"),
        ({"residual": "yes"}, "residual: got 'yes', expected True, False or 'highway'"),
        ({"layer_norm": 1}, "layer_norm: got 1, expected True or False"),
    ],
)
def test_sizes_out_of_range_are_refused(
    kind: type[TokenModel], arguments: dict[str, object], message: str
) -> None:
    sizes = {"vocabulary_size": V, "hidden_size": H, "embedding_size": E} | arguments
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**sizes)  # type: ignore[arg-type]
