"""``unrolled evaluate``: how well a model predicts held-out text."""

import argparse
import math
import tempfile
from dataclasses import asdict
from pathlib import Path

from unrolled.cli.printing import print_json, tell
from unrolled.cli.runs import add_held_out, check_split, chosen, data_of
from unrolled.text.data import Dataset
from unrolled.text.feeds import evaluation_windows
from unrolled.text.measures import TokenScores, evaluate, evaluate_continuous
from unrolled.text.models import LanguageModel, TokenModel
from unrolled.training.run import read_config

BATCH_TOKENS = 4096


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on held-out text",
        description="Cross-entropy in nats per token, perplexity, top-1 and top-5 on held-out text.",
    )
    add_held_out(parser, "test")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command, split="test")


def scored(model: TokenModel, data: Dataset, split: str) -> TokenScores:
    """The scores of ``model`` on a split, read as the text was encoded."""
    if isinstance(model, LanguageModel) and data.is_continuous:
        return evaluate_continuous(model, evaluation_windows(data, split))
    return evaluate(model, data.batches(split, BATCH_TOKENS))


def command(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the scores."""
    if arguments.run is not None and read_config(arguments.run).get("kind") == "tag":
        from unrolled.cli.tag import evaluated, show_scores

        found = evaluated(arguments.run, arguments.data, arguments.split)
        (print_json if arguments.json else show_scores)(found)
        return
    _, run, model, _ = chosen(arguments.run, arguments.model, "zh", TokenModel)  # type: ignore[type-abstract]
    with tempfile.TemporaryDirectory() as directory:
        data = data_of(run, arguments.data, Path(directory))
        check_split(data, arguments.split)
        scores = scored(model, data, arguments.split)
        del data  # its files are mapped, and must go before their directory does
    if arguments.json:
        result = {**asdict(scores), "perplexity": scores.perplexity, "split": arguments.split}
        known = {k: v if k == "split" or math.isfinite(v) else None for k, v in result.items()}
        print_json(known)
        return
    tell(
        f"{arguments.split}, {scores.tokens:,} tokens: {scores.nats:.4f} nats per token, "
        f"perplexity {scores.perplexity:.2f}, top-1 {scores.top1:.4f}, top-5 {scores.top5:.4f}"
    )
