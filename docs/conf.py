"""Sphinx settings; ``make docs`` builds, and every warning is an error."""

import re

import latex2mathml.converter
from docutils import nodes

import unrolled

project = "unrolled"
copyright = "the unrolled contributors"
version = release = unrolled.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "**/.*"]
smartquotes = False  # U' and ... are equations here
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which say more than Tensor
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"unrolled {version}"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_math_renderer = "mathml"


def _keep_equations_as_written(_app, _what, _name, _obj, _options, lines):
    """An indented block without a mark is equations: without this, its lines would be joined."""
    for k in range(len(lines) - 1, 1, -1):
        first_of_block = lines[k].startswith("    ") and not lines[k - 1].strip()
        paragraph = next((line for line in reversed(lines[:k]) if line.strip()), "")
        if first_of_block and ">>>" not in lines[k] and not paragraph.startswith((" ", "..", ":")):
            lines[k:k] = ["::", ""]


def _mathml(node, display):
    """LaTeX as MathML, which browsers typeset themselves: no script, and nothing from elsewhere.

    Raises:
        ValueError: latex2mathml does not know a command, and printed it as it stands.
    """
    found = latex2mathml.converter.convert(node.astext(), display=display)
    if "\\" in found or "<mi>&</mi>" in found:
        raise ValueError(f"formula: got {node.astext()!r}, expected simpler LaTeX")
    for pattern, better in BETTER:
        found = re.sub(pattern, better, found)
    return found


BETTER = (
    (r"<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>'),  # a norm's bars
    (r"<mo>(/|&#x02202;)</mo>", r'<mo lspace="0" rspace="0">\1</mo>'),
    (r"&#x022A4;", "&#x1D5B3;"),  # a transpose, no "true"
    (r"<msup>(<mi>\w</mi>)<mi>(&#x02032;)</mi></msup>", r'\1<mo lspace="0.1em" rspace="0">\2</mo>'),
    (
        r"<msubsup>(<mi>\w</mi>)(.*?)<mi>(&#x02032;)</mi></msubsup>",
        r'<msub><mrow>\1<mo lspace="0.1em" rspace="0">\3</mo></mrow>\2</msub>',
    ),
)


def _inline_formula(translator, node):
    found = _mathml(node, "inline") + node.get("after", "")
    translator.body.append(f'<span class="math">{found}</span>')
    raise nodes.SkipNode


def _display_formula(translator, node):
    translator.body.append(f'<div class="math">{_mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def _keep_with_what_follows(_app, doctree, _name):
    """A formula and the sign after it stand in one line: none begins with "，" or "-th"."""
    for formula in doctree.findall(nodes.math):
        text = formula.next_node(descend=False, siblings=True)
        if isinstance(text, nodes.Text) and (sign := re.match(r"[，。、；：）,.;:)]+|-\w+", text)):
            formula["after"] = sign[0]
            formula.parent.replace(text, nodes.Text(text[sign.end() :]))


def setup(app):
    app.connect("doctree-resolved", _keep_with_what_follows)
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_display_formula, None))
    # before napoleon, which turns "Args:" into directives with indented blocks of their own
    app.connect("autodoc-process-docstring", _keep_equations_as_written, priority=400)
