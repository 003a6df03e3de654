"""``train --remedy``, and the advice that leads to it."""

import json
import math
import shlex
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.cli.conftest import SMALL, Call
from tests.cli.test_commands import contents, failed, misused
from unrolled import cells, remedies
from unrolled.text.baselines import Bigrams
from unrolled.text.models import KINDS
from unrolled.text.run import TextRun
from unrolled.training import Trainer
from unrolled.training.remedies import REMEDIES

QUICK = (*SMALL, "--epochs", "0.2", "--evaluations", "1")


def begun(run: Path) -> Any:
    """The layers with which the run began."""
    return Trainer(TextRun(run)).model.layers


@pytest.mark.parametrize(
    ("given", "cell", "expected"),
    [
        ("orthogonal_weights=0.5", "gru", lambda n: remedies.orthogonal_weights_(n, gain=0.5)),
        ("identity_weights=0.7", "elman", lambda n: remedies.identity_weights_(n, scale=0.7)),
        ("critical_weights", "elman", remedies.critical_weights_),
        ("glorot_weights=2", "lstm", lambda n: remedies.glorot_weights_(n, gain=2.0)),
        ("sensible_weights", "gru", remedies.sensible_weights_),
        ("forget_bias=3", "lstm", lambda n: remedies.forget_bias_(n, 3.0)),
        ("remedies.chrono_bias_=40", "gru", lambda n: remedies.chrono_bias_(n, 40)),
        ("as_gru=4", "elman", lambda n: remedies.as_gru(n, gate_bias=4.0)),
        ("as_lstm", "elman", remedies.as_lstm),
    ],
)
def test_a_run_begins_with_the_remedy_and_goes_on_with_it(
    given: str, cell: str, expected: Any, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    train = ("train", "lm", "--out", out)
    options = ("--data", corpus_file, *QUICK, "--cell", cell, "--remedy", given, "--seed", 4)
    done = call(*train, *options)
    assert (done.code, done.err) == (0, "")
    run = TextRun(out)
    config = run.model_config
    torch.manual_seed(4)
    layers = expected(KINDS["lm"](**{**config, "cell": cell}).layers)
    for name, weight in layers.state_dict().items():
        torch.testing.assert_close(begun(out).state_dict()[name], weight, rtol=0, atol=0)
    name = given.removeprefix("remedies.").partition("=")[0].removesuffix("_")
    assert list(json.loads((out / "config.json").read_text())["training"]["remedy"]) == [name]
    assert config["cell"] == {"as_gru": "gru", "as_lstm": "lstm"}.get(name, cell)
    before = contents(out)
    assert call(*train, "--resume", "--remedy", given).code == 0
    failed(call(*train, "--resume", "--remedy", "clip_value=1"), 2, "--remedy: got", "begun with")
    assert contents(out) == before
    assert call("generate", out, "--longest", 3).code == 0


def test_another_activation_is_part_of_the_model(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    options = (*QUICK, "--cell", "elman", "--remedy", "with_activation=relu")
    assert call("train", "cloze", "--data", corpus_file, "--out", out, *options).code == 0
    assert [cell.activation for cell in TextRun(out).model().layers.cells] == ["relu", "relu"]
    assert call("evaluate", out).code == 0


@pytest.mark.parametrize(
    "given", ["clip_norm=0.01", "clip_value=0.001", "clip_ratio", "autoclip=0"]
)
def test_a_gradient_is_clipped_as_the_remedy_says(
    given: str, corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    done = call("train", "lm", "--data", corpus_file, "--out", out, *QUICK, "--remedy", given)
    assert done.code == 0, done.err
    trainer = Trainer(TextRun(out))
    name, _, most = given.partition("=")
    bound = trainer.settings.clip
    for _, item in islice(trainer.feed.from_step(0), 2):
        trainer.optimizer.zero_grad()
        torch.autograd.backward(trainer.feed.loss(item))
        before = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
        norm, bound = trainer.clipper()
        torch.testing.assert_close(norm, before)
    after = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    if name == "clip_value":
        largest = max(p.grad.abs().max() for p in trainer.model.parameters())
        assert largest <= float(most) and bound is None
    elif name == "clip_ratio":
        for p in trainer.model.layers.parameters():
            if p.dim() > 1:
                assert (p.grad.norm(dim=1) <= 0.01001 * p.norm(dim=1).clamp(min=1e-3)).all()
    else:
        assert bound is not None
        torch.testing.assert_close(after, torch.tensor(min(bound, float(norm))), rtol=1e-4, atol=0)
        assert name == "autoclip" or bound == 0.01


def test_autoclip_goes_on_from_the_norms_that_it_saw(
    corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    options = (*SMALL, "--epochs", 1, "--remedy", "autoclip=50", "--remedy", "clip_states=0.1")
    assert call("train", "lm", "--data", corpus_file, "--out", tmp_path / "run", *options).code == 0
    trainer = Trainer(TextRun(tmp_path / "run"))
    assert trainer.model.layers.clip == 0.1
    trainer.restore()
    history = trainer.clipper.state_dict()["history"]
    assert len(history) == trainer.step and history.equal(history.sort().values)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--remedy", "forget_bias"), ("--remedy: forget_bias_: got cells of GRU",)),
        (("--remedy", "identity_weights"), ("identity_weights_: got cells of GRU",)),
        (("--remedy", "as_gru"), ("--remedy as_gru: got --cell gru, expected --cell elman",)),
        (("--remedy", "clip_value=1", "--clip", 2), ("--clip: got 2 with --remedy clip_value",)),
        (
            ("--remedy", "forget_bias=1", "--remedy", "chrono_bias=9", "--cell", "lstm"),
            ("got forget_bias and chrono_bias, which both set the bias",),
        ),
    ],
)
def test_a_remedy_that_cannot_be_is_refused_and_leaves_nothing(
    options: tuple[str, ...], parts: tuple[str, ...], corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    done = call(
        "train", "lm", "--data", corpus_file, *QUICK, *options, "--out", tmp_path / "a" / "b"
    )
    failed(done, 2, *parts)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("water", "expected one of orthogonal_weights"),
        ("chrono_bias", "got no value, expected chrono_bias=LONGEST"),
        ("chrono_bias=2.5", "expected a whole number of steps"),
        ("chrono_bias=1", "expected a number from 2"),
        ("clip_states=0", "expected a number above 0"),
        ("autoclip=101", "expected a number from 0 to 100"),
        ("orthogonal_weights=nan", "expected a number from 0"),
        ("sensible_weights=1", "expected no value"),
        ("with_activation=sine", "expected one of tanh"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    given: str, part: str, tmp_path: Path, call: Call
) -> None:
    misused(call("train", "lm", "--out", tmp_path / "run", "--remedy", given), "--remedy", part)


def test_help_lists_every_remedy(call: Call) -> None:
    shown = call("train", "cloze", "--help").out
    assert all(f"\n  {name}" in shown for name in REMEDIES)


# Advice


def fading(run: Path) -> None:
    """Make the layers of a run forget at once."""
    found = TextRun(run)
    model = found.model()
    with torch.no_grad():
        for cell in model.layers.cells:
            if isinstance(cell, cells.GRU):
                cell.weight_hh.zero_()
                cell.bias_ih[len(cell.bias_ih) // 3 : 2 * len(cell.bias_ih) // 3] = -20
            else:
                cell.weight_hh.mul_(0.01)
    found.save_weights(model, {"step": 1, "validation_nats": 4.0})


@pytest.mark.parametrize(
    ("cell", "advised"),
    [
        ("gru", ["--remedy chrono_bias"]),
        ("elman", ["--remedy with_activation=relu", "--cell lstm"]),
    ],
)
def test_a_run_that_fades_and_has_not_learnt_is_told_the_command_of_a_new_one(
    cell: str, advised: list[str], corpus_file: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "a run"
    options = ("--data", corpus_file, *QUICK, "--cell", cell, "--no-tied", "--dropout", 0.3)
    assert call("train", "lm", "--out", out, *options).code == 0
    fading(out)
    done = call("diagnose", out, "--json")
    record = json.loads(done.out)
    assert record["rows"][0]["verdict"]["state"] == "vanishing"
    names = [
        remedy["name"].partition("=")[0] for remedy in record["rows"][0]["verdict"]["remedies"]
    ]
    assert [name.partition("=")[0] for name in advised] == names
    assert "in a new run" not in done.err
    name, command = next(iter(record["commands"].items()))
    assert command in call("diagnose", out).out
    assert call(*shlex.split(command)[1:]).code == 0
    (new,) = set(tmp_path.iterdir()) - {out}
    began, run = TextRun(new), TextRun(out)
    differing = {k for k, v in began.command.items() if run.command[k] != v}
    assert differing == {"remedy"} and began.model_config["dropout"] == 0.3
    assert f"--remedy {next(iter(began.settings.remedy))}" == name.partition("=")[0]
    fading(new)
    assert name not in json.loads(call("diagnose", new, "--json").out)["commands"]


def test_a_network_that_has_learnt_its_task_is_not_told_to_begin_anew(
    cloze_run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.lens.verdict.FADED", 1.0)  # any gradient has vanished
    monkeypatch.setattr("unrolled.lens.verdict.GROWN", 1.0)  # or exploded
    shown = call("diagnose", cloze_run).out
    assert "vanishing" in shown or "exploding" in shown
    assert "note: it has learnt its task: " in shown and "token before alone gives" in shown
    assert "try " not in shown and "--remedy" not in shown
    record = json.loads(call("diagnose", cloze_run, "--json").out)
    loss = float(shown.splitlines()[0].rpartition(": ")[2])
    assert record["commands"] == {} and 0 < loss < record["plain"]


def test_the_token_before_alone_gives_what_the_pairs_say() -> None:
    tokens = torch.tensor([1, 2, 1, 2, 1, 3])
    pairs = Bigrams(SimpleNamespace(tokens={"train": tokens.numpy()}), 5)  # type: ignore[arg-type]
    # After 1: 2 twice, 3 once, two kinds; alone 2 has (2 + 1) / (6 + 5), and 4, never seen, 1 / 11.
    expected = [(2 + 2 * 3 / 11) / 5, (0 + 2 * 1 / 11) / 5, 1 / 11]
    found = [pairs.nats(torch.tensor([c]), torch.tensor([w])) for c, w in ((1, 2), (1, 4), (4, 4))]
    assert found == pytest.approx([-math.log(p) for p in expected])
    total = sum(math.exp(-pairs.nats(torch.tensor([1]), torch.tensor([w]))) for w in range(5))
    assert total == pytest.approx(1.0)


def test_the_lag_that_a_task_needs_is_what_is_judged(call: Call) -> None:
    bare = ("diagnose", "--cell", "elman", "--hidden", 8, "--input", 5, "--steps", 60, "--json")
    states = [
        json.loads(call(*bare, *more).out)["rows"][0]["verdict"]["state"]
        for more in ((), ("--lag", 2))
    ]
    assert states == ["vanishing", "healthy"]
