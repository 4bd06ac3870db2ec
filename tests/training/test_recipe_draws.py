"""`data.recipe`: every epoch drawn by it; without it, by the recipe that the shards were built with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.draw.recipe import load_recipe
from intarsia.config import build_config, dump_config, load_config
from intarsia.errors import UsageError
from intarsia.sample import Sample
from tests.dataprep.test_object_masks import coco as coco  # a fixture: on each of four pictures two masks
from tests.dataprep.test_recipe_builds import request, samples_of
from tests.dataprep.test_shards import build_alone
from training.checkpoint.folder import _differences
from training.config import TrainConfig
from training.data.batches import SampleDataset, open_dataset
from training.data.shards import check_recipe, find_shards

Inputs = tuple[Path, Path]


def config_of(folder: Path, image_size: int = 64, **data: Any) -> TrainConfig:
    content = {"model": {"image_size": image_size}, "seed": 9, "data": {"shards": [str(folder)], **data}}
    return build_config(TrainConfig, content, "test")


def shards(folder: Path, coco: Inputs, recipe: str | None, **options: Any) -> Path:
    asked = request(folder, coco, recipe, images_per_shard=100, all_boxes=True, **options)  # type: ignore[arg-type]
    build_alone(asked)
    return folder


def epoch(dataset: SampleDataset, number: int) -> list[Sample]:
    return [dataset.sample(0, place, number) for place in range(dataset.reader.shards[0].count)]


def equal(a: Sample, b: Sample) -> bool:
    return a.meta.to_json() == b.meta.to_json() and np.array_equal(a.exemplar, b.exemplar)


def test_whole_pictures_are_drawn_by_the_shards_own_recipe(tmp_path: Path, coco: Inputs) -> None:
    folder = shards(tmp_path / "whole", coco, "anydoor", profile="source")
    dataset = open_dataset(config_of(folder))
    baked = {s.meta.key: s for s in samples_of(shards(tmp_path / "crops", coco, "anydoor"))}
    for sample in epoch(dataset, 0):  # the first epoch is what data prep draws
        twin = baked[sample.meta.key]
        assert np.array_equal(sample.edit_mask, twin.edit_mask)
        assert (sample.meta.augmentation, sample.meta.recipe) == (twin.meta.augmentation, "anydoor")
    later = epoch(dataset, 1)
    assert {sample.meta.mask_kind for sample in later} <= {"box", "perturbed"}
    assert all(map(equal, later, epoch(open_dataset(config_of(folder)), 1)))


@pytest.mark.parametrize("profile", ["tuple", "source"])
def test_a_recipe_draws_every_epoch(profile: str, tmp_path: Path, coco: Inputs) -> None:
    side = 192  # as fine as the pictures: from a coarser crop no exemplar is cut
    folder = shards(tmp_path / "out", coco, "anydoor", profile=profile, image_size=side)
    dataset = open_dataset(config_of(folder, side, recipe="objectstitch"))
    for number in (0, 1):
        made = epoch(dataset, number)
        assert {sample.meta.mask_kind for sample in made} == {"box"}
        assert all(s.meta.extended.width > s.meta.box.width for s in made)  # by a margin of ten pixels
        names = [sample.meta.recipe for sample in made]  # a crop may show too little for a new exemplar
        assert "objectstitch" in names
        assert profile == "tuple" or set(names) == {"objectstitch"}
    assert not all(map(equal, epoch(dataset, 0), epoch(dataset, 1)))
    again = open_dataset(config_of(folder, side, recipe="objectstitch"))
    assert all(map(equal, epoch(dataset, 1), epoch(again, 1)))


def test_the_shards_own_recipe_by_its_name_leaves_the_first_epoch_of_crops(
    tmp_path: Path, coco: Inputs
) -> None:
    folder = shards(tmp_path / "out", coco, "objectstitch")
    stored = samples_of(folder)
    assert all(map(equal, stored, epoch(open_dataset(config_of(folder, recipe="objectstitch")), 0)))
    assert all(map(equal, stored, epoch(open_dataset(config_of(folder)), 3)))


def test_a_recipe_without_masks_can_follow_one_with_them(tmp_path: Path, coco: Inputs) -> None:
    folder = shards(tmp_path / "out", coco, "anydoor", profile="source")
    made = epoch(open_dataset(config_of(folder, recipe="pbe")), 0)
    assert {sample.meta.exemplar_background for sample in made} == {""}
    assert {sample.meta.recipe for sample in made} == {""}
    assert {sample.meta.mask_kind for sample in made} <= {"box", "bezier"}


def test_shards_without_every_mask_are_refused(tmp_path: Path, coco: Inputs) -> None:
    folder = shards(tmp_path / "some", coco, None)  # a third of its boxes has no mask
    said = (
        r"the recipe anydoor draws from object masks, which not every sample in .*some has; build the shards "
    )
    with pytest.raises(UsageError, match=said + "with --recipe anydoor --object-masks, or choose another"):
        open_dataset(config_of(folder, recipe="anydoor"))
    stripped = shards(tmp_path / "none", coco, "anydoor", object_masks=False)
    check_recipe(find_shards([str(stripped)]), config_of(stripped).data)  # what is stored can be trained on
    with pytest.raises(UsageError, match=r"which not every sample in .*none has"):
        open_dataset(config_of(stripped, redraw=True))
    whole = shards(tmp_path / "whole", coco, None, profile="source")
    with pytest.raises(UsageError, match=r"--object-masks --all-boxes, or choose another data\.recipe"):
        open_dataset(config_of(whole, recipe="anydoor"))


def test_the_config_holds_the_recipes_content(tmp_path: Path) -> None:
    config = config_of(tmp_path, recipe="anydoor")
    assert config.data.recipe == load_recipe("anydoor")
    assert config.model_dump(mode="json")["data"]["recipe"] == load_recipe("anydoor").model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(TrainConfig, tmp_path / "config.yaml") == config
    assert load_config(TrainConfig, tmp_path / "config.yaml", ["data.recipe=null"]).data.recipe is None
    plain = config_of(tmp_path).model_dump(mode="json")
    assert _differences(plain, config.model_dump(mode="json")) == ["data.recipe: None -> 'anydoor'"]


def test_contradictions_and_unknown_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.recipe draws afresh, and data\.redraw=false does not"):
        config_of(tmp_path, recipe="pbe", redraw=False)
    with pytest.raises(UsageError, match="recipe 'none' is not one of after-insert-anything, anydoor"):
        config_of(tmp_path, recipe="none")
