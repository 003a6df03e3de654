"""Checkpointed calls against plain ones: every value, every gradient, the memory, and what is refused."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import unrolled
from tests.compare import LSTM_HAS_AUTOCAST, assert_close_by_name, collect, leaves
from unrolled import Recurrent, bptt, cells
from unrolled.bptt.schedule import parse
from unrolled.cells import Cell, State
from unrolled.layers.torch_layers import TorchLayer
from unrolled.scan.native import jit

T, B, D, H = 11, 3, 4, 5
Named = dict[str, Tensor]


def x_of(steps: int = T, batch_size: int = B, width: int = D) -> Tensor:
    return torch.randn(steps, batch_size, width).double()


def named_smallest(call: Callable[..., object]) -> str:
    """The smallest budget, as the error of one that is too small names it."""
    with pytest.raises(ValueError, match=r"^memory: got 1 B, expected at least ") as caught:
        call(memory=1)
    found = re.search("at least (.*), which one step at a time takes", str(caught.value))
    assert found is not None
    return found[1]


def flat(nested: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(nested, Tensor):
        yield nested
    else:
        for part in nested or ():
            yield from flat(part)


def run(
    call: Callable[..., Any], layer: nn.Module, x: Tensor, state: Any = None, **options: Any
) -> Named:
    """Outputs, states and every gradient of a call, with a held seed and held buffers."""
    for buffer in layer.buffers():
        buffer.copy_(torch.arange(1.0, 1 + buffer.numel()).view_as(buffer) / buffer.numel())
    u = x.detach().clone().requires_grad_(x.requires_grad)
    start = None if state is None else leaves(*flat(state))
    given = start[0] if isinstance(state, Tensor) and start is not None else start
    torch.manual_seed(7)
    result = call(u, given, **options)
    y, final, *_ = result
    outputs = {f"y{k}": t for k, t in enumerate(flat(y))}
    outputs |= {f"final{k}": t for k, t in enumerate(flat(final))}
    if options.get("states"):
        outputs |= {f"states{k}": t for k, t in enumerate(flat(result.states))}
    sources = {"x": u} | dict(layer.named_parameters())
    sources |= {f"state{k}": s for k, s in enumerate(start or ())}
    found = {n: o.detach().clone() for n, o in outputs.items()}
    chance = torch.get_rng_state()
    found |= collect(outputs, {n: s for n, s in sources.items() if s.requires_grad})
    assert torch.equal(torch.get_rng_state(), chance)  # by the backward pass
    found["chance"] = chance.double()
    return found | {f"buffer {n}": b.clone() for n, b in layer.named_buffers()}


WAYS: list[dict[str, Any]] = [{"segments": 1}, {"segments": 3}, {"segments": T}]


def compare(
    layer: nn.Module,
    x: Tensor,
    state: Any = None,
    *,
    ways: list[dict[str, Any]] | None = None,
    **options: Any,
) -> None:
    """Hold checkpointed calls, also one in the smallest budget and one in twice as much, to a plain one."""
    x = x if x.requires_grad else x.clone().requires_grad_()
    expected = run(layer, layer, x, state, **options)

    def call(u: Tensor, s: Any = None, **more: Any) -> Any:
        return bptt.checkpointed(layer, u, s, **more)

    if ways is None:
        smallest = named_smallest(
            lambda memory: run(call, layer, x, state, memory=memory, **options)
        )
        twice = 2 * parse(smallest)
        steps = x.shape[1 if layer.batch_first and x.dim() == 3 else 0]
        ways = [w for w in WAYS if w["segments"] <= steps]
        ways += [{"memory": smallest}, {"memory": twice}]
    for way in ways:
        got = run(call, layer, x, state, **way, **options)
        try:
            assert_close_by_name(got, expected, len(x))
        except AssertionError as error:
            raise AssertionError(f"{way}: {error}") from None


def test_compare_can_fail() -> None:
    class Wrong(unrolled.GRU):
        def forward(self, x: Tensor, hx: Any = None, **options: Any) -> Any:
            y, h = super().forward(x, hx, **options)
            return (y if self.segmenter is None else y * 1.000001), h

    with pytest.raises(AssertionError, match=r"(?s)segments.*grad of weight_hh_l0"):
        compare(Wrong(D, H).double(), x_of())


# --- Cells ---------------------------------------------------------------------------------------


class Own(Cell):
    """Two state tensors of unlike width, an output that is neither, and noise."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.hidden_size, 2 * self.hidden_size

    @property
    def output_size(self) -> int:
        return 2

    def project(self, x: Tensor) -> Tensor:
        return x @ self.weight_ih.T

    def noise(self, steps: int, batch_size: int, like: Tensor) -> Tensor | None:
        return torch.randn(steps, batch_size, self.hidden_size).to(like)

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        return tuple(like.new_full((batch_size, size), 0.5) for size in self.state_sizes)

    def step(self, projected: Tensor, state: State) -> State:
        u, noise = projected.chunk(2, -1)
        h, c = state
        h = torch.tanh(u + h @ self.weight_hh.T + 0.1 * noise)
        return h, 0.9 * c + torch.cat([h, h * h], -1)

    def read(self, states: State) -> Tensor:
        return states[1][..., :2] * states[0][..., :1]


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Elman": (cells.Elman, {}),
    "LSTM": (cells.LSTM, {}),
    "GRU": (cells.GRU, {}),
    "MinGRU": (cells.MinGRU, {}),
    "MinLSTM": (cells.MinLSTM, {}),
    "LRU": (cells.LRU, {}),
    "LEM": (cells.LEM, {}),
    "CoRNN": (cells.CoRNN, {}),
    "UnICORNN": (cells.UnICORNN, {}),
    "highway": (cells.RecurrentHighway, {}),
    "zoneout": (cells.LSTM, {"zoneout": 0.3}),
    "recurrent dropout": (cells.GRU, {"recurrent_dropout": 0.3}),
    "layer norm": (cells.LSTM, {"layer_norm": True}),
    "no bias": (cells.GRU, {"bias": False}),
    "own": (Own, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_cells(kind: str) -> None:
    cell, options = KINDS[kind]
    compare(Recurrent(cell, D, H, **options).double(), x_of())
    layer = Recurrent(cell, D, H, bidirectional=True, **options)
    compare(layer, x_of().float(), lengths=[T, 4, 0], ways=[{"segments": 4}])


def test_a_cells_kernel_may_be_made_in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_recipes", {})
    layer, x = Recurrent(cells.MinGRU, D, H), torch.randn(T, B, D)
    got = bptt.checkpointed(layer, x, memory="1 MiB")
    assert_close_by_name({"y": got.y}, {"y": layer(x).y}, T)


@pytest.mark.each_value
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["LSTM", "zoneout", "own"])
def test_all_that_a_call_can_be_given(kind: str, backend: str) -> None:
    cell, options = KINDS[kind]
    made = {"depth": 2, "bidirectional": True, "backend": backend}
    layer = Recurrent(cell, D, H, **made, **options).double()
    state = [torch.randn(shape).double() for shape in layer.state_shapes(B)]
    lengths, mask = torch.tensor([T, 0, 5]), torch.rand(T, B) < 0.7
    resets = torch.rand(T, B) < 0.3
    few: list[dict[str, Any]] = [{"segments": 4}]
    compare(layer, x_of(), state, lengths=lengths, resets=resets, mask=mask, states=True)
    compare(layer, x_of(), state, ways=few)
    compare(layer, x_of(), lengths=lengths, resets=resets, states=True, ways=few)
    compare(layer, x_of(), mask=mask, resets=resets, ways=few)
    compare(layer, x_of(), mask=mask, lengths=[0, 0, 0], ways=few)
    compare(layer, x_of(), resets=torch.ones(T, B).bool(), ways=few)


@pytest.mark.parametrize("steps", [1, 2, 7, 9])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_few_steps_and_sequences(steps: int, batch_size: int) -> None:
    layer = Recurrent(cells.LSTM, D, H, bidirectional=True).double()
    compare(layer, x_of(steps, batch_size))
    compare(layer, x_of(steps, batch_size), resets=torch.rand(steps, batch_size) < 0.5)


def test_every_place_of_a_reset_and_of_an_end_falls_on_a_boundary_once() -> None:
    layer = Recurrent(cells.GRU, 1, 2, bidirectional=True, learn_initial_state=True).double()
    with torch.no_grad():
        for cell in layer.cells:
            cell.initial[0].normal_()
    for steps in (2, 5):
        resets = torch.eye(steps).bool().repeat(1, steps + 1)
        lengths = torch.arange(steps + 1).repeat_interleave(steps)
        x = x_of(steps, len(lengths), 1)
        compare(layer, x, resets=resets, lengths=lengths, ways=[{"segments": steps}])


# --- Layers --------------------------------------------------------------------------------------

LAYERS: dict[str, dict[str, Any]] = {
    "deep": {"depth": 2},
    "sizes": {"hidden_size": [3, 8]},
    **{
        merge: {"depth": 2, "bidirectional": True, "merge": merge}
        for merge in ("concat", "sum", "mean", "mul", "separate")
    },
    "projection": {"depth": 2, "bidirectional": True, "projection": 3},
    "residual": {"depth": 2, "residual": True},
    "highway": {"depth": 2, "residual": "highway", "bidirectional": True, "merge": "separate"},
    "dropout": {"depth": 2, "dropout": 0.4},
    "variational dropout": {"depth": 2, "variational_dropout": 0.4, "bidirectional": True},
    "weight drop": {"depth": 2, "weight_drop": 0.4},
    "learnt": {"depth": 2, "learn_initial_state": True},
    "all": {
        "depth": 2,
        "bidirectional": True,
        "residual": "highway",
        "projection": 5,
        "learn_initial_state": True,
        "dropout": 0.2,
        "variational_dropout": 0.2,
        "weight_drop": 0.2,
        "layer_norm": True,
        "recurrent_dropout": 0.2,
        "zoneout": 0.1,
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    options = {"cell": cells.LSTM, "input_size": D, "hidden_size": H} | LAYERS[name]
    layer = Recurrent(**options).double()
    resets = torch.rand(T, B) < 0.2
    compare(layer, x_of(), lengths=[T, 3, 0], resets=resets)


def test_sequences_come_first_where_the_layer_says_so() -> None:
    layer = Recurrent(cells.LSTM, D, H, bidirectional=True, batch_first=True).double()
    x = x_of().transpose(0, 1)
    compare(layer, x, lengths=[T, 0, 4], resets=torch.rand(B, T) < 0.3, states=True)
    compare(unrolled.GRU(D, H, batch_first=True).double(), x, lengths=[T, 0, 4])
    compare(nn.LSTM(D, H, batch_first=True).double(), x)


DROP_INS: dict[str, Callable[[], nn.RNNBase]] = {
    "RNN": lambda: unrolled.RNN(D, H, nonlinearity="relu"),
    "LSTM": lambda: unrolled.LSTM(D, H, 2, bidirectional=True, dropout=0.3),
    "GRU": lambda: unrolled.GRU(D, H, 2, bidirectional=True, bias=False),
    "reference": lambda: unrolled.LSTM(D, H, bidirectional=True, backend="reference"),
    "proj_size": lambda: unrolled.LSTM(D, H, 2, proj_size=2),
    "nn.RNN": lambda: nn.RNN(D, H, 2),
    "nn.LSTM": lambda: nn.LSTM(D, H, 2, proj_size=2),
    "nn.GRU": lambda: nn.GRU(D, H),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", DROP_INS)
def test_drop_ins_and_torchs_layers(name: str) -> None:
    layer = DROP_INS[name]().double()
    x = x_of()
    compare(layer, x)
    plain = layer(x)[1]
    start = tuple(map(torch.randn_like, plain)) if isinstance(plain, tuple) else x_of(*plain.shape)
    compare(layer, x, start)
    compare(layer.float(), x.float(), ways=[{"segments": 3}])
    if isinstance(layer, TorchLayer) and not layer.proj_size:
        resets = torch.rand(T, B) < 0.3
        compare(layer.double(), x, start, lengths=[T, 0, 5], resets=resets)


@pytest.mark.parametrize("kind", [unrolled.LSTM, nn.GRU])
def test_one_sequence_without_sequences(kind: type[nn.RNNBase]) -> None:
    compare(kind(D, H).double(), x_of()[:, 0])


def test_a_mask_between_torchs_own_layers_is_drawn_in_each_segment_and_the_same_again() -> None:
    layer = nn.LSTM(D, H, 2, dropout=0.4).double()
    x = x_of()

    def by_hand(u: Tensor, state: Any = None) -> Any:
        outputs = []
        for part in u.split(4):
            y, state = layer(part, state)
            outputs.append(y)
        return torch.cat(outputs), state

    x.requires_grad_()
    expected = run(by_hand, layer, x)
    got = run(lambda u, s: bptt.checkpointed(layer, u, s, segments=3), layer, x)
    assert_close_by_name(got, expected, T)


# --- Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["orthogonal", "spectral_norm"])
def test_parametrized_weights_are_computed_once(name: str, training: bool) -> None:
    made: list[nn.Module] = [Recurrent(cells.Elman, D, H, bidirectional=True), unrolled.RNN(D, H)]
    for layer in made:
        owner = layer.cells[0] if isinstance(layer, Recurrent) else layer
        weight = "weight_hh" if isinstance(layer, Recurrent) else "weight_hh_l0"
        getattr(parametrizations, name)(owner, weight)
        before = layer._modules.get("cells")
        compare(layer.double().train(training), x_of())
        assert layer._modules.get("cells") is before


def test_spectral_norm_of_torchs_own_layer_is_computed_in_each_segment_and_the_same_again() -> None:
    layer = nn.RNN(D, H).double()
    parametrizations.spectral_norm(layer, "weight_hh_l0")
    x = x_of().requires_grad_()

    def by_hand(u: Tensor, state: Any = None) -> Any:
        outputs = []
        for part in u.split(3):
            y, state = layer(part, state)
            outputs.append(y)
        return torch.cat(outputs), state

    for way in ({"segments": 4}, {"segments": 1}):
        whole = way["segments"] == 1
        expected = run(layer if whole else by_hand, layer, x)
        got = run(lambda u, s, way=way: bptt.checkpointed(layer, u, s, **way), layer, x)
        assert_close_by_name(got, expected, T)


def test_frozen_parameters_and_inputs_without_gradient() -> None:
    layer = Recurrent(cells.LSTM, D, H, depth=2).double()
    layer.cells[0].weight_hh.requires_grad_(False)
    layer.cells[1].bias_ih.requires_grad_(False)
    x = x_of()
    expected = run(layer, layer, x)
    assert "grad of x" not in expected and "grad of cells.0.weight_hh" not in expected
    got = run(lambda u, s: bptt.checkpointed(layer, u, s, segments=3), layer, x)
    assert_close_by_name(got, expected, T)
    compare(layer, x)
    layer.requires_grad_(False)
    assert not bptt.checkpointed(layer, x, segments=3)[0].requires_grad
    compare(layer, x)


def test_a_frozen_weight_takes_no_memory() -> None:
    layer = Recurrent(cells.LSTM, D, 64)
    x = torch.randn(100, 2, D)
    learns = named_smallest(lambda memory: bptt.checkpointed(layer, x, memory=memory))
    layer.requires_grad_(False)
    x.requires_grad_()
    frozen = named_smallest(lambda memory: bptt.checkpointed(layer, x, memory=memory))
    assert parse(frozen) <= parse(learns)


def test_hooks_see_each_gradient_once_and_whole() -> None:
    layer = Recurrent(cells.GRU, D, H).double()
    seen: list[str] = []
    for name, p in layer.named_parameters():
        p.register_hook(lambda g, name=name: seen.append(name) or g * 3)
    x = x_of()
    x.register_hook if x.requires_grad else x.requires_grad_().register_hook(lambda g: g * 2)
    grads = []
    for call in (layer, lambda x: bptt.checkpointed(layer, x, segments=3)):
        seen.clear()
        layer.zero_grad()
        x.grad = None
        call(x).y.square().sum().backward()
        assert sorted(seen) == sorted(n for n, _ in layer.named_parameters())
        grads.append({n: p.grad.clone() for n, p in layer.named_parameters()} | {"x": x.grad})
    assert_close_by_name(grads[1], grads[0], T)


# --- Autograd ------------------------------------------------------------------------------------


def check_differences(call: Callable[[], Tensor], *sources: Tensor) -> None:
    """Hold the gradient of ``call()`` to central differences; it is computed anew each time."""
    found = torch.autograd.grad(call(), sources)
    for source, got in zip(sources, found, strict=True):
        numeric = torch.empty_like(source)
        for i in range(source.numel()):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    source.view(-1)[i] += step
                values.append(call().item())
                with torch.no_grad():
                    source.view(-1)[i] -= step
            numeric.view(-1)[i] = (values[0] - values[1]) / 2e-6
        # The difference of two sums of about 10, each rounded to 1e-15, by 2e-6; and its square.
        torch.testing.assert_close(got, numeric, rtol=1e-6, atol=1e-7)


def test_finite_differences() -> None:
    options = {"bidirectional": True, "recurrent_dropout": 0.3, "backend": "reference"}
    layer = Recurrent(cells.Elman, 2, 2, **options).double()
    x, *state = leaves(x_of(5, 2, 2), torch.randn(2, 2, 2).double())

    def call() -> Tensor:
        torch.manual_seed(3)
        y, final = bptt.checkpointed(layer, x, state, segments=3, lengths=[5, 2])
        return y.square().sum() + sum(s.sin().sum() for s in final)

    check_differences(call, x, *state, *layer.parameters())


def test_gradients_of_a_part_and_in_parts() -> None:
    layer = Recurrent(cells.LSTM, D, H).double()
    x = x_of().requires_grad_()
    for pick in (lambda r: r.y[3], lambda r: r.state[1], lambda r: r.y[-1] * r.state[0][0]):
        got, expected = (
            torch.autograd.grad(pick(r).sum(), [x, layer.cells[0].weight_hh])
            for r in (bptt.checkpointed(layer, x, segments=4), layer(x))
        )
        for a, b in zip(got, expected, strict=True):
            assert_close_by_name({"": a}, {"": b}, T)
    (only,) = torch.autograd.grad(bptt.checkpointed(layer, x, segments=4).y.sum(), x)
    assert_close_by_name({"x": only}, {"x": torch.autograd.grad(layer(x).y.sum(), x)[0]}, T)


def test_the_sequence_may_be_computed_and_used_elsewhere_too() -> None:
    layer, embed = Recurrent(cells.GRU, D, H).double(), nn.Linear(D, D).double()
    given = x_of()
    found = []
    for call in (layer, lambda x: bptt.checkpointed(layer, x, segments=5)):
        x = embed(given)
        loss = call(x).y.square().sum() + (x * x).sum() + call(x[:6]).y.sum()
        found.append(
            dict(zip("Wb", torch.autograd.grad(loss, list(embed.parameters())), strict=True))
        )
    assert_close_by_name(found[1], found[0], T)


@pytest.mark.parametrize("retain", [False, True])
def test_a_second_backward_is_refused(retain: bool) -> None:
    layer = Recurrent(cells.GRU, D, H)
    y, _ = bptt.checkpointed(layer, x_of().float(), segments=3)
    y.sum().backward(retain_graph=retain)
    with pytest.raises(RuntimeError, match=r"second time.*run it forward again|second time"):
        y.sum().backward()


def test_a_gradient_of_the_gradient_is_refused() -> None:
    layer = Recurrent(cells.GRU, D, H).double()
    x = x_of().requires_grad_()
    y, _ = bptt.checkpointed(layer, x, segments=3)
    (d,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d.sum().backward()


def test_a_parameter_or_sequence_changed_between_the_passes_is_refused() -> None:
    layer = Recurrent(cells.GRU, D, H)
    x = x_of().float().requires_grad_()
    for changed in (layer.cells[0].weight_ih, x):
        y, _ = bptt.checkpointed(layer, x, segments=3)
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_without_gradient_it_is_a_plain_call() -> None:
    layer = Recurrent(cells.GRU, D, H)
    x = x_of().float()
    with torch.no_grad():
        y, _ = bptt.checkpointed(layer, x, memory=1)
    assert torch.equal(y, layer(x).y)
    assert not y.requires_grad


def test_no_steps_and_no_sequences() -> None:
    layer = Recurrent(cells.LSTM, D, H, bidirectional=True).double()
    state = [torch.randn(2, B, H).double() for _ in range(2)]
    compare(layer, x_of(0), state, ways=[{"segments": 1}, {"memory": 1}])
    compare(layer, x_of(T, 0), ways=[{"segments": 3}, {"memory": "1 MiB"}])


def test_an_exception_leaves_the_layer_as_it_was() -> None:
    class Breaks(cells.GRU):
        def step(self, projected: Tensor, state: State) -> State:
            raise KeyError("mine")

    layer = Recurrent(Breaks, D, H)
    parametrizations.orthogonal(layer.cells[0], "weight_ih")
    before, inside = dict(vars(layer)), layer.cells
    with pytest.raises(KeyError, match="mine"):
        bptt.checkpointed(layer, x_of().float(), segments=3)
    assert vars(layer).keys() == before.keys()
    assert layer.cells is inside
    assert layer.segmenter is None


@pytest.mark.parametrize("kind", ["Recurrent", "drop-in layer", "torch.nn"])
def test_under_autocast(kind: str) -> None:
    layer = {
        "Recurrent": lambda: Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True),
        "drop-in layer": lambda: unrolled.GRU(D, H),
        "torch.nn": lambda: (nn.LSTM if LSTM_HAS_AUTOCAST else nn.GRU)(D, H),
    }[kind]()
    x = torch.randn(T, B, D)
    found = []
    for call in (layer, lambda x: bptt.checkpointed(layer, x, segments=4)):
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)  # which leaves casts of the weights behind
            y, _ = call(x)
        gradients = torch.autograd.grad(y.float().sum(), list(layer.parameters()))
        found.append({n: g for (n, _), g in zip(layer.named_parameters(), gradients, strict=True)})
    for name, g in found[0].items():
        assert (found[1][name] - g).abs().max() < 0.05 * g.abs().max(), name


# --- What is refused -----------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "^memory, segments: got neither, expected one of them"),
    ({"memory": 9, "segments": 2}, ValueError, "^memory, segments: got both, expected one of"),
    ({"segments": T + 1}, ValueError, f"^segments: got {T + 1}, expected at most {T}"),
    ({"segments": 0}, ValueError, "^segments: got 0, expected at least 1"),
    ({"segments": 1.5}, TypeError, "^segments: got 1.5, expected a whole number"),
    ({"memory": "much"}, ValueError, "^memory: got 'much', expected a text such as '64 MiB'"),
    ({"memory": 0}, ValueError, "^memory: got 0, expected 1 byte or more"),
    ({"memory": 2.5}, TypeError, "^memory: got 2.5, expected bytes, or a text such as '64 MiB'"),
    ({"memory": 100}, ValueError, "^memory: got 100 B, expected at least .* which one step at a"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD, ids=str)
def test_a_wrong_budget_is_refused(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    x = torch.randn(T, B, D)
    layer, plain = unrolled.GRU(D, H), nn.GRU(D, H)
    for refused in (Recurrent(cells.GRU, D, H), layer, plain):
        with pytest.raises(error, match=match):
            bptt.checkpointed(refused, x, **options)
    with pytest.raises(error, match=match):
        bptt.checkpointed_loss(layer, lambda x: layer(x)[0].sum(), x, **options)


def test_the_smallest_budget_is_that_of_the_layer_that_needs_most() -> None:
    for sizes in ([3, 40], [40, 3]):
        layer = Recurrent(cells.LSTM, D, sizes)
        x = torch.randn(50, B, D)
        smallest = named_smallest(
            lambda memory, x=x, layer=layer: bptt.checkpointed(layer, x, memory=memory)
        )
        bptt.checkpointed(layer, x, memory=smallest).y.sum().backward()
        again = parse(smallest) * 3 // 4
        with pytest.raises(ValueError, match=f"expected at least {smallest}, which"):
            bptt.checkpointed(layer, x, memory=again)


def test_sequences_that_end_early_do_not_hide_what_the_first_steps_take() -> None:
    layer = Recurrent(cells.GRU, D, H, bidirectional=True, backend="reference")
    x = torch.randn(40, 8, D)
    found = []
    for early in (39, 10):
        lengths = [40] + [early] * 7
        found.append(
            named_smallest(
                lambda memory, lengths=lengths: bptt.checkpointed(
                    layer, x, lengths=lengths, memory=memory
                )
            )
        )
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (
            nn.Linear(D, H),
            "^layer: got Linear, expected Recurrent or a drop-in layer; see checkpointed_loss",
        ),
        (nn.GRU(D, H, bidirectional=True), r"^layer: got a bidirectional GRU, .*accelerate"),
        (nn.LSTMCell(D, H), "^layer: got LSTMCell, expected Recurrent or a drop-in layer"),
        (
            unrolled.LSTM(D, H, bidirectional=True, proj_size=2),
            "^layer: got a bidirectional LSTM with proj_size, .* use Recurrent with projection=",
        ),
    ],
)
def test_a_layer_of_another_kind_is_refused(layer: nn.Module, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        bptt.checkpointed(layer, torch.randn(T, B, D), segments=2)


def test_a_packed_sequence_and_what_is_no_tensor_are_refused() -> None:
    layer, x = Recurrent(cells.GRU, D, H), torch.randn(T, B, D)
    packed = pack_padded_sequence(x, torch.tensor([T, 4, 2]))
    with pytest.raises(TypeError, match=r"^x: got PackedSequence, .*; use lengths="):
        bptt.checkpointed(layer, packed, segments=2)
    with pytest.raises(TypeError, match=r"^x: got list, expected a tensor \[T, B, D\]$"):
        bptt.checkpointed(layer, x.tolist(), segments=2)
    with pytest.raises(ValueError, match=r"^x: got shape .*|^x: got"):
        bptt.checkpointed(layer, torch.randn(T, B, D + 1), segments=2)
    both = unrolled.GRU(D, H, bidirectional=True)
    with pytest.raises(TypeError, match=r"one sequence \[T, D\]; add the sequence dimension"):
        bptt.checkpointed(both, x[:, 0], segments=2)
