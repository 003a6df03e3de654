"""``unrolled diagnose``: where a model's gradient goes through time, why, and what helps."""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import unrolled
from unrolled import lens
from unrolled.bptt import Carry
from unrolled.cells import elman
from unrolled.cli.language import translated
from unrolled.cli.options import CELLS, file, whole
from unrolled.cli.printing import print_json, print_report, tell
from unrolled.cli.runs import (
    add_held_out,
    check_split,
    chosen,
    class_of,
    data_of,
    longest_of,
    note_untrained,
    open_run,
    with_options,
)
from unrolled.cli.train import application_of
from unrolled.errors import CallError, DataError
from unrolled.layers import Recurrent
from unrolled.lens import Report
from unrolled.text.baselines import Bigrams
from unrolled.text.data import Batch, Dataset
from unrolled.text.feeds import evaluation_windows
from unrolled.text.measures import real
from unrolled.text.models import LanguageModel, TokenModel
from unrolled.text.models.token_model import DEEPEST, WIDEST
from unrolled.text.run import TextRun
from unrolled.training.run import Run

# The options of a bare network, and their defaults; the parser leaves out what was not given.
BARE: dict[str, Any] = {
    "activation": "tanh",
    "hidden": 64,
    "input": 32,
    "steps": 100,
    "batch": 8,
    "depth": 1,
    "bidirectional": False,
    "seed": 0,
}
BUNDLED = "DIR or the bundled model"
OF_A_RUN = ("data", "split", "model")
OF_TEXT = "a model of text"
NATS = "nats per token"


class Question(NamedTuple):
    """What is looked at: a model at a step of its training, a loss of it, and a batch."""

    title: str
    step: int
    model: nn.Module
    loss: Callable[..., Tensor]
    measure: str
    """What the loss is."""
    batch: tuple[Tensor, ...]
    run: Run | None = None
    """Of which the model is, if it was trained by a command."""
    plain: float | None = None
    """The loss where each token is told from the one before it alone."""
    lag: int | None = None
    """The longest dependency of the task, in steps, where it is known."""
    longest: int = 0
    """Steps of the longest sequence of the split."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diagnose",
        help="see where a gradient goes through time, and why",
        description="One forward and one backward pass under the lens: of a trained model "
        "on held-out text, or of a network by itself on noise.",
        argument_default=argparse.SUPPRESS,
    )
    add_held_out(parser, "validation")
    parser.add_argument("--cell", choices=sorted(CELLS), help="a network by itself, of this cell")
    parser.add_argument(
        "--activation", choices=sorted(elman.ACTIVATIONS), help="of --cell elman (tanh)"
    )
    for name, most, text in (
        ("hidden", WIDEST, "hidden units"),
        ("input", WIDEST, "features of the noise"),
        ("steps", 2**20, "steps of time"),
        ("batch", 2**20, "sequences"),
        ("depth", DEEPEST, "recurrent layers"),
    ):
        parser.add_argument(
            f"--{name}", type=whole(1, most), metavar="N", help=f"{text} ({BARE[name]})"
        )
    parser.add_argument("--bidirectional", action="store_true", help="read in both directions")
    parser.add_argument("--seed", type=whole(0), metavar="N", help="source of chance (0)")
    parser.add_argument(
        "--lag",
        type=whole(1),
        metavar="N",
        help="the longest dependency of the task, in steps, if you know it: it is judged over these",
    )
    parser.add_argument(
        "--try", dest="tries", action="store_true", help="try every remedy, and look again"
    )
    parser.add_argument(
        "--html", type=file(".html"), metavar="FILE", help="write the report as a page"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Look, and print what was seen."""
    options = {name: value for name, value in vars(arguments).items() if value is not None}
    _refuse_contradictions(options)
    if "html" in options:
        from unrolled.lens.render import require

        require()
    with tempfile.TemporaryDirectory() as directory:
        if "cell" in options:
            asked = _bare(options)
        elif "run" in options and not issubclass(class_of(options["run"]), TextRun):
            asked = _run(options)
        else:
            asked = _text(options, Path(directory))
    with unrolled.watch(asked.model) as seen:
        loss = asked.loss(asked.model, *asked.batch)
        torch.autograd.backward(loss)
    report = seen.report(lag=options.get("lag", asked.lag))
    learnt = _learnt(asked, loss.item())
    commands: dict[str, str] = {}
    if learnt or asked.run is not None:
        report, commands = _of_a_new_run(report, asked, options.get("lag"), learnt)
    trials = None
    if "tries" in options:
        trials = lens.try_remedies(_Asked(asked), torch.empty(0), lambda value: value)
    tried = None if trials is None else trials.record()
    try:
        if "json" in options:
            about = {"plain": asked.plain, "commands": commands} if asked.run is not None else {}
            print_json(report.record() | (tried or {}) | about)
        else:
            tell(f"{asked.title}, {asked.measure}: {loss.item():.4g}")
            print_report(report)
            for name, line in commands.items():
                tell(f"a new run with {name}:\n  {line}")
            if trials is not None:
                print(f"\n{trials.told(translated)}")
    finally:  # whoever reads may have seen enough
        if "html" in options:
            from unrolled.lens.render import page

            page.write(
                options["html"],
                {asked.step: report.record()},
                trials=tried,
                title=asked.title,
                said=translated,
            )
    if "html" in options and "json" not in options:
        tell(f"the page: {options['html']}")


class _Asked(nn.Module):
    """A model, called for its loss of a batch."""

    def __init__(self, asked: Question) -> None:
        super().__init__()
        self.model, self.loss, self.batch = asked.model, asked.loss, asked.batch
        self.train(asked.model.training)

    def forward(self, _: Tensor) -> Tensor:
        return self.loss(self.model, *self.batch)


# --- A run ---------------------------------------------------------------------------------------


def _run(options: dict[str, Any]) -> Question:
    """A run's model, and what it reads in the middle of an epoch of its training."""
    _refuse(options, OF_A_RUN, OF_TEXT)
    run = open_run(options["run"])
    note_untrained(run)
    model, data = run.model(), run.dataset()
    feed = run.feed(model, data)
    item = next(feed.epoch(0, len(feed) // 2))

    def loss(model: nn.Module) -> Tensor:
        return run.feed(model, data).loss(item)

    about = (f"{run.directory}, train", run.weights_step(), model, loss, "loss", ())
    longest = application_of(run).longest(run, data, "train")
    return Question(*about, run=run, lag=_window_of(run), longest=longest)


def _window_of(run: Run) -> int | None:
    """How many steps back the gradient goes at most, where that is less than a sequence."""
    return run.settings.k2 if run.settings.bptt == "truncated" else None


def _text(options: dict[str, Any], directory: Path) -> Question:
    """A model of text, and a batch of its text or of another, which is encoded in ``directory``."""
    name, run, model, _ = chosen(options.get("run"), options.get("model"), "zh", TokenModel)  # type: ignore[type-abstract]
    split = options.get("split", "validation")
    data = data_of(run, options.get("data"), directory)
    check_split(data, split)
    about = (f"{name}, {split}", run.weights_step(), model)
    pairs = Bigrams(data, len(run.vocabulary))
    whole: dict[str, Any] = {
        "run": run if "run" in options else None,
        "longest": longest_of(data, split, run),
    }
    if isinstance(model, LanguageModel) and data.is_continuous:
        window = _window(data, split)
        before, after, counted = window[:3]
        plain = pairs.nats(before[counted.bool()], after[counted.bool()])
        whole |= {"plain": plain, "lag": _window_of(run)}
        return Question(*about, _of_window, NATS, window, **whole)
    batches = data.batches(split, run.settings.batch_steps)
    rows = list(batches.rows())  # from short to long
    tokens, lengths, _ = batches.read(rows[len(rows) // 2])
    ends = lengths - (1 if model.kind == "cloze" else 0)  # which does not predict </s>
    told = torch.arange(1, len(tokens)).unsqueeze(1) < ends
    whole["plain"] = pairs.nats(tokens[:-1][told], tokens[1:][told])
    return Question(*about, _of_sentences, NATS, (tokens, lengths), **whole)


def _learnt(asked: Question, loss: float) -> str:
    """What speaks for it that the network has learnt its task; empty if nothing does."""
    if asked.plain is None or not asked.step or not loss < asked.plain:
        return ""
    return (
        f"it has learnt its task: {loss:.3g} nats per token, where the token before alone gives "
        f"{asked.plain:.3g}; it needs no remedy"
    )


def _of_a_new_run(
    report: Report, asked: Question, lag: int | None, learnt: str
) -> tuple[Report, dict[str, str]]:
    """``report`` on a network that has been trained, and the commands of the new runs that it advises.

    Weights are drawn at the beginning, so that a remedy is one of a new run; of a network that has learnt
    its task there is none.
    """
    run = asked.run
    report = with_options(report, None if learnt else run, lag or asked.longest)
    commands = {}
    if run is not None:
        advised = [row.verdict.remedies for row in report.rows if row.verdict is not None]
        options = dict.fromkeys(remedy.name for remedies in advised for remedy in remedies)
        lines = {name: application_of(run).again(run, name.split()) for name in options}
        commands = {name: line for name, line in lines.items() if line is not None}
    return replace(report, notes=(*report.notes, learnt) if learnt else report.notes), commands


def _of_sentences(model: TokenModel, tokens: Tensor, lengths: Tensor) -> Tensor:
    return model.loss(Batch(tokens, lengths))


def _window(data: Dataset, split: str) -> tuple[Tensor, ...]:
    """The beginning of a continuous split, as ``_of_window`` takes it."""
    windows = evaluation_windows(data, split)
    if not windows:
        raise DataError(f"the {split} split: one token, expected more; give more text with --data")
    window = windows[0]
    return (*window.data, real(window), window.resets, window.lengths)


def _of_window(
    model: LanguageModel,
    tokens: Tensor,
    targets: Tensor,
    counted: Tensor,
    resets: Tensor,
    lengths: Tensor,
) -> Tensor:
    with Carry(model).window(resets, lengths=lengths):
        total = model.total(tokens, targets, counted)
    return total / counted.sum().clamp(min=1)


# --- A network by itself -------------------------------------------------------------------------


def _bare(options: dict[str, Any]) -> Question:
    """A network with fresh weights, and noise for it to read."""
    complete = BARE | options
    name, units = complete["cell"], complete["hidden"]
    torch.manual_seed(complete["seed"])
    layer = Recurrent(
        CELLS[name],
        complete["input"],
        units,
        depth=complete["depth"],
        bidirectional=complete["bidirectional"],
        **({"activation": complete["activation"]} if name == "elman" else {}),
    )
    x = torch.randn(complete["steps"], complete["batch"], complete["input"])
    kind = CELLS[name].__name__ + (f" ({complete['activation']})" if name == "elman" else "")
    last = "each direction's last output" if complete["bidirectional"] else "the last output"
    title = f"{kind}, H = {units}, {complete['steps']} steps of noise"
    return Question(title, 0, layer, _of_last, f"mean square of {last}", (x,))


def _of_last(layer: Recurrent, x: Tensor) -> Tensor:
    """The mean square of what each direction gives after its last step."""
    forward, *backward = layer(x).y.chunk(layer.directions, -1)
    last = [forward[-1], *(y[0] for y in backward)]
    return torch.cat(last, -1).square().mean()


def _refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    if "run" in options and "cell" in options:
        raise CallError("DIR and --cell: got both, expected one of them")
    others, needed = (dict.fromkeys(OF_A_RUN), BUNDLED) if "cell" in options else (BARE, "--cell")
    _refuse(options, others, needed)
    if "tries" in options and options.get("steps") == 1:
        raise CallError("--steps: got 1 with --try, expected 2 or more")
    if "activation" in options and options["cell"] != "elman":
        raise CallError(
            f"--activation: got {options['activation']} with --cell {options['cell']}, "
            "expected --cell elman"
        )


def _refuse(options: dict[str, Any], names: Iterable[str], needed: str) -> None:
    """Refuse the options ``names``, which are for what ``needed`` says."""
    for name in names:
        if name in options:
            value = options[name]
            got = " ".join(value) if isinstance(value, list) else "it" if value is True else value
            raise CallError(f"--{name}: got {got}, which is for {needed}")
