"""What an option means does not depend on the path; what no path takes is refused in our words."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import unrolled
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, cells
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, scan

T, B, D, H = 6, 3, 4, 5
LENGTHS = [4, 6, 1]


def taken(
    x: Tensor, kind: str, batch_first: bool
) -> tuple[Tensor | PackedSequence, dict[str, object]]:
    """``x`` ``[T, B, D]`` as a drop-in layer is given it, and with what."""
    resets = torch.zeros(len(x), x.shape[1], dtype=torch.bool)
    resets[len(x) // 2 :: 2] = True
    given = x.transpose(0, 1) if batch_first else x
    if kind == "packed":
        return pack_padded_sequence(given, LENGTHS, batch_first, enforce_sorted=False), {}
    if kind == "lengths":
        return given, {"lengths": LENGTHS}
    if kind == "resets":
        return given, {"resets": resets.transpose(0, 1) if batch_first else resets}
    return (x[:, 0] if kind == "one sequence" else given), {}


KINDS = ("padded", "packed", "lengths", "resets", "one sequence", "no sequences", "no steps")


@pytest.mark.each_value(2)
@pytest.mark.parametrize("option", ["nothing", "clip", "watch", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RNN", "LSTM", "GRU"])
def test_a_drop_ins_options_mean_the_same_on_both_paths(mode: str, kind: str, option: str) -> None:
    source = getattr(unrolled, mode)(
        D, H, num_layers=2, bidirectional=True, batch_first=True
    ).double()
    shape = {"no sequences": (T, 0, D), "no steps": (0, B, D)}.get(kind, (T, B, D))
    (x,), found, errors = leaves(torch.randn(shape).double()), [], []
    for backend in ("auto", "reference"):
        source.backend = backend
        if option in ("clip", "both"):
            source.clip = 0.05
        seen = x.detach().clone().requires_grad_()
        given, options = taken(seen, kind, batch_first=True)
        try:
            with unrolled.watch(source) if option in ("watch", "both") else torch.enable_grad():
                y, state = source(given, **options)
                outputs = {"y": y.data if isinstance(y, PackedSequence) else y}
                outputs |= {f"s{k}": s for k, s in enumerate(state if mode == "LSTM" else [state])}
                found.append(collect(outputs, {"x": seen} | dict(source.named_parameters())))
            errors.append(None)
        except (ValueError, RuntimeError) as error:
            errors.append(type(error))
    assert errors[0] == errors[1]
    if errors[0] is None:
        assert_close_by_name(*found, 2 * T)


# --- Recurrent: every option under every mask -----------------------------------------------------


class Norms:
    """Watches a layer, and keeps the norms of each scan."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def begins(
        self, k: int, x: Tensor, _: object, options: ScanOptions, *, states: int
    ) -> list[Tensor]:
        assert options.batch_sizes is None
        self.found |= {f"norm {k} {i}": x.new_zeros(x.shape[:2]) for i in range(states)}
        return [self.found[f"norm {k} {i}"] for i in range(states)]

    def ends(self, k: int, y: Tensor) -> None:
        pass


MASKS = {
    "nothing": (),
    "lengths": ("lengths",),
    "resets": ("resets",),
    "mask": ("mask",),
    "all masks": ("lengths", "resets", "mask"),
}
OPTIONS = {
    "one direction": {},
    **{
        merge: {"bidirectional": True, "merge": merge}
        for merge in ("concat", "sum", "mean", "mul", "separate")
    },
    "batch first": {"batch_first": True, "bidirectional": True},
    "projection": {"projection": 3, "bidirectional": True, "residual": "highway"},
    "dropouts": {"dropout": 0.4, "variational_dropout": 0.3, "weight_drop": 0.5},
    "recurrent dropout": {"recurrent_dropout": 0.4, "bidirectional": True},
    "zoneout": {"zoneout": 0.3, "recurrent_dropout": 0.4, "bidirectional": True},
    "layer norm": {"layer_norm": True},
}
OF_A_CELL = ("recurrent dropout", "zoneout", "layer norm")  # which makes a kernel of its own


def masked(names: tuple[str, ...], *, batch_first: bool) -> dict[str, object]:
    """The masks of those names, the same at every call."""
    drawn = torch.Generator().manual_seed(0)
    flags = {
        "resets": torch.rand(T, B, generator=drawn) < 0.3,
        "mask": torch.rand(T, B, generator=drawn) < 0.7,
    }
    flags = {name: f.transpose(0, 1) if batch_first else f for name, f in flags.items()}
    return {name: value for name, value in (flags | {"lengths": LENGTHS}).items() if name in names}


@pytest.mark.each_value
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (kind, option)
        for kind in ("Elman", "LSTM", "GRU")
        for option in OPTIONS
        if option not in OF_A_CELL or kind == "GRU"
    ],
)
def test_every_option_of_recurrent_means_the_same_on_both_paths_under_every_mask(
    kind: str, option: str, masks: str, clip: float | None
) -> None:
    layer = Recurrent(getattr(cells, kind), D, H, depth=2, **OPTIONS[option]).double()
    layer.clip = clip
    given = torch.randn(*((B, T) if layer.batch_first else (T, B)), D).double()
    start = tuple(torch.randn(shape).double() for shape in layer.state_shapes(B))
    found, norms = [], []
    for backend in ("native", "reference"):
        layer.backend, layer.watcher = backend, Norms()
        x, *state = leaves(given, *start)
        torch.manual_seed(0)  # of what is dropped
        result = layer(
            x,
            tuple(state),
            states=True,
            **masked(MASKS[masks], batch_first=layer.batch_first),
        )
        ys = result.y if isinstance(result.y, tuple) else (result.y,)
        outputs = {"y": ys, "final": result.state, "states": result.states}
        found.append(
            collect(
                {f"{name} {i}": t for name, group in outputs.items() for i, t in enumerate(group)},
                {"x": x}
                | {f"start {i}": s for i, s in enumerate(state)}
                | dict(layer.named_parameters()),
            )
        )
        norms.append(layer.watcher.found)
    assert_close_by_name(*found, 2 * T)
    assert_close_by_name(*norms, 2 * T)
    assert any(norm.any() for norm in norms[0].values())


ODD_CALLS = {
    "a packed input": lambda x: ((pack_padded_sequence(x, LENGTHS, enforce_sorted=False),), {}),
    "a sparse input": lambda x: ((x.to_sparse(),), {}),
    "a bare state": lambda x: ((x, torch.zeros(1, B, H)), {}),
    "a state of other sequences": lambda x: ((x, (torch.zeros(1, B + 1, H),)), {}),
    "a sparse state": lambda x: ((x, (torch.zeros(1, B, H).to_sparse(),)), {}),
    "a nested state": lambda x: (
        (x, (torch.nested.nested_tensor([x[0]], layout=torch.jagged),)),
        {},
    ),
    "lengths beyond": lambda x: ((x,), {"lengths": [T + 1] * B}),
    "sparse lengths": lambda x: ((x,), {"lengths": torch.ones(B, dtype=torch.int64).to_sparse()}),
    "sparse resets": lambda x: ((x,), {"resets": torch.ones(T, B).bool().to_sparse()}),
    "meta resets": lambda x: ((x,), {"resets": torch.ones(T, B).bool().to("meta")}),
    "a meta mask": lambda x: ((x,), {"mask": torch.ones(T, B).bool().to("meta")}),
    "a mask of numbers": lambda x: ((x,), {"mask": torch.ones(T, B)}),
}


@pytest.mark.parametrize("odd", ODD_CALLS)
def test_what_recurrent_refuses_it_refuses_in_the_same_words_on_both_paths(odd: str) -> None:
    args, options = ODD_CALLS[odd](torch.randn(T, B, D))
    said = []
    for backend in ("native", "reference"):
        layer = Recurrent(cells.GRU, D, H, backend=backend)
        with pytest.raises((TypeError, ValueError), match=r"^\w+: got .*expected") as error:
            layer(*args, **options)
        said.append(str(error.value))
    assert said[0] == said[1]


# --- Refused in the library's words --------------------------------------------------------------


class Forgetful(Cell):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.size = hidden_size


class ForgetfulOfParameters(Cell):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.weight = nn.Parameter(torch.zeros(hidden_size))


@pytest.mark.parametrize("kind", [Forgetful, ForgetfulOfParameters])
def test_a_cell_that_does_not_set_itself_up_is_told_how(kind: type[Cell]) -> None:
    with pytest.raises(
        TypeError, match=rf"^cell: got .*{kind.__name__}.* sets up no Cell, expected super"
    ):
        Recurrent(kind, D, H)


class Sum(Cell):
    def project(self, x: Tensor) -> Tensor:
        return x

    def step(self, projected: Tensor, state: State) -> State:
        return (state[0] + projected,)


def test_explain_takes_a_cell_without_parameters() -> None:
    layer = Recurrent(Sum, H, H, backend="reference")
    assert unrolled.explain(layer).reasons == ('backend="reference" is set',)
    layer.backend = "native"
    assert unrolled.explain(layer).path == "native"
    assert unrolled.explain(layer, torch.randn(T, B, H).double()).path == "native"
    half = unrolled.explain(layer, torch.randn(T, B, H).half())
    assert (half.path, len(half.reasons)) == ("refused", 1)
    x = torch.randn(T, B, H)
    assert_close_by_name({"y": layer(x).y}, {"y": x.cumsum(0)}, T)


class Mixed(Cell):
    """A user's own, one of whose parameters is of another dtype."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.u, self.w = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.w.double()

    def project(self, x: Tensor) -> Tensor:
        return self.u(x)

    def step(self, projected: Tensor, state: State) -> State:
        return (torch.tanh(projected + self.w(state[0])),)


class Converting(Mixed):
    """Which converts where it mixes: that is its own affair."""

    def step(self, projected: Tensor, state: State) -> State:
        return (torch.tanh(projected + self.w(state[0].double()).to(projected.dtype)),)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_parameter_of_another_dtype_is_named_unless_the_cell_converts(backend: str) -> None:
    x, layer = torch.randn(T, B, D), Recurrent(Mixed, D, H, backend=backend)
    match = r"^x: got torch.float32, expected torch.float64 as w.weight"
    with pytest.raises(TypeError, match=match):
        layer(x)
    with pytest.raises(TypeError, match=match):
        scan(layer.cells[0], x, None, ScanOptions(backend=backend))
    assert Recurrent(Converting, D, H, backend=backend)(x).y.dtype is torch.float32


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "make", [lambda **o: Recurrent(cells.GRU, D, H, **o), lambda **o: unrolled.GRU(D, H, **o)]
)
def test_what_no_path_takes_is_said_by_name(make: object, backend: str) -> None:
    layer, x = make(backend=backend), torch.randn(T, B, D)
    is_drop_in = isinstance(layer, nn.GRU)
    name, state = ("input", "hx") if is_drop_in else ("x", "state")
    for odd in (
        x.to_sparse(),
        torch.nested.nested_tensor([x[:2, 0], x[:3, 0]], layout=torch.jagged),
    ):
        with pytest.raises(TypeError, match=f"^{name}: got .*, expected a dense (one|tensor)"):
            layer(odd)
    start = torch.zeros(1, B, H)
    for odd, match in (
        (start.bfloat16(), "torch.bfloat16, expected torch.float32"),
        (start.to("meta"), "meta, expected cpu"),
        (start.to_sparse(), "torch.sparse_coo, expected a dense tensor"),
        (
            torch.nested.nested_tensor([start[0]], layout=torch.jagged),
            "a nested tensor, expected a dense one",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{state}: got {match}"):
            layer(x, odd if is_drop_in else (odd,))
    with pytest.raises(
        (TypeError, ValueError), match=f"^{state}: got (an empty tuple|tuple of nothing)"
    ):
        layer(x, ())
    meta = torch.ones(B, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match=r"^lengths: got a tensor on meta"):
        layer(x, lengths=meta)
    odd = layer if is_drop_in else layer.cells[0]
    weight = "weight_hh_l0" if is_drop_in else "weight_hh"
    getattr(odd, weight).data = getattr(odd, weight).data.double()
    dtypes = "got torch.float64, expected torch.float32 as weight_ih_l0"
    if not is_drop_in:
        dtypes = f"got torch.float32, expected torch.float64 as {weight}"
    with pytest.raises(TypeError, match=f"^{weight if is_drop_in else name}: {dtypes}"):
        layer(x)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize(
    ("name", "odd", "match"),
    [
        ("weight_ih_l1", lambda w: w[:, 1:], r"got shape .*, expected"),
        ("weight_hh_l0", lambda w: w[1:], r"got shape .*, expected"),
        ("weight_hh_l1", lambda w: w.to_sparse(), "got torch.sparse_coo, expected a dense tensor"),
        ("bias_hh_l1", lambda w: w.half(), "got torch.float16, expected torch.float32"),
        ("bias_ih_l0", lambda w: w.to("meta"), "got meta, expected cpu"),
    ],
)
def test_an_odd_weight_of_a_drop_in_is_named(
    name: str, odd: Callable[[Tensor], Tensor], match: str, proj_size: int, backend: str
) -> None:
    layer = unrolled.LSTM(D, H, num_layers=2, proj_size=proj_size, backend=backend)
    layer._parameters[name] = nn.Parameter(odd(layer._parameters[name].data))
    layer._flat_weights = [getattr(layer, key) for key in layer._flat_weights_names]
    x = torch.randn(T, B, D)
    for given in (x, pack_padded_sequence(x, LENGTHS, enforce_sorted=False)):
        with pytest.raises((TypeError, ValueError, RuntimeError), match=f"{name}: {match}"):
            layer(given)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_odd_packed_rows_and_states_of_a_drop_in_are_named(proj_size: int, backend: str) -> None:
    layer = unrolled.LSTM(D, H, proj_size=proj_size, backend=backend)
    x = torch.randn(T, B, D)
    rows = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    for odd in (rows.double(), rows.to("meta")):
        with pytest.raises((TypeError, ValueError), match=r"^input: got .*as weight_ih_l0"):
            layer(odd)
    wide = pack_padded_sequence(torch.randn(T, B, D + 1), LENGTHS, enforce_sorted=False)
    with pytest.raises(RuntimeError, match=r"must be equal to input_size"):
        layer(wide)
    state = (torch.zeros(1, B + 1, proj_size or H), torch.zeros(1, B + 1, H))
    with pytest.raises(RuntimeError, match=r"^Expected hidden\[0\] size"):
        layer(rows, state)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_vmap_over_proj_size_names_the_option_and_the_way_out(backend: str) -> None:
    layer, x = unrolled.LSTM(D, H, proj_size=2, backend=backend), torch.randn(2, T, B, D)
    with pytest.raises(RuntimeError, match=r"^proj_size: got 2 under torch.vmap, .* projection="):
        torch.vmap(lambda x: layer(x)[0])(x)
    (lone,) = leaves(x[0])
    (by_autograd,) = torch.autograd.grad(layer(lone)[0].sum(), lone)
    by_transform = torch.func.grad(lambda x: layer(x)[0].sum())(x[0])
    assert_close_by_name({"x": by_transform}, {"x": by_autograd}, T)


@pytest.mark.parametrize("mode", ["RNN", "LSTM", "GRU"])
def test_vmap_runs_a_drop_in_on_both_paths(mode: str) -> None:
    layer, x = getattr(unrolled, mode)(D, H), torch.randn(2, T, B, D)
    expected = torch.stack([layer(part)[0] for part in x])
    for backend in ("auto", "reference"):
        layer.backend = backend
        got = torch.vmap(lambda x: layer(x)[0])(x)
        assert_close_by_name({"y": got.detach()}, {"y": expected.detach()}, T)


def test_the_reference_computes_a_parametrised_weight_as_often_as_torch_nn() -> None:
    counts = []

    class Counted(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            counts[-1] += 1
            return weight

    for layer in (nn.GRU(D, H), unrolled.GRU(D, H, backend="reference")):
        counts.append(0)
        parametrize.register_parametrization(layer, "weight_hh_l0", Counted())
        layer(torch.randn(T, B, D))
    assert counts[0] == counts[1]
