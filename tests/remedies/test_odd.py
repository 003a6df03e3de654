"""What is odd is refused by name, by each remedy."""

import math

import pytest
import torch
from torch import Tensor, nn

from unrolled import Recurrent, cells, remedies

T, B, D, H = 6, 3, 4, 5


def with_gradient(gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(torch.ones_like(gradient.to_dense()))
    parameter.grad = gradient
    return parameter


CLIPPING = {
    "norm": lambda given: remedies.clip_norm_(given, 1.0),
    "value": lambda given: remedies.clip_value_(given, 1.0),
    "ratio": remedies.clip_ratio_,
    "auto": lambda given: remedies.AutoClip()(given),
}


@pytest.mark.parametrize(
    "odd",
    [
        None,
        3,
        "text",
        nn.Linear(2, 3),
        [None],
        {"weight": torch.ones(2)},
        [("weight", torch.ones(2))],
        [with_gradient(torch.ones(2, 2).to_sparse())],
        [with_gradient(torch.ones(2, 2)), with_gradient(torch.ones(2, 2, device="meta"))],
    ],
    ids=["none", "number", "text", "module", "list", "dictionary", "pairs", "sparse", "meta"],
)
@pytest.mark.parametrize("clip", CLIPPING)
def test_what_is_no_parameter_is_not_clipped(clip: str, odd: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^parameters: got .*, expected"):
        CLIPPING[clip](odd)


@pytest.mark.parametrize("clip", CLIPPING)
def test_parameters_of_no_entries_and_none_at_all_have_norm_zero(clip: str) -> None:
    for given in ([], [with_gradient(torch.zeros(0, 3))], [nn.Parameter(torch.ones(2))]):
        assert float(CLIPPING[clip](given)) == 0


@pytest.mark.parametrize("clip", CLIPPING)
def test_nan_in_one_gradient_is_seen_beside_another(clip: str) -> None:
    for odd in (0, 1):
        given = [with_gradient(torch.ones(2, 2)) for _ in range(2)]
        given[odd].grad.fill_(math.nan)
        assert math.isnan(CLIPPING[clip](given))


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        {"percentile": 10.0},
        {"percentile": 10.0, "history": [-1.0]},
        {"percentile": 10.0, "history": ["a"]},
        {"percentile": 101.0, "history": [1.0]},
    ],
)
def test_what_no_autoclip_has_saved_is_not_loaded(odd: object) -> None:
    clip = remedies.AutoClip()
    clip([with_gradient(torch.ones(2))])
    before = clip.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"^(state|history|percentile): got"):
        clip.load_state_dict(odd)
    assert clip.state_dict() == before


def scalar(result: object) -> Tensor:
    return result.y.sum()


REGULARISING = {
    "preserving": lambda layer, x: remedies.preserving(layer, x, scalar),
    "lyapunov_regularisation": lambda layer, x: remedies.lyapunov_regularisation(layer, x, 2),
}
X = torch.randn(T, B, D)
ODD = ["None", "tensor", "text", "class", "Linear", "ModuleList"]


@pytest.mark.parametrize(
    "x",
    [None, X[:0], X[:, :0], X.double(), X.long(), X.to_sparse(), X.to("meta"), X[0], X[..., 1:]],
    ids=["none", "no steps", "no sequences", "double", "long", "sparse", "meta", "flat", "narrow"],
)
@pytest.mark.parametrize("remedy", REGULARISING)
def test_a_term_of_the_loss_names_an_odd_input(remedy: str, x: Tensor) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^x: got .*expected"):
        REGULARISING[remedy](Recurrent(cells.GRU, D, H), x)


LAYERS = {
    "clip_states_": lambda layer: remedies.clip_states_(layer, 1.0),
    "critical_weights_": remedies.critical_weights_,
    "orthogonal_weights_": remedies.orthogonal_weights_,
    "as_gru": remedies.as_gru,
    "preserving": lambda layer: remedies.preserving(layer, X, scalar),
}


@pytest.mark.parametrize("odd", [None, X, "gru", nn.GRU, nn.Linear(D, H), nn.ModuleList()], ids=ODD)
@pytest.mark.parametrize("remedy", LAYERS)
def test_what_is_no_layer_is_named(remedy: str, odd: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(layer|model): got"):
        LAYERS[remedy](odd)


def test_weights_without_values_and_what_is_no_function_are_named() -> None:
    layer = Recurrent(cells.Elman, D, H)
    with pytest.raises(TypeError, match=r"^loss: got None, expected a function"):
        remedies.preserving(layer, X, None)
    with pytest.raises(ValueError, match=r"^layer: got a tensor on meta"):
        remedies.critical_weights_(layer.to("meta"))
