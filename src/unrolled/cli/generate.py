"""``unrolled generate``: text from a language model."""

import argparse
from pathlib import Path

import torch

from unrolled.cli.options import not_negative, whole
from unrolled.cli.printing import note_unknown, print_json
from unrolled.cli.runs import load
from unrolled.text.models import LanguageModel


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "generate", help="generate text", description="Continue a prompt with a language model."
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="a run of 'unrolled train lm'")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins")
    parser.add_argument(
        "--longest", type=whole(1), default=100, metavar="N", help="tokens to add (100)"
    )
    parser.add_argument(
        "--temperature",
        type=not_negative,
        default=0.8,
        metavar="N",
        help="0: the most probable (0.8)",
    )
    parser.add_argument("--top-k", type=whole(1), metavar="N", help="draw from the N most probable")
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="source of chance (0)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Generate, and print the prompt with its continuation."""
    run, model = load(arguments.run, LanguageModel)
    prompt = run.tokenizer.tokens(arguments.prompt)
    note_unknown(run.vocabulary.unknown(prompt))
    added = model.generate(
        run.vocabulary.encode(prompt)[1:-1],
        longest=arguments.longest,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    tokens = run.vocabulary.decode(added)
    text = run.tokenizer.join([*prompt, *tokens])
    if arguments.json:
        result = {"prompt": arguments.prompt, "text": text, "tokens": tokens}
        print_json(result)
    else:
        print(text)
