"""What is said about a path is what the layer then does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from unrolled import Recurrent, cells, layers
from unrolled.layers import Explanation, accelerate, explain
from unrolled.scan import native


class Own(cells.Elman):
    """A cell that the compiler cannot take."""

    def step(self, projected, state):
        return (torch.cumsum(projected + state[0], 1),)


DROP_INS = {
    "RNN": layers.RNN(3, 5, nonlinearity="relu"),
    "LSTM": layers.LSTM(3, 5, bidirectional=True),
    "GRU": layers.GRU(3, 5, 2),
}


def refused_or_run(layer: nn.Module, x: Tensor) -> str:
    """Which path ``layer`` takes, by trying the native one alone."""
    layer.backend = "native"
    try:
        layer(x)
    except RuntimeError:
        return "reference"
    finally:
        layer.backend = "auto"
    return "native"


INPUTS: dict[str, Callable[[], Tensor]] = {
    "float32": lambda: torch.randn(4, 2, 3),
    "one sequence": lambda: torch.randn(4, 3),
    "one sequence without steps": lambda: torch.randn(0, 3),
    "no sequences": lambda: torch.randn(4, 0, 3),
    "float64": lambda: torch.randn(4, 2, 3).double(),
    "packed": lambda: pack_sequence([torch.randn(n, 3) for n in (2, 4)], enforce_sorted=False),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kind", DROP_INS)
def test_a_drop_in_does_what_is_said(kind: str, name: str) -> None:
    layer, x = DROP_INS[kind], INPUTS[name]()
    explanation = explain(layer, x)
    assert explanation.path == refused_or_run(layer, x)
    assert (explanation.path == "native") == (not explanation.reasons)
    assert ("native" in str(explanation)) == (explanation.path == "native")


def test_the_native_path_is_told_with_its_instruction_set_and_threads() -> None:
    explanation = explain(layers.LSTM(3, 5, 2), torch.randn(4, 2, 3))
    assert explanation == Explanation(
        "unrolled.LSTM(3, 5, num_layers=2)",
        "native",
        instruction_set=native.instruction_set(),
        threads=torch.get_num_threads(),
    )
    assert str(explanation).splitlines() == [
        "unrolled.LSTM(3, 5, num_layers=2): native",
        f"  instruction set: {native.instruction_set()}",
        "  threads: 1",
    ]


def test_every_reason_has_its_line() -> None:
    layer = layers.LSTM(3, 5, proj_size=2).bfloat16()
    explanation = explain(layer, torch.randn(4, 2, 3).bfloat16())
    first, second = explanation.reasons
    assert first == "proj_size is 2: no kernel has two products in a step"
    assert "bfloat16" in second
    assert str(explanation).splitlines() == [
        "unrolled.LSTM(3, 5, proj_size=2): reference",
        f"  {first}",
        f"  {second}",
    ]
    assert (explanation.instruction_set, explanation.threads) == (None, None)


def test_what_is_about_the_layer_alone_needs_no_input() -> None:
    assert explain(layers.GRU(3, 5)).path == "native"
    (reason,) = explain(layers.GRU(3, 5).half()).reasons
    assert "float16" in reason


def test_a_backend_that_was_chosen_is_told() -> None:
    explanation = explain(layers.GRU(3, 5, backend="reference"))
    assert (explanation.path, explanation.reasons) == (
        "reference",
        ('backend="reference" is set',),
    )
    for layer in (
        layers.LSTM(3, 5, proj_size=2, backend="native"),
        Recurrent(Own, 3, 5, backend="native"),
    ):
        refused = explain(layer)
        assert refused.path == "refused"
        assert "native" not in str(refused)
    assert explain(Recurrent(cells.GRU, 3, 5, backend="reference")).path == "reference"


def test_without_the_library_the_reason_is_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "missing", lambda: "no compiler was found")
    for layer in (layers.GRU(3, 5), Recurrent(cells.GRU, 3, 5)):
        explanation = explain(layer)
        assert explanation.path == "reference"
        assert "no compiler was found" in explanation.reasons
        assert "native" not in str(explanation)


def test_a_state_counts_too() -> None:
    layer, x = layers.GRU(3, 5), torch.randn(4, 2, 3)
    assert explain(layer, x, torch.zeros(1, 2, 5)).path == "native"
    (reason,) = explain(layer, x, torch.zeros(1, 2, 5).double()).reasons
    assert "float64" in reason


def test_torch_nns_own_layers_are_told_what_to_do() -> None:
    assert str(explain(nn.LSTM(3, 5))).splitlines() == [
        "torch.nn.LSTM(3, 5): reference",
        "  it is not swapped; unrolled.accelerate(model) does it",
    ]

    class Mine(nn.GRU):
        pass

    (reason,) = explain(Mine(3, 5)).reasons
    assert reason == "it is a subclass of torch.nn.GRU, and may compute something else"


@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_a_recurrent_of_a_built_in_cell_is_native(cell: type[cells.Cell]) -> None:
    layer = Recurrent(cell, 3, 5, depth=2, bidirectional=True)
    x = torch.randn(4, 2, 3)
    state = tuple(torch.zeros(4, 2, 5) for _ in layer.cells[0].state_sizes)
    for explanation in (explain(layer), explain(layer, x, state, lengths=[4, 1])):
        assert explanation.path == "native"
        assert explanation.layer.startswith(f"Recurrent({cell.__name__}, 3, 5, depth=2, bidir")


def test_a_recurrent_of_another_cell_says_so_once() -> None:
    explanation = explain(Recurrent(Own, 3, 5, depth=2, bidirectional=True))
    (reason,) = explanation.reasons
    assert explanation.path == "reference"
    assert "Own" in reason


def test_a_recurrent_refuses_what_its_call_would_refuse() -> None:
    layer, x = Recurrent(cells.GRU, 3, 5), torch.randn(4, 2, 3)
    with pytest.raises(ValueError, match=r"^lengths: got 5"):
        explain(layer, x, lengths=[5, 1])
    with pytest.raises(TypeError, match=r"^x: got torch\.float64"):
        explain(layer, x.double())
    with pytest.raises(TypeError, match=r"write \(state,\)$"):
        explain(layer, x, torch.zeros(1, 2, 5))


def test_a_model_is_explained_layer_by_layer() -> None:
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Embedding(11, 3), nn.LSTM(3, 5)),
            "decoder": nn.LSTM(3, 5, proj_size=2),
            "head": nn.Linear(5, 2),
        }
    )
    model["again"] = model["encoder"][1]
    before = explain(model)
    assert list(before.parts) == ["encoder.1", "decoder"]
    assert "native" not in str(before)
    after = explain(accelerate(model, report=None))
    assert after.parts["encoder.1"] == explain(model["encoder"][1])
    assert after.path == "reference"
    assert after.reasons == ("decoder: proj_size is 2: no kernel has two products in a step",)
    assert str(after) == "\n".join(f"{name}: {part}" for name, part in after.parts.items())
    del model["decoder"]
    assert explain(model).path == "native"


def test_a_wrong_argument_is_refused() -> None:
    model = nn.Sequential(nn.GRU(3, 5))
    with pytest.raises(TypeError, match=r"^x, hx: got them for Sequential, .*explain\(model\.enc"):
        explain(model, torch.randn(4, 2, 3))
    with pytest.raises(ValueError, match=r"^module: got Linear, which holds no recurrent layer$"):
        explain(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"^module: got type, expected a torch\.nn\.Module$"):
        explain(layers.GRU)
    with pytest.raises(TypeError, match=r"^lengths: got them for GRU, but only Recurrent"):
        explain(nn.GRU(3, 5), torch.randn(4, 2, 3), lengths=[4, 1])
    with pytest.raises(TypeError, match=r"^input: got list"):
        explain(layers.GRU(3, 5), [1.0])


@pytest.mark.parametrize("name", ["resets", "mask"])
def test_resets_and_masks_are_checked_as_in_a_call(name: str) -> None:
    flags = torch.zeros(4, 2).bool()
    x = torch.zeros(4, 2, 3)
    kinds = [Recurrent(cells.GRU, 3, 5), layers.GRU(3, 5)]
    for layer in kinds if name == "resets" else kinds[:1]:
        assert explain(layer, x, **{name: flags}).path == explain(layer, x).path
        with pytest.raises(ValueError, match=rf"^{name}: got shape \[2, 4\], expected \[4, 2\]"):
            explain(layer, x, **{name: flags.T})
    with pytest.raises(TypeError, match=f"^{name}: got them for GRU, but only Recurrent takes"):
        explain(nn.GRU(3, 5), x, **{name: flags})


def test_a_drop_in_takes_lengths_and_resets_but_no_mask() -> None:
    layer, x = layers.LSTM(3, 5), torch.randn(4, 2, 3)
    for given in ({"lengths": [4, 0]}, {"resets": torch.ones(4, 2).bool()}):
        assert explain(layer, x, **given).path == "native"
        assert explain(layer.half(), x.half(), **given).path == "reference"
        layer.float()
    with pytest.raises(TypeError, match=r"^mask: got one for LSTM, but only Recurrent takes it$"):
        explain(layer, x, mask=torch.ones(4, 2).bool())
    with pytest.raises(ValueError, match=r"^lengths: got 5, expected from 0 to T = 4"):
        explain(layer, x, lengths=[5, 1])
    packed = pack_padded_sequence(x, torch.tensor([4, 2]))
    with pytest.raises(ValueError, match=r"^lengths: got them with a PackedSequence"):
        explain(layer, packed, lengths=[4, 2])
    with pytest.raises(ValueError, match=r"^resets: got them with proj_size=2; use Recurrent"):
        explain(layers.LSTM(3, 5, proj_size=2), x, resets=torch.ones(4, 2).bool())
