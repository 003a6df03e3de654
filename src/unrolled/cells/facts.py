"""What a ``GatedCell`` says of itself beside its equations."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Retain(NamedTuple):
    """The gate that says how much of the old state stays."""

    gate: str
    """Its name among a cell's ``blocks``."""
    keeps: bool = True
    """Whether the state stays where it is open, or else where it is closed."""
    written: str = ""
    """The gate of what is written, if it is another: what opens the one had better close it."""


class Onnx(NamedTuple):
    """The operator of ONNX that a cell's equations are.

    Source: https://onnx.ai/onnx/operators/, RNN, LSTM and GRU.
    """

    operator: str
    """"RNN", "LSTM" or "GRU"."""
    order: tuple[str, ...]
    """A cell's ``blocks`` in the operator's order."""
    attributes: Mapping[str, Any] = {}
    """What the operator must be told beside its sizes."""


def check_facts(
    cell: str,
    blocks: object,
    candidate: str | None,
    retain: Retain | None,
    onnx: Onnx | None,
) -> None:
    """Refuse facts of the class named ``cell`` that speak of blocks that it does not have.

    Raises:
        ValueError: says which.
    """
    if not isinstance(blocks, tuple) or len(set(blocks)) != len(blocks):
        raise ValueError(f"{cell}.blocks: got {blocks!r}, expected a tuple of different names")
    said = {"candidate": candidate}
    if retain is not None:
        said |= {"retain.gate": retain.gate, "retain.written": retain.written or None}
    for fact, name in said.items():
        if name is not None and name not in blocks:
            raise ValueError(
                f"{cell}.{fact}: got {name!r}, expected one of its blocks, {', '.join(blocks)}"
            )
    if onnx is not None and sorted(onnx.order) != sorted(blocks):
        raise ValueError(
            f"{cell}.onnx: got the order {', '.join(onnx.order)}, expected its blocks, "
            f"{', '.join(blocks)}, in the operator's order"
        )
