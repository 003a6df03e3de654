"""Sphinx settings; ``make docs`` builds, and every warning is an error."""

import unrolled

project = "unrolled"
copyright = "the unrolled contributors"
version = release = unrolled.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "**/.*"]
smartquotes = False  # U' and ... are equations here
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which say more than Tensor
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"unrolled {version}"


def _keep_equations_as_written(_app, _what, _name, _obj, _options, lines):
    """An indented block without a mark is equations: without this, its lines would be joined."""
    for k in range(len(lines) - 1, 1, -1):
        first_of_block = lines[k].startswith("    ") and not lines[k - 1].strip()
        paragraph = next((line for line in reversed(lines[:k]) if line.strip()), "")
        if first_of_block and ">>>" not in lines[k] and not paragraph.startswith((" ", "..", ":")):
            lines[k:k] = ["::", ""]


def setup(app):
    # before napoleon, which turns "Args:" into directives with indented blocks of their own
    app.connect("autodoc-process-docstring", _keep_equations_as_written, priority=400)
