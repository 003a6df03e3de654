"""From text to batches: corpora, tokens, vocabulary, splits."""

from unrolled.text.data.corpora import CORPORA, Corpus, sentences
from unrolled.text.data.dataset import Batch, Batches, Dataset, split_of
from unrolled.text.data.text import Tokenizer
from unrolled.text.data.vocabulary import Vocabulary

__all__ = [
    "CORPORA",
    "Batch",
    "Batches",
    "Corpus",
    "Dataset",
    "Tokenizer",
    "Vocabulary",
    "sentences",
    "split_of",
]
