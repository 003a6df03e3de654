"""The same layers in ONNX Runtime: one RNN, LSTM or GRU operator, with ``torch.nn``'s weights.

ONNX orders the gates otherwise: i, o, f, c for LSTM and z, r, h for GRU. ``linear_before_reset`` asks
for the GRU of ``torch.nn``, whose reset gate comes after the product.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from benchmarks.layers.measuring import Contestant, quickest

ORDER = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}  # ONNX's gates, in torch.nn's numbers
OPSET, IR_VERSION = 17, 8


def graph(cell: str, layer: nn.RNNBase, steps: int, batch_size: int, *, states: bool) -> bytes:
    """A model of ``x`` ``[T, B, D]`` to ``y`` ``[T, B, S*H]``, all sizes fixed.

    With ``states``: of one direction, with h and c as inputs too, to ``h_n`` and ``c_n``.
    """
    D, H = layer.input_size, layer.hidden_size
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    S = len(suffixes)

    def stacked(name: str) -> np.ndarray[Any, Any]:
        """``[S, G*H, ...]``, the gates in ONNX's order."""
        tensors = [getattr(layer, f"{name}_l0{suffix}").detach() for suffix in suffixes]
        gates = [t.chunk(len(ORDER[cell])) for t in tensors]
        return torch.stack([torch.cat([g[k] for k in ORDER[cell]]) for g in gates]).numpy()

    constants = {
        "W": stacked("weight_ih"),
        "R": stacked("weight_hh"),
        "B": np.concatenate([stacked("bias_ih"), stacked("bias_hh")], 1),
    }
    options: dict[str, Any] = {
        "hidden_size": H,
        "direction": "bidirectional" if S == 2 else "forward",
    }
    if cell == "GRU":
        options["linear_before_reset"] = 1
    state = [S, batch_size, H]
    inputs = {"x": [steps, batch_size, D]}
    if states:
        inputs |= {"h": state, "c": state}
        outputs = {"h_n": state, "c_n": state}
        nodes = [
            helper.make_node(
                cell, ["x", "W", "R", "B", "", "h", "c"], ["", "h_n", "c_n"], **options
            )
        ]
    else:
        constants["shape"] = np.array([steps, batch_size, S * H])
        outputs = {"y": [steps, batch_size, S * H]}
        nodes = [
            helper.make_node(cell, ["x", "W", "R", "B"], ["separate"], **options),  # [T, S, B, H]
            helper.make_node("Transpose", ["separate"], ["together"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["together" if S == 2 else "separate", "shape"], ["y"]),
        ]
        if S == 1:
            del nodes[1]
    made = helper.make_graph(
        nodes,
        cell,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def held(array: np.ndarray[Any, Any]) -> Any:
    """``array`` as ONNX Runtime's value, in the same memory."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def inference(cell: str, layer: nn.RNNBase, x: Tensor) -> Contestant:
    """A plain run, or one with bound input and output, whichever is quicker."""
    T, B, _ = x.shape
    made = session(graph(cell, layer, T, B, states=False))
    y = np.empty((T, B, layer.hidden_size * (2 if layer.bidirectional else 1)), np.float32)
    binding = made.io_binding()
    binding.bind_ortvalue_input("x", held(x.numpy()))
    binding.bind_ortvalue_output("y", held(y))

    def bound() -> Any:
        made.run_with_iobinding(binding)
        return y

    def plain() -> Any:
        return made.run(["y"], {"x": x.numpy()})[0]

    ways = {"plain run": plain, "io binding": bound}
    way = quickest(ways)
    return Contestant(
        "ONNX Runtime",
        ways[way],
        lambda array: {"y": torch.from_numpy(array.copy())},
        {"way": way},
    )


def lstm_stepper(
    layer: nn.RNNBase, bound: bool, batch_size: int = 1
) -> Callable[[], Callable[[Any], Any]]:
    """Makes streams of one step, an array ``[1, B, D]`` to one ``[1, B, H]``, from a zero state.

    With plain runs, or with bound memory: two buffers for the state, which take turns.
    """
    D, H = layer.input_size, layer.hidden_size
    made = session(graph("LSTM", layer, 1, batch_size, states=True))

    def plain() -> Callable[[Any], Any]:
        h = c = np.zeros((1, batch_size, H), np.float32)

        def next_output(x: Any) -> Any:
            nonlocal h, c
            h, c = made.run(["h_n", "c_n"], {"x": x, "h": h, "c": c})
            return h

        return next_output

    def with_bindings() -> Callable[[Any], Any]:
        x_held = np.zeros((1, batch_size, D), np.float32)
        buffers = [[np.zeros((1, batch_size, H), np.float32) for _ in "hc"] for _ in range(2)]
        bindings = []
        for before, after in (buffers, buffers[::-1]):
            binding = made.io_binding()
            binding.bind_ortvalue_input("x", held(x_held))
            for name, old, new in zip("hc", before, after, strict=True):
                binding.bind_ortvalue_input(name, held(old))
                binding.bind_ortvalue_output(f"{name}_n", held(new))
            bindings.append((binding, after[0]))
        turns = itertools.cycle(bindings)

        def next_output(x: Any) -> Any:
            x_held[...] = x
            binding, h = next(turns)
            made.run_with_iobinding(binding)
            return h

        return next_output

    return with_bindings if bound else plain
