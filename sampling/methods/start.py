"""The start of an inversion: the picture's latents, and what the UNet is given for each branch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia.conditioning import latent_mask, mask_to_unit
from intarsia.conditions.condition import Condition, Part
from intarsia.model import EditModel
from sampling.canvas.canvas import check_mask, fit_exemplar, mask_box
from sampling.couplings.alignment import Alignment, one_after_the_other, same_places, similar_tokens
from sampling.couplings.coupling import CouplingInputs
from sampling.couplings.words import align_prompts
from sampling.denoise.condition import Encoder
from sampling.denoise.machine import visiting
from sampling.methods.inversion import Tokens
from sampling.methods.request import InversionRequest
from sampling.pictures import Picture
from sampling.settings import InversionSettings


@dataclass(frozen=True)
class Start:
    """The inputs of inversion.

    Attributes:
        latents: scaled latents of the picture, float32 [1, C, h, w].
        condition: condition of the source branch.
        tokens: tokens of both branches.
        keep: [1, 1, h, w], 1 = keep; None without a mask.
        given: what couplings are made of.
        features: view of the whole picture for the method "style", float32 [1, m, D]; None for others.
    """

    latents: Tensor
    condition: Condition
    tokens: Tokens
    keep: Tensor | None
    given: CouplingInputs
    features: Tensor | None = None


def encode_start(
    encoder: Encoder,
    request: InversionRequest,
    settings: InversionSettings,
    image: Picture,
    fitted_mask: NDArray[np.uint8],
) -> Start:
    """Encode a picture and what is said of it.

    Args:
        encoder: encoder of the model.
        request: request, checked.
        settings: settings of the inversion.
        image: picture on the model's square, uint8 [S, S, 3].
        fitted_mask: mask of the square, uint8 [S, S], 255 = repaint.

    Raises:
        UserError: for words that are not in their prompt.
    """
    config = encoder.model.config
    square, mask = torch.from_numpy(image)[None], torch.from_numpy(fitted_mask)[None]
    zeros = torch.zeros(1, config.vae.latent_channels, config.latent_size, config.latent_size)
    sources, targets = (request.sentences(text) for text in (request.source_prompt, request.target_prompt))
    first_exemplar, second_exemplar = _exemplars(request)
    exemplars = [first_exemplar] * len(sources) + [second_exemplar] * len(targets)
    texts = [*sources, *targets, request.negative_prompt, request.caption]
    parts = encoder.told([*exemplars, None, None], texts)
    first = torch.zeros(1, dtype=torch.int64, device=encoder.device)
    condition = encoder.condition(square, mask, tuple(part.select(first, told=True) for part in parts), zeros)
    keep = None
    if request.edit_mask is not None:
        keep = 1 - latent_mask(mask_to_unit(mask), tuple(zeros.shape[-2:])).to(encoder.device)
    return Start(
        encoder.latents(square, torch.zeros_like(mask), zeros),
        condition,
        _tokens(parts, condition, request, len(sources)),
        keep,
        CouplingInputs(
            config.num_tokens, keep, _alignment(encoder.model, parts, request, settings, len(sources))
        ),
        _view(encoder, request) if settings.inversion == "style" else None,
    )


def _view(encoder: Encoder, request: InversionRequest) -> Tensor:
    """What the style tower sees of the whole picture, or else the encoder of exemplars, float32 [1, m, D]."""
    whole, tower = torch.from_numpy(fit_exemplar(request.image))[None], encoder.model.style_tower
    if tower is None:
        return encoder.tokens(whole).float()
    with visiting(tower, encoder.device):
        return tower(whole).float()


def _exemplars(request: InversionRequest) -> list[Tensor | None]:
    """Exemplars of source and target, uint8 [224, 224, 3]; None where there is none."""
    if request.exemplar is None:
        return [None, None]
    source = request.source_exemplar
    if source is None:
        assert request.edit_mask is not None, "InversionRequest.check"
        edit_mask = check_mask(request.edit_mask, request.image)
        source = mask_box(edit_mask).cut(request.image)
    return [torch.from_numpy(fit_exemplar(exemplar)) for exemplar in (source, request.exemplar)]


def _tokens(parts: tuple[Part, ...], condition: Condition, request: InversionRequest, sources: int) -> Tokens:
    """The tokens of both branches; the first rows of `parts` are of the source's sentences."""
    *every, negative, caption = torch.cat([part.tokens for part in parts], dim=1)[:, None]
    source, target = (torch.stack(rows).mean(0) for rows in (every[:sources], every[sources:]))
    if request.caption:
        source, target = caption, caption + target - source
    return Tokens(source, target, condition.null, negative if request.negative_prompt else None)


def _alignment(
    model: EditModel,
    parts: tuple[Part, ...],
    request: InversionRequest,
    settings: InversionSettings,
    sources: int,
) -> Alignment:
    """How the tokens of all parts correspond; with a caption both branches have the caption's."""
    found, coupling = [], settings.coupling or ()
    replace = settings.alignment == "replace" and "p2p" in coupling  # the others compare no words
    for part in parts:
        length = part.tokens.shape[1]
        if part.name == "text" and not request.caption:
            assert model.tokenizer is not None
            prompts = request.source_prompt, request.target_prompt
            aligned = align_prompts(
                model.tokenizer, prompts, length, replace, request.words, request.reweight
            )
            found.append(aligned)
        elif part.name == "exemplar" and settings.alignment == "similar":
            found.append(similar_tokens(part.tokens[0], part.tokens[sources]))
        else:
            found.append(same_places(length))
    return one_after_the_other(found)
