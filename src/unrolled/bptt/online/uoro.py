"""Unbiased online recurrent optimization: the influence as one random product."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from unrolled.bptt.online.influence import Chunk, Tensors
from unrolled.bptt.online.layer_state import Final, LayerInfluence, Parameters, vector
from unrolled.bptt.online.learner import Learner
from unrolled.layers.recurrent import Recurrent
from unrolled.shapes import check_generator


class UORO(Learner):
    """Unbiased online recurrent optimization: in the mean the whole gradient, at the cost of one step.

    The influence J = ∂s/∂θ of each row is kept as a product s̃ θ̃ᵀ whose mean over random signs ν is J:

        s̃ ← ρ0 (∂s_t/∂s_{t-1}) s̃ + ρ1 ν        θ̃ ← θ̃ / ρ0 + (∂s_t/∂θ)ᵀ ν / ρ1

        ρ0 = √(‖θ̃‖ / (‖(∂s_t/∂s_{t-1}) s̃‖ + ε)) + ε        ρ1 = √(‖(∂s_t/∂θ)ᵀ ν‖ / (‖ν‖ + ε)) + ε

    with ε = 1e-7; ρ0 and ρ1 make the variance least. The gradient is unbiased for weights that stand
    still, and noisy: its variance grows with the number of units. n + P numbers a row, for n of state
    and P parameters; a step costs about one forward pass and four backward. In a chunk of T steps ∂s_t
    stands for the whole chunk, with one ν ("memory-T" in the source): longer chunks, less noise.

    Source: Tallec & Ollivier, "Unbiased Online Recurrent Optimization", ICLR 2018, algorithm 1.

    Args:
        layer: a ``Recurrent``, or an ``RNN``, ``LSTM`` or ``GRU`` of unrolled or ``torch.nn``; of one
            direction.
        generator: draws ν; by default PyTorch's own. ``state_dict`` keeps its state, if there is one.

    Raises:
        TypeError: ``layer`` is none of these.
        ValueError: it is bidirectional, has a ``proj_size``, weights that are computed or nothing to
            learn.
    """

    def __init__(self, layer: nn.Module, *, generator: torch.Generator | None = None) -> None:
        check_generator(generator)
        self.generator = generator
        super().__init__(layer, lambda recurrent: RankOne(recurrent, generator))

    def state_dict(self) -> dict[str, Tensor]:
        saved = super().state_dict()
        if self.generator is not None:
            saved["generator"] = self.generator.get_state()
        return saved

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        super().load_state_dict(saved)
        if self.generator is not None and "generator" in saved:
            self.generator.set_state(saved["generator"])


class RankOne(LayerInfluence):
    """s̃ ``[B, n]``, and for each parameter its part of θ̃, ``[B, *shape]``."""

    form = "rank one"
    epsilon: ClassVar[float] = 1e-7

    def __init__(self, layer: Recurrent, generator: torch.Generator | None) -> None:
        super().__init__(layer)
        self.size, self.generator = self.n + self.count, generator

    def shapes(self, batch_size: int) -> list[tuple[int, ...]]:
        return [(batch_size, self.n), *((batch_size, *shape) for shape in self.reached.values())]

    def signs(self, like: Tensor) -> Tensor:
        """ν: -1 and 1, alike likely, in the shape of ``like``."""
        device = like.device if self.generator is None else self.generator.device
        drawn = torch.randint(2, like.shape, generator=self.generator, device=device)
        return (2 * drawn - 1).to(like)

    def advance(
        self, final: Final, parameters: Parameters, influence: Tensors, chunk: Chunk
    ) -> Tensors:
        def row(
            x: Tensor, resets: Tensor, state: Tensor, tangent: Tensor, signs: Tensor
        ) -> tuple[Tensor, Parameters]:
            back = torch.func.vjp(lambda p, s: final(p, x, resets, s), parameters, state)[1]
            direct, _ = back(signs)
            # u to (∂s_t/∂s_{t-1})ᵀ u is linear, and its own transpose takes the tangent forward
            forth = torch.func.vjp(lambda u: back(u)[1], signs)[1]
            return forth(tangent)[0], direct

        tangent, *past = influence
        signs, epsilon = self.signs(tangent), self.epsilon
        through, direct = torch.func.vmap(row, in_dims=(1, 1, 0, 0, 0))(
            chunk.x.detach(), chunk.resets, vector(chunk.state), tangent, signs
        )
        new = list(direct.values())
        rho_0 = torch.sqrt(_norm(past) / (_norm([through]) + epsilon)) + epsilon
        rho_1 = torch.sqrt(_norm(new) / (_norm([signs]) + epsilon)) + epsilon
        return (
            _scaled(through, rho_0) + _scaled(signs, rho_1),
            *(
                _scaled(old, 1 / rho_0) + _scaled(own, 1 / rho_1)
                for old, own in zip(past, new, strict=True)
            ),
        )

    def pull(self, influence: Tensors, gradients: Tensors) -> Tensors:
        tangent, *past = influence
        reached = (torch.cat(gradients, -1) * tangent).sum(-1)
        return tuple(torch.tensordot(reached, part, 1) for part in past)


def _norm(parts: list[Tensor]) -> Tensor:
    """The 2-norm ``[B]`` of all parts of a row together."""
    return torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0).sqrt()


def _scaled(part: Tensor, factor: Tensor) -> Tensor:
    """Each row of ``part`` times its ``factor`` ``[B]``."""
    return part * factor.view(-1, *[1] * (part.dim() - 1))
