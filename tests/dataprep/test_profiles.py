"""Whole and smaller pictures, samples for every box: what is stored and what a loader draws of it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.check.verify import verify_folder
from dataprep.draw.redraw import redraw_sample
from dataprep.draw.render import store_picture
from dataprep.pictures.decode import decode_picture, load_picture
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from dataprep.records import Rejected
from dataprep.shards.build_shard import tar_samples
from intarsia.boxes import Box, scale_box
from intarsia.config import build_config
from intarsia.errors import UsageError
from intarsia.files import read_json, sha256_bytes
from intarsia.sample import Sample, SampleMeta, decode_sample, encode_sample
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import GOOD, make_coco, toy_picture, toy_request

Inputs = tuple[Path, Path]
SOURCE = {"profile": "source", "images_per_shard": 100}


def members_of(request: BuildRequest) -> dict[str, dict[str, bytes]]:
    """Key -> members of a build's only shard."""
    build_alone(request)
    assert verify_folder(request.out, full=True) == []
    (shard,) = read_json(request.out / "manifest.json")["shardlist"]
    return dict(tar_samples(request.out / shard["url"], range(shard["nsamples"])))


def fresh(members: dict[str, bytes], size: int | None, epoch: int = 0) -> Sample:
    drawn = redraw_sample(decode_sample(members, whole=False), size, 0, epoch)
    assert isinstance(drawn, Sample)
    return drawn


@pytest.fixture(scope="module")
def with_a_png(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """The toy data set, one of its pictures no JPEG."""
    annotations, images = make_coco(tmp_path_factory.mktemp("png"))
    toy_picture(160, 120, 4).save(images / "000000000003.jpg", format="PNG")
    return annotations, images


def test_a_loader_draws_in_epoch_0_what_a_build_of_crops_holds(tmp_path: Path, toy_coco: Inputs) -> None:
    """Bit for bit, all four members, since the pictures are upright JPEGs and are stored untouched."""
    crops = members_of(toy_request(tmp_path, tmp_path / "a", inputs=toy_coco, images_per_shard=100))
    wholes = members_of(toy_request(tmp_path, tmp_path / "b", inputs=toy_coco, **SOURCE))
    assert crops.keys() == wholes.keys()
    for key, members in wholes.items():
        assert encode_sample(fresh(members, 64)) == crops[key]


@pytest.mark.parametrize("options", [{}, {"short_side": 100}, {"draws_per_image": 3}, {"all_boxes": True}])
def test_a_loader_draws_in_epoch_0_what_is_stored(
    tmp_path: Path, with_a_png: Inputs, options: dict[str, object]
) -> None:
    """Edit mask, exemplar and record, bit for bit, also where the stored picture was encoded anew."""
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=with_a_png, **SOURCE | options))
    for members in stored.values():
        assert encode_sample(fresh(members, None), members["image.jpg"]) == members


def test_later_epochs_draw_otherwise_and_no_two_samples_of_a_picture_alike(
    tmp_path: Path, toy_coco: Inputs
) -> None:
    options = SOURCE | {"draws_per_image": 2}
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **options))
    drawn = [encode_sample(fresh(m, 64, epoch))["json"] for m in stored.values() for epoch in range(3)]
    assert len({SampleMeta.from_json(record).key for record in drawn}) == len(drawn)
    shapes = {str(SampleMeta.from_json(record).extended.as_list()) + str(i) for i, record in enumerate(drawn)}
    assert len(shapes) == len(drawn)


def test_small_pictures_stay_as_they_are_and_larger_ones_get_the_short_side(
    tmp_path: Path, toy_coco: Inputs
) -> None:
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **SOURCE, short_side=130))
    sizes = Counter()
    for members in stored.values():
        sample = decode_sample(members)
        height, width = sample.image.shape[:2]
        assert (width, height) == sample.meta.image_size
        source = (toy_coco[1] / sample.meta.file).read_bytes()
        assert sample.meta.source_sha256 == sha256_bytes(source)
        if min(sample.meta.source_size or (width, height)) <= 130:
            assert members["image.jpg"] == source
            assert "source_size" not in json.loads(members["json"])
        else:
            assert sample.meta.source_size == (140, 140)
        sizes[width, height] += 1
    assert sizes == {(160, 120): GOOD // 3, (120, 160): GOOD // 3, (130, 130): GOOD // 3}


def test_a_smaller_picture_shows_the_same_and_its_boxes_lie_where_they_lay(
    tmp_path: Path, toy_coco: Inputs
) -> None:
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **SOURCE, short_side=70))
    for members in stored.values():
        sample = decode_sample(members)
        meta = sample.meta
        decoded = decode_picture((toy_coco[1] / meta.file).read_bytes())
        assert not isinstance(decoded, Rejected)
        assert meta.source_size is not None
        scale = meta.source_size[0] / meta.image_size[0]
        y, x = np.mgrid[0 : sample.image.shape[0], 0 : sample.image.shape[1]]
        shown = decoded[0][(y * scale + scale / 2).astype(int), (x * scale + scale / 2).astype(int)]
        assert np.abs(shown.astype(int) - sample.image).mean() < 8
        for item in meta.boxes:
            corners = [value * scale for value in item.box.as_list()]
            expected = [10, 12, 70, 62] if item.label == "car" else [70, 60, 115, 110]
            assert np.abs(np.array(corners) - expected).max() < 2  # of the source: one stored pixel


SIDES = st.integers(1, 3000)


@settings(deadline=None)
@given(st.data(), SIDES, SIDES, SIDES, SIDES)
def test_a_scaled_box_keeps_its_pixels_and_stays_inside(
    data: st.DataObject, width: int, height: int, new_width: int, new_height: int
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    scaled = scale_box(box, (width, height), (new_width, new_height))
    assert Box(0, 0, new_width, new_height).contains(scaled)
    assert min(scaled.width, scaled.height) >= 1
    assert scaled.x0 * width <= box.x0 * new_width < (scaled.x0 + 1) * width
    assert (scaled.y1 - 1) * height < box.y1 * new_height <= scaled.y1 * height
    assert scale_box(box, (width, height), (width, height)) == box


def test_stored_pixels_are_those_of_the_stored_bytes(with_a_png: Inputs) -> None:
    for name in ("000000000003.jpg", "000000000001.jpg"):
        picture = load_picture(with_a_png[1] / name)
        assert not isinstance(picture, Rejected)
        for short_side in (None, 64, 100, 5000):
            stored = store_picture(picture, short_side)
            assert stored.jpeg is not None
            decoded = decode_picture(stored.jpeg)
            assert not isinstance(decoded, Rejected)
            assert np.array_equal(decoded[0], stored.pixels)


@pytest.mark.parametrize("options", [{}, SOURCE, {"draws_per_image": 2}])
def test_all_boxes_gives_every_box_its_samples(
    tmp_path: Path, toy_coco: Inputs, options: dict[str, object]
) -> None:
    options = {"images_per_shard": 100, "all_boxes": True} | options
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **options))
    each = int(str(options.get("draws_per_image", 1)))
    metas = [SampleMeta.from_json(members["json"]) for members in stored.values()]
    chosen = Counter((meta.image_id, str(meta.box.as_list())) for meta in metas)
    assert len(chosen) == 2 * GOOD
    assert set(chosen.values()) == {each}
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["in"]["draws"] == manifest["kept"]["samples"] == len(metas) == 2 * GOOD * each


def test_a_sample_of_its_own_box_stays_with_it(tmp_path: Path, toy_coco: Inputs) -> None:
    options = SOURCE | {"all_boxes": True}
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **options))
    for members in stored.values():
        box = SampleMeta.from_json(members["json"]).box
        assert {fresh(members, 64, epoch).meta.box for epoch in range(4)} == {box}


def test_records_of_before_are_read_and_need_no_new_names(tmp_path: Path, toy_coco: Inputs) -> None:
    stored = members_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, images_per_shard=100))
    for members in stored.values():
        meta = SampleMeta.from_json(members["json"])
        assert not {"source_size", "draws_per_box"} & set(json.loads(members["json"]))
        full = replace(meta, source_size=(1000, 900), draws_per_box=3)
        assert SampleMeta.from_json(full.to_json()) == full


def test_a_short_side_for_crops_is_refused() -> None:
    with pytest.raises(UsageError, match="short_side is for whole pictures: give --profile source"):
        build_config(BuildConfig, {"source": "coco", "name": "x", "short_side": 640}, "build options")
