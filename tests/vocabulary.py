"""CLIP's tokenizer from the table of OpenAI's repository."""

import gzip

from intarsia.towers.tokenizer import TextTokenizer, bytes_tokenizer
from tests.paths import ROOT


def openai_tokenizer() -> TextTokenizer:
    """Vocabulary and merges as CLIP makes them of its table: bytes, bytes at the end of a word, merges."""
    lines = gzip.decompress((ROOT / "tests/data/bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    merges = lines.split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_tokenizer().vocab)[:512]
    vocab = [*letters, *("".join(merge.split()) for merge in merges), "<|startoftext|>", "<|endoftext|>"]
    return TextTokenizer({token: number for number, token in enumerate(vocab)}, merges)
