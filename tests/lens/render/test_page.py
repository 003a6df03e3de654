import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.lens.render import records
from unrolled.cli.language import in_chinese
from unrolled.lens.render import charts, page, words


class Parsed(HTMLParser):
    """The elements of a page by their names, with the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in ("meta", "input", "path"):
            self.open.append(self.elements[-1][2])

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "input", "path"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for text in self.open:
            text.append(data)

    def all(self, tag: str, **attributes: str) -> list[str]:
        """The text of each ``tag`` with these attributes."""
        wanted = {k.rstrip("_"): v for k, v in attributes.items()}.items()
        return [
            "".join(text)
            for name, found, text in self.elements
            if name == tag and wanted <= found.items()
        ]


def parsed(found: dict[int, Any], trials: Any = None, title: str = "Title") -> Parsed:
    return Parsed(page.page(found, trials, title))


def test_the_parser_finds_text_by_tag_and_attribute() -> None:
    found = Parsed('<p class="a">one <b>two</b></p><p>three</p>')
    assert found.all("p") == ["one two", "three"] and found.all("p", class_="a") == ["one two"]


def test_the_page_asks_for_nothing_from_outside() -> None:
    found = parsed(records.history(2, 4, 3), records.trials(4, 3))
    for tag, attributes, _ in found.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "href", "onclick", "onload"} & attributes.keys()
    (policy,) = [a["content"] for t, a, _ in found.elements if t == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ") and "unsafe-eval" not in policy
    data, *scripts = found.all("script")
    allowed = re.findall(r"'sha256-([^']*)'", policy)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert hashes == allowed and len(scripts) == 2
    assert json.loads(data)["at"] == [0, 100]


def test_the_page_has_language_title_and_data() -> None:
    record = records.elman(4, 3)
    found = parsed({7: record}, title="A & <b>")
    assert found.all("title") == found.all("h1") == ["A & <b>"]
    assert [a["lang"] for t, a, _ in found.elements if t == "html"] == ["en"]
    data = json.loads(found.all("script")[0])
    assert data["rows"] == json.loads(json.dumps(charts.rows_of({7: record})))
    assert set(page.FIGURES) <= data["charts"].keys()


def test_verdicts_are_told_with_their_remedies_in_order() -> None:
    verdict = records.verdict(
        state="vanishing",
        growth=0.5004,
        horizon=6.64,
        evidence="seen so",
        remedies=[{"name": "first", "effect": "helps"}, {"name": "second", "effect": "less"}],
    )
    row = records.empty_row(norms=[1e-6, 1.0], spread=[0.0, 0.0], verdict=verdict)
    text = parsed({0: records.whole(row, records.empty_row(layer="quiet"))})
    assert text.all("tr")[1:3] == [
        "rnn, 0vanishing 1.0e-06 ±0e+00 … 1.0e+00 ±0e+000.57 steps",
        "seen sofirst: helpssecond: less",
    ]
    assert text.all("tr")[3] == "quiet, 0not judged no gradient cameunknownunknown"
    assert text.all("span", class_="badge vanishing") == ["vanishing"] * 2  # the sum comes first
    assert text.all("p", class_="summary") == ["2 scans: 1 vanishing 1 not judged"]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("all zero", "0.0e+00 ±0e+00 … 0.0e+00 ±0e+00"),
        ("nothing but null", "NaN"),
        ("no gradient", "no gradient came"),
        ("hostile text", "1.0e+00 ±0e+00 … 2.0e+00 ±0e+00"),
    ],
)
def test_what_came_is_told_in_the_words_of_the_report(name: str, ends: str) -> None:
    found, _ = records.STRANGE[name]()
    assert parsed(found).all("small")[0].strip() == ends
    assert json.loads(parsed(found).all("script")[0])["rows"][0]["ends"] == ends


def test_each_snapshot_is_told() -> None:
    history = records.history(3, 4, 3)
    found = parsed(history)
    told = found.all("div", class_="snapshot")
    assert len(told) == 3
    for record, text in zip(history.values(), told, strict=True):
        assert record["rows"][0]["verdict"]["evidence"] in text
    assert "31 of 400 gradients were clipped, to 0.42 of their length on average." in told[-1]
    assert not any("clipped" in text for text in told[:-1])


def test_spikes_are_told_the_largest_first() -> None:
    told = Parsed(words._clipping(records.history(2, 4, 3)[100]["clipping"])).all("tr")
    assert told[0] == "callnormboundtimes the boundfromsteplag"
    assert told[1:3] == ["300not finite1————", "21112.5112.5rnn, 0209"]
    many = [{"call": i, "norm": 2.0 + i, "bound": 1.0} for i in range(50)]
    clipping = {"calls": 50, "clipped": 50, "factor": 0.1, "spikes": many}
    found = Parsed(words._clipping(clipping))
    assert len(found.all("tr")) == 1 + words.SPIKES and found.all("tr")[1].startswith("49")
    assert "of 50 the 20 largest" in found.all("caption")[0]


def test_no_spikes_are_told_without_a_table() -> None:
    none = {"calls": 1, "clipped": 0, "factor": 1.0, "spikes": []}
    assert words._clipping(none) == "<h3>Clipping</h3><p>0 of 1 gradients were clipped.</p>"
    assert words._clipping(None) == ""


@pytest.mark.parametrize(("value", "word"), [("nan", "NaN"), ("inf", "infinity")])
def test_what_broke_first_is_told(value: str, word: str) -> None:
    broken = {
        "where": "forward",
        "layer": "a",
        "level": 1,
        "direction": 1,
        "step": 3,
        "sequence": 2,
    }
    (told,) = parsed({0: records.whole(broken=broken | {"value": value})}).all("p", class_="alert")[
        :1
    ]
    assert told == f"The first {word} came forward: in a, 1, backward, at step 3 of sequence 2."


def test_trials_are_told_with_those_left_out() -> None:
    found = parsed({0: records.elman(4, 3)}, records.trials(4, 3))
    assert found.all("h2")[1] == "Remedies tried"
    assert "as it is" in found.all("tr")[-3] and "remedies.as_gru" in found.all("tr")[-1]
    assert found.all("details") == ["Left outremedies.forget_bias_: got cells of Elman"]
    assert "trial_growth" not in page.page({0: records.elman(4, 3)}, None, "")


def test_a_thinned_history_says_so() -> None:
    found = parsed(records.STRANGE["a hundred snapshots"]()[0])
    assert len(found.all("div", class_="snapshot")) == charts.MOST
    assert "The page keeps 40 of 100 snapshots, evenly chosen." in found.all("small")[0]
    assert json.loads(found.all("script")[0])["at"][-1] == 99


@pytest.mark.parametrize("name", records.STRANGE)
def test_whatever_comes_is_written(name: str, tmp_path: Path) -> None:
    found, trials = records.STRANGE[name]()
    path = tmp_path / "report.html"
    page.write(path, found, trials=trials)
    text = Parsed(path.read_text("utf-8"))
    assert text.open == []  # what was opened is closed
    assert json.loads(text.all("script")[0])["at"] == list(charts.thinned(found))


def test_text_of_the_data_is_no_markup() -> None:
    found, trials = records.STRANGE["hostile text"]()
    text = page.page(found, trials, records.INJECTION)
    plain = parsed(found, trials, records.INJECTION)
    assert len(plain.all("script")) == 3 and not plain.all("b")
    assert plain.all("title") == [records.INJECTION]
    assert plain.all("p", class_="note") == [records.INJECTION]
    assert "</script><script>document" not in text
    assert json.loads(plain.all("script")[0])["rows"][0]["name"] == f"{records.INJECTION}, 0"


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        page.write(tmp_path / "no" / "report.html", {0: records.elman(2, 1)})
    with pytest.raises(ValueError, match=r"records: got none"):
        page.write(tmp_path / "report.html", {})


def test_a_sparkline_has_gaps_where_no_gradient_came() -> None:
    assert words._sparkline([None, 0.0]) == ""
    path = re.search(r' d="([^"]*)"', words._sparkline([1.0, 10.0, None, 100.0]))[1]
    assert path == "M2.0 18.0h0L32.7 10.0M94.0 2.0h0"


ENGLISH = re.compile("[a-z]{3,} [a-z]{3,}")


def chinese_of(found: dict[int, Any], trials: Any = None) -> Parsed:
    return Parsed(page.page(found, trials, "The gradient through time", 500, said=in_chinese))


@pytest.mark.parametrize("name", ["healthy", "spikes", *records.STRANGE])
def test_a_page_in_chinese_has_no_english_sentence(name: str) -> None:
    found: dict[int, Any] = {0: records.elman(4, 3), 9: records.flat(0.9, 1.0)}
    trials = records.trials(4, 3)
    if name in records.STRANGE and name != "hostile text":
        found, trials = records.STRANGE[name]()
    elif name == "spikes":
        clipping = {"calls": 30, "clipped": 25, "factor": 0.5}
        clipping["spikes"] = [{"call": k, "norm": 2.0, "bound": 1.0} for k in range(25)]
        found[9] = records.whole(clipping=clipping)
    shown = chinese_of(found, trials)
    assert [a["lang"] for t, a, _ in shown.elements if t == "html"] == ["zh-CN"]
    for tag in (
        "title",
        "h1",
        "h2",
        "h3",
        "p",
        "th",
        "td",
        "caption",
        "label",
        "dt",
        "dd",
        "small",
    ):
        for text in shown.all(tag):
            assert not ENGLISH.search(text), text


def test_the_script_of_a_page_in_chinese_has_its_sentences_and_titles() -> None:
    found = {0: records.elman(4, 3), 9: records.flat(0.9, 1.0)}
    english = json.loads(parsed(found, records.trials(4, 3)).all("script")[0])
    chinese = json.loads(chinese_of(found, records.trials(4, 3)).all("script")[0])
    for name, text in english["sentences"].items():
        said = chinese["sentences"][name]
        assert not ENGLISH.search(said), said
        assert sorted(re.findall(r"{(\d)}", said)) == [str(k) for k in range(text.count("{}"))]
    titles = re.findall(r'"title": "([^"]*)"', json.dumps(chinese["charts"], ensure_ascii=False))
    assert "步 t" in titles and not any(map(ENGLISH.search, titles)), titles
    assert {row["state"] for row in chinese["rows"]} <= {"健康", "消失", "爆炸", None}


def test_the_worst_scan_is_shown_first() -> None:
    first = records.flat(0.9, 1.0)["rows"][0]
    verdict = {"growth": 0.5, "horizon": 6.6, "evidence": "", "remedies": []}
    rows = [
        first | {"level": k, "verdict": state and verdict | {"state": state}}
        for k, state in enumerate([None, "healthy", "dead", "vanishing", "saturated"])
    ]
    data = json.loads(parsed({0: records.whole(*rows)}).all("script")[0])
    assert data["scan"] == 3
