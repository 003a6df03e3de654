"""A report as a page, a picture or a notebook's chart; drawn from records, the data of a report."""

from unrolled import pages


def require() -> None:
    """Refuse where no page or picture can be drawn, as importing this package does.

    Raises:
        MissingExtraError: a package of the extra ``report`` is not installed.
    """
    pages.require("a report's page or picture", "report")


require()
