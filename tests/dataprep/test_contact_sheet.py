"""The contact sheet shows what the shards hold."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataprep.look.contact_sheet import write_contact_sheet
from dataprep.look.pick import Choice, pick_samples
from dataprep.look.view import BOX_OUTLINE, OUTLINE, TINT, overlay_mask
from intarsia.errors import UsageError
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import GOOD, toy_request

Inputs = tuple[Path, Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> Path:
    out = tmp_path_factory.mktemp("sheet") / "out"
    build_alone(toy_request(out, out, inputs=toy_coco, draws_per_image=2))
    return out


def test_samples_are_different_and_come_from_all_over(folder: Path) -> None:
    samples = pick_samples(folder, Choice(1000))
    assert len({sample.meta.key for sample in samples}) == len(samples) == 2 * GOOD
    few = [sample.meta.key for sample in pick_samples(folder, Choice(5))]
    assert few == [sample.meta.key for sample in pick_samples(folder, Choice(5))]
    assert few != [sample.meta.key for sample in pick_samples(folder, Choice(5, seed=1))]
    seen = {sample.meta.key for seed in range(40) for sample in pick_samples(folder, Choice(3, seed))}
    assert seen == {sample.meta.key for sample in samples}


def test_a_png_of_all_samples(folder: Path, tmp_path: Path) -> None:
    assert write_contact_sheet(folder, tmp_path / "deep" / "sheet.png", Choice(6)) == 6
    with Image.open(tmp_path / "deep" / "sheet.png") as sheet:
        pixels = np.array(sheet)
        assert sheet.width == 2 * (3 * 230 + 6) + 6
        assert sheet.height == 3 * (224 + 16 + 6) + 6 + 32
    # The legend is below the samples: its colours are those of the pictures.
    legend = pixels[-32:].reshape(-1, 3)
    assert all((legend == colour).all(axis=1).sum() > 30 for colour in (TINT, BOX_OUTLINE))
    assert not (legend == OUTLINE).all(axis=1).any()  # no object masks are stored
    # the middle cell of each triple is a mask: black and white (its edges are smoothed)
    middle = pixels[6 + 16 : 6 + 16 + 224, 6 + 230 : 6 + 230 + 224]
    assert np.isin(middle, [0, 255]).mean() > 0.8
    assert {0, 255} <= set(np.unique(middle))


def test_the_page_needs_no_other_file(folder: Path, tmp_path: Path) -> None:
    write_contact_sheet(folder, tmp_path / "sheet.html", Choice(4))
    page = (tmp_path / "sheet.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "href=" not in page
    assert page.count("<figcaption>") == 4


def test_the_overlay_tints_exactly_the_edit_mask(folder: Path) -> None:
    sample = pick_samples(folder, Choice(1, 3))[0]
    changed = (np.array(overlay_mask(sample)) != sample.image).any(axis=2)
    masked = sample.edit_mask > 20
    assert changed[masked].mean() > 0.95
    # outside only the outline of the box, which may lie beside the mask
    assert changed[~(sample.edit_mask > 0)].mean() < 0.15


def test_the_object_mask_is_outlined_on_its_inner_edge(folder: Path) -> None:
    sample = pick_samples(folder, Choice(1, 3))[0]
    own = np.zeros_like(sample.edit_mask)
    own[20:40, 10:50] = 255
    blue = (np.array(overlay_mask(replace(sample, object_mask=own))) == OUTLINE).all(axis=2)
    edge = own > 0
    edge[21:39, 11:49] = False
    assert not blue[~edge].any()
    assert blue[edge].mean() > 0.8  # the box's outline may cross it


def test_other_kinds_of_file_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sheet\.pdf: the name must end in \.png or \.html"):
        write_contact_sheet(folder, tmp_path / "sheet.pdf", Choice(4))
