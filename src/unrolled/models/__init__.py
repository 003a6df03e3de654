"""Models over tokens: the language model, and fill-in-the-blank."""

from unrolled.models.cloze import Cloze
from unrolled.models.cross_entropy import linear_cross_entropy
from unrolled.models.filling import Blank, Candidate, Filled, fill, fill_all
from unrolled.models.language import LanguageModel
from unrolled.models.token_model import Prediction, TokenModel
from unrolled.models.why import ContextToken, Why, why

KINDS: dict[str, type[TokenModel]] = {model.kind: model for model in (Cloze, LanguageModel)}

__all__ = [
    "KINDS",
    "Blank",
    "Candidate",
    "Cloze",
    "ContextToken",
    "Filled",
    "LanguageModel",
    "Prediction",
    "TokenModel",
    "Why",
    "fill",
    "fill_all",
    "linear_cross_entropy",
    "why",
]
