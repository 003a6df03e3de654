"""What all online learners share: the call, the state, saving, and what they refuse."""

import gc
import io
from itertools import pairwise

import pytest
import torch
from torch import nn

import unrolled
from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells
from unrolled.bptt import RTRL, UORO, SnAp1

LEARNERS = {"RTRL": RTRL, "SnAp1": SnAp1, "UORO": UORO}
LAYERS = {
    "dense": lambda **options: Recurrent(cells.LSTM, 3, 4, **options),
    "by unit": lambda **options: Recurrent(cells.IndRNN, 3, 4, backend="reference", **options),
    "deep": lambda **options: Recurrent(cells.GRU, 3, 4, depth=2, **options),
}
every_learner = pytest.mark.parametrize("kind", LEARNERS)
every_layer = pytest.mark.parametrize("name", LAYERS)


def living():
    """How many tensors there are."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def values(learner):
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


@every_layer
@every_learner
def test_outputs_and_states_are_those_of_the_layer(kind, name):
    layer = LAYERS[name](learn_initial_state=True)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, resets = torch.randn(7, 2, 3), torch.zeros(7, 2).bool()
    resets[3, 1] = resets[5, 0] = True
    learner = LEARNERS[kind](layer)
    ys = [
        learner(x[0], resets=resets[0])[None],
        learner(x[1:5], resets=resets[1:5]),
        learner(x[5], resets=resets[5])[None],
        learner(x[6:]),
    ]
    y, final = layer(x, resets=resets)
    got = {"y": torch.cat(ys)} | {f"state {k}": s for k, s in enumerate(learner.state)}
    want = {"y": y} | {f"state {k}": s for k, s in enumerate(final)}
    assert_close_by_name(got, {k: v.detach() for k, v in want.items()}, 7)
    assert not any(s.requires_grad for s in learner.state)


@every_learner
def test_a_chunk_is_shaped_as_the_layers_own_input(kind):
    x = torch.randn(2, 5, 3)
    for layer in (nn.GRU(3, 4, batch_first=True), Recurrent(cells.GRU, 3, 4, batch_first=True)):
        learner = LEARNERS[kind](layer)
        resets = torch.zeros(2, 5).bool()
        y = learner(x, resets=resets)
        assert_close_by_name({"y": y}, {"y": layer(x)[0].detach()}, 5)
        assert learner(x[:, 0]).shape == (2, 4)
        assert learner(x[:, :0]).shape == (2, 0, 4)


@every_layer
@every_learner
def test_what_is_saved_in_a_file_goes_on_to_the_bit(kind, name):
    torch.manual_seed(3)
    layer = LAYERS[name]()
    options = {"generator": torch.Generator().manual_seed(1)} if kind == "UORO" else {}
    learner = LEARNERS[kind](layer, **options)
    x = torch.randn(9, 2, 3)
    for x_t in x[:5]:
        learner(x_t)
    learner.reset([1])
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    options = {"generator": torch.Generator()} if kind == "UORO" else {}
    other = LEARNERS[kind](layer, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one in (learner, other):
        layer.zero_grad()
        one(x[5:7]).sum().backward()
        one(x[7]).square().sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters()]
        found = values(one), gradients
        if one is learner:
            wanted = found
    assert all(torch.equal(found[0][k], wanted[0][k]) for k in wanted[0])
    assert all(map(torch.equal, found[1], wanted[1]))


@every_learner
def test_a_row_that_is_reset_is_as_one_that_never_was(kind):
    layer = Recurrent(cells.GRU, 3, 4).double()
    x = torch.randn(6, 2, 3, dtype=torch.float64)

    def gradients(learner, x, row):
        grads = torch.autograd.grad(learner(x)[row].sum(), list(layer.parameters()))
        return {f"grad {k}": g for k, g in enumerate(grads)}

    learner, new = LEARNERS[kind](layer), LEARNERS[kind](layer)
    for x_t in x[:3] * float("nan"):  # what diverged leaves nothing
        learner(x_t)
    learner.reset(torch.tensor([False, True]))
    assert not learner.state[0][0, 1].any() and learner.state[0][0, 0].isnan().all()
    learner.reset([0])
    assert learner.batch_size == 2
    torch.manual_seed(1)
    got = gradients(learner, x[3], 1) | {"state": learner.state[0]}
    learner(x[4])
    torch.manual_seed(1)
    want = gradients(new, x[3], 1) | {"state": new.state[0]}
    new(x[4])
    assert_close_by_name(got, want, 1)
    if kind != "UORO":
        assert_close_by_name(gradients(learner, x[5], 1), gradients(new, x[5], 1), 6)
    learner.reset()
    assert learner(x[0, :1]).shape == (1, 4)
    assert learner.batch_size == 1


@every_learner
def test_memory_is_the_same_after_any_number_of_steps(kind):
    learner = LEARNERS[kind](LAYERS["deep"]())
    optimizer = torch.optim.SGD(learner.layer.parameters(), 1e-3)
    xs = torch.randn(20, 2, 3)

    counts = []
    for x in xs:
        learner(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(living() if len(counts) in (5, 19) else 0)
    assert counts[5] >= counts[19] > 0  # what other tests left may go meanwhile


def test_memory_is_the_same_after_2000_steps():
    learner = SnAp1(Recurrent(cells.IndRNN, 2, 3, backend="reference"))
    x, counts = torch.randn(4, 1, 2), []
    for call in range(500):
        y = learner(x)
        if call % 50 == 0:
            y.sum().backward()
        if call in (2, 499):
            counts.append(living())
    assert counts[0] >= counts[1]


def test_the_count_of_tensors_sees_one_that_is_kept():
    before = living()
    kept = torch.ones(1)
    assert living() == before + len(kept)


@pytest.mark.each_value
@pytest.mark.parametrize("name", ["dense", "by unit"])
@every_learner
def test_learning_online_lowers_the_loss(kind, name):
    """To say again what was said a step before, with an update at every step."""
    torch.manual_seed(2)
    layer = LAYERS[name]()
    options = {"generator": torch.Generator().manual_seed(1)} if kind == "UORO" else {}
    learner, head = LEARNERS[kind](layer, **options), nn.Linear(4, 3)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], 2e-2)
    x = torch.randint(2, (151, 8, 3)).float()
    losses = []
    for before, now in pairwise(x):
        loss = (head(learner(now)) - before).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-30:]) < 0.8 * sum(losses[:30])


@every_learner
def test_the_past_of_two_calls_can_be_asked_for_together(kind):
    layer = Recurrent(cells.LSTM, 3, 4).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    together, apart = [], []
    for found, joint in ((together, True), (apart, False)):
        torch.manual_seed(1)
        learner, ys = LEARNERS[kind](layer), []
        layer.zero_grad()
        for x_t in x:
            ys.append(learner(x_t).square().sum())
            if not joint:
                ys.pop().backward()
        if joint:
            sum(ys).backward()
        found += [p.grad.clone() for p in layer.parameters()]
    assert_close_by_name(dict(enumerate(together)), dict(enumerate(apart)), 4)


@every_learner
def test_the_input_is_reached_within_the_call(kind):
    layer = Recurrent(cells.GRU, 3, 4)
    x = torch.randn(5, 2, 3)
    learner = LEARNERS[kind](layer)
    learner(x[:4])
    state = learner.state
    here = x[4].requires_grad_()
    (got,) = torch.autograd.grad(learner(here).sum(), here)
    (want,) = torch.autograd.grad(layer(here[None], state)[0].sum(), here)
    assert_close_by_name({"x": got}, {"x": want}, 1)


@every_learner
def test_a_second_backward_pass(kind):
    layer = Recurrent(cells.GRU, 3, 4)
    learner = LEARNERS[kind](layer)
    learner(torch.randn(2, 3))
    loss = learner(torch.randn(2, 3)).sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in layer.parameters()]
    loss.backward()
    assert_close_by_name(
        {str(k): p.grad for k, p in enumerate(layer.parameters())},
        {str(k): 2 * g for k, g in enumerate(first)},
        1,
    )
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    loss = learner(torch.randn(2, 3)).sum()
    with pytest.raises(RuntimeError, match="create_graph: got True"):
        torch.autograd.grad(loss, list(layer.parameters()), create_graph=True)


@every_learner
def test_steps_without_gradient_count_as_well(kind):
    layer = Recurrent(cells.GRU, 3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    found = []
    for context in (torch.no_grad, torch.enable_grad):
        torch.manual_seed(1)
        learner = LEARNERS[kind](layer)
        with context():
            learner(x[:2])
            learner(x[2])
        layer.zero_grad()
        learner(x[3:]).sum().backward()
        found.append({str(k): p.grad.clone() for k, p in enumerate(layer.parameters())})
    assert_close_by_name(*found, 5)


def test_parameters_that_are_fixed_take_no_room():
    layer = Recurrent(cells.Elman, 3, 4)
    whole = RTRL(layer).size
    layer.cells[0].weight_ih.requires_grad_(False)
    learner = RTRL(layer)
    assert learner.size == whole - 4 * 3 * 4
    learner(torch.randn(2, 3)).sum().backward()
    assert layer.cells[0].weight_ih.grad is None
    layer.cells[0].weight_ih.requires_grad_(True)
    with pytest.raises(ValueError, match=r"^layer: other parameters .* make a new RTRL"):
        learner(torch.randn(2, 3))


def test_replaced_weights_take_effect():
    layer, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    learner = RTRL(layer)
    x = torch.randn(3, 1, 3)
    learner(x[:2])
    state = learner.state
    layer.load_state_dict(other.state_dict(), assign=True)
    y = learner(x[2])
    assert_close_by_name({"y": y}, {"y": other(x[2:], state)[0][0].detach()}, 1)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_it_says_what_it_keeps():
    assert repr(RTRL(Recurrent(cells.MinGRU, 3, 4))).endswith("by unit, 32 numbers a row)")
    assert RTRL(Recurrent(cells.Elman, 3, 4)).form == "dense"
    assert SnAp1(Recurrent(cells.Elman, 3, 4)).form == "by unit, approximate"
    assert UORO(Recurrent(cells.Elman, 3, 4)).form == "rank one"


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", LEARNERS.values())
@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (lambda: nn.Linear(3, 4), TypeError, "^layer: got Linear, expected a Recurrent"),
        (lambda: cells.GRU(3, 4), TypeError, "^layer: got GRU, expected"),
        (lambda: nn.GRU(3, 4, bidirectional=True), ValueError, "^layer: .* needs the future"),
        (
            lambda: Recurrent(cells.GRU, 3, 4, bidirectional=True),
            ValueError,
            "^layer: .* needs the future",
        ),
        (lambda: nn.LSTM(3, 4, proj_size=2), ValueError, "^layer: got proj_size=2, expected 0"),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0"),
            ValueError,
            "^weight_hh_l0: got a weight that is computed",
        ),
        (
            lambda: Recurrent(cells.GRU, 3, 4).requires_grad_(False),
            ValueError,
            "^layer: got no parameter that requires",
        ),
    ],
)
def test_what_cannot_be_learnt_online_is_refused(learner, layer, error, message):
    with pytest.raises(error, match=message):
        learner(layer())


@pytest.mark.parametrize("learner", LEARNERS.values())
@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda: Recurrent(cells.GRU, 3, 4, depth=2, dropout=0.5), "dropout"),
        (lambda: nn.GRU(3, 4, 2, dropout=0.5), "dropout"),
        (lambda: unrolled.LSTM(3, 4, 2, dropout=0.5), "dropout"),
        (lambda: Recurrent(cells.GRU, 3, 4, variational_dropout=0.5), "variational_dropout"),
        (lambda: Recurrent(cells.GRU, 3, 4, weight_drop=0.5), "weight_drop"),
        (lambda: Recurrent(cells.GRU, 3, 4, zoneout=0.5, backend="reference"), "noise of GRU"),
        (
            lambda: Recurrent(cells.GRU, 3, 4, recurrent_dropout=0.5, backend="reference"),
            "noise of GRU",
        ),
    ],
)
def test_what_is_random_is_refused_in_training_alone(learner, layer, name):
    layer = layer()
    learner = learner(layer)
    with pytest.raises(RuntimeError, match=rf"^layer: got {name} at work, .* call layer.eval\(\)"):
        learner(torch.randn(2, 3))
    layer.eval()
    learner(torch.randn(2, 3)).sum().backward()


@every_learner
def test_what_a_call_refuses(kind):
    learner = LEARNERS[kind](Recurrent(cells.GRU, 3, 4))
    with pytest.raises(
        ValueError, match=r"^x: got shape \[2, 5\], expected \[B, 3\], or \[T, B, 3\]"
    ):
        learner(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"^x: got shape \[3\]"):
        learner(torch.randn(3))
    with pytest.raises(TypeError, match=r"^x: got list"):
        learner([1.0])
    with pytest.raises(TypeError, match=r"^x: got torch.float64"):
        learner(torch.randn(2, 3).double())
    assert learner.batch_size == 0 and learner.state[0].shape == (1, 0, 4)
    learner(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"^x: got 3 rows, expected 2 as in the last call"):
        learner(torch.randn(3, 3))
    with pytest.raises(TypeError, match=r"^resets: got torch.float32"):
        learner(torch.randn(2, 3), resets=torch.zeros(2))
    with pytest.raises(ValueError, match=r"^resets: got shape \[1, 3\], expected \[1, 2\]"):
        learner(torch.randn(2, 3), resets=torch.zeros(3).bool())
    with pytest.raises(IndexError, match=r"^rows: got 2, expected from 0 to 1"):
        learner.reset([2])
    with (
        pytest.raises(RuntimeError, match=r"^autocast: got it switched on"),
        torch.autocast("cpu"),
    ):
        learner(torch.randn(2, 3))
    saved = learner.state_dict()
    with pytest.raises(ValueError, match=r"^saved: got .*, expected .*; load what a"):
        LEARNERS[kind](Recurrent(cells.GRU, 3, 5)).load_state_dict(saved)
    with pytest.raises(TypeError, match=r"^saved: got torch.float32 for 'state/0'"):
        LEARNERS[kind](Recurrent(cells.GRU, 3, 4).double()).load_state_dict(saved)
    learner.layer.double()
    with pytest.raises(TypeError, match=r"^layer: got torch.float64 .* call reset\(\)"):
        learner(torch.randn(2, 3).double())
    learner.reset()
    learner(torch.randn(5, 3).double())


def test_what_is_too_large_is_refused_with_its_size(monkeypatch):
    with pytest.raises(
        ValueError, match=r"^layer: got 1024 .* takes \S+ GiB, .* take SnAp1 or UORO"
    ):
        RTRL(Recurrent(cells.Elman, 1024, 1024))
    monkeypatch.setattr(RTRL, "limit", 20_000)
    learner = RTRL(Recurrent(cells.Elman, 3, 4))
    learner(torch.randn(2, 3))
    learner.reset()
    with pytest.raises(ValueError, match=r"B = 50 RTRL's influence takes"):
        learner(torch.randn(50, 3))
    assert learner.batch_size == 0
