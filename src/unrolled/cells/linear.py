"""Linear recurrences, h_t = a_t ⊙ h_{t-1} + b_t, for all steps at once."""

import torch
from torch import Tensor

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State


def linear_scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """Every h_t of h_t = a_t ⊙ h_{t-1} + b_t, where h_{-1} is ``start``.

    By doubling: after k rounds each entry holds the last 2^k steps, as the pair (Π a, what they add).
    That is log₂ T rounds over all steps, instead of T rounds over one; it takes about log₂ T times
    the work and, for the gradient, the memory. Nothing is divided and no logarithm taken, so signs
    and zeros are free, and for ``|a|`` ≤ 1 the error grows only as log T.

        >>> a, b = torch.full((4, 1), 0.5), torch.ones(4, 1)
        >>> linear_scan(a, b, torch.tensor([8.0])).flatten().tolist()
        [5.0, 3.5, 2.75, 2.375]

    Args:
        a: ``[T, ...]``, real or complex, T at least 1.
        b: as a.
        start: ``[...]``, as one step of b.

    Returns:
        ``[T, ...]``.

    Source: Hillis & Steele, "Data Parallel Algorithms", Communications of the ACM 29 (1986); for
    recurrences Blelloch, "Prefix Sums and Their Applications" (1990).
    """
    h = torch.cat([a[:1] * start + b[:1], b[1:]])
    reach = 1
    while reach < len(h):
        h = torch.cat([h[:reach], h[reach:] + a[reach:] * h[:-reach]])
        a = torch.cat([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return h


class LinearCell(AffineCell):
    """A cell whose step is h_t = a_t ⊙ h_{t-1} + b_t, with a and b of the input alone.

    A subclass defines ``coefficients``; the step and its parallel form follow. State: ``(h,)``,
    ``[B, H]``.
    """

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """The pair a, b, each ``[..., H]``, of ``projected`` ``[..., P]``."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(projected)")

    def step(self, projected: Tensor, state: State) -> State:
        """h_t = a_t ⊙ h_{t-1} + b_t."""
        (h,) = state
        a, b = self.coefficients(projected)
        return (a * h + b,)

    def parallel(self, projected: Tensor, state: State) -> State:
        """The same for all steps, by ``linear_scan``."""
        return (linear_scan(*self.coefficients(projected), state[0]),)
