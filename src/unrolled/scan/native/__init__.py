"""The compiled kernels: which one a call takes, and its place in autograd."""

from unrolled.scan.native.autograd import run, run_reference, scan
from unrolled.scan.native.kernels import (
    cell_over,
    check_weights,
    is_transformed,
    is_vmapped,
    kernel_name,
    missing,
    reasons_of_cell,
    reasons_of_tensors,
    step_kernel,
    unsupported_reasons,
)
from unrolled.scan.native.library import instruction_set

__all__ = [
    "cell_over",
    "check_weights",
    "instruction_set",
    "is_transformed",
    "is_vmapped",
    "kernel_name",
    "missing",
    "reasons_of_cell",
    "reasons_of_tensors",
    "run",
    "run_reference",
    "scan",
    "step_kernel",
    "unsupported_reasons",
]
