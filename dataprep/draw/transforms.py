"""Transforms from the form in which albumentations writes them (A.save, A.to_dict).

The library passes over an unknown argument with a warning, after which a transform may do nothing; here it is
an error that names it.
"""

import difflib
import inspect
import warnings
from typing import Any

from pydantic import ValidationError

from dataprep.draw.library import import_albumentations
from dataprep.draw.recipe import Recipe
from intarsia.errors import UsageError


def build_transforms(recipe: Recipe) -> Any:
    """The recipe's augmentation as a Compose.

    Raises:
        UsageError: naming the class, argument or value that the library does not know.
    """
    library, augment = import_albumentations(), recipe.exemplar.augment
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        top = _build(augment.get("transform", augment), _classes(), recipe)
        if not isinstance(top, library.Compose):
            top = library.Compose([top])
    if said:
        raise refusal(recipe, f"albumentations warns: {one_line(said[0].message)}")
    return top


def leaves_of(node: Any) -> list[Any]:
    """The transforms of a composition at any depth, in their order."""
    if not isinstance(node, import_albumentations().BaseCompose):
        return [node]
    return [leaf for item in node.transforms for leaf in leaves_of(item)]


def refusal(recipe: Recipe, what: str) -> UsageError:
    """The error about a recipe's augmentation."""
    return UsageError(f"recipe {recipe.name}: exemplar.augment: {what}")


def one_line(error: object) -> str:
    """The text of an error or warning, however long, as a part of a sentence."""
    return " ".join(str(error).split())[:300]


def _classes() -> dict[str, Any]:
    """Transforms by the name that albumentations writes: its own, and Paint by Example's."""
    from albumentations.core.composition import BaseCompose
    from albumentations.core.serialization import SERIALIZABLE_REGISTRY
    from albumentations.core.transforms_interface import BasicTransform

    import dataprep.draw.paint_by_example  # noqa: F401 - its classes register themselves

    kinds = SERIALIZABLE_REGISTRY.items()
    return {name: kind for name, kind in kinds if issubclass(kind, BasicTransform | BaseCompose)}


def _build(node: Any, classes: dict[str, Any], recipe: Recipe) -> Any:
    """The transform of one node."""
    if not isinstance(node, dict) or "__class_fullname__" not in node:
        raise refusal(recipe, f"{node!r} is not a transform as albumentations writes it")
    name = str(node["__class_fullname__"])
    short = name.rpartition(".")[2] if name.startswith("albumentations.") else name
    if short not in classes:
        close = difflib.get_close_matches(short, classes, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        version = import_albumentations().__version__
        raise refusal(recipe, f"albumentations {version} has no transform {name!r}{hint}")
    arguments = {key: value for key, value in node.items() if key != "__class_fullname__"}
    known = [key for key in inspect.signature(classes[short].__init__).parameters if key != "self"]
    for key in arguments:
        if key not in known:
            raise refusal(recipe, f"{short} has no argument {key!r}; it has {', '.join(known)}")
    if "p" in known and "p" not in arguments and short != "Compose":
        raise refusal(recipe, f"{short} has no p, the probability that it is applied; give one")
    if "transforms" in known:
        inner = arguments.get("transforms")
        if not isinstance(inner, list | tuple):
            raise refusal(recipe, f"{short} needs a list of transforms")
        arguments["transforms"] = [_build(item, classes, recipe) for item in inner]
    try:
        return classes[short](**arguments)
    except Exception as error:
        raise refusal(recipe, f"{short}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What is wrong with the arguments; the library wraps the errors of its schemas."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return f"it cannot be made ({type(error).__name__}: {one_line(error)})"
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}={item['input']!r}: {item['msg']}" for item in cause.errors()
    )
