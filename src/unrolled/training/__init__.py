"""Training: the loop, run directories, checkpoints, whatever the data."""

from unrolled.training.feed import Feed
from unrolled.training.loop import Callback, Outcome, Step, Trainer, steps_of
from unrolled.training.model import Model
from unrolled.training.run import Run, prepare_directory
from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

__all__ = [
    "Callback",
    "Feed",
    "Model",
    "Outcome",
    "Run",
    "Scores",
    "Settings",
    "Step",
    "Trainer",
    "prepare_directory",
    "steps_of",
]
