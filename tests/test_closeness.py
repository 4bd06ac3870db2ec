"""The limit for rounding: sums in another order stay below it, and a small fault does not."""

import pytest
import torch
from torch import nn

from tests.closeness import MARGIN, longest_sum, relative_error, rounding
from tests.paths import ROOT

pytestmark = pytest.mark.portable


@pytest.mark.parametrize("terms", [9, 288, 20_000])
def test_sums_in_any_order_stay_a_margin_below_the_limit(terms: int) -> None:
    products = torch.randn(terms, 200, generator=torch.Generator().manual_seed(terms))
    exact = products.double().sum(0)
    for sums in (products.cumsum(0)[-1], products.flip(0).cumsum(0)[-1], products.sum(0)):
        assert relative_error(sums, exact) < rounding(terms) / MARGIN


def test_a_wrong_term_or_a_nan_is_seen() -> None:
    products = torch.randn(288, 200, generator=torch.Generator().manual_seed(0))
    exact = products.double().sum(0)
    wrong = products.clone()
    wrong[0] *= 1.01
    assert relative_error(wrong.sum(0), exact) > rounding(288)
    assert not relative_error(products.sum(0).fill_(torch.nan), exact) < rounding(288)


def test_the_longest_sum_is_found_in_the_shape_of_the_weights() -> None:
    assert longest_sum(nn.Conv2d(8, 4, 3), nn.Linear(60, 5)) == 72
    assert longest_sum(nn.Sequential(nn.Linear(90, 1), nn.LayerNorm(500))) == 90


def test_whatever_compares_up_to_rounding_is_repeated_as_other_processors_compute() -> None:
    """`make test-portable` runs what is marked; synthetic.py holds a limit for runs that take minutes."""
    users = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    users = {path.name: text for path, text in users.items() if "from tests.closeness import" in text}
    unmarked = {name for name, text in users.items() if "pytest.mark.portable" not in text}
    assert unmarked == {"synthetic.py"}
