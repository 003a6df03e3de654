"""``python -m unrolled.pretrained``: a small model of a small text, made as those in the box are."""

import json
import shutil
from pathlib import Path

import pytest

from tests.text import corpus
from unrolled.models import fill
from unrolled.pretrained import __main__ as program
from unrolled.training import Run, Trainer


@pytest.fixture
def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a model of a text of 900 sentences is made, with recipes of its size."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(corpus(900)), encoding="utf-8")
    small = {"data": str(text), "hidden": 16, "embedding": 8, "epochs": 3, "min_count": 1}
    monkeypatch.setattr(program, "RECIPES", {"zh": {**small, "words": True}, "en": small})
    further = {"data": [str(text)] * 2, "epochs": 1.0, "learning_rate": 1e-3}
    monkeypatch.setattr(program, "FURTHER", {"zh": further})
    monkeypatch.setattr(program, "BLANKS", 20)
    return tmp_path


def make(making: Path, *names: str, out: str = "box") -> dict[str, bytes]:
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
    run = Run(making / "box" / "zh")
    assert run.filling["temperature"] == figures["temperature"] > 0
    assert figures["bytes"] == sum(map(len, files.values()))
    assert figures["test"]["blanks"]["blanks"] == 20
    model = run.model()
    result = fill(model, run.vocabulary, run.tokenizer, "老师昨天____了一杯咖啡。", **run.filling)
    assert len(result.blanks) == 1
    unrounded = Run(making / "runs" / "zh-further").model()
    pairs = zip(model.state_dict().values(), unrounded.state_dict().values(), strict=True)
    for one, other in pairs:
        assert 0 <= float((one - other).abs().max()) <= float(other.abs().max()) / 254 * (1 + 1e-5)


def test_training_further_begins_at_the_rounded_weights_and_counts_a_text_as_often_as_it_is_named(
    making: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = program.FURTHER["zh"] | {"learning_rate": 1e-12}
    monkeypatch.setattr(program, "FURTHER", {"zh": further})
    monkeypatch.setitem(program.CREDITS, "first", "")
    make(making, "zh")
    first, second = (Run(making / "runs" / name) for name in ("zh", "zh-further"))
    program.write(first, making / "first", first.dataset())
    rounded = Run(making / "first").model().state_dict()
    for name, weight in second.model().state_dict().items():
        assert weight.allclose(rounded[name], rtol=0, atol=1e-8)  # some 1e-12 a step
    assert second.vocabulary.tokens == first.vocabulary.tokens
    assert second.command == first.command | further
    for split in ("train", "validation"):
        assert second.dataset().sentences(split) == 2 * first.dataset().sentences(split)


def test_the_same_recipe_makes_the_same_bytes_also_when_it_was_stopped(
    making: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, stops, step = [], set(), Trainer._step

    def counted(self: Trainer, *arguments: object) -> object:
        steps.append(1)
        if len(steps) in stops:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", counted)
    whole = make(making, "zh")
    count = len(steps)
    assert make(making, "zh", out="again") == whole
    assert len(steps) == count  # nothing is left to train
    shutil.rmtree(making / "runs")
    steps.clear()
    stops |= {5, count}  # of both trainings
    with pytest.raises(SystemExit) as end:
        make(making, "zh", out="stopped")
    assert end.value.code == 130
    with pytest.raises(KeyboardInterrupt):
        make(making, "zh", out="stopped")
    assert make(making, "zh", out="stopped") == whole


def test_another_name_is_refused(making: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make(making, "fr")
    assert "NAME: got 'fr', expected one of zh, en" in capsys.readouterr().err
