"""A back-test or a forecast as a page; what it shows is found first, as data, and then drawn."""

from unrolled import pages


def require() -> None:
    """Refuse where no page can be drawn, as importing this package does.

    Raises:
        MissingExtraError: a package of the extra ``series`` is not installed.
    """
    pages.require("a page of forecasts", "series")


require()
