"""Truncated BPTT held against full: closed forms, and the windows that hold everything."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unrolled
from tests.lens.nets import D, H, eye, linear
from unrolled import Recurrent, bptt, cells
from unrolled.lens import Bias, Biases, Lens, Report, truncation_bias
from unrolled.lens.truncation import distances

T, B = 12, 2

KINDS: dict[str, Callable[[], nn.Module]] = {
    "Recurrent": lambda: Recurrent(cells.LSTM, D, H, depth=2),
    "drop-in layer": lambda: unrolled.GRU(D, H),
    "torch RNN": lambda: nn.RNN(D, H, 2, dropout=0.5),
    "torch LSTM": lambda: nn.LSTM(D, H, 2, dropout=0.5),
    "reference": lambda: Recurrent(cells.IndRNN, D, H, backend="reference"),
}


def inputs() -> Tensor:
    return torch.randn(T, B, D, dtype=torch.float64)


def squares(y: Tensor, steps: slice) -> Tensor:
    """Weighted by step, so that no step's part can be taken for another's."""
    weights = torch.arange(1, T + 1, dtype=y.dtype)[steps].view(-1, 1, 1)
    return (weights * y.square()).sum()


class Model(nn.Module):
    def __init__(self, *, batch_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, D)
        self.rnn = nn.GRU(D, H, batch_first=batch_first)
        self.head = nn.Linear(H, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(self.embedding(tokens))[0])
        return y


# --- A scalar whose gradients are known ----------------------------------------------------------


def scalar_gradient(
    a: float, x: list[float], k1: int, k2: int, weights: list[float]
) -> tuple[float, float]:
    """∂/∂(u, a) of Σ_t c_t h_t, h_t = a h_{t-1} + u x_t at u = 1, as truncated BPTT has it: by sums.

    The loss at t goes back to the first of the k2 steps that end with its window of k1.
    """
    states = [0.0]
    for given in x:
        states.append(a * states[-1] + given)  # states[t] is h_{t-1}
    by_u = by_a = 0.0
    for t, weight in enumerate(weights):
        end = min((t // k1 + 1) * k1, len(x))
        for j in range(max(0, end - k2), t + 1):
            by_u += weight * a ** (t - j) * x[j]
            by_a += weight * a ** (t - j) * states[j]
    return by_u, by_a


@pytest.mark.parametrize("a", [0.5, 0.9, 1.1])
@pytest.mark.parametrize("k1", [None, 1, 2])
def test_a_scalar_network_has_the_bias_of_the_closed_form(a: float, k1: int | None) -> None:
    layer = Recurrent(cells.Elman, 1, 1, activation="identity", bias=False).double()
    with torch.no_grad():
        layer.cells[0].weight_ih.fill_(1.0)
        layer.cells[0].weight_hh.fill_(a)
    x, c = (torch.randn(T, 1, 1, dtype=torch.float64) for _ in range(2))
    found = truncation_bias(
        layer, x, lambda y, steps: (c[steps] * y).sum(), (2, 3, 5, 8, 12, 20), k1=k1
    )
    given, weights = x.flatten().tolist(), c.flatten().tolist()
    full = scalar_gradient(a, given, T, T, weights)
    size = math.hypot(*full)
    for bias in found:
        cut = scalar_gradient(a, given, min(k1 or bias.window, T), bias.window, weights)
        cosine = (cut[0] * full[0] + cut[1] * full[1]) / (math.hypot(*cut) * size)
        # of sums of T terms, and the state's own rounding over T steps, in float64
        near = {"rel": 1e-12, "abs": 1e-12}
        assert bias.cosine == pytest.approx(cosine, **near)
        assert bias.ratio == pytest.approx(math.hypot(*cut) / size, **near)
        off = math.hypot(cut[0] - full[0], cut[1] - full[1]) / size
        assert bias.bias == pytest.approx(off, **near)
        horizon = math.log(0.01) / math.log(a) if a < 1 else math.inf
        assert bias.horizon == pytest.approx(horizon)
    assert [b.window for b in found] == [2, 3, 5, 8, 12, 20]
    assert found[0].bias > 0.01


def test_a_network_without_a_past_has_no_bias() -> None:
    layer = Recurrent(cells.Elman, 1, 1, activation="identity", bias=False).double()
    x = torch.zeros(T, 1, 1, dtype=torch.float64)
    x[-1] = 1.0  # no state before the last depends on U, and W's gradient is 0
    (bias,) = truncation_bias(layer, x, lambda y, _: y.sum(), (1,), k1=1)
    assert (bias.cosine, bias.bias) == pytest.approx((1.0, 0.0), abs=1e-15)


def test_the_horizon_is_that_of_the_layer_that_remembers_the_longest() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(linear(a * eye(D)) for a in (0.5, 0.9, 0.7))

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x).y
            return x

    (bias,) = truncation_bias(Stack(), inputs(), squares, (3,))
    assert bias.horizon == pytest.approx(math.log(0.01) / math.log(0.9))


# --- Windows that hold everything, and what one gets by hand -------------------------------------


@pytest.mark.parametrize("k1", [None, 1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_that_holds_the_sequence_has_no_bias(kind: str, k1: int | None) -> None:
    found = truncation_bias(KINDS[kind]().double(), inputs(), squares, (5, T, 3 * T), k1=k1)
    short, *whole = found
    assert short.bias > 1e-3
    for bias in whole:
        assert (bias.cosine, bias.ratio) == pytest.approx((1.0, 1.0), abs=1e-12)
        assert bias.bias < 1e-12
        assert bias.sentence == "the whole sequence: full BPTT"


@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (1, 3), (2, 6)])
def test_it_is_what_a_training_loop_adds_up(k1: int, k2: int) -> None:
    model, tokens = Model().double(), torch.randint(5, (T, B))
    (bias,) = truncation_bias(model, tokens, squares, [k2], k1=k1)
    gradients = []
    for first, last in ((k1, k2), (T, T)):
        model.zero_grad()
        for y, steps in bptt.truncated(model, tokens, k1=first, k2=last):
            squares(y, steps).backward()
        parts = [p.grad for p in model.rnn.parameters() if p.grad is not None]
        gradients.append(torch.cat([part.flatten() for part in parts]))
    cut, full = gradients
    assert bias.bias == pytest.approx(((cut - full).norm() / full.norm()).item(), rel=1e-9)
    cosine = torch.nn.functional.cosine_similarity(cut, full, dim=0)
    assert bias.cosine == pytest.approx(cosine.item(), rel=1e-9)
    assert bias.ratio == pytest.approx((cut.norm() / full.norm()).item(), rel=1e-9)
    assert bias.bias > 1e-3


def test_batch_first_is_the_same() -> None:
    model, tokens = Model(batch_first=True).double(), torch.randint(5, (B, T))
    drop_in = Model().double()
    drop_in.load_state_dict(model.state_dict())
    got = truncation_bias(
        model, tokens, lambda y, steps: squares(y.transpose(0, 1), steps), (3, 5), batch_first=True
    )
    want = truncation_bias(drop_in, tokens.T, squares, (3, 5))
    for one, other in zip(got, want, strict=True):
        assert vars(one) == pytest.approx(vars(other))


def test_a_loss_at_the_last_step_alone() -> None:
    layer = unrolled.LSTM(D, H).double()

    def loss(y: Tensor, steps: slice) -> Tensor:
        return y[-1].sum() if steps.stop == T else torch.zeros(())

    one, whole = truncation_bias(layer, inputs(), loss, (1, T), k1=1)
    assert one.bias > 0.1 and whole.bias < 1e-12


def test_nothing_of_the_model_changes() -> None:
    model, tokens = Model(), torch.randint(5, (T, B))
    model.rnn = nn.GRU(D, H, 2, dropout=0.5)
    model.rnn.weight_hh_l0.requires_grad_(False)
    model(tokens).sum().backward()
    state = copy.deepcopy(model.state_dict())
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    outside = nn.Linear(2, 2)
    torch.manual_seed(3)
    with torch.inference_mode():
        found = truncation_bias(model, tokens, lambda y, s: squares(outside(y), s), (2, T))
    assert found[1].bias < 1e-5
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert all(module.training for module in model.modules())
    assert type(model.rnn) is nn.GRU and not model.rnn.weight_hh_l0.requires_grad
    for name, parameter in model.named_parameters():
        before = grads[name]
        assert parameter.grad is before if before is None else torch.equal(parameter.grad, before)
    assert all(p.grad is None for p in outside.parameters())


# --- Distances, words ----------------------------------------------------------------------------


def test_distances_of_known_rows() -> None:
    full = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert distances(full, full) == (1.0, 1.0, 0.0)
    assert distances(2 * full, full) == pytest.approx((1.0, 2.0, 1.0))
    assert distances(-full, full) == pytest.approx((-1.0, 1.0, 2.0))
    turned = torch.tensor([-4.0, 3.0], dtype=torch.float64)
    assert distances(turned, full) == pytest.approx((0.0, 1.0, math.sqrt(2)))
    cosine, ratio, bias = distances(torch.zeros(2).double(), full)
    assert math.isnan(cosine) and (ratio, bias) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("window", "horizon", "words"),
    [
        (9, 9.1, "shorter than the horizon: what is further back is cut off"),
        (9, math.inf, "shorter than the horizon: what is further back is cut off"),
        (9, 9.0, "as long as the horizon, or longer"),
        (20, math.inf, "the whole sequence: full BPTT"),
        (9, math.nan, "the horizon is unknown"),
    ],
)
def test_the_window_is_held_against_the_horizon(window: int, horizon: float, words: str) -> None:
    assert Bias(window, 1.0, 1.0, 0.0, horizon, 20).sentence == words


def test_the_text_is_a_table() -> None:
    found = Biases([Bias(3, 0.5, 0.25, 0.75, 6.6, 20), Bias(20, 1.0, 1.0, 0.0, 6.6, 20)])
    head, first, second, last = str(found).splitlines()
    assert head.split() == ["window", "cosine", "ratio", "bias"]
    assert first.split()[:4] == ["3", "0.5000", "0.2500", "0.7500"] and "shorter" in first
    assert second.split()[:4] == ["20", "1.0000", "1.0000", "0.0000"] and "full BPTT" in second
    assert last == "horizon: 7 steps; the sequence has 20 steps"
    for horizon, word in ((math.inf, "without end"), (math.nan, "unknown")):
        assert f"horizon: {word};" in str(Biases([Bias(3, 0.5, 0.25, 0.75, horizon, 20)]))


# --- What does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": nn.Linear(D, D)}, ValueError, "model: got Linear, which holds no recurrent"),
        ({"model": "rnn"}, TypeError, "model: got str"),
        (
            {"model": unrolled.GRU(D, H, bidirectional=True)},
            ValueError,
            "model: got two directions in it, expected one",
        ),
        ({"windows": ()}, ValueError, "windows: got none"),
        ({"windows": 5}, TypeError, r"windows: got 5, expected one or more numbers of steps"),
        ({"windows": None}, TypeError, "windows: got None"),
        ({"x": 3}, TypeError, r"x: got int, expected a tensor \[T, B, ...\], or several"),
        ({"x": ()}, ValueError, "x: got nothing, expected a tensor"),
        ({"windows": (0,)}, ValueError, "windows: got 0, expected at least 1"),
        ({"windows": (3, 5), "k1": 4}, ValueError, "k1: got 4, expected at most 3"),
        ({"loss": None}, TypeError, "loss: got NoneType, expected a function"),
        (
            {"loss": lambda y, _: y},
            ValueError,
            r"loss: got shape \[12, 2, 4\], expected a scalar",
        ),
        ({"loss": lambda y, _: 1.0}, TypeError, "loss: got float, expected a scalar"),
        ({"loss": lambda y, _: y.square().mean()}, ValueError, "take the sum over steps"),
        ({"loss": lambda y, _: y.detach().sum()}, ValueError, "loss: got a gradient of norm 0"),
        ({"x": "text"}, ValueError, "x: got str, expected a tensor"),
        ({"x": torch.zeros(T)}, ValueError, r"x: got \[12\], expected a tensor \[T, B, ...\]"),
        ({"x": torch.zeros(0, B, D)}, ValueError, r"x: got \[0, 2, 3\]"),
    ],
)
def test_what_does_not_fit_is_said(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {
        "model": unrolled.GRU(D, H),
        "x": inputs().float(),
        "loss": lambda y, _: y.square().sum(),
        "windows": (2,),
    }
    with pytest.raises(error, match=message):
        truncation_bias(**given | changes)


def test_nothing_is_measured_that_only_a_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Report] = []
    report = Lens.report

    def spied(self: Lens, **options: Any) -> Report:
        reports.append(report(self, **options))
        return reports[-1]

    monkeypatch.setattr(Lens, "report", spied)
    (found,) = truncation_bias(unrolled.GRU(D, H), inputs().float(), squares, (3,))
    (row,) = reports[0].rows
    assert row.view is None and row.verdict.horizon == found.horizon
