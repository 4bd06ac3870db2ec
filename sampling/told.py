"""What an edit tells the model: an exemplar, a prompt or both; what is missing or too much is refused."""

from collections.abc import Collection

from intarsia.errors import UserError
from sampling.settings import EditSettings

PartNames = tuple[str, ...]  # `ModelConfig.parts`: exemplar, text; none: the painter only erases
EXEMPLAR_ONLY: PartNames = ("exemplar",)
_SCALES = {"exemplar": "guidance_scale", "text": "text_guidance_scale"}


def check_text(*texts: str) -> None:
    """Refuse texts that are not UTF-8, as a command line or a file in another encoding gives them.

    Raises:
        UserError: with what to check.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text {ascii(text)[:60]} is not UTF-8 at character {error.start + 1}; check its encoding"
            ) from None


def check_told(parts: PartNames, has_exemplar: bool, prompt: str) -> None:
    """Refuse an edit that does not tell the model what it is told, or more.

    Args:
        parts: what the model is told.
        has_exemplar: whether the edit has an exemplar.
        prompt: its prompt; empty if there is none.

    Raises:
        UserError: with what to add or remove.
    """
    check_text(prompt)
    if not parts:
        return  # a note says what has no effect
    if has_exemplar and "exemplar" not in parts:
        raise UserError("this model is told a prompt only, and an exemplar is given; remove the exemplar")
    if prompt and "text" not in parts:
        raise UserError("this model is told an exemplar only, and a prompt is given; remove the prompt")
    if has_exemplar or prompt:
        return
    if "text" not in parts:
        raise UserError("the exemplar is missing: a picture of the object to paint")
    if "exemplar" not in parts:
        raise UserError("the prompt is missing: a text that says what to paint")
    raise UserError("exemplar and prompt are missing; give one of them, or both")


def check_outline(files: Collection[str]) -> None:
    """Refuse an exemplar mask without an exemplar.

    Args:
        files: names of the files that an edit has (`jobs.FILES`).

    Raises:
        UserError: with what to do.
    """
    if "exemplar_mask" in files and "exemplar" not in files:
        raise UserError("an exemplar mask is given without an exemplar; give the exemplar, too, or remove it")


def check_scales(parts: PartNames, given: Collection[str]) -> None:
    """Refuse the guidance scale of a part that the model is not told.

    Args:
        parts: what the model is told.
        given: names of settings that were given.

    Raises:
        UserError: with the scale that this model has.
    """
    for part, name in _SCALES.items():
        if parts and name in given and part not in parts:
            own = " or ".join(_SCALES[other] for other in parts)
            what = "the exemplar" if part == "exemplar" else "a prompt"
            raise UserError(f"{name} is for {what}, which this model is not told; use {own} instead")


def not_default(settings: EditSettings) -> list[str]:
    """The guidance scales of settings that are not the default ones."""
    default = EditSettings()
    return [name for name in _SCALES.values() if getattr(settings, name) != getattr(default, name)]


def scales_of(parts: PartNames, settings: EditSettings, has_exemplar: bool, prompt: str) -> tuple[float, ...]:
    """The guidance scale of each part for one edit.

    A part that is not told cancels out with the scale of the other, which saves a branch.

    Args:
        parts: what the model is told.
        settings: settings of the edit.
        has_exemplar: whether the edit has an exemplar.
        prompt: its prompt; empty if there is none.
    """
    told = {"exemplar": has_exemplar, "text": bool(prompt)}
    scales = {part: getattr(settings, _SCALES[part]) for part in parts}
    known = [scales[part] for part in parts if told[part]]
    return tuple(scales[part] if told[part] else known[0] for part in parts)
