"""What a run can begin with against gradients that vanish or explode, by the remedies' names."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from unrolled import remedies
from unrolled.cells.elman import ACTIVATIONS
from unrolled.remedies.initialising import LONGEST
from unrolled.training.model import Model
from unrolled.training.settings import Settings

Value = float | str | None
WEIGHTS, INPUTS, BIAS, STATES = "W", "U", "the bias", "the states' gradients"
CLIPPING, NETWORK = "the clipping", "the network"


class Kind(NamedTuple):
    """A remedy: what it ``sets``, which only one can; its ``value`` in --help, empty if it takes none."""

    sets: str
    about: str
    value: str = ""
    default: Value = None
    """With which it is called if none is given."""


REMEDIES = {
    "orthogonal_weights": Kind(WEIGHTS, "W orthogonal, times a gain", "GAIN", 1.0),
    "identity_weights": Kind(WEIGHTS, "W the identity, times a scale; of elman", "SCALE", 1.0),
    "critical_weights": Kind(
        WEIGHTS, "W so that a step keeps a gradient's length; of elman", "INPUT_VARIANCE", 1.0
    ),
    "sensible_weights": Kind(WEIGHTS, "as a model begins without any: W, U and the biases"),
    "glorot_weights": Kind(INPUTS, "U uniform, as wide as its sizes ask for", "GAIN", 1.0),
    "forget_bias": Kind(BIAS, "the forget gate's bias; of lstm", "BIAS", 1.0),
    "chrono_bias": Kind(BIAS, "units that remember 1 to LONGEST steps; of lstm, gru", "LONGEST"),
    "clip_states": Kind(STATES, "no step's gradient longer than MOST", "MOST"),
    "clip_norm": Kind(CLIPPING, "the whole gradient no longer than MOST, as --clip", "MOST"),
    "clip_value": Kind(CLIPPING, "no entry of the gradient above MOST", "MOST"),
    "clip_ratio": Kind(CLIPPING, "no unit's gradient above MOST of its weights", "MOST", 0.01),
    "autoclip": Kind(CLIPPING, "at a percentile of the norms so far", "PERCENTILE", 10.0),
    "with_activation": Kind(NETWORK, f"{', '.join(ACTIVATIONS)}; of elman", "NAME"),
    "as_gru": Kind(NETWORK, "a GRU that begins as an elman network", "GATE_BIAS", 5.0),
    "as_lstm": Kind(NETWORK, "an LSTM that begins as an elman network", "GATE_BIAS", 5.0),
}
# What may be below 0, or has another least value than just above 0.
LEAST = {"forget_bias": -math.inf, "chrono_bias": 2, "autoclip": 0.0, "glorot_weights": 0.0}
LEAST |= {"orthogonal_weights": 0.0, "identity_weights": 0.0, "critical_weights": 0.0}
MOST = {"chrono_bias": LONGEST, "autoclip": 100.0}


def forms() -> list[tuple[str, str]]:
    """Each remedy as it is written, and what it does."""
    pairs = []
    for name, kind in REMEDIES.items():
        value = f"={kind.value}" if kind.value else ""
        pairs.append((f"{name}{value if kind.default is None else f'[{value}]'}", kind.about))
    return pairs


def read(text: str) -> tuple[str, Value]:
    """A remedy's name and value.

    It is written with or without the underscore of the function's name.

    >>> read("chrono_bias=100"), read("remedies.orthogonal_weights_")
    (('chrono_bias', 100), ('orthogonal_weights', None))

    Raises:
        ValueError: there is no such remedy, or none with such a value.
    """
    name, equals, written = text.partition("=")
    name = name.removeprefix("remedies.").removesuffix("_")
    if name not in REMEDIES:
        raise ValueError(f"got {name!r}, expected one of {', '.join(REMEDIES)}")
    value: Value = written if equals else None
    if equals and name != "with_activation":
        try:
            value = int(written) if name == "chrono_bias" else float(written)
        except ValueError:
            value = written
    check_remedies({name: value})
    return name, value


def check_remedies(chosen: Mapping[str, Any]) -> None:
    """Refuse remedies that are none, or do not go together.

    Raises:
        ValueError: as it says.
    """
    owners: dict[str, str] = {}
    for name, value in chosen.items():
        if name not in REMEDIES:
            raise ValueError(f"got {name!r}, expected one of {', '.join(REMEDIES)}")
        kind = REMEDIES[name]
        if kind.sets in owners:
            raise ValueError(
                f"got {owners[kind.sets]} and {name}, which both set {kind.sets}, expected one of them"
            )
        owners[kind.sets] = name
        if value is None and kind.value and kind.default is None:
            raise ValueError(f"{name}: got no value, expected {name}={kind.value}")
        if value is not None:
            _check_value(name, kind, value)


def _check_value(name: str, kind: Kind, value: Any) -> None:
    if not kind.value:
        raise ValueError(f"{name}: got {value!r}, expected no value")
    if name == "with_activation":
        if value not in ACTIVATIONS:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(ACTIVATIONS)}")
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    least, most = LEAST.get(name, 0.0), MOST.get(name, math.inf)
    if name == "chrono_bias" and not isinstance(value, int):
        raise ValueError(f"{name}: got {value!r}, expected a whole number of steps, from 2 on")
    if not (is_number and math.isfinite(value) and least <= value <= most) or (
        value == 0 and name not in LEAST
    ):
        bounds = f" from {least:g}" if math.isfinite(least) else ""
        bounds = " above 0" if name not in LEAST else bounds
        raise ValueError(
            f"{name}: got {value!r}, expected a number{bounds}{f' to {most:g}' if name in MOST else ''}"
        )


def reshaped(chosen: Mapping[str, Value]) -> dict[str, Any]:
    """What of a model's config is another with the remedies that change the network."""
    if "with_activation" in chosen:
        return {"activation": chosen["with_activation"]}
    if "as_gru" in chosen or "as_lstm" in chosen:
        return {"cell": "gru" if "as_gru" in chosen else "lstm"}
    return {}


M = TypeVar("M", bound=Model)


def begun(make: Callable[..., M], config: Mapping[str, Any], settings: Settings) -> M:
    """A model of ``config`` with its initial weights, as ``settings.remedy`` make them.

    Raises:
        TypeError, ValueError: a remedy is not for such a network.
    """
    swap = next((name for name in ("as_gru", "as_lstm") if name in settings.remedy), None)
    model = make(**(config if swap is None else {**config, "cell": "elman"}))
    if swap is not None:
        gate_bias = settings.remedy[swap]
        made = getattr(remedies, swap)(model.layers, **_given("gate_bias", gate_bias))
        model.layers = made
        model.config["cell"] = config["cell"]
    return treated(model, settings)


def treated(model: M, settings: Settings) -> M:
    """``model``, whose layers are given the weights and the clipping that ``settings.remedy`` ask for."""
    for name, value in settings.remedy.items():
        sets = REMEDIES[name].sets
        if sets in (WEIGHTS, INPUTS, BIAS, STATES):
            function: Callable[..., Any] = getattr(remedies, f"{name}_")
            keyword = REMEDIES[name].value.lower()
            if name in ("chrono_bias", "clip_states", "forget_bias"):
                function(model.layers, *([] if value is None else [value]))
            else:
                function(model.layers, **_given(keyword, value))
    return model


def _given(name: str, value: Value) -> dict[str, Value]:
    return {} if value is None else {name: value}


class Clipper:
    """What clips the gradient of ``model`` after each backward pass, by ``settings``."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.model = model
        chosen = (name for name in settings.remedy if REMEDIES[name].sets == CLIPPING)
        self.name = next(chosen, "clip_norm")
        value = settings.remedy.get(self.name)
        value = REMEDIES[self.name].default if value is None else value
        self.most = settings.clip if value is None else float(value)
        self.auto = remedies.AutoClip(self.most) if self.name == "autoclip" else None

    def __call__(self) -> tuple[Tensor, float | None]:
        """Clip; return the norm before, and the bound on it, if that is what there is."""
        parameters = list(self.model.parameters())
        if self.auto is not None:
            return self.auto(parameters), self.auto.bound
        if self.name == "clip_norm":
            return nn.utils.clip_grad_norm_(parameters, self.most), self.most
        norm = nn.utils.clip_grad_norm_(parameters, math.inf)
        if self.name == "clip_value":
            remedies.clip_value_(parameters, self.most)
        else:  # its source leaves out what is beside the softmax
            remedies.clip_ratio_(_without_ends(self.model), self.most)
        return norm, None

    def state_dict(self) -> dict[str, Tensor]:
        """What is carried from step to step, as tensors by name."""
        if self.auto is None:
            return {}
        history = self.auto.state_dict()["history"]
        return {"history": torch.tensor(history, dtype=torch.float64, device="cpu")}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            ValueError: that was of another clipping.
        """
        if saved.keys() != self.state_dict().keys():
            raise ValueError(f"clip: got {sorted(saved)}, expected {sorted(self.state_dict())}")
        if self.auto is not None:
            state = {"percentile": self.most, "history": saved["history"].tolist()}
            self.auto.load_state_dict(state)


def _without_ends(model: nn.Module) -> Iterable[Tensor]:
    ends = ("embedding.", "output.")
    return [p for name, p in model.named_parameters() if not name.startswith(ends)]
