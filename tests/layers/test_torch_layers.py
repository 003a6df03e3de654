"""The drop-in layers for ``torch.nn``'s: their parent's numbers, calls, files and refusals."""

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from tests.compare import (
    LSTM_HAS_AUTOCAST,
    assert_close_by_name,
    check_derivatives,
    collect,
    leaves,
    named_state,
)
from unrolled import cells, layers
from unrolled.scan import native

FLOAT64 = torch.float64
KINDS: dict[str, tuple[type[nn.RNNBase], type[nn.RNNBase], dict[str, str]]] = {
    "RNN tanh": (nn.RNN, layers.RNN, {"nonlinearity": "tanh"}),
    "RNN relu": (nn.RNN, layers.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, layers.LSTM, {}),
    "GRU": (nn.GRU, layers.GRU, {}),
}
FORMS = ["time first", "batch first", "one sequence", "packed", "packed batch first", "sorted"]
LENGTHS = {"packed": [2, 5, 1], "packed batch first": [4, 1, 5], "sorted": [5, 3, 3]}


def pair(kind: str, *sizes: int, dtype: torch.dtype = FLOAT64, **options: Any) -> Any:
    """A layer of ``torch.nn`` and its drop-in layer with the same weights, which must run natively."""
    parent, drop_in, more = KINDS[kind]
    source = parent(*sizes, dtype=dtype, **options, **more)
    target = drop_in(*sizes, dtype=dtype, backend="native", **options, **more)
    target.load_state_dict(source.state_dict())
    return source, target


def state_for(
    layer: nn.RNNBase, *batch_size: int, dtype: torch.dtype = FLOAT64
) -> tuple[Tensor, ...]:
    """A state to start ``layer`` from, none of it zero."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    count = 2 if layer.mode == "LSTM" else 1
    return tuple(
        torch.randn(rows, *batch_size, layer.hidden_size, dtype=dtype) for _ in range(count)
    )


def as_hidden(layer: nn.RNNBase, state: Sequence[Tensor] | None) -> Any:
    return None if state is None else tuple(state) if layer.mode == "LSTM" else state[0]


def run(
    layer: nn.RNNBase,
    x: Tensor,
    state: Sequence[Tensor] | None = None,
    lengths: list[int] | None = None,
    *,
    is_sorted: bool = False,
) -> tuple[dict[str, Tensor], list[Any]]:
    """By name the outputs, final states and every gradient; and how the output is packed."""
    (x,) = leaves(x)
    start = None if state is None else leaves(*state)
    given: Any = x
    if lengths is not None:
        packing = {"batch_first": layer.batch_first, "enforce_sorted": is_sorted}
        given = pack_padded_sequence(x, torch.tensor(lengths), **packing)
    y, final = layer(given, as_hidden(layer, start))
    data, *packing = y if isinstance(y, PackedSequence) else (y,)
    final = final if isinstance(final, tuple) else (final,)
    sources = {"x": x} | named_state(start or (), "_0") | dict(layer.named_parameters())
    return collect({"y": data} | named_state(final, "_n"), sources), packing


@pytest.mark.each_value(2)
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize("given", [True, False], ids=["state", "zeros"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_parent_in_every_output_state_and_gradient(
    kind: str, form: str, both: bool, depth: int, bias: bool, given: bool, dtype: torch.dtype
) -> None:
    T, B, D, H = 5, 3, 3, 7
    options = {"bidirectional": both, "num_layers": depth, "bias": bias}
    source, target = pair(
        kind, D, H, dtype=dtype, batch_first=form.endswith("batch first"), **options
    )
    batch_size = () if form == "one sequence" else (B,)
    shape = (*batch_size, T) if form.endswith("batch first") else (T, *batch_size)
    x = torch.randn(*shape, D, dtype=dtype)
    state = state_for(source, *batch_size, dtype=dtype) if given else None
    lengths, is_sorted = LENGTHS.get(form), form == "sorted"
    got, packing = run(target, x, state, lengths, is_sorted=is_sorted)
    expected, expected_packing = run(source, x, state, lengths, is_sorted=is_sorted)
    assert_close_by_name(got, expected, T)
    for ours, theirs in zip(packing, expected_packing, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


@pytest.mark.each_value(2)
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize(("steps", "batch_size"), [(1, 1), (1, 5), (63, 1), (63, 5)])
@pytest.mark.parametrize("hidden", [1, 7, 17, 33, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_parent_at_odd_sizes(
    kind: str, hidden: int, steps: int, batch_size: int, dtype: torch.dtype
) -> None:
    source, target = pair(kind, 5, hidden, dtype=dtype, bidirectional=True)
    x, state = (
        torch.randn(steps, batch_size, 5, dtype=dtype),
        state_for(source, batch_size, dtype=dtype),
    )
    ragged = [1 + (steps - 1) * b // batch_size for b in range(batch_size)]
    for lengths in (None, ragged):
        got, expected = (run(layer, x, state, lengths)[0] for layer in (target, source))
        assert_close_by_name(got, expected, steps)


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_gradient_is_its_parents_for_packed_rows(kind: str, both: bool) -> None:
    source, target = pair(kind, 3, 5, bidirectional=both)
    rows, sizes = torch.randn(6, 3, dtype=FLOAT64), torch.tensor([3, 2, 1])

    def second(layer: nn.RNNBase) -> dict[str, Tensor]:
        (x,) = leaves(rows)
        y = layer(PackedSequence(x, sizes))[0].data
        (d_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return collect({"d_x": d_x}, {"x": x} | dict(layer.named_parameters()))

    assert_close_by_name(second(target), second(source), 3)


STRIDED: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(3, 5, 4, dtype=FLOAT64).permute(1, 0, 2),
    "features first": lambda: torch.randn(4, 5, 3, dtype=FLOAT64).permute(1, 2, 0),
    "every other step": lambda: torch.randn(10, 3, 4, dtype=FLOAT64)[::2],
    "a slice of the features": lambda: torch.randn(5, 3, 9, dtype=FLOAT64)[..., 2:6],
    "one step, repeated": lambda: torch.randn(1, 3, 4, dtype=FLOAT64).expand(5, 3, 4),
    "one number, repeated": lambda: torch.randn(1, 1, 1, dtype=FLOAT64).expand(5, 3, 4),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("kind", KINDS)
def test_takes_an_input_and_a_state_of_any_strides(kind: str, name: str) -> None:
    source, target = pair(kind, 4, 7, num_layers=2)
    x = STRIDED[name]()
    state = [s.permute(2, 1, 0).contiguous().permute(2, 1, 0) for s in state_for(source, 3)]
    weights = [w.detach().T.contiguous().T for w in source.parameters() if w.dim() == 2]
    for layer in (source, target):
        names = (n for n, w in layer.named_parameters() if w.dim() == 2)
        for weight_name, weight in zip(list(names), weights, strict=True):
            setattr(layer, weight_name, nn.Parameter(weight))
    got = target(x, as_hidden(target, state))
    expected = source(x, as_hidden(source, state))
    assert_close_by_name(named(got), named(expected), 5)


@pytest.mark.parametrize("kind", KINDS)
def test_takes_a_view_whose_sign_has_yet_to_be_turned(kind: str) -> None:
    source, target = pair(kind, 3, 5)
    x = torch.view_as_real(torch.randn(4, 2, 3, dtype=torch.complex128))[..., 1]
    turned = torch.complex(x, x).conj().imag
    assert turned.is_neg()
    for view in (turned, torch._neg_view(x.contiguous())):
        target.backend = "auto"
        assert_close_by_name(run(target, view)[0], run(source, view)[0], 4)
        got, expected = (named(layer(view)) for layer in (target, source))
        assert_close_by_name(got, expected, 4)


def named(result: Any) -> dict[str, Tensor]:
    """The outputs and the final state by name."""
    y, final = result
    final = final if isinstance(final, tuple) else (final,)
    return {"y": y.data if isinstance(y, PackedSequence) else y} | named_state(final, "_n")


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivatives_are_right_to_the_second_order(kind: str) -> None:
    _, target = pair(kind, 1, 2, bidirectional=True)  # the cost grows with the weights' square
    x, state = torch.randn(3, 2, 1, dtype=FLOAT64), state_for(target, 2)

    def call(layer: nn.RNNBase, x: Tensor, *state: Tensor) -> Any:
        return layer(x, as_hidden(layer, state))

    check_derivatives(target, call, x, *state)


# --- Which path ----------------------------------------------------------------------------------


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """What each native sweep read, from here on."""
    read: list[Tensor] = []
    real = native.run

    def sweep(name: str, weights: Any, x: Tensor, *args: Any) -> Any:
        read.append(x)
        return real(name, weights, x, *args)

    monkeypatch.setattr(native, "run", sweep)
    yield read


@pytest.mark.parametrize("kind", KINDS)
def test_auto_runs_one_native_sweep_a_layer_and_direction_and_reference_none(
    kind: str, sweeps: list[Tensor]
) -> None:
    _, drop_in, options = KINDS[kind]
    layer = drop_in(3, 5, num_layers=2, bidirectional=True, **options)
    x = torch.randn(4, 2, 3)
    expected = named(layer(x))
    assert len(sweeps) == 4
    layer.backend = "reference"
    assert_close_by_name(named(layer(x)), expected, 4)
    assert len(sweeps) == 4


class Coloured(Tensor):
    """A subclass of the plain tensor."""


def in_half(layer: nn.RNNBase, x: Tensor) -> Any:
    return layer.bfloat16()(x.bfloat16())


def in_autocast(layer: nn.RNNBase, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(x)


def in_func_grad(layer: nn.RNNBase, x: Tensor) -> Any:
    return torch.func.grad(lambda x: layer(x)[0].sum())(x)


def in_forward_mode(layer: nn.RNNBase, x: Tensor) -> Any:
    with torch.autograd.forward_ad.dual_level():
        return layer(x)


def on_meta(layer: nn.RNNBase, x: Tensor) -> Any:
    return layer.to("meta")(x.to("meta"))


UNSUPPORTED: dict[str, tuple[Callable[[nn.RNNBase, Tensor], Any], str]] = {
    "half": (in_half, "bfloat16"),
    "autocast": (in_autocast, "autocast"),
    "torch.func": (in_func_grad, r"torch\.func"),
    "forward mode": (in_forward_mode, "forward-mode"),
    "device": (on_meta, "meta"),
    "subclass": (lambda layer, x: layer(x.as_subclass(Coloured)), "Coloured"),
    "no sequences": (lambda layer, x: layer(x[:, :0]), r"empty: \[4, 0, 3\]"),
}


@pytest.mark.parametrize("unsupported", UNSUPPORTED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernels_cannot_take_its_parent_runs_and_native_refuses_with_the_reason(
    kind: str, unsupported: str, sweeps: list[Tensor]
) -> None:
    call, reason = UNSUPPORTED[unsupported]
    source, target = pair(kind, 3, 5, dtype=torch.float32)
    x = torch.randn(4, 2, 3)
    refusing = copy.deepcopy(target)
    with pytest.raises(RuntimeError, match=f'backend="native", but (.|\n)*{reason}(.|\n)*"auto"'):
        call(refusing, x)
    target.backend = "auto"
    got = call(target, x)
    assert not sweeps
    if (kind, unsupported) == ("LSTM", "autocast") and not LSTM_HAS_AUTOCAST:
        assert (got[0].float() - source(x)[0]).abs().max() < 2**-5  # as far as bfloat16 goes
        return
    expected = call(source, x)
    if isinstance(got, tuple) and got[0].device.type != "meta":
        assert all(torch.equal(a, b) for a, b in zip(got[0], expected[0], strict=True))


# PyTorch says that oneDNN, its own fast path, does not take projections either.
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_projections_are_left_to_the_parent(sweeps: list[Tensor]) -> None:
    layer = layers.LSTM(3, 5, proj_size=2)
    y, (h_n, c_n) = layer(torch.randn(4, 2, 3))
    assert (y.shape, h_n.shape, c_n.shape) == ((4, 2, 2), (1, 2, 2), (1, 2, 5))
    layer.backend = "native"
    with pytest.raises(RuntimeError, match="- proj_size is 2"):
        layer(torch.randn(4, 2, 3))
    assert not sweeps


def test_every_reason_is_given_at_once() -> None:
    layer = layers.LSTM(3, 5, proj_size=2, backend="native").bfloat16()
    with pytest.raises(RuntimeError, match=r"proj_size(.|\n)*bfloat16"):
        layer(torch.randn(4, 2, 3).bfloat16())


def test_without_the_library_its_parent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = pair("GRU", 3, 5)
    monkeypatch.setattr(native, "missing", lambda: "the library is not built")
    with pytest.raises(RuntimeError, match="the library is not built"):
        target(torch.randn(4, 2, 3, dtype=FLOAT64))
    target.backend = "auto"
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    assert torch.equal(target(x)[0], source(x)[0])


# --- As its parent -------------------------------------------------------------------------------


def test_is_built_as_its_parent_is() -> None:
    rnn = layers.RNN(3, 5, 2, "relu", False, True, 0.5, True, device="cpu", dtype=FLOAT64)
    assert isinstance(rnn, nn.RNN)
    assert rnn.extra_repr() == nn.RNN(3, 5, 2, "relu", False, True, 0.5, True).extra_repr()
    assert (rnn.mode, rnn.weight_hh_l1.dtype) == ("RNN_RELU", FLOAT64)
    lstm = layers.LSTM(3, 5, 2, False, True, 0.5, True, 2, device="meta")
    assert isinstance(lstm, nn.LSTM)
    assert lstm.extra_repr() == nn.LSTM(3, 5, 2, False, True, 0.5, True, 2).extra_repr()
    assert lstm.weight_hr_l1.is_meta
    gru = layers.GRU(input_size=3, hidden_size=5, num_layers=2, batch_first=True)
    assert isinstance(gru, nn.GRU)
    assert gru.extra_repr() == nn.GRU(3, 5, 2, batch_first=True).extra_repr()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((3, 0), {}),
        ((3, 5, 0), {}),
        ((3.0, 5), {}),
        ((3, 5), {"dropout": 2}),
        ((3, 5), {"bias": 1}),
        ((3, 5), {"depth": 2}),
        ((3,), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU"])
def test_a_wrong_option_is_refused_as_its_parent_refuses_it(
    kind: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    parent, drop_in, _ = KINDS[kind]
    with pytest.raises((TypeError, ValueError)) as expected:
        parent(*arguments, **options)
    with pytest.raises(expected.type) as got:
        drop_in(*arguments, **options)
    assert str(got.value) == str(expected.value)


def test_a_backend_is_one_of_three_and_shown_unless_it_is_auto() -> None:
    with pytest.raises(ValueError, match=r"^backend: got 'fast', expected "):
        layers.GRU(3, 5, backend="fast")
    assert repr(layers.GRU(3, 5)) == "GRU(3, 5)"
    assert repr(layers.LSTM(3, 5, 2, backend="native")) == (
        "LSTM(3, 5, num_layers=2, backend=native)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_go_both_ways_by_the_state_dict(kind: str) -> None:
    source, target = pair(kind, 3, 5, num_layers=2, bidirectional=True)
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    assert list(source.state_dict()) == list(target.state_dict())
    target.reset_parameters()
    source.load_state_dict(target.state_dict())
    assert_close_by_name(named(source(x)), named(target(x)), 4)


def pickled(layer: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(layer))


def saved(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [pickled, saved, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("kind", KINDS)
def test_is_copied_and_pickled_with_its_backend(
    kind: str, copied: Callable[[nn.Module], nn.Module]
) -> None:
    _, target = pair(kind, 3, 5, num_layers=2)
    other = copied(target)
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    assert (type(other), other.backend) == (type(target), "native")
    assert torch.equal(other(x)[0], target(x)[0])
    with torch.no_grad():
        target.weight_hh_l1.zero_()
    assert torch.equal(other(x)[0], target(x)[0]) == (copied is copy.copy)


def test_follows_its_weights_to_another_dtype_and_back() -> None:
    layer = layers.GRU(3, 5, backend="native")
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0]
    assert layer.double()(x.double())[0].dtype == FLOAT64
    layer.backend = "auto"
    assert layer.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16
    assert layer.float()(x)[0].shape == expected.shape


# --- Weights as they are at the moment of the call -----------------------------------------------


class Doubled(nn.Module):
    """A parametrization that counts how often it is computed."""

    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return 2 * weight


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_parametrised_weights_are_computed_at_every_call(
    kind: str, norm: Callable[..., nn.Module]
) -> None:
    source, target = pair(kind, 3, 5, bidirectional=True)
    for layer in (source, target):
        norm(layer, "weight_hh_l0")
    target.load_state_dict(source.state_dict())
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    for _ in range(2):
        assert_close_by_name(run(target, x)[0], run(source, x)[0], 4)
        with torch.no_grad():
            for a, b in zip(source.parameters(), target.parameters(), strict=True):
                assert torch.equal(a, b)
                a *= 0.5
                b *= 0.5


def test_a_parametrization_is_computed_once_a_call() -> None:
    _, target = pair("GRU", 3, 5, num_layers=2)
    parametrize.register_parametrization(target, "weight_hh_l0", Doubled())
    counter = target.parametrizations["weight_hh_l0"][0]
    before = counter.calls
    target(torch.randn(4, 2, 3, dtype=FLOAT64))
    assert counter.calls == before + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_a_hook_sets_before_each_call_is_the_one_that_is_used(kind: str) -> None:
    source, target = pair(kind, 3, 5)
    raw = source.weight_hh_l0.detach().clone()
    for layer in (source, target):
        del layer.weight_hh_l0
        layer.register_parameter("weight_hh_raw", nn.Parameter(raw))
        layer.scale = 1.0

        def drop(layer: Any, _arguments: object) -> None:
            layer.scale /= 2
            layer.weight_hh_l0 = layer.weight_hh_raw * layer.scale

        layer.register_forward_pre_hook(drop)
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    for _ in range(2):
        assert_close_by_name(run(target, x)[0], run(source, x)[0], 4)


@pytest.mark.parametrize("kind", KINDS)
def test_functional_call_uses_the_weights_it_is_given(kind: str) -> None:
    source, target = pair(kind, 3, 5, num_layers=2)
    others = {n: torch.randn_like(w).requires_grad_() for n, w in source.named_parameters()}
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    got, expected = (
        collect(named(torch.func.functional_call(layer, others, x)), others)
        for layer in (target, source)
    )
    assert_close_by_name(got, expected, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_gather_the_gradients_of_both_places(kind: str) -> None:
    source, target = pair(kind, 5, 5, num_layers=2)
    for layer in (source, target):
        layer.weight_hh_l1 = layer.weight_hh_l0
        layer.weight_ih_l1 = layer.weight_ih_l0
    x = torch.randn(4, 2, 5, dtype=FLOAT64)
    assert_close_by_name(run(target, x)[0], run(source, x)[0], 4)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_asks_for_a_gradient_gets_one(kind: str) -> None:
    source, target = pair(kind, 3, 5, num_layers=2)
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    for layer in (source, target):
        layer.weight_hh_l0.requires_grad_(False)
        layer.bias_ih_l1.requires_grad_(False)
        layer(x)[0].square().sum().backward()
    for (name, ours), theirs in zip(target.named_parameters(), source.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            assert_close_by_name({name: ours.grad}, {name: theirs.grad}, 4)
    target.requires_grad_(False)
    assert not target(x)[0].requires_grad
    (x,) = leaves(x)
    assert target(x)[0].requires_grad
    with torch.no_grad():
        assert not target(x)[0].requires_grad


# --- Dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
def test_dropout_drops_its_share_of_what_the_next_layer_reads(
    both: bool, sweeps: list[Tensor]
) -> None:
    layer = layers.RNN(20, 20, 3, dropout=0.25, bidirectional=both, nonlinearity="tanh")
    y, _ = layer(torch.randn(50, 20, 20))
    directions = 2 if both else 1
    assert len(sweeps) == 3 * directions
    for x in sweeps[directions:]:
        dropped = (x == 0).double().mean().item()
        # the mean of n coins with p = 1/4: five standard deviations, 5 * sqrt(3) / 4 / sqrt(n)
        assert abs(dropped - 0.25) < 2.2 / x.numel() ** 0.5
    assert not (sweeps[0] == 0).any()
    assert not (y == 0).any()
    if both:
        assert sweeps[2] is sweeps[3]  # both directions read the same


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_ends_with_training_and_at_one_nothing_is_left(kind: str) -> None:
    source, target = pair(kind, 3, 5, num_layers=2, dropout=1.0)
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    assert_close_by_name(run(target, x)[0], run(source, x)[0], 4)
    source.eval()
    target.eval()
    assert_close_by_name(run(target, x)[0], run(source, x)[0], 4)


# --- Lengths and resets --------------------------------------------------------------------------


def by_pieces(
    layer: nn.RNNBase,
    x: Tensor,
    state: Sequence[Tensor] | None,
    lengths: list[int],
    resets: Tensor,
) -> dict[str, Tensor]:
    """Each sequence of ``x`` ``[T, B, D]`` alone, from each of its resets to the next, by ``torch.nn``."""
    S = 2 if layer.bidirectional else 1
    rows = torch.arange(layer.num_layers * S).view(-1, 1, 1)
    is_forward = rows % S == 0
    count = 2 if layer.mode == "LSTM" else 1
    zeros = (x.new_zeros(len(rows), 1, layer.hidden_size),) * count
    shown, finals = [], []
    for sequence, length in enumerate(lengths):
        given = zeros if state is None else tuple(s[:, sequence : sequence + 1] for s in state)
        cuts = [t for t in range(1, length) if resets[t, sequence]]
        bounds = list(zip([0, *cuts], [*cuts, length], strict=True)) if length else []
        ends, ys = [], []
        for begin, end in bounds:
            first, last = begin == 0 and not resets[0, sequence], end == length
            keeps = (is_forward & first) | (~is_forward & last)
            start = [torch.where(keeps, g, z) for g, z in zip(given, zeros, strict=True)]
            y, final = layer(x[begin:end, sequence : sequence + 1], as_hidden(layer, start))
            ys.append(y)
            ends.append(final if isinstance(final, tuple) else (final,))
        beyond = x.new_zeros(len(x) - length, 1, S * layer.hidden_size)
        shown.append(torch.cat([*ys, beyond]))
        pairs = zip(ends[-1], ends[0], strict=True) if ends else zip(given, given, strict=True)
        finals.append([torch.where(is_forward, last, first) for last, first in pairs])
    final = [torch.cat(parts, 1) for parts in zip(*finals, strict=True)]
    return {"y": torch.cat(shown, 1)} | named_state(final, "_n")


RAGGED = [5, 3, 0]


def some_resets() -> Tensor:
    resets = torch.zeros(5, 3).bool()
    resets[0, 0] = resets[3, 0] = resets[4, 0] = resets[1, 1] = True
    resets[4, 1] = resets[0, 2] = True  # beyond those sequences' lengths
    return resets


@pytest.mark.each_value(2)
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize("given", [True, False], ids=["state", "zeros"])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("masks", ["lengths", "resets", "both masks"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_resets_are_sequences_of_their_own(
    kind: str, masks: str, both: bool, given: bool, dtype: torch.dtype, backend: Any
) -> None:
    source, target = pair(kind, 3, 7, dtype=dtype, num_layers=2, bidirectional=both)
    target.backend = backend
    state = state_for(source, 3, dtype=dtype) if given else None
    lengths = None if masks == "resets" else RAGGED
    resets = None if masks == "lengths" else some_resets()
    first = masks == "both masks"
    target.batch_first = first
    x = torch.randn(5, 3, 3, dtype=dtype)
    found = []
    for layer in (target, source):
        (own,) = leaves(x)
        start = None if state is None else leaves(*state)
        if layer is source:
            outputs = by_pieces(
                layer,
                own,
                start,
                lengths or [5] * 3,
                torch.zeros(5, 3).bool() if resets is None else resets,
            )
        else:
            flags = resets.T if first and resets is not None else resets
            read = own.transpose(0, 1) if first else own
            options = {"lengths": lengths, "resets": flags}
            y, final = layer(read, as_hidden(layer, start), **options)
            y = y.transpose(0, 1) if first else y
            outputs = named((y, final))
        sources = {"x": own} | named_state(start or (), "_0") | dict(layer.named_parameters())
        found.append(collect(outputs, sources))
    assert_close_by_name(*found, 5)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_stands_beyond_a_length_changes_nothing(backend: Any) -> None:
    layer = layers.LSTM(3, 5, 2, bidirectional=True, backend=backend)
    x, lengths = torch.randn(5, 3, 3), torch.tensor(RAGGED)
    spoilt = x.clone()
    spoilt[3:, 1] = spoilt[:, 2] = torch.nan
    found = []
    for read in (x, spoilt):
        (own,) = leaves(read)
        outputs = named(layer(own, lengths=lengths, resets=some_resets()))
        found.append(collect(outputs, {"x": own} | dict(layer.named_parameters())))
    assert_close_by_name(*found, 5)
    assert not found[1]["grad of x"][3:, 1].any()


def test_lengths_and_resets_that_say_nothing() -> None:
    for kind in KINDS:
        source, target = pair(kind, 3, 5, num_layers=2)
        x = torch.randn(4, 2, 3, dtype=FLOAT64)
        for options in ({"lengths": [4, 4]}, {"resets": torch.zeros(4, 2).bool()}):
            assert_close_by_name(named(target(x, **options)), named(source(x)), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivatives_with_lengths_and_resets_are_right(kind: str) -> None:
    _, target = pair(kind, 1, 2, bidirectional=True)
    x, state = torch.randn(3, 2, 1, dtype=FLOAT64), state_for(target, 2)
    resets = torch.tensor([[False, True], [True, False], [False, False]])

    def call(layer: nn.RNNBase, x: Tensor, *state: Tensor) -> Any:
        return layer(x, as_hidden(layer, state), lengths=[3, 2], resets=resets)

    check_derivatives(target, call, x, *state)


@pytest.mark.parametrize("unsupported", ["half", "autocast", "torch.func", "forward mode"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_lengths_and_resets_too_the_reference_takes_what_the_kernels_cannot(
    kind: str, unsupported: str, sweeps: list[Tensor]
) -> None:
    _, target = pair(kind, 3, 5, dtype=torch.float32)
    x, resets = torch.randn(5, 3, 3), some_resets()

    class Masked(nn.Module):
        def __init__(self, layer: nn.RNNBase) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Any:
            return self.layer(x, lengths=RAGGED, resets=resets)

    masked: Any = Masked(target)
    call, reason = UNSUPPORTED[unsupported]
    with pytest.raises(RuntimeError, match=f'backend="native", but (.|\n)*{reason}'):
        call(copy.deepcopy(masked), x)
    target.backend = "auto"
    (own,) = leaves(x)
    y = masked(own)[0]
    (grad,) = torch.autograd.grad(y.sum(), own)
    sweeps.clear()
    got = call(masked, x)
    assert not sweeps
    if unsupported == "torch.func":
        assert_close_by_name({"x": got}, {"x": grad}, 5)
    else:
        # bfloat16 has 8 bits, and the outputs are of the order of 1
        assert (got[0].float() - y).abs().max() < 0.05
        assert (got[0][3:, 1] == 0).all()


def test_lengths_and_resets_that_do_not_fit_are_refused() -> None:
    layer, x = layers.LSTM(3, 5), torch.randn(5, 3, 3)
    packed = pack_padded_sequence(x, torch.tensor([5, 3, 1]))
    flags = torch.zeros(5, 3).bool()
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (x, {"lengths": [6, 1, 1]}, ValueError, r"^lengths: got 6, expected from 0 to T = 5"),
        (x, {"lengths": [5, 1]}, ValueError, r"^lengths: got shape \[2\], expected \[3\]"),
        (x, {"lengths": [0.5, 1, 1]}, TypeError, "^lengths: got torch.float32"),
        (x, {"resets": flags.T}, ValueError, r"^resets: got shape \[3, 5\], expected \[5, 3\]"),
        (x, {"resets": flags.int()}, TypeError, "^resets: got torch.int32"),
        (x[:, 0], {"lengths": [5]}, ValueError, r"^lengths: got them with input \[5, 3\]; add"),
        (packed, {"lengths": [5, 3, 1]}, ValueError, "^lengths: got them with a PackedSequence"),
        (packed, {"resets": flags}, ValueError, "^resets: got them with a PackedSequence"),
    ]
    for backend in ("auto", "native", "reference"):
        layer.backend = backend
        for given, options, error, message in wrong:
            with pytest.raises(error, match=message):
                layer(given, **options)
        with pytest.raises(TypeError, match="mask"):
            layer(x, mask=flags)
        with pytest.raises(TypeError, match="positional"):
            layer(x, None, [5, 3, 1])
        with pytest.raises(RuntimeError, match=r"input\.size\(-1\) must be equal to input_size"):
            layer(torch.randn(5, 3, 4), lengths=[5, 3, 1])
        with pytest.raises(RuntimeError, match="Expected hidden"):
            layer(x, (torch.zeros(1, 2, 5),) * 2, resets=flags)
    with pytest.raises(ValueError, match=r"^lengths: got them with proj_size=2; use Recurrent"):
        layers.LSTM(3, 5, proj_size=2)(x, lengths=[5, 3, 1])


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_lengths_and_resets_in_graphs() -> None:
    torch.compiler.reset()
    layer = layers.GRU(3, 5, backend="native")
    x, lengths, resets = torch.randn(5, 3, 3), torch.tensor(RAGGED), some_resets()
    expected = named(layer(x, lengths=lengths, resets=resets))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> Any:
            return self.layer(x, lengths=lengths, resets=resets)

    model = Model()
    arguments = (x, lengths, resets)
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes].count("call_module") == 1
    exported = torch.export.export(model, arguments).module()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for call in (traced, exported, compiled):
        assert_close_by_name(named(call(*arguments)), expected, 5)


# --- Refusals ------------------------------------------------------------------------------------

X, H0, ONE = torch.zeros(4, 2, 3), torch.zeros(2, 2, 5), torch.zeros(4, 3)
PACKED = pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])
BAD: dict[str, tuple[Any, Tensor | None]] = {
    "features": (X[..., :2], None),
    "features of one": (ONE[:, :2], None),
    "one dimension": (X[0, 0], None),
    "four dimensions": (X[None], None),
    "integers": (X.long(), None),
    "booleans": (X.bool(), None),
    "dtype": (X.double(), None),
    "no steps": (X[:0], None),
    "no steps of one": (ONE[:0], None),
    "state: sequences": (X, H0[:, :1]),
    "state: layers": (X, H0[:1]),
    "state: units": (X, H0[..., :4]),
    "state: without sequences": (X, H0[:, 0]),
    "state: four dimensions": (X, H0[None]),
    "state: with sequences for one": (ONE, H0),
    "state: units for one": (ONE, H0[:, 0, :4]),
    "packed: state without sequences": (PACKED, H0[:, 0]),
}
NOT_NATIVE = ("integers", "booleans", "dtype", "no steps", "no steps of one")


@pytest.mark.parametrize("backend", ["auto", "native"])
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_argument_is_refused_as_its_parent_refuses_it(
    kind: str, name: str, backend: str, sweeps: list[Tensor]
) -> None:
    source, target = pair(kind, 3, 5, num_layers=2, dtype=torch.float32)
    target.backend = backend
    x, h_0 = BAD[name]
    hx = h_0 if h_0 is None or source.mode != "LSTM" else (h_0, h_0)
    with pytest.raises((ValueError, RuntimeError, IndexError)) as expected:
        source(x, hx)
    error, text = expected.type, f"^{re.escape(str(expected.value))}$"
    if error is IndexError:  # no clear one: LSTM does not check what is packed
        error, text = RuntimeError, r"^Expected hidden\[0\] size \(2, 2, 5\), got \[2, 5\]$"
    elif backend == "native" and name in NOT_NATIVE:
        error, text = RuntimeError, r'backend="native", but(.|\n)*(torch\.float32|empty)'
    with pytest.raises(error, match=text):
        target(x, hx)
    assert not sweeps


@pytest.mark.parametrize(
    ("x", "state", "match"),
    [
        (PACKED, (H0, H0[..., :4]), r"^Expected hidden\[1\] size \(2, 2, 5\), got \[2, 2, 4\]$"),
        (PACKED, (H0[:, :1], H0), r"^Expected hidden\[0\] size \(2, 2, 5\), got \[2, 1, 5\]$"),
        (PACKED, (H0[:1], H0[:1]), r"^Expected hidden\[0\] size \(2, 2, 5\), got \[1, 2, 5\]$"),
        (PackedSequence(PACKED.data[:, :2], PACKED.batch_sizes), None, "Expected 3, got 2$"),
        (PackedSequence(PACKED.data[:, None], PACKED.batch_sizes), None, "2 dimensions, got 3$"),
        (PackedSequence(PACKED.data[:5], PACKED.batch_sizes), None, "size"),
        (PackedSequence(PACKED.data[:3], torch.tensor([1, 2])), None, "size|shape"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_a_packed_sequence_or_its_state_that_does_not_fit_is_refused_clearly(
    x: PackedSequence, state: Any, match: str, backend: Any, sweeps: list[Tensor]
) -> None:
    with pytest.raises(RuntimeError, match=match):
        layers.LSTM(3, 5, 2, backend=backend)(x, state)
    assert not sweeps


@pytest.mark.parametrize(
    ("kind", "x", "hx", "match"),
    [
        ("LSTM", [[1.0]], None, "^input: got list, expected a tensor or a PackedSequence; "),
        ("GRU", None, None, "^input: got NoneType, expected a tensor"),
        ("LSTM", X, H0, r"^hx: got Tensor, expected a pair of tensors \(h_0, c_0\)$"),
        ("LSTM", X, (H0,), r"^hx: got tuple of Tensor, expected a pair of tensors"),
        ("LSTM", X, (H0, H0, H0), r"^hx: got tuple of Tensor, Tensor, Tensor, expected a pair"),
        ("LSTM", X, (H0, None), r"^hx: got tuple of Tensor, NoneType, expected a pair"),
        ("GRU", X, (H0,), r"^hx: got tuple of Tensor, expected a tensor h_0$"),
        ("RNN tanh", X, (), r"^hx: got tuple of nothing, expected a tensor h_0$"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_an_argument_of_another_kind_is_refused_by_name(
    kind: str, x: Any, hx: Any, match: str, backend: str
) -> None:
    _, target = pair(kind, 3, 5, num_layers=2, dtype=torch.float32)
    target.backend = backend
    with pytest.raises(TypeError, match=match):
        target(x, hx)


def test_a_state_may_be_a_list_for_lstm() -> None:
    _, target = pair("LSTM", 3, 5, num_layers=2, dtype=torch.float32)
    assert torch.equal(target(X, [H0, H0])[0], target(X, (H0, H0))[0])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("weight_ih_l0", [15, 4]),
        ("weight_hh_l1", [15, 4]),
        ("bias_ih_l0", [1]),
        ("bias_hh_l1", [0]),
    ],
)
def test_a_weight_of_another_shape_is_refused_by_name(name: str, shape: list[int]) -> None:
    layer = layers.GRU(3, 5, 2)
    setattr(layer, name, nn.Parameter(torch.zeros(shape)))
    with pytest.raises(ValueError, match=rf"^{name}: got shape .*, expected \[15"):
        layer(X)


# --- Tools that look on --------------------------------------------------------------------------


# Dynamo makes an instance of every autograd.Function that it traces, and where a graph ends it reads
# the gradient of a tensor that has none: PyTorch warns of both, though they are its own doing.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_is_compiled_into_one_graph_with_the_same_gradients(kind: str) -> None:
    torch.compiler.reset()
    source, target = pair(kind, 3, 5, num_layers=2, bidirectional=True)
    compiled = torch.compile(target, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    got, expected = (
        collect(named(call(x)), dict(layer.named_parameters()))
        for call, layer in ((compiled, target), (source, source))
    )
    assert_close_by_name(got, expected, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_is_exported_with_time_and_batch_left_free(kind: str) -> None:
    source, target = pair(kind, 3, 5, num_layers=2, bidirectional=True)
    free = {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("B", min=2)}
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    program = torch.export.export(target, (x,), dynamic_shapes=(free,))
    x = torch.randn(7, 5, 3, dtype=FLOAT64)
    assert_close_by_name(named(program.module()(x)), named(source(x)), 7)


class Sharing(nn.Module):
    """A model in which two modules hold one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), layers.LSTM(3, 3))
        self.again = nn.ModuleDict({"same": self.first[1], "own": layers.GRU(3, 3)})

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.first(x)
        return y  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_stays_what_it_was() -> None:
    x = torch.randn(4, 2, 3)
    model = Sharing()
    refused = nn.Sequential(layers.GRU(3, 3), layers.Recurrent(cells.GRU, 3, 3))
    before = [
        [(name, module, type(module)) for name, module in m.named_modules()]
        for m in (model, refused)
    ]
    scripted = torch.jit.script(model)
    with pytest.raises(TypeError, match=r"got torch\.jit\.script"):
        torch.jit.script(refused)
    after = [
        [(name, module, type(module)) for name, module in m.named_modules()]
        for m in (model, refused)
    ]
    assert after == before
    with torch.no_grad():
        next(model.parameters()).mul_(2)  # which both have
    torch.testing.assert_close(scripted(x), model(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_compiles_and_traces_its_parents_code(kind: str) -> None:
    source, target = pair(kind, 3, 5, num_layers=2)
    target.backend = "auto"
    x = torch.randn(4, 2, 3, dtype=FLOAT64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against all of TorchScript
        scripted = torch.jit.script(nn.Sequential(target))
        traced = torch.jit.trace(target, (x,))
    assert type(target) is KINDS[kind][1]
    for call in (scripted, traced):
        assert_close_by_name(named(call(x)), named(source(x)), 4)
