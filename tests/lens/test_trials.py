"""Remedies tried on copies: what is known to help is found, and the model stays as it is."""

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import unrolled
from tests.lens.nets import D, H, eye, linear
from unrolled import Recurrent, cells, lens, remedies
from unrolled.lens.trials import REMEDIES, Trial, Trials, last_step, order, try_remedies

T, B, V = 20, 3, 7


class Model(nn.Module):
    """Tokens ``[B, T]`` to logits ``[B, T, V]``."""

    def __init__(self, rnn: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.rnn = rnn(D, H, batch_first=True, **options)
        self.norm = nn.BatchNorm1d(H)  # whose buffers each pass in training changes
        self.head = nn.Linear(H, V)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.rnn(self.embedding(tokens))[0][..., :H]
        logits: Tensor = self.head(self.norm(y.transpose(1, 2)).transpose(1, 2))
        return logits


def tokens() -> Tensor:
    return torch.randint(V, (B, T))


def inputs(steps: int = T) -> Tensor:
    return torch.randn(steps, B, D)


def by_name(found: Trials) -> dict[str, Trial]:
    return {trial.remedy: trial for trial in found.after}


# --- Systems with a known answer -----------------------------------------------------------------


@pytest.mark.parametrize(("a", "state"), [(0.5, "vanishing"), (1.5, "exploding")])
def test_orthogonal_weights_are_found_for_a_linear_network(a: float, state: str) -> None:
    found = try_remedies(linear(a * eye()), inputs().double())
    assert found.before.state == state
    assert found.before.growth == pytest.approx(a, rel=1e-12)
    whole = (found.before.norms[0] / found.before.norms[-1]).item()
    assert whole == pytest.approx(a ** (T - 1), rel=1e-12)
    assert found.best is found.after[0]
    assert (found.best.remedy, found.best.state) == ("remedies.orthogonal_weights_", "healthy")
    assert found.best.growth == pytest.approx(1, abs=1e-12)
    norms = found.best.norms
    torch.testing.assert_close(norms, norms[-1].expand(T), rtol=1e-12, atol=0)


def test_clipping_is_measured_by_what_flows() -> None:
    found = try_remedies(linear(1.5 * eye()), inputs().double())
    clipped = by_name(found)["remedies.clip_states_"]
    assert clipped.state == "healthy" and clipped.growth == pytest.approx(1, abs=0.02)
    assert clipped.norms.max() <= found.before.norms[-1] * B and clipped.norms[-1] > 0
    assert clipped.loss == found.before.loss  # it changes nothing forward
    (verdict,) = clipped.verdicts
    assert "clipped" in verdict.evidence
    calm = try_remedies(linear(0.5 * eye()), inputs().double())
    assert "nothing explodes" in calm.left_out["remedies.clip_states_"]


def test_clipping_begins_where_the_gradient_does() -> None:
    x = inputs().double()
    with_rest = try_remedies(linear(1.5 * eye()), x, lambda r: r.y[12].square().sum())
    clipped = by_name(with_rest)["remedies.clip_states_"]
    assert clipped.growth == pytest.approx(1, abs=0.03) and clipped.norms[13:].max() == 0
    other = Two(linear(1.5 * eye()), linear(0.9 * eye())).double()
    unreached = try_remedies(other, (x, x), lambda y: y[-1, :, H:].sum())
    assert (
        "nothing explodes that a gradient comes to" in unreached.left_out["remedies.clip_states_"]
    )


@pytest.mark.parametrize("layer", [nn.RNN(D, H), unrolled.RNN(D, H), Recurrent(cells.Elman, D, H)])
def test_clipping_takes_every_kind_of_layer(layer: nn.Module) -> None:
    layer = copy.deepcopy(layer)
    for name, parameter in layer.named_parameters():
        nn.init.zeros_(parameter)
        if "weight_hh" in name:
            nn.init.eye_(parameter).data.mul_(2)
    found = try_remedies(layer, torch.zeros(T, B, D), lambda result: result[0][-1].sum())
    assert found.before.growth == pytest.approx(2, rel=1e-5)  # tanh has slope 1 at 0
    assert by_name(found)["remedies.clip_states_"].growth == pytest.approx(1, abs=1e-6)
    assert type(layer) in (nn.RNN, unrolled.RNN, Recurrent)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, unrolled.LSTM])
def test_chrono_bias_opens_the_gate_of_an_lstm_that_forgets(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    found = try_remedies(kind(D, 16), inputs(50))
    chrono = by_name(found)["remedies.chrono_bias_"]
    assert found.before.state == "vanishing"
    assert 1 > chrono.growth > found.before.growth + 0.1
    assert chrono.horizon > 2 * found.before.horizon
    assert found.best is chrono


def test_longest_is_that_of_the_batch_or_given() -> None:
    layer = nn.GRU(D, H)
    x = inputs(20)

    def growth(**options: int) -> float:
        return by_name(try_remedies(layer, x, **options))["remedies.chrono_bias_"].growth

    assert growth() == growth(longest=20) > growth(longest=2)


# --- A trial is what one gets by hand ------------------------------------------------------------


@pytest.mark.each_value
@pytest.mark.parametrize(("depth", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: Recurrent(cells.Elman, D, H, **o),
        lambda **o: Recurrent(cells.GRU, D, H, **o),
        lambda depth, **o: nn.RNN(D, H, depth, **o),
        lambda depth, **o: unrolled.LSTM(D, H, depth, **o),
    ],
)
def test_every_trial_is_what_one_gets_by_hand(
    make: Callable[..., Any], depth: int, bidirectional: bool
) -> None:
    layer, x = make(depth=depth, bidirectional=bidirectional), inputs(6)
    by_hand: dict[str, Callable[[Any], Any]] = {
        "remedies.orthogonal_weights_": remedies.orthogonal_weights_,
        "remedies.glorot_weights_": remedies.glorot_weights_,
        "remedies.sensible_weights_": remedies.sensible_weights_,
        "remedies.chrono_bias_": lambda it: remedies.chrono_bias_(it, 6),
        "remedies.forget_bias_": remedies.forget_bias_,
        "remedies.critical_weights_": lambda it: remedies.critical_weights_(
            it, input_variance=x.double().square().mean().item()
        ),
        "remedies.with_activation, ReLU": lambda it: remedies.with_activation(it, "relu"),
        "remedies.identity_weights_, with ReLU": lambda it: remedies.identity_weights_(
            remedies.with_activation(it, "relu")
        ),
        "remedies.as_gru": remedies.as_gru,
        "remedies.as_lstm": remedies.as_lstm,
    }
    found = try_remedies(layer, x)
    trials = by_name(found)
    for name, apply in by_hand.items():
        torch.manual_seed(0)
        try:
            made = apply(copy.deepcopy(layer))
        except (TypeError, ValueError) as error:
            assert name not in trials
            assert found.left_out[name] in str(error)
            continue
        got = [v.growth for v in trials[name].verdicts]
        want = [math.exp(c.growth) for c in lens.causes(made, x[:, :1])]
        assert len(got) == depth * (1 + bidirectional)
        assert got == pytest.approx(want, rel=1e-4, abs=1e-6)
        y = made(x)[0]
        assert trials[name].loss == pytest.approx(y[-1].square().mean().item(), rel=1e-5)
    assert set(trials) | set(found.left_out) == {*REMEDIES, "remedies.clip_states_"}


def test_what_dropout_draws_does_not_change_what_a_remedy_draws() -> None:
    layer, x = nn.RNN(D, H, 2, dropout=0.5), inputs(6)
    trials = by_name(try_remedies(layer, x))
    for name in ("orthogonal_weights_", "sensible_weights_"):
        torch.manual_seed(0)
        made = getattr(remedies, name)(copy.deepcopy(layer))
        got = [v.growth for v in trials[f"remedies.{name}"].verdicts]
        want = [math.exp(c.growth) for c in lens.causes(made, x[:, :1])]
        assert got == pytest.approx(want, rel=1e-4)


class Stack(nn.Module):
    """Layers one after another."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)[0]
        return x


def test_the_worst_scan_speaks_for_the_model() -> None:
    model, x = Stack(*(linear(a * eye(D)) for a in (0.9, 0.6, 1.05))), inputs().double()
    before = try_remedies(model, x).before
    assert [v.growth for v in before.verdicts] == pytest.approx([0.9, 0.6, 1.05])
    assert (before.state, before.horizon) == ("vanishing", before.verdicts[1].horizon)
    assert before.growth == pytest.approx(0.6)
    with lens.watch(model) as seen:
        last_step(model(x)).backward()
    torch.testing.assert_close(before.norms, seen.report().rows[1].norms)


def test_what_is_drawn_is_the_same_each_time() -> None:
    model, x = Model(nn.GRU, num_layers=2, dropout=0.5), tokens()[:, :6]
    records = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        records.append(try_remedies(model, x).record())
    assert records[0] == records[1]


# --- The model stays as it is --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "training"),
    [(torch.enable_grad, True), (torch.no_grad, False), (torch.inference_mode, True)],
)
def test_nothing_of_the_model_changes(mode: Callable[[], Any], training: bool) -> None:
    model, head, x = Model(nn.RNN, num_layers=2, dropout=0.5), nn.Linear(V, 1), tokens()
    model.train(training)
    model.rnn.weight_hh_l0.requires_grad_(False)
    model(x).sum().backward()
    hooks = []
    model.rnn.register_forward_hook(lambda *_: hooks.append(1))
    state = copy.deepcopy(model.state_dict())
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    modules = [(n, type(m), m.training, id(m)) for n, m in model.named_modules()]
    given = x.clone()
    torch.manual_seed(5)
    expected = torch.rand(9)
    torch.manual_seed(5)
    with mode():
        found = try_remedies(model, x, lambda y: head(y).square().mean())
    assert torch.equal(torch.rand(9), expected)
    assert len(found.after) >= 8
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    for name, parameter in model.named_parameters():
        before = grads[name]
        assert parameter.grad is before if before is None else torch.equal(parameter.grad, before)
        assert parameter.requires_grad is (name != "rnn.weight_hh_l0")
    assert modules == [(n, type(m), m.training, id(m)) for n, m in model.named_modules()]
    assert len(model.rnn._forward_hooks) == 1 and "watcher" not in vars(model.rnn)
    assert all(p.grad is None for p in head.parameters())
    assert torch.equal(x, given)


def test_a_model_that_writes_into_its_input_leaves_the_batch_alone() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(D, H)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.rnn(x.mul_(0.5))[0]
            return y

    x = inputs()
    given = x.clone()
    found = try_remedies(Writing(), x)
    assert torch.equal(x, given) and len(found.after) > 2


# --- Models of every form ------------------------------------------------------------------------


def test_a_swap_is_put_where_the_layer_was() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.RNN(D, H)
            self.parts = nn.ModuleList([self.first])

        def forward(self, x: Tensor) -> Tensor:
            assert self.first is self.parts[0]
            y: Tensor = self.parts[0](x)[0]
            return y

    found = by_name(try_remedies(Shared(), inputs()))
    for name in ("remedies.as_gru", "remedies.as_lstm", "remedies.with_activation, ReLU"):
        assert name in found


def test_a_model_that_does_not_run_with_a_remedy_says_so() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(D, H)

        def forward(self, x: Tensor) -> Tensor:
            _, h = self.rnn(x)
            return h.squeeze(0)  # type: ignore[no-any-return]

    found = try_remedies(Reading(), inputs())
    why = found.left_out["remedies.as_lstm"]
    assert "does not run with it: AttributeError" in why and "squeeze" in why
    assert "remedies.as_gru" in by_name(found)


class Two(nn.Module):
    """Two layers side by side."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.cat([self.first(x)[0], self.second(other)[0]], -1)


def test_a_remedy_that_fits_one_layer_of_two_is_tried_on_it() -> None:
    found = try_remedies(Two(nn.LSTM(D, H), nn.RNN(D, H)), (inputs(), inputs()))
    chrono = by_name(found)["remedies.chrono_bias_"]
    of_lstm, of_rnn = zip(found.before.verdicts, chrono.verdicts, strict=True)
    assert of_lstm[1].growth > of_lstm[0].growth and of_rnn[1].growth == of_rnn[0].growth
    for name in ("remedies.chrono_bias_", "remedies.forget_bias_"):
        assert found.left_out[name].startswith("second: got cells of Elman, expected")


def test_a_layer_that_refuses_half_way_stays_as_it_was() -> None:
    model = Two(nn.RNN(D, H), nn.RNN(D, H, 2))
    nn.init.constant_(model.second.weight_ih_l1, 1e4)  # for which no W of the second is critical
    found = try_remedies(model, (inputs(), inputs()))
    critical = by_name(found)["remedies.critical_weights_"]
    assert found.left_out["remedies.critical_weights_"].startswith("second: layer: got an input of")
    assert critical.verdicts[1:] == found.before.verdicts[1:]
    assert critical.verdicts[0].growth != found.before.verdicts[0].growth


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_is_left_out() -> None:
    projected = nn.LSTM(D, H, proj_size=2)
    found = try_remedies(Two(projected, nn.GRU(D, H)), [inputs(), inputs()])
    assert "proj_size is 2" in found.left_out["layer 'first'"]
    assert {v.layer for trial in found.after for v in trial.verdicts} == {"second"}
    with pytest.raises(ValueError, match=r"no recurrent layer that can be watched.*proj_size is 2"):
        try_remedies(projected, inputs())


def test_weights_that_are_parametrised_are_left_as_they_are() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.LSTM(D, H), "weight_hh_l0")
    found = try_remedies(layer, inputs())
    assert not found.after and found.best is found.before
    assert "parametrised" in found.left_out["remedies.orthogonal_weights_"]


def test_a_cell_without_gates_in_blocks_is_left_out() -> None:
    layer = Recurrent(cells.IndRNN, D, H, backend="reference")
    found = try_remedies(layer, inputs())
    assert not found.after and "no gates in blocks" in found.left_out["remedies.sensible_weights_"]


def test_a_model_whose_states_are_not_finite_is_the_worst() -> None:
    model = linear(1e3 * eye()).float()  # beyond float32 after 13 steps
    found = try_remedies(model, inputs(), lambda result: result.y[-1].tanh().sum())
    assert (found.before.state, found.before.growth) == ("exploding", math.inf)
    assert found.before.verdicts == ()
    assert found.best.remedy == "remedies.orthogonal_weights_" and found.best.state == "healthy"
    assert found.after[-1].growth == math.inf
    assert found.record()["trials"][0]["growth"] is None
    assert "states are not finite" in found.left_out["remedies.clip_states_"]


# --- The loss by default -------------------------------------------------------------------------


def test_the_loss_by_default_is_that_of_the_last_step() -> None:
    y = torch.randn(4, 3, 2)
    assert last_step((y, (y, y))) == y[3].square().mean()
    assert last_step({"y": y}, batch_first=True) == y[:, 2].square().mean()
    assert last_step(y[0]) == y[0].square().mean()
    rows = [torch.randn(n, 2) for n in (2, 4, 1)]
    packed = pack_sequence(rows, enforce_sorted=False)
    expected = torch.stack([row[-1] for row in rows]).square().mean()
    torch.testing.assert_close(last_step((packed, y)), expected)
    model, x = Model(nn.GRU).eval(), tokens()
    expected = model(x)[:, -1].square().mean()
    assert try_remedies(model, x).before.loss == pytest.approx(expected.item(), rel=1e-5)


# --- Order, text, JSON ---------------------------------------------------------------------------


def trial(state: str, growth: float, name: str = "") -> Trial:
    return Trial(name, state, growth, 1.0, 1.0, torch.zeros(2), ())  # type: ignore[arg-type]


def test_the_order_is_healthy_first_then_nearest_to_one() -> None:
    ordered = [
        trial("healthy", 1.0),
        trial("healthy", 0.9),
        trial("healthy", 1.2),
        trial("dead", 1.0),
        trial("vanishing", 0.5),
        trial("exploding", 2.1),
        trial("vanishing", 0.1),
        trial("dead", 0.0),
    ]
    for seed in range(5):
        shuffled = random.Random(seed).sample(ordered, len(ordered))
        assert list(map(id, order(shuffled))) == list(map(id, ordered))
    first, second = trial("healthy", 0.9), trial("healthy", 1 / (0.9 + 1e-9))
    assert order([second, first])[0] is second and order([first, second])[0] is first
    assert order([]) == ()


def test_the_best_is_the_model_itself_if_nothing_is_better() -> None:
    found = Trials(trial("healthy", 1.0), (trial("healthy", 0.99),), {})
    assert found.best is found.before


def test_the_text_has_a_line_for_each() -> None:
    found = try_remedies(linear(0.5 * eye()), inputs().double())
    lines = str(found).splitlines()
    assert " ".join(lines[0].split()) == "remedy verdict growth a step horizon loss"
    assert lines[1].startswith("as it is ") and "vanishing" in lines[1] and "0.500" in lines[1]
    assert "7 steps" in lines[1]
    assert lines[2].startswith("remedies.orthogonal_weights_") and "1.000" in lines[2]
    assert "without end" in lines[2]
    assert len(lines) == 2 + len(found.after) + len(found.left_out)


def test_a_record_is_plain_json() -> None:
    found = try_remedies(linear(1.5 * eye()), inputs().double())
    record = found.record()
    assert json.loads(found.to_json()) == record
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    first, best, *_ = record["trials"]
    assert first["remedy"] == "as it is" and first["state"] == "exploding"
    assert first["growth"] == 1.5 and first["horizon"] is None
    assert best["remedy"] == "remedies.orthogonal_weights_" and len(best["norms"]) == T
    assert set(first) == {"remedy", "state", "growth", "horizon", "loss", "norms"}
    assert first["loss"] == float(f"{found.before.loss:.5g}")
    assert record["left_out"] == found.left_out
    broken = Trials(trial("dead", math.nan), (), {}).record()["trials"][0]
    assert broken["growth"] is None


# --- What does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Linear(D, D), inputs()), ValueError, "model: got Linear, which holds no recurrent"),
        (("rnn", inputs()), TypeError, "model: got str, expected a torch.nn.Module"),
        ((nn.GRU(D, H), "x"), TypeError, "batch: got str, expected a tensor or a PackedSeq"),
        ((nn.GRU(D, H), (inputs(), None)), TypeError, "batch: got NoneType"),
        ((nn.GRU(D, H), {"x": inputs()}), TypeError, "batch: got dict"),
        ((nn.GRU(D, H), []), TypeError, "batch: got nothing, expected a tensor or several"),
        ((nn.GRU(D, H), ()), TypeError, "batch: got nothing"),
        (
            (Recurrent(cells.GRU, D, H), inputs(0)),
            ValueError,
            r"batch: the model returns \[0, 3, 4\], which has no step; expected .* at least 2",
        ),
        ((nn.GRU(D, H), inputs(), 1.0), TypeError, "loss: got float, expected a function"),
        (
            (nn.GRU(D, H), inputs(), lambda r: r[0]),
            ValueError,
            r"loss: got shape \[20, 3, 4\]",
        ),
        ((nn.GRU(D, H), inputs(), lambda r: 1.0), TypeError, "loss: got float"),
        (
            (nn.GRU(D, H), inputs(), lambda r: r[0].detach().sum()),
            ValueError,
            "loss: returned a number without gradient",
        ),
        (
            (nn.GRU(D, H), inputs(), lambda r: torch.ones((), requires_grad=True)),
            ValueError,
            "loss: no gradient of it comes to a recurrent layer",
        ),
        ((nn.GRU(D, H), inputs(1)), ValueError, "batch: got 1 real step, expected at least 2"),
    ],
)
def test_what_does_not_fit_is_said(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        try_remedies(*arguments)


class Given(nn.Module):
    """A layer that is always called with the same options."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rnn, self.options = Recurrent(cells.GRU, D, H), options

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x, **self.options).y


def test_steps_that_are_not_real_or_stand_alone_are_not_counted() -> None:
    for options, steps in (
        ({"lengths": [1] * B}, 1),
        ({"lengths": [0] * B}, 0),
        ({"resets": torch.ones(T, B, dtype=torch.bool)}, 1),
    ):
        with pytest.raises(ValueError, match=f"batch: got {steps} real step, expected at least 2"):
            try_remedies(Given(**options), inputs(), lambda y: y.sum())


def test_chrono_bias_is_for_the_longest_sequence_there_is() -> None:
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[[0, 3, 10]] = True
    for options, steps in (({"lengths": [2, 7, 1]}, 7), ({"resets": resets}, 10)):
        model, x = Given(**options), inputs()
        found, expected, other = (
            by_name(try_remedies(model, x, lambda y: y.sum(), longest=longest))
            for longest in (None, steps, steps + 1)
        )
        growths = [f["remedies.chrono_bias_"].growth for f in (found, expected, other)]
        assert growths[0] == growths[1] != growths[2]


def test_longest_is_checked() -> None:
    with pytest.raises(ValueError, match="longest: got 1, expected at least 2"):
        try_remedies(nn.GRU(D, H), inputs(), longest=1)
    with pytest.raises(ValueError, match=r"longest: got 10+, expected at most 2147483647"):
        try_remedies(nn.GRU(D, H), inputs(), longest=10**400)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_remedies_for_weights_of_half_precision(dtype: torch.dtype) -> None:
    found = try_remedies(nn.RNN(D, H).to(dtype), inputs().to(dtype))
    tried = {"remedies.orthogonal_weights_", "remedies.critical_weights_", "remedies.as_gru"}
    assert tried <= by_name(found).keys()


def test_what_pytorch_cannot_do_for_a_remedy_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NotImplementedError('"geqrf_cpu" not implemented\nmore of it')

    monkeypatch.setitem(REMEDIES, "remedies.orthogonal_weights_", fail)
    found = try_remedies(nn.RNN(D, H), inputs())
    assert found.left_out["remedies.orthogonal_weights_"] == '"geqrf_cpu" not implemented'
    assert "remedies.as_gru" in by_name(found)


def test_what_the_model_raises_comes_through() -> None:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        try_remedies(nn.GRU(D + 1, H), inputs())
    assert any("try_remedies called" in note for note in caught.value.__notes__)


def test_a_model_that_is_watched_may_be_tried_and_sees_nothing_of_it() -> None:
    layer, x = nn.GRU(D, H), inputs()
    alone = try_remedies(layer, x)
    with lens.watch(layer) as seen:
        assert try_remedies(layer, x).record() == alone.record()
        assert not seen.flows
        layer(x)
    assert len(seen.flows) == 1


def test_packed_rows_are_taken() -> None:
    rows = [torch.randn(n, D) for n in (10, 20, 3)]
    packed = pack_sequence(rows, enforce_sorted=False)
    given = packed.data.clone()
    layer = nn.LSTM(D, H)
    found = try_remedies(layer, packed)
    assert isinstance(packed, PackedSequence) and torch.equal(packed.data, given)
    alone = try_remedies(layer, rows[1].unsqueeze(1))
    for name, tried in by_name(alone).items():
        assert by_name(found)[name].growth == pytest.approx(tried.growth, rel=1e-4)
