"""The steps by which any run begins."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from unrolled.cli.printing import say
from unrolled.errors import CallError
from unrolled.training import Settings, steps_of
from unrolled.training.feed import Feed
from unrolled.training.model import Model
from unrolled.training.remedies import begun


def settings_of(options: Mapping[str, Any], *, batch_steps: int | None = None) -> Settings:
    """How ``options``, which are complete, train; the number of steps is left to ``planned``.

    ``batch_steps``: where no option of that name has it.
    """
    by_name = {**options, "steps": 1}
    if batch_steps is not None:
        by_name["batch_steps"] = batch_steps
    return Settings(**{f.name: by_name[f.name] for f in fields(Settings) if f.name in by_name})


def planned(
    make: Callable[..., Model],
    config: Mapping[str, Any],
    settings: Settings,
    feed_of: Callable[[Any, Settings], Feed[Any]],
    *,
    through: str = "",
) -> Settings:
    """``settings`` with the number of steps that they come to, which is said.

    Args:
        make: the kind of model.
        config: its arguments, with what ``remedies.reshaped`` makes of them.
        settings: of ``settings_of``.
        feed_of: what a model reads with such settings.
        through: what else is said of the training, after a comma.

    Raises:
        CallError: a remedy is not for such a network.
        TooSmallError: the gradient does not fit into ``settings.memory``.
    """
    torch.manual_seed(settings.seed)
    try:
        model = begun(make, config, settings)
    except (TypeError, ValueError) as error:
        if not settings.remedy:
            raise
        raise CallError(f"--remedy: {error}") from None
    settings = settings.with_steps(steps_of(model, settings, feed_of))
    say(f"training: {settings.steps:,} steps, {settings.threads} threads{through}")
    return settings
