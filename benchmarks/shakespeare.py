"""Language models over the characters of Shakespeare's plays, trained by truncated BPTT for so long.

H = 256, E = 128; windows of k1 = k2 = 35 characters in 24 sequences, and the state goes on from window to
window, through passages of 128 lines.
"""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unrolled.text.data import Dataset, Tokenizer, sentences
from unrolled.text.feeds import WindowFeed, feed_of
from unrolled.text.models import LanguageModel
from unrolled.text.run import TextRun, write_data
from unrolled.training import Settings, Trainer, steps_of

K, BATCH_SIZE, PASSAGE, LONGEST = 35, 24, 128, 200
SCENES = 10_000  # lines
SIZES: dict[str, Any] = {"hidden_size": 256, "embedding_size": 128, "dropout": 0.05}
SMALLEST: dict[str, Any] = {"hidden_size": 6, "embedding_size": 4, "dropout": 0.05}


class Trained(NamedTuple):
    """A model with its best weights, in eval mode, the text it is of, and the steps it took."""

    model: LanguageModel
    data: Dataset
    steps: int


@contextmanager
def trained(
    cell: str,
    *,
    seed: int,
    minutes: float,
    feed: type[WindowFeed] = WindowFeed,
    smallest: bool = False,
) -> Iterator[Trained]:
    """A model of ``cell``; its text is on disk for as long as the block.

    The ``smallest`` has a few units, and some scenes to train on for a moment.
    """
    text = itertools.islice(sentences(["shakespeare"]), SCENES if smallest else None)
    minutes = 0.001 if smallest else minutes
    with tempfile.TemporaryDirectory() as place:
        directory, tokenizer = Path(place), Tokenizer("char")
        data, vocabulary = write_data(
            directory, text, tokenizer,
            longest=LONGEST, min_count=2, passage=PASSAGE,
        )  # fmt: skip
        settings = Settings(
            seed=seed, steps=1, epochs=None, minutes=minutes, batch_steps=832, optimizer="adam",
            learning_rate=1e-2, schedule="linear", weight_decay=0.0, clip=1.0, evaluations=4,
            patience=4, threads=torch.get_num_threads(), bptt="truncated", k1=K, k2=K,
            batch_size=BATCH_SIZE,
        )  # fmt: skip
        sizes = {
            "vocabulary_size": len(vocabulary),
            "cell": cell,
            **(SMALLEST if smallest else SIZES),
        }
        torch.manual_seed(seed)
        settings = settings.with_steps(
            steps_of(LanguageModel(**sizes), settings, partial(feed_of, data=data))
        )
        run = TextRun.create(
            directory, kind="lm", vocabulary=vocabulary, tokenizer=tokenizer, model_config=sizes,
            settings=settings, command={"kind": "lm", "longest": LONGEST, "passage": PASSAGE},
        )  # fmt: skip
        trainer = Trainer(run)
        trainer.feed = feed(trainer.model, data, settings)
        outcome = trainer.train()
        model = run.model()
        assert isinstance(model, LanguageModel)
        yield Trained(model, data, outcome.step)
