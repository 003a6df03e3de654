"""The constants and structures of ``csrc/unrolled.h``; `make generate` writes it, a test compares.

They have ``__slots__``, so that a name that is no field is an error.
"""

from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Array, Structure, c_char_p, c_double, c_int64, c_void_p
from typing import Annotated, Any, TypeVar

Kind = TypeVar("Kind", bound=type[Structure])

Int = Annotated[int, c_int64]
Float = Annotated[float, c_double]
Text = Annotated[bytes, c_char_p]
Address = Annotated[int | None, c_void_p]


def structure(kind: Kind) -> Kind:
    """Let the fields of ``kind`` be what it annotates, each of the ctypes type behind Python's."""
    kind._fields_ = [(name, of.__metadata__[0]) for name, of in kind.__annotations__.items()]
    return kind


VERSION = 7
STATES = 4


@structure
class Cell(Structure):
    """``unrolled_cell``."""

    __slots__ = ()
    name: Text
    projection: Text
    weight: Text
    vector_names: Text
    transposed: Int
    staged: Int
    noise: Int
    projected: Int
    products: Int
    vectors: Int
    states: Int
    kept: Int
    grads: Int
    weight_blocks: Int


@structure
class Call(Structure):
    """``unrolled_call``."""

    __slots__ = ()
    steps: Int
    batch: Int
    inputs: Int
    units: Int
    threads: Int
    reverse: Int
    keep: Int
    packed_ready: Int
    x: Address
    x_step: Int
    x_batch: Int
    lengths: Address
    offsets: Address
    resets: Address
    noise: Address
    noise_step: Int
    noise_batch: Int
    weight_in: Address
    bias: Annotated[Array[c_void_p], c_void_p * 2]
    weight: Address
    vectors: Address
    initial: Annotated[Array[c_void_p], c_void_p * STATES]
    states: Annotated[Array[c_void_p], c_void_p * STATES]
    every: Int
    finals: Annotated[Array[c_void_p], c_void_p * STATES]
    kept: Address
    packed: Address
    work: Address
    d_states: Annotated[Array[c_void_p], c_void_p * STATES]
    d_step: Annotated[Array[c_int64], c_int64 * STATES]
    d_batch: Annotated[Array[c_int64], c_int64 * STATES]
    d_finals: Annotated[Array[c_void_p], c_void_p * STATES]
    d_x: Address
    d_weight_in: Address
    d_bias: Address
    d_weight: Address
    d_vectors: Address
    d_initial: Annotated[Array[c_void_p], c_void_p * STATES]
    norms: Annotated[Array[c_void_p], c_void_p * STATES]
    clip: Float


@structure
class Kernel(Structure):
    """``unrolled_kernel``."""

    __slots__ = ()
    cell: Annotated[Any, POINTER(Cell)]
    forward: Annotated[Callable[..., Any], CFUNCTYPE(None, c_void_p)]
    backward: Annotated[Callable[..., Any], CFUNCTYPE(None, c_void_p)]
    packed_bytes: Annotated[Callable[..., Any], CFUNCTYPE(c_int64, c_void_p)]
    work_bytes: Annotated[Callable[..., Any], CFUNCTYPE(c_int64, c_void_p, c_int64)]


@structure
class Engine(Structure):
    """``unrolled_engine``."""

    __slots__ = ()
    forward: Annotated[Callable[..., Any], CFUNCTYPE(None, c_void_p, c_void_p)]
    backward: Annotated[Callable[..., Any], CFUNCTYPE(None, c_void_p, c_void_p)]
    packed_bytes: Annotated[Callable[..., Any], CFUNCTYPE(c_int64, c_void_p, c_void_p)]
    work_bytes: Annotated[Callable[..., Any], CFUNCTYPE(c_int64, c_void_p, c_void_p, c_int64)]
    layout: Int


@structure
class CrossEntropyCall(Structure):
    """``unrolled_cross_entropy_call``."""

    __slots__ = ()
    rows: Int
    inputs: Int
    classes: Int
    threads: Int
    x: Address
    weight: Address
    bias: Address
    targets: Address
    losses: Address
    d_x: Address
    d_weight: Address
    d_bias: Address
    work: Address


@structure
class CrossEntropy(Structure):
    """``unrolled_cross_entropy``."""

    __slots__ = ()
    run: Annotated[Callable[..., Any], CFUNCTYPE(None, c_void_p)]
    work_bytes: Annotated[Callable[..., Any], CFUNCTYPE(c_int64, c_void_p)]
