"""``unrolled fill --why``: which tokens spoke for what fills a blank."""

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from unrolled.cli import printing
from unrolled.text.data import Tokenizer
from unrolled.text.models import ContextToken, Why

TEXT = "老师昨天____了一杯____。"
WHY = Why(
    0,
    "to",
    -0.5,
    [
        ContextToken("I", 0.004, "left"),
        ContextToken("want", 2.0, "left"),
        ContextToken("go", 1.0, "right"),
        ContextToken(",", -0.5, "right"),
        ContextToken("you", 0.25, "right"),
        ContextToken("know", 0.125, "right"),
        ContextToken(".", -1.0, "right"),
    ],
)
SAID = (
    "why 1: to  for: want +2.00 left, go +1.00 right, you +0.25 right"
    "  against: . -1.00 right, , -0.50 right"
)


def test_each_blank_has_a_line(cloze_run: Path, call: Call) -> None:
    plain, done = call("fill", cloze_run, TEXT), call("fill", cloze_run, TEXT, "--why")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(plain.out) and "\x1b[" not in done.out
    first, second = done.out.removeprefix(plain.out).splitlines()
    assert (
        first.startswith("why 1: 喝  for: ") and " 杯 +" in first
    )  # only drinks have this measure
    assert second.startswith("why 2: ") and "  against: " in second


def test_json_has_every_token(cloze_run: Path, call: Call) -> None:
    plain = call("fill", cloze_run, TEXT, "--json")
    done = call("fill", cloze_run, TEXT, "--why", "--json")
    assert (done.code, done.err) == (0, "")
    got = json.loads(done.out)
    assert list(got) == [*json.loads(plain.out), "why"]
    assert [one["blank"] for one in got["why"]] == [0, 1]
    for one, place in zip(got["why"], (4, 8), strict=True):
        assert list(one) == ["blank", "text", "log_probability", "tokens"]
        assert one["text"] == got["filled"][place] and one["log_probability"] < 0
        others = [t["token"] for t in one["tokens"]]
        assert others == [*got["filled"][:place], *got["filled"][place + 1 :]]
        assert [t["side"] for t in one["tokens"]] == ["left"] * place + ["right"] * (9 - place)
        assert all(isinstance(t["influence"], float) for t in one["tokens"])


def test_piped_it_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_why(WHY, Tokenizer("word"))
    assert capsys.readouterr().out == SAID + "\n"
    weak = [ContextToken(" ", -0.01, "left"), ContextToken("I", 0.004, "right")]
    printing.print_why(Why(1, " ", -0.5, weak), Tokenizer("char"))
    assert capsys.readouterr().out == "why 2: ␣  for: none  against: ␣ -0.01 left\n"


def test_on_a_terminal_the_text_is_coloured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = printing.Console
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(
        printing, "Console", lambda: console(force_terminal=True, color_system="truecolor")
    )
    monkeypatch.delenv("NO_COLOR", raising=False)
    printing.print_why(WHY, Tokenizer("word"))
    coloured, said = capsys.readouterr().out.splitlines()
    assert said == SAID
    assert "\x1b[38;2;224;127;28mwant" in coloured  # the largest: all orange
    assert "\x1b[38;2;91;141;174m." in coloured  # half as large, against: half way to blue
    assert "\x1b[1;4mto" in coloured


def test_the_text_is_spaced_as_its_script_is() -> None:
    assert printing.coloured(WHY, Tokenizer("word")).plain == "I want to go, you know."
    assert printing.coloured(WHY, Tokenizer("char")).plain == "Iwanttogo,youknow."


def test_no_influence_at_all_is_grey() -> None:
    why = Why(0, "b", -1.0, [ContextToken("a", 0.0, "left")])
    styles = [str(span.style) for span in printing.coloured(why, Tokenizer("char")).spans]
    assert styles == ["#8c8c8c", "bold underline"]
