"""``python -m tools.pretrain``: a small model of a small text, made as the bundled ones are."""

import json
from pathlib import Path

import pytest
from tools.pretrain import __main__ as program

from tests.sentences import corpus
from unrolled.text.models import fill
from unrolled.text.run import TextRun
from unrolled.training import Trainer


@pytest.fixture
def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a model of a text of 900 sentences is made, with recipes of its size."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(corpus(600)), encoding="utf-8")
    small = {"data": str(text), "hidden": 16, "embedding": 8, "epochs": 2, "min_count": 1}
    monkeypatch.setattr(program, "RECIPES", {"zh": {**small, "words": True}, "en": small})
    monkeypatch.setattr(program, "BLANKS", 20)
    return tmp_path


def make(making: Path, *names: str, out: str = "bundled") -> dict[str, bytes]:
    program.main([*names, "--runs", str(making / "runs"), "--out", str(making / out)])
    return {
        str(path.relative_to(making / out)): path.read_bytes()
        for path in sorted((making / out).rglob("*.*"))
    }


def test_what_is_made_is_a_run_that_fills_blanks_and_is_as_good_as_its_figures(
    making: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make(making, "zh")
    assert sorted(files) == [
        f"zh/{n}" for n in ("config.json", "vocabulary.json", "weights.safetensors")
    ]
    printed = capsys.readouterr().out
    figures = json.loads(printed[printed.index("{\n") :])
    run = TextRun(making / "bundled" / "zh")
    assert run.filling["temperature"] == figures["temperature"] > 0
    assert figures["bytes"] == sum(map(len, files.values()))
    assert figures["test"]["blanks"]["blanks"] == 20
    model = run.model()
    result = fill(model, run.vocabulary, run.tokenizer, "老师昨天____了一杯咖啡。", **run.filling)
    assert len(result.blanks) == 1
    unrounded = TextRun(making / "runs" / "zh").model()
    pairs = zip(model.state_dict().values(), unrounded.state_dict().values(), strict=True)
    for one, other in pairs:
        assert 0 <= float((one - other).abs().max()) <= float(other.abs().max()) / 254 * (1 + 1e-5)


def test_the_same_recipe_makes_the_same_bytes_also_when_it_was_stopped(
    making: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(making, "en")
    assert make(making, "en", out="again") == whole  # nothing is left to train
    for path in (making / "runs" / "en").rglob("*"):
        if path.is_file():
            path.unlink()
    (making / "runs" / "en" / "data").rmdir()
    steps, step = [], Trainer._step

    def stopped(self: Trainer, *arguments: object) -> object:
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", stopped)
    with pytest.raises(SystemExit) as end:
        make(making, "en", out="stopped")
    assert end.value.code == 130
    assert make(making, "en", out="stopped") == whole


def test_another_name_is_refused(making: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make(making, "fr")
    assert "NAME: got 'fr', expected one of zh, en" in capsys.readouterr().err
