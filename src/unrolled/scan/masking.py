"""Steps that a sequence skips: its real steps move to the front, and what was computed moves back."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Masking:
    """A scan over the real steps alone, of which each sequence may have others.

    What is left after moving them to the front, in the order of time, is a batch with ``lengths``.

        >>> masking = Masking(torch.tensor([[False], [True], [True]]))
        >>> masking.lengths, masking.compact(torch.tensor([[[1.0]], [[2.0]], [[3.0]]])).flatten()
        (tensor([2]), tensor([2., 3., 1.]))
        >>> masking.spread(torch.tensor([[[20.0]], [[30.0]], [[0.0]]])).flatten()
        tensor([ 0., 20., 30.])

    Args:
        mask: boolean ``[T, B]``, true where the step is real.
        device: where what is moved lies; by default where ``mask`` does.
    """

    def __init__(self, mask: Tensor, device: torch.device | None = None) -> None:
        self.lengths = mask.sum(0)
        order = mask.logical_not().to(torch.uint8).argsort(dim=0, stable=True)
        self._order = order.to(device)
        self._back = self._order.argsort(dim=0)

    def compact(self, x: Tensor) -> Tensor:
        """Each sequence's real steps of ``x`` ``[T, B, size]`` first, the skipped ones after them."""
        return _gather(x, self._order)

    def spread(self, y: Tensor) -> Tensor:
        """The inverse of ``compact``: each step of ``[T, B, size]`` back at its time."""
        return _gather(y, self._back)

    def resets(self, resets: Tensor) -> Tensor:
        """``resets`` ``[T, B]`` of the real steps: one at a skipped step takes effect at the next real."""
        so_far = resets.cumsum(0).gather(0, self._order)
        return so_far.diff(dim=0, prepend=torch.zeros_like(so_far[:1])) > 0

    def write_norms(
        self, compacted: Sequence[Tensor], norms: Sequence[Tensor], results: Sequence[Tensor]
    ) -> None:
        """Let the backward pass, which writes the ``compacted`` ``[T, B]``, at its end write ``norms``."""

        def write() -> None:
            for target, norm in zip(norms, compacted, strict=True):
                target.copy_(norm.gather(0, self._back))

        def at_the_end(_: Tensor) -> None:
            torch.autograd.Variable._execution_engine.queue_callback(write)

        for result in results:
            if result.requires_grad:
                result.register_hook(at_the_end)  # type: ignore[no-untyped-call]


def _gather(x: Tensor, times: Tensor) -> Tensor:
    return x.gather(0, times.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
