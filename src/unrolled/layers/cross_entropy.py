"""Softmax over many classes and its cross-entropy, by a kernel that never holds all the logits."""

from collections.abc import Sequence
from ctypes import addressof
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.scan import Backend, check_backend, native
from unrolled.scan.native import interface, library
from unrolled.scan.native.calls import operator, scratch

LARGEST = 1 << 20  # logits that are held at a time where the kernel is not there


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """The mean over n of -log softmax(weight x_n + bias)[targets_n], in nats.

    With p the softmax, the gradient of the logits is (p - onehot(targets)) / N (Bridle,
    "Probabilistic Interpretation of Feedforward Classification Network Outputs", 1990). The kernel
    makes it in the same call as the loss, a block of rows at a time.

    Args:
        x: ``[N, E]``.
        weight: ``[V, E]``.
        bias: ``[V]``, or None.
        targets: ``[N]``, int64, each from 0 to V - 1.
        backend: "native" for the compiled kernel, "reference" for PyTorch's operations, "auto" for
            the kernel where it can take the call.

    Raises:
        TypeError, ValueError: a shape or dtype is not as above.
        IndexError: a target is not below V, or is negative.
        RuntimeError: ``backend`` is "native", and the kernel cannot take the call.
    """
    check_backend(backend)
    _check(x, weight, bias, targets)
    if backend != "reference":
        reasons = _unsupported_reasons(x, weight, bias, targets)
        if not reasons:
            return _native(x, weight, bias, targets)
        if backend == "native":
            raise RuntimeError("backend: got 'native', but " + "; ".join(reasons))
    return _reference(x, weight, bias, targets)


def token_losses(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """-log softmax(weight x_n + bias)[targets_n] for each n, ``[N]``, without a gradient.

    The arguments are those of ``linear_cross_entropy``. Neither the kernel nor, where it cannot take
    the call, PyTorch's operations hold the logits of more than a block of rows.
    """
    _check(x, weight, bias, targets)
    with torch.no_grad():
        if len(x) and not _unsupported_reasons(x, weight, bias, targets):
            return operator("cross_entropy", _run)(x, weight, bias, targets, [False] * 3)[0]
        rows = max(1, LARGEST // len(weight))
        blocks = zip(torch.split(x, rows), torch.split(targets, rows), strict=True)
        losses = [
            F.cross_entropy(F.linear(part, weight, bias), of, reduction="none")
            for part, of in blocks
        ]
        return torch.cat(losses)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
    if x.dim() != 2:
        raise ValueError(f"x: got shape {list(x.shape)}, expected [N, E]")
    if weight.dim() != 2 or weight.shape[1] != x.shape[1] or not len(weight):
        raise ValueError(f"weight: got shape {list(weight.shape)}, expected [V, {x.shape[1]}]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: got shape {list(bias.shape)}, expected {[len(weight)]}")
    if targets.dtype != torch.int64:
        raise TypeError(f"targets: got {targets.dtype}, expected torch.int64")
    if targets.shape != x.shape[:1]:
        raise ValueError(f"targets: got shape {list(targets.shape)}, expected {[len(x)]}")


def _unsupported_reasons(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> list[str]:
    """Why the kernel cannot take this call, a line each; none if it can."""
    absent = native.missing()
    if absent is not None:
        return [absent]
    reasons = native.reasons_of_tensors(x, weight, bias)
    if not targets.is_cpu:
        reasons.append(f"targets are on {targets.device}; the kernels run on the CPU")
    functorch = torch._C._functorch
    if not torch.compiler.is_compiling() and functorch.is_functorch_wrapped_tensor(targets):
        reasons.append("targets belong to a transform of torch.func")
    return reasons


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    nothing_ignored = torch.iinfo(torch.int64).min
    return F.cross_entropy(F.linear(x, weight, bias), targets, ignore_index=nothing_ignored)


def _native(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    inputs = (x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return cast(Tensor, _CrossEntropy.apply(*inputs, targets))  # type: ignore[no-untyped-call]
    return operator("cross_entropy", _run)(*inputs, targets, [False] * 3)[0].mean()


class _CrossEntropy(torch.autograd.Function):
    """The loss, with its gradients ready; the gradient of a gradient goes through the reference."""

    @staticmethod
    def forward(ctx, x, weight, bias, targets):  # type: ignore[no-untyped-def]
        losses, *gradients = operator("cross_entropy", _run)(
            x, weight, bias, targets, list(ctx.needs_input_grad[:3])
        )
        ctx.save_for_backward(x, weight, bias, targets, *gradients)
        return losses.mean()

    @staticmethod
    def backward(ctx, d_loss):  # type: ignore[no-untyped-def]
        x, weight, bias, targets, *gradients = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return (*_by_reference((x, weight, bias), targets, wanted, d_loss), None)
        scaled = (g * d_loss if want else None for g, want in zip(gradients, wanted, strict=True))
        return (*scaled, None)


def _by_reference(
    tensors: Sequence[Tensor | None], targets: Tensor, wanted: Sequence[bool], d_loss: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients as a differentiable function of ``tensors`` and ``d_loss``.

    They are taken in aliases, since one input may have been computed from another one.
    """
    x, weight, bias = (t if t is None else t.view_as(t) for t in tensors)
    assert x is not None and weight is not None
    aliases = zip((x, weight, bias), wanted, strict=True)
    sources = [t for t, want in aliases if want and t is not None]
    loss = _reference(x, weight, bias, targets)
    gradients = iter(torch.autograd.grad(loss, sources, d_loss, create_graph=True))
    return tuple(next(gradients) if want else None for want in wanted)


# --- The operator --------------------------------------------------------------------------------

_LIBRARY: Any = torch.library.Library("unrolled", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor targets, bool[] wanted) -> Tensor[]"
)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    """The loss of each row; the mean's gradients of x, weight and bias, empty where not wanted."""
    least, most = (int(n) for n in targets.aminmax())
    if least < 0 or most >= len(weight):  # which a compiled caller could not see before
        raise IndexError(
            f"targets: got {least} to {most}, expected from 0 to V - 1 = {len(weight) - 1}"
        )
    kernel = library.cross_entropy(x.dtype)
    results = _shapes(x, weight, bias, targets, wanted)
    x, weight, targets = x.contiguous(), weight.contiguous(), targets.contiguous()
    bias = None if bias is None else bias.contiguous()
    call = interface.CrossEntropyCall()
    call.rows, call.inputs = x.shape
    call.classes, call.threads = len(weight), torch.get_num_threads()
    call.x, call.weight, call.targets = x.data_ptr(), weight.data_ptr(), targets.data_ptr()
    call.bias = None if bias is None else bias.data_ptr()
    addresses = (r.data_ptr() if r.numel() else None for r in results)
    call.losses, call.d_x, call.d_weight, call.d_bias = addresses
    memory = scratch(kernel.work_bytes(addressof(call)))
    call.work = memory.data_ptr()
    kernel.run(addressof(call))
    return results


def _shapes(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    gradients = [
        x.new_empty(t.shape if want and t is not None else 0)
        for t, want in zip((x, weight, bias), wanted, strict=True)
    ]
    return [x.new_empty(targets.shape), *gradients]


_LIBRARY.impl("cross_entropy", _run, "CPU")
torch.library.register_fake("unrolled::cross_entropy", _shapes, lib=_LIBRARY)
