"""Words of prompts: which tokens correspond, found by characters; the pairs of a benchmark's record."""

import pytest
import torch

from intarsia.errors import UserError
from intarsia.towers.tokenizer import TextTokenizer, bytes_tokenizer
from sampling.couplings.alignment import one_after_the_other, same_places, similar_tokens
from sampling.couplings.words import align_prompts, aligned_places
from tests.intarsia.test_text import clips_tokenizer

LENGTH = 77
ROUND = "a round cake with orange frosting on a wooden plate"
SQUARE = "a square cake with orange frosting on a wooden plate"
__all__ = ["clips_tokenizer"]  # a fixture


def test_the_benchmarks_prompts_give_their_literal_correspondence(clips_tokenizer: TextTokenizer) -> None:
    """PIE-Bench's first record: one word differs; its blended word is "cake", used as weight 2, too."""
    found = align_prompts(
        clips_tokenizer, (ROUND, SQUARE), LENGTH, words=(("cake", "cake"),), reweight=(("cake", 2.0),)
    )
    transfer, keep = torch.eye(LENGTH), torch.zeros(LENGTH)
    transfer[2, 2], keep[2] = 0, 1  # start, a, square
    transfer[3, 3] = 2
    blend = torch.zeros(2, LENGTH)
    blend[:, 3] = 1
    assert torch.equal(found.transfer, transfer)
    assert torch.equal(found.keep, keep)
    assert found.blend is not None
    assert torch.equal(found.blend, blend)


def test_new_words_keep_their_own_maps_and_the_rest_is_shifted(clips_tokenizer: TextTokenizer) -> None:
    found = align_prompts(clips_tokenizer, ("a cat", "a big fluffy cat"), LENGTH)
    transfer, keep = torch.zeros(LENGTH, LENGTH), torch.zeros(LENGTH)
    for origin, place in ((0, 0), (1, 1), (2, 4), (3, 5)):  # start, a, cat, end
        transfer[origin, place] = 1
    keep[2] = keep[3] = 1
    for place in range(6, LENGTH):
        transfer[place, place] = 1
    assert torch.equal(found.transfer, transfer)
    assert torch.equal(found.keep, keep)


def test_replaced_words_share_the_maps_of_those_they_replace(clips_tokenizer: TextTokenizer) -> None:
    """A word of one token by one of several: each takes a part; what follows is shifted."""
    count = clips_tokenizer.count("intarsia")
    assert count > 1
    found = align_prompts(clips_tokenizer, ("a cat, red", "a intarsia, red"), LENGTH, replace=True)
    assert torch.allclose(found.transfer[2, 2 : 2 + count], torch.full((count,), 1 / count))
    assert found.transfer[3, 2 + count] == 1, "the comma"
    assert found.transfer[4, 3 + count] == 1, "red"
    assert found.transfer[5, 4 + count] == 1, "the end"
    assert not found.keep[5:].any()


@pytest.mark.parametrize("replace", [False, True])
def test_equal_prompts_correspond_token_by_token(replace: bool) -> None:
    found = align_prompts(bytes_tokenizer(), ("a dog, red", "a dog, red"), 24, replace)
    assert torch.equal(found.transfer, torch.eye(24))
    assert not found.keep.any()


def test_columns_of_transfer_and_keep_add_up_to_one(clips_tokenizer: TextTokenizer) -> None:
    found = align_prompts(clips_tokenizer, (ROUND, "two square cakes on plates of wood"), LENGTH)
    assert torch.equal(found.transfer.sum(0) + found.keep, torch.ones(LENGTH))


@pytest.mark.parametrize(
    ("prompt", "word", "places"),
    [
        ("a cake, please", "cake", [2]),
        ("a Cake", "cake", [2]),
        ("a  cake", "CAKE", [2]),
        ("a cake", "cake,", [2]),
        ("naïve 猫 dog", "dog", [-1]),
        ("a red cake and a cake", "cake", [3, 6]),
        ("a red cake", "red cake", [2, 3]),
        ("the dog's bone", "dog's", [2, 3]),
    ],
)
def test_words_are_found_by_their_characters(
    clips_tokenizer: TextTokenizer, prompt: str, word: str, places: list[int]
) -> None:
    found = align_prompts(clips_tokenizer, (prompt, prompt), LENGTH, words=((word, word),))
    last = clips_tokenizer.count(prompt)
    assert found.blend is not None
    assert found.blend[0].nonzero().flatten().tolist() == [place % (last + 1) for place in places]


@pytest.mark.parametrize("word", ["cat", "ake", "", "...", "orange cake"])
def test_a_word_that_is_not_there_is_refused(clips_tokenizer: TextTokenizer, word: str) -> None:
    with pytest.raises(UserError, match="is not in the source prompt 'a round cake"):
        align_prompts(clips_tokenizer, (ROUND, SQUARE), LENGTH, words=((word, "cake"),))
    with pytest.raises(UserError, match="is not in the target prompt 'a square cake"):
        align_prompts(clips_tokenizer, (ROUND, SQUARE), LENGTH, reweight=((word, 2.0),))


def test_prompts_that_are_too_long_are_cut_like_the_models(clips_tokenizer: TextTokenizer) -> None:
    found = align_prompts(clips_tokenizer, ("cake " * 100, "cake " * 90 + "plate"), LENGTH)
    assert torch.equal(found.transfer, torch.eye(LENGTH))


def test_the_alignment_is_the_longest_common_subsequence() -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        first, second = (torch.randint(4, (6,), generator=rng).tolist() for _ in range(2))
        places = aligned_places(first, second)
        pairs = [(place, j) for j, place in enumerate(places) if place is not None]
        assert all(first[i] == second[j] for i, j in pairs)
        assert [i for i, _ in pairs] == sorted({i for i, _ in pairs})
        longest = max(
            bits.bit_count()
            for bits in range(2**6)
            if is_within([x for k, x in enumerate(first) if bits >> k & 1], second)
        )
        assert len(pairs) == longest


def is_within(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(element in rest for element in part)


def test_tokens_of_exemplars_correspond_by_place_or_by_likeness() -> None:
    tokens = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 1, 4, 0, 2])
    found = similar_tokens(tokens, tokens[order])
    assert torch.equal(found.transfer.argmax(0), order)
    assert torch.allclose(found.transfer.sum(0), torch.ones(5))
    assert not found.keep.any()
    both = one_after_the_other([same_places(2), align_prompts(bytes_tokenizer(), ("a", "b"), 5)])
    assert both.transfer.shape == (7, 7)
    assert not both.transfer[:2, 2:].any()
    assert both.keep.tolist() == [0, 0, 0, 1, 0, 0, 0]
