"""A report as a page, a picture or a notebook's chart; drawn from records, the data of a report."""

from importlib.util import find_spec

from unrolled.errors import MissingExtraError

for _module, _package in {"altair": "altair", "vl_convert": "vl-convert-python"}.items():
    if find_spec(_module) is None:
        raise MissingExtraError("a report's page or picture", _package, "report")
