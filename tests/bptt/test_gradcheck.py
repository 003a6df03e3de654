"""Wrong gradients are found, right ones are not accused, and the model is left alone."""

import copy
import math
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence

import unrolled
from unrolled import Recurrent, cells
from unrolled.bptt.differences import EPS, Slope, extrapolated
from unrolled.bptt.gradcheck import GradientCheck, GradientRow, gradcheck
from unrolled.cells import Cell
from unrolled.text.models import Cloze

T, B, D, H = 5, 2, 3, 4

CELLS = [
    cell
    for cell in vars(cells).values()
    if isinstance(cell, type) and issubclass(cell, Cell) and not cell.__name__.endswith("Cell")
]


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``factors``."""

    @staticmethod
    def forward(ctx, value, factors):
        ctx.factors = factors
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factors.to(gradient.dtype), None


class Faulty(nn.Module):
    """A model, whose gradient in one entry of one parameter is off by ``error``, relatively."""

    def __init__(self, model: nn.Module, name: str, place: tuple[int, ...], error: float) -> None:
        super().__init__()
        self.model, self.name = model, name
        self.register_buffer("factors", torch.ones(model.get_parameter(name).shape).double())
        self.factors[place] += error

    def forward(self, *arguments):
        wrong = Scaled.apply(self.model.get_parameter(self.name), self.factors)
        return torch.func.functional_call(self.model, {self.name: wrong}, arguments)


class Function(nn.Module):
    """A function of one parameter."""

    def __init__(self, value, function) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(value))
        self.function = function

    def forward(self, x):
        return self.function(self.weight, x)


def elman(weight: float, **options: object) -> Recurrent:
    """An Elman layer whose W has the norm ``weight``."""
    layer = Recurrent(cells.Elman, D, H, **options)
    with torch.no_grad():
        nn.init.orthogonal_(layer.cells[0].weight_hh, gain=weight)
        if options:  # ReLU lets positive states grow
            layer.cells[0].weight_hh.copy_(weight * (0.1 + 0.6 * torch.eye(H)))
            layer.cells[0].weight_ih.abs_()
    return layer


def row(report: GradientCheck, name: str) -> GradientRow:
    (found,) = [row for row in report.rows if row.name.endswith(name)]
    return found


def wrong(report: GradientCheck) -> list[str]:
    return [row.name for row in report.rows if row.verdict == "WRONG"]


def check_right(report: GradientCheck) -> None:
    """All is right, and there was something to see."""
    assert report.ok and bool(report), str(report)
    assert {row.verdict for row in report.rows} == {"ok"}, str(report)
    assert all(row.gradient > 0 and row.relative is not None for row in report.rows)
    # Six digits closer than what is called wrong.
    assert max(row.relative for row in report.rows) < 1e-9


# Right gradients


@pytest.mark.each_value
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_right(cell: type[Cell], backend) -> None:
    layer = Recurrent(cell, D, D, backend=backend)
    report = gradcheck(layer, torch.randn(T, B, D), entries=4)
    assert report.ok, str(report)
    assert any(row.verdict == "ok" and row.gradient > 0 for row in report.rows)
    assert row(report, "x").verdict == "ok"


@pytest.mark.each_value
@pytest.mark.parametrize("steps, batch_size", [(1, 1), (7, 3), (50, 2)])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("home", [torch.nn, unrolled])
def test_layers_of_torch_and_drop_ins_are_right(
    home, kind: str, steps: int, batch_size: int
) -> None:
    layer = getattr(home, kind)(D, H, bidirectional=True)
    report = gradcheck(layer, torch.randn(steps, batch_size, D), entries=4)
    assert report.ok, str(report)
    if steps > 1:
        check_right(report)


def test_the_input_and_each_state_have_a_row() -> None:
    start = (torch.randn(1, B, H), torch.randn(1, B, H))
    report = gradcheck(nn.LSTM(D, H), (torch.randn(T, B, D), start))
    check_right(report)
    assert [row.name for row in report.rows][-3:] == ["x[0]", "x[1][0]", "x[1][1]"]


def test_ragged_sequences_and_a_state_through_a_layer() -> None:
    class Ragged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Recurrent(cells.GRU, D, H, bidirectional=True)

        def forward(self, x, lengths):
            return self.layer(x, lengths=lengths).final

    report = gradcheck(Ragged(), (torch.randn(T, B, D), torch.tensor([5, 2])))
    check_right(report)
    assert report.rows[-1].name == "x[0]"


def test_a_packed_sequence_is_one_argument() -> None:
    packed = pack_sequence([torch.randn(4, D), torch.randn(2, D)])
    report = gradcheck(nn.GRU(D, H), packed, loss=lambda packed, _: packed.data.square().sum())
    check_right(report)
    assert report.rows[-1].name == "x.data"


def test_a_whole_model_in_training_with_tied_weights_and_dropout() -> None:
    model = Cloze(30, H, embedding_size=6, dropout=0.3, token_dropout=0.2)
    assert model.training and model.output.weight is model.embedding.weight
    tokens = torch.randint(4, 30, (6, B))
    report = gradcheck(model, (tokens, torch.tensor([6, 6])), tokens[1:-1])
    check_right(report)
    names = [row.name for row in report.rows]
    assert "embedding.weight" in names and "output.weight" not in names
    assert not any(name.startswith("x") for name in names)  # whole numbers have no gradient


def test_tied_weights_are_checked_as_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(H, H)
            self.second = nn.Linear(H, H)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    report = gradcheck(Tied(), torch.randn(B, H))
    check_right(report)
    assert [row.name for row in report.rows] == ["first.weight", "first.bias", "second.bias", "x"]


@pytest.mark.parametrize("sparse", [False, True])
def test_embeddings_with_rows_that_are_not_used(sparse: bool) -> None:
    embedding = nn.Embedding(50, 3, sparse=sparse)
    report = gradcheck(embedding, torch.tensor([[1, 4, 1], [7, 0, 4]]))
    check_right(report)
    assert row(report, "weight").checked == 20


def test_losses_by_what_y_is() -> None:
    layer, x = nn.Linear(D, H).double(), torch.randn(T, B, D).double()
    output = layer(x)
    classes, targets = torch.randint(H, (T, B)), torch.randn(T, B, H)
    expected = F.cross_entropy(output.flatten(0, 1), classes.flatten())
    assert gradcheck(layer, x, classes).loss == pytest.approx(expected.item(), rel=1e-14)
    assert gradcheck(layer, x, classes.int()).loss == pytest.approx(expected.item(), rel=1e-14)
    expected = F.mse_loss(output, targets.double())
    assert gradcheck(layer, x, targets).loss == pytest.approx(expected.item(), rel=1e-14)
    total = gradcheck(nn.Sequential(layer, nn.Flatten(0), nn.Linear(T * B * H, 1)), x)
    assert total.ok
    own = gradcheck(layer, x, 3.0, loss=lambda output, y: (output * y).sum())
    assert own.loss == pytest.approx(3 * output.sum().item(), rel=1e-12)
    scalar = gradcheck(Function([2.0, 3.0], lambda w, x: (w * x).sum()), torch.ones(2))
    assert scalar.loss == 5


def test_the_parameters_of_a_loss_are_checked_too() -> None:
    head = nn.Linear(H, 2)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, output, y):
            return F.cross_entropy(self.head(output), y)

    model = nn.Sequential(nn.Linear(D, H), nn.Tanh())
    report = gradcheck(model, torch.randn(B, D), torch.tensor([0, 1]), loss=Loss())
    check_right(report)
    assert [row.name for row in report.rows][2:4] == ["loss.head.weight", "loss.head.bias"]


def test_scalars_and_empty_tensors() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.3))
            self.none = nn.Parameter(torch.zeros(0, 3))

        def forward(self, x):
            return torch.sigmoid(self.rate) * x + self.none.sum()

    report = gradcheck(Odd(), torch.randn(3))
    assert report.ok, str(report)
    assert (row(report, "rate").shape, row(report, "rate").checked) == ((), 1)
    assert (row(report, "none").checked, row(report, "none").verdict) == (0, "ok")


def test_large_and_small_entries() -> None:
    weights = torch.tensor([1e6, -1e3, 1.0, 1e-6, 0.0])
    check_right(gradcheck(Function(weights, lambda w, x: torch.log1p((w * x) ** 2)), torch.ones(5)))
    # A logarithm that ends 1e-4 away: too large steps give NaN, smaller ones are taken.
    assert gradcheck(Function([1e-4], lambda w, x: torch.log(w)), torch.tensor(0)).ok


def test_operations_with_whole_numbers_among_their_outputs() -> None:
    layers = nn.Sequential(nn.Linear(D, H), nn.MaxPool1d(2), nn.LayerNorm(2))
    check_right(gradcheck(layers, torch.randn(T, B, D), loss=lambda y, _: y.sort().values.std()))


def test_a_loss_whose_terms_cancel() -> None:
    """The sum of what is normalised is 0, and so is every gradient before it."""
    layers = nn.Sequential(nn.Linear(D, H), nn.LayerNorm(H))
    for seed in range(5):
        report = gradcheck(layers, torch.randn(T, B, D), loss=lambda y, _: y.sum(), seed=seed)
        assert report.ok and {row.verdict for row in report.rows} == {"ok"}, str(report)
        assert [row.relative is None for row in report.rows] == [True, True, False, False, True]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_switched_off(mode) -> None:
    with mode():
        check_right(gradcheck(Recurrent(cells.LSTM, D, H), torch.randn(T, B, D), entries=3))


# Wrong gradients


@pytest.mark.each_value
@pytest.mark.parametrize("error", [1e-5, -1e-5, 1.0])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_one_entry_off_by_1e_5_is_found(cell: type[Cell], steps: int, error: float) -> None:
    for name, place in [("cells.0.bias_hh", (2,)), ("cells.0.weight_ih", (1, 2))]:
        model = Faulty(Recurrent(cell, D, H), name, place, error)
        report = gradcheck(model, torch.randn(steps, B, D))
        assert wrong(report) == ["model." + name], str(report)
        assert not report
        found = row(report, name)
        assert str(list(place)) in found.note or "random direction" in found.note


@pytest.mark.each_value
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
@pytest.mark.parametrize("gain", [0.1, 1.0, 1.5, 2.5])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_one_entry_off_is_found_in_all_lights(activation: str, gain: float, name: str) -> None:
    """In ReLU networks, in exploding and in vanishing ones, over 50 steps: the median entry."""
    layer, x = elman(gain, activation=activation), torch.rand(50, B, D)
    layer(x)[0].sum().backward()
    gradient = layer.cells[0].get_parameter(name).grad.abs()
    flat = torch.where(gradient > 1e-5 * gradient.max(), gradient, math.nan).nanmedian()
    place = tuple((gradient == flat).nonzero()[0].tolist())
    report = gradcheck(Faulty(layer, "cells.0." + name, place, 1e-5), x, entries=H * H)
    assert wrong(report) == ["model.cells.0." + name], str(report)
    assert str(list(place)) in row(report, name).note


@pytest.mark.parametrize("seed", range(5))
def test_an_entry_that_is_not_drawn_is_found_along_the_direction(seed: int) -> None:
    clean = gradcheck(nn.Linear(40, 30), torch.randn(B, 40), entries=0, seed=seed)
    assert clean.ok and all(row.checked == 0 for row in clean.rows)
    model = Faulty(nn.Linear(40, 30), "weight", (7, 11), 1e-3)
    report = gradcheck(model, torch.randn(B, 40), entries=0, seed=seed)
    assert wrong(report) == ["model.weight"], str(report)
    assert "random direction" in row(report, "weight").note


def test_errors_that_cancel_in_the_sum_do_not_along_the_direction() -> None:
    class Swapped(Faulty):
        def forward(self, *arguments):
            weight = self.model.get_parameter(self.name)
            wrong = weight.detach() + (weight - weight.detach()).roll(1, 0)
            return torch.func.functional_call(self.model, {self.name: wrong}, arguments)

    for seed in range(5):
        model = Swapped(nn.Linear(3, 2), "weight", (0, 0), 0.0)
        report = gradcheck(model, torch.randn(B, 3), entries=0, seed=seed)
        assert wrong(report) == ["model.weight"]


def test_the_input_can_be_wrong() -> None:
    model = nn.Sequential(Function(1.0, lambda w, x: Scaled.apply(x, 1 + 1e-5 * (x > 9)) * w))
    assert gradcheck(model, torch.randn(T, B)).ok
    x = torch.randn(T, B)
    x[3, 1] = 9.5
    assert wrong(gradcheck(model, x)) == ["x"]


def test_a_path_that_is_cut() -> None:
    """Truncated after two steps, the gradient is not the loss's."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Recurrent(cells.GRU, D, H)

        def forward(self, x):
            first, (state,) = self.layer(x[:2])
            rest, _ = self.layer(x[2:], (state.detach(),))
            return torch.cat([first, rest])

    report = gradcheck(Cut(), torch.randn(T, B, D))
    assert not report.ok
    assert len(wrong(report)) == len(report.rows)  # the first two steps change all that follows


def test_what_is_not_reached() -> None:
    class Model(nn.Module):
        def __init__(self, *, cut: bool) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(D, H), nn.Linear(D, H)
            self.cut = cut

        def forward(self, x):
            return self.used(x) + (self.unused(x).detach() if self.cut else 0)

    report = gradcheck(Model(cut=False), torch.randn(B, D))
    assert report.ok
    assert row(report, "unused.bias").verdict == "not reached"
    assert row(report, "unused.bias").gradient == row(report, "unused.bias").difference == 0

    report = gradcheck(Model(cut=True), torch.randn(B, D))
    assert wrong(report) == ["unused.weight", "unused.bias", "x"]
    assert "backward does not reach it: look for detach()" in row(report, "unused.bias").note


def test_a_loss_without_any_gradient() -> None:
    report = gradcheck(nn.Linear(D, H), torch.randn(B, D), loss=lambda y, _: y.detach().sum())
    assert wrong(report) == ["weight", "bias", "x"]


# Vanishing and exploding


def last(output: Tensor, _: object) -> Tensor:
    return output[-1].sum()


def test_gradients_that_vanish_are_not_accused_and_the_table_says_so() -> None:
    arguments = (torch.randn(50, B, D), (torch.randn(1, B, H),))
    report = gradcheck(elman(0.05), arguments, loss=last)
    assert report.ok
    start = row(report, "x[1][0]")
    assert 0 < start.gradient < 1e-60
    assert (start.verdict, start.relative) == ("ok", None)
    assert "too small to be told from 0" in start.note
    assert all(row.relative is not None and not row.note for row in report.rows[:-1])


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_small_gradients_are_still_judged(size: float) -> None:
    """A part of ``size`` beside a loss of 1 is seen to 1e-5 of itself, as far as float64 reaches."""
    error = max(1e-5, 1e-11 / size)
    weight, x = torch.rand(D, dtype=torch.float64), torch.rand(D)

    def part(w, x):
        return 1 + size * torch.sin(w * x).sum()

    assert gradcheck(Function(weight, part), x).ok
    assert wrong(gradcheck(Faulty(Function(weight, part), "weight", (1,), error), x)) == [
        "model.weight"
    ]


def test_gradients_that_explode() -> None:
    x = torch.rand(50, B, D)
    for gain in (1.5, 3.0):
        report = gradcheck(elman(gain, activation="relu"), x, loss=last)
        check_right(report)
        assert row(report, "x").gradient > gain**40


def test_a_chaotic_network_is_not_accused() -> None:
    """It bends within 1e-7; what cannot be judged is said to be unclear, or judged beside it."""
    layer = Recurrent(cells.Elman, D, 16)
    with torch.no_grad():
        layer.cells[0].weight_hh.mul_(12)
    report = gradcheck(layer, torch.randn(50, B, D), entries=5)
    assert row(report, "weight_hh").gradient > 1e4
    assert not wrong(report)


# Kinks


def at_zero() -> tuple[Recurrent, Tensor]:
    """A ReLU network whose first steps stand exactly at the kink."""
    layer = Recurrent(cells.Elman, D, 7, activation="relu")
    for bias in (layer.cells[0].bias_ih, layer.cells[0].bias_hh):
        nn.init.zeros_(bias)
    x = torch.randn(6, B, D)
    x[:2] = 0
    return layer, x


def test_a_kink_is_not_called_wrong() -> None:
    report = gradcheck(*at_zero(), entries=42)
    assert report.ok, str(report)
    verdicts = {row.name.rpartition(".")[2]: row.verdict for row in report.rows}
    assert verdicts == {
        "weight_ih": "ok",
        "weight_hh": "ok",
        "bias_ih": "kink",
        "bias_hh": "kink",
        "x": "kink",
    }
    assert "has a kink (as ReLU at 0)" in row(report, "bias_ih").note


@pytest.mark.parametrize("kinked", [F.relu, torch.abs, F.hardtanh, lambda w: torch.max(w, -w)])
def test_kinks_of_all_sorts(kinked) -> None:
    weight = torch.tensor([0.0, 1.0, -1.0, 0.3])
    report = gradcheck(Function(weight, lambda w, x: kinked(w) * x), torch.ones(4))
    assert report.ok, str(report)
    middle = kinked in (F.relu, F.hardtanh)  # backward gives 0 or 1 there, else just their mean
    assert row(report, "weight").verdict == ("kink" if middle else "ok")


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
def test_a_kink_near_by(distance: float) -> None:
    weight = torch.tensor([distance, 0.4], dtype=torch.float64)
    report = gradcheck(Function(weight, lambda w, x: F.relu(w) * x), torch.ones(2))
    assert report.ok, str(report)
    assert row(report, "weight").verdict == ("ok" if distance > 1e-8 else "kink")


def test_a_wrong_gradient_at_a_kink_is_still_wrong() -> None:
    layer, x = at_zero()
    for error in (1e-5, 1.0):
        report = gradcheck(Faulty(layer, "cells.0.bias_hh", (3,), error), x)
        assert wrong(report) == ["model.cells.0.bias_hh"], str(report)


def test_no_kink_excuses_a_gradient_where_there_is_none() -> None:
    """relu(w) - relu(-w) is w, but what backward adds up at 0 is 0."""
    model = Function([0.0, 0.5], lambda w, x: (F.relu(w) - F.relu(-w)) * x)
    report = gradcheck(model, torch.ones(2))
    assert wrong(report) == ["weight"]


# What is not finite, what is not clear


def test_a_loss_that_is_not_finite() -> None:
    report = gradcheck(elman(1.0), torch.full((T, B, D), math.inf), loss=lambda y, _: y.sum() / 0)
    assert not report.ok and not math.isfinite(report.loss)
    assert {row.verdict for row in report.rows} == {"not finite"}
    assert "so nothing can be compared" in str(report)


def test_a_gradient_that_is_not_finite() -> None:
    weight = torch.tensor([[0.25, 0.0], [1.0, 4.0]])
    report = gradcheck(Function(weight, lambda w, x: w.sqrt() * x), torch.tensor([1.0, 1.0]))
    assert not report.ok
    found = row(report, "weight")
    assert (found.verdict, found.checked) == ("not finite", 0)
    assert "1 of 4 entries of the gradient are not finite, the first inf at [0, 1]" in found.note
    assert row(report, "x").verdict == "ok"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_than_float64_inside_is_refused(dtype: torch.dtype) -> None:
    model = Function(torch.rand(D), lambda w, x: (w * x).to(dtype).exp().double())
    with pytest.raises(TypeError, match=f"model: got {dtype} inside, from Exp, expected"):
        gradcheck(model, torch.rand(D))


def test_noise_is_unclear() -> None:
    """A loss with errors of 1e-9 that follow no rule cannot be judged to 1e-5."""
    model = Function(torch.rand(D), lambda w, x: w * x + 1e-9 * torch.sin(1e14 * w.detach()))
    report = gradcheck(model, torch.rand(D))
    assert not report.ok and row(report, "weight").verdict == "unclear", str(report)
    assert "rounds more than float64 must" in row(report, "weight").note


# What is left alone


def test_model_gradients_buffers_mode_and_random_numbers_stay() -> None:
    model = nn.Sequential(nn.Linear(D, H), nn.BatchNorm1d(H), nn.Dropout(0.5), nn.Linear(H, 2))
    model[3].eval()
    model(torch.randn(6, D)).sum().backward()
    x, y = torch.randn(6, D), torch.randn(6, 2)
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    kept_x, kept_y, state = x.clone(), y.clone(), torch.get_rng_state()

    report = gradcheck(model, x, y)
    assert report.ok, str(report)

    after = model.state_dict()
    assert all(
        torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in after
    )
    pairs = zip(model.parameters(), gradients, strict=True)
    assert all(torch.equal(p.grad, g) for p, g in pairs)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept_x) and torch.equal(y, kept_y)
    assert x.grad is None and not x.requires_grad and x.dtype == torch.float32


def test_buffers_that_an_evaluation_moves_start_anew() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(D, H))
    assert layer.training
    # Its power iteration is part of the loss, but not of its gradient; converged, it does not matter.
    for _ in range(300):
        layer(torch.randn(B, D))
    assert gradcheck(layer.double(), torch.randn(B, D)).ok


def test_the_same_seed_gives_the_same_report() -> None:
    model, x = Recurrent(cells.LSTM, D, H, depth=2, dropout=0.4), torch.randn(T, B, D)
    first = gradcheck(model, x, seed=3)
    torch.manual_seed(99)
    assert gradcheck(model, x, seed=3) == first
    assert gradcheck(model, x, seed=4).loss != first.loss


# Errors


def test_chance_of_another_kind_is_refused() -> None:
    model = Function([1.0], lambda w, x: w * random.random())
    with pytest.raises(RuntimeError, match="for equal arguments, expected the same twice"):
        gradcheck(model, torch.ones(1))


def test_a_state_outside_the_buffers_is_refused() -> None:
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * self.calls

    with pytest.raises(RuntimeError, match="keep no state but in buffers"):
        gradcheck(Counting(D, H), torch.ones(B, D))


def test_nothing_to_differentiate() -> None:
    with pytest.raises(ValueError, match="got no parameter that requires a gradient"):
        gradcheck(nn.Embedding(5, 3).requires_grad_(False), torch.tensor([1]))


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"model": F.relu}, TypeError, r"model: got \w+, expected a torch.nn.Module"),
        ({"loss": 3}, TypeError, r"loss: got 3, expected a function of \(output, y\)"),
        ({"loss": lambda y, _: y}, ValueError, r"loss: got shape \[2, 4\], expected a scalar"),
        ({"loss": lambda y, _: 1.0}, TypeError, "loss: got float, expected a scalar tensor"),
        (
            {"loss": lambda y, _: y.sum().float()},
            TypeError,
            "loss: got torch.float32, expected torch.float64",
        ),
        ({"y": torch.zeros(2)}, ValueError, r"y: got shape \[2\], expected \[2, 4\], the output's"),
        (
            {"y": torch.zeros(2, 4, dtype=torch.long)},
            ValueError,
            r"y: got shape \[2, 4\], expected \[2\], the output's without its last dimension",
        ),
        (
            {"y": torch.zeros(2, 4, dtype=torch.bool)},
            TypeError,
            "y: got torch.bool, expected an int",
        ),
        ({"y": "no"}, TypeError, "y: got str, expected an integer or a floating tensor"),
        ({"entries": -1}, ValueError, "entries: got -1, expected at least 0"),
        ({"seed": 0.5}, TypeError, "seed: got 0.5, expected a whole number"),
    ],
)
def test_errors(change, error, text: str) -> None:
    arguments = {"model": nn.Linear(D, H), "x": torch.randn(2, D)} | change
    with pytest.raises(error, match=text):
        gradcheck(arguments.pop("model"), arguments.pop("x"), arguments.pop("y", None), **arguments)


def test_directions_apart_need_a_loss() -> None:
    layer, x = (
        Recurrent(cells.GRU, D, H, bidirectional=True, merge="separate"),
        torch.randn(T, B, D),
    )
    with pytest.raises(TypeError, match="output: got tuple, expected a tensor; pass loss="):
        gradcheck(layer, x)
    check_right(gradcheck(layer, x, loss=lambda ys, _: (ys[0] * ys[1]).sum()))


def test_complex_parameters_are_refused() -> None:
    model = Function(torch.ones(2, dtype=torch.complex64), lambda w, x: (w * x).abs())
    with pytest.raises(TypeError, match=r"weight: got torch\.complex64, expected real numbers"):
        gradcheck(model, torch.ones(2))


# The table


def test_the_table_is_plain_aligned_and_narrow() -> None:
    inner: nn.Module = Recurrent(cells.Elman, D, H)
    for name in ("decoder_of_the_second_pass", "stack_of_the_upper_layers", "recurrent_encoder"):
        outer = nn.Sequential()
        outer.add_module(name, inner)
        inner = outer
    faulty = Faulty(
        inner, next(n for n, _ in inner.named_parameters() if "bias_hh" in n), (1,), 1.0
    )
    report = gradcheck(faulty, torch.randn(T, B, D))
    lines = str(report).splitlines()
    assert all(len(line) <= 100 and line.isascii() for line in lines)
    table = lines[: len(report.rows) + 1]
    verdicts = {line.rindex("  ") for line in table}
    assert len(verdicts) == 1
    assert table[0].split() == [
        *("name", "shape", "checked", "gradient", "difference", "relative", "verdict")
    ]
    assert sum("..." in line for line in table) == 4
    assert all(
        line.split()[0].endswith(end)
        for line, end in zip(table[1:], ["_ih", "_hh"] * 2, strict=False)
    )
    assert lines[-1].endswith("1 of 5 rows are not ok")
    assert sum(line.endswith("WRONG") for line in table) == 1


def test_shapes_of_many_dimensions_leave_room_for_the_name() -> None:
    row = GradientRow("x" * 90, (10000,) * 6, 20, 1.0, 1e-300, None, "not reached", "word " * 60)
    report = GradientCheck(1e-300, (row,))
    assert max(map(len, str(report).splitlines())) <= 100
    assert report.ok


# The means


def test_a_limit_is_known_as_well_as_it_says() -> None:
    """Of functions whose derivative at 0 is known; the error is never less than the real one."""
    functions = [
        (math.exp, 1.0),
        (math.sin, 1.0),
        (lambda t: math.exp(300 * t), 300.0),
        (lambda t: math.sin(1e5 * t), 1e5),
        (lambda t: (1 + t) ** 50, 50.0),
        (lambda t: 1e9 + t, 1.0),
        (lambda t: math.log(t + 1e-4), 1e4),
        (lambda t: t**5, 0.0),
    ]
    for function, derivative in functions:

        def safe(t: float, function=function) -> float:
            try:
                return function(t)
            except (ValueError, OverflowError):
                return math.nan

        slope = Slope(safe, function(0.0), EPS * abs(function(0.0)))
        for limit in (slope.measure(), slope.confirm()):
            assert abs(limit.value - derivative) <= limit.error
            assert slope.is_sharp(limit, derivative, 0.0) and not slope.is_kinked()


def test_steps_beyond_a_kink_do_not_agree_on_a_wrongextrapolated() -> None:
    """They differ by less than they are wrong, as the jump is small and the kink is near."""
    kink = 2.0**-14.3
    slope = Slope(lambda t: t + 1e-6 * max(t - kink, 0), 0.0, EPS)
    at_large_steps, limit = slope.measure(), slope.confirm()
    assert abs(at_large_steps.value - 1) > 100 * at_large_steps.error
    assert abs(limit.value - 1) <= limit.error < 1e-9


def test_a_limit_of_nothing_is_unknown() -> None:
    assert extrapolated([], [], 4).error == extrapolated([1.0], [0.0], 4).error == math.inf
