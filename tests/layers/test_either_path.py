"""What an option means does not depend on the path; what no path takes is refused in our words."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import unrolled
from tests.compare import assert_close_by_name, collect, leaves
from unrolled import Recurrent, cells
from unrolled.cells import Cell, State

T, B, D, H = 6, 3, 4, 5
LENGTHS = [4, 6, 1]


def taken(
    x: Tensor, kind: str, batch_first: bool
) -> tuple[Tensor | PackedSequence, dict[str, object]]:
    """``x`` ``[T, B, D]`` as a twin is given it, and with what."""
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


KINDS = ("padded", "packed", "lengths", "resets", "one sequence", "no lanes", "no steps")


@pytest.mark.parametrize("option", ["nothing", "clip", "watch", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RNN", "LSTM", "GRU"])
def test_a_twins_options_mean_the_same_on_both_paths(mode: str, kind: str, option: str) -> None:
    source = getattr(unrolled, mode)(
        D, H, num_layers=2, bidirectional=True, batch_first=True
    ).double()
    shape = {"no lanes": (T, 0, D), "no steps": (0, B, D)}.get(kind, (T, B, D))
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


def test_explain_takes_a_cell_without_parameters() -> None:
    class Sum(Cell):
        def project(self, x: Tensor) -> Tensor:
            return x

        def step(self, projected: Tensor, state: State) -> State:
            return (state[0] + projected,)

    layer = Recurrent(Sum, H, H, backend="reference")
    assert unrolled.explain(layer).reasons == ('backend="reference" is set',)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "make", [lambda **o: Recurrent(cells.GRU, D, H, **o), lambda **o: unrolled.GRU(D, H, **o)]
)
def test_what_no_path_takes_is_said_by_name(make: object, backend: str) -> None:
    layer, x = make(backend=backend), torch.randn(T, B, D)
    is_twin = isinstance(layer, nn.GRU)
    name, state = ("input", "hx") if is_twin else ("x", "state")
    for odd in (
        x.to_sparse(),
        torch.nested.nested_tensor([x[:2, 0], x[:3, 0]], layout=torch.jagged),
    ):
        with pytest.raises(TypeError, match=f"^{name}: got .*, expected a dense (one|tensor)"):
            layer(odd)
    start = torch.zeros(1, B, H)
    if not (is_twin and backend == "reference"):  # which torch.nn runs by itself
        narrow = start.bfloat16()
        with pytest.raises(
            TypeError, match=f"^{state}: got torch.bfloat16, expected torch.float32"
        ):
            layer(x, narrow if is_twin else (narrow,))
    with pytest.raises(
        (TypeError, ValueError), match=f"^{state}: got (an empty tuple|tuple of nothing)"
    ):
        layer(x, ())
    meta = torch.ones(B, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match=r"^lengths: got them on meta"):
        layer(x, lengths=meta)
    odd = layer if is_twin else layer.cells[0]
    weight = "weight_hh_l0" if is_twin else "weight_hh"
    getattr(odd, weight).data = getattr(odd, weight).data.double()
    if not (is_twin and backend == "reference"):
        dtypes = "got torch.float64, expected torch.float32 as weight_ih_l0"
        if not is_twin:
            dtypes = f"got torch.float32, expected torch.float64 as {weight}"
        with pytest.raises(TypeError, match=f"^{weight if is_twin else name}: {dtypes}"):
            layer(x)


def test_vmap_over_proj_size_names_the_option_and_the_way_out() -> None:
    layer = unrolled.LSTM(D, H, proj_size=2)
    with pytest.raises(RuntimeError, match=r"^proj_size: got 2 under a transform .* projection="):
        torch.vmap(lambda x: layer(x)[0])(torch.randn(2, T, B, D))
