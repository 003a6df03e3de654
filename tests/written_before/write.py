"""Writes the files beside it: once, by the library as it was at commit 6cd0060, in that worktree:

    cd WORKTREE && .venv/bin/python REPOSITORY/tests/written_before/write.py

They stay as they are: ``test_loading.py`` holds that today's library goes on from them, and comes to the
same numbers. For a later form of the files, write others beside them.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from unrolled import bptt, lens
from unrolled.cells import LSTM
from unrolled.cli import main
from unrolled.training import Trainer

HERE = Path(__file__).parent
SENTENCES = [
    f"{who}{when}{what}。"
    for who in ("我", "你", "老师", "妈妈")
    for when in ("今天", "明天", "早上", "晚上", "昨天")
    for what in ("喝了一杯水", "买了一本书", "想看电影", "吃苹果")
]
SMALL = "--epochs 4 --hidden 6 --embedding 4 --min-count 1 --longest 20 --threads 1"
LOSSES = 8  # steps of a run that is taken up
RUNS = {
    "cloze": "cloze --batch-tokens 90 --watch 9 --remedy autoclip",
    "whole": "lm --batch-tokens 90 --cell lstm",
    "carried": "lm --bptt truncated --k1 6 --k2 6 --lanes 3 --passage 4",
    "truncated": "lm --bptt truncated --k1 4 --k2 10 --lanes 3 --passage 4 --depth 2",
}


@contextlib.contextmanager
def kept_half_way(into: Path) -> Iterator[list[float]]:
    """Copy the run's directory when half of its steps are done; the losses of the steps after that."""
    checkpoint, step = Trainer.checkpoint, Trainer._step
    losses: list[float] = []

    def and_copy(trainer: Trainer) -> None:
        checkpoint(trainer)
        if trainer.step == trainer.settings.steps // 2:
            shutil.copytree(trainer.run.directory, into, ignore=shutil.ignore_patterns(".*"))

    def and_tell(trainer: Trainer, *arguments: Any) -> Any:
        done = step(trainer, *arguments)
        if trainer.step > trainer.settings.steps // 2:
            losses.append(done[0].loss)
        return done

    Trainer.checkpoint, Trainer._step = and_copy, and_tell  # type: ignore[method-assign]
    try:
        yield losses
    finally:
        Trainer.checkpoint, Trainer._step = checkpoint, step  # type: ignore[method-assign]


def said(*arguments: str) -> Any:
    """What a command prints as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*arguments, "--json"]) == 0
    return json.loads(out.getvalue())


def write_runs() -> None:
    """A run of each kind, half trained; how good it is, and the losses of the steps that follow."""
    Path("corpus.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    numbers = {}
    for name, options in RUNS.items():
        arguments = (
            f"train {options} {SMALL} --data corpus.txt --out {name} --checkpoint-seconds 1e-9"
        )
        with kept_half_way(HERE / name) as losses:
            assert main(arguments.split()) == 0
        nats = said("evaluate", str(HERE / name))["nats"]
        numbers[name] = {"nats": nats, "losses": losses[:LOSSES]}
    (HERE / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


class Model(nn.Module):
    """A layer that has a name in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = unrolled.GRU(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]  # type: ignore[no-any-return]


def save(name: str, layer: nn.Module, x: Tensor, results: list[Tensor], saved: Any) -> None:
    weights, gradients = layer.state_dict(), [p.grad for p in layer.parameters()]
    found = {"weights": weights, "saved": saved, "x": x, "results": results}
    torch.save(found | {"gradients": gradients}, HERE / f"{name}.pt")


def write_states() -> None:
    """What each keeper of states saves after a call; the next call's input and results."""
    torch.manual_seed(0)
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    resets = torch.zeros(9, 2, dtype=torch.bool)
    resets[2, 1] = True

    model = Model().double()
    carry = bptt.Carry(model)
    with carry.window(resets[:5]):
        model(x[:5])
    saved = carry.state_dict()
    with carry.window():
        y = model(x[5:])
    y.square().sum().backward()
    save("carry", model, x[5:], [y], saved)

    model = Model().double()
    reader = bptt.Truncated(model, 6)
    reader(x[:5], resets=resets[:5])
    saved = reader.state_dict()
    y = reader(x[5:8])
    y.square().sum().backward()
    save("truncated", model, x[5:8], [y], saved)

    for name, layer, learner in (
        ("rtrl", unrolled.LSTM(3, 4), bptt.RTRL),
        (
            "uoro",
            unrolled.RNN(3, 4),
            lambda layer: bptt.UORO(layer, generator=torch.Generator().manual_seed(1)),
        ),
        ("snap1", unrolled.GRU(3, 4), bptt.SnAp1),
    ):
        layer.double()
        learn = learner(layer)
        learn(x[:5], resets=resets[:5])
        saved = learn.state_dict()
        y = learn(x[5:])
        y.square().sum().backward()
        save(name, layer, x[5:], [y], saved)

    layer = unrolled.Recurrent(LSTM, 3, 4, depth=2).double()
    stream = layer.stream(3)
    stream(torch.cat([x, x[:, :1]], 1))
    stream.leave([0])
    saved = stream.state_dict()
    with torch.no_grad():
        y = stream(x)
    save("stream", layer, x, [y, *stream.state], saved)


def write_report() -> None:
    """A report of a model one of whose states becomes NaN."""
    torch.manual_seed(0)
    model = Model()
    x = torch.randn(7, 2, 3)
    with lens.watch(model) as seen:
        model(x).square().sum().backward()
        x = x.clone()
        x[3, 1, 0] = torch.nan
        model(x)
    seen.report().save(HERE / "report.json")


if __name__ == "__main__":
    os.environ["UNROLLED_LANG"] = "en"
    work = Path("build/written_before")
    work.mkdir(parents=True)
    os.chdir(work)
    write_runs()
    write_states()
    write_report()
