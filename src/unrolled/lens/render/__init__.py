"""A report as a page, a picture or a notebook's chart; drawn from records, the data of a report."""

from importlib.util import find_spec

from unrolled.errors import MissingExtraError


def require() -> None:
    """Refuse where no page or picture can be drawn, as importing this package does.

    Raises:
        MissingExtraError: a package of the extra ``report`` is not installed.
    """
    for module, package in {"altair": "altair", "vl_convert": "vl-convert-python"}.items():
        if find_spec(module) is None:
            raise MissingExtraError("a report's page or picture", package, "report")


require()
