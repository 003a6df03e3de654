"""Text: corpora and tokens, models over tokens, their runs, and those that come with the package."""

from importlib import import_module
from typing import Any

__all__ = ["data", "feeds", "measures", "models", "pretrained", "run"]


def __getattr__(name: str) -> Any:
    """Each part where it is first asked for: ``pretrained`` needs runs, and these need the others."""
    if name in __all__:
        return import_module(f"unrolled.text.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
