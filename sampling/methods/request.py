"""What an inversion is asked: a picture, and what the model is told of it and of the edit."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import UserError
from sampling.pictures import Picture
from sampling.settings import PROMPT_METHODS, InversionSettings
from sampling.told import PartNames, check_text

Words = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class InversionRequest:
    """One picture to invert and edit.

    Attributes:
        image: picture, uint8 [H, W, 3] RGB, any size.
        edit_mask: area to repaint, bool or float [H, W], 1 = repaint; None if everything may change.
        exemplar: picture of the object to paint, uint8 [h, w, 3] RGB, any size.
        source_exemplar: picture of the object that is there now; None = the content of the mask's box.
        source_prompt: text that describes the picture; empty = no description.
        target_prompt: text that describes the edit.
        words: pairs (word of the source prompt, word of the target prompt): Prompt-to-Prompt changes the
            picture only where these words are; empty = everywhere.
        reweight: pairs (word of the target prompt, factor of its attention).
        negative_prompt: text in place of the empty prompt for the edit, not for the source.
        caption: text that both branches have instead of `source_prompt`; the edit's tokens are the caption's
            plus those of `target_prompt` minus those of `source_prompt` (pix2pix-zero's direction), each of
            which may be several sentences with | between them, whose tokens are averaged.
        seed: seed of the noise of the method "ddpm".
    """

    image: Picture
    edit_mask: NDArray[np.bool_] | NDArray[np.floating] | None = None
    exemplar: Picture | None = None
    source_exemplar: Picture | None = None
    source_prompt: str = ""
    target_prompt: str = ""
    words: Words = ()
    reweight: tuple[tuple[str, float], ...] = ()
    negative_prompt: str = ""
    caption: str = ""
    seed: int = 0

    def check(self, parts: PartNames) -> None:
        """Refuse a request that does not say what the model is told, or says more.

        Args:
            parts: what the model is told: exemplar, text or both.

        Raises:
            UserError: with what to add or remove.
        """
        pictures = {
            "exemplar": self.exemplar is not None,
            "source exemplar": self.source_exemplar is not None,
            "mask": self.edit_mask is not None,
        }
        check_inversion(parts, pictures, self.texts())

    def prompts(self) -> dict[str, str]:
        """The prompts that the model reads, by name; of several sentences the longest."""
        return {
            "source prompt": max(self.sentences(self.source_prompt), key=len),
            "target prompt": max(self.sentences(self.target_prompt), key=len),
            "negative prompt": self.negative_prompt,
            "caption": self.caption,
        }

    def sentences(self, prompt: str) -> list[str]:
        """The sentences of the source's or the target's prompt; only a caption lets it have several."""
        found = [part.strip() for part in prompt.split("|")] if self.caption else []
        return [part for part in found if part] or [prompt]

    def texts(self) -> dict[str, str]:
        """The texts by name, as `check_inversion` takes them."""
        return _named(vars(self))


def plain_pairs(pairs: Sequence[tuple[str, Any]]) -> str:
    """Pairs as the command's options have them: `cat=dog,sofa=bed`."""
    return ",".join(f"{first}={second}" for first, second in pairs)


def _named(texts: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a request by the names that errors use."""
    return {
        "source prompt": texts["source_prompt"],
        "target prompt": texts["target_prompt"],
        "words": plain_pairs(texts["words"]),
        "reweighted words": plain_pairs(texts["reweight"]),
        "negative prompt": texts["negative_prompt"],
        "caption": texts["caption"],
    }


def check_asked(
    settings: Sequence[InversionSettings],
    files: Collection[str],
    texts: Mapping[str, Any],
    parts: PartNames,
    tower: bool = False,
) -> None:
    """Refuse what does not fit together, before a picture is read or a model is loaded.

    Args:
        settings: settings of each method.
        files: names of the files that are given.
        texts: prompts and words: fields of `InversionRequest`.
        parts: what the model is told.
        tower: whether a style tower is named.

    Raises:
        UserError: with what to add or remove.
    """
    check_text(*_named(texts).values())
    pictures = {name.replace("_", " "): name in files for name in ("exemplar", "source_exemplar", "mask")}
    check_inversion(parts, pictures, _named(texts))
    for own in settings:
        check_method(own, parts, tower)
        if "background" in (own.coupling or ()) and not pictures["mask"]:
            raise UserError("the coupling background keeps what is outside the mask; give a mask")
        check_words(own, texts["words"], texts["reweight"], texts["caption"], pictures["mask"])


def check_inversion(parts: PartNames, pictures: dict[str, bool], texts: dict[str, str]) -> None:
    """Refuse what a model is not told, and what is missing; the arguments need no picture to be read.

    Args:
        parts: what the model is told: exemplar, text or both.
        pictures: whether there is an "exemplar", a "source exemplar" and a "mask".
        texts: texts by name, empty if not given.

    Raises:
        UserError: with what to add or remove.
    """
    given = {name: text for name, text in texts.items() if text}
    if "text" not in parts and given:
        name = next(iter(given))
        raise UserError(
            f"this model takes an exemplar only, and {_article(name)} ({given[name]}) is given; remove it"
        )
    if "exemplar" not in parts:
        for name in ("exemplar", "source exemplar"):
            if pictures[name]:
                raise UserError(f"this model takes prompts only, and {_article(name)} is given; remove it")
    if "text" in parts and texts["caption"] and not texts["source prompt"]:
        raise UserError(
            "a caption needs a source prompt, too: the edit goes from the source prompt to the target prompt"
        )
    if pictures["source exemplar"] and not pictures["exemplar"]:
        raise UserError(
            "a source exemplar is given but no exemplar, a picture of the object to paint; add it"
        )
    if pictures["exemplar"]:
        if not pictures["source exemplar"] and not pictures["mask"]:
            raise UserError(
                "the mask is missing: without it nothing says what the picture's own object is; give a mask, "
                "or a source exemplar"
            )
        return
    if "text" not in parts:
        raise UserError("the exemplar is missing: a picture of the object to paint")
    if texts["target prompt"]:
        return
    if "exemplar" in parts:
        raise UserError("exemplar and target prompt are missing; give one of them, or both")
    raise UserError("the target prompt is missing: a text that describes the edit, such as 'a dog'")


def check_method(settings: InversionSettings, parts: PartNames, tower: bool = False) -> None:
    """Refuse what only a model with prompts, or one with an encoder of exemplars, can do.

    Args:
        settings: settings with the method.
        parts: what the model is told.
        tower: whether it has a style tower.

    Raises:
        UserError: with what to use instead.
    """
    if "text" not in parts and settings.method in PROMPT_METHODS:
        raise UserError(
            f"the method {settings.method} is for models with prompts; this model takes an exemplar: use "
            f"{settings.inversion}"
        )
    if settings.inversion == "style" and "exemplar" not in parts and not tower:
        raise UserError(
            "the method style looks at the picture through the encoder of exemplars, and this model has "
            "none; give a folder of CLIP's vision tower, --style-tower, or use null-text"
        )
    for_text, for_exemplars = ("refine", "replace"), ("same", "similar")
    if settings.alignment in for_text and "text" not in parts:
        raise UserError(
            f"alignment={settings.alignment} compares words, and this model takes an exemplar; use same or "
            "similar"
        )
    if settings.alignment in for_exemplars and "exemplar" not in parts:
        raise UserError(
            f"alignment={settings.alignment} compares exemplars, and this model takes prompts; use refine or "
            "replace"
        )


def first_changing(settings: InversionSettings) -> str:
    """What first changes the UNet's layers, which a compiled UNet does not allow; empty if nothing does."""
    names = ["style"] if settings.inversion == "style" else []
    names += [name for name in settings.coupling or () if name != "background"]
    return names[0] if names else ""


def without_effect(settings: Sequence[InversionSettings]) -> list[str]:
    """The settings that are not the default ones and change nothing, a sentence for each.

    Args:
        settings: settings of each method; what one of them heeds is not named.
    """
    learning = ("null-condition", "style")
    heeded = {
        "offset_scale": ("the method direct", lambda own: own.inversion == "direct"),
        "inner_steps": ("null-condition, null-text and style", lambda own: own.inversion in learning),
        "alignment": ("the coupling p2p", lambda own: "p2p" in (own.coupling or ())),
    }
    found = []
    for name, (what, heeds) in heeded.items():
        default = InversionSettings.model_fields[name].default
        changed = [own for own in settings if getattr(own, name) != default]
        if changed and not any(map(heeds, changed)):
            found.append(f"{name}={getattr(changed[0], name)} is for {what}, and changes nothing here")
    return found


def check_words(
    settings: InversionSettings,
    words: Words = (),
    reweight: tuple[tuple[str, float], ...] = (),
    caption: str = "",
    masked: bool = False,
) -> None:
    """Refuse words that would have no effect or no finite factor, and couplings that lack words.

    Args:
        settings: settings with the couplings.
        words, reweight, caption: those of `InversionRequest`.
        masked: whether there is a mask.

    Raises:
        UserError: with what to add or remove.
    """
    endless = next((pair for pair in reweight if not math.isfinite(pair[1])), None)
    if endless:
        raise UserError(f"the factor of {endless[0]!r} is {endless[1]}; give a finite number, such as 2")
    couplings = settings.coupling or ()
    if (reweight and "p2p" not in couplings) or (words and not {"p2p", "masactrl-masks"} & set(couplings)):
        raise UserError(
            "words and reweight act on attention to words; add the coupling p2p, or leave them out"
        )
    if "masactrl-masks" in couplings and not words and not masked:
        raise UserError(
            "the coupling masactrl-masks needs to know where the object is; give words of both prompts, such "
            "as cat=dog, or a mask"
        )
    if (words or reweight) and caption:
        raise UserError(
            "words and reweight compare source and target prompt, and with a caption both branches have the "
            "caption; leave one of them out"
        )


def _article(name: str) -> str:
    return name if name in ("words", "reweighted words") else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
