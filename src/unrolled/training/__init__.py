"""Training: the loop, its measures, the run directory."""

from unrolled.training.loop import Callback, Outcome, Step, Trainer, steps_of
from unrolled.training.measures import Scores, evaluate, evaluate_continuous
from unrolled.training.run import Run, prepare_directory, write_data
from unrolled.training.settings import Settings

__all__ = [
    "Outcome",
    "Run",
    "Scores",
    "Settings",
    "Step",
    "Trainer",
    "Callback",
    "steps_of",
    "evaluate",
    "evaluate_continuous",
    "prepare_directory",
    "write_data",
]
