"""A recipe is what its file says, and nothing in the file is passed over."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataprep.draw.library import import_albumentations
from dataprep.draw.pipeline import check_pipeline, open_pipeline
from dataprep.draw.recipe import PBE, RECIPES, Exemplar, Recipe, load_recipe, with_background, with_recipes
from intarsia.config import dump_config
from intarsia.errors import UsageError
from tests.paths import ROOT

SHIPPED = ["after-insert-anything", "anydoor", "objectstitch", "pbe"]
each_recipe = pytest.mark.parametrize("name", SHIPPED)


def transform(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, **arguments}


def recipe_with(*transforms: dict[str, Any], **exemplar: Any) -> Recipe:
    augment = transform("Compose", p=1.0, transforms=list(transforms))
    return Recipe(name="mine", exemplar=Exemplar(augment=augment, **exemplar))


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_these_recipes_are_shipped() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == SHIPPED


def test_the_default_is_the_file_of_its_name() -> None:
    assert load_recipe("pbe") == PBE == Recipe()


@each_recipe
def test_a_shipped_file_says_every_number(name: str) -> None:
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    whole = load_recipe(name).model_dump(mode="json")
    assert {"name": name, "note": "", **content} == whole


@each_recipe
def test_a_recipe_is_the_same_after_its_file_was_written_again(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    again = load_recipe(write(tmp_path, dump_config(recipe), f"{name}.yaml"))
    assert again == recipe
    assert again.model_dump(mode="json") == recipe.model_dump(mode="json")


@each_recipe
def test_the_augmentation_is_what_albumentations_writes_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, library = load_recipe(name), import_albumentations()
    check_pipeline(recipe)
    written = library.to_dict(open_pipeline(recipe).compose)
    assert json.loads(json.dumps(written)) == recipe.exemplar.augment
    monkeypatch.setitem(sys.modules, "torch", None)  # the library's own reader would import it
    assert library.to_dict(library.from_dict(recipe.exemplar.augment)) == written


def test_a_file_may_say_only_what_differs(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "exemplar: {margin: 3}\n"))
    assert recipe == PBE.model_copy(
        update={"name": "mine", "exemplar": PBE.exemplar.model_copy(update={"margin": 3})}
    )
    base = f"extends: {RECIPES}/anydoor.yaml\nrules: {{smallest_area: 0.0}}\n"
    mine = load_recipe(write(tmp_path, base))
    assert (mine.rules.smallest_area, mine.rules.largest_area) == (0.0, 0.64)
    assert mine.masks == load_recipe("anydoor").masks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exemplr: {}", r"mine.yaml: unknown key 'exemplr'; did you mean 'exemplar'\?"),
        ("exemplar: {margn: 3}", r"unknown key 'exemplar.margn'; did you mean 'margin'\?"),
        ("exemplar: {background: pink}", "exemplar.background='pink'"),
        ("exemplar: {grow: [0.5]}", r"grow=\[0.5\]: each factor must lie from 1 to 10"),
        ("exemplar: {augment: {}}", "augment is not a pipeline as albumentations writes it"),
        ("masks: [{kind: round, share: 1}]", r"mine.yaml: masks: kind='round' is not one of bezier, box,"),
        ("masks: [{share: 1}]", "masks: kind=None is not one of"),
        ("masks: [{kind: box, share: 1, jitter: 5}]", r"mine.yaml: masks, kind box: unknown key 'jitter'"),
        ("masks: [{kind: box, share: 0.4}]", "masks: the shares add up to 0.4, not to 1"),
        ("masks: [{kind: perturbed, share: 1, iou: [0.9, 0.3]}]", "the smaller of two positive numbers"),
        ("masks: [{kind: brush, share: 1, width: [0.3, 0.1]}]", "the smaller of two positive numbers"),
        ("crop: {kind: round}", "crop: kind='round' is not one of square, around, loose, whole, native"),
        ("crop: {kind: whole, zoom: 0.1}", "crop, kind whole: unknown key 'zoom'"),
        ("crop: {kind: around, grow: [0.5]}", "each factor must lie from 1 to 100"),
        ("name: a b", "name='a b'"),
        ("name: pbe\nextension: {room: 0.1}", "is called pbe and differs from the recipe of this name"),
        ("- 1", "must contain keys and values, not a list"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as error:
        load_recipe(write(tmp_path, text))
    assert "mine.yaml" in str(error.value)


def test_an_unknown_recipe_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    known = "after-insert-anything, anydoor, objectstitch, pbe"
    with pytest.raises(UsageError, match=rf"recipe 'anydor' is not one of {known}; give one of these, or"):
        load_recipe("anydor")
    with pytest.raises(UsageError, match=r"config file .*none.yaml does not exist"):
        load_recipe(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        # albumentations warns of these two, and then moves nothing, or takes another size.
        (
            transform("ElasticTransform", p=1, alpha_affine=50),
            "ElasticTransform has no argument 'alpha_affine'",
        ),
        (transform("MedianBlur", p=1, blur_limit=4), "albumentations warns: .* must be odd"),
        (transform("HorizontalFlop", p=1), r"has no transform 'HorizontalFlop'; did you mean HorizontalFlip"),
        (transform("Blur"), "Blur has no p, the probability that it is applied; give one"),
        (transform("Blur", p=3), "Blur: p=3: Input should be less than or equal to 1"),
        (transform("OneOf", p=1), "OneOf needs a list of transforms"),
        (transform("OneOf", p=1, transforms=[3]), "3 is not a transform as albumentations writes it"),
        (transform("OneOf", p=1, transforms=[transform("Blur", p=1, size=3)]), "Blur has no argument 'size'"),
        (transform("Normalize", p=0.01), r"Normalize gives float32, and uint8 \[224, 224, 3\] is needed"),
        (transform("Resize", p=0.01, height=9, width=9), r"Resize gives uint8 \[9, 9, 3\], and uint8"),
        (transform("ToTensorV2", p=1), "ToTensorV2"),
        (transform("BBoxSafeRandomCrop", p=0.01), "BBoxSafeRandomCrop fails .KeyError: 'bboxes'"),
        (transform("ImageOnlyTransform", p=1), "ImageOnlyTransform fails .NotImplementedError"),
        (transform("BasicTransform", p=1), "BasicTransform: it cannot be made .NotImplementedError"),
    ],
)
def test_an_augmentation_that_would_do_something_else_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=rf"recipe mine: exemplar.augment: .*{said}"):
        check_pipeline(recipe_with(given))


def test_a_crop_is_welcome_where_the_resize_comes_last() -> None:
    check_pipeline(recipe_with(transform("CenterCrop", p=0.5, height=9, width=9), resize="after"))


def test_a_single_transform_is_a_pipeline() -> None:
    recipe = Recipe(name="mine", exemplar=Exemplar(augment=transform("HorizontalFlip", p=0.5)))
    check_pipeline(recipe)
    assert len(open_pipeline(recipe).leaves) == 1


def test_a_recipe_says_whether_it_needs_object_masks() -> None:
    assert [load_recipe(name).needs_object for name in SHIPPED] == [True, True, True, False]
    assert with_background(PBE, "white").needs_object
    assert with_background(PBE, "keep") is PBE
    assert Recipe(rules={"smallest_area": 0.1}).needs_object
    assert Recipe(masks=({"kind": "dilated", "share": 1},)).needs_object
    assert not Recipe(masks=({"kind": "brush", "share": 1},)).needs_object


def test_transforms_that_may_differ_between_processors_are_named() -> None:
    bound = {name: load_recipe(name).processor_bound for name in SHIPPED}
    assert bound.pop("objectstitch") == ("ColorJitter", "Perspective", "Rotate")
    assert set(bound.values()) == {()}
    nested = transform("OneOf", p=1, transforms=[transform("Affine", p=1), transform("Blur", p=1)])
    assert recipe_with(nested).processor_bound == ("Affine",)


def test_of_two_recipes_with_different_names_only_these_are_compared() -> None:
    anydoor = {"recipe": load_recipe("anydoor").model_dump(mode="json")}
    assert with_recipes({}, anydoor) == ({"recipe": "pbe"}, {"recipe": "anydoor"})
    assert with_recipes(anydoor, anydoor) == (anydoor, anydoor)


@pytest.mark.processes
def test_options_and_configs_are_checked_without_anything_heavy() -> None:
    heavy = ["numpy", "cv2", "PIL", "scipy", "torch", "albumentations"]
    probe = (
        "import sys\nfrom dataprep.draw.recipe import load_recipe\n"
        f"for name in {SHIPPED!r}:\n    load_recipe(name)\n"
        f"print('LOADED', sorted(set({heavy!r}) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "LOADED []"
