"""One step of an LSTM for one sequence, T = B = 1, D = H = 128, the state carried on."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.layers import on_torch
from benchmarks.layers.measuring import Contestant, Problem, Row, compare, quickest, timed
from benchmarks.layers.peers import installed

PROBLEM = Problem("streaming", "LSTM", 1, 1, 128, 1, "inference")
INPUTS = 64

Stream = Callable[[], Callable[[Any], Any]]  # makes a step that starts from a zero state


@torch.no_grad()
def measure(rounds: int) -> list[Row]:
    layer = on_torch.layer_of(PROBLEM)
    xs = list(torch.randn(INPUTS, 1, PROBLEM.size, generator=torch.Generator().manual_seed(0)))
    way, stream = unrolled_stream(on_torch.drop_in_of(layer, "LSTM").eval())
    checked = [outputs("torch.nn.LSTMCell", cell_stream(layer), xs, torch.clone)]
    contestants = [contestant("torch.nn.LSTMCell", {"": cell_stream(layer)}, xs)]
    checked.append(outputs("unrolled", stream, xs, torch.clone))
    contestants.append(contestant("unrolled", {way: stream}, xs))
    if installed("ONNX Runtime"):
        from benchmarks.layers import on_onnx

        arrays = [x.reshape(1, 1, -1).numpy() for x in xs]
        ways = {
            "plain run": on_onnx.lstm_stepper(layer, bound=False),
            "io binding": on_onnx.lstm_stepper(layer, bound=True),
        }
        for ort in ways.values():
            checked.append(
                outputs("ONNX Runtime", ort, arrays, lambda y: torch.from_numpy(y[0].copy()))
            )
        contestants.append(contestant("ONNX Runtime", ways, arrays))
    if installed("JAX"):
        from benchmarks.layers import on_jax

        arrays = [on_jax.given(x) for x in xs]
        ways = {
            "weights as arguments": on_jax.lstm_stepper(layer, constant=False),
            "weights as constants": on_jax.lstm_stepper(layer, constant=True),
        }
        checked += [outputs("JAX", jax, arrays, on_jax.taken) for jax in ways.values()]
        contestants.append(contestant("JAX", ways, arrays))
    compare(PROBLEM, checked)
    return timed(PROBLEM, contestants, rounds)


def outputs(name: str, stream: Stream, xs: list[Any], read: Callable[[Any], Tensor]) -> Contestant:
    """All outputs of a stream, for the comparison: each is read before the next step."""

    def call() -> Tensor:
        step = stream()
        return torch.stack([read(step(x)) for x in xs])

    return Contestant(name, call, lambda ys: {"y of all steps": ys})


def contestant(name: str, ways: dict[str, Stream], xs: list[Any]) -> Contestant:
    """One step of the quickest way, the inputs in turn."""

    def going(stream: Stream) -> Callable[[], Any]:
        step, turns = stream(), itertools.cycle(xs)
        return lambda: step(next(turns))

    calls = {way: going(stream) for way, stream in ways.items()}
    way = quickest(calls)
    return Contestant(name, calls[way], lambda _: {}, {"way": way} if way else {})


def cell_stream(layer: nn.RNNBase, batch_size: int = 1) -> Stream:
    cell = nn.LSTMCell(layer.input_size, layer.hidden_size)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})

    def stream() -> Callable[[Any], Any]:
        h = c = torch.zeros(batch_size, layer.hidden_size)

        def step(x: Tensor) -> Any:
            nonlocal h, c
            h, c = cell(x, (h, c))
            return h

        return step

    return stream


def unrolled_stream(layer: Any) -> tuple[str, Stream]:
    """``layer.stream(1)`` if there is such a method, else calls of the layer with its state."""
    if hasattr(layer, "stream"):
        return "stream", lambda: layer.stream(1)

    def stream() -> Callable[[Any], Any]:
        state = None

        def step(x: Tensor) -> Any:
            nonlocal state
            y, state = layer(x.unsqueeze(0), state)
            return y[0]

        return step

    return "calls of the layer", stream
