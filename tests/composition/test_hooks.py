"""Hooks on cells, and weights that hooks or parametrizations compute: once a call, on every path."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import unrolled
from tests.compare import assert_close_by_name
from unrolled import Recurrent, bptt, cells
from unrolled.cells import Cell, State
from unrolled.lens import recurrences

T, B, D, H = 5, 2, 3, 4
Way = Callable[[nn.Module, str], object]

WAYS: dict[str, Way] = {
    "prune": lambda module, name: prune.l1_unstructured(module, name, 0.5),
    "weight norm": nn.utils.weight_norm,
    "spectral norm": nn.utils.spectral_norm,
    "parametrized weight norm": nn.utils.parametrizations.weight_norm,
    "parametrized spectral norm": nn.utils.parametrizations.spectral_norm,
}
every_way = pytest.mark.parametrize("way", WAYS)
BACKENDS = ("auto", "reference")


def apply(way: str, module: nn.Module, name: str) -> None:
    with warnings.catch_warnings():  # torch.nn.utils.weight_norm is deprecated, and much used
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(2)
        WAYS[way](module, name)


class Inside(Cell):
    """tanh(V x + U h) of modules inside."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.V, self.U = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        return self.V(x)

    def step(self, projected: Tensor, state: State) -> State:
        return (torch.tanh(projected + self.U(state[0])),)


def gru_of(way: str, **options: object) -> tuple[Recurrent, nn.GRU]:
    """A layer and torch.nn's with the same weights, one of which is computed in the same way."""
    torch.manual_seed(1)
    layer, parent = Recurrent(cells.GRU, D, H, **options).double(), nn.GRU(D, H).double()
    parent.load_state_dict({f"{n}_l0": p for n, p in layer.cells[0].state_dict().items()})
    apply(way, layer.cells[0], "weight_hh")
    apply(way, parent, "weight_hh_l0")
    return layer, parent


def sequence() -> Tensor:
    return torch.randn(T, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def trained(layer: nn.Module, call: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The outputs of three steps of training, and the weights and buffers they lead to."""
    found, optimizer = {}, torch.optim.SGD(layer.parameters(), 0.5)
    for k in range(3):
        optimizer.zero_grad()
        found[f"y {k}"] = y = call(sequence())
        y.square().sum().backward()
        optimizer.step()
    tensors = [*layer.parameters(), *layer.buffers()]
    return found | {f"tensor {k}": t.detach() for k, t in enumerate(tensors)}


@pytest.mark.parametrize("backend", BACKENDS)
@every_way
def test_a_cells_weight_is_computed_as_in_torch_nn(way: str, backend: str) -> None:
    layer, parent = gru_of(way, backend=backend)
    if (
        way == "parametrized spectral norm"
    ):  # of which torch.nn reads the weight, and iterates, twice
        unrolled.accelerate(parent, report=None)
    expected = trained(parent, lambda x: parent(x)[0])
    assert_close_by_name(trained(layer, lambda x: layer(x).y), expected, 3 * T)
    layer, _ = gru_of(way, backend=backend)

    def in_segments(x: Tensor) -> Tensor:
        return bptt.checkpointed(layer, x, segments=2).y

    assert_close_by_name(trained(layer, in_segments), expected, 3 * T)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "parametrized spectral norm"])
def test_a_drop_in_computes_it_as_its_parent_does(way: str) -> None:
    _, parent = gru_of(way)
    expected = trained(parent, lambda x: parent(x)[0])
    drop_in = unrolled.accelerate(gru_of(way)[1], report=None)
    assert_close_by_name(trained(drop_in, lambda x: drop_in(x)[0]), expected, 3 * T)


@pytest.mark.parametrize("backend", BACKENDS)
@every_way
def test_a_weight_inside_a_cell_is_computed_once_a_call(way: str, backend: str) -> None:
    torch.manual_seed(1)
    layer = Recurrent(Inside, D, H, backend=backend).double()
    by_hand = Recurrent(Inside, D, H).double()
    by_hand.load_state_dict(layer.state_dict())
    for each in (layer, by_hand):
        apply(way, each.cells[0].U, "weight")

    def looped(x: Tensor) -> Tensor:
        (cell,) = by_hand.cells
        own, h, ys = cell.U, x.new_zeros(B, H), []
        for hook in own._forward_pre_hooks.values():
            hook(own, ())
        weight = own.weight
        for projected in cell.project(x):
            h = torch.tanh(projected + h @ weight.T + own.bias)
            ys.append(h)
        return torch.stack(ys)

    assert unrolled.explain(layer).path == ("native" if backend == "auto" else "reference")
    expected = trained(by_hand, looped)
    assert_close_by_name(trained(layer, lambda x: layer(x).y), expected, 3 * T)


@every_way
def test_a_stream_and_the_lens_see_the_weight_of_now(way: str) -> None:
    layer, parent = gru_of(way)
    x = sequence()
    for each in (layer, unrolled.accelerate(parent, report=None)):
        stream = each.stream(B)
        for _ in range(2):
            buffers = [b.clone() for b in each.buffers()]
            (seen,) = recurrences(each, x)
            unrolled.explain(each)
            assert all(map(torch.equal, each.buffers(), buffers))
            expected = each.eval()(x)[0]
            each.train()
            stream.state = [torch.zeros_like(s) for s in stream.state]
            got = {"stream": torch.stack([stream(x_t) for x_t in x]), "lens": seen.states[0][1:]}
            assert_close_by_name(got, dict.fromkeys(got, expected), T)
            with torch.no_grad():
                for parameter in each.parameters():
                    parameter *= 1.5


@every_way
def test_weight_drop_drops_of_the_weight_that_is_computed(way: str) -> None:
    layer, _ = gru_of(way, weight_drop=0.5)
    plain = Recurrent(cells.GRU, D, H).double()
    plain.cells[0].load_state_dict(layer.cells[0].state_dict(), strict=False)
    layer(sequence())
    torch.manual_seed(5)
    y = layer(sequence()).y
    torch.manual_seed(5)
    with torch.no_grad():
        weight = layer.cells[0].weight_hh if "spectral" not in way else None
        if weight is None:  # whose estimate has moved on in the call
            return
        plain.cells[0].weight_hh.copy_(nn.functional.dropout(weight, 0.5))
    assert_close_by_name({"y": y}, {"y": plain(sequence()).y}, T)


@every_way
def test_what_writes_into_weights_refuses_those_that_are_computed(way: str) -> None:
    for layer in gru_of(way):
        with pytest.raises(ValueError, match=r"^layer: got .* parametrised weights, weight_hh"):
            unrolled.remedies.orthogonal_weights_(layer)
        with pytest.raises(
            ValueError, match=r"got parametrised weights, weight_hh.*prune.remove first"
        ):
            unrolled.layers.quantize(layer)


def test_an_online_learner_refuses_hooks_on_cells() -> None:
    layer, _ = gru_of("prune")
    with pytest.raises(ValueError, match=r"^layer: got hooks on cells.0, .* expected none; take"):
        bptt.RTRL(layer)


# --- Hooks of a user's own -----------------------------------------------------------------------


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_on_a_cell_run_once_a_call_around_its_scan(backend: str, in_parts: bool) -> None:
    layer = Recurrent(cells.LSTM, D, H, bidirectional=True, backend=backend).double()
    x, cell, seen = sequence(), layer.cells[0], []
    plain, _ = layer(x)
    doubled, _ = layer(2 * x)

    def before(
        module: nn.Module, given: tuple[Tensor, State | None]
    ) -> tuple[Tensor, State | None]:
        assert module is cell
        seen.append("before")
        return 2 * given[0], given[1]

    def after(module: nn.Module, given: object, found: tuple[Tensor, State], **_: object) -> object:
        assert module is cell
        seen.append("after")
        return -found[0], found[1]

    def backward(module: nn.Module, inputs: object, outputs: tuple[Tensor, ...]) -> None:
        assert module is cell
        seen.append("backward")

    handles = [
        cell.register_forward_pre_hook(before),
        cell.register_forward_hook(after),
        cell.register_full_backward_hook(backward),
    ]
    x.requires_grad_()
    y = (bptt.checkpointed(layer, x, segments=2) if in_parts else layer(x)).y
    expected = torch.cat([-doubled[..., :H], plain[..., H:]], -1)
    assert_close_by_name({"y": y}, {"y": expected}, T)
    y.sum().backward()
    assert seen == ["before", "after", "backward"]
    for handle in handles:
        handle.remove()
    assert_close_by_name({"y": layer(x).y}, {"y": plain}, T)


def test_a_hook_inside_a_cell_of_ones_own_runs_at_every_step_by_the_reference() -> None:
    layer, calls = Recurrent(Inside, D, H).double(), []
    layer(sequence())
    handle = layer.cells[0].U.register_forward_hook(lambda *_: calls.append(1))
    explanation = unrolled.explain(layer)
    assert explanation.path == "reference" and "its U has hooks" in explanation.reasons[0]
    layer(sequence())
    assert len(calls) == T
    handle.remove()
    assert unrolled.explain(layer).path == "native"


def test_a_weight_that_a_users_own_hook_writes_is_the_one_that_runs() -> None:
    layer = Recurrent(cells.GRU, D, H).double()
    (cell,) = layer.cells
    raw = cell.weight_hh
    del cell.weight_hh
    cell.raw = raw

    def halve(module: nn.Module, _: object) -> None:
        module.weight_hh = module.raw / 2

    cell.register_forward_pre_hook(halve)
    plain = Recurrent(cells.GRU, D, H).double()
    state = {n: p for n, p in cell.state_dict().items() if n != "raw"}
    for _ in range(2):
        with torch.no_grad():
            raw *= 3
        plain.cells[0].load_state_dict(state | {"weight_hh": raw / 2})
        y = layer(sequence()).y
        assert_close_by_name({"y": y}, {"y": plain(sequence()).y}, T)
        raw.grad = None
        y.sum().backward()
        assert raw.grad.any()
