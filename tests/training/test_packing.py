"""Packed weights: how far they are from what they were, and what is refused in their place."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.sentences import make_run
from unrolled.errors import RunError
from unrolled.text.run import TextRun
from unrolled.training.files import read_tensors, write_tensors
from unrolled.training.packing import packed, unpacked
from unrolled.training.run import CONFIG, WEIGHTS, weights_of

EPS = torch.finfo(torch.float32).eps


def weights() -> dict[str, Tensor]:
    """Rows of very different sizes, one of zeros, one of a single value, and vectors."""
    uneven = torch.randn(7, 13) * 10.0 ** torch.arange(-5, 2)[:, None]
    uneven[3] = 0
    uneven[5] = 0.125
    return {
        "uneven": uneven,
        "one": torch.randn(1, 1),
        "turned": torch.randn(6, 4).T,
        "bias": torch.randn(13),
        "number": torch.tensor(2.5),
    }


# Alone


def test_each_weight_is_at_most_half_a_scale_from_what_it_was() -> None:
    given = weights()
    found = unpacked(packed(given))
    assert found.keys() == given.keys()
    for name in ("uneven", "one", "turned"):
        got, weight = found[name], given[name]
        assert (got.dtype, got.shape) == (torch.float32, weight.shape)
        for row, wanted in zip(got, weight, strict=True):
            largest = float(wanted.abs().max())
            # Half of 1/127 of the largest, and the rounding of a division and a product.
            bound = largest / 254 + 4 * EPS * largest
            assert float((row - wanted).abs().max()) <= bound
        assert not torch.equal(got, weight) or name == "one"


def test_the_largest_of_a_row_and_its_zeros_stay() -> None:
    given = weights()["uneven"]
    found = unpacked(packed({"w": given}))["w"]
    assert torch.equal(found[3], torch.zeros(13))
    torch.testing.assert_close(found[5], given[5], rtol=2 * EPS, atol=0)
    for got, wanted in zip(found, given, strict=True):
        k = int(wanted.abs().argmax())
        torch.testing.assert_close(got[k], wanted[k], rtol=2 * EPS, atol=0)


def test_a_matrix_is_whole_numbers_and_a_scale_a_row() -> None:
    given = {"w": torch.tensor([[127.0, -63.6, 1.4], [-0.5, 0.25, 0.0], [0.0, 0.0, 0.0]])}
    found = packed(given)
    assert found.keys() == {"w", "w.scale"}
    assert (found["w"].dtype, found["w.scale"].dtype) == (torch.int8, torch.float32)
    assert found["w"].tolist() == [[127, -64, 1], [-127, 64, 0], [0, 0, 0]]
    torch.testing.assert_close(found["w.scale"], torch.tensor([[1.0], [0.5 / 127], [0.0]]))


def test_vectors_and_numbers_stay_as_they_are() -> None:
    given = weights()
    for found in (packed(given), unpacked(packed(given)), unpacked(given)):
        for name in ("bias", "number"):
            assert torch.equal(found[name], given[name])
    assert all(torch.equal(unpacked(given)[name], given[name]) for name in given)


def test_packing_what_was_unpacked_loses_no_more() -> None:
    once = unpacked(packed(weights()))
    twice = unpacked(packed(once))
    for name, weight in once.items():
        torch.testing.assert_close(twice[name], weight, rtol=4 * EPS, atol=0)


def test_the_given_weights_are_left_alone() -> None:
    given = weights()
    copies = {name: weight.clone() for name, weight in given.items()}
    tensors = packed(given)
    again = {name: tensor.clone() for name, tensor in tensors.items()}
    unpacked(tensors)
    assert all(torch.equal(given[name], copies[name]) for name in given)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


Change = Callable[[dict[str, Tensor]], object]
DAMAGES: dict[str, Change] = {
    "too few": lambda t: t.update({"uneven.scale": t["uneven.scale"][:-1]}),
    "too many": lambda t: t.update({"uneven.scale": torch.ones(8, 1)}),
    "a vector": lambda t: t.update({"uneven.scale": t["uneven.scale"][:, 0]}),
    "one a column": lambda t: t.update({"uneven.scale": torch.ones(1, 13)}),
    "one a weight": lambda t: t.update({"uneven.scale": torch.ones(7, 13)}),
    "a number": lambda t: t.update({"uneven.scale": torch.tensor(1.0)}),
    "without a matrix": lambda t: t.pop("uneven"),
    "of a vector": lambda t: t.update({"bias.scale": torch.ones(13, 1)}),
    "of nothing": lambda t: t.update({".scale": torch.ones(1, 1)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_scales_that_do_not_fit_are_named(damage: Change) -> None:
    tensors = packed(weights())
    damage(tensors)
    with pytest.raises(ValueError, match=r"\.scale: got \[.*\], expected a scale a row of "):
        unpacked(tensors)


# In a run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    run = make_run(tmp_path_factory.mktemp("run") / "run", count=60, model={"words": True})
    run.save_weights(run.new_model(), {"step": 3})
    return run


@pytest.fixture
def run(plain: TextRun) -> TextRun:
    """A run whose weights are packed, and may be damaged."""
    write_tensors(plain.directory / WEIGHTS, packed(weights_of(plain.new_model())), {"step": 3})
    return plain


def test_a_run_of_packed_weights_is_what_it_was_up_to_their_error(run: TextRun) -> None:
    torch.manual_seed(7)
    original = run.new_model()
    run.save_weights(original, {"step": 3})
    whole = (run.directory / WEIGHTS).stat().st_size
    write_tensors(run.directory / WEIGHTS, packed(weights_of(original)), {"step": 3})
    assert (run.directory / WEIGHTS).stat().st_size < whole
    model = run.model()
    assert not model.training and run.weights_step() == 3
    assert model.output.weight is model.embedding.weight
    found, expected = weights_of(model), weights_of(original)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == torch.float32 and found[name].requires_grad
        if weight.dim() == 1:
            assert torch.equal(found[name], weight), name
        else:
            bound = weight.abs().amax(1, keepdim=True) * (1 / 254 + 4 * EPS)
            assert ((found[name] - weight).abs() <= bound).all(), name
            assert not torch.equal(found[name], weight), name


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.pop("output.bias"), "output.bias is missing"),
        (lambda t: t.pop("join.weight.scale"), "join.weight: got [6, 18] torch.int8"),
        (lambda t: t.pop("join.weight"), "join.weight.scale: got [6, 1], expected a scale a row"),
        (
            lambda t: t.update({"join.weight.scale": t["join.weight.scale"][1:]}),
            "join.weight.scale: got [5, 1], expected a scale a row of join.weight",
        ),
        (
            lambda t: t.update({"join.bias.scale": torch.ones(6, 1)}),
            "join.bias.scale: got [6, 1], expected a scale a row of join.bias",
        ),
        (lambda t: t["join.weight.scale"].fill_(torch.nan), "join.weight has values that are not"),
        (lambda t: t["join.weight.scale"].fill_(torch.inf), "join.weight has values that are not"),
        (
            lambda t: t.update({"join.weight.scale": t["join.weight.scale"].double()}),
            "join.weight: got [6, 18] torch.float64",
        ),
        (
            lambda t: t.update({"join.weight.scale": torch.ones(6, 1, dtype=torch.int64)}),
            "join.weight: got [6, 18] torch.int64",
        ),
        (
            lambda t: t.update(
                {"more": torch.ones(2, 2).to(torch.int8), "more.scale": torch.ones(2, 1)}
            ),
            "more is not in the model",
        ),
    ],
)
def test_damaged_packed_weights_name_the_file(change: Change, part: str, run: TextRun) -> None:
    run.model()  # whole before
    tensors, notes = read_tensors(run.directory / WEIGHTS)
    change(tensors)
    write_tensors(run.directory / WEIGHTS, tensors, notes)
    with pytest.raises(RunError) as caught:
        run.model()
    message = str(caught.value)
    assert message.startswith(f"{run.directory / WEIGHTS}: {part}") and "\n" not in message


# How a run fills blanks


def with_filling(run: TextRun, value: object) -> TextRun:
    path = run.directory / CONFIG
    config = json.loads(path.read_text("utf-8"))
    try:
        path.write_text(json.dumps(config | {"filling": value}), "utf-8")
        return TextRun(run.directory)
    finally:
        path.write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize(
    "value", [{}, {"temperature": 1.23}, {"rescoring": 0.25, "temperature": 2}, {"rescoring": 0.1}]
)
def test_a_run_says_how_its_model_fills(value: dict[str, float], plain: TextRun) -> None:
    assert plain.filling == {}
    assert with_filling(plain, value).filling == value


@pytest.mark.parametrize(
    "value",
    [
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": "1"},
        {"temperature": None},
        {"temperature": [1]},
        {"rescoring": -0.25},
        {"rescoring": "much"},
        {"rescoring": 0.25, "temperature": 0},
        {"top": 5},
        {"": 1},
        {"temperature": 1, "more": 2},
    ],
    ids=str,
)
def test_another_way_of_filling_is_refused(value: object, plain: TextRun) -> None:
    with pytest.raises(RunError) as caught:
        with_filling(plain, value)
    message = str(caught.value)
    assert message.startswith(f"{plain.directory / CONFIG}: not the config of a run (")
    assert "\n" not in message


@pytest.mark.parametrize("value", [None, 3, "temperature", ["temperature"], [[1, 2, 3]], True])
def test_what_is_no_way_of_filling_names_the_config(value: object, plain: TextRun) -> None:
    with pytest.raises(RunError, match="not the config of a run") as caught:
        with_filling(plain, value)
    assert str(plain.directory / CONFIG) in str(caught.value)
