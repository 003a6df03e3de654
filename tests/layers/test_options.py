"""The options of ``Recurrent``, against layers put together by hand, and against what they promise."""

import copy
import pickle
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from tests.compare import assert_close_by_name, collect, leaves, run_recurrent
from unrolled import Recurrent, cells, explain
from unrolled.cells import Cell, State
from unrolled.scan import ScanOptions, native, scan
from unrolled.scan.hooks import computed, settled

T, B, D, H = 5, 3, 4, 6


def x_of(width: int = D, steps: int = T) -> Tensor:
    return torch.randn(steps, B, width).double()


class Echo(Cell):
    """A cell whose output is its input, which shows what a layer does between its cells."""

    def project(self, x: Tensor) -> Tensor:
        return x

    def step(self, projected: Tensor, state: State) -> State:
        return (projected,)


def both(layer: Recurrent, level: int, x: Tensor) -> list[Tensor]:
    """The outputs of the cells of one level, both of which read ``x``."""
    first = level * layer.directions
    return [
        scan(layer.cells[first + s], x, None, ScanOptions(reverse=s == 1))[0][0]
        for s in range(layer.directions)
    ]


def compare(layer: Recurrent, x: Tensor, by_hand: Callable[[Tensor], Tensor]) -> None:
    """Hold outputs and every gradient of ``layer`` to those of ``by_hand``."""
    found = []
    for call in (lambda x: layer(x).y, by_hand):
        (u,) = leaves(x)
        found.append(collect({"y": call(u)}, {"x": u} | dict(layer.named_parameters())))
    assert_close_by_name(*found, T)


# --- Sizes and projections -----------------------------------------------------------------------


def test_hidden_size_may_be_a_list_whose_length_is_the_depth() -> None:
    layer = Recurrent(cells.LSTM, D, [6, 3, 5], bidirectional=True).double()
    assert layer.depth == 3
    assert [(c.input_size, c.hidden_size) for c in layer.cells[::2]] == [(4, 6), (12, 3), (6, 5)]

    def by_hand(x: Tensor) -> Tensor:
        for level in range(3):
            x = torch.cat(both(layer, level, x), -1)
        return x

    compare(layer, x_of(), by_hand)
    assert layer.output_size == 10
    assert layer.hidden_size == [6, 3, 5]
    assert Recurrent(cells.GRU, D, H, depth=2).hidden_size == H
    assert "4, [6, 3, 5], depth=3" in repr(layer)


def test_the_state_of_layers_of_unlike_sizes_is_split_by_layer_and_carried_on() -> None:
    layer = Recurrent(cells.LSTM, D, (6, 3)).double()
    x = x_of()
    whole, final = layer(x)
    assert [list(s.shape) for s in final] == [[1, B, 6], [1, B, 3]] * 2
    first, state = layer(x[:2])
    second, after = layer(x[2:], state)
    assert_close_by_name({"y": torch.cat([first, second])}, {"y": whole}, T)
    for k, (a, b) in enumerate(zip(after, final, strict=True)):
        assert_close_by_name({f"state {k}": a}, {f"state {k}": b}, T)
    assert torch.equal(final[1][0], whole[-1])  # h of the second layer
    with pytest.raises(
        ValueError, match=r"^state: got shapes .* expected \[1, 3, 6\], \[1, 3, 3\]"
    ):
        layer(x, state[::-1])
    even = Recurrent(cells.LSTM, D, [6, 6])
    assert [list(s.shape) for s in even(x.float()).state] == [[2, B, 6]] * 2


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "mul"])
def test_a_projection_is_a_linear_map_of_each_layers_merged_outputs(merge: str) -> None:
    options = {"depth": 2, "bidirectional": True, "merge": merge, "projection": 3}
    layer = Recurrent(cells.GRU, D, H, **options).double()
    merges = {
        "concat": lambda a, b: torch.cat([a, b], -1),
        "sum": torch.add,
        "mean": lambda a, b: (a + b) / 2,
        "mul": torch.mul,
    }

    def by_hand(x: Tensor) -> Tensor:
        for level in range(2):
            x = merges[merge](*both(layer, level, x)) @ layer.projections[level].weight.T
        return x

    compare(layer, x_of(), by_hand)
    assert layer(x_of()).state[0].shape == (4, B, H)
    assert layer.output_size == 3
    assert all(name.endswith("weight") for name, _ in layer.projections.named_parameters())


# --- Between layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, "highway"])
def test_a_residual_joins_what_each_layer_but_the_first_gives_to_what_it_reads(
    residual: bool | str,
) -> None:
    layer = Recurrent(cells.GRU, D, H, depth=3, bidirectional=True, residual=residual).double()

    def by_hand(x: Tensor) -> Tensor:
        x = torch.cat(both(layer, 0, x), -1)
        for level in (1, 2):
            y = torch.cat(both(layer, level, x), -1)
            if residual is True:
                x = y + x
            else:
                gate = layer.highways[level - 1]
                g = torch.sigmoid(x @ gate.weight.T + gate.bias)
                x = g * y + (1 - g) * x
        return x

    compare(layer, x_of(), by_hand)


@pytest.mark.parametrize("residual", [True, "highway"])
def test_of_directions_kept_apart_each_has_projections_and_residuals_of_its_own(
    residual: bool | str,
) -> None:
    options = {"bidirectional": True, "merge": "separate", "projection": 3, "residual": residual}
    layer = Recurrent(cells.GRU, D, H, depth=3, **options).double()
    x = x_of()
    for s, y in enumerate(layer(x).y):
        got = x
        for level in range(3):
            (given,), _ = scan(layer.cells[2 * level + s], got, None, ScanOptions(reverse=s == 1))
            given = given @ layer.projections[2 * level + s].weight.T
            if level == 0:
                got = given
            elif residual is True:
                got = got + given
            else:
                g = torch.sigmoid(layer.highways[2 * (level - 1) + s](got))
                got = g * given + (1 - g) * got
        assert_close_by_name({"y": y}, {"y": got}, T)


def test_a_highway_starts_by_carrying_more_than_it_transforms() -> None:
    layer = Recurrent(cells.GRU, D, H, depth=3, residual="highway")
    assert len(layer.highways) == 2
    assert all((gate.bias == -1).all() for gate in layer.highways)


def test_padding_stays_zero_through_projections_and_residuals() -> None:
    for residual in (True, "highway"):
        layer = Recurrent(cells.GRU, D, H, depth=2, projection=3, residual=residual).double()
        x = x_of()
        x[2:, 1] = torch.nan
        y, _ = layer(x, lengths=[5, 2, 0])
        assert not y[2:, 1].any() and not y[:, 2].any() and y[:2, 1].all()


def test_what_works_between_layers_leaves_a_single_layer_as_it_is() -> None:
    plain = Recurrent(cells.GRU, D, H).double()
    x = x_of()
    for options in (
        {"residual": True},
        {"residual": "highway"},
        {"dropout": 0.5},
        {"merge": "sum"},
    ):
        layer = Recurrent(cells.GRU, D, H, **options).double()
        layer.load_state_dict(plain.state_dict())
        assert torch.equal(layer(x).y, plain(x).y), options


# --- The state at first --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_a_learnt_state_is_the_first_one_of_every_sequence_and_of_every_sequence(
    cell: type[Cell], backend: str
) -> None:
    options = {"depth": 2, "bidirectional": True, "backend": backend}
    layer = Recurrent(cell, D, H, learn_initial_state=True, **options).double()
    learnt = {n: p for n, p in layer.named_parameters() if ".initial." in n}
    assert len(learnt) == 4 * len(layer.cells[0].state_sizes)
    assert not any(p.any() for p in learnt.values())
    with torch.no_grad():
        for p in learnt.values():
            p.normal_()
    x = x_of()

    def start(batch_size: int) -> State:
        kinds = len(layer.cells[0].state_sizes)
        return tuple(
            torch.stack([c.initial[k].expand(batch_size, -1) for c in layer.cells])
            for k in range(kinds)
        )

    compare(layer, x, lambda x: layer(x, start(B)).y)
    resets = torch.zeros(T, B).bool()
    resets[3, 1] = resets[0, 2] = True
    got = layer(x, start(B), resets=resets).y
    sequence = slice(1, 2)
    expected = torch.cat([layer(x[:3, sequence]).y, layer(x[3:, sequence]).y])
    assert_close_by_name({"y": got[:, sequence]}, {"y": expected}, T)
    assert_close_by_name({"y": got[:, 2:]}, {"y": layer(x[:, 2:]).y}, T)
    _, empty = layer(x, lengths=[0, 0, 0])
    assert all(torch.equal(a, b) for a, b in zip(empty, start(B), strict=True))


@pytest.mark.skipif(native.missing() is not None, reason="no kernels")
def test_a_learnt_state_runs_by_the_kernel_but_for_resets_and_explain_says_so() -> None:
    layer = Recurrent(cells.LSTM, D, H, learn_initial_state=True, backend="native")
    x, resets = torch.randn(T, B, D), torch.zeros(T, B).bool()
    layer(x).y.sum().backward()
    assert all(p.grad is not None for p in layer.cells[0].initial)
    assert explain(layer, x).path == "native"
    told = explain(layer, x, resets=resets)
    assert (told.path, told.reasons) == (
        "refused",
        ("resets begin with the cell's own initial state; the kernels begin with zeros",),
    )
    with pytest.raises(RuntimeError, match="resets begin with the cell's own initial state"):
        layer(x, resets=resets)


# --- What is random, in training only ------------------------------------------------------------


def test_variational_dropout_has_one_mask_a_sequence_and_feature_for_all_steps_and_both_directions() -> (
    None
):
    read: list[Tensor] = []

    class Told(Echo):
        def project(self, x: Tensor) -> Tensor:
            read.append(x)
            return x[..., : self.hidden_size]

    share, width = 0.3, 80
    layer = Recurrent(
        Told,
        width,
        width,
        depth=2,
        bidirectional=True,
        merge="sum",
        variational_dropout=share,
        backend="reference",
    )
    layer(torch.ones(4, 50, width))
    assert len(read) == 4
    for first, second in (read[:2], read[2:]):
        assert torch.equal(first, second)  # both directions
        assert torch.equal(first, first[:1].expand_as(first))  # all steps
    assert torch.equal(read[0].unique(), torch.tensor([0, 1 / (1 - share)]))
    dropped = (read[0][0] == 0).double()
    # Independent draws of variance p (1 - p): five standard deviations.
    assert abs(dropped.mean().item() - share) < 5 * (share * (1 - share) / dropped.numel()) ** 0.5
    assert not torch.equal(dropped[0], dropped[1])  # sequences differ
    assert not torch.equal(read[0] == 0, read[2] == 0)  # layers differ
    apart = Recurrent(
        Echo, 9, 9, bidirectional=True, merge="separate", depth=2, variational_dropout=0.5
    )
    forward, backward = apart(torch.ones(4, 50, 9)).y
    assert not torch.equal(forward, backward)


def test_what_a_residual_adds_is_not_dropped() -> None:
    layer = Recurrent(Echo, 50, 50, depth=2, residual=True, variational_dropout=0.5)
    y = layer(torch.ones(2, 40, 50)).y
    # The first layer gives 0 or 2; the second adds to it 0 or twice itself.
    assert sorted(y.unique().tolist()) == [0, 2, 6]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_weight_drop_drops_recurrent_weights_once_a_call_and_leaves_the_parameter_alone(
    cell: type[Cell], backend: str
) -> None:
    share = 0.4
    layer = Recurrent(cell, D, H, weight_drop=share, backend=backend).double()
    (own,) = layer.cells
    before = own.weight_hh.detach().clone()
    x = x_of()
    torch.manual_seed(5)
    got = run_recurrent(layer, x)
    torch.manual_seed(5)
    mask = F.dropout(torch.ones_like(before), share)
    assert 0 < (mask == 0).sum() < mask.numel()

    plain = Recurrent(cell, D, H, backend=backend).double()
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        plain.cells[0].weight_hh.mul_(mask)
    expected = run_recurrent(plain, x)
    expected["grad of weight_hh_l0"] = expected["grad of weight_hh_l0"] * mask
    assert_close_by_name(got, expected, T)
    assert torch.equal(own.weight_hh, before)
    assert isinstance(own.weight_hh, nn.Parameter)
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert not torch.equal(layer(x).y, layer(x).y)


def test_weight_drop_drops_its_share() -> None:
    share, units = 0.3, 100
    layer = Recurrent(
        cells.Elman, units, units, weight_drop=share, activation="identity", bias=False
    )
    with torch.no_grad():
        layer.cells[0].weight_ih.zero_()
        layer.cells[0].weight_hh.fill_(1)
    start = torch.eye(units).unsqueeze(0)  # each sequence reads one column
    seen = layer(torch.zeros(1, units, units), (start,)).y
    dropped = (seen == 0).double().mean().item()
    assert abs(dropped - share) < 5 * (share * (1 - share)) ** 0.5 / units
    torch.testing.assert_close(seen.unique(), torch.tensor([0, 1 / (1 - share)]))


NOISY = {
    "variational_dropout": {"variational_dropout": 0.5},
    "weight_drop": {"weight_drop": 0.5},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
}


@pytest.mark.each_value
@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("cell", [cells.Elman, cells.LSTM, cells.GRU])
def test_in_evaluation_nothing_is_dropped(cell: type[Cell], name: str) -> None:
    layer = Recurrent(cell, D, H, depth=2, bidirectional=True, **NOISY[name]).double()
    plain = Recurrent(cell, D, H, depth=2, bidirectional=True).double()
    plain.load_state_dict(layer.state_dict())
    x = x_of()
    assert not torch.equal(layer(x).y, plain(x).y)
    assert torch.equal(layer.eval()(x).y, plain(x).y)


EVERYTHING = {
    "residual": "highway",
    "projection": 5,
    "learn_initial_state": True,
    "dropout": 0.2,
    "variational_dropout": 0.2,
    "weight_drop": 0.2,
    "layer_norm": True,
    "recurrent_dropout": 0.2,
    "zoneout": 0.1,
}


def test_every_option_goes_with_every_other_and_every_parameter_learns() -> None:
    layer = Recurrent(cells.LSTM, D, [6, 3], bidirectional=True, **EVERYTHING, forget_bias=1.0)
    mask = torch.rand(T, B) < 0.8
    resets = torch.rand(T, B) < 0.2
    result = layer(torch.randn(T, B, D), lengths=[5, 3, 0], mask=mask, resets=resets, states=True)
    (result.y.pow(2).sum() + sum(s.pow(2).sum() for s in result.state)).backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.any() or "initial" in name, name


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_every_option(copied: Callable[[Recurrent], Recurrent]) -> None:
    layer = Recurrent(cells.LSTM, D, H, depth=2, **EVERYTHING)
    x, found = torch.randn(T, B, D), []
    for one in (layer, copied(layer)):
        torch.manual_seed(1)
        found.append(one(x).y)
    assert torch.equal(*found)
    target = Recurrent(cells.LSTM, D, H, depth=2, **EVERYTHING)
    target.load_state_dict(layer.state_dict())
    assert torch.equal(target.eval()(x).y, layer.eval()(x).y)


# --- The contract of noise -----------------------------------------------------------------------


class Jittery(Cell):
    """A running sum to which noise is added, ``kinds`` of it."""

    kinds, constant = 2, False

    def project(self, x: Tensor) -> Tensor:
        return x

    def noise(self, steps: int, batch_size: int, like: Tensor) -> Tensor | None:
        if not self.training:
            return None
        return torch.randn(
            1 if self.constant else steps, batch_size, self.kinds * self.hidden_size
        ).to(like)

    def step(self, projected: Tensor, state: State) -> State:
        return (state[0] + sum(torch.split(projected, self.hidden_size, -1)),)


@pytest.mark.parametrize("constant", [False, True])
def test_a_cell_of_your_own_gets_its_noise_appended_to_the_projection(constant: bool) -> None:
    layer = Recurrent(Jittery, D, D, bidirectional=True, merge="separate").double()
    for cell in layer.cells:
        cell.constant = constant
    x = x_of()
    torch.manual_seed(2)
    noise = [
        torch.randn(1 if constant else T, B, 2 * D).double().unflatten(-1, (2, D)).sum(2)
        for _ in range(2)
    ]
    torch.manual_seed(2)
    forward, backward = layer(x).y
    assert_close_by_name({"y": forward}, {"y": (x + noise[0]).cumsum(0)}, T)
    assert_close_by_name({"y": backward}, {"y": (x + noise[1]).flip(0).cumsum(0).flip(0)}, T)
    assert torch.equal(layer.eval()(x).y[0], x.cumsum(0))


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"hidden_size": []},
            ValueError,
            "^hidden_size: got an empty list, expected one size a layer",
        ),
        ({"hidden_size": [5, 0]}, ValueError, "^hidden_size: got 0, expected at least 1"),
        ({"hidden_size": [5, 1.5]}, TypeError, "^hidden_size: got 1.5, expected a whole number"),
        ({"hidden_size": [5, 5], "depth": 3}, ValueError, "^depth: got 3, but .* lists 2 layers"),
        (
            {"hidden_size": [5, 4], "residual": True},
            ValueError,
            "^residual: layer 2 reads 5 features and gives 4, expected as many; .* projection=",
        ),
        ({"residual": "skip"}, ValueError, "^residual: got 'skip', expected True, False or 'high"),
        ({"projection": 0}, ValueError, "^projection: got 0, expected at least 1"),
        ({"variational_dropout": 1.0}, ValueError, "^variational_dropout: got 1.0, expected a num"),
        ({"weight_drop": 2}, ValueError, "^weight_drop: got 2, expected a number from 0"),
        ({"cell": Echo, "weight_drop": 0.5}, ValueError, "^weight_drop: got 0.5, but Echo has no"),
        ({"zoneout": 1.5}, ValueError, "^zoneout: got 1.5, expected a number from 0"),
    ],
    ids=str,
)
def test_a_wrong_or_contradicting_option_is_refused_by_name(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Recurrent(**({"cell": cells.GRU, "input_size": 3, "hidden_size": 5} | options))


class OwnStart(Echo):
    def initial_state(self, batch_size: int, like: Tensor) -> State:
        return (like.new_ones(batch_size, self.hidden_size),)


def test_a_cell_with_an_initial_state_of_its_own_does_not_learn_another() -> None:
    with pytest.raises(
        ValueError, match=r"^learn_initial_state: .* OwnStart defines initial_state"
    ):
        Recurrent(OwnStart, D, D, learn_initial_state=True)


def broken(**methods: Callable[..., object]) -> type[Cell]:
    return type("Broken", (Echo,), methods)


@pytest.mark.parametrize(
    ("methods", "error", "match"),
    [
        (
            {"step": lambda self, p, s: (p.double(),)},
            TypeError,
            "Broken.step: returned torch.float64, expected torch.float32 as it was given",
        ),
        (
            {"step": lambda self, p, s: [p]},
            TypeError,
            "Broken.step: returned list, expected a tuple",
        ),
        (
            {"step": lambda self, p, s: (p, p)},
            ValueError,
            "Broken.step: returned shapes [3, 4], [3, 4], expected a tuple of tensors [3, 4]",
        ),
        (
            {"project": lambda self, x: x[0]},
            ValueError,
            "Broken.project: returned shape [3, 4], expected [5, 3, P], every dimension of x but",
        ),
        (
            {"project": lambda self, x: None},
            TypeError,
            "Broken.project: returned NoneType, expected",
        ),
        (
            {"noise": lambda self, steps, batch_size, like: like.new_zeros(steps, batch_size, 3)},
            ValueError,
            "Broken.noise: returned shape [5, 3, 3], expected [5 or 1, 3, N], N a multiple of H = 4",
        ),
    ],
)
def test_a_cell_that_breaks_the_contract_is_refused_by_its_name_and_the_rule(
    methods: dict[str, Callable[..., object]], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match="^" + re.escape(match)):
        Recurrent(broken(**methods), D, D)(torch.zeros(T, B, D))


COMPUTING: dict[str, Callable[[nn.Module, str], object]] = {
    "parametrisation": nn.utils.parametrizations.orthogonal,
    "hook": lambda cell, name: prune.random_unstructured(cell, name, 0.3),
}


@pytest.mark.parametrize("compute", COMPUTING.values(), ids=COMPUTING)
def test_weight_drop_drops_entries_of_a_weight_that_is_computed(
    compute: Callable[[nn.Module, str], object],
) -> None:
    layer, plain = (Recurrent(cells.GRU, D, H, weight_drop=0.5).double() for _ in range(2))
    cell, x = layer.cells[0], x_of()
    compute(cell, "weight_hh")
    weight = settled(cell).weight_hh
    for name, parameter in plain.cells[0].named_parameters():
        parameter.data.copy_(weight if name == "weight_hh" else getattr(cell, name))
    (source,) = (p for n, p in cell.named_parameters() if "weight_hh" in n)

    def run(layer: Recurrent, weight: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return collect({"y": layer(x).y}, {"weight": weight})

    got, expected = run(layer, source), run(plain, plain.cells[0].weight_hh)
    (back,) = torch.autograd.grad(
        computed(cell).weight_hh, source, expected["grad of weight"], retain_graph=True
    )
    assert_close_by_name(got, expected | {"grad of weight": back}, T)
    undropped = layer.eval()(x).y
    assert_close_by_name({"y": undropped}, {"y": plain.eval()(x).y}, T)
    assert not torch.allclose(undropped, got["y"])


def test_weight_drop_does_not_silently_pass_over_a_weight_that_is_no_parameter() -> None:
    layer = Recurrent(cells.GRU, D, H, weight_drop=0.5)
    weight = layer.cells[0].weight_hh.detach()
    del layer.cells[0].weight_hh
    layer.cells[0].weight_hh = weight
    with pytest.raises(ValueError, match=r"^weight_drop: .* has no parameter weight_hh"):
        layer(torch.zeros(T, B, D))
    assert layer.eval()(torch.zeros(T, B, D)).y.shape == (T, B, H)
