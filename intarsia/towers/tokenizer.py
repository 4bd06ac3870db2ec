"""CLIP's tokenizer (transformers' `CLIPTokenizer`), in files that all versions of transformers read."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPTokenizerFast

from intarsia.errors import UserError
from intarsia.files import fingerprint, read_json, write_json

START, END = "<|startoftext|>", "<|endoftext|>"
BYTES_VOCABULARY = 514  # size of the vocabulary of bytes: each within a word and at its end; start and end
_WORD_END = "</w>"
_VOCAB, _MERGES = "vocab.json", "merges.txt"


class TextTokenizer:
    """Texts to token ids: start, at most n - 2 tokens of the text, end, and padding.

    Args:
        vocab: token -> id.
        merges: pairs of tokens that are joined, the most frequent first, `first second` each.
        pad_token: token of the padding: the end token in Stable Diffusion 1, "!" in Stable Diffusion 2.
    """

    def __init__(self, vocab: dict[str, int], merges: Sequence[str], pad_token: str = END) -> None:
        self.vocab, self.merges, self.pad_token = vocab, tuple(merges), pad_token
        with tempfile.TemporaryDirectory() as folder:  # the only door that all versions of transformers have
            self.save(Path(folder), length=0)
            self._tokenizer: Any = CLIPTokenizerFast.from_pretrained(folder)

    def __call__(self, texts: Sequence[str], length: int) -> Tensor:
        """Ids int64 [B, length] of texts; longer ones are cut."""
        options = {"padding": "max_length", "max_length": length, "truncation": True}
        return cast(Tensor, torch.tensor(self._tokenizer(list(texts), **options)["input_ids"]))

    def count(self, text: str) -> int:
        """Number of tokens of a text, without start and end, before it is cut."""
        return len(self._tokenizer(text)["input_ids"]) - 2

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of a text that each of its tokens stands for, without start and end, uncut.

        A token is a half-open range [first, last); several tokens can share a character that has several
        bytes.
        """
        found = self._tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return [(int(first), int(last)) for first, last in found[1:-1]]

    @property
    def start_id(self) -> int:
        """Id of the start token."""
        return self.vocab[START]

    @property
    def end_id(self) -> int:
        """Id of the end token."""
        return self.vocab[END]

    @property
    def pad_id(self) -> int:
        """Id of the padding."""
        return self.vocab[self.pad_token]

    @property
    def digest(self) -> str:
        """The sha256 of everything that the ids depend on."""
        return fingerprint([sorted(self.vocab.items()), list(self.merges), self.pad_token])

    def save(self, folder: Path, length: int) -> None:
        """Write the files of a model folder's tokenizer/, which transformers 4 and 5 read alike.

        Args:
            folder: existing folder.
            length: number of tokens of every text, for other programs; 0 = not said.
        """
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.pad_token}
        most = {"model_max_length": length} if length else {}
        write_json(folder / _VOCAB, self.vocab)
        text = "".join(f"{line}\n" for line in ("#version: 0.2", *self.merges))
        (folder / _MERGES).write_text(text, encoding="utf-8")
        write_json(folder / "special_tokens_map.json", special)
        settings = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "errors": "replace"}
        write_json(folder / "tokenizer_config.json", settings | special | most)


def read_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of a Stable Diffusion folder, or of a folder with its files.

    Raises:
        UserError: if the files are missing or are not CLIP's.
    """
    place = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    try:
        if (place / _VOCAB).is_file() and (place / _MERGES).is_file():
            vocab = read_json(place / _VOCAB)
            merges = (place / _MERGES).read_text(encoding="utf-8").splitlines()
            merges = [line for line in merges if line and not line.startswith("#version")]
        elif (place / "tokenizer.json").is_file():
            content = read_json(place / "tokenizer.json")["model"]
            vocab = content["vocab"]
            merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
        else:
            raise UserError(
                f"{place} has no tokenizer: no {_VOCAB} with {_MERGES}, and no tokenizer.json; give "
                "model.init.tokenizer a Stable Diffusion folder, or its tokenizer folder"
            )
        missing = [token for token in (START, END) if token not in vocab]
    except (LookupError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"the tokenizer in {place} cannot be read ({error})") from None
    if missing:
        raise UserError(f"the vocabulary in {place} is not CLIP's: it has no {missing[0]}")
    return TextTokenizer(vocab, merges, _pad_token(place))


def _pad_token(place: Path) -> str:
    """The padding that a folder names; the file of special tokens is the one that other readers obey."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        said = read_json(place / name).get("pad_token") if (place / name).is_file() else None
        said = said.get("content") if isinstance(said, dict) else said
        if said:
            return str(said)
    return END


def bytes_tokenizer() -> TextTokenizer:
    """A tokenizer that needs no file: each byte is a token, so that any text has ids."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # printable ones stand for themselves
    others = [chr(256 + number) for number in range(256 - len(plain))]
    tokens = [*map(chr, plain), *others]
    vocab = [*tokens, *(token + _WORD_END for token in tokens), START, END]
    return TextTokenizer({token: number for number, token in enumerate(vocab)}, ())
