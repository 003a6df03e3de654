"""The page in a real browser: it draws, asks for nothing, and does what is clicked."""

import json
import os
import re
import runpy
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.lens.render import records
from unrolled.cli.language import in_chinese
from unrolled.lens.render import page

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    MISSING = "no chromium or chromedriver; on Debian: apt-get install chromium chromium-driver"
    if os.environ.get("UNROLLED_NEEDS_BROWSER") == "1":
        pytest.fail(MISSING, pytrace=False)
    pytest.skip(f"the page in a browser: {MISSING}", allow_module_level=True)  # one line for all

QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
STEPS, UNITS, SECONDS = 12, 6, 60


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = BROWSER
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """A page that is open; after each ``act`` it is shown anew."""

    def __init__(self, chrome: Chrome, path: Path, *, scheme: str, width: int) -> None:
        self.chrome = chrome
        self.scheme(scheme)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for forget in (self.logs, self.requests):  # what was open before
            forget()
        chrome.get(path.as_uri())
        self.wait("0")

    def scheme(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def wait(self, shown: str) -> None:
        """Until everything was shown once more than ``shown`` says."""
        wait = WebDriverWait(self.chrome, SECONDS)
        wait.until(lambda _: int(self.shown() or 0) > int(shown))

    def shown(self) -> str:
        return self.chrome.execute_script("return document.documentElement.dataset.shown") or "0"

    def run(self, script: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def move(self, name: str, value: int) -> None:
        """Move a slider, as a hand does."""
        before = self.shown()
        self.run(
            "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
            "it.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            value,
        )
        self.wait(before)

    def click(self, element: WebElement, x: int = 0, y: int = 0) -> None:
        """Click on ``element``, ``x`` and ``y`` pixels from its middle."""
        before = self.shown()
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.chrome).move_to_element_with_offset(element, x, y).click().perform()
        self.wait(before)

    def find(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return " ".join(element.text for element in self.find(selector) if element.is_displayed())

    def marks(self, figure: str, kind: str) -> int:
        """How many marks are to be seen in a figure; symbols are paths, with one group a layer."""
        paths = self.find(f"#{figure} svg g.mark-{kind}.role-mark path")
        return sum(path.get_attribute("opacity") != "0" for path in paths)

    def line(self, figure: str, which: int) -> str:
        """The path of a line."""
        lines = self.find(f"#{figure} svg g.mark-line.role-mark path")
        return lines[which].get_attribute("d")

    def logs(self) -> list[str]:
        """What is in the console, without what is no complaint."""
        entries = self.chrome.get_log("browser")
        return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> set[str]:
        """The schemes of the addresses that were asked for."""
        events = (json.loads(e["message"])["message"] for e in self.chrome.get_log("performance"))
        return {
            event["params"]["request"]["url"].split(":")[0]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }


@pytest.fixture
def opened(chrome: Chrome, tmp_path: Path) -> Any:
    def open_page(
        found: dict[int, Any], trials: Any = None, *, scheme: str = "light", width: int = 1280
    ) -> Page:
        path = tmp_path / "report.html"
        page.write(path, found, trials=trials)
        return Page(chrome, path, scheme=scheme, width=width)

    return open_page


def test_the_browser_tells_what_a_page_complains_of_and_asks_for(
    chrome: Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.html"
    path.write_text(
        "<script>document.documentElement.dataset.shown = 1; console.error('wrong')</script>"
        "<img src='http://127.0.0.1:9/nothing.png'>"
    )
    wrong = Page(chrome, path, scheme="light", width=1280)
    WebDriverWait(chrome, SECONDS).until(lambda _: any("wrong" in text for text in wrong.logs()))
    assert "http" in wrong.requests()


@pytest.mark.each_value
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_and_nothing_is_asked_for(opened: Any, scheme: str, width: int) -> None:
    shown = opened({0: records.lstm(STEPS, UNITS)}, records.trials(), scheme=scheme, width=width)
    assert shown.requests() == {"file"} and shown.logs() == []
    assert shown.marks("states", "rect") == STEPS * UNITS + 1  # and the outline of a step
    assert shown.marks("lags", "rect") == STEPS * (STEPS + 1) // 2 + 1
    assert shown.marks("gradient", "symbol") == STEPS
    assert shown.marks("eigenvalues", "symbol") == 4 * UNITS
    assert shown.marks("time_scales", "symbol") == UNITS
    assert shown.marks("trial_growth", "symbol") == 3
    assert shown.run("return document.documentElement.scrollWidth") <= width
    for figure in shown.find("figure"):
        if figure.is_displayed():
            (svg,) = figure.find_elements(By.CSS_SELECTOR, "svg")
            chart = figure.find_element(By.CSS_SELECTOR, "[role='graphics-document']")
            title = figure.find_element(By.TAG_NAME, "h3").text
            assert chart.get_attribute("aria-label").startswith(title)
            assert 0 < svg.size["width"] <= figure.size["width"], figure.get_attribute("id")


def test_charts_follow_when_the_scheme_changes(opened: Any) -> None:
    shown = opened({0: records.elman(STEPS, UNITS)})
    colours = []
    for scheme in ("dark", "light"):
        before = shown.shown()
        shown.scheme(scheme)
        shown.wait(before)
        label = shown.find("#gradient .role-axis-label text")[0]
        page_colour = "return getComputedStyle(document.body).backgroundColor"
        colours.append((label.get_attribute("fill"), shown.run(page_colour)))
        assert len(shown.find("#gradient svg")) == 1
    (dark, black), (light, white) = colours
    assert dark != light and black != white
    assert shown.logs() == []


def test_a_click_on_a_step_selects_it(opened: Any) -> None:
    shown = opened({0: records.elman(STEPS, UNITS)})
    assert f"Step {STEPS - 1} is selected" in shown.text("#said")
    before = shown.line("by_lag", 1)
    # The cells of the strip are drawn step by step.
    shown.click(shown.find("#states svg g.mark-rect.role-mark path")[4 * UNITS])
    assert "Step 4 is selected" in shown.text("#said")
    assert "at t = 4:" in shown.text("#by_lag .about")
    after = shown.line("by_lag", 1)
    assert before.count("L") == STEPS - 1 and after.count("L") == 4
    assert shown.line("by_lag", 0).count("L") == STEPS - 1  # the mean stays

    shown.click(shown.find("#gradient svg g.mark-rect.role-mark path[opacity='0']")[3])
    assert "Step 3 is selected" in shown.text("#said")
    shown.click(shown.find("#lags svg g.mark-rect.role-mark path")[4])
    assert "Step 2 is selected" in shown.text("#said")
    shown.move("step", 7)
    assert "Step 7 is selected" in shown.text("#said")
    assert shown.line("by_lag", 1).count("L") == 7
    assert shown.logs() == []


def test_the_slider_changes_everything(opened: Any) -> None:
    history = records.history(count=3, steps=STEPS, hidden=UNITS)
    shown = opened(history, width=1280)
    seen = []
    for snapshot, (at, record) in enumerate(history.items()):
        shown.move("snapshot", snapshot)
        verdict = record["rows"][0]["verdict"]
        assert shown.text("#at") == str(at)
        assert verdict["state"] in shown.text(".verdicts .badge")
        assert verdict["evidence"] in shown.text(".why")
        seen.append((shown.line("gradient", 0), shown.line("by_lag", 1)))
    assert len(set(seen)) == 3
    states = [record["rows"][0]["verdict"]["state"] for record in history.values()]
    assert states[0] != states[-1]  # so that the texts did change
    points = shown.find("#growth svg g.mark-symbol.role-mark path")
    shown.click(sorted(points, key=lambda point: point.location["x"])[1])
    assert shown.text("#at") == str(list(history)[1])
    assert shown.logs() == []


def test_scans_are_chosen_by_their_names_and_in_the_menu(opened: Any) -> None:
    shown = opened({0: records.lstm(STEPS, UNITS)})
    first = shown.line("gradient", 0)
    shown.click(shown.find("[data-scan='2']")[0])
    assert shown.text("#name") == "rnn, 1" and shown.line("gradient", 0) != first
    assert [b.text for b in shown.find("[aria-pressed='true']")] == ["rnn, 1"]
    before = shown.shown()
    Select(shown.find("#scan")[0]).select_by_visible_text("rnn, 0, backward")
    shown.wait(before)
    assert shown.text("#name") == "rnn, 0, backward"
    assert "t+k" in shown.text("#by_lag .about")  # its past is later


def test_the_worst_scan_comes_first(opened: Any) -> None:
    rows = [
        records.empty_row(layer=f"layer{i}", norms=[1.0, 2.0], spread=[0.0, 0.0])
        | {"verdict": records.verdict(state=state)}
        for i, state in enumerate(["healthy", "vanishing", "exploding"])
    ]
    assert opened({0: records.whole(*rows)}).text("#name") == "layer2, 0"


def test_no_gradient_is_said(opened: Any) -> None:
    for name, ends in (
        ("all zero", "0.0e+00 ±0e+00 … 0.0e+00 ±0e+00"),
        ("nothing but null", "NaN"),
        ("no gradient", "no gradient came"),
    ):
        shown = opened(records.STRANGE[name]()[0])
        assert shown.text("#gradient .about") == f"‖∂L/∂h_t‖, first to last step: {ends}."
        assert not shown.find("#gradient svg")


def test_steps_without_a_gradient_are_counted_apart(opened: Any) -> None:
    row = records.empty_row(norms=[None, 0.0, 0.0, 1.0], spread=[None, 0.0, 0.0, 0.0])
    assert (
        opened({0: records.whole(row)})
        .text("#gradient .about")
        .endswith(
            " It is 0 at 2 of 4 steps, on which the loss does not depend."
            " None came, or no finite one, at 1 of 4 steps."
        )
    )


def test_an_underflow_is_told_from_a_zero(opened: Any) -> None:
    norms = [0.0, 0.0, 1e-40, 1e-30, 1.0, 0.0]
    row = records.empty_row(norms=norms, spread=[0.0] * 6) | {"least": 1.1755e-38}
    about = opened({0: records.whole(row)}).text("#gradient .about")
    assert "underflowed, too small for its dtype, at 3 of 6 steps." in about
    assert about.endswith(" It is 0 at 1 of 6 steps, on which the loss does not depend.")


def test_it_opens_at_the_last_step_that_is_read(opened: Any) -> None:
    shown = opened(
        records.history(count=3, steps=70, hidden=3)
    )  # of more steps than are taken apart
    assert shown.text("#at") == "200" and "Step 69 is selected" in shown.text("#said")
    assert shown.text("#by_lag .about").startswith("The mean over the first 64 steps")
    shown = opened({0: records.lstm(STEPS, UNITS)})
    for scan, step in ((1, 0), (2, STEPS - 1)):  # a scan backward reads the first step last
        shown.click(shown.find(f"[data-scan='{scan}']")[0])
        assert f"Step {step} is selected" in shown.text("#said")
    shown.move("step", 5)
    shown.click(shown.find("[data-scan='1']")[0])
    assert "Step 5 is selected" in shown.text("#said")  # what was chosen stays


@pytest.mark.each_value
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("steps", [5, 70, 300])
def test_the_pictures_by_step_share_an_axis_whose_labels_are_apart(
    opened: Any, width: int, steps: int
) -> None:
    shown = opened({0: records.elman(steps, 3)}, width=width)
    axes = {}
    for name in ("states", "gradient", "by_lag", "lags", "eigenvalues"):
        for k, group in enumerate(shown.find(f"#{name} svg g.role-axis-label")):
            texts = group.find_elements(By.CSS_SELECTOR, "text")
            boxes = [
                (t.text, t.rect) for t in texts if t.get_attribute("opacity") != "0" and t.text
            ]
            axes[name, k] = [(text, round(box["x"])) for text, box in boxes]
            for (_, one), (_, next_one) in pairwise(boxes):
                across = abs(next_one["x"] - one["x"]) - one["width"]
                upwards = abs(next_one["y"] - one["y"]) - one["height"]
                assert max(across, upwards) > -1, (name, k, boxes)
    assert axes["states", 0] == axes["gradient", 0] and len(axes["states", 0]) > 2


def test_a_page_in_chinese_is_shown_without_english_sentences(
    chrome: Chrome, tmp_path: Path
) -> None:
    found = {step: records.elman(STEPS, UNITS, step) for step in (1, 2)}
    trials = records.trials(STEPS, UNITS)
    page.write(tmp_path / "a.html", found, trials=trials, said=in_chinese)
    shown = Page(chrome, tmp_path / "a.html", scheme="dark", width=390)
    read = shown.run("return document.body.innerText")
    assert "选中了第 11 步" in read and "步 t" in read and shown.logs() == []
    assert not re.search("[a-z]{3,} [a-z]{3,}", read), read
    assert shown.run("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("needed", "outcome"), [("1", pytest.fail.Exception), ("0", pytest.skip.Exception)]
)
def test_without_a_browser_this_file_fails_only_where_one_is_needed(
    needed: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("UNROLLED_NEEDS_BROWSER", needed)
    with pytest.raises(outcome, match="no chromium or chromedriver"):
        runpy.run_path(__file__)


@pytest.mark.parametrize("name", records.STRANGE)
def test_whatever_comes_is_shown(opened: Any, name: str) -> None:
    found, trials = records.STRANGE[name]()
    shown = opened(found, trials)
    for snapshot in range(min(3, len(shown.find(".snapshot")))) if len(found) > 1 else ():
        shown.move("snapshot", snapshot)
    assert shown.requests() == {"file"} and shown.logs() == []
    assert shown.chrome.title == "The gradient through time"
    assert shown.run("return document.documentElement.scrollWidth") <= 1280
