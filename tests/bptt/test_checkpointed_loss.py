"""``checkpointed_loss`` against a plain sum: the value, every gradient; and the memory of both calls."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import unrolled
from tests.bptt.test_checkpointed import B, D, H, Named, T, check_differences, named_smallest, x_of
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, bptt, cells
from unrolled.bptt.checkpointed import CHANCE
from unrolled.bptt.schedule import parse

# --- The sum of a loss ---------------------------------------------------------------------------


class Reader(nn.Module):
    """Symbols in, a guess of the next one out: two recurrent layers, and dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, D)
        self.first = Recurrent(cells.LSTM, D, H, learn_initial_state=True)
        self.drop = nn.Dropout(dropout)
        self.second = unrolled.GRU(H, H)
        self.head = nn.Linear(H, 7)

    def forward(self, symbols: Tensor) -> Tensor:
        y = self.drop(self.first(self.embed(symbols))[0])
        return self.head(self.drop(self.second(y)[0]))


def loss_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(symbols: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(symbols).flatten(0, 1), targets.flatten(), reduction="sum")

    return loss


def symbols(steps: int = T) -> tuple[Tensor, Tensor]:
    return torch.randint(7, (steps, B)), torch.randint(7, (steps, B))


def gradients(total: Tensor, sources: Mapping[str, Tensor]) -> Named:
    return collect({"total": total}, sources)


LOSS_WAYS = [{"segments": 1}, {"segments": 3}, {"segments": T}, {"memory": "1 MiB"}]


@pytest.mark.parametrize("way", LOSS_WAYS, ids=str)
def test_the_loss_of_a_whole_sequence(way: dict[str, Any]) -> None:
    model = Reader().double()
    loss, given = loss_of(model), symbols()
    named = dict(model.named_parameters())
    expected = gradients(loss(*given), named)
    got = gradients(bptt.checkpointed_loss(model, loss, *given, **way), named)
    assert_close_by_name(got, expected, T)


def test_the_loss_in_the_smallest_budget() -> None:
    model = Reader().double()
    loss, given = loss_of(model), symbols(40)

    def call(memory: int | str) -> Tensor:
        return bptt.checkpointed_loss(model, loss, *given, memory=memory)

    named, smallest = dict(model.named_parameters()), named_smallest(call)
    expected = gradients(loss(*given), named)
    for budget in (smallest, 2 * parse(smallest), 4 * parse(smallest)):
        assert_close_by_name(gradients(call(budget), named), expected, 40)


def by_segments(
    model: nn.Module,
    loss: Callable[..., Tensor],
    given: tuple[Tensor, ...],
    steps: int,
    carry: bptt.Carry,
    resets: Tensor | None = None,
) -> Tensor:
    """The same sum by hand: segment by segment, all in one graph."""
    total: Any = 0
    for begin in range(0, len(given[0]), steps):
        part = slice(begin, begin + steps)
        flags = None if resets is None else resets[part]
        with carry.injection(carry.kept["training"], flags, None) as injection:
            total = total + loss(*(s[part] for s in given))
        carry.commit("training", injection, detach=False)
    return total


@pytest.mark.parametrize("share", [None, 1, 2])
def test_masks_are_drawn_in_each_segment_and_are_the_same_again(share: int | None) -> None:
    model = Reader(dropout=0.4).double()
    lengths: list[int] = []
    given = symbols()

    def loss(x: Tensor, t: Tensor) -> Tensor:
        lengths.append(len(x))
        return loss_of(model)(x, t)

    options: dict[str, Any] = {"segments": 3}
    if share is not None:  # in short segments, some of them from states that are made again
        smallest = named_smallest(
            lambda memory: bptt.checkpointed_loss(model, loss, *given, memory=memory)
        )
        options = {"memory": share * parse(smallest)}
    lengths.clear()
    bptt.checkpointed_loss(model, loss, *given, **options)
    steps = lengths[3 if share else 1]  # those before are tried
    named = dict(model.named_parameters())
    torch.manual_seed(11)
    expected = gradients(by_segments(model, loss, given, steps, bptt.Carry(model)), named)
    chance = torch.get_rng_state()
    torch.manual_seed(11)
    total = bptt.checkpointed_loss(model, loss, *given, **options)
    assert torch.equal(torch.get_rng_state(), chance)
    torch.randn(5)  # which the backward pass must not see, nor disturb
    chance = torch.get_rng_state()
    got = gradients(total, named)
    assert torch.equal(torch.get_rng_state(), chance)
    assert_close_by_name(got, expected, T)


def test_the_loss_against_finite_differences() -> None:
    model = nn.ModuleDict({"rnn": Recurrent(cells.GRU, 2, 2, depth=2), "drop": nn.Dropout(0.4)})
    model.double()
    x, target = leaves(x_of(5, 2, 2), x_of(5, 2, 2))

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return (model["drop"](model["rnn"](x).y) - target).square().sum()

    def call() -> Tensor:
        torch.manual_seed(3)
        return bptt.checkpointed_loss(model, loss, x, target, segments=3)

    check_differences(call, x, target, *model.parameters())


def test_carry_resets_and_lengths() -> None:
    model = Reader().double()
    loss, (x, t) = loss_of(model), symbols()
    resets = torch.rand(T, B) < 0.3
    resets[4] = torch.tensor([True, False, True])  # where a segment begins
    lengths = torch.tensor([T, 6, 0])
    real = torch.arange(T)[:, None] < lengths
    named = dict(model.named_parameters())

    def masked(x: Tensor, t: Tensor, real: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), t.flatten(), reduction="none")[
            real.flatten()
        ].sum()

    plain, carry = bptt.Carry(model), bptt.Carry(model)
    with plain.window():
        model(x)
    carry.load_state_dict(plain.state_dict())
    for flags in ({}, {"resets": resets}):
        with plain.window(**flags):
            expected = loss(x, t)
        got = bptt.checkpointed_loss(model, loss, x, t, segments=3, carry=carry, **flags)
        assert_close_by_name(gradients(got, named), gradients(expected, named), T)
        for name, state in plain.states.items():
            for a, b in zip(carry.states[name], state, strict=True):
                assert_close_by_name({name: a}, {name: b}, T)
        assert not any(s.requires_grad for state in carry.kept["training"].values() for s in state)
    resets[0] = True
    with plain.window(lengths=lengths):
        expected = masked(x, t, real)
    got = bptt.checkpointed_loss(
        model, masked, x, t, real, segments=3, carry=carry, lengths=lengths
    )
    assert_close_by_name(gradients(got, named), gradients(expected, named), T)
    for c in (plain, carry):
        assert c.state_dict()["training:ended"].tolist() == [False, True, True]
    with pytest.raises(ValueError, match="row 1 ended in an earlier window"):
        bptt.checkpointed_loss(model, loss, x, t, segments=3, carry=carry)
    bptt.checkpointed_loss(model, loss, x, t, segments=3, carry=carry, resets=resets)


def test_an_initial_state_of_the_carry_is_learnt() -> None:
    model = unrolled.LSTM(D, H).double()
    initial = [nn.Parameter(torch.randn(1, 1, H).double()) for _ in range(2)]
    carry = bptt.Carry(model, initial={"": initial})
    resets = torch.rand(T, B) < 0.4
    x = x_of()

    def loss(x: Tensor) -> Tensor:
        return model(x)[0].square().sum()

    named = dict(model.named_parameters()) | dict(zip("hc", initial, strict=True))
    expected = gradients(by_segments(model, loss, (x,), T, carry, resets), named)
    carry.reset()
    total = bptt.checkpointed_loss(model, loss, x, segments=4, carry=carry, resets=resets)
    assert_close_by_name(gradients(total, named), expected, T)


def test_a_state_that_is_part_of_a_graph_gets_its_gradient() -> None:
    model = unrolled.GRU(D, H).double()
    start, x = leaves(torch.randn(1, B, H).double(), x_of())
    carry = bptt.Carry(model)
    carry.keep("training", {"": (start,)}, None, detach=False)
    total = bptt.checkpointed_loss(
        model, lambda x: model(x)[0].square().sum(), x, segments=4, carry=carry
    )
    expected = model(x, start)[0].square().sum()
    named = {"x": x, "start": start}
    assert_close_by_name(gradients(total, named), gradients(expected, named), T)


def test_sequences_that_need_gradients_and_sequences_first() -> None:
    model = Recurrent(cells.LSTM, D, H, batch_first=True).double()
    x, target = leaves(x_of().transpose(0, 1), x_of(width=H).transpose(0, 1))
    where = torch.rand(B, T) < 0.5

    def loss(x: Tensor, target: Tensor, where: Tensor) -> Tensor:
        return (model(x).y - target)[where].square().sum()

    named = {"x": x, "target": target} | dict(model.named_parameters())
    expected = gradients(loss(x, target, where), named)
    for way in ({"segments": 3}, {"memory": "1 MB"}):
        total = bptt.checkpointed_loss(model, loss, x, target, where, batch_first=True, **way)
        assert_close_by_name(gradients(total, named), expected, T)


def test_parameters_outside_of_the_model_are_found() -> None:
    model, head = unrolled.GRU(D, H).double(), nn.Linear(H, 1).double()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = x_of()

    def loss(x: Tensor) -> Tensor:
        return (scale * head(model(x)[0])).square().sum()

    named = dict(model.named_parameters()) | dict(head.named_parameters()) | {"scale": scale}
    total = bptt.checkpointed_loss(model, loss, x, segments=3)
    assert_close_by_name(gradients(total, named), gradients(loss(x), named), T)


def test_what_a_loss_takes_of_the_whole_sequence_gets_its_gradient_too() -> None:
    model = unrolled.GRU(D, H).double()
    (x,) = leaves(x_of())

    def loss(part: Tensor) -> Tensor:
        return model(part)[0].square().sum(2).matmul(x[0, :, 0]).sum() if len(part) else x.sum()

    named = {"x": x} | dict(model.named_parameters())
    total = bptt.checkpointed_loss(model, loss, x, segments=3)
    assert_close_by_name(gradients(total, named), gradients(loss(x), named), T)
    whole = x * 1
    with pytest.raises(ValueError, match=r"^loss: it uses a tensor that was computed before"):
        bptt.checkpointed_loss(model, lambda x: model(x)[0].sum() + whole.sum(), whole, segments=3)


def test_a_parameter_that_first_takes_part_later_is_refused_unless_it_is_the_models() -> None:
    model, late = unrolled.GRU(D, H), nn.Parameter(torch.ones(()))
    x = torch.randn(40, B, D)
    x[20:, 0, 0] = 5

    def loss(x: Tensor) -> Tensor:
        return model(x)[0].sum() * (late if x[0, 0, 0] == 5 else 1)

    with pytest.raises(RuntimeError, match=r"^loss: a parameter takes part from step 30 on"):
        bptt.checkpointed_loss(model, loss, x, segments=4)
    model.late = late
    bptt.checkpointed_loss(model, loss, x, segments=4).backward()
    assert late.grad is not None


def test_tensors_that_were_computed_before_are_refused() -> None:
    model = unrolled.GRU(D, H)
    x = torch.randn(T, B, D)
    start, other = torch.randn(2, 1, B, H, requires_grad=True).unbind()
    carry = bptt.Carry(model)
    carry.keep("training", {"": (start,)}, None, detach=False)
    scale = torch.ones((), requires_grad=True) * 2

    def scaled(x: Tensor) -> Tensor:
        return model(x)[0].sum() * scale

    def sibling(x: Tensor) -> Tensor:  # of the first state, from the same operation
        return model(x)[0].sum() + other.sum()

    for loss in (scaled, sibling):
        with pytest.raises(
            ValueError, match=r"^loss: it uses a tensor that was computed before .*; compute that"
        ):
            bptt.checkpointed_loss(model, loss, x, segments=3, carry=carry)


def test_the_loss_without_gradient() -> None:
    model = Reader()
    loss, given = loss_of(model), symbols()
    with torch.no_grad():
        total = bptt.checkpointed_loss(model, loss, *given, segments=3)
    assert not total.requires_grad
    assert_close_by_name({"total": total}, {"total": loss(*given)}, T)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"expected torch.no_grad\(\)"):
        bptt.checkpointed_loss(model, loss, *given, segments=3)
    model.requires_grad_(False)
    assert not bptt.checkpointed_loss(model, loss, *given, segments=3).requires_grad


def test_gradients_add_up_over_calls_and_may_be_asked_for_in_any_order() -> None:
    model = Reader().double()
    loss, a, b = loss_of(model), symbols(), symbols()
    totals = [bptt.checkpointed_loss(model, loss, *given, segments=3) for given in (a, b)]
    for total in totals:
        total.backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    (loss(*a) + loss(*b)).backward()
    assert_close_by_name(got, {n: p.grad for n, p in model.named_parameters()}, T)


def test_hooks_on_saved_tensors_may_put_other_tensors_in_their_place() -> None:
    model = Reader().double()
    loss, given = loss_of(model), symbols()
    layer = Recurrent(cells.LSTM, D, H, depth=2, weight_drop=0.3, bidirectional=True).double()
    x = x_of().requires_grad_()
    named = dict(model.named_parameters()) | {"x": x, **dict(layer.named_parameters())}
    found = []
    for hooked in (False, True):
        hooks = torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t.detach())
        torch.manual_seed(2)
        with hooks if hooked else nullcontext():
            total = bptt.checkpointed_loss(model, loss, *given, segments=3)
            total = total + bptt.checkpointed(layer, x, segments=4).y.square().sum()
        found.append(gradients(total, named))
    assert_close_by_name(found[1], found[0], T)


def test_a_sparse_gradient_stays_sparse() -> None:
    model = Reader().double()
    model.embed = nn.Embedding(7, D, sparse=True).double()
    loss, given = loss_of(model), symbols()
    found = []
    for total in (loss(*given), bptt.checkpointed_loss(model, loss, *given, segments=3)):
        model.zero_grad()
        total.backward()
        assert model.embed.weight.grad.is_sparse
        found.append({"embed": model.embed.weight.grad.to_dense()})
    assert_close_by_name(found[1], found[0], T)


def test_the_losss_second_backward_and_changed_parameters_are_refused() -> None:
    model = Reader()
    loss, given = loss_of(model), symbols()
    total = bptt.checkpointed_loss(model, loss, *given, segments=3)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"^backward: called a second time"):
        total.backward()
    total = bptt.checkpointed_loss(model, loss, *given, segments=3)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_an_exception_in_the_loss_leaves_all_as_it_was() -> None:
    model = Reader()
    x, t = symbols(40)
    carry = bptt.Carry(model)
    calls: list[int] = []

    def loss(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) > 3:
            raise KeyError("mine")
        return loss_of(model)(x, t)

    before = {n: dict(vars(m)) for n, m in model.named_modules()}
    chance = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        bptt.checkpointed_loss(model, loss, x, t, segments=5, carry=carry)
    assert {n: vars(m).keys() for n, m in model.named_modules()} == {
        n: v.keys() for n, v in before.items()
    }
    assert torch.equal(torch.get_rng_state(), chance)
    assert not carry.kept["training"]
    calls[:] = [0] * -10
    total = bptt.checkpointed_loss(model, lambda x, t: loss_of(model)(x, t), x, t, segments=5)
    model.head.forward = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        total.backward()
    assert "forward" not in vars(model.first) and "forward" not in vars(model.second)


def test_buffers_change_once_and_are_the_same_again() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(D, momentum=0.5)
            self.rnn = unrolled.GRU(D, H)
            self.head = parametrizations.spectral_norm(nn.Linear(H, 3))

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.rnn(self.norm(x.flatten(0, 1)).view_as(x))
            return self.head(y)

    model = Normed().double()
    x = x_of()
    held = {n: b.clone() for n, b in model.named_buffers()}
    named = dict(model.named_parameters())

    def loss(x: Tensor) -> Tensor:
        return model(x).square().sum()

    expected = gradients(by_segments(model, loss, (x,), 4, bptt.Carry(model)), named)
    after = {n: b.clone() for n, b in model.named_buffers()}
    assert after["norm.num_batches_tracked"] == 3
    for n, b in model.named_buffers():
        b.copy_(held[n])
    total = bptt.checkpointed_loss(model, loss, x, segments=3)
    assert_close_by_name(gradients(total, named), expected, T)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, after[name])


def test_the_loss_under_autocast() -> None:
    model = Reader()
    loss, given = loss_of(model), symbols()
    named = dict(model.named_parameters())
    found = []
    for checkpointed in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                loss(*given)  # which leaves casts of the weights behind, without a graph
            torch.clear_autocast_cache() if not checkpointed else None
            total = (
                bptt.checkpointed_loss(model, loss, *given, segments=3)
                if checkpointed
                else loss(*given)
            )
        found.append(gradients(total, named))
    for name, g in found[0].items():
        assert (found[1][name] - g).abs().max() <= 0.05 * g.abs().max(), name


def test_hooks_see_the_losss_gradients_once_and_whole() -> None:
    model = Reader().double()
    loss, given = loss_of(model), symbols()
    named = dict(model.named_parameters())
    expected = {n: 3 * g for n, g in gradients(loss(*given), named).items() if "grad" in n}
    for p in named.values():
        p.register_hook(lambda g: g * 3)
    got = gradients(bptt.checkpointed_loss(model, loss, *given, segments=3), named)
    assert_close_by_name({n: g for n, g in got.items() if "grad" in n}, expected, T)


def test_a_checkpointed_call_inside_a_checkpointed_loss() -> None:
    model = Recurrent(cells.LSTM, D, H, depth=2).double()
    x = x_of().requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return bptt.checkpointed(model, x, segments=2).y.square().sum()

    named = {"x": x} | dict(model.named_parameters())
    total = bptt.checkpointed_loss(model, loss, x, segments=3)
    assert_close_by_name(gradients(total, named), gradients(model(x).y.square().sum(), named), T)


# --- Memory --------------------------------------------------------------------------------------


def held() -> int:
    """The bytes of all tensors that Python or a graph's node in Python's reach holds."""
    gc.collect()
    storages = (t.untyped_storage() for t in tensors())
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def tensors() -> list[Tensor]:
    """Those in Python's reach."""
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return [t for t in found if t.layout is torch.strided and type(t) in (Tensor, nn.Parameter)]


def test_nothing_stays_alive_after_the_backward_pass() -> None:
    model = Reader(dropout=0.2)
    loss = loss_of(model)
    layer = Recurrent(cells.LSTM, D, H, depth=2, bidirectional=True, weight_drop=0.2)

    def step() -> None:
        total = bptt.checkpointed_loss(model, loss, *symbols(50), memory="200 KiB")
        total = total + bptt.checkpointed(layer, torch.randn(50, B, D), segments=4).y.sum()
        total.backward()

    step()
    before = held()
    gc.disable()  # what is left must not need it
    try:
        for _ in range(3):
            step()
            # also without a backward pass
            bptt.checkpointed_loss(model, loss, *symbols(50), memory="200 KiB")
            bptt.checkpointed(layer, torch.randn(50, B, D), segments=4)
        count = len(tensors())
        gc.collect()
        assert len(tensors()) == count
    finally:
        gc.enable()
    assert held() == before


class Counted(cells.GRU):
    """Counts the bytes of the graphs that are alive: one note a call of ``project``, made in its graph."""

    alive = 0
    most = 0

    def project(self, x: Tensor) -> Tensor:
        y = super().project(x)
        if torch.is_grad_enabled():
            cls, count = type(self), len(x)
            note = _Note.apply(y)
            cls.alive += count
            cls.most = max(cls.most, cls.alive)
            weakref.finalize(note.grad_fn, _forget, cls, count)
            return note
        return y


class _Note(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return d


def _forget(cls: type[Counted], count: int) -> None:
    cls.alive -= count


@pytest.mark.parametrize("segments", [1, 4, 10])
def test_one_segments_graph_is_alive_at_once(segments: int) -> None:
    steps = 40
    layer = Recurrent(Counted, D, H, backend="reference")
    Counted.alive = Counted.most = 0
    y, _ = bptt.checkpointed(layer, torch.randn(steps, B, D), segments=segments)
    y.sum().backward()
    del y
    assert Counted.most == max(8, steps // segments)  # 8 steps are tried at first
    assert Counted.alive == 0


@pytest.mark.parametrize("share", [1, 3, 10])
def test_what_is_alive_after_the_forward_pass_is_within_the_budget_at_any_length(
    share: int,
) -> None:
    model = unrolled.LSTM(8, 16)

    def loss(x: Tensor) -> Tensor:
        return model(x)[0].square().sum()

    def after_forward(steps: int, budget: int | str) -> int:
        x = torch.randn(steps, B, 8)
        before = held()
        with torch.autograd.graph.saved_tensors_hooks(torch.detach, lambda t: t):  # in reach so
            total = bptt.checkpointed_loss(model, loss, x, memory=budget)
        kept = held() - before
        total.backward()
        return kept

    smallest = parse(
        named_smallest(
            lambda memory: bptt.checkpointed_loss(model, loss, torch.randn(9, B, 8), memory=memory)
        )
    )
    small, large = (after_forward(steps, share * smallest) for steps in (30, 90))
    assert small <= share * smallest
    assert large <= share * smallest
    state = 2 * B * 16 * 4 + CHANCE
    assert large <= small + share * state + 1000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_of_a_process_rises_by_the_budget_and_no_more() -> None:
    program = """
import sys, torch, unrolled
from pathlib import Path
from unrolled import bptt
torch.set_num_threads(1)
T, B, D, H, budget = 20_000, 4, 8, 32, 4 << 20
layer = unrolled.LSTM(D, H)
def loss(x):
    return layer(x)[0].square().sum()
def peak(clear=False):
    if clear:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l for l in lines if l.startswith("VmHWM:")).split()[1]) * 1024
x = torch.randn(T, B, D)
for call in (
    lambda x: bptt.checkpointed_loss(layer, loss, x, memory=budget),
    loss,
):
    call(x[:200]).backward()  # all code is loaded
    before = peak(clear=True)
    call(x).backward()
    print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    less, full = map(int, done.stdout.split())
    assert less < (4 << 20) + (4 << 20)  # what the allocator takes besides
    assert less < full / 5


# --- What is refused -----------------------------------------------------------------------------


def test_a_wrong_call_of_the_loss_is_refused() -> None:
    model = Recurrent(cells.GRU, D, H)
    x, short = torch.randn(T, B, D), torch.randn(T - 1, B, D)

    def call(loss: Callable[..., Any], *sequences: Any, model: nn.Module = model) -> Tensor:
        return bptt.checkpointed_loss(model, loss, *sequences, segments=2)

    def total(x: Tensor, *_: Tensor) -> Tensor:
        return model(x).y.sum()

    with pytest.raises(
        ValueError, match=r"^sequences: got \[\(10, 3\), \(11, 3\)\], expected one T"
    ):
        call(total, x, short)
    with pytest.raises(ValueError, match=r"^sequences: expected one tensor \[T, B, ...\] or more"):
        call(total)
    with pytest.raises(ValueError, match=r"^sequences: expected one tensor"):
        call(total, x.tolist())
    with pytest.raises(ValueError, match=r"^sequences: expected one tensor"):
        call(total, x[:, 0, 0])
    with pytest.raises(
        ValueError, match=r"^sequences: got \[0, 3, 4\], expected at least one step"
    ):
        call(total, x[:0])
    with pytest.raises(ValueError, match=r"^loss: got \[\d+, 3, 5\], expected one number, a sum"):
        call(lambda x: model(x).y, x)
    with pytest.raises(ValueError, match=r"^loss: got float, expected one number"):
        call(lambda x: model(x).y.sum().item(), x)
    with pytest.raises(RuntimeError, match="no recurrent layer of the model ran inside"):
        call(lambda x: x.sum(), x)
    with pytest.raises(RuntimeError, match="called twice in one window"):
        call(lambda x: total(x) + total(x), x)
    with pytest.raises(
        ValueError, match=r"^model: layer 'a' is bidirectional: .*; call it by bptt.checkpointed"
    ):
        call(total, x, model=nn.ModuleDict({"a": unrolled.GRU(D, H, bidirectional=True)}))
    with pytest.raises(ValueError, match="holds no recurrent layer"):
        call(total, x, model=nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^resets: "):
        bptt.checkpointed_loss(model, total, x, segments=2, resets=torch.zeros(T + 1, B).bool())
    with pytest.raises(ValueError, match=r"^lengths: "):
        bptt.checkpointed_loss(model, total, x, segments=2, lengths=[T + 1, 0, 0])
