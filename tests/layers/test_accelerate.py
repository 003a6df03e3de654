"""Swapping the layers of a model: only the class changes, and what was done is said."""

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_sequence

from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells, layers
from unrolled.layers import accelerate

PARENTS = {nn.RNN: layers.RNN, nn.LSTM: layers.LSTM, nn.GRU: layers.GRU}


class Tagger(nn.Module):
    """A model with layers of each kind, at several depths."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 3)
        self.encoder = nn.LSTM(3, 5, 2, bidirectional=True)
        self.stack = nn.ModuleList([nn.GRU(10, 7, batch_first=False), nn.RNN(7, 5)])
        self.head = nn.Linear(5, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.encoder(self.embedding(tokens))
        for layer in self.stack:
            y, _ = layer(y)
        return self.head(y)


def quietly(model: nn.Module, **options: Any) -> list[str]:
    """Accelerate ``model``, and return the lines of the report."""
    lines: list[str] = []
    assert accelerate(model, report=lines.append, **options) is model
    return lines


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The losses of a few steps on fixed data."""
    data = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(11, (6, 4), generator=data)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten() % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_every_layer_becomes_its_drop_in_and_computes_the_same() -> None:
    model = Tagger()
    tokens = torch.randint(11, (6, 4))
    before, expected = list(model.named_modules()), model(tokens)
    lines = quietly(model, backend="native")
    for (name, module), (same_name, same) in zip(before, model.named_modules(), strict=True):
        assert (name, module) == (same_name, same)
    kinds = [type(m) for m in (model.encoder, *model.stack)]
    assert kinds == [layers.LSTM, layers.GRU, layers.RNN]
    assert {m.backend for m in (model.encoder, *model.stack)} == {"native"}
    assert_close_by_name({"y": model(tokens)}, {"y": expected}, 6)
    assert [line.split(": ")[0] for line in lines] == ["encoder", "stack.0", "stack.1"]
    assert all("swapped: native" in line for line in lines)


def test_an_optimizer_goes_on_with_the_same_parameters() -> None:
    plain = Tagger().double()
    model = copy.deepcopy(plain)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (plain, model)]
    expected = trained(plain, optimizers[0], 3)
    assert trained(model, optimizers[1], 3) == expected
    parameters = list(model.parameters())
    quietly(model, backend="native")
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    got, expected = trained(model, optimizers[1], 3), trained(plain, optimizers[0], 3)
    # Adam divides by the gradient's own size: what rounds differently there is not damped.
    assert got == pytest.approx(expected, rel=1e-9)
    assert got[0] != got[1]


def test_a_layer_that_is_shared_or_held_elsewhere_is_the_same_everywhere() -> None:
    shared = nn.GRU(3, 3)
    model = nn.ModuleList([shared, nn.Sequential(shared), nn.ModuleDict({"again": shared})])
    assert len(quietly(model)) == 1
    assert model[0] is model[1][0] is model[2]["again"] is shared
    assert type(shared) is layers.GRU


@pytest.mark.parametrize("parent", PARENTS)
def test_a_layer_itself_is_swapped_too(parent: type[nn.RNNBase]) -> None:
    layer = parent(3, 5)
    (line,) = quietly(layer)
    assert type(layer) is PARENTS[parent]
    assert line.startswith(f"model: torch.nn.{parent.__name__}(3, 5), swapped: ")


def test_everything_a_layer_holds_is_kept() -> None:
    layer = nn.LSTM(3, 5, 2, dropout=0.5).eval()
    layer.register_buffer("seen", torch.zeros(1))
    layer.note = ["mine"]
    layer.weight_hh_l0.requires_grad_(False)
    called: list[str] = []
    layer.register_forward_pre_hook(lambda *_: called.append("pre"))
    layer.register_forward_hook(lambda *_: called.append("forward"))
    layer.register_full_backward_hook(lambda *_: called.append("backward"))
    layer.register_state_dict_post_hook(lambda *_: called.append("state_dict"))
    layer.register_load_state_dict_post_hook(lambda *_: called.append("load"))
    weights, before = dict(layer.named_parameters()), dict(vars(layer))
    quietly(layer)
    assert {name: vars(layer)[name] for name in before} == before
    assert layer.note is before["note"]
    assert not layer.training
    assert all(weights[name] is weight for name, weight in layer.named_parameters())
    y, _ = layer(torch.randn(4, 2, 3, requires_grad=True))
    y.sum().backward()
    layer.load_state_dict(layer.state_dict())
    assert called == ["pre", "forward", "backward", "state_dict", "load"]
    assert layer.weight_hh_l0.grad is None


def test_parametrised_layers_stay_parametrised() -> None:
    layer = nn.GRU(3, 5)
    parametrizations.orthogonal(layer, "weight_hh_l0")
    other = copy.deepcopy(layer)  # of the same class, which must not become a drop-in layer with it
    x = torch.randn(4, 2, 3)
    expected, before = layer(x)[0], type(layer)
    quietly(layer, backend="native")
    assert isinstance(layer, layers.GRU)
    assert parametrize.is_parametrized(layer, "weight_hh_l0")
    assert type(other) is before
    assert not isinstance(other, layers.GRU)
    assert_close_by_name({"y": layer(x)[0]}, {"y": expected}, 4)
    layer(x)[0].sum().backward()
    assert layer.parametrizations["weight_hh_l0"].original.grad is not None
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is layers.GRU
    assert_close_by_name({"y": layer(x)[0]}, {"y": expected}, 4)


def test_what_is_swapped_already_is_left_and_said_to_be() -> None:
    model = nn.ModuleList(
        [layers.LSTM(3, 5, backend="reference"), Recurrent(cells.GRU, 3, 5), nn.GRU(3, 5)]
    )
    quietly(model)
    assert (model[0].backend, model[2].backend) == ("reference", "auto")
    lines = quietly(model, backend="native")
    assert model[2].backend == "auto"
    assert all("nothing to swap" in line for line in lines)
    assert [line[0] for line in lines] == ["0", "1", "2"]


class Scaled(nn.LSTM):
    """A layer of someone's own."""

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        y, state = super().forward(x, hx)
        return 2 * y, state


def subclass() -> nn.Module:
    return Scaled(3, 5)


def parametrised_subclass() -> nn.Module:
    layer = Scaled(3, 5)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    return layer


def patched() -> nn.Module:
    layer = nn.LSTM(3, 5)
    layer.forward = lambda x: (x, None)
    return layer


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against all of TorchScript
        return getattr(torch.jit.script(nn.Sequential(nn.LSTM(3, 5))), "0")


def quantisable() -> nn.Module:
    return torch.ao.nn.quantizable.LSTM(3, 5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (subclass, r"Scaled\(3, 5\), left: it is a subclass of torch.nn.LSTM, and may compute"),
        (parametrised_subclass, "left: it is a subclass of torch.nn.LSTM"),
        (patched, r"torch.nn.LSTM\(3, 5\), left: its forward has been replaced"),
        (scripted, "LSTM, left: it is compiled by TorchScript"),
        (quantisable, "LSTM, left: it is torch.ao's, for quantisation"),
    ],
)
def test_what_cannot_be_swapped_is_left_with_the_reason(
    make: Callable[[], nn.Module], reason: str
) -> None:
    layer = make()
    before, model = type(layer), nn.ModuleDict({"encoder": layer, "other": nn.GRU(3, 5)})
    left, swapped = quietly(model)
    assert type(layer) is before
    assert left.startswith("encoder: ")
    assert re.search(reason, left)
    assert swapped.startswith("other: torch.nn.GRU(3, 5), swapped: ")


def test_the_report_says_which_path_a_swapped_layer_takes_and_why() -> None:
    (line,) = quietly(nn.LSTM(3, 5, proj_size=2))
    assert line.endswith("swapped: reference, proj_size is 2: no kernel has two products in a step")
    (line,) = quietly(nn.LSTM(3, 5, proj_size=2), backend="native")
    assert "swapped: refused, proj_size is 2" in line


def test_it_prints_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    accelerate(nn.Sequential(nn.GRU(3, 5)))
    assert capsys.readouterr().out.startswith("0: torch.nn.GRU(3, 5), swapped: native, ")
    accelerate(nn.Linear(2, 2))
    assert capsys.readouterr().out == "Linear: no recurrent layer inside\n"
    accelerate(nn.GRU(3, 5), report=None)
    assert capsys.readouterr().out == ""


def test_a_wrong_argument_is_refused_before_anything_is_swapped() -> None:
    with pytest.raises(TypeError, match=r"^model: got type, expected a torch.nn.Module$"):
        accelerate(nn.LSTM)
    model = nn.Sequential(nn.LSTM(3, 5))
    with pytest.raises(ValueError, match=r"^backend: got 'fast'"):
        accelerate(model, backend="fast")
    assert type(model[0]) is nn.LSTM


def test_packed_sequences_go_through_an_accelerated_layer() -> None:
    layer = nn.GRU(3, 5, bidirectional=True)
    packed = pack_sequence([torch.randn(n, 3) for n in (2, 4, 1)], enforce_sorted=False)
    expected, h_n = layer(packed)
    got, ours = accelerate(layer, backend="native", report=None)(packed)
    assert_close_by_name({"y": got.data, "h_n": ours}, {"y": expected.data, "h_n": h_n}, 4)
