"""What a run holds a model to be."""

from typing import Any

from torch import nn

from unrolled.layers import Recurrent


class Model(nn.Module):
    """A network around recurrent ``layers``, of which ``config`` has every argument by name."""

    config: dict[str, Any]
    layers: Recurrent

    def tie(self) -> None:
        """Let parameters be one again that are one, after others were put in their place."""
