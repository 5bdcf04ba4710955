"""A byte-pair tokenizer: train, encode, decode, store, and look at the vocabulary.

>>> tokenizer = train(["low low low lower"], vocab_size=258)
>>> [tokenizer.token_bytes(token) for token in tokenizer.encode("low")]
[b'low']
"""

from bpe.pretokenizer import NAMED_SPLITS, split_pattern
from bpe.storage import load, load_rank_file, read_token_ids, save_rank_file, save_three_files
from bpe.tokenizer import Alphabet, Tokenizer, train
from bpe.vocabulary import TokenCount, VocabularyReport, vocabulary_report

__all__ = [
    "NAMED_SPLITS",
    "Alphabet",
    "TokenCount",
    "Tokenizer",
    "VocabularyReport",
    "load",
    "load_rank_file",
    "read_token_ids",
    "save_rank_file",
    "save_three_files",
    "split_pattern",
    "train",
    "vocabulary_report",
]
