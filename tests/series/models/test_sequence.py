import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import unrolled
from unrolled.cells import observed
from unrolled.series.data.labelled import SequenceBatch
from unrolled.series.models.sequence import ClassNetwork, SequenceNetwork, ValueNetwork

NAN = float("nan")


def made(kind: type[SequenceNetwork] = ClassNetwork, **options: Any) -> SequenceNetwork:
    torch.manual_seed(1)
    network = kind(3, 4, 5, **{"location": [1.0, 0, -1], "scale": [2.0, 1, 0.5]} | options)
    return network.double().eval()


def some_values(steps: int = 7, batch_size: int = 5) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([7, 1, 3, 7, 2])[:batch_size].clamp(max=steps)
    return torch.randn(steps, batch_size, 3, dtype=torch.float64), lengths


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_is_what_its_parts_say(cell: str, bidirectional: bool) -> None:
    network = made(cell=cell, bidirectional=bidirectional)
    values, lengths = some_values()
    answers = network(values, lengths)
    assert answers.shape == (5, 4)
    for b, length in enumerate(lengths.tolist()):
        x = (values[:length, b] - network.location) / network.scale
        result = network.layers(x.unsqueeze(1))
        y = result.y[:, 0]
        pooled = torch.cat([result.final[0], y.mean(0), y.max(0).values])
        expected = network.output(network.norm(pooled))
        torch.testing.assert_close(answers[b], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"scaling": "all", "has_missing": False},
        {"scaling": "each", "has_missing": True},
        {"scaling": "none", "has_missing": True},
        {"cell": "gru-d"},
        {"cell": "gru-d", "bidirectional": False, "depth": 2},
        {"cell": "continuous-time-lstm", "depth": 2},
    ],
)
def test_neither_padding_nor_order_nor_company_changes_a_number(options: dict[str, Any]) -> None:
    network = made(has_gaps=True, **options)
    values, lengths = some_values()
    values[0, 3, 1] = values[2, 0] = NAN
    gaps = torch.rand(7, 5, dtype=torch.float64)
    answers = network(values, lengths, gaps)
    padded = torch.cat([values, torch.full((4, 5, 3), NAN)])
    for b, length in enumerate(lengths.tolist()):
        padded[length:, b] = torch.tensor([NAN, 1e9, -3.0])
    waited = torch.cat([gaps, torch.full((4, 5), NAN)])
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(network(padded, lengths, waited), answers, **close)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = network(values[:, order], lengths[order], gaps[:, order])
    torch.testing.assert_close(shuffled, answers[order], **close)
    for b, length in enumerate(lengths.tolist()):
        alone = network(values[:length, b : b + 1], None, gaps[:length, b : b + 1])
        torch.testing.assert_close(alone[0], answers[b], **close)


def test_padding_changes_nothing_in_float32() -> None:
    network = made().float()
    values, lengths = some_values()
    longer = torch.cat([values, torch.randn(20, 5, 3)])
    # a sum over 7 values of a size of 1, in another order: 7 eps = 8e-7
    torch.testing.assert_close(
        network(longer, lengths), network(values, lengths), rtol=0, atol=1e-6
    )


def test_a_missing_value_is_the_mean_and_is_masked() -> None:
    network = made(has_missing=True)
    values = some_values()[0]
    values[3, 1, 2] = NAN
    read = network.read(values, torch.ones(7, 5, dtype=torch.bool), None)
    assert read.shape == (7, 5, 6)
    assert read[3, 1].tolist()[2:] == [0, 1, 1, 0]
    assert (read[..., 3:].sum() == 7 * 5 * 3 - 1).all()
    torch.testing.assert_close(read[0, 0, :3], (values[0, 0] - network.location) / network.scale)
    there = made()
    assert there.read(values, torch.ones(7, 5, dtype=torch.bool), None)[3, 1, 2] == 0


def test_each_sequence_by_its_own_scale() -> None:
    network = made(scaling="each")
    values, lengths = some_values()
    answers = network(values, lengths)
    moved = values * torch.tensor([3.0, 0.1, 40]) + torch.tensor([1.0, -5, 100])
    torch.testing.assert_close(network(moved, lengths), answers, rtol=1e-8, atol=1e-10)
    values[:, 0] = 7.0  # constant
    assert network(values, lengths).isfinite().all()


def test_large_values_lose_nothing_on_the_way_in() -> None:
    network = made(location=[1e9] * 3, scale=[1.0] * 3).float()
    values, lengths = some_values()
    around = made(location=[0.0] * 3, scale=[1.0] * 3).float()
    expected = around(values, lengths)
    torch.testing.assert_close(network(values + 1e9, lengths), expected, rtol=0, atol=1e-5)


def test_gaps_are_read_as_their_logarithm() -> None:
    network = made(has_gaps=True)
    values, lengths = some_values()
    real = torch.arange(7).unsqueeze(1) < lengths
    read = network.read(values, real, torch.full((7, 5), 3.0))
    torch.testing.assert_close(read[..., -1], real * torch.tensor(4.0, dtype=torch.float64).log())
    torch.testing.assert_close(
        network(values, lengths), network(values, lengths, torch.ones(7, 5)), rtol=0, atol=0
    )


@pytest.mark.parametrize("cell", ["gru-d", "continuous-time-lstm"])
def test_cells_that_know_of_time_read_what_was_observed(cell: str) -> None:
    network = made(cell=cell, has_gaps=True)
    values, lengths = some_values()
    values[1:3, 0, 1] = values[0, 3] = NAN
    gaps = torch.rand(7, 5, dtype=torch.float64)
    real = torch.arange(7).unsqueeze(1) < lengths
    scaled = (values - network.location) / network.scale
    ways = [
        observed(scaled, gaps.cumsum(0), lengths=lengths, reverse=way).features
        for way in (False, True)
    ]
    for got, expected in zip(network.read(values, real, gaps), ways, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    y = network.layers((ways[0], ways[1]), lengths=lengths).y
    pooled = network.pooled(y, real, lengths)
    torch.testing.assert_close(pooled[2, :5], y[2, 2, :5])
    torch.testing.assert_close(pooled[2, 5:10], y[0, 2, 5:])
    torch.testing.assert_close(
        network(values, lengths, gaps), network.output(network.norm(pooled)), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", [ClassNetwork, ValueNetwork])
def test_its_gradient_is_right_and_weights_weigh(kind: type[SequenceNetwork]) -> None:
    network = made(kind)
    values, lengths = some_values()
    values[1, 3, 0] = NAN
    labels = torch.tensor([0, 3, 1, 1, 2])
    if kind is ValueNetwork:
        labels = torch.randn(5, 4, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    batch = SequenceBatch(values, lengths, None, labels, weights)
    losses = network.losses(network.answers(batch), labels)
    torch.testing.assert_close(network.loss(batch), (losses * weights).sum() / 5)
    parameters = list(network.parameters())
    assert torch.autograd.gradcheck(lambda *_: network.loss(batch), parameters, fast_mode=True)
    limited = network.loss(batch, memory="1 MiB")
    torch.testing.assert_close(limited, network.loss(batch), rtol=1e-12, atol=0)


def test_classes_are_told_in_nats_and_values_in_standard_units() -> None:
    classes = made()
    answers = torch.randn(2, 4, dtype=torch.float64)
    p = answers.softmax(-1)
    expected = -torch.stack([p[0, 2], p[1, 0]]).log()
    torch.testing.assert_close(classes.losses(answers, torch.tensor([2, 0])), expected)
    values = made(ValueNetwork, target_location=[1.0, 2, 3, 4], target_scale=[1.0, 10, 1, 2])
    labels = torch.tensor([[1.0, 2, 3, 4], [2.0, 12, 4, 6]], dtype=torch.float64)
    zero = torch.zeros(2, 4, dtype=torch.float64)
    torch.testing.assert_close(values.losses(zero, labels), torch.tensor([0, 0.5]).double())
    torch.testing.assert_close(values.values(zero)[0], labels[0])


def test_its_config_makes_it_anew() -> None:
    for kind in (ClassNetwork, ValueNetwork):
        network = made(kind, cell="gru", depth=2, dropout=0.1, has_missing=True, scaling="each")
        again = kind(**network.config).double().eval()
        assert again.config == network.config
        again.load_state_dict(network.state_dict())
        values, lengths = some_values()
        torch.testing.assert_close(again(values, lengths), network(values, lengths), rtol=0, atol=0)


def test_the_lens_and_explain_see_it() -> None:
    network = made().float()
    values, lengths = some_values()
    with unrolled.watch(network) as lens:
        network(values, lengths).square().sum().backward()
    assert len(lens.report().rows) == 2
    assert "native" in str(unrolled.explain(network))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"cell": "rnn"},
            "cell: got 'rnn', expected one of elman, lstm, gru, gru-d, continuous-time-lstm",
        ),
        ({"scaling": "some"}, "scaling: got 'some'"),
        ({"depth": 0}, "depth: got 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"bidirectional": 1}, "bidirectional: got 1, expected True or False"),
        ({"location": [0.0]}, "location: got .*, expected 3 finite numbers"),
        ({"scale": [1.0, 0.0, 1.0]}, "scale: got 0, expected numbers above 0"),
        ({"scale": [1.0, NAN, 1.0]}, "scale: got"),
    ],
)
def test_bad_options_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        made(**changed)


def test_bad_calls_are_refused() -> None:
    network = made()
    values, lengths = some_values()
    for bad in (values[..., :2], values[0], values[:0]):
        with pytest.raises(ValueError, match=r"values: got shape .*, expected \[T, B, 3\]"):
            network(bad)
    lengths[2] = 0
    with pytest.raises(ValueError, match="lengths: got 0, expected at least 1"):
        network(values, lengths)


def test_a_copy_is_another() -> None:
    network = made()
    again = copy.deepcopy(network)
    with torch.no_grad():
        again.output.weight.zero_()
    assert network.output.weight.abs().sum() > 0
