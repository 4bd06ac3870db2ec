"""`Recipe`: how a sample is drawn from a picture and a box, in numbers; read from a YAML file.

A recipe says which shapes of edit masks are drawn and how often, how far the box is extended, what part of
the picture the crop shows, and how the exemplar is cut out and augmented. The default is Paint by Example's.
The module loads nothing heavy, since options and configs are checked with it.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from dataprep.draw.crop import Crop, read_crop
from dataprep.masks.mask_kind import MaskKind, read_mask_kind
from intarsia.config import Config, load_config
from intarsia.errors import UsageError
from intarsia.files import ROOT

RECIPES = ROOT / "configs" / "recipes"
DEFAULT = "pbe"
_OURS = "dataprep.draw.paint_by_example."
# Paint by Example's augmentation as albumentations writes it; configs/recipes/pbe.yaml has the sources.
PBE_AUGMENTATION: dict[str, Any] = {
    "__version__": "2.0.8",
    "transform": {
        "__class_fullname__": "Compose",
        "p": 1.0,
        "transforms": [
            {"__class_fullname__": f"{_OURS}Mirror", "p": 0.5},
            {"__class_fullname__": f"{_OURS}ReflectedRotate", "p": 0.5, "limit": 20.0},
            {"__class_fullname__": f"{_OURS}BoxBlur", "p": 0.3, "sizes": [3, 5, 7]},
            {"__class_fullname__": f"{_OURS}ThreePointShift", "p": 0.3, "shift": 50.0},
        ],
        "bbox_params": None,
        "keypoint_params": None,
        "additional_targets": {},
        "is_check_shapes": True,
    },
}
# Transforms whose bytes are the same on processors with and without fused multiplication, seen by a test.
# Others may round differently; manifest and card name them.
PORTABLE = frozenset(
    {
        *(f"{_OURS}{name}" for name in ("Mirror", "ReflectedRotate", "BoxBlur", "ThreePointShift")),
        *("Compose", "OneOf", "OneOrOther", "RandomOrder", "Sequential", "SomeOf"),
        *("NoOp", "HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90", "D4"),
        *("Blur", "MedianBlur", "RandomBrightnessContrast", "ChannelShuffle", "InvertImg", "CoarseDropout"),
    }
)


class Extension(Config):
    """How the annotated box becomes the extended box; the steps are taken in this order."""

    grow: float = Field(default=1.0, ge=1, le=10)  # both sides times this, about the middle
    margin: int = Field(default=0, ge=0)  # then so many pixels of the source on each side
    room: float = Field(
        default=0.4, ge=0, le=1
    )  # then each side outward by up to this share of the room there


class Exemplar(Config):
    """How the exemplar is cut out of the picture and augmented."""

    around: Literal["box", "object"] = "box"  # box, or bounds of the object's mask
    margin: int = Field(default=10, ge=0)  # pixels of the source on each side, where there is room
    background: Literal["keep", "black", "grey", "white"] = "keep"  # in place of what is not the object
    cut_out: Literal["before", "after"] = "before"  # whether it is replaced before or after the augmentation
    grow: tuple[float, ...] = ()  # the canvas grows by one of these factors, each as likely
    shape: Literal["squash", "pad"] = "squash"  # how what is not square becomes square
    resize: Literal["before", "after"] = "before"  # to 224 x 224, before or after the augmentation
    augment: dict[str, Any] = PBE_AUGMENTATION  # albumentations' own form, as A.save and A.to_dict write it

    @property
    def needs_object(self) -> bool:
        """Whether the object's own mask is used."""
        return self.background != "keep" or self.around == "object"

    @model_validator(mode="after")
    def _factors_and_form(self) -> "Exemplar":
        if any(not 1 <= factor <= 10 for factor in self.grow):
            raise ValueError(f"grow={list(self.grow)}: each factor must lie from 1 to 10")
        form = self.augment.get("transform", self.augment)
        if not isinstance(form, dict) or "__class_fullname__" not in form:
            raise ValueError(
                "augment is not a pipeline as albumentations writes it (A.save, A.to_dict): it has no "
                "__class_fullname__"
            )
        return self


class ObjectRules(Config):
    """Which boxes may be chosen by the object's own mask, as far as a recipe cares."""

    smallest_area: float = Field(default=0.0, ge=0, le=1)  # of the mask, as a share of the picture
    largest_area: float = Field(default=1.0, ge=0, le=1)
    one_piece: float = Field(
        default=0.0, ge=0, le=1
    )  # smallest share of the mask that its largest piece takes
    smallest_side: float = Field(
        default=0.0, ge=0, le=1
    )  # of the mask's bounds, as a share of the picture's side
    largest_extended: float = Field(
        default=1.0, ge=0, le=1
    )  # largest share of a side that the extended box may take


class Recipe(Config):
    """How a sample is drawn. The defaults are Paint by Example's."""

    name: str = Field(
        default=DEFAULT, pattern=r"^[A-Za-z0-9_.-]+$"
    )  # the file's name, if it does not say another
    note: str = ""  # what the card says about it
    masks: tuple[Annotated[SerializeAsAny[MaskKind], BeforeValidator(read_mask_kind)], ...] = Field(
        default=({"kind": "bezier", "share": 0.5}, {"kind": "box", "share": 0.5}), validate_default=True
    )
    extension: Extension = Extension()
    crop: Annotated[SerializeAsAny[Crop], BeforeValidator(read_crop)] = Field(
        default={"kind": "square"}, validate_default=True
    )
    exemplar: Exemplar = Exemplar()
    rules: ObjectRules = ObjectRules()

    def __hash__(self) -> int:
        """By name: a pipeline has no hash, and comparing settles the rest."""
        return hash(self.name)

    @model_validator(mode="after")
    def _shares(self) -> "Recipe":
        total = sum(kind.share for kind in self.masks)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"masks: the shares add up to {total:g}, not to 1")
        return self

    @property
    def needs_object(self) -> bool:
        """Whether every box must have the object's own mask."""
        return (
            any(kind.needs_object for kind in self.masks)
            or self.exemplar.needs_object
            or self.rules != ObjectRules()
        )

    @property
    def processor_bound(self) -> tuple[str, ...]:
        """Transforms that may give other bytes on another kind of processor, sorted."""
        return tuple(sorted({name.rpartition(".")[2] for name in class_names(self) if name not in PORTABLE}))


@lru_cache(maxsize=64)
def with_background(recipe: Recipe, background: str) -> Recipe:
    """The recipe with another background of the exemplar; unchanged for "keep"."""
    if background == "keep":
        return recipe
    return recipe.model_copy(
        update={"exemplar": recipe.exemplar.model_copy(update={"background": background})}
    )


def class_names(recipe: Recipe) -> Iterator[str]:
    """The classes of the recipe's augmentation, at any depth."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "__class_fullname__" in node:
                yield str(node["__class_fullname__"])
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list | tuple):
            for value in node:
                yield from walk(value)

    yield from walk(recipe.exemplar.augment)


PBE = Recipe()


def with_recipes(
    old: dict[str, Any], new: dict[str, Any], default: str | None = DEFAULT
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two configs to be compared: with the recipes' names if these differ, otherwise with their content.

    Args:
        old: config with or without `recipe`.
        new: the other one.
        default: name that stands for no recipe.
    """
    recipes = [config.get("recipe") for config in (old, new)]
    names = [recipe["name"] if recipe else default for recipe in recipes]
    if names[0] != names[1]:
        return old | {"recipe": names[0]}, new | {"recipe": names[1]}
    return old | {"recipe": recipes[0]}, new | {"recipe": recipes[1]}


def load_recipe(name: str) -> Recipe:
    """The recipe in a YAML file, or the one of configs/recipes with this name.

    Raises:
        UsageError: if there is no such file or name, or something in it is wrong.
    """
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml") and os.sep not in name:
        path = RECIPES / f"{name}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
            raise UsageError(
                f"recipe {name!r} is not one of {', '.join(known) or 'none (configs/recipes is empty)'}; "
                "give one of these, or a file NAME.yaml"
            )
    try:
        recipe = load_config(Recipe, path)
    except UsageError as error:
        text = str(error)  # that of a mask kind or crop does not name the file
        raise UsageError(text if str(path) in text else f"{path}: {text}") from None
    if "name" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"name": path.stem})
        recipe = Recipe.model_validate(recipe.model_dump())  # the file's name must do as one
    if recipe.name == DEFAULT and recipe != PBE:
        raise UsageError(
            f"{path} is called {DEFAULT} and differs from the recipe of this name; give it another name"
        )
    return recipe


def read_recipe(value: Any) -> Any:
    """For options: a name or file becomes its recipe; others stay as they are.

    Raises:
        UsageError: as `load_recipe`.
    """
    if isinstance(value, str):
        return load_recipe(value)
    return Recipe.model_validate(value) if isinstance(value, dict) else value


def _read_other_recipe(value: Any) -> Any:
    recipe = read_recipe(value)
    return None if recipe == PBE else recipe


# Options that hold a recipe's whole content; in the second, None stands for the default recipe, too.
RecipeChoice = Annotated[Recipe | None, BeforeValidator(read_recipe)]
RecipeOption = Annotated[Recipe | None, BeforeValidator(_read_other_recipe)]
