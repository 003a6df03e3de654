"""What is odd or goes wrong inside the block: it works, or is told; the layers are as before."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import unrolled
from tests.lens.seeing import (
    B,
    D,
    H,
    T,
    both_backends,
    every_layer,
    inputs,
    is_unwatched,
    made,
    told,
)
from unrolled import Recurrent, cells, remedies
from unrolled.lens import watch
from unrolled.scan import Backend

# --- The loop itself -----------------------------------------------------------------------------


def test_only_recurrent_layers_can_be_watched() -> None:
    for model in (nn.LSTMCell(D, H), nn.ModuleList(), nn.Sequential(nn.Linear(D, H), nn.ReLU())):
        expected = f"model: got {type(model).__name__}, which holds no recurrent layer"
        with pytest.raises(ValueError, match=expected), watch(model):
            pass


@every_layer
def test_without_a_backward_pass(name: str) -> None:
    layer = made(name)
    with watch(layer) as seen:
        with torch.no_grad():
            layer(inputs())
        layer(inputs())
        seen.clipped(2.0, 1.0)
    record = told(seen)
    assert [row["calls"] for row in record["rows"]] == [0, 0]
    assert all(row["norms"] == [None] * T for row in record["rows"])
    assert any("no backward pass" in note for note in record["notes"])
    assert record["clipping"]["spikes"] == [{"call": 0, "norm": 2.0, "bound": 1.0}]
    assert seen.broken() is None


@both_backends
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_of_two_backward_passes_the_last_counts(
    cell: Callable[..., cells.Cell], backend: Backend
) -> None:
    layer, x = Recurrent(cell, D, H, depth=2, backend=backend), inputs()

    def norms(*losses: Callable[[Tensor], Tensor]) -> list[dict[str, Tensor]]:
        with watch(layer) as seen:
            y = layer(x).y
            for loss in losses:
                loss(y).backward(retain_graph=True)
        assert len(seen.flows) == 2 and told(seen)["rows"][0]["calls"] == 1
        return [{n: v.nan_to_num(0) for n, v in flow.norms.items()} for flow in seen.flows]

    def first(y: Tensor) -> Tensor:
        return 5 * y[-1].sum()

    def second(y: Tensor) -> Tensor:
        return y[2].square().sum()

    for got, alone in zip(norms(first, second), norms(second), strict=True):
        assert got.keys() == alone.keys()
        for name in got:
            assert got[name][:3].any() and not got[name][3:].any()
            torch.testing.assert_close(got[name], alone[name])


@every_layer
def test_an_exception_leaves_no_trace(name: str) -> None:
    layer = made(name)
    model, kind = nn.ModuleDict({"rnn": layer, "head": nn.Linear(H, 2)}), type(layer)
    x = inputs()
    with torch.no_grad():
        expected = layer(x)[0]

    def fails(gradient: Tensor) -> Tensor:
        raise KeyError("backward")

    errors = {
        "block": "in the block",
        "forward": "expected|Expected",
        "head": "mat1",
        "backward": "back",
    }
    for place in errors:
        with (
            pytest.raises((KeyError, ValueError, RuntimeError), match=errors[place]),
            watch(model) as seen,
        ):
            y = layer(x)[0]
            if place == "forward":
                layer(x[..., :2])
            elif place == "head":
                model["head"](y[..., :1])
            elif place == "backward":
                twice = y * 2
                twice.register_hook(fails)
                twice.sum().backward()
            raise RuntimeError("in the block")
        assert is_unwatched(layer, kind)
        rows = told(seen)["rows"]
        assert [row["calls"] for row in rows] == [0, 0] and seen.broken() is None
        layer.zero_grad()
        with watch(model) as again:
            layer(x)[0].sum().backward()
        assert [row["calls"] for row in told(again)["rows"]] == [1, 1]
        assert is_unwatched(layer, kind)
        assert all(p.grad.isfinite().all() for p in layer.parameters())
    torch.testing.assert_close(layer(x)[0].detach(), expected)


def test_one_layer_of_two_has_no_gradient() -> None:
    model = nn.ModuleDict({"used": nn.GRU(D, H), "cut": nn.LSTM(D, H), "idle": nn.GRU(D, H)})
    x = inputs()
    with watch(model) as seen:
        (model["used"](x)[0].sum() + model["cut"](x)[0].detach().sum()).backward()
    record = told(seen)
    assert [(row["layer"], row["calls"]) for row in record["rows"]] == [("used", 1), ("cut", 0)]
    assert record["rows"][1]["norms"] == [None] * T and None not in record["rows"][0]["norms"]
    used, cut = (line for line in str(seen.report()).splitlines() if ", 0 " in line)
    assert "no gradient came" in cut and "no gradient came" not in used


# --- Short, empty, large and small ---------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_size", [1, B])
def test_one_step(name: str, bidirectional: bool, batch_size: int) -> None:
    layer = made(name, bidirectional=bidirectional)
    with watch(layer) as seen:
        layer(inputs(1, batch_size))[0].sum().backward()
        seen.clipped(remedies.clip_norm_(layer.parameters(), 1e-3), 1e-3)
    record = told(seen)
    assert len(record["rows"]) == 2 * (1 + bidirectional)
    for row in record["rows"]:
        assert len(row["norms"]) == 1 and row["norms"][0] >= 0
        assert row["verdict"]["growth"] is row["verdict"]["horizon"] is None
        assert "too few" in row["verdict"]["evidence"] and row["view"]["lags"] == [[1.0]]
    assert record["clipping"]["spikes"][0]["lag"] == 0 and record["broken"] is None


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "drop-in layer LSTM", "torch GRU"])
@pytest.mark.parametrize("lengths", [[0, T, 2], [0, 0, 0]])
def test_sequences_of_length_0(name: str, lengths: list[int]) -> None:
    layer = made(name, bidirectional=True)
    with watch(layer) as seen:
        y = layer(inputs(), lengths=lengths)[0]
        if y.requires_grad:  # by the reference nothing is computed of sequences that are all empty
            y.sum().backward()
        seen.clipped(1e9, 1.0)
    assert all(flow.real.sum(0).tolist() == lengths for flow in seen.flows)
    record = told(seen)
    some = any(lengths)
    assert [row["verdict"] is not None for row in record["rows"]] == [some] * 4
    assert [row["norms"] != [None] * T for row in record["rows"]] == [some] * 4
    ((spike),) = record["clipping"]["spikes"]
    assert spike.get("sequence") in ((1, 2) if some else (None,))


@pytest.mark.parametrize("name", ["Recurrent LSTM", "reference", "drop-in layer LSTM", "torch GRU"])
@pytest.mark.parametrize(("steps", "batch_size"), [(0, B), (T, 0)])
def test_nothing_to_read(name: str, steps: int, batch_size: int) -> None:
    layer = made(name)
    with watch(layer) as seen:
        layer(inputs(steps, batch_size))
    record = told(seen)
    assert all(row["verdict"] is row["view"] is None for row in record["rows"])
    assert [row["norms"] for row in record["rows"]] == [[None] * steps] * 2


@both_backends
@pytest.mark.parametrize("a", [0.5, 2.0])
def test_norms_whose_squares_float32_does_not_have(a: float, backend: Backend) -> None:
    steps = 90
    layer = Recurrent(cells.Elman, 1, H, activation="identity", bias=False, backend=backend)
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(a * torch.eye(H))
        layer.cells[0].weight_ih.zero_()
    with watch(layer) as seen:
        layer(torch.randn(steps, 1, 1)).y[-1].sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    expected = 2 * a ** torch.arange(steps - 1, -1, -1.0).unsqueeze(1)
    torch.testing.assert_close(seen.flows[0].h.double(), expected.double(), rtol=1e-5, atol=0)
    assert seen.broken() is None and told(seen)["broken"] is None


@pytest.mark.parametrize("a", [1e30, 1e-30, 0.0])
def test_a_report_of_extreme_weights(a: float) -> None:
    """The growth is known where the products of Jacobians leave float32, also float64."""
    layer = Recurrent(cells.Elman, 1, H, activation="identity", bias=False)
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(a * torch.eye(H))
    with watch(layer) as seen:
        layer(torch.zeros(30, 1, 1)).y[-1].sum().backward()
    (row,) = told(seen)["rows"]
    assert row["verdict"]["state"] == ("exploding" if a > 1 else "vanishing")
    assert row["verdict"]["growth"] == pytest.approx(a, rel=1e-4)
    lags = row["view"]["lags"][-1]
    assert lags[1] == pytest.approx(a, rel=1e-4) and lags[-1] == (None if a > 1 else 0.0)


# --- Copies, modes, transforms -------------------------------------------------------------------


def test_nothing_is_in_the_way_of_many_gradients_at_once() -> None:
    for layer in (nn.GRU(D, H), Recurrent(cells.Elman, D, H, backend="reference")):
        x = inputs().requires_grad_()
        with watch(layer) as seen:
            y = layer(x)[0]
            units = torch.eye(H).unsqueeze(1).unsqueeze(1).expand(H, *y.shape)
            (found,) = torch.autograd.grad(y, x, units, is_grads_batched=True)
        assert found.shape == (H, *x.shape)
        assert not seen.flows[0].reached
        with watch(layer):
            jacobian = torch.func.jacrev(lambda x, layer=layer: layer(x)[0])(x.detach())
        assert jacobian.shape == (*y.shape, *x.shape)


def test_no_sequences_are_as_outside() -> None:
    layer = nn.GRU(D, H)
    with watch(layer) as seen:
        layer(torch.zeros(T, 0, D))[0].sum().backward()
    assert layer.weight_hh_l0.grad is not None and not layer.weight_hh_l0.grad.any()
    assert seen.report().rows[0].verdict is None


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_complex_weights_are_left_alone() -> None:
    layer = nn.RNN(D, H).to(torch.complex64)
    with watch(layer) as seen:
        layer(inputs().to(torch.complex64))[0].abs().sum().backward()
    assert seen.unseen and type(layer) is nn.RNN
    with pytest.raises(RuntimeError, match="its weights are complex"):
        seen.report()


def test_a_device_without_numbers_is_no_obstacle() -> None:
    layer = Recurrent(cells.GRU, D, H).to("meta")
    with watch(layer) as seen:
        assert layer(torch.zeros(T, B, D, device="meta")).y.shape == (T, B, H)
    assert not seen.flows and "without numbers" in next(iter(seen.unseen.values()))


def test_a_parametrised_layer_gets_its_own_class_back() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.GRU(D, H), "weight_hh_l0")
    kind = type(layer)
    with watch(layer) as seen:
        layer(inputs())[0].sum().backward()
    assert type(layer) is kind and seen.flows[0].reached


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_is_not_watched_and_not_in_the_way() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        torch.compile(layer, fullgraph=True, backend="eager")(inputs())[0].sum().backward()
        with pytest.raises(RuntimeError, match="not a compiled one"):
            seen.report()


def test_evaluation_in_between_is_in_another_mode() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        for _ in range(2):
            with torch.inference_mode():
                layer(torch.randn(T, B, D))
            layer(torch.randn(T, B, D))[0].sum().backward()
    assert [flow.reached for flow in seen.flows] == [False, True] * 2
    assert [flow.turn for flow in seen.flows] == [0, 0, 1, 1]
    assert seen.report().verdict is not None


def test_a_copy_is_not_watched() -> None:
    layer = unrolled.GRU(D, H)
    with watch(layer) as seen:
        copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
        for other in copies:
            other(torch.randn(T, B, D))
            with watch(other) as again:
                other(torch.randn(T, B, D))
            assert len(again.flows) == 1
    assert not seen.flows


def test_inside_torch_func_nothing_is_kept() -> None:
    layer = unrolled.GRU(D, H)
    weights = dict(layer.named_parameters())

    def loss(x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, weights, (x,))[0]
        return y.sum()

    with watch(layer) as seen:
        torch.func.vmap(torch.func.grad(loss))(torch.randn(2, T, B, D))
        assert not seen.flows
        layer(torch.randn(T, B, D))[0].sum().backward()
    assert seen.report().verdict is not None and "torch.func" in str(seen.report())


def test_a_layer_that_did_not_run_is_named() -> None:
    model = nn.ModuleDict({"used": nn.GRU(D, H), "idle": nn.GRU(D, H)})
    with watch(model) as seen:
        model["used"](torch.randn(T, B, D))[0].sum().backward()
    assert "note: idle did not run inside the block" in str(seen.report())
