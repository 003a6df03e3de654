"""What is odd is refused by name, by each measure; no number is made of NaN."""

import math

import pytest
import torch
from torch import Tensor, nn

from unrolled import Recurrent, cells, lens

T, B, D, H = 6, 3, 4, 5
X = torch.randn(T, B, D)
ODD = ["None", "tensor", "text", "class", "Linear", "ModuleList"]


def total(output: object, *_: object) -> Tensor:
    return output[0].square().sum()


MEASURES = {
    "lag_matrix": lens.lag_matrix,
    "influence": lens.influence,
    "lyapunov": lens.lyapunov,
    "log_condition": lens.log_condition,
    "causes": lens.causes,
    "recurrences": lens.recurrences,
}


@pytest.mark.parametrize(
    "x",
    [None, X[:0], X[:, :0], X.double(), X.long(), X.to_sparse(), X.to("meta"), X[0], X[..., 1:]],
    ids=["none", "no steps", "no sequences", "double", "long", "sparse", "meta", "flat", "narrow"],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_names_an_odd_input(measure: str, x: Tensor) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^x: got .*expected"):
        MEASURES[measure](Recurrent(cells.GRU, D, H), x)


@pytest.mark.parametrize("odd", [None, X, "gru", nn.GRU, nn.Linear(D, H), nn.ModuleList()], ids=ODD)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_names_what_is_no_layer(measure: str, odd: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^layer: got .*expected"):
        MEASURES[measure](odd, X)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["input", "weights"])
@pytest.mark.parametrize("measure", ["lyapunov", "log_condition", "causes"])
def test_of_nan_and_infinity_no_growth_is_told(measure: str, where: str, odd: float) -> None:
    layer, x = Recurrent(cells.GRU, D, H), X.clone()
    with torch.no_grad():
        (x if where == "input" else layer.cells[0].weight_hh)[0, 0] = odd
    with pytest.raises(ValueError, match=r"^x: got states or weights with NaN .*unrolled.watch"):
        MEASURES[measure](layer, x)


@pytest.mark.parametrize(
    ("decay", "fraction", "name"),
    [
        (None, 0.1, "decay"),
        ("ab", 0.1, "decay"),
        (["a"], 0.1, "decay"),
        (torch.ones(3).to_sparse(), 0.1, "decay"),
        (torch.ones(3, device="meta"), 0.1, "decay"),
        ([1.0, 0.5], "1", "fraction"),
        ([1.0, 0.5], None, "fraction"),
        ([1.0, 0.5], math.nan, "fraction"),
        ([1.0, 0.5], 1.0, "fraction"),
    ],
)
def test_horizon_names_what_is_no_row_of_norms(decay: object, fraction: float, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: got .*expected"):
        lens.horizon(decay, fraction=fraction)


@pytest.mark.parametrize("windows", [None, 3, torch.tensor(3), [], [0], [-1], [1.5], "5"])
def test_windows_that_are_no_numbers_of_steps_are_named(windows: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^windows: got .*expected"):
        lens.truncation_bias(Recurrent(cells.GRU, D, H), X, total, windows)


def test_judge_names_what_are_no_causes() -> None:
    with pytest.raises(TypeError, match=r"^causes: got None, expected"):
        lens.judge("layer", None, T)
