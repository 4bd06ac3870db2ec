"""Seeds depend on every part and on nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.rng import derive_seed, derive_seeds, sample_rng

PART = st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=8))


@settings(deadline=None, max_examples=200)
@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_seeds_are_equal_exactly_where_the_parts_are(a: list[int | str], b: list[int | str]) -> None:
    assert (derive_seed(*a) == derive_seed(*b)) == (a == b)
    assert 0 <= derive_seed(*a) < 2**63


def test_a_seed_is_the_same_on_every_machine() -> None:
    # Shards and data orders made anywhere hang on this number.
    assert derive_seed(0, "sample", "000000000139", 3) == 3229263239387206362


@settings(deadline=None)
@given(st.lists(PART, max_size=3), st.lists(st.text(max_size=8), max_size=5))
def test_seeds_of_many_names_are_those_of_each(parts: list[int | str], names: list[str]) -> None:
    seeds = derive_seeds(parts, names)
    assert seeds.dtype == np.int64
    assert seeds.tolist() == [derive_seed(*parts, name) for name in names]


@pytest.mark.parametrize("part", [1.0, None, True, b"x"])
def test_other_types_are_refused(part: object) -> None:
    with pytest.raises(TypeError, match=type(part).__name__):
        derive_seed("a", part)  # type: ignore[arg-type]


def test_draws_of_one_picture_are_independent_and_repeatable() -> None:
    def numbers(seed: int, key: str, draw: int) -> list[float]:
        return sample_rng(seed, key, draw).random(4).tolist()

    assert numbers(1, "a", 0) == numbers(1, "a", 0)
    assert len({tuple(numbers(s, k, d)) for s in (0, 1) for k in ("a", "b") for d in (0, 1)}) == 8


def test_the_same_place_of_many_streams_is_uniform() -> None:
    firsts = [sample_rng(0, f"picture-{i}", 0).random() for i in range(4000)]
    assert abs(np.mean(firsts) - 0.5) < 0.02
    assert np.histogram(firsts, bins=10, range=(0, 1))[0].min() > 300
