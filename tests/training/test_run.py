"""A run directory that cannot be used gets one clear line, and no code of it is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sentences import make_run
from unrolled.errors import CallError, DataError, RunError
from unrolled.text.run import TextRun, write_data
from unrolled.training import Trainer, prepare_directory
from unrolled.training.files import read_tensors, write_tensors
from unrolled.training.run import (
    BEGINNING,
    CONFIG,
    DATA,
    TRAINING,
    VOCABULARY,
    WEIGHTS,
    beginning,
    locked,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("run") / "run", steps=2)
    Trainer(run).train()
    return run.directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def load(directory: Path) -> None:
    """All that a command reads of a run."""
    run = TextRun(directory)
    run.model()
    run.dataset()
    Trainer(run).restore()


def refused(directory: Path, *parts: str) -> None:
    """Loading fails with one line that holds each of ``parts``."""
    with pytest.raises((RunError, DataError)) as caught:
        load(directory)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON in ``path``."""
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


def test_a_run_is_what_was_put_into_it(run: Path) -> None:
    load(run)
    again = TextRun(run)
    assert TextRun(str(run)).directory == again.directory == run
    assert (again.kind, again.settings.steps, again.tokenizer.unit) == ("cloze", 2, "char")
    assert not again.model().training
    names = {CONFIG, VOCABULARY, WEIGHTS, TRAINING, DATA}
    assert {path.name for path in run.iterdir()} == names


def test_a_newer_format_says_so_whatever_else_changed(run: Path) -> None:
    edit(run / CONFIG, lambda config: (config.clear(), config.update(format=2, new="thing")))
    refused(run, str(run), "run format 2 is newer than 1", "upgrade unrolled")


@pytest.mark.parametrize("value", [0, -1, "1", None, 1.5, [1]])
def test_another_format_is_no_run(value: object, run: Path) -> None:
    edit(run / CONFIG, lambda config: config.update(format=value))
    refused(run, CONFIG, "format")


def test_a_foreign_directory_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("mine")
    refused(tmp_path, f"no run: it holds readme.txt, but no {CONFIG}", "unrolled train")
    refused(tmp_path / "nowhere", "no such directory")
    refused(tmp_path / "readme.txt", "no such directory")


def test_a_config_of_another_program_is_no_run(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    refused(tmp_path, CONFIG, "not the config of a run")


@pytest.mark.parametrize("name", [CONFIG, VOCABULARY, WEIGHTS])
def test_a_missing_file_is_named(name: str, run: Path) -> None:
    (run / name).unlink()
    missing = f"{run}: no run: it holds" if name == CONFIG else f"{run / name}: no such file"
    refused(run, missing, name)


def test_missing_data_are_named(run: Path) -> None:
    shutil.rmtree(run / DATA)
    refused(run, str(run / DATA))


@pytest.mark.parametrize("name", [CONFIG, VOCABULARY])
def test_json_cut_short_anywhere_names_the_file(name: str, run: Path) -> None:
    whole = (run / name).read_bytes()
    for kept in range(0, len(whole) - 2, max(1, len(whole) // 60)):
        (run / name).write_bytes(whole[:kept])
        refused(run, f"{run / name}: damaged")


@pytest.mark.parametrize("name", [WEIGHTS, TRAINING])
def test_tensors_cut_short_anywhere_name_the_file(name: str, run: Path) -> None:
    whole = (run / name).read_bytes()
    for kept in sorted({0, 1, 7, 8, 9, 100, *range(0, len(whole), len(whole) // 20)}):
        (run / name).write_bytes(whole[:kept])
        refused(run, f"{run / name}: damaged")
    (run / name).write_bytes(whole[: len(whole) - 1])
    refused(run, f"{run / name}: damaged")


@pytest.mark.parametrize("name", [WEIGHTS, TRAINING])
def test_a_pickle_in_place_of_tensors_is_never_executed(name: str, run: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(run / "executed"),)

    (run / name).write_bytes(pickle.dumps(Trap()))
    refused(run, f"{run / name}: damaged")
    assert not (run / "executed").exists()
    torch.save(Trap(), run / name)
    refused(run, f"{run / name}: damaged")
    assert not (run / "executed").exists()
    # The trap works where a pickle is loaded.
    pickle.loads(pickle.dumps(Trap()))
    assert (run / "executed").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "transformer"),
        ("kind", None),
        ("kind", ["cloze"]),
        ("text", {"unit": "byte", "simplify": False}),
        ("text", {"unit": "char", "more": 1}),
        ("text", None),
        ("text", {"unit": [], "simplify": False}),
        ("model", {}),
        ("model", None),
        ("model", []),
        ("training", {}),
        ("training", {"steps": 3}),
        ("training", 7),
        ("command", None),
        ("command", {}),
        ("command", {"longest": "many"}),
    ],
)
def test_a_config_with_another_value_is_refused(key: str, value: object, run: Path) -> None:
    edit(run / CONFIG, lambda config: config.update({key: value}))
    refused(run, str(run / CONFIG))


@pytest.mark.parametrize("key", ["kind", "text", "model", "training", "command", "format"])
def test_a_config_without_an_entry_is_refused(key: str, run: Path) -> None:
    edit(run / CONFIG, lambda config: config.pop(key))
    refused(run, str(run / CONFIG), key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "9"),
        ("hidden_size", 9.0),
        ("depth", -1),
        ("cell", "rnn"),
        ("cell", []),
        ("dropout", 2),
        ("dropout", "much"),
        ("dropout", None),
        ("vocabulary_size", "57"),
        ("surplus", 1),
    ],
)
def test_a_model_that_cannot_be_is_refused(key: str, value: object, run: Path) -> None:
    edit(run / CONFIG, lambda config: config["model"].update({key: value}))
    refused(run, str(run))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "8"),
        ("steps", 0),
        ("batch_steps", None),
        ("batch_steps", "many"),
        ("optimizer", "adagrad"),
        ("schedule", "zigzag"),
        ("learning_rate", "fast"),
        ("seed", None),
        ("seed", -1),
        ("threads", 0),
        ("threads", "all"),
        ("evaluations", 0),
        ("clip", None),
    ],
)
def test_settings_that_cannot_be_are_refused_before_training(
    key: str, value: object, run: Path
) -> None:
    edit(run / CONFIG, lambda config: config["training"].update({key: value}))
    before = (run / WEIGHTS).read_bytes()
    with pytest.raises((RunError, DataError)) as caught:
        load(run)
        trainer = Trainer(TextRun(run))
        trainer.train()
    assert "\n" not in str(caught.value) and str(run) in str(caught.value)
    assert (run / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_size", 10), ("embedding_size", 7), ("depth", 2), ("cell", "lstm")]
)
@pytest.mark.parametrize("also_tied", [True, False])
def test_weights_of_another_shape_are_named(
    key: str, value: object, also_tied: bool, run: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["model"][key] = value
        config["model"]["tied"] = also_tied

    edit(run / CONFIG, change)
    refused(run, f"{run / WEIGHTS}: ", "the weights are not of this model")


def test_weights_of_another_kind_of_model_are_named(run: Path) -> None:
    edit(run / CONFIG, lambda config: config.update(kind="lm"))
    refused(run, f"{run / WEIGHTS}: ", "the weights are not of this model")


def test_weights_of_another_dtype_missing_or_too_many_are_named(run: Path) -> None:
    tensors, notes = read_tensors(run / WEIGHTS)
    name = "join.bias"
    for changed, part in [
        (tensors | {name: tensors[name].double()}, "torch.float64"),
        ({n: t for n, t in tensors.items() if n != name}, f"{name} is missing"),
        (tensors | {"more": torch.ones(1)}, "more is not in the model"),
        ({}, "is missing"),
    ]:
        write_tensors(run / WEIGHTS, changed, notes)
        refused(run, f"{run / WEIGHTS}: ", part)


def test_a_vocabulary_of_another_size_is_named(run: Path) -> None:
    edit(run / VOCABULARY, lambda value: value["tokens"].pop())
    refused(run, VOCABULARY, CONFIG, "not of one run")


@pytest.mark.parametrize(
    "tokens",
    [None, [], "abc", [1, 2, 3, 4], ["<pad>", "<unk>", "<s>"], ["a"] * 57, {"a": 1}],
)
def test_a_list_that_is_no_vocabulary_is_named(tokens: object, run: Path) -> None:
    edit(run / VOCABULARY, lambda value: value.update(tokens=tokens))
    refused(run, f"{run / VOCABULARY}: not a vocabulary")


@pytest.mark.parametrize("name", ["train.tokens", "test.offsets", "dtype.json"])
def test_damaged_data_are_named(name: str, run: Path) -> None:
    whole = (run / DATA / name).read_bytes()
    (run / DATA / name).write_bytes(whole[: len(whole) // 2 - 1])
    refused(run, str(run / DATA), "cannot be read")


def test_data_of_another_vocabulary_are_refused_in_one_line(run: Path) -> None:
    # All files are whole, but the text's numbers are beyond the model's vocabulary.
    path = run / DATA / "train.tokens"
    path.write_bytes(b"\xff\xff" * (path.stat().st_size // 2))
    with pytest.raises((RunError, DataError)) as caught:
        Trainer(TextRun(run)).train()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, notes: (tensors, {k: v for k, v in notes.items() if k != "step"}),
        lambda tensors, notes: (tensors, notes | {"step": "two"}),
        lambda tensors, notes: (tensors, notes | {"step": None}),
        lambda tensors, notes: (tensors, notes | {"step": -3}),
        lambda tensors, notes: (tensors | {"stray": torch.ones(1)}, notes),
        lambda tensors, notes: (tensors | {"optimizer.x.y": torch.ones(1)}, notes),
        lambda tensors, notes: (tensors | {"optimizer.99.exp_avg": torch.ones(1)}, notes),
        lambda tensors, notes: (
            {k: v for k, v in tensors.items() if not k.startswith("optimizer.0.")}, notes),
        lambda tensors, notes: (
            {k: v for k, v in tensors.items() if not k.startswith("model.")}, notes),
        lambda tensors, notes: (
            {k: v[:1] if k == "optimizer.0.exp_avg" else v for k, v in tensors.items()}, notes),
    ],
    ids=["no step", "step two", "step null", "step -3", "stray", "optimizer.x", "optimizer.99"]
    + ["state missing", "model missing", "state of another shape"],
)  # fmt: skip
def test_a_training_state_of_another_run_is_named(
    change: Callable[..., tuple[dict[str, torch.Tensor], dict[str, object]]], run: Path
) -> None:
    write_tensors(run / TRAINING, *change(*read_tensors(run / TRAINING)))
    with pytest.raises(RunError) as caught:
        edit(run / CONFIG, lambda config: config["training"].update(steps=4))
        trainer = Trainer(TextRun(run))
        trainer.restore()
        trainer.train()
    assert str(run / TRAINING) in str(caught.value) and "\n" not in str(caught.value)


# Making a directory ready


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    prepare_directory(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_run_is_not_overwritten(run: Path) -> None:
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(CallError, match=r"already holds a run.*--resume"):
        prepare_directory(run)
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize("name", ["mine.txt", "weights.safetensors", ".hidden", "training.json"])
def test_other_files_are_neither_overwritten_nor_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CallError, match=f"not empty .{name}. and not a run"):
        prepare_directory(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_killed_beginning_left_is_cleared(tmp_path: Path) -> None:
    for name in (DATA, f".{DATA}.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.raw").write_bytes(b"half")
    for name in (VOCABULARY, f".{VOCABULARY}.partial", f".{CONFIG}.partial"):
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(CallError, match="not empty"):  # without the mark they may be a user's own
        prepare_directory(tmp_path)
    (tmp_path / BEGINNING).touch()
    prepare_directory(tmp_path)
    with beginning(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [BEGINNING]
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(RunError, match="another process is training this run"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):  # and is free again
        pass


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_the_way_is_an_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="cannot be used"):
        prepare_directory(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_data_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    from unrolled.text.data import Tokenizer

    def text() -> Iterator[str]:
        yield "今天很好。"
        raise DataError("line 2 is not UTF-8")

    with pytest.raises(DataError, match="line 2"):
        write_data(tmp_path, text(), Tokenizer(), longest=10)
    assert list(tmp_path.iterdir()) == []
