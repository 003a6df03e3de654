"""What users of ``torch.nn`` rely on: files, copies, hooks, dtypes, devices."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from tests.compare import assert_close_by_name
from tests.composition.layers import DROP_INS, EVERY, NATIVE, Model, input_of, make, named, values
from unrolled import explain, layers

every = pytest.mark.parametrize("kind", EVERY)


def another(kind: str) -> nn.Module:
    """A model of the same kind with other weights."""
    model = Model(make(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


@every
def test_safetensors_save_and_load_it(kind: str, tmp_path: Path) -> None:
    model, target, x = Model(make(kind)), another(kind), input_of()
    save_model(model, str(tmp_path / "model.safetensors"))
    assert load_model(target, tmp_path / "model.safetensors") == (set(), [])
    assert_close_by_name(named(target(x)), named(model(x)), 0)
    target = another(kind)
    save_file(model.state_dict(), tmp_path / "state.safetensors")
    target.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert_close_by_name(named(target(x)), named(model(x)), 0)


@every
def test_torch_saves_its_weights_and_loads_them_with_weights_only(kind: str) -> None:
    model, target, x, file = Model(make(kind)), another(kind), input_of(), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert_close_by_name(named(target(x)), named(model(x)), 0)


@every
def test_a_model_is_copied_pickled_and_saved_whole(kind: str) -> None:
    model, x, file = Model(make(kind)), input_of(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ]
    expected = values(model, model, x)
    for other in copies:
        assert type(other.layer) is type(model.layer)
        assert_close_by_name(values(other, other, x), expected, 0)
    assert explain(copies[0].layer).path == explain(model.layer).path


@every
def test_hooks_see_and_change_what_goes_through(kind: str) -> None:
    layer, x, seen = make(kind), input_of(), {}

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (2 * arguments[0],)

    def after(_: nn.Module, arguments: tuple[Tensor, ...], result: Any) -> Any:
        seen["x"] = arguments[0]
        return -result[0], result[1]

    def backward(_: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Any, ...]) -> None:
        seen["dx"], seen["dy"] = inputs[0], outputs[0]

    expected = -layer(2 * x)[0]
    handles = [
        layer.register_forward_pre_hook(before),
        layer.register_forward_hook(after),
        layer.register_full_backward_hook(backward),
    ]
    x.requires_grad_()
    y, _ = layer(x)
    assert_close_by_name({"y": y}, {"y": expected}, 4)
    y.sum().backward()
    assert torch.equal(seen["x"], 2 * x)
    assert torch.equal(2 * seen["dx"], x.grad)
    assert seen["dy"].shape == y.shape
    for handle in handles:
        handle.remove()
    assert_close_by_name({"y": layer(2 * x)[0]}, {"y": -expected}, 4)


@every
def test_a_change_of_dtype_is_followed_and_undone(kind: str) -> None:
    layer, x = make(kind), input_of()
    y, _ = layer(x)
    layer.to(torch.float64)
    assert layer(x.double())[0].dtype == torch.float64
    torch.testing.assert_close(layer(x.double())[0].float(), y, atol=1e-5, rtol=0)
    layer.to(torch.bfloat16)
    assert layer(x.bfloat16())[0].dtype == torch.bfloat16
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"dtype|float"):
        layer(x)


@every
def test_a_layer_on_the_meta_device_has_shapes_and_is_filled_later(kind: str) -> None:
    source, x = make(kind), input_of()
    with torch.device("meta"):
        layer = make(kind)
    assert all(p.is_meta for p in layer.parameters())
    shapes = {name: y.shape for name, y in named(layer(x.to("meta"))).items()}
    assert shapes == {name: y.shape for name, y in named(source(x)).items()}
    layer.to_empty(device="cpu").load_state_dict(source.state_dict())
    assert_close_by_name(values(layer, layer, x), values(source, source, x), 4)
    with torch.device("meta"):
        layer = make(kind)
    layer.load_state_dict(source.state_dict(), assign=True)
    assert_close_by_name(values(layer, layer, x), values(source, source, x), 4)


@pytest.mark.parametrize("kind", NATIVE)
def test_the_default_device_changes_nothing_for_a_layer_on_the_cpu(kind: str) -> None:
    layer, x = make(kind), input_of()
    expected = values(layer, layer, x)
    torch.set_default_device("meta")
    try:
        assert make(kind)(input_of())[0].is_meta
        y, _ = layer(x)
    finally:
        torch.set_default_device(None)
    assert_close_by_name({"output 0": y}, {"output 0": expected["output 0"]}, 4)


@every
def test_apply_freeze_and_zero_grad_reach_every_parameter(kind: str) -> None:
    layer, x = make(kind), input_of()
    layer(x)[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.zero_grad()
    assert all(p.grad is None for p in layer.parameters())
    layer.apply(lambda module: [nn.init.zeros_(p) for p in module.parameters(recurse=False)])
    assert not layer.requires_grad_(False)(x)[0].any()


@pytest.mark.parametrize("kind", DROP_INS)
def test_an_optimizer_and_clipping_work_as_on_its_parent(kind: str) -> None:
    parent, drop_in, x = getattr(nn, kind)(3, 5), make(kind, depth=1, both=False), input_of()
    drop_in.load_state_dict(parent.state_dict())
    for layer in (parent, drop_in):
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            layer(x)[0].square().sum().backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
            optimizer.step()
    # Adam divides by the root of the squares, which makes a step of 1e-3 of the smallest gradient.
    for p, q in zip(parent.parameters(), drop_in.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_drop_ins_are_restored_with_everything_they_hold() -> None:
    model = nn.ModuleList([layers.LSTM(3, 5, backend="reference"), layers.GRU(3, 5)])
    nn.utils.parametrizations.weight_norm(model[1], "weight_hh_l0")
    parameters, x = list(model.parameters()), input_of()
    expected = [named(layer(x)) for layer in model]
    assert layers.restore(model) is model
    assert type(model[0]) is nn.LSTM and "backend" not in vars(model[0])
    assert isinstance(model[1], nn.GRU) and not isinstance(model[1], layers.GRU)
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    for layer, y in zip(model, expected, strict=True):
        assert_close_by_name(named(layer(x)), y, 4)
    layers.accelerate(model, report=None)
    assert isinstance(model[0], layers.LSTM) and isinstance(model[1], layers.GRU)


def test_a_subclass_of_a_drop_in_is_not_restored() -> None:
    class Mine(layers.GRU):
        pass

    model = nn.Sequential(Mine(3, 5), layers.GRU(3, 5))
    layers.restore(model)
    assert [type(layer) for layer in model] == [Mine, nn.GRU]
    with pytest.raises(TypeError, match=r"^model: got str"):
        layers.restore("model")
