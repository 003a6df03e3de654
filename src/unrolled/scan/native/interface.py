"""The constants and structures of ``csrc/unrolled.h``; `make generate` writes it, a test compares.

They have ``__slots__``, so that a name that is no field is an error.
"""

from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Array, Structure, c_char_p, c_double, c_int64, c_void_p
from typing import Any

VERSION = 7
STATES = 4


class Cell(Structure):
    """``unrolled_cell``."""

    __slots__ = ()
    _fields_ = [
        ("name", c_char_p),
        ("projection", c_char_p),
        ("weight", c_char_p),
        ("vector_names", c_char_p),
        ("transposed", c_int64),
        ("staged", c_int64),
        ("noise", c_int64),
        ("projected", c_int64),
        ("products", c_int64),
        ("vectors", c_int64),
        ("states", c_int64),
        ("kept", c_int64),
        ("grads", c_int64),
        ("weight_blocks", c_int64),
    ]
    name: bytes
    projection: bytes
    weight: bytes
    vector_names: bytes
    transposed: int
    staged: int
    noise: int
    projected: int
    products: int
    vectors: int
    states: int
    kept: int
    grads: int
    weight_blocks: int


class Call(Structure):
    """``unrolled_call``."""

    __slots__ = ()
    _fields_ = [
        ("steps", c_int64),
        ("batch", c_int64),
        ("inputs", c_int64),
        ("units", c_int64),
        ("threads", c_int64),
        ("reverse", c_int64),
        ("keep", c_int64),
        ("packed_ready", c_int64),
        ("x", c_void_p),
        ("x_step", c_int64),
        ("x_batch", c_int64),
        ("lengths", c_void_p),
        ("offsets", c_void_p),
        ("resets", c_void_p),
        ("noise", c_void_p),
        ("noise_step", c_int64),
        ("noise_batch", c_int64),
        ("weight_in", c_void_p),
        ("bias", c_void_p * 2),
        ("weight", c_void_p),
        ("vectors", c_void_p),
        ("initial", c_void_p * STATES),
        ("states", c_void_p * STATES),
        ("every", c_int64),
        ("finals", c_void_p * STATES),
        ("kept", c_void_p),
        ("packed", c_void_p),
        ("work", c_void_p),
        ("d_states", c_void_p * STATES),
        ("d_step", c_int64 * STATES),
        ("d_batch", c_int64 * STATES),
        ("d_finals", c_void_p * STATES),
        ("d_x", c_void_p),
        ("d_weight_in", c_void_p),
        ("d_bias", c_void_p),
        ("d_weight", c_void_p),
        ("d_vectors", c_void_p),
        ("d_initial", c_void_p * STATES),
        ("norms", c_void_p * STATES),
        ("clip", c_double),
    ]
    steps: int
    batch: int
    inputs: int
    units: int
    threads: int
    reverse: int
    keep: int
    packed_ready: int
    x: int | None
    x_step: int
    x_batch: int
    lengths: int | None
    offsets: int | None
    resets: int | None
    noise: int | None
    noise_step: int
    noise_batch: int
    weight_in: int | None
    bias: Array[c_void_p]
    weight: int | None
    vectors: int | None
    initial: Array[c_void_p]
    states: Array[c_void_p]
    every: int
    finals: Array[c_void_p]
    kept: int | None
    packed: int | None
    work: int | None
    d_states: Array[c_void_p]
    d_step: Array[c_int64]
    d_batch: Array[c_int64]
    d_finals: Array[c_void_p]
    d_x: int | None
    d_weight_in: int | None
    d_bias: int | None
    d_weight: int | None
    d_vectors: int | None
    d_initial: Array[c_void_p]
    norms: Array[c_void_p]
    clip: float


class Kernel(Structure):
    """``unrolled_kernel``."""

    __slots__ = ()
    _fields_ = [
        ("cell", POINTER(Cell)),
        ("forward", CFUNCTYPE(None, c_void_p)),
        ("backward", CFUNCTYPE(None, c_void_p)),
        ("packed_bytes", CFUNCTYPE(c_int64, c_void_p)),
        ("work_bytes", CFUNCTYPE(c_int64, c_void_p, c_int64)),
    ]
    cell: Any
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    packed_bytes: Callable[..., Any]
    work_bytes: Callable[..., Any]


class Engine(Structure):
    """``unrolled_engine``."""

    __slots__ = ()
    _fields_ = [
        ("forward", CFUNCTYPE(None, c_void_p, c_void_p)),
        ("backward", CFUNCTYPE(None, c_void_p, c_void_p)),
        ("packed_bytes", CFUNCTYPE(c_int64, c_void_p, c_void_p)),
        ("work_bytes", CFUNCTYPE(c_int64, c_void_p, c_void_p, c_int64)),
        ("layout", c_int64),
    ]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    packed_bytes: Callable[..., Any]
    work_bytes: Callable[..., Any]
    layout: int


class CrossEntropyCall(Structure):
    """``unrolled_cross_entropy_call``."""

    __slots__ = ()
    _fields_ = [
        ("rows", c_int64),
        ("inputs", c_int64),
        ("classes", c_int64),
        ("threads", c_int64),
        ("x", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("targets", c_void_p),
        ("losses", c_void_p),
        ("d_x", c_void_p),
        ("d_weight", c_void_p),
        ("d_bias", c_void_p),
        ("work", c_void_p),
    ]
    rows: int
    inputs: int
    classes: int
    threads: int
    x: int | None
    weight: int | None
    bias: int | None
    targets: int | None
    losses: int | None
    d_x: int | None
    d_weight: int | None
    d_bias: int | None
    work: int | None


class CrossEntropy(Structure):
    """``unrolled_cross_entropy``."""

    __slots__ = ()
    _fields_ = [
        ("run", CFUNCTYPE(None, c_void_p)),
        ("work_bytes", CFUNCTYPE(c_int64, c_void_p)),
    ]
    run: Callable[..., Any]
    work_bytes: Callable[..., Any]
