"""Every cell with every option that any cell has: it does what it says, or is refused by name.

A cell that is added later is held to this too, and so is an option: it needs a value in ``VALUES``.
"""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cells.papers import D, H, drawn, inputs
from tests.compare import assert_close_by_name, collect, leaves, named_state, scanned
from unrolled import Recurrent, cells
from unrolled.cells import Cell, State
from unrolled.cells.cell import GatedCell, Norm, Options
from unrolled.scan import ScanOptions

T, B = 6, 3
CELLS: dict[str, type[Cell]] = {
    name: kind
    for name in cells.__all__
    if isinstance(kind := getattr(cells, name), type)
    and issubclass(kind, Cell)
    and kind not in (Cell, GatedCell)
}
VALUES: dict[str, object] = {
    "bias": False,
    "layer_norm": True,
    "recurrent_dropout": 0.4,
    "zoneout": 0.3,
    "activation": "relu",
    "alpha": 2.0,
    "dt": 0.5,
    "epsilon": 0.3,
    "forget_bias": 2.0,
    "gamma": 0.7,
    "gated": True,
    "max_phase": 1.0,
    "mean": 0.6,
    "micro_depth": 2,
    "r_max": 0.7,
    "r_min": 0.6,
    "variables": 1,
}
Found = dict[str, Tensor]


def options_of(kind: type[Cell]) -> set[str]:
    """The keyword arguments of a cell's constructor."""
    found = set[str]()
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            found.add(name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            found |= set(Options.__annotations__)
    return found


def run(cell: Cell, x: Tensor, state: State, call: Callable[..., tuple[Tensor, State]]) -> Found:
    """Outputs, final states and the gradient of every parameter but the norms', under a fixed seed."""
    x, *start = leaves(x, *state)
    torch.manual_seed(3)
    y, final = call(cell, x, tuple(start))
    sources = {"x": x} | named_state(tuple(start), "_0") | dict(cell.named_parameters())
    return collect({"y": y} | named_state(final, "_n"), sources)


def by_scan(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    return scanned(cell, x, state, ScanOptions(backend="reference"))


def plain_of(kind: str, cell: Cell) -> Cell:
    """The cell without options, over the parameters of one that has some."""
    plain = CELLS[kind](D, H).double()
    plain._parameters = cell._parameters
    return plain


def without_bias(kind: str, cell: Cell, x: Tensor, state: State) -> None:
    plain = CELLS[kind](D, H).double()
    missing, _ = plain.load_state_dict(cell.state_dict(), strict=False)
    assert missing and all("bias" in name for name in missing)
    for name in missing:
        nn.init.zeros_(plain.get_parameter(name))
    got, expected = (run(c, x, state, by_scan) for c in (cell, plain))
    assert_close_by_name(got, {name: expected[name] for name in got}, T)


def normalised(kind: str, cell: Cell, x: Tensor, state: State) -> None:
    found = run(cell, x, state, by_scan)
    norms = [name for name, module in cell.named_modules() if isinstance(module, Norm)]
    assert norms
    for name in norms:
        for part in ("weight", "bias"):
            assert found[f"grad of {name}.{part}"].all(), f"{name}.{part}"
    y, _ = by_scan(cell, x, state)
    with (
        torch.no_grad()
    ):  # what is normalised forgets its scale, up to the 1e-5 beside the variance
        for name, weight in cell.named_parameters(recurse=False):
            if name in ("weight_ih", "weight_hh"):
                weight *= 7
    torch.testing.assert_close(by_scan(cell, x, state)[0], y, rtol=1e-3, atol=1e-3)


def dropping(kind: str, cell: GatedCell, x: Tensor, state: State) -> None:
    """To drop a share of what W sees is to drop columns of W, the same at every step."""
    plain = plain_of(kind, cell)
    torch.manual_seed(3)
    mask = cell.noise(T, B, x)
    assert mask is not None and mask.shape == (1, B, H)
    y = run(cell, x, state, by_scan)["y"]
    weight = cell.weight_hh.detach().clone()
    for b in range(B):
        with torch.no_grad():
            plain.weight_hh.copy_(weight * mask[0, b])
        own, _ = by_scan(plain, x[:, b : b + 1], tuple(s[b : b + 1] for s in state))
        assert_close_by_name({"y": y[:, b : b + 1]}, {"y": own}, T)
    with torch.no_grad():
        plain.weight_hh.copy_(weight)
    assert torch.equal(by_scan(cell.eval(), x, state)[0], by_scan(plain, x, state)[0])


def zoned_out(kind: str, cell: GatedCell, x: Tensor, state: State) -> None:
    plain = plain_of(kind, cell)

    def kept(stays: list[Tensor] | list[float]) -> Callable[..., tuple[Tensor, State]]:
        def call(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
            ys = []
            for t, projected in enumerate(cell.project(x)):
                after = cell.step(projected, state)
                if isinstance(cell, cells.GRUD | cells.ContinuousTimeLSTM):
                    state = cell.faded(projected, state)  # of what the time has left, some is kept
                shares = [k if isinstance(k, float) else k[t] for k in stays]
                pairs = zip(shares, state, after, strict=True)
                state = tuple(k * old + (1 - k) * new for k, old, new in pairs)
                ys.append(cell.read(state))
            return torch.stack(ys), state

        return call

    torch.manual_seed(3)
    noise = cell.noise(T, B, x)
    assert noise is not None
    coins = list(noise.split(H, -1))
    assert all(set(coin.unique().tolist()) == {0, 1} for coin in coins)
    assert_close_by_name(run(cell, x, state, by_scan), run(plain, x, state, kept(coins)), T)
    means = [0.3] * len(state)
    assert_close_by_name(run(cell.eval(), x, state, by_scan), run(plain, x, state, kept(means)), T)


CHECKS: dict[str, Callable[..., None]] = {
    "bias": without_bias,
    "layer_norm": normalised,
    "recurrent_dropout": dropping,
    "zoneout": zoned_out,
}


@pytest.mark.parametrize("option", sorted({o for kind in CELLS.values() for o in options_of(kind)}))
@pytest.mark.parametrize("kind", CELLS)
def test_it_does_what_it_says_or_is_refused_by_name(kind: str, option: str) -> None:
    given = {option: VALUES[option]}
    if option not in options_of(CELLS[kind]):
        with pytest.raises(TypeError, match=option):
            CELLS[kind](D, H, **given)
        return
    if option in CHECKS:
        cell = drawn(CELLS[kind](D, H, **given))
        CHECKS[option](kind, cell, *inputs(cell, T, B))
        return
    ys = []
    for options in ({}, given):
        torch.manual_seed(1)
        cell = CELLS[kind](D, H, **options).double()
        x, state = inputs(cell, T, B)
        for mode in (cell.train(), cell.eval()):
            ys.append(by_scan(mode, x, state)[0])
    assert torch.equal(ys[0], ys[1]) and torch.equal(ys[2], ys[3])
    assert not torch.allclose(ys[0], ys[2])


@pytest.mark.parametrize("kind", CELLS)
def test_a_learnt_start_is_the_state_of_every_sequence(kind: str) -> None:
    layer = Recurrent(CELLS[kind], D, H, learn_initial_state=True, backend="reference").double()
    (cell,) = layer.cells
    for start in cell.initial:
        nn.init.normal_(start)
    x, _ = inputs(cell, T, B)
    given = tuple(start.detach().expand(1, B, -1) for start in cell.initial)
    y = layer(x).y
    assert torch.equal(y, layer(x, given).y) and not torch.equal(
        y, layer(x, [0 * s for s in given]).y
    )
    y.sum().backward()
    assert all(start.grad.any() for start in cell.initial)


@pytest.mark.parametrize("kind", CELLS)
def test_weight_drop_drops_a_share_of_w_in_training_or_is_refused(kind: str) -> None:
    plain = Recurrent(CELLS[kind], D, H, backend="reference").double()
    (cell,) = plain.cells
    if not isinstance(getattr(cell, "weight_hh", None), nn.Parameter):
        with pytest.raises(ValueError, match=f"^weight_drop: got 0.5, but {kind} has no parameter"):
            Recurrent(CELLS[kind], D, H, weight_drop=0.5)
        return
    layer = Recurrent(CELLS[kind], D, H, weight_drop=0.5, backend="reference").double()
    layer.load_state_dict(plain.state_dict())
    x, _ = inputs(cell, T, B)
    assert torch.equal(layer.eval()(x).y, plain(x).y)
    torch.manual_seed(3)
    y = layer.train()(x).y
    torch.manual_seed(3)
    with torch.no_grad():
        cell.weight_hh.copy_(F.dropout(cell.weight_hh, 0.5))
    assert torch.equal(y, plain(x).y)


@pytest.mark.parametrize("kind", ["CoupledLSTM", "MGU", "PeepholeLSTM"])
def test_the_kernel_of_all_options_together_is_the_reference(kind: str) -> None:
    options = {"layer_norm": True, "recurrent_dropout": 0.4, "zoneout": 0.3}
    cell = drawn(CELLS[kind](D, H, **options))
    x, state = inputs(cell, T, B)
    native, reference = (
        run(
            cell,
            x,
            state,
            lambda *given, backend=backend: scanned(*given, options=ScanOptions(backend=backend)),
        )
        for backend in ("auto", "reference")
    )
    assert_close_by_name(native, reference, T)


# --- Cells of users ------------------------------------------------------------------------------


class OwnStep(GatedCell):
    """All of it by itself, as the parent's options know nothing of."""

    gates = 1

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih, self.bias())

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        return (torch.tanh(projected + h @ self.weight_hh.T),)


class Bounded(cells.LSTM):
    """A step around the parent's, which does the options' part."""

    def step(self, projected: Tensor, state: State) -> State:
        h, c = super().step(projected, state)
        return h, c.clamp(-0.5, 0.5)


class Deaf(cells.Elman):
    """Its projection passes the norm by."""

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih, self.bias())


class Bare(cells.LSTM):
    """Its equations show c as it is."""

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        i, f, g, o = (u + w).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize(
    ("option", "value"), [("layer_norm", True), ("recurrent_dropout", 0.4), ("zoneout", 0.3)]
)
def test_a_step_of_a_users_own_is_refused_what_it_leaves_out(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{option}: got .*, but OwnStep defines step itself"):
        OwnStep(D, H, **{option: value})
    assert Recurrent(OwnStep, D, H, bias=False)(torch.randn(T, B, D)).y.any()


def test_a_step_around_the_inherited_one_takes_every_option() -> None:
    options = {"layer_norm": True, "recurrent_dropout": 0.4, "zoneout": 0.3}
    cell = drawn(Bounded(D, H, **options))
    x, state = inputs(cell, T, B)
    found = run(cell, x, state, by_scan)
    assert all(found[f"grad of {name}"].any() for name, _ in cell.named_parameters())
    assert found["c_n"].abs().max() == 0.5


@pytest.mark.parametrize(
    ("kind", "unread"),
    [(Deaf, "norm_ih.weight, norm_ih.bias"), (Bare, "norm_c.weight, norm_c.bias")],
)
def test_a_layer_refuses_a_norm_that_its_cell_does_not_read(kind: type[Cell], unread: str) -> None:
    with pytest.raises(
        ValueError, match=f"^layer_norm: got True, .* of {kind.__name__} read no {unread}"
    ):
        Recurrent(kind, D, H, layer_norm=True)
