"""The same layers in JAX, as one would write them there.

The projection of all steps is one product outside ``lax.scan``; weights lie as Flax's do, ``[D, G*H]``
and ``[H, G*H]``; ``value_and_grad`` and ``jit`` are over the whole. (Unrolling the scan, or keeping
PyTorch's layout, is no quicker on a CPU.)
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from jax import lax
from jax import numpy as jnp
from torch import Tensor, nn

from benchmarks.layers.measuring import Contestant, Values

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def project(cell: str, weights: Any, x: Any) -> Any:
    """All that does not depend on the state: ``[..., D]`` to ``[..., G*H]``."""
    projected = x @ weights["weight_ih"] + weights["bias_ih"]
    return projected if cell == "GRU" else projected + weights["bias_hh"]


def step(cell: str, weights: Any, state: Any, projected: Any) -> tuple[Any, Any]:
    """The next state, and the output."""
    w = weights["weight_hh"]
    if cell == "RNN":
        h = jnp.tanh(projected + state @ w)
        return h, h
    if cell == "LSTM":
        h, c = state
        i, f, g, o = jnp.split(projected + h @ w, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h
    p_r, p_z, p_n = jnp.split(projected, 3, -1)
    w_r, w_z, w_n = jnp.split(state @ w + weights["bias_hh"], 3, -1)
    z = jax.nn.sigmoid(p_z + w_z)
    n = jnp.tanh(p_n + jax.nn.sigmoid(p_r + w_r) * w_n)
    h = n + z * (state - n)
    return h, h


def run(cell: str, directions: Any, x: Any) -> Any:
    """The outputs ``[T, B, S*H]``; the second direction's weights read backwards."""
    outputs = []
    for k, weights in enumerate(directions):
        zero = jnp.zeros((x.shape[1], weights["weight_hh"].shape[0]), x.dtype)
        start = (zero, zero) if cell == "LSTM" else zero

        def at(state: Any, projected: Any, weights: Any = weights) -> tuple[Any, Any]:
            return step(cell, weights, state, projected)

        _, y = lax.scan(at, start, project(cell, weights, x), reverse=k == 1)
        outputs.append(y)
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, -1)


def prepare(threads: int) -> None:
    """Before JAX is first used: the size of its pool, and calls that do not change threads.

    Dispatched to another thread, as JAX does by default, a small call takes longer by up to 40 µs.
    """
    os.environ["NPROC"] = str(threads)
    jax.config.update("jax_cpu_enable_async_dispatch", False)


@cache
def compiled(cell: str, mode: str) -> Any:
    def loss(directions: Any, x: Any, cotangent: Any) -> tuple[Any, Any]:
        y = run(cell, directions, x)
        return (y * cotangent).sum(), y

    if mode == "training":
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return jax.jit(lambda directions, x: run(cell, directions, x))


def weights_of(layer: nn.RNNBase) -> list[dict[str, Any]]:
    """The weights of ``torch.nn``'s layer, a dictionary for each direction."""
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    return [
        {name: given(turned(getattr(layer, f"{name}_l0{suffix}").detach())) for name in NAMES}
        for suffix in suffixes
    ]


def turned(weight: Tensor) -> Tensor:
    """From ``torch.nn``'s layout to Flax's, or back; biases are the same in both."""
    return weight.T if weight.dim() == 2 else weight


def given(tensor: Tensor) -> Any:
    return jnp.asarray(np.ascontiguousarray(tensor.numpy()))


def taken(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def training(cell: str, layer: nn.RNNBase, x: Tensor, cotangent: Tensor) -> Contestant:
    function = compiled(cell, "training")
    arguments = weights_of(layer), given(x), given(cotangent)

    def read(result: Any) -> Values:
        (_, y), (directions, gradient_of_x) = result
        values = {"y": taken(y), "gradient of x": taken(gradient_of_x)}
        for suffix, gradients in zip(("", "_reverse"), directions, strict=False):
            for name in NAMES:
                values[f"gradient of {name}_l0{suffix}"] = turned(taken(gradients[name]))
        return values

    return Contestant("JAX", lambda: jax.block_until_ready(function(*arguments)), read)


def inference(cell: str, layer: nn.RNNBase, x: Tensor) -> Contestant:
    function, arguments = compiled(cell, "inference"), (weights_of(layer), given(x))
    return Contestant(
        "JAX",
        lambda: jax.block_until_ready(function(*arguments)),
        lambda y: {"y": taken(y)},
    )


def lstm_stepper(layer: nn.RNNBase, constant: bool) -> Callable[[], Callable[[Any], Any]]:
    """Makes streams of one step ``[1, D]`` to ``[1, H]``, from a zero state.

    The weights are constants of the compiled function, or arguments of it.
    """
    (weights,) = weights_of(layer)

    def one(weights: Any, state: Any, x: Any) -> tuple[Any, Any]:
        return step("LSTM", weights, state, project("LSTM", weights, x))

    with_arguments = jax.jit(one)
    with_constants = jax.jit(lambda state, x: one(weights, state, x))

    def stream() -> Callable[[Any], Any]:
        zero = jnp.zeros((1, layer.hidden_size))
        state: Any = (zero, zero)

        def next_output(x: Any) -> Any:
            nonlocal state
            state, y = with_constants(state, x) if constant else with_arguments(weights, state, x)
            return y.block_until_ready()

        return next_output

    return stream
