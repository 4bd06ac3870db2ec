"""From two prompts to the correspondence of their tokens, for Prompt-to-Prompt.

Words are found by the characters that each token stands for. The published code splits prompts at spaces and
counts tokens, so that it does not find "cake" in "Cake," or after two spaces, and then changes nothing.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from intarsia.errors import UserError
from intarsia.towers.tokenizer import TextTokenizer
from sampling.couplings.alignment import Alignment

_WORD = re.compile(r"\w+(?:['’]\w+)*")


class PromptWords(NamedTuple):
    """A prompt as its tokens: ids without padding, start and end included, and each one's characters."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # of all tokens but start and end

    def tokens_of(self, start: int, end: int) -> list[int]:
        """The places of the tokens that stand for any of the characters start … end - 1."""
        return [place for place, (a, b) in enumerate(self.spans, 1) if a < end and b > start]


def align_prompts(
    tokenizer: TextTokenizer,
    prompts: tuple[str, str],
    length: int,
    replace: bool = False,
    words: Sequence[tuple[str, str]] = (),
    reweight: Sequence[tuple[str, float]] = (),
) -> Alignment:
    """How the tokens of a target prompt correspond to those of a source prompt.

    Args:
        tokenizer: tokenizer of the model.
        prompts: source prompt and target prompt; tokens after the first `length` are cut.
        length: number of tokens that the UNet attends to.
        replace: whether words stand in for one another place by place (the same number of words in both);
            otherwise the target's tokens that are new keep their own maps (refinement).
        words: pairs of words of source and target for the local blend.
        reweight: pairs of a word of the target and the factor of its map.

    Raises:
        UserError: for a word that is not in its prompt, and for a replacement of prompts with different
            numbers of words.
    """
    source, target = (_words(tokenizer, prompt, length) for prompt in prompts)
    transfer = _replaced(source, target, length) if replace else _refined(source.ids, target.ids, length)
    keep = 1 - transfer.sum(0).clamp(max=1)
    for word, factor in reweight:
        columns = _find(word, target, "target")
        transfer[:, columns] *= factor
        keep[columns] *= factor
    blend = torch.zeros(2, length) if words else None
    for pair in words:
        for row, word, prompt, name in zip((0, 1), pair, (source, target), ("source", "target"), strict=True):
            assert blend is not None
            blend[row, _find(word, prompt, name)] = 1
    return Alignment(transfer, keep, blend)


def aligned_places(first: Sequence[int], second: Sequence[int]) -> list[int | None]:
    """For each element of the second sequence the place of the same element in the first, None if new.

    The longest common subsequence by Needleman and Wunsch 1970 (gap 0, match 1, mismatch -1); among equally
    long ones that of the published code, which leaves out elements of the second sequence first, seen from
    the end.
    """
    best = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            step = 1 if one == other else -1
            best[i][j] = max(best[i][j - 1], best[i - 1][j], best[i - 1][j - 1] + step)
    i, j, places = len(first), len(second), list[int | None]()
    while j > 0:
        if i == 0 or best[i][j] == best[i][j - 1]:
            places.append(None)
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            places.append(i)
    return places[::-1]


def _refined(source: Sequence[int], target: Sequence[int], length: int) -> torch.Tensor:
    """[length, length]: tokens that both prompts have; padding corresponds to itself."""
    transfer = torch.zeros(length, length)
    for place, origin in enumerate(aligned_places(source, target)):
        if origin is not None:
            transfer[origin, place] = 1
    for place in range(len(target), length):
        transfer[place, place] = 1
    return transfer


def _replaced(source: PromptWords, target: PromptWords, length: int) -> torch.Tensor:
    """[length, length]: word k takes the maps of word k; those of different lengths share them evenly."""
    spans = [[match.span() for match in _WORD.finditer(prompt.text)] for prompt in (source, target)]
    if len(spans[0]) != len(spans[1]):
        raise UserError(
            f"alignment=replace needs prompts with the same number of words, and {source.text!r} has "
            f"{len(spans[0])}, {target.text!r} {len(spans[1])}; use refine"
        )
    transfer = torch.zeros(length, length)
    shifts = torch.zeros(length, dtype=torch.int64)  # of what is between the words, and after them
    for own, other in zip(*spans, strict=True):
        old, new = source.tokens_of(*own), target.tokens_of(*other)
        if not old or not new:  # cut
            continue
        share = 1.0 if len(old) == len(new) else 1 / len(new)
        pairs = zip(old, new, strict=True) if share == 1 else ((row, col) for row in old for col in new)
        for row, column in pairs:
            transfer[row, column] = share
        shifts[new[-1] + 1 :] = old[-1] - new[-1]
    for place in range(length):
        if not transfer[:, place].any():
            transfer[min(place + int(shifts[place]), length - 1), place] = 1
    return transfer


def _words(tokenizer: TextTokenizer, prompt: str, length: int) -> PromptWords:
    spans = tuple(tokenizer.spans(prompt))[: length - 2]
    ids = tokenizer([prompt], length)[0].tolist()[: len(spans) + 2]
    return PromptWords(prompt, tuple(ids), spans)


def _find(wanted: str, prompt: PromptWords, name: str) -> list[int]:
    """The tokens of all occurrences of one or more words; case and punctuation are ignored."""
    parts = [word.casefold() for word in _WORD.findall(wanted)]
    words = [(match.group().casefold(), match.span()) for match in _WORD.finditer(prompt.text)]
    found: list[int] = []
    for first in range(len(words) - len(parts) + 1) if parts else ():
        group = words[first : first + len(parts)]
        if [word for word, _ in group] == parts:
            found += prompt.tokens_of(group[0][1][0], group[-1][1][1])
    if not found:
        raise UserError(
            f"the word {wanted!r} is not in the {name} prompt {prompt.text!r}, as far as the model reads it; "
            "give a word of the prompt"
        )
    return sorted(set(found))
