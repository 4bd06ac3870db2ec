"""The ways to edit PIE-Bench's pictures: method, coupling and protocol, and lists of them for a whole table.

The protocol "published" does what the paper's code does for each editor, so that its rows differ in more than
method and coupling; "right" treats all rows alike.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from evaluation.pie.piebench import PieCase
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from sampling.settings import InversionMethod, InversionSettings, LearnedMethod, PromptMethod
from sampling.told import PartNames

if TYPE_CHECKING:
    from intarsia.architecture import ModelConfig

Protocol = Literal["published", "right"]
METHODS = (*get_args(InversionMethod), *get_args(PromptMethod), *get_args(LearnedMethod))
NEGATIVE_PROMPT = "ugly, blurry, black, low res, unrealistic"  # Plug-and-Play's, as published
PUBLISHED_SEED = 1234
REWEIGHTED = 2.0  # published factor of the target's blend word
_MASKED = "masactrl-masks"
_WORD = r"\w+(?:['’]\w+)*"
_FROM_ZERO = ("p2p", "masactrl")  # editors whose published code has the timesteps 980 ... 0
_TITLES = {
    "ddim": "DDIM",
    "direct": "Direct Inversion",
    "null-text": "Null-text",
    "negative-prompt": "Negative-prompt",
    "null-condition": "Null condition",
    "negative-condition": "Negative condition",
    "style": "StyleDiffusion",
    "ddpm": "Edit-friendly DDPM",
    "p2p": "P2P",
    "masactrl": "MasaCtrl",
    "masactrl-masks": "MasaCtrl with masks",
    "pnp": "PnP",
    "pix2pix-zero": "P2P-Zero",
}


@dataclass(frozen=True)
class Way:
    """One row of the table: how every picture is edited.

    Attributes:
        name: folder of its results.
        title: name in tables.
        settings: method, couplings and their settings.
        protocol: whether editors are treated as published, or all alike.
        seed: seed of the noise of the method "ddpm".
    """

    name: str
    title: str
    settings: InversionSettings
    protocol: Protocol
    seed: int

    @property
    def couplings(self) -> tuple[str, ...]:
        """Names of the couplings; none for the default."""
        return self.settings.coupling or ()

    @property
    def plain(self) -> dict[str, Any]:
        """Everything that affects all results of the way, as JSON values."""
        return self.settings.plain() | {"protocol": self.protocol, "seed": self.seed}


def make_way(
    method: str,
    coupling: str | None,
    protocol: Protocol,
    options: Mapping[str, Any],
    where: str,
    note: str = "",
) -> Way:
    """A way with its protocol's settings.

    Args:
        method: name of the method.
        coupling: names of couplings with commas between them; None = the default.
        protocol: protocol.
        options: other fields of `InversionSettings`, and the "seed" of the protocol "right".
        where: command, for errors.
        note: addition to name and title that says what an ablation changes.

    Raises:
        UsageError: for an unknown name or a value out of range.
    """
    if method not in METHODS:
        raise UsageError(f"{where}: method {method!r} is not one of {', '.join(METHODS)}")
    given = {"method": method, "coupling": coupling} | dict(options)
    seed = given.pop("seed", 0)
    names = (coupling or "").split(",")
    if protocol == "published":
        seed = PUBLISHED_SEED
        if method != "ddpm" and any(name in _FROM_ZERO for name in names):
            given["steps_offset"] = 0
        if method == "direct" and "pix2pix-zero" in names:
            given["offset_to"] = "both"
    if method != "ddpm" and "pix2pix-zero" in names:
        given["regularise"] = True  # part of that editor
    settings = build_config(InversionSettings, given, where)
    words = [_TITLES.get(method, method), *(_TITLES.get(name, name) for name in names if name)]
    name = "+".join([method, *filter(None, names), *([re.sub(r"[^\w.]+", "-", note)] if note else [])])
    return Way(name, " + ".join(words) + (f", {note}" if note else ""), settings, protocol, seed)


def cross(
    methods: Sequence[str],
    couplings: Sequence[str | None],
    protocol: Protocol,
    options: Mapping[str, Any],
    where: str,
) -> list[Way]:
    """Every method with every coupling; the arguments are those of `make_way`."""
    return [
        make_way(method, coupling, protocol, options, where) for coupling in couplings for method in methods
    ]


def all_ways(
    parts: PartNames, protocol: Protocol, options: Mapping[str, Any], where: str, tower: bool = False
) -> list[Way]:
    """The rows of the whole table: those that are published, then the paper's ablations.

    Args:
        parts: what the model takes. A model with prompts has the published rows; one with exemplars only
            has every method with the couplings that one token allows.
        protocol: protocol of all rows.
        options: as for `make_way`.
        where: command, for errors.
        tower: whether there is a style tower, without which the row of StyleDiffusion is left out.
    """
    if "text" not in parts:
        couplings = ["background", "context,background", "masactrl,background", "pnp,background"]
        methods = ["ddim", "null-condition", "negative-condition", "ddpm", "direct"]
        ways = cross(methods, couplings, protocol, options, where)
        return ways + _ablations("background", "null-condition", protocol, options, where)
    prompts = ["ddim", "null-text", "negative-prompt", *(["style"] if tower else []), "direct"]
    ways = cross(prompts, ["p2p"], protocol, options, where)
    ways += cross(["ddim", "direct"], ["masactrl", "pix2pix-zero", "pnp"], protocol, options, where)
    ways += cross(["ddpm"], ["p2p"], protocol, options, where)
    return ways + _ablations("p2p", "null-text", protocol, options, where)


def _ablations(
    coupling: str, optimised: str, protocol: Protocol, options: Mapping[str, Any], where: str
) -> list[Way]:
    changes: list[tuple[str, str, dict[str, Any]]] = [
        *(("direct", f"scale {scale:g}", {"offset_scale": scale}) for scale in (0.0, 0.4, 0.8)),
        *(("direct", f"every {k} steps", {"offset_every": k}) for k in (2, 5, 10)),
        ("direct", "source's offset to the target too", {"offset_to": "both"}),
        ("direct", "target's own offset", {"offset_to": "own"}),
        (optimised, "source branch only", {"null_to": "source"}),
    ]
    return [
        make_way(method, coupling, protocol, dict(options) | changed, where, note)
        for method, note, changed in changes
    ]


def words_for(case: PieCase, way: Way, parts: PartNames) -> tuple[dict[str, Any], list[str]]:
    """What the model reads of a case: fields of `InversionRequest`, and remarks.

    Args:
        case: record of the bench.
        way: way to edit it.
        parts: what the model takes; nothing for one without prompts.
    """
    if "text" not in parts:
        return {}, []
    published, names = way.protocol == "published", way.couplings
    found: dict[str, Any] = {"source_prompt": case.source_prompt, "target_prompt": case.target_prompt}
    if published and "masactrl" in names:
        found["source_prompt"] = ""
    if published and "pnp" in names:
        found["negative_prompt"] = NEGATIVE_PROMPT
    if "pix2pix-zero" in names:  # the published code has another network's caption of the picture
        found["caption"] = case.source_prompt
        if published:
            found["negative_prompt"] = case.source_prompt
    blended = "p2p" in names and not (published and way.settings.method in ("ddpm", "style"))
    if not case.blend_words or not (blended or _MASKED in names):
        return found, []
    missing = missing_word(case)
    if missing:
        return found, [f"the blend word {missing[0]!r} is not in {missing[1]!r}: the local blend is off"]
    found["words"] = (case.blend_words,)
    return (found | {"reweight": ((case.blend_words[1], REWEIGHTED),)} if blended else found), []


def missing_word(case: PieCase) -> tuple[str, str] | None:
    """A blend word of a record and the prompt in which it is not; None if there is none."""
    prompts = case.source_prompt, case.target_prompt
    pairs = zip(case.blend_words or (), prompts, strict=False)
    return next(((word, prompt) for word, prompt in pairs if not _contains(prompt, word)), None)


def check_ways(
    ways: Iterable[Way],
    cases: Sequence[PieCase],
    config: "ModelConfig",
    compiled: bool,
    tower: bool = False,
) -> None:
    """Refuse what would fail for every record, or for many, before the first edit.

    Args:
        ways: ways of the run.
        cases: its records.
        config: model; one that sees the picture around a mask gets the bench's masks.
        compiled: whether its UNet is compiled.
        tower: whether there is a style tower.

    Raises:
        UsageError: with what to change.
    """
    from sampling.couplings.coupling import check_couplings
    from sampling.methods.request import check_method, first_changing

    masked = config.extra_channels > 0
    for way in ways:
        try:
            check_method(way.settings, config.parts, tower)
            check_couplings(way.couplings, config.num_tokens, masked)
        except UserError as error:
            raise UsageError(str(error)) from None
        changing = first_changing(way.settings)
        if compiled and changing:
            raise UsageError(
                f"a compiled UNet cannot be coupled, and {way.title} couples it by {changing}; leave "
                "--compile out"
            )
        without = [case for case in cases if not case.blend_words or missing_word(case)]
        if _MASKED in way.couplings and not masked and without:
            raise UsageError(
                f"the coupling {_MASKED} needs to know where the object is, and {len(without):,} of "
                f"{len(cases):,} records have no blend words in their prompts, such as {without[0].key}; use "
                "masactrl, or give those that have some by --key"
            )


def _contains(prompt: str, word: str) -> bool:
    """Whether a prompt has a word; case and punctuation are ignored."""
    whole, part = (f" {' '.join(re.findall(_WORD, text.casefold()))} " for text in (prompt, word))
    return bool(part.strip()) and part in whole
