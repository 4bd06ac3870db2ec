"""Builds by a recipe: whole, told in manifest and card, alike for any workers, continued, and drawn again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.build import build as go_on
from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.draw.recipe import PBE, Recipe, load_recipe
from dataprep.draw.redraw import redraw_crop, redraw_sample
from dataprep.plan.inputs import new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.shards.build_shard import tar_samples
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from intarsia.sample import Sample, decode_sample
from tests.dataprep.test_build import hashes
from tests.dataprep.test_object_masks import coco as coco  # a fixture: on each of four pictures two masks
from tests.dataprep.test_recipe import SHIPPED, each_recipe
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_request

Inputs = tuple[Path, Path]
NEEDY = [name for name in SHIPPED if name != "pbe"]


def request(out: Path, coco: Inputs, recipe: str, **options: Any) -> Any:
    options = {"images_per_shard": 2, "draws_per_image": 3, "object_masks": True} | options
    return toy_request(out, out, inputs=coco, recipe=recipe, **options)


def samples_of(folder: Path) -> list[Sample]:
    return [
        decode_sample(members, key)
        for tar in sorted(folder.glob("*.tar"))
        for key, members in tar_samples(
            tar, range(json.loads(tar.with_suffix(".json").read_text())["samples"])
        )
    ]


@each_recipe
@pytest.mark.parametrize("profile", ["tuple", "source"])
def test_a_build_is_whole_and_tells_its_recipe(name: str, profile: str, tmp_path: Path, coco: Inputs) -> None:
    manifest = build_alone(request(tmp_path / "out", coco, name, profile=profile, all_boxes=True))
    assert verify_folder(tmp_path / "out", full=True) == []
    needy = name in NEEDY
    assert manifest["kept"]["samples"] == 3 * (8 if needy else 12)
    assert manifest["rejected"]["boxes"] == ({"no_object_mask": 4} if needy else {})
    assert manifest["kept"]["masks"] == 3 * 8
    card = (tmp_path / "out" / "README.md").read_text()
    samples = samples_of(tmp_path / "out")
    assert {sample.meta.recipe for sample in samples} == {name if needy else ""}
    assert ("processor_bound" in manifest) is (name == "objectstitch")
    assert (
        ("may round differently" in card) is ("Another kind of processor" in card) is (name == "objectstitch")
    )
    recipe = load_recipe(name)
    if not needy:
        assert "recipe" not in manifest["config"]
        assert "How samples were drawn" not in card
        return
    assert manifest["config"]["recipe"] == recipe.model_dump(mode="json")
    assert f"| recipe | {name} |" in card
    assert recipe.note in card
    assert "scale" not in card or name == "objectstitch"
    assert {sample.meta.exemplar_background for sample in samples} == {recipe.exemplar.background}
    kinds = {kind.kind for kind in recipe.masks}
    assert {sample.meta.mask_kind for sample in samples} == kinds


def test_the_default_by_its_name_is_the_default(tmp_path: Path, coco: Inputs) -> None:
    for name, recipe in (("a", None), ("b", "pbe")):
        build_alone(request(tmp_path / name, coco, recipe))  # type: ignore[arg-type]
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert "recipe" not in BuildConfig(source="coco", name="x").model_dump()
    # A folder of a version without recipes goes on, and an explicit pbe goes on with it.
    go_on(request(tmp_path / "a", coco, "pbe"))


@pytest.mark.usefixtures("ray_with_two_workers")
@pytest.mark.parametrize("name", ["anydoor", "objectstitch"])
def test_two_workers_and_a_second_run_give_the_same_bytes(name: str, tmp_path: Path, coco: Inputs) -> None:
    build_alone(request(tmp_path / "alone", coco, name))
    asked = replace(request(tmp_path / "two", coco, name), workers=2)
    go_on(asked)
    assert hashes(tmp_path / "two") == hashes(tmp_path / "alone")
    sorted((tmp_path / "two").glob("*.tar"))[1].unlink()
    go_on(asked)
    assert hashes(tmp_path / "two") == hashes(tmp_path / "alone")


def test_a_folder_goes_on_by_its_own_recipe_only(tmp_path: Path, coco: Inputs) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("masks: [{kind: brush, share: 1}]\n")
    build_alone(request(tmp_path / "out", coco, str(mine)))
    go_on(request(tmp_path / "out", coco, str(mine)))
    with pytest.raises(UsageError, match=r"built with other options \(recipe: 'mine' -> 'pbe'\); give those"):
        go_on(request(tmp_path / "out", coco, None))  # type: ignore[arg-type]
    mine.write_text("masks: [{kind: brush, share: 1}]\nextension: {room: 0.3}\n")
    with pytest.raises(UsageError, match=r"\(recipe.extension.room: 0.4 -> 0.3\); give those"):
        go_on(request(tmp_path / "out", coco, str(mine)))


@each_recipe
def test_drawing_again_with_the_shards_seed_gives_what_data_prep_drew(
    name: str, tmp_path: Path, coco: Inputs
) -> None:
    recipe = load_recipe(name)
    options = {"all_boxes": True, "seed": 3}
    build_alone(request(tmp_path / "whole", coco, name, profile="source", **options))
    build_alone(request(tmp_path / "crops", coco, name, **options))
    crops = {sample.meta.key: sample for sample in samples_of(tmp_path / "crops")}
    for stored in samples_of(tmp_path / "whole"):
        drawn = redraw_sample(stored, None, 3, 0, recipe)
        assert isinstance(drawn, Sample)
        assert np.array_equal(drawn.edit_mask, stored.edit_mask)
        assert drawn.meta.to_json() == stored.meta.to_json()
        assert np.abs(drawn.exemplar.astype(int) - stored.exemplar).mean() < 3  # it went through JPEG
        crop = redraw_sample(stored, 64, 3, 0, recipe)
        assert isinstance(crop, Sample)
        baked = crops[crop.meta.key]
        assert np.array_equal(crop.edit_mask, baked.edit_mask)
        assert crop.meta.window == baked.meta.window
        assert json.dumps(crop.meta.augmentation) == json.dumps(baked.meta.augmentation)


@each_recipe
def test_a_stored_crop_is_drawn_again_by_any_recipe(name: str, tmp_path: Path, coco: Inputs) -> None:
    # Crops as fine as the pictures: from a coarser one no exemplar is cut.
    build_alone(request(tmp_path / "out", coco, "anydoor", all_boxes=True, image_size=160))
    recipe, own = load_recipe(name), load_recipe("anydoor")
    fresh, kinds = [], {kind.kind for kind in recipe.masks}
    for stored in samples_of(tmp_path / "out"):
        drawn = redraw_crop(stored, 5, 1, own, recipe)
        again = redraw_crop(stored, 5, 1, own, recipe)
        assert drawn.meta.to_json() == again.meta.to_json()
        assert np.array_equal(drawn.exemplar, again.exemplar)
        assert np.array_equal(drawn.image, stored.image)
        assert drawn.meta.mask_kind in kinds
        assert drawn.meta.window.contains(drawn.meta.extended)
        fresh.append(drawn.meta.recipe == ("" if name == "pbe" else name))
    assert any(fresh)


def test_a_recipe_that_needs_masks_is_refused_where_there_are_none(tmp_path: Path, coco: Inputs) -> None:
    annotations, images = coco
    content = json.loads(annotations.read_text())
    for record in content["annotations"]:
        del record["segmentation"]
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(content))
    asked = request(tmp_path / "out", (bare, images), "anydoor")
    with pytest.raises(
        UserError, match=r"--recipe anydoor needs object masks, and none of the 12 kept boxes"
    ):
        new_plan(asked)
    options = {"source": "yolo", "name": "x", "recipe": "objectstitch"}
    yolo = replace(asked, config=BuildConfig(**options), inputs={"labels": images})
    with pytest.raises(
        UsageError, match="--recipe objectstitch needs object masks, which annotations of the"
    ):
        new_plan(yolo)
    boxes = replace(asked, config=BuildConfig(**options | {"source": "boxes"}), inputs={"boxes": bare})
    with pytest.raises(
        UsageError, match="--recipe objectstitch needs the masks: give --segmentations FOLDER"
    ):
        new_plan(boxes)
    with pytest.raises(
        UsageError, match="--recipe anydoor with --profile source needs --all-boxes and --obj"
    ):
        build_config(BuildConfig, options | {"source": "coco", "recipe": "anydoor", "profile": "source"}, "x")


def test_a_wrong_augmentation_is_refused_before_a_folder_is_made(
    tmp_path: Path, coco: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("exemplar: {augment: {__class_fullname__: Blur, p: 1, size: 3}}\n")
    command = ["build", "coco", "--annotations", str(coco[0]), "--images", str(coco[1])]
    command += ["--recipe", str(mine), "--out", str(tmp_path / "out")]
    assert main([*command, "--dry-run"]) == 2
    assert main(command) == 2
    assert (
        capsys.readouterr().err.count("recipe mine: exemplar.augment: Blur has no argument 'size'; it ha")
        == 2
    )
    assert not (tmp_path / "out").exists()
    mine.write_text("masks: [{kind: box, share: 1}]\n")
    assert main([*command, "--dry-run"]) == 0
    assert "  recipe: mine\n" in capsys.readouterr().out


# Rule -> what it drops of the toy's objects: a polygon of 14 % and an ellipse of 20 % of the picture.
RULES = {
    "smallest_area: 0.17": {"object_too_small": 4},
    "largest_area: 0.17": {"object_too_large": 4},
    "smallest_side: 0.4": {"object_too_small": 4},
    "largest_extended: 0.42": {"object_too_large": 4},
    "one_piece: 0.9": {},
}


@pytest.mark.parametrize("rule", RULES)
def test_boxes_that_a_recipes_rule_drops_are_counted_by_its_reason(
    rule: str, tmp_path: Path, coco: Inputs
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"rules: {{{rule}}}\nextension: {{room: 0.0}}\n")
    manifest = build_alone(request(tmp_path / "out", coco, str(mine)))
    assert manifest["rejected"]["boxes"] == {"no_object_mask": 4} | RULES[rule]
    assert verify_folder(tmp_path / "out", full=True) == []


def test_an_object_in_pieces_is_dropped(tmp_path: Path, coco: Inputs) -> None:
    annotations, images = coco
    content = json.loads(annotations.read_text())
    for record in content["annotations"]:
        if record["category_id"] == 1:
            record["segmentation"] = [[20, 20, 40, 20, 40, 60, 20, 60], [60, 20, 75, 20, 75, 60, 60, 60]]
    pieces = tmp_path / "pieces.json"
    pieces.write_text(json.dumps(content))
    manifest = build_alone(request(tmp_path / "out", (pieces, images), "anydoor"))
    assert manifest["rejected"]["boxes"] == {"no_object_mask": 4, "object_in_pieces": 4}


def test_a_box_that_a_recipe_cannot_use_for_its_masks_file_is_dropped(tmp_path: Path, coco: Inputs) -> None:
    annotations, images = coco
    content = json.loads(annotations.read_text())
    for record in content["annotations"]:
        if record["category_id"] == 1:
            record["segmentation"] = [[1, 2, 3]]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    manifest = build_alone(request(tmp_path / "out", (broken, images), "objectstitch"))
    assert manifest["rejected"]["boxes"] == {"no_object_mask": 4, "object_mask_unreadable": 4}
    assert manifest["rejected"]["masks"] == {}


def test_verify_sees_a_sample_of_another_recipe(tmp_path: Path, coco: Inputs) -> None:
    from dataprep.check.verify_sample import sample_problems

    build_alone(request(tmp_path / "out", coco, "anydoor"))
    sample = samples_of(tmp_path / "out")[0]
    config = BuildConfig(source="coco", name="toy", image_size=64)
    by_pbe = list(sample_problems(sample, config))
    assert "it was drawn by the recipe anydoor" in by_pbe
    kind = replace(sample, meta=replace(sample.meta, mask_kind="dilated"))
    assert "its edit mask is of kind dilated, which its recipe does not draw" in list(
        sample_problems(kind, config)
    )
    dilated = config.model_copy(
        update={"recipe": Recipe(name="anydoor", masks=({"kind": "dilated", "share": 1},))}
    )
    hole = replace(kind, edit_mask=np.where(np.arange(64) < 32, kind.edit_mask, 0).astype(np.uint8))
    assert any("pixels of its object uncovered" in text for text in sample_problems(hole, dilated))


def test_the_default_of_a_config_is_the_default_recipe() -> None:
    assert BuildConfig(source="coco", name="x", recipe="pbe").recipe is None
    assert BuildConfig(source="coco", name="x").drawing is PBE
