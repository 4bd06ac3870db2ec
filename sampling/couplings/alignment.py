"""Which tokens of the source's context correspond to which of the target's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """How the target's tokens correspond to the source's.

    Attributes:
        transfer: [n, n]; column j has the weights of the source's tokens in the map of the target's token j.
        keep: [n], share of the target's own map in each of its tokens.
        blend: [2, n], weights of the source's and the target's tokens in the map of what may change; None for
            no local blend.
    """

    transfer: Tensor
    keep: Tensor
    blend: Tensor | None = None


def same_places(num_tokens: int) -> Alignment:
    """Token j of the target takes the map of token j of the source: two exemplars in one pose."""
    return Alignment(torch.eye(num_tokens), torch.zeros(num_tokens))


def similar_tokens(source: Tensor, target: Tensor, sharpness: float = 20.0) -> Alignment:
    """Token j of the target takes the maps of the source's tokens that are like it: exemplars in any pose.

    The weights of a target's token are a softmax of its cosines with all tokens of the source.

    Args:
        source: tokens of the source's exemplar, [n, D].
        target: tokens of the target's exemplar, [n, D].
        sharpness: factor of the cosines; the larger, the nearer to the most similar token alone.
    """
    cosine = F.normalize(source.double(), dim=-1) @ F.normalize(target.double(), dim=-1).T
    return Alignment((sharpness * cosine).softmax(0).float(), torch.zeros(len(target)))


def one_after_the_other(alignments: Sequence[Alignment]) -> Alignment:
    """The alignment of a context that consists of several parts, each aligned by itself."""
    blend = None
    if any(one.blend is not None for one in alignments):
        parts = [one.blend if one.blend is not None else torch.zeros(2, len(one.keep)) for one in alignments]
        blend = torch.cat(parts, dim=1)
    transfer = torch.block_diag(*(one.transfer for one in alignments))
    return Alignment(transfer, torch.cat([one.keep for one in alignments]), blend)
