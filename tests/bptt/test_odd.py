"""What is odd is refused by name, by everything that goes back through time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unrolled import Recurrent, bptt, cells

T, B, D, H = 6, 3, 4, 5
X = torch.randn(T, B, D)
ODD = ["None", "tensor", "text", "class", "Linear", "ModuleList"]
RESETS = torch.zeros(T, B, dtype=torch.bool)


def layer() -> Recurrent:
    return Recurrent(cells.GRU, D, H)


def checkpointed_loss(model: nn.Module, x: Tensor, **options: object) -> Tensor:
    return bptt.checkpointed_loss(model, lambda x: model(x).y.sum(), x, segments=2, **options)


def carried(model: nn.Module, x: Tensor, **options: object) -> None:
    with bptt.Carry(model).window(**options):
        model(x)


RUNS = {
    "truncated": lambda model, x, **o: list(bptt.truncated(model, x, k1=2, k2=4, **o)),
    "checkpointed": lambda model, x, **o: bptt.checkpointed(model, x, segments=2, **o),
    "checkpointed_loss": checkpointed_loss,
    "Carry": carried,
    "RTRL": lambda model, x, **o: bptt.RTRL(model)(x, **o),
    "SnAp1": lambda model, x, **o: bptt.SnAp1(model)(x, **o),
    "UORO": lambda model, x, **o: bptt.UORO(model)(x, **o),
}
each = pytest.mark.parametrize("run", RUNS)


@each
@pytest.mark.parametrize("odd", [None, X, "gru", nn.GRU, nn.Linear(D, H), nn.ModuleList()], ids=ODD)
def test_what_is_no_recurrent_model_is_named(run: str, odd: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(layer|model): got"):
        RUNS[run](odd, X)


@each
@pytest.mark.parametrize(
    "x",
    [
        X.double(),
        X.long(),
        X.to_sparse(),
        X.to("meta"),
        X[..., 1:],
        torch.nested.nested_tensor([X[:2, 0], X[:3, 0]], layout=torch.jagged),
    ],
    ids=["double", "long", "sparse", "meta", "narrow", "nested"],
)
def test_an_odd_input_is_named(run: str, x: Tensor) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(x|sequences): got .*expected"):
        RUNS[run](layer(), x)


@each
@pytest.mark.parametrize(
    "resets",
    [
        RESETS.int(),
        RESETS.tolist(),
        RESETS[:2],
        RESETS.to("meta"),
        RESETS.to_sparse(),
        "text",
    ],
    ids=["int", "list", "short", "meta", "sparse", "text"],
)
def test_odd_resets_are_named(run: str, resets: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^resets: got .*(expected|reads)"):
        RUNS[run](layer(), X, resets=resets)


@pytest.mark.parametrize("run", ["truncated", "checkpointed", "checkpointed_loss", "Carry"])
@pytest.mark.parametrize(
    "lengths",
    [
        [1, 2],
        [-1, 2, 3],
        [T + 1, 2, 3],
        [1.0, 2.0, 3.0],
        torch.ones(B, dtype=torch.int64, device="meta"),
        torch.ones(B, dtype=torch.int64).to_sparse(),
        "abc",
        3,
    ],
    ids=["short", "negative", "beyond", "float", "meta", "sparse", "text", "number"],
)
def test_odd_lengths_are_named(run: str, lengths: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^lengths: got .*(expected|reads)"):
        RUNS[run](layer(), X, lengths=lengths)


LEARNERS: dict[str, Callable[[], object]] = {
    "Carry": lambda: bptt.Carry(layer()),
    "Truncated": lambda: bptt.Truncated(layer(), 2),
    "RTRL": lambda: bptt.RTRL(layer()),
    "UORO": lambda: bptt.UORO(layer()),
}


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("odd", [None, 3, "text", [1], {"a": 1}], ids=str)
def test_what_is_no_saved_state_is_not_loaded(kind: str, odd: object) -> None:
    with pytest.raises(TypeError, match=r"^saved: got .*expected tensors by name"):
        LEARNERS[kind]().load_state_dict(odd)


@pytest.mark.parametrize(
    "odd", ["text", ["a"], [0.5], torch.ones(B, dtype=torch.bool, device="meta")], ids=str
)
@pytest.mark.parametrize("kind", ["Truncated", "RTRL", "UORO"])
def test_odd_rows_are_not_reset(kind: str, odd: object) -> None:
    learner = LEARNERS[kind]()
    learner(X[:2])
    with pytest.raises((TypeError, ValueError), match=r"^rows: got .*expected"):
        learner.reset(odd)


def test_other_arguments_are_named() -> None:
    for odd in (0, "1", True):
        with pytest.raises(TypeError, match=r"^generator: got .*expected a torch.Generator"):
            bptt.Truncated(layer(), 2, generator=odd)
        with pytest.raises(TypeError, match=r"^generator: got .*expected a torch.Generator"):
            bptt.UORO(layer(), generator=odd)
    for odd in (3, [X], "text"):
        with pytest.raises(TypeError, match=r"^initial: got .*expected states by the names"):
            bptt.Carry(layer(), initial=odd)
    for odd in (None, 3):
        with pytest.raises(TypeError, match=r"^loss: got .*expected a function"):
            bptt.checkpointed_loss(layer(), odd, X, segments=2)
    with pytest.raises(TypeError, match=r"^carry: got 3, expected a bptt.Carry"):
        checkpointed_loss(layer(), X, carry=3)
    for kind in (bptt.RTRL, bptt.SnAp1, bptt.UORO):
        with pytest.raises(ValueError, match=r"^layer: got a tensor on meta"):
            kind(layer().to("meta"))
