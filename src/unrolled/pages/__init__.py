"""HTML pages that hold all they need: what every page has, whatever it shows.

``document`` makes one of its parts; ``look`` has the colours of its charts, which are Altair's.
"""

from importlib.util import find_spec

from unrolled.errors import MissingExtraError


def require(purpose: str, extra: str) -> None:
    """Refuse where no page or picture can be drawn.

    Args:
        purpose: what needs the packages, in words.
        extra: the extra of unrolled that brings them.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for module, package in {"altair": "altair", "vl_convert": "vl-convert-python"}.items():
        if find_spec(module) is None:
            raise MissingExtraError(purpose, package, extra)
