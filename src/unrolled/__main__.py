"""``python -m unrolled``."""

from unrolled.cli import entry

entry()
