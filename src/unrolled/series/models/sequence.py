"""One answer for a whole sequence: recurrent layers in both directions, pooled over the steps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.bptt.checkpointed import checkpointed
from unrolled.cells import GRU, GRUD, LSTM, Cell, ContinuousTimeLSTM, Elman, observed
from unrolled.layers import Recurrent
from unrolled.remedies import sensible_weights_
from unrolled.series.data.labelled import SequenceBatch
from unrolled.shapes import Lengths, check_fraction, check_lengths, check_size, real_steps
from unrolled.training.model import Model

WIDEST, DEEPEST = 1 << 16, 256
CELLS: dict[str, type[Cell]] = {
    "elman": Elman,
    "lstm": LSTM,
    "gru": GRU,
    "gru-d": GRUD,
    "continuous-time-lstm": ContinuousTimeLSTM,
}
OBSERVING = ("gru-d", "continuous-time-lstm")
"""Those that read what ``cells.observed`` gives."""
Scaling = Literal["all", "each", "none"]
OF_THE_LAYERS = (
    "depth",
    "bidirectional",
    "dropout",
    "variational_dropout",
    "weight_drop",
    "zoneout",
    "residual",
    "layer_norm",
)
"""The options that go on to ``Recurrent``, by their names there."""


class SequenceNetwork(Model, ABC):
    """Scaling → recurrent layers → pooling over the real steps → a linear map.

    What is read at a step is each feature in standard units, 0 where it is missing; then, where the
    training data lack values, a mask, 1 where it is there; and, where steps are not evenly spaced, the time
    since the step before, as log(1 + gap). The cells "gru-d" and "continuous-time-lstm" read what
    ``cells.observed`` gives instead: last values, mask and times. Pooled are the last outputs of each
    direction, the mean and the maximum over time of each unit (concat pooling: Howard & Ruder, "Universal
    Language Model Fine-tuning for Text Classification", ACL 2018), normalised by LayerNorm.

    What stands beyond a sequence's length is never read.

    Args:
        input_size: D, features of a step.
        output_size: K classes, or Y numbers.
        hidden_size: H of each direction of each layer.
        cell: one of ``CELLS``, by its name.
        depth: L, how many layers.
        bidirectional: whether each layer reads in both directions.
        dropout: the share of features dropped in training, between layers and of what is pooled.
        variational_dropout, weight_drop, residual: as in ``Recurrent``.
        zoneout, layer_norm: as in ``GatedCell``.
        activation: of ``cell="elman"``; by default tanh.
        scaling: "all": by ``location`` and ``scale``; "each": each sequence by its own mean and deviation,
            feature by feature; "none": not at all.
        location: what is subtracted from each feature, D numbers; by default 0.
        scale: what it is divided by then, D numbers above 0; by default 1.
        has_missing: whether a mask is read.
        has_gaps: whether the gaps are read.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        depth: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        variational_dropout: float = 0.0,
        weight_drop: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        residual: bool | Literal["highway"] = False,
        layer_norm: bool = False,
        activation: str | None = None,
        scaling: Scaling = "all",
        location: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        has_missing: bool = False,
        has_gaps: bool = False,
    ) -> None:
        super().__init__()
        for name, size, most in (
            ("input_size", input_size, WIDEST),
            ("output_size", output_size, WIDEST),
            ("hidden_size", hidden_size, WIDEST),
            ("depth", depth, DEEPEST),
        ):
            check_size(name, size, most=most)
        for name, flag in (
            ("bidirectional", bidirectional),
            ("layer_norm", layer_norm),
            ("has_missing", has_missing),
            ("has_gaps", has_gaps),
        ):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}: got {flag!r}, expected True or False")
        for name, value, known in (
            ("cell", cell, tuple(CELLS)),
            ("scaling", scaling, get_args(Scaling)),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
        self.config = {
            "input_size": input_size,
            "output_size": output_size,
            "hidden_size": hidden_size,
            "cell": cell,
            "depth": depth,
            "bidirectional": bidirectional,
            "dropout": check_fraction("dropout", dropout),
            "variational_dropout": variational_dropout,
            "weight_drop": weight_drop,
            "zoneout": zoneout,
            "residual": residual,
            "layer_norm": layer_norm,
            "scaling": scaling,
            "location": _numbers("location", location, input_size, 0.0),
            "scale": _numbers("scale", scale, input_size, 1.0),
            "has_missing": has_missing,
            "has_gaps": has_gaps,
        }
        self.location: Tensor
        self.scale: Tensor
        _keep(self, "location", self.config["location"])
        _keep(self, "scale", self.config["scale"])
        read = input_size * (2 if has_missing else 1) + has_gaps
        if cell in OBSERVING:
            read = 3 * input_size + 2
        options: dict[str, Any] = {name: self.config[name] for name in OF_THE_LAYERS}
        if activation is not None:
            if cell != "elman":
                raise ValueError(
                    f"activation: got {activation!r} with cell={cell!r}, expected 'elman'"
                )
            self.config["activation"] = options["activation"] = activation
        self.layers = sensible_weights_(Recurrent(CELLS[cell], read, hidden_size, **options))
        pooled = 3 * self.layers.output_size
        self.norm = nn.LayerNorm(pooled)
        self.drop = nn.Dropout(dropout)
        self.output = nn.Linear(pooled, output_size)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        values: Tensor,
        lengths: Lengths | None = None,
        gaps: Tensor | None = None,
        *,
        memory: int | str | None = None,
    ) -> Tensor:
        """The answers in standard units: logits, or numbers.

        Args:
            values: ``[T, B, D]``, NaN where one is missing.
            lengths: ``[B]``, each from 1 to T; all T by default.
            gaps: ``[T, B]``, the time since the step before, if the network reads it; by default 1.
            memory: bytes that the layers may take for the gradient, if they are limited; see
                ``unrolled.bptt.checkpointed``.

        Returns:
            ``[B, K]`` or ``[B, Y]``.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        width = self.config["input_size"]
        if values.dim() != 3 or values.shape[-1] != width or not len(values):
            raise ValueError(
                f"values: got shape {list(values.shape)}, expected [T, B, {width}], T at least 1"
            )
        steps, batch_size = values.shape[:2]
        if lengths is None:
            lengths = [steps] * batch_size
        lengths = check_lengths(lengths, steps, batch_size)
        if not (lengths > 0).all():
            raise ValueError("lengths: got 0, expected at least 1: nothing can be told of no step")
        real = real_steps(lengths, steps)
        x = self.read(values, real, gaps)
        if memory is None:
            result = self.layers(x, lengths=lengths)
        else:
            result = checkpointed(self.layers, cast(Tensor, x), lengths=lengths, memory=memory)
        answers: Tensor = self.output(self.drop(self.norm(self.pooled(result.y, real, lengths))))
        return answers

    def pooled(self, y: Tensor, real: Tensor, lengths: Tensor) -> Tensor:
        """Of outputs ``[T, B, F]`` the last of each direction, mean and maximum: ``[B, 3F]``."""
        ends, *backward = y.chunk(self.layers.directions, -1)
        index = (lengths - 1).view(1, -1, 1).expand(1, -1, ends.shape[-1])
        last = [ends.gather(0, index)[0], *(way[0] for way in backward)]
        mean = y.sum(0) / lengths.unsqueeze(1)
        highest = y.masked_fill(~real.unsqueeze(-1), -torch.inf).amax(0)
        return torch.cat([*last, mean, highest], -1)

    def read(
        self, values: Tensor, real: Tensor, gaps: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What the layers read, ``[T, B, …]``, or each direction; zero where no step is ``real``."""
        there = real.unsqueeze(-1) & ~values.isnan()
        values = torch.where(there, values.double(), 0.0)
        if self.config["scaling"] == "each":
            values = _standardised(values, there)
        elif self.config["scaling"] == "all":
            values = (values - self.location) / self.scale
        dtype = self.output.weight.dtype
        waited = None
        if self.config["has_gaps"]:
            waited = torch.where(real, 1.0 if gaps is None else gaps, 0.0)
        if self.config["cell"] in OBSERVING:
            values = torch.where(there, values, torch.nan).to(dtype)
            times = None if waited is None else waited.double().cumsum(0)
            lengths, ways = real.sum(0), range(self.layers.directions)
            features = [
                observed(values, times, lengths=lengths, reverse=bool(way)).features for way in ways
            ]
            return (features[0], features[1]) if len(features) == 2 else features[0]
        parts = [torch.where(there, values, 0.0)]
        if self.config["has_missing"]:
            parts.append(there)
        if waited is not None:
            parts.append(waited.log1p().unsqueeze(-1))
        return torch.cat([part.to(dtype) for part in parts], -1)

    def answers(self, batch: SequenceBatch, memory: int | str | None = None) -> Tensor:
        """Those of a batch, as ``forward``'s."""
        answers: Tensor = self(batch.values, batch.lengths, batch.gaps, memory=memory)
        return answers

    def loss(self, batch: SequenceBatch, *, memory: int | str | None = None) -> Tensor:
        """The mean of ``losses``, by the weights of the sequences."""
        losses = self.losses(self.answers(batch, memory), batch.labels)
        return (losses * batch.weights.to(losses.dtype)).mean()

    @abstractmethod
    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sequence, ``[B]``."""


class ClassNetwork(SequenceNetwork):
    """A network that tells which of K classes a sequence is of; see ``SequenceNetwork``."""

    kind = "classify"

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """-log p of the classes ``[B]``, in nats."""
        return F.cross_entropy(answers, labels, reduction="none")


class ValueNetwork(SequenceNetwork):
    """A network that tells Y numbers of a sequence; see ``SequenceNetwork``.

    Args:
        arguments: those of ``SequenceNetwork``.
        target_location: what the numbers are around, Y of them; by default 0.
        target_scale: in which units they are learnt, Y numbers above 0; by default 1.
        options: those of ``SequenceNetwork``.
    """

    kind = "regress"

    def __init__(
        self,
        *arguments: int,
        target_location: Sequence[float] | None = None,
        target_scale: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        count = self.config["output_size"]
        self.config["target_location"] = _numbers("target_location", target_location, count, 0.0)
        self.config["target_scale"] = _numbers("target_scale", target_scale, count, 1.0)
        self.target_location: Tensor
        self.target_scale: Tensor
        _keep(self, "target_location", self.config["target_location"])
        _keep(self, "target_scale", self.config["target_scale"])

    def values(self, answers: Tensor) -> Tensor:
        """``forward``'s answers in the units of the targets, in float64."""
        return answers.double() * self.target_scale + self.target_location

    def losses(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Half the square of what is off, in standard units, the mean of the Y numbers."""
        standard = ((labels - self.target_location) / self.target_scale).to(answers.dtype)
        return (answers - standard).square().mean(-1) / 2


def _numbers(
    name: str, given: Sequence[float] | None, count: int, usual: float
) -> list[float] | None:
    """``given`` as a list of ``count`` numbers; or an error. ``None`` stands for ``usual`` everywhere."""
    if given is None:
        return None
    numbers = [float(value) for value in given]
    if len(numbers) != count or not torch.tensor(numbers, device="cpu").isfinite().all():
        raise ValueError(f"{name}: got {numbers!r}, expected {count} finite numbers")
    if usual and min(numbers) <= 0:
        raise ValueError(f"{name}: got {min(numbers):g}, expected numbers above 0")
    return numbers


def _keep(module: nn.Module, name: str, numbers: list[float] | None) -> None:
    """``numbers`` as a buffer in float64, also where a module is made without memory."""
    value = (1.0 if name.endswith("scale") else 0.0) if numbers is None else numbers
    tensor = torch.tensor(value, dtype=torch.float64, device="cpu")
    module.register_buffer(name, tensor, persistent=False)


def _standardised(values: Tensor, there: Tensor) -> Tensor:
    """Each sequence's features by their own mean and deviation, over what is ``there``."""
    count = there.sum(0).clamp(min=1)
    mean = values.sum(0) / count
    off = torch.where(there, values - mean, 0.0)
    deviation = (off.square().sum(0) / count).sqrt()
    return off / torch.where(deviation > 1e-12 * (1 + mean.abs()), deviation, 1.0)
