"""Models over tokens: the language model, and fill-in-the-blank."""

from unrolled.models.cloze import Cloze
from unrolled.models.cross_entropy import linear_cross_entropy
from unrolled.models.filling import Blank, Candidate, Filled, fill
from unrolled.models.language import LanguageModel
from unrolled.models.token_model import Prediction, TokenModel

KINDS: dict[str, type[TokenModel]] = {model.kind: model for model in (Cloze, LanguageModel)}

__all__ = [
    "KINDS",
    "Blank",
    "Candidate",
    "Cloze",
    "Filled",
    "LanguageModel",
    "Prediction",
    "TokenModel",
    "fill",
    "linear_cross_entropy",
]
