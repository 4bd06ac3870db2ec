"""Steps of a replacement that are repeated: what they cost, what they are worth, and who can have them."""

import pytest

from benchmarks.replacement import measure, new_field
from intarsia.config import build_config
from intarsia.errors import UsageError
from intarsia.model import EditModel
from sampling.editing import edit
from sampling.settings import EditSettings
from tests.sampling.tiny import request

STEPS, TIMES = 4, 3
REPEATED = EditSettings(num_inference_steps=STEPS, scheduler="ddim", known_region="replace", resample=TIMES)


@pytest.mark.portable
def test_each_repetition_takes_a_field_nearer_to_its_posterior() -> None:
    """Seen with 12 fields of 1,500 samples: variances of 13.7, 8.2 and .94 times the exact one."""
    common = {"steps": 25, "eta": 1.0, "told": False}
    once, often = (measure(new_field(), {**common, "resample": times}, 2, 200) for times in (1, 5))
    told = measure(new_field(), {**common, "resample": 1, "told": True}, 2, 200)
    assert often[1] < 0.85 * once[1]
    assert told[0] < 0.2 * once[0]
    assert 0.7 < told[1] < 1.3


def test_every_step_but_the_last_is_repeated_and_no_picture_depends_on_another(model: EditModel) -> None:
    requests = [request(number) for number in range(2)]
    calls: list[tuple[int, int]] = []
    alone = [edit(model, [one], REPEATED, on_step=lambda *step: calls.append(step))[0] for one in requests]
    total = TIMES * (STEPS - 1) + 1
    assert calls == [(number, total) for number in range(1, total + 1)] * 2
    together = edit(model, requests, REPEATED)
    for one, other in zip(alone, together, strict=True):
        assert abs(one.image.astype(int) - other.image).max() <= 1  # rounding
        assert (one.image[~one.request.edit_mask] == one.request.image[~one.request.edit_mask]).all()
    [plain] = edit(model, requests[:1], REPEATED.model_copy(update={"resample": 1}))
    assert (plain.image != alone[0].image).any()


def test_the_default_leaves_no_trace_in_the_settings_that_a_result_records() -> None:
    assert "resample" not in EditSettings().plain()
    assert REPEATED.plain()["resample"] == TIMES


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "resample=2 needs known_region=replace or both"),
        (
            {"known_region": "both"},
            "resample=2 works with ddim, ddpm only, not with plms, whose steps depend on earlier ones",
        ),
    ],
)
def test_who_cannot_repeat_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_config(EditSettings, {"resample": 2, **options}, "settings")
