"""A linear-chain conditional random field: the probability of whole sequences of tags."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unrolled.shapes import Lengths, check_lengths, check_size, real_steps

MOST_TAGS = 1 << 12
FLOOR = -1e30  # the score of what is impossible, where infinity would make 0 · ∞
WIDEST_GAP = (
    600.0  # nats between the likeliest and the unlikeliest tag; exp underflows in float64 at 745
)
SLOWEST = 8  # steps in which every tag must be reachable from every other, or none is counted on

Floats = NDArray[np.floating]


class Allowed(NamedTuple):
    """Which paths there are, as booleans: ``start`` and ``end`` ``[K]``, ``transition`` ``[from, to]``."""

    start: Tensor
    transition: Tensor
    end: Tensor


class Decoded(NamedTuple):
    """The best paths: ``tags`` ``[T, B]``, int64, -1 beyond a sequence's length; ``scores`` ``[B]``."""

    tags: Tensor
    scores: Tensor


class LinearChainCRF(nn.Module):
    """p(y | x) = exp(score(x, y)) / Z(x), over all sequences y of tags, of

    score(x, y) = start[y_0] + Σ_t x_t[y_t] + Σ_{t>0} transition[y_{t-1}, y_t] + end[y_{T-1}].

    Z is the sum over all paths by the forward algorithm, its gradient the marginals by
    forward-backward, the best path that of Viterbi. A sequence of no step has one path: Z = 1.

    Source: Lafferty, McCallum & Pereira, "Conditional Random Fields", ICML 2001; Sutton & McCallum,
    "An Introduction to Conditional Random Fields", 2012, sections 4.1 to 4.3; on a bidirectional LSTM:
    Huang, Xu & Yu, "Bidirectional LSTM-CRF Models for Sequence Tagging", 2015.

        >>> import torch
        >>> crf = LinearChainCRF(3)
        >>> x = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]])  # [T, B, K]
        >>> crf.decode(x).tags.T.tolist()
        [[0, 2]]

    Args:
        tags: K, how many there are.
        allowed: which paths there are; by default all. Others have the probability 0.

    Raises:
        TypeError, ValueError: ``allowed`` is not of K tags, or lets no path begin or end.
    """

    transition_allowed: Tensor
    start_allowed: Tensor
    end_allowed: Tensor

    def __init__(self, tags: int, *, allowed: Allowed | None = None) -> None:
        super().__init__()
        self.tags = check_size("tags", tags, most=MOST_TAGS)
        self.start = nn.Parameter(torch.zeros(tags))
        self.transition = nn.Parameter(torch.zeros(tags, tags))
        self.end = nn.Parameter(torch.zeros(tags))
        self.is_constrained = allowed is not None
        self.mixing: int | None = 1
        if allowed is not None:
            _check_allowed(allowed, tags)
            self.mixing = _mixing(allowed)
            # Not stored: they follow from the tags. On the CPU, also of a model without memory.
            for name, flags in zip(Allowed._fields, allowed, strict=True):
                self.register_buffer(f"{name}_allowed", flags.to("cpu"), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.tags}{', constrained' * self.is_constrained}"

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """``start``, ``transition`` and ``end``, minus infinity where a path is not allowed."""
        if not self.is_constrained:
            return self.start, self.transition, self.end
        return (
            self.start.masked_fill(~self.start_allowed.to(self.start.device), -math.inf),
            self.transition.masked_fill(~self.transition_allowed.to(self.start.device), -math.inf),
            self.end.masked_fill(~self.end_allowed.to(self.start.device), -math.inf),
        )

    def forward(self, x: Tensor, tags: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The log-likelihood of ``tags``, ``[B]``; minus infinity where they are not allowed.

        Args:
            x: the scores of each tag at each step, ``[T, B, K]``.
            tags: ``[T, B]``, int64; what stands beyond a sequence's length is not read.
            lengths: ``[B]``, each from 0 to T; all T by default.

        Raises:
            TypeError, ValueError: a shape, a dtype, a length or a tag is not as above.
        """
        return self.score(x, tags, lengths) - self.log_partition(x, lengths)

    def score(self, x: Tensor, tags: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The scores of the paths ``tags``, ``[B]``."""
        lengths, real = self._checked(x, lengths)
        if not isinstance(tags, Tensor) or tags.dtype != torch.int64:
            got = tags.dtype if isinstance(tags, Tensor) else type(tags).__name__
            raise TypeError(f"tags: got {got}, expected an int64 tensor {list(x.shape[:2])}")
        if tags.shape != x.shape[:2]:
            raise ValueError(
                f"tags: got shape {list(tags.shape)}, expected {list(x.shape[:2])} as x"
            )
        tags = tags.masked_fill(~real, 0)
        if tags.numel() and not 0 <= int(tags.min()) <= int(tags.max()) < self.tags:
            worst = tags.min() if int(tags.min()) < 0 else tags.max()
            raise ValueError(f"tags: got {int(worst)}, expected from 0 to {self.tags - 1}")
        start, transition, end = self.scores()
        if not len(x):
            return x.sum((0, 2))
        emitted = x.gather(2, tags.unsqueeze(2)).squeeze(2)
        moved = transition.flatten()[tags[:-1] * self.tags + tags[1:]]
        total = emitted.where(real, 0).sum(0) + moved.where(real[1:], 0).sum(0)
        last = tags.gather(0, (lengths - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
        return total + (start[tags[0]] + end[last]).where(lengths > 0, 0)

    def log_partition(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The log of Z(x), ``[B]``, which is the sum over all paths of exp(score).

        It is added up in float64, as probabilities; where the scores of two tags are so far apart that
        one would be lost, as logarithms, which takes longer. Not finite where ``x`` is not.
        """
        lengths, real = self._checked(x, lengths)
        x = x.masked_fill(~real.unsqueeze(2), 0)
        scores = self.scores()
        if self._is_narrow(x, *scores):
            return cast(Tensor, _LogPartition.apply(x, *scores, lengths))  # type: ignore[no-untyped-call]
        return log_partition_of_logs(x, *scores, lengths)

    def marginals(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """p(y_t = k | x), ``[T, B, K]``, without a gradient; zero beyond a sequence's length."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            total = self.log_partition(x, lengths).sum()
            (marginals,) = torch.autograd.grad(total, x)
        return marginals

    @torch.no_grad()
    def decode(self, x: Tensor, lengths: Lengths | None = None) -> Decoded:
        """The best path of each sequence, by Viterbi's algorithm; of equal ones the same each time.

        Source: Viterbi, IEEE Transactions on Information Theory 13 (1967); Forney, "The Viterbi
        Algorithm", Proceedings of the IEEE 61 (1973).

        Raises:
            ValueError: a score is NaN or infinity, or no path is allowed.
        """
        lengths, real = self._checked(x, lengths)
        wrong = (x.isnan() | (x == math.inf)).any(2) & real
        if wrong.any():
            t, b = wrong.nonzero()[0].tolist()
            value = x[t, b][x[t, b].isnan() | (x[t, b] == math.inf)][0].item()
            raise ValueError(
                f"x: got {value} at step {t} of sequence {b}, expected finite scores; the weights "
                "that made them are not finite, or too large"
            )
        if not real.any():
            return Decoded(lengths.new_full(x.shape[:2], -1), x.new_zeros(len(lengths)))
        dtype = torch.promote_types(x.dtype, torch.float32)  # NumPy has no bfloat16
        emitted, start, transition, end = (
            scores.to("cpu", dtype).numpy() for scores in (x.detach(), *self.scores())
        )
        path, best = _viterbi(
            emitted, start, transition, end, (lengths - 1).clamp(min=0).numpy(force=True)
        )
        tags = torch.from_numpy(path).to(x.device).masked_fill_(~real, -1)
        scores = torch.from_numpy(best).to(x).where(lengths > 0, 0)
        if (impossible := scores == -math.inf).any():
            b = int(impossible.nonzero()[0])
            raise ValueError(
                f"x: sequence {b} of {int(lengths[b])} steps has no path that is allowed; allow more"
            )
        return Decoded(tags, scores)

    def _checked(self, x: Tensor, lengths: Lengths | None) -> tuple[Tensor, Tensor]:
        """``lengths``, and which steps are real; or an error."""
        expected = f"[T, B, {self.tags}]"
        if not isinstance(x, Tensor):
            raise TypeError(f"x: got {type(x).__name__}, expected a tensor {expected}")
        if x.dim() != 3 or x.shape[2] != self.tags:
            raise ValueError(f"x: got shape {list(x.shape)}, expected {expected}")
        if not x.is_floating_point():
            raise TypeError(
                f"x: got {x.dtype}, expected a floating dtype; convert it with x.float()"
            )
        steps, batch_size, _ = x.shape
        if lengths is None:
            lengths = torch.full((batch_size,), steps, device=x.device)
        lengths = check_lengths(lengths, steps, batch_size).to(x.device)
        return lengths, real_steps(lengths, steps)

    @torch.no_grad()
    def _is_narrow(self, x: Tensor, start: Tensor, transition: Tensor, end: Tensor) -> bool:
        """Whether no tag that counts gets lost among likelier ones when probabilities are added.

        Where every tag reaches every other in so many steps, the log of its probability is below the
        likeliest's by no more than so many times what a step can make.
        """
        if self.mixing is None or not x.numel():
            return False
        moves = _width(transition)
        emitted = float((x.amax(2) - x.amin(2)).max())
        step = emitted + moves + math.log(self.tags)
        return self.mixing * step + moves + _width(start) + _width(end) < WIDEST_GAP


def _width(scores: Tensor) -> float:
    """The largest less the smallest of those that are not minus infinity."""
    least = scores.masked_fill(scores == -math.inf, math.inf).min()
    return float(scores.max() - least)


def _check_allowed(allowed: Allowed, tags: int) -> None:
    for name, flags, shape in zip(
        Allowed._fields, allowed, ([tags], [tags, tags], [tags]), strict=True
    ):
        if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
            got = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
            raise TypeError(f"allowed.{name}: got {got}, expected a boolean tensor {shape}")
        if list(flags.shape) != shape:
            raise ValueError(f"allowed.{name}: got shape {list(flags.shape)}, expected {shape}")
        if not flags.any():
            raise ValueError(f"allowed.{name}: got none, expected at least one")


def _mixing(allowed: Allowed) -> int | None:
    """In how many steps every tag is reached from every other; ``None`` if in none of a few.

    Or if sequences of some length have no path.
    """
    start, transition, end = (flags.to("cpu", torch.float32) for flags in allowed)
    reached, now = torch.eye(len(start), device="cpu"), start
    for steps in range(1, SLOWEST + 1):
        if not float(now @ end):
            return None
        reached, now = ((m @ transition > 0).float() for m in (reached, now))
        if reached.all():
            return steps
    return None


def log_partition_of_logs(
    x: Tensor, start: Tensor, transition: Tensor, end: Tensor, lengths: Tensor
) -> Tensor:
    """The log of Z, ``[B]``, by the forward algorithm on logarithms: exact whatever the scores.

    ``x`` is ``[T, B, K]``, and finite beyond a sequence's length; a score may be minus infinity.
    """
    if not len(x):
        return x.sum((0, 2))  # zeros
    given, inner = x, (x, start, transition, end)
    x, start, transition, end = (scores.double().clamp(min=FLOOR) for scores in inner)
    alpha = start + x[0]
    for t in range(1, len(x)):
        after = torch.logsumexp(alpha.unsqueeze(2) + transition, 1) + x[t]
        alpha = torch.where((t < lengths).unsqueeze(1), after, alpha)
    total = torch.logsumexp(alpha + end, 1)
    total = torch.where(total <= FLOOR / 2, -math.inf, total)
    return torch.where(lengths > 0, total, 0.0).to(given.dtype)


@dataclass(frozen=True)
class _Forward:
    """A batch in the order of ``rows``, longest first, and its forward messages, all in float64.

    Factors are divided by the largest of their kind, so that none is above 1. With a_t the forward
    message, divided by its sum c_t: a_t = (a_{t-1} M) ⊙ e_t / c_t.
    """

    rows: Tensor  # [B]
    lengths: Tensor  # [B]
    counts: list[int]  # of each step, how many sequences have it
    emitted: Tensor  # e_t, [T, B, K]
    moved: Tensor  # M, [K, K]
    ended: Tensor  # [K]
    messages: Tensor  # a_t, [T, B, K], zero beyond a sequence's length
    sums: Tensor  # c_t, [T, B, 1]
    close: Tensor  # [B]: the sum of the last message times ``ended``
    last: Tensor  # [B]: the last step

    @classmethod
    def of(
        cls, x: Tensor, start: Tensor, transition: Tensor, end: Tensor, lengths: Tensor
    ) -> tuple["_Forward", Tensor]:
        """The messages, and log Z in the batch's own order."""
        lengths, rows = lengths.sort(descending=True, stable=True)
        counts = real_steps(lengths, len(x)).sum(1).tolist()
        x, start, transition, end = (scores.double() for scores in (x, start, transition, end))
        x = x.index_select(1, rows)
        highest, most = x.amax(2, keepdim=True), (start.max(), transition.max(), end.max())
        emitted, moved = (x - highest).exp_(), (transition - most[1]).exp()
        messages, sums = torch.zeros_like(x), torch.ones_like(highest)
        torch.mul(emitted[0], (start - most[0]).exp(), out=messages[0])
        for t, count in enumerate(counts):
            now = messages[t, :count]
            if t:
                torch.mm(messages[t - 1, :count], moved, out=now)
                now.mul_(emitted[t, :count])
            torch.sum(now, 1, keepdim=True, out=sums[t, :count])
            now.div_(sums[t, :count])
        messages[0, counts[0] :] = 0
        last = (lengths - 1).clamp(min=0)
        ended = (end - most[2]).exp()
        close = messages[last, torch.arange(len(rows), device=rows.device)] @ ended
        close = close.where(lengths > 0, 1)
        total = (highest + sums.log()).squeeze(2).where(real_steps(lengths, len(x)), 0).sum(0)
        total += close.log() + most[0] + last * most[1] + most[2]
        total = total.where(lengths > 0, 0)
        forward = cls(rows, lengths, counts, emitted, moved, ended, messages, sums, close, last)
        return forward, total.new_empty(len(rows)).index_copy_(0, rows, total)


class _LogPartition(torch.autograd.Function):
    """log Z by the forward algorithm, and its gradient: the marginals, by forward-backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *scores: Tensor) -> Tensor:
        ctx.messages, total = _Forward.of(x, *scores)
        ctx.dtypes = [tensor.dtype for tensor in (x, *scores)]
        return total.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given = _gradients(ctx.messages, grad.double())
        cast = [g.to(dtype) for g, dtype in zip(given, ctx.dtypes, strict=False)]
        return (*cast, None)


def _gradients(forward: _Forward, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of Σ_b grad_b · log Z_b in x, start, transition and end.

    With b_t the backward message and w_t = e_t ⊙ b_t / c_t: b_{t-1} = M w_t; the marginals of a tag
    are a_t ⊙ b_t, those of a pair a_{t-1}[i] M[i, j] w_t[j].
    """
    emitted, messages = forward.emitted, forward.messages
    places = torch.arange(len(forward.rows), device=grad.device)
    grad = grad[forward.rows].where(forward.lengths > 0, 0)
    back, weighed = torch.zeros_like(emitted), torch.zeros_like(emitted)
    back[forward.last, places] = forward.ended / forward.close.unsqueeze(1)
    into = forward.moved.T
    for t in range(len(emitted) - 1, 0, -1):
        count = forward.counts[t]
        now = weighed[t, :count]
        torch.mul(emitted[t, :count], back[t, :count], out=now)
        now.div_(forward.sums[t, :count])
        torch.mm(now, into, out=back[t - 1, :count])
    marginals = back.mul_(messages).mul_(grad.unsqueeze(1))
    pairs = (messages[:-1] * grad.unsqueeze(1)).flatten(0, 1).T @ weighed[1:].flatten(0, 1)
    ends = marginals[forward.last, places].sum(0)
    given = torch.empty_like(marginals).index_copy_(1, forward.rows, marginals)
    return given, marginals[0].sum(0), pairs * forward.moved, ends


def _viterbi(
    x: Floats, start: Floats, transition: Floats, end: Floats, last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Floats]:
    """The best paths ``[T, B]``, without meaning beyond ``last``, the last step; their scores ``[B]``.

    By NumPy, whose calls cost a quarter of PyTorch's: the work of a step is small.
    """
    steps, batch_size, tags = x.shape
    best, through = np.empty_like(x), np.empty((batch_size, tags, tags), x.dtype)
    np.add(x[0], start, out=best[0])
    for t in range(1, steps):
        np.add(best[t - 1][:, :, None], transition, out=through)
        np.maximum.reduce(through, axis=1, out=best[t])
        best[t] += x[t]
    into, sequences = np.ascontiguousarray(transition.T), np.arange(batch_size)
    ended = best[last, sequences] + end
    tag = ended.argmax(1)
    scores = ended[sequences, tag]
    path = np.empty((steps, batch_size), np.int64)
    path[-1] = tag
    is_even = bool((last == steps - 1).all())
    for t in range(steps - 2, -1, -1):
        # The same sums as on the way there, so that it is one of the largest that is taken again.
        before = (best[t] + into[tag]).argmax(1)
        tag = before if is_even else np.where(t < last, before, tag)
        path[t] = tag
    return path, scores
