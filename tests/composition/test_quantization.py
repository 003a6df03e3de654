"""Eight-bit weights: by ``layers.quantize``, and by PyTorch's own after ``layers.restore``."""

import copy
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import unrolled
from tests.compare import assert_close_by_name
from tests.composition.layers import DROP_INS, EVERY, Model, input_of, make, named
from unrolled import explain

every = pytest.mark.parametrize("kind", EVERY)


class Sign(nn.Module):
    """Says whether the numbers of a sequence add up to more than nothing."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][-1])


def trained(kind: str) -> tuple[Sign, Tensor, Tensor]:
    """A model that has learnt its task, unseen sequences, and what it should say of them."""
    model = Sign(make(kind, depth=1, both=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        x = torch.randn(8, 64, 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), answers(x)).backward()
        optimizer.step()
    x = torch.randn(8, 1000, 3)
    return model.eval(), x, answers(x)


def answers(x: Tensor) -> Tensor:
    return (x.sum((0, 2)) > 0).long()


def check_accuracy(before: Tensor, after: Tensor, right: Tensor, share: float = 0.05) -> None:
    """Eight bits change no logit by much, few answers, and the share of right ones hardly."""
    assert not torch.equal(before, after)
    # A row's weights are off by 1/254 of its largest at most. With D + H = 8 products in a sum and 8
    # steps that add up, and logits of this size, that stays within a twentieth of the largest logit.
    assert (after - before).abs().max() < share * before.abs().max()
    assert (after.argmax(1) == before.argmax(1)).float().mean() > 0.98
    was, now = ((y.argmax(1) == right).float().mean() for y in (before, after))
    assert was > 0.85
    assert now > was - 0.01


@torch.no_grad()
def size_of(model: nn.Module) -> int:
    return sum(p.numel() * p.itemsize for p in model.parameters())


@every
def test_eight_bits_keep_a_trained_models_answers(kind: str) -> None:
    model, x, right = trained(kind)
    with torch.no_grad():
        before = model(x)
        path = explain(model.layer).path
        assert unrolled.layers.quantize(model) is model
        check_accuracy(before, model(x), right)
    assert explain(model.layer).path == path


@every
def test_no_weight_is_off_by_more_than_half_its_rows_scale(kind: str) -> None:
    model = Model(make(kind))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    unrolled.layers.quantize(model)
    matrices = 0
    for path, weight in before.items():
        owner, _, name = path.rpartition(".")
        after = getattr(model.get_submodule(owner), name)
        if path.startswith("layer") and weight.dim() == 2:
            matrices += 1
            allowed = weight.abs().amax(1, keepdim=True) / 254
            assert ((after - weight).abs() <= allowed * 1.0001).all()
            assert not torch.equal(after, weight)
        else:
            assert torch.equal(after, weight)
    assert matrices == 8


@every
def test_its_state_dict_is_a_quarter_as_big_and_loads(kind: str, tmp_path: Path) -> None:
    big, x = make(kind), input_of()
    if kind in DROP_INS:
        big, x = DROP_INS[kind](64, 64), torch.randn(3, 2, 64)
    before = size_of(big)
    target = unrolled.layers.quantize(copy.deepcopy(big))
    unrolled.layers.quantize(big)
    if kind in DROP_INS:
        assert size_of(big) < 0.3 * before
    save_file(big.state_dict(), tmp_path / "weights.safetensors")
    with torch.no_grad():
        for p in target.parameters():
            p.zero_()
    target.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert_close_by_name(named(target(x)), named(big(x)), 0)


def test_a_row_of_zeros_stays_zero() -> None:
    layer = unrolled.GRU(3, 5)
    nn.init.zeros_(layer.weight_hh_l0)
    assert not unrolled.layers.quantize(layer).weight_hh_l0.any()


def test_what_cannot_be_quantised_is_refused_and_nothing_is_changed() -> None:
    with pytest.raises(ValueError, match=r"^model: got Linear, which holds no recurrent layer$"):
        unrolled.layers.quantize(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"^model: got str"):
        unrolled.layers.quantize("model")
    model = nn.Sequential(unrolled.GRU(3, 5), unrolled.GRU(3, 5))
    nn.utils.parametrizations.weight_norm(model[1], "weight_hh_l0")
    with pytest.raises(ValueError, match=r"^1: got parametrised weights"):
        unrolled.layers.quantize(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_pytorchs_own_quantisation_takes_what_is_restored(kind: str) -> None:
    model, x, right = trained(kind)
    kinds = {nn.LSTM, nn.GRU, nn.Linear}
    assert type(torch.ao.quantization.quantize_dynamic(model, kinds).layer) is type(model.layer)
    small = torch.ao.quantization.quantize_dynamic(
        unrolled.layers.restore(copy.deepcopy(model)), kinds
    )
    assert "torch.ao" in type(small.layer).__module__
    with torch.no_grad():
        check_accuracy(model(x), small(x), right, share=0.1)  # the inputs are rounded too
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    assert file.tell() > 0
