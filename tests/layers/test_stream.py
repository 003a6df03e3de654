"""A stream takes the steps of a whole sequence one by one, and gives the same."""

import io

import pytest
import torch

import unrolled
from tests.compare import assert_close_by_name
from unrolled import Recurrent, cells, layers
from unrolled.scan import native

KINDS = {"RNN": unrolled.RNN, "LSTM": unrolled.LSTM, "GRU": unrolled.GRU}


def stepped(stream, x):
    return torch.stack([stream(x_t) for x_t in x])


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_whole_sequence(kind, bias, depth, dtype, backend):
    layer = KINDS[kind](4, 17, depth, bias=bias, backend=backend, dtype=dtype)
    x = torch.randn(9, 3, 4, dtype=dtype)
    stream = layer.stream(3)
    y, final = layer(x)
    final = final if isinstance(final, tuple) else (final,)
    got = {"y": stepped(stream, x)} | {f"state {i}": s for i, s in enumerate(stream.state)}
    want = {"y": y} | {f"state {i}": s for i, s in enumerate(final)}
    assert_close_by_name(got, {k: v.detach() for k, v in want.items()}, 9)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_state_is_saved_and_restored(backend):
    layer = unrolled.LSTM(4, 7, 2, backend=backend)
    x = torch.randn(8, 2, 4)
    stream = layer.stream(2)
    stepped(stream, x[:5])
    saved = stream.state
    rest = stepped(stream, x[5:])
    other = layer.stream(2)
    stepped(other, x[:2])
    other.state = saved
    assert torch.equal(stepped(other, x[5:]), rest)


def test_outputs_are_the_callers_own():
    stream = unrolled.GRU(4, 7, backend="native").stream(1)
    first = stream(torch.ones(1, 4))
    kept = first.clone()
    for _ in range(3):
        stream(torch.ones(1, 4))
    assert torch.equal(first, kept)


def test_changed_weights_take_effect():
    layer = unrolled.GRU(4, 7, backend="native")
    x = torch.randn(3, 1, 4)
    stream = layer.stream(1)
    stepped(stream, x)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(0.5)
    start = stream.state
    expected, _ = layer(x, start[0])
    assert_close_by_name({"y": stepped(stream, x)}, {"y": expected.detach()}, 3)


def test_replaced_weights_take_effect():
    layer, other = unrolled.LSTM(4, 7, 2), unrolled.LSTM(4, 7, 2)
    x = torch.randn(5, 1, 4)
    stream = layer.stream(1)
    stepped(stream, x[:2])
    start = stream.state
    layer.load_state_dict(other.state_dict(), assign=True)
    expected, _ = other(x[2:], start)
    assert_close_by_name({"y": stepped(stream, x[2:])}, {"y": expected.detach()}, 3)


def test_a_layer_in_the_form_of_torch_has_a_method_for_it() -> None:
    for layer in (unrolled.GRU(4, 7), torch.nn.GRU(4, 7), torch.nn.Linear(4, 7), 3):
        with pytest.raises(TypeError, match=rf"^layer: got {type(layer).__name__}, expected a Rec"):
            layers.Stream(layer)
    for layer in (unrolled.GRU(4, 7), Recurrent(cells.GRU, 4, 7)):
        assert layer.stream().layer is layer


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(ValueError, match="bidirectional"):
        unrolled.GRU(4, 7, bidirectional=True).stream(1)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        unrolled.GRU(4, 7).stream(0)
    stream = unrolled.GRU(4, 7).stream(2)
    with pytest.raises(ValueError, match=r"x: got shape \[1, 4\], expected \[2, 4\]"):
        stream(torch.ones(1, 4))
    with pytest.raises(TypeError, match=r"x: got torch\.float64"):
        stream(torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="state"):
        stream.state = (torch.ones(1, 1, 7),)


# --- Recurrent -----------------------------------------------------------------------------------

OPTIONS = {
    "plain": {"depth": 2},
    "sizes": {"hidden_size": [6, 9]},
    "residual": {"depth": 3, "residual": True, "projection": 4},
    "highway": {"depth": 3, "residual": "highway"},
    "learnt": {"depth": 2, "learn_initial_state": True},
    "normed": {"depth": 2, "layer_norm": True},
    "noisy": {
        "depth": 2,
        "dropout": 0.5,
        "variational_dropout": 0.5,
        "weight_drop": 0.5,
        "recurrent_dropout": 0.5,
        "zoneout": 0.3,
    },
}
CELLS = {"Elman": cells.Elman, "LSTM": cells.LSTM, "GRU": cells.GRU}


def recurrent(cell, options, backend="auto"):
    """A layer in training, whose learnt states are not zero."""
    sizes = {"input_size": 4, "hidden_size": 7}
    layer = unrolled.Recurrent(CELLS[cell], **(sizes | OPTIONS[options]), backend=backend)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "initial" in name:
                parameter.normal_()
    return layer


def whole(layer, x, state=None, resets=None):
    """The layer over all steps, in evaluation and without gradient: y, and the state by name."""
    training = layer.training
    layer.eval()
    with torch.no_grad():
        y, final = layer(x, state, resets=resets)
    layer.train(training)
    return {"y": y} | {f"state {i}": s for i, s in enumerate(final)}


def named(y, stream):
    return {"y": y} | {f"state {i}": s for i, s in enumerate(stream.state)}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_and_chunks_of_any_layer_equal_the_whole_sequence_in_evaluation(
    cell, options, backend
):
    layer = recurrent(cell, options, backend)
    x = torch.randn(9, 3, 4)
    expected = whole(layer, x)
    for sizes in ([1] * 9, [4, 5], [1, 6, 1, 1], [0, 9]):
        stream = layer.stream(3)
        ys = [stream(part[0])[None] if len(part) == 1 else stream(part) for part in x.split(sizes)]
        assert_close_by_name(named(torch.cat(ys), stream), expected, 9)
    assert layer.training and all(module.training for module in layer.modules())
    assert not ys[-1].requires_grad


@pytest.mark.skipif(native.missing() is not None, reason="no kernels")
def test_the_kernels_take_the_steps_wherever_they_know_the_cells():
    assert not [o for o in OPTIONS if recurrent("LSTM", o).stream().reasons]
    assert recurrent("LSTM", "plain", "reference").stream().reasons == (
        'backend="reference" is set',
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["Recurrent", *KINDS])
def test_a_chunk_is_shaped_as_the_layers_own_input(kind, batch_first):
    options = {"batch_first": batch_first}
    layer = (
        unrolled.Recurrent(cells.GRU, 4, 7, **options)
        if kind == "Recurrent"
        else KINDS[kind](4, 7, **options)
    )
    x = torch.randn(3, 5, 4) if batch_first else torch.randn(5, 3, 4)
    y = layer(x)[0].detach()
    assert_close_by_name({"y": layer.stream(3)(x)}, {"y": y}, 5)
    stream = layer.stream(3)
    steps = [stream(x_t) for x_t in x.unbind(1 if batch_first else 0)]
    assert_close_by_name({"y": torch.stack(steps, 1 if batch_first else 0)}, {"y": y}, 5)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", ["plain", "learnt", "residual"])
def test_resets_start_sequences_anew_in_a_step_or_in_a_chunk(options, backend):
    layer = recurrent("LSTM", options, backend)
    x, resets = torch.randn(8, 3, 4), torch.zeros(8, 3).bool()
    resets[0, 2] = resets[3, 1] = resets[3, 2] = resets[7, 0] = True
    layer.backend = "auto"
    expected = whole(layer, x, resets=resets)
    layer.backend = backend
    stream = layer.stream(3)
    assert_close_by_name(named(stream(x, resets=resets), stream), expected, 8)
    stream = layer.stream(3)
    ys = [stream(x_t, resets=r) for x_t, r in zip(x, resets, strict=True)]
    assert_close_by_name(named(torch.stack(ys), stream), expected, 8)


def test_a_drop_in_starts_anew_too():
    layer = unrolled.LSTM(4, 7)
    x, resets = torch.randn(6, 2, 4), torch.zeros(6, 2).bool()
    resets[4, 1] = True
    y = layer.stream(2)(x, resets=resets)
    expected = torch.cat([layer(x[:4])[0], layer(x[4:])[0]])[:, 1]
    assert_close_by_name({"y": y[:, 1]}, {"y": expected.detach()}, 6)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "Recurrent"])
def test_what_is_saved_in_a_file_goes_on_elsewhere(kind):
    layer = recurrent("LSTM", "sizes") if kind == "Recurrent" else KINDS[kind](4, 7, 2)
    x = torch.randn(8, 3, 4)
    stream = layer.stream(2)
    stream.join()
    stream.leave([0])
    stream(x[:5, :2])
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    rest = stream(x[5:, :2])
    file.seek(0)
    other = layer.stream(1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.ids == [1, 2]
    assert torch.equal(other(x[5:, :2]), rest)
    assert other.join() == [3]
    with pytest.raises(ValueError, match=r"^state: got shapes"):
        unrolled.LSTM(4, 3).stream().load_state_dict(stream.state_dict())


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["LSTM", "plain", "learnt", "highway"])
def test_sequences_that_join_and_leave_touch_no_other(kind, backend):
    layer = (
        unrolled.LSTM(4, 7, backend=backend) if kind == "LSTM" else recurrent("GRU", kind, backend)
    )
    generator = torch.Generator().manual_seed(1)
    stream = layer.stream(2)
    heard = {0: [], 1: []}
    said = {0: [], 1: []}
    for t in range(40):
        drawn = int(torch.randint(4, (), generator=generator))
        if drawn == 0 or not stream.ids:
            for number in stream.join(1 + t % 5):
                assert number not in heard
                heard[number], said[number] = [], []
        elif drawn == 1:
            stream.leave(stream.ids[:: 1 + t % 3])
        x = torch.randn(stream.batch_size, 4, generator=generator)
        y = stream(x)
        for row, number in enumerate(stream.ids):
            heard[number].append(x[row])
            said[number].append(y[row])
    assert len(heard) > 20
    layer.eval()
    for number, own in heard.items():
        if own:
            y = layer(torch.stack(own).unsqueeze(1))[0][:, 0].detach()
            assert_close_by_name({"y": torch.stack(said[number])}, {"y": y}, 40)


def test_memory_grows_by_doubling_and_shrinks_again():
    stream = unrolled.Recurrent(cells.GRU, 4, 7).stream(1)
    prepared = []
    prepare = stream._prepare
    stream._prepare = lambda: (prepared.append(1), prepare())
    for _ in range(999):
        stream.join()
    assert stream.batch_size == 1000
    assert len(prepared) == 10  # 2, 4, … 1024 rows
    stream.leave(stream.ids[1:])
    for _ in range(20):
        stream.leave(stream.join())
    assert stream._room < 16
    stream.leave(stream.ids)
    assert stream(torch.zeros(0, 4)).shape == (0, 7)
    assert stream(torch.zeros(3, 0, 4)).shape == (3, 0, 7)
    assert stream.join() == [1020]


def test_changed_weights_of_a_recurrent_layer_take_effect():
    layer = recurrent("LSTM", "plain")
    x = torch.randn(5, 1, 4)
    stream = layer.stream(1)
    stepped(stream, x[:2])
    start = stream.state
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(0.5)
    assert_close_by_name({"y": stepped(stream, x[2:])}, {"y": whole(layer, x[2:], start)["y"]}, 3)


def test_what_a_recurrent_stream_refuses():
    with pytest.raises(ValueError, match="bidirectional"):
        unrolled.Recurrent(cells.GRU, 4, 7, bidirectional=True).stream()
    with pytest.raises(RuntimeError, match=r"^backend: got .native., but x is torch.float16"):
        unrolled.Recurrent(cells.GRU, 4, 7, backend="native").half().stream()
    stream = unrolled.Recurrent(cells.GRU, 4, 7).stream(2)
    with pytest.raises(
        ValueError, match=r"^x: got shape \[5, 3, 4\], expected \[2, 4\], or \[T, 2,"
    ):
        stream(torch.zeros(5, 3, 4))
    with pytest.raises(ValueError, match=r"^ids: got \[7\], expected some of those in stream.ids"):
        stream.leave([1, 7])
    assert stream.ids == [0, 1]
    with pytest.raises(ValueError, match=r"^count: got 0"):
        stream.join(0)
    with pytest.raises(TypeError, match=r"^resets: got torch.float32, expected a boolean"):
        stream(torch.zeros(2, 4), resets=torch.zeros(2))
    with pytest.raises(ValueError, match=r"^resets: got shape \[1, 3\], expected \[1, 2\]"):
        stream(torch.zeros(2, 4), resets=torch.zeros(3).bool())


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_bare_it_takes_the_same_steps_to_the_bit(kind, depth, backend):
    layer = KINDS[kind](4, 17, depth, backend=backend)
    x = torch.randn(9, 1, 4)
    expected = stepped(layer.stream(), x)
    stream = layer.stream()
    bare = stream.bare()
    for t in range(9):
        bare.x[:] = x[t, 0].numpy()
        assert torch.equal(torch.from_numpy(bare.step()), expected[t, 0])
    other = layer.stream()
    stepped(other, x)
    assert all(torch.equal(a, b) for a, b in zip(stream.state, other.state, strict=True))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("depth", [1, 2])
def test_bare_it_steps_sequences_in_turn(depth, backend):
    layer = Recurrent(cells.LSTM, 4, 7, depth=depth, backend=backend)
    x = torch.randn(8, 2, 4)
    expected = [stepped(layer.stream(), x[:, k : k + 1]) for k in range(2)]
    bare = layer.stream().bare()
    states = [bare.state, bare.state]
    for t in range(8):
        for k in [0, 1] if t % 3 else [1, 0]:
            bare.state = states[k]
            bare.x[:] = x[t, k].numpy()
            assert torch.equal(torch.from_numpy(bare.step()), expected[k][t, 0])
            states[k] = bare.state
    shapes = [s.shape for s in states[0]]
    assert shapes == [(7,)] * 2 * depth


def test_bare_it_is_of_one_sequence():
    with pytest.raises(
        ValueError, match=r"stream: got 2 sequences on cpu, expected one on the CPU"
    ):
        unrolled.GRU(4, 7).stream(2).bare()
