"""From text to batches: corpora, tokens, vocabulary, splits."""

from unrolled.data.corpora import CORPORA, Corpus, sentences
from unrolled.data.dataset import Batch, Batches, Dataset, split_of
from unrolled.data.text import Tokenizer
from unrolled.data.vocabulary import Vocabulary
from unrolled.data.windows import Lanes, Window, lanes

__all__ = [
    "CORPORA",
    "Batch",
    "Batches",
    "Corpus",
    "Dataset",
    "Lanes",
    "Tokenizer",
    "Vocabulary",
    "Window",
    "lanes",
    "sentences",
    "split_of",
]
