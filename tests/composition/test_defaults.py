"""Whatever the default dtype and device, what is on the CPU in float32 goes on as it was."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import unrolled
from tests.compiler.interpret import Leaky
from tests.sentences import make_run
from unrolled import Recurrent, bptt, cells, lens, remedies
from unrolled.lens.causes import causes_of
from unrolled.lens.lags import estimated_lags
from unrolled.text import pretrained
from unrolled.text.measures import evaluate
from unrolled.text.models import Cloze, fill, why
from unrolled.text.run import TextRun
from unrolled.training import Trainer

# What torch says of its own LSTM, which has no fast path for them.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

T, B, D, H = 6, 3, 4, 5


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


DEFAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": default_device,
    "with meta": lambda: torch.device("meta"),
}


@contextmanager
def ordinary() -> Iterator[None]:
    with default_dtype(torch.float32), torch.device("cpu"):
        yield


def given(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float32, device="cpu").view(shape)


def layer_of(cell: Any = cells.GRU, *, depth: int = 1, **options: Any) -> Recurrent:
    """A layer made under ordinary defaults, whatever they are now."""
    with ordinary():
        torch.manual_seed(0)
        return Recurrent(cell, D, H, depth=depth, **options)


def drop_in_of(kind: str = "LSTM", **options: Any) -> Any:
    with ordinary():
        torch.manual_seed(0)
        return getattr(unrolled, kind)(D, H, **options)


def gradients(layer: nn.Module, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(
        loss, list(layer.parameters()), retain_graph=True, allow_unused=True
    )
    return [g for g in found if g is not None]


# Each makes all that it needs, and returns what it computes; nothing of it may differ by the defaults.


def calls(_: Path) -> Iterator[Any]:
    x, flags = given(T, B, D), given(T, B) > 0.5
    for layer in (
        layer_of(),
        layer_of(cells.LSTM, depth=2, bidirectional=True, layer_norm=True),
        layer_of(cells.LRU),
        layer_of(learn_initial_state=True, backend="reference"),
    ):
        y, state = layer(x, lengths=[6, 2, 0])
        yield y, state, gradients(layer, y.square().sum())
        yield layer(x, mask=flags), layer(given(0, B, D))
        if layer.directions == 1:
            yield layer(x, resets=flags)


def own_cells(_: Path) -> Iterator[Any]:
    layer = layer_of(Leaky)
    y, state = layer(given(T, B, D), lengths=[6, 2, 0])
    found = torch.autograd.grad(y.square().sum(), list(layer.parameters()), create_graph=True)
    yield y, state, found, gradients(layer, torch.stack([g.square().sum() for g in found]).sum())


def drop_ins(_: Path) -> Iterator[Any]:
    x = given(T, B, D)
    for layer in (
        drop_in_of(),
        drop_in_of("GRU", bidirectional=True, num_layers=2),
        drop_in_of("RNN"),
        drop_in_of("LSTM", proj_size=3),
    ):
        packed = nn.utils.rnn.pack_padded_sequence(x, [2, 6, 1], enforce_sorted=False)
        y, state = layer(packed)
        yield tuple(y), state, gradients(layer, y.data.square().sum())
        yield layer(x), layer(x[:, 0])
        if not layer.proj_size:
            yield layer(x, lengths=[6, 2, 0])
            with unrolled.watch(layer) as looking:
                layer(packed)[0].data.square().sum().backward()
            yield str(looking.report())


def chance(_: Path) -> Iterator[Any]:
    for options in (
        {"zoneout": 0.5},
        {"recurrent_dropout": 0.5},
        {"variational_dropout": 0.5},
        {"weight_drop": 0.5},
    ):
        layer = layer_of(**options)
        torch.manual_seed(1)
        yield layer(given(T, B, D))


def quantised(_: Path) -> Iterator[Any]:
    for layer in (layer_of(), layer_of(Leaky), drop_in_of()):
        unrolled.layers.quantize(layer)
        yield layer(given(T, B, D)), list(layer.state_dict().values())


def accelerated(_: Path) -> Iterator[Any]:
    with ordinary():
        torch.manual_seed(0)
        model = nn.Sequential(nn.LSTM(D, H))
    yield unrolled.accelerate(model)(given(T, B, D))
    yield unrolled.layers.restore(model)(given(T, B, D))


def streams(_: Path) -> Iterator[Any]:
    for layer in (layer_of(), drop_in_of(), layer_of(Leaky), drop_in_of("LSTM", proj_size=3)):
        stream = layer.eval().stream(2)
        yield stream(given(2, D)), stream.join(3), stream(given(5, D))
        stream.leave([stream.ids[0]])
        yield stream(given(4, D), resets=given(4) > 0)
        saved = stream.state_dict()
        again = layer.stream(1)
        again.load_state_dict(saved)
        yield stream(given(4, D)), saved, again(given(4, D)), again(given(T, 4, D))


def carried(_: Path) -> Iterator[Any]:
    layer = layer_of(cells.LSTM)
    carry = bptt.Carry(layer)
    flags = given(T, B) > 0.8
    for rows in ([1], given(B) > 0, torch.tensor([0], device="cpu"), None):
        with carry.window(flags):
            yield layer(given(T, B, D))
        yield carry.state_dict()
        carry.reset(rows)


def truncated(_: Path) -> Iterator[Any]:
    for options in ({"k2": 4}, {"k2": 4, "randomised": True}, {}):
        layer, flags = layer_of(), given(8, B) > 0.8
        torch.manual_seed(2)
        for y, _steps in bptt.truncated(
            layer, given(8, B, D), k1=2, lengths=[8, 3, 0], resets=flags, **options
        ):
            y.square().sum().backward()
            yield y
        yield [p.grad for p in layer.parameters()]
    stepper = bptt.Truncated(layer, 4)
    for k, x in enumerate(given(3, 2, B, D)):
        stepper(x, resets=None if k else flags[:2]).sum().backward()
        stepper.reset([1])
    yield stepper.state_dict()


def checkpointed(_: Path) -> Iterator[Any]:
    for layer in (layer_of(), drop_in_of(), layer_of(Leaky)):
        y, _state = bptt.checkpointed(layer, given(20, B, D), lengths=[20, 4, 0], memory=8000)
        yield y, gradients(layer, y.square().sum())


def online(_: Path) -> Iterator[Any]:
    for kind in (bptt.RTRL, bptt.SnAp1, bptt.UORO):
        layer = layer_of()
        torch.manual_seed(4)
        learner = kind(layer)
        for x in given(3, B, D):
            y = learner(x)
            learner.reset([1])
        yield y, gradients(layer, y.sum()), learner.state_dict()
        learner.load_state_dict(learner.state_dict())


def checked(_: Path) -> Iterator[Any]:
    yield str(bptt.gradcheck(layer_of(), given(3, 2, D), given(3, 2, H), entries=2))


def batches(place: Path) -> Iterator[Any]:
    for window in bptt.make_windows(given(23), 2, 3):
        yield window.data, window.resets, window.lengths
    made = make_run(place / "data").dataset()
    for batch in made.batches("train", 300):
        yield tuple(batch)


def reports(_: Path) -> Iterator[Any]:
    model = nn.ModuleList([layer_of(depth=2), layer_of(Leaky), drop_in_of()])
    with unrolled.watch(model) as looking:
        for layer in model:
            layer(given(T, B, D), lengths=[6, 2, 1])[0].sum().backward()
    yield str(looking.report())
    for layer in model:
        yield str(unrolled.explain(layer, given(T, B, D)))


def lenses(_: Path) -> Iterator[Any]:
    x = given(T, B, D)
    for layer in (layer_of(cells.LSTM), drop_in_of("RNN"), layer_of(Leaky)):
        picture = lens.lag_matrix(layer, x)
        yield picture, lens.influence(layer, x), [asdict(c) for c in lens.causes(layer, x)]
        (scan,) = lens.recurrences(layer, x)
        yield estimated_lags(scan, 4), asdict(causes_of(scan, probes=3))
        yield lens.horizon(picture.nanmean(0)), lens.horizon([1.0, 0.1, 0.001])
        yield lens.lyapunov(layer, x, 2), lens.log_condition(layer, x)
        yield str(lens.truncation_bias(layer, x, lambda y, _steps: y.square().sum(), [2, 4]))
    yield str(lens.try_remedies(layer_of(cells.Elman), x))


def activated(layer: Any) -> Any:
    """Drawn anew after the activation is changed, whose check draws as well."""
    layer = remedies.with_activation(layer, "relu")
    torch.manual_seed(3)
    return remedies.sensible_weights_(layer)


def remedied(_: Path) -> Iterator[Any]:
    x = given(T, B, D)
    for remedy in (
        remedies.sensible_weights_,
        remedies.orthogonal_weights_,
        remedies.identity_weights_,
        remedies.glorot_weights_,
        remedies.critical_weights_,
        remedies.as_gru,
        remedies.as_lstm,
        lambda layer: remedies.with_activation(layer, "relu"),
        activated,
        lambda layer: remedies.clip_states_(layer, 0.1),
    ):
        for layer in (layer_of(cells.Elman), drop_in_of("RNN")):
            torch.manual_seed(3)
            layer = remedy(layer)
            y, _state = layer(x)
            yield y, gradients(layer, y.square().sum())
    layer = layer_of(cells.LSTM)
    for chosen in (remedies.forget_bias_, lambda layer: remedies.chrono_bias_(layer, 20)):
        torch.manual_seed(3)
        yield list(chosen(layer).state_dict().values())
    torch.manual_seed(3)
    yield remedies.lyapunov_regularisation(layer, x, 2)
    yield remedies.preserving(layer, x, lambda result: result.y.square().sum())
    yield remedies.clip_value_(layer.parameters(), 0.1), remedies.clip_ratio_(layer.parameters())
    clip = remedies.AutoClip()
    yield clip(layer.parameters())
    layer(x)[0].sum().backward()
    yield clip(layer.parameters()), remedies.clip_norm_(layer.parameters(), 0.1)


def trained(place: Path) -> Iterator[Any]:
    for kind in ("cloze", "lm"):
        run = make_run(place / kind, kind=kind, steps=3, average=0.9, count=60)
        yield Trainer(run).train(watch_every=2).best
        run = TextRun(run.directory)
        Trainer(run).restore()
        model = run.model()
        yield list(model.state_dict().values())
        yield tuple(vars(evaluate(model, run.dataset().batches("validation", 300))).values())
        if kind == "lm":
            yield model.generate([5, 6], longest=4, generator=torch.Generator().manual_seed(0))
        else:
            found = fill(model, run.vocabulary, run.tokenizer, "我____买了一____书", top=2)
            yield [[(c.text, c.probability) for c in blank.candidates] for blank in found.blanks]
            why(model, run.vocabulary, run.tokenizer, "我____书")


def bundled(_: Path) -> Iterator[Any]:
    pretrained.load.cache_clear()
    for text in ("我____书。", "Good ____, everyone!"):
        (blank,) = unrolled.fill(text, top=3).blanks
        yield [(candidate.text, candidate.probability) for candidate in blank.candidates]
    pretrained.load.cache_clear()


WORK = (
    calls, own_cells, drop_ins, chance, quantised, accelerated, streams, carried, truncated,
    checkpointed, online, checked, batches, reports, lenses, remedied, trained, bundled,
)  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Any]:
    return cache(lambda work: list(work(tmp_path_factory.mktemp(work.__name__))))


@pytest.mark.each_value
@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_what_is_there_works_as_under_ordinary_defaults(
    work: Callable[[Path], Iterator[Any]],
    default: str,
    expected: Callable[[Any], Any],
    tmp_path: Path,
) -> None:
    wanted, shape = pytree.tree_flatten(expected(work))
    with DEFAULTS[default]():
        found, got = pytree.tree_flatten(list(work(tmp_path)))
    assert got == shape
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, Tensor):
            torch.testing.assert_close(one, other, equal_nan=True)
        else:
            assert one == (pytest.approx(other, nan_ok=True) if isinstance(other, float) else other)


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Recurrent(cells.LSTM, D, H, depth=2, layer_norm=True, learn_initial_state=True),
        lambda: Recurrent(cells.LRU, D, H),
        lambda: Recurrent(Leaky, D, H),
        lambda: unrolled.GRU(D, H, bidirectional=True),
        lambda: Cloze(20, 5, embedding_size=6),
    ],
    ids=["LSTM", "LRU", "own", "drop-in layer", "model"],
)
def test_what_is_made_under_defaults_is_as_they_say(
    make: Callable[[], nn.Module], default: str
) -> None:
    with DEFAULTS[default]():
        like, made = nn.Linear(2, 2).weight, make()
    assert {(p.dtype, p.device) for p in made.parameters()} == {(like.dtype, like.device)}
