"""Both languages of a page are the same, and what a tutorial shows is what comes out."""

import ast
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks import vanishing

from tests.examples import MANY
from unrolled.scan.native import library

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"
NAMES = [
    "equations-to-code",
    "vanishing",
    *(f"../guides/{n}" for n in ("first-steps", "own-cell", "lens")),
]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


def page(name: str, language: str = "") -> str:
    return (TUTORIALS / f"{name}{language}.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """Each fenced block: its kind, and what is in it."""
    return re.findall(r"^```(\S+.*)\n((?:.*\n)*?)```$", text, re.M)


def pictures(text: str) -> list[str]:
    return re.findall(r"^!\[.+\]\((\S+)\)$", text, re.M)


def formulas(text: str) -> list[str]:
    """What stands displayed between $$ and $$."""
    return re.findall(r"^\$\$\n(.+)\n\$\$$", text, re.M)


def bare(code: str) -> str:
    """``code`` without comments and docstrings; a session as it is."""
    if code.startswith(">>>"):
        return code
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)


def same_output(shown: str, printed: str) -> bool:
    """Whether the words are the same, and the numbers but for one in the last digit that is shown."""
    if NUMBER.sub("0", shown).split() != NUMBER.sub("0", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= 1.001 * max(map(last_digit, (a, b))) for a, b in pairs)


def last_digit(number: str) -> float:
    """What one in the last digit is worth."""
    mantissa, _, power = number.partition("e")
    decimals = len(mantissa.partition(".")[2]) if "." in mantissa else 0
    return 10.0 ** (int(power or 0) - decimals) if "." in mantissa or power else 0.0


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_have_the_same_code_and_pictures(name: str) -> None:
    english, chinese = page(name), page(name, ".zh-CN")
    pairs = list(zip(blocks(english), blocks(chinese), strict=True))
    assert sum(kind == "python" for (kind, _), _ in pairs) > 2
    for (kind, one), (other_kind, other) in pairs:
        assert kind == other_kind
        if kind == "python":
            one, other = bare(one), bare(other)
        if kind == "sh":
            one, other = (re.sub(r"\s+#.*$", "", text, flags=re.M) for text in (one, other))
        assert one == other
    assert pictures(english) == pictures(chinese)
    assert formulas(english) == formulas(chinese)
    for mark in ("## ", "### ", "| ", "- "):
        marked = [re.findall(f"^{re.escape(mark)}", text, re.M) for text in (english, chinese)]
        assert len(marked[0]) == len(marked[1]), mark


def test_a_difference_is_seen() -> None:
    assert formulas("a\n\n$$\nb = c\n$$\n\n`$$`") == ["b = c"]
    assert bare("f(1)  # one") == bare("f(1)") != bare("f(2)")
    assert bare('def f():\n    """One."""\n    g()') == bare("def f():\n    g()")
    assert same_output("x  0.12 5e-05 3", "x 0.13 6e-05 3")
    assert not same_output("0.12", "0.14")
    assert not same_output("3 of 3", "2 of 3")
    assert not same_output("vanishing", "healthy")


Measured = tuple[dict[str, object], list[str]]


@pytest.fixture(scope="module")
def measured() -> Measured:
    """What the examples of "vanishing" leave behind, and what each of them prints."""
    return vanishing.measured(TUTORIALS / "vanishing.md")


def check_shown(printed: list[str]) -> None:
    """Whether "vanishing" shows what was printed; the other language shows the same."""
    outputs, after = iter(printed), ""
    for kind, text in blocks(page("vanishing")):
        if kind == "python":
            assert not after, f"not shown: {after}"
            after = next(outputs)
        elif kind == "text" and after:
            assert same_output(text, after), f"shown:\n{text}\nprinted:\n{after}"
            after = ""
    assert not after and next(outputs, None) is None


def test_the_output_that_is_shown_is_what_is_printed(measured: Measured) -> None:
    check_shown(measured[1])


@pytest.mark.skipif(not MANY, reason="runs the whole page again: UNROLLED_EXAMPLES=many")
def test_it_is_the_same_with_the_simplest_kernels() -> None:
    with library.using("serial"):
        check_shown(vanishing.measured(TUTORIALS / "vanishing.md")[1])


def test_other_output_is_seen(measured: Measured) -> None:
    printed = measured[1]
    for other in (
        printed[:-1],
        [*printed, "1"],
        [text.replace("3 of 3", "2 of 3") for text in printed],
    ):
        with pytest.raises((AssertionError, StopIteration)):
            check_shown(other)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, measured: Measured) -> Path:
    """A folder with the pictures as they are drawn now."""
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.setattr(vanishing, "measured", lambda _: measured)
        vanishing.main(["--to", str(folder)])
    assert [Path(line).parent for line in out.getvalue().splitlines()] == [folder] * 7
    return folder


def words(path: Path) -> list[str]:
    return [e.text or "" for e in ElementTree.parse(path).iter() if e.tag.endswith("}text")]


def test_the_command_draws_every_picture_of_the_page(drawn: Path) -> None:
    shown = pictures(page("vanishing"))
    assert sorted(shown) == sorted(p.name for p in TUTORIALS.glob("[!.]*.svg"))
    assert sorted(shown) == sorted(p.name for p in drawn.iterdir())
    for name in shown:
        svg = (drawn / name).read_text(encoding="utf-8")
        assert re.search(
            r"""<rect width="[^"]+" height="[^"]+" (fill="white"|style="fill:white)""", svg
        )
        assert words(drawn / name) == words(TUTORIALS / name), name


def test_the_page_names_the_command() -> None:
    for language in ("", ".zh-CN"):
        assert "`python -m benchmarks.vanishing`" in page("vanishing", language)


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vanishing.main(["--to", str(tmp_path / "none")])
    assert "expected a folder that is there" in capsys.readouterr().err
