"""The bundled models: what is shipped, and what reads it."""

import json
import subprocess
import sys
import tomllib
import warnings
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from tools.pretrain.__main__ import RECIPES, SHARED

import unrolled
from tests.cli.conftest import Call, call  # noqa: F401
from tests.cli.test_commands import failed, misused
from unrolled.errors import CallError, MissingExtraError
from unrolled.text import pretrained
from unrolled.text.data import text as text_module
from unrolled.training.files import read_tensors

PHONE = "我的手机坏了,我打算____一部新手机。"
NAMES = pytest.mark.parametrize("name", pretrained.NAMES)
ROOT = Path(pretrained.__file__).parent
FILES = ("config.json", "vocabulary.json", "weights.safetensors")


# What is shipped


@NAMES
def test_a_model_takes_four_megabytes_at_the_most_and_credits_its_text(name: str) -> None:
    assert sum((ROOT / name / file).stat().st_size for file in FILES) <= 4_000_000
    config = json.loads((ROOT / name / "config.json").read_bytes())
    assert "Tatoeba" in config["credit"] and "CC-BY" in config["credit"]


@NAMES
def test_a_model_is_what_its_recipe_makes(name: str) -> None:
    command = pretrained.load(name).run.command
    asked = {**SHARED, **RECIPES[name]}
    assert command["data"] == [asked.pop("data")]
    assert {option: command[option] for option in asked} == asked


@NAMES
def test_matrices_are_stored_as_int8(name: str) -> None:
    tensors, notes = read_tensors(ROOT / name / "weights.safetensors")
    matrices = [t for key, t in tensors.items() if t.dim() == 2 and not key.endswith(".scale")]
    assert matrices and all(t.dtype == torch.int8 for t in matrices)
    assert notes["step"] > 0


def test_the_package_takes_the_models_with_it() -> None:
    project = tomllib.loads((ROOT.parents[3] / "pyproject.toml").read_text())
    assert project["tool"]["scikit-build"]["wheel"]["packages"] == ["src/unrolled"]
    ignored = (ROOT.parents[3] / ".gitignore").read_text().split()

    def left_out(path: Path) -> bool:
        """As build tools leave out what Git ignores."""
        return any(fnmatch(part, line.rstrip("/")) for part in path.parts for line in ignored)

    assert left_out(Path("src/unrolled/__pycache__/cli.cpython-311.pyc"))
    within = ROOT.relative_to(ROOT.parents[3])
    assert not any(left_out(within / name / file) for name in pretrained.NAMES for file in FILES)


# From Python


def test_the_sentence_of_the_primer_is_filled() -> None:
    result = unrolled.fill(PHONE)
    best = [candidate.text for candidate in result.blanks[0].candidates]
    assert len(best) == 5 and {"买", "换"} & set(best[:2])


def test_each_language_has_its_model() -> None:
    assert [pretrained.for_text(t) for t in ("我____", "I ____.", "____ 123", "สวัสดี ____")] == [
        "zh", "en", "en", "en",
    ]  # fmt: skip
    result = unrolled.fill("How ____ are you?", top=3)
    assert result == unrolled.fill("How ____ are you?", top=3, model="en")
    assert all(candidate.text.isascii() for candidate in result.blanks[0].candidates)
    assert "t" in unrolled.fill("I ____ tea.", model="zh").tokens  # characters
    with pytest.raises(CallError, match="model: got 'fr', expected one of zh, en"):
        unrolled.fill("Je ____.", model="fr")


def test_a_model_is_loaded_once() -> None:
    assert pretrained.load("zh") is pretrained.load("zh")


def test_a_script_that_the_model_has_never_seen_is_said_not_to_be_known() -> None:
    for text in ("مرحبا ____ بالعالم", "Привет, ____ мир", "สวัสดี ____"):
        with pytest.warns(UserWarning, match="most of the text.*do not trust the answer"):
            unrolled.fill(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unrolled.fill(PHONE)


def test_blanks_side_by_side_are_filled_each() -> None:
    result = unrolled.fill("我今天很____<blank>，想____ ____。")
    assert len(result.blanks) == 4 and "_" not in result.filled


def test_a_long_text_is_refused() -> None:
    with pytest.raises(CallError, match="10,000 tokens, expected at most 1,000"):
        unrolled.fill("好" * 9_999 + "____")


def test_traditional_text_is_read_simplified_where_the_extra_is_and_as_it_is_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traditional = PHONE.replace("机", "機").replace("坏", "壞")
    assert (
        unrolled.fill(traditional).blanks[0].candidates == unrolled.fill(PHONE).blanks[0].candidates
    )

    def missing() -> None:
        raise MissingExtraError("converting Traditional Chinese", "opencc", "zh")

    monkeypatch.setattr(text_module, "simplifier", missing)
    assert unrolled.fill(PHONE).unknown == []  # needs no conversion
    assert unrolled.fill(traditional).unknown == ["機", "壞"]


# From the command line


def test_fill_needs_no_run(call: Call) -> None:  # noqa: F811
    done = call("fill", PHONE)
    assert (done.code, done.err) == (0, "")
    filled, candidates = done.out.splitlines()
    assert filled == unrolled.fill(PHONE).filled
    assert candidates.startswith("blank 1: ")
    got = json.loads(call("fill", "--json", "How ____ are you?", "--model", "en", "--top", 1).out)
    assert [len(blank["candidates"]) for blank in got["blanks"]] == [1]


def test_fill_says_why_by_every_character_of_the_context(call: Call) -> None:  # noqa: F811
    got = json.loads(call("fill", PHONE, "--why", "--json").out)
    (why,) = got["why"]
    assert "".join(t["token"] for t in why["tokens"]) == PHONE.replace("____", "")


def test_fill_of_a_file_goes_by_its_first_line(call: Call, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "texts.txt"
    path.write_text("\nHow ____ are you?\nI ____ tea.\n", encoding="utf-8")
    done = call("fill", "--input", path)
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["line"] for row in rows] == [2, 3]
    assert rows[0]["filled"] == unrolled.fill("How ____ are you?").filled


def test_a_run_and_a_model_in_the_box_are_not_both_given(call: Call, tmp_path: Path) -> None:  # noqa: F811
    failed(call("fill", tmp_path, "我____", "--model", "zh"), 2, "--model: got zh")
    misused(call("fill", "我____", "--model", "fr"), "--model")


def test_text_in_an_unknown_script_is_noted(call: Call) -> None:  # noqa: F811
    done = call("fill", "Привет, ____ мир")
    assert done.code == 0 and "do not trust the answer" in done.err


def test_evaluate_measures_the_model_in_the_box_on_any_text(call: Call, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"我今天喝了{n}杯水。" for n in range(300)), encoding="utf-8")
    scores = json.loads(call("evaluate", "--data", path, "--json").out)
    assert scores["tokens"] > 0 and 0 < scores["top1"] < 1


def test_diagnose_looks_at_the_model_in_the_box(call: Call, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"我今天喝了{n}杯水。" for n in range(300)), encoding="utf-8")
    done = call("diagnose", "--data", path)
    assert done.code == 0 and done.out.startswith("the bundled model, zh, validation")


def test_info_names_the_models_and_credits_their_text(call: Call) -> None:  # noqa: F811
    assert json.loads(call("info", "--json").out)["models"] == dict.fromkeys(
        pretrained.NAMES, pretrained.CREDIT
    )
    assert "Tatoeba" in call("info").out


def test_an_answer_needs_no_compiler_no_corpus_and_no_extra() -> None:
    program = f"""
import sys
for name in ("opencc", "rjieba", "hsg", "altair"):
    sys.modules[name] = None
import unrolled
print(unrolled.fill({PHONE!r}).filled)
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == unrolled.fill(PHONE).filled
