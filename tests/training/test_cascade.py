"""A small upsampler on pictures with known answers, of low resolution and of known pixels."""

import pytest

from benchmarks import cascade
from intarsia.model import EditModel


@pytest.fixture(scope="module")
def upsampler() -> EditModel:
    return cascade.trained(250)


@pytest.mark.whole
@pytest.mark.portable
def test_it_continues_known_pixels_and_keeps_to_low_resolution(upsampler: EditModel) -> None:
    """Seen after 1,500 steps (`python -m benchmarks.cascade`): 8 dB above bilinear, 1.00, .99, 4.0."""
    found = cascade.figures(upsampler, number=16, steps=8)
    assert found["phase"] >= 0.95
    assert found["amplitude"] > 0.8
    assert found["smooth_db"] > found["bilinear_db"] + 2
    assert found["mean_error"] < 12


@pytest.mark.whole
@pytest.mark.portable
def test_without_known_pixels_the_phase_is_left_to_chance(upsampler: EditModel) -> None:
    found = cascade.figures(upsampler, blind=True, number=16, steps=8)
    assert 0.1 < found["phase"] < 0.9
