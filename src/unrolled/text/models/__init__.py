"""Models over tokens: the language model, and fill-in-the-blank."""

from unrolled.text.models.cloze import Cloze
from unrolled.text.models.filling import Blank, Candidate, Filled, fill, fill_all
from unrolled.text.models.language import LanguageModel
from unrolled.text.models.token_model import Prediction, TokenModel
from unrolled.text.models.why import ContextToken, Why, why

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
    "why",
]
