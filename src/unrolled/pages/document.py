"""One HTML page of data and charts, which asks for nothing from outside."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from html import escape, unescape
from importlib.resources import files
from string import Template
from typing import Any

import altair as alt
import vl_convert

from unrolled.pages import look

TEXT = re.compile(r'(?<=>)[^<>]+(?=<)|(?<=aria-label=")[^"]+')  # what is read of HTML
Said = Callable[[str], str]


def document(
    *,
    title: str,
    body: str,
    data: Mapping[str, Any],
    script: str,
    style: str = "",
    said: Said = str,
) -> str:
    """The text of a page, which holds its data and scripts and may not reach the network.

    Args:
        title: in the page's language.
        body: its HTML, as ``in_language`` gives it.
        data: what its ``script`` finds in ``data``, beside ``light`` and ``dark``, the looks of charts.
        script: its own JavaScript, which runs after ``shared.js``.
        style: its own CSS, beside ``page.css``.
        said: a text in the language of the page.
    """
    here = files("unrolled.pages")
    drawn = library()
    script = (here / "shared.js").read_text("utf-8") + script
    template = in_language((here / "page.html").read_text("utf-8"), said)
    return Template(template).substitute(
        language=said('lang="en"'),
        title=escape(title),
        allowed=" ".join(f"'sha256-{hash_of(text)}'" for text in (drawn, script)),
        style=(here / "page.css").read_text("utf-8") + style,
        body=body,
        data=json_of({**data, "light": look.config(), "dark": look.config(dark=True)}),
        library=drawn,
        script=script,
    )


def in_language(html: str, said: Said) -> str:
    """``html`` whose every text is as ``said`` has it."""
    return html if said is str else TEXT.sub(lambda text: escape(said(unescape(text[0]))), html)


def titles_in_language(spec: Any, said: Said) -> Any:
    """The specification of a chart, whose every title is as ``said`` has it."""
    if isinstance(spec, dict):
        return {
            k: said(v) if k == "title" and isinstance(v, str) else titles_in_language(v, said)
            for k, v in spec.items()
        }
    return [titles_in_language(v, said) for v in spec] if isinstance(spec, list) else spec


def encoded(text: str) -> bytes:
    """A page's bytes. The name of a folder may have what UTF-8 has not."""
    return text.encode(errors="replace")


@cache
def library() -> str:
    """The JavaScript that draws, of the version that altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)


def hash_of(text: str) -> str:
    """By which a page allows a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_of(value: object) -> str:
    """As JSON that no HTML parser takes for the end of its element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def figure(name: str, title: str, about: str = "", *, before: str = "") -> str:
    """The place of a chart, for the script; ``before``: what stands between its words and it."""
    return (
        f'<figure id="{name}"><figcaption><h3>{title}</h3><p class="about">{about}</p></figcaption>'
        f'{before}<div class="chart"></div></figure>'
    )


def reading(terms: Mapping[str, str]) -> str:
    """How each of ``terms`` is to be read."""
    return "".join(f"<div><dt>{term}</dt><dd>{text}</dd></div>" for term, text in terms.items())
