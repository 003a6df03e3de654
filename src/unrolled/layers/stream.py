"""One step at a time: a layer that keeps its own state between calls."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.layers.twins import KERNELS, Twin, obstacles, weights_of
from unrolled.scan.operators import Step, Weights
from unrolled.shapes import check_size, check_state


class Stream:
    """A twin taken one step a call, without gradient: ``y_t = stream(x_t)``.

    The state stays inside. With the kernels nothing is allocated or packed again at a step. Weights
    that an optimizer or ``load_state_dict`` changes take effect at the next one; a change through
    ``weight.data`` in place, or of weights that a parametrization computes, cannot be seen.

        >>> import torch, unrolled
        >>> layer = unrolled.LSTM(3, 5)
        >>> x = torch.randn(7, 2, 3)
        >>> stream = layer.stream(2)
        >>> y = torch.stack([stream(x_t) for x_t in x])
        >>> torch.allclose(y, layer(x)[0], atol=1e-6)
        True

    Args:
        layer: a twin of one direction.
        lanes: B, the sequences stepped together.

    Raises:
        ValueError: the layer is bidirectional: its backward direction needs the future.
        RuntimeError: the layer has ``backend="native"``, and the kernels cannot run it.
    """

    reasons: tuple[str, ...]
    """Why the kernels do not run it, a line each; empty if they do."""

    def __init__(self, layer: Twin, lanes: int = 1) -> None:
        if layer.bidirectional:
            raise ValueError("layer: got a bidirectional one, whose backward half needs the future")
        self.lanes = check_size("lanes", lanes)
        self.layer = layer
        self._shape = torch.Size((lanes, layer.input_size))
        self._state: State | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Choose the path, and fix the kernels' addresses."""
        layer, weights = self.layer, weights_of(self.layer)
        reasons = ['backend="reference" is set'] if layer.backend == "reference" else []
        reasons = reasons or obstacles(layer, weights)
        if reasons and layer.backend == "native":
            raise RuntimeError("backend: got 'native', but " + "; ".join(reasons))
        self.reasons = tuple(reasons)
        self._like = weights[0][0]
        self._seen = self._signature()
        self._steps: list[Step] = []
        if not reasons:
            below = None
            for group in weights:
                given = Weights(*group, *[None] * (4 - len(group)))
                below = Step(KERNELS[layer.mode], given, self.lanes, below)
                self._steps.append(below)
            self._x = self._steps[0].x

    def _signature(self) -> list[int]:
        """What changes when an optimizer, a loaded state dict or a move changes the weights."""
        seen: list[int] = []
        for weight in self.layer._parameters.values():
            if weight is not None:
                seen += (weight._version, weight.data_ptr())
        return seen

    def __call__(self, x: Tensor) -> Tensor:
        """Take one step: ``x`` ``[B, D]`` to the output ``[B, H]``.

        Raises:
            ValueError, TypeError: ``x`` has another shape, dtype or device.
        """
        if x.shape != self._shape:
            raise ValueError(f"x: got shape {list(x.shape)}, expected {list(self._shape)}")
        if x.dtype is not self._like.dtype or x.device != self._like.device:
            expected = f"{self._like.dtype} on {self._like.device}"
            raise TypeError(f"x: got {x.dtype} on {x.device}, expected {expected} as the weights")
        if self._signature() != self._seen:
            state = self.state
            self._prepare()
            self.state = state
        with torch.no_grad():
            if not self._steps:
                return self._by_reference(x)
            self._x.copy_(x)
            for step in self._steps:
                y = step.run()
            return y.clone()

    def _by_reference(self, x: Tensor) -> Tensor:
        layer, hx = self.layer, self._state
        x = x.unsqueeze(1 if layer.batch_first else 0)
        given = None if hx is None else hx if layer.mode == "LSTM" else hx[0]
        y, final = super(Twin, layer).forward(x, given)
        self._state = final if isinstance(final, tuple) else (final,)
        return cast(Tensor, y.squeeze(1 if layer.batch_first else 0))

    @property
    def state(self) -> State:
        """A copy of the state, one ``[L, B, size]`` for each state tensor; set it to go on from there."""
        if self._steps:
            layers = zip(*(step.state for step in self._steps), strict=True)
            return tuple(torch.stack(tensors) for tensors in layers)
        if self._state is not None:
            return tuple(s.clone() for s in self._state)
        return tuple(self._like.new_zeros(shape) for shape in self._shapes())

    @state.setter
    def state(self, state: Sequence[Tensor]) -> None:
        given = check_state(state, self._shapes(), self._like)
        given = tuple(s.detach().clone() for s in given)
        self._state = given
        for k, step in enumerate(self._steps):
            for target, s in zip(step.state, given, strict=True):
                target.copy_(s[k])

    def _shapes(self) -> list[tuple[int, ...]]:
        layer = self.layer
        output = layer.proj_size or layer.hidden_size
        widths = (output, layer.hidden_size) if layer.mode == "LSTM" else (output,)
        return [(layer.num_layers, self.lanes, width) for width in widths]
