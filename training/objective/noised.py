"""The task `noised-clip`: find the exemplar that belongs to noisy latents among those of other samples.

Samples are compared in groups of consecutive positions, so that the loss of a sample does not depend on the
micro-batch, the number of ranks or the accumulation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.model import EditModel
from training.objective.edit import made_up, prepare
from training.objective.task import Step, Task


class NoisedTrainee(nn.Module):
    """The noised encoder as the trained part."""

    def __init__(self, model: EditModel) -> None:
        super().__init__()
        assert model.noised is not None and model.config.noised is not None, "the model has a noised encoder"
        self.noised = model.noised
        self.group = model.config.noised.group

    def forward(self, step: Step) -> Tensor:
        """Scaled cosines of all latents of a group (rows) with all its exemplars, float32 [B / G, G, G]."""
        assert step.features is not None, "the model is told an exemplar"
        seen = self.noised.see(step.noisy_latents, step.timesteps, step.channels)
        known = self.noised.know(step.features)
        seen, known = (rows.float().unflatten(0, (-1, self.group)) for rows in (seen, known))
        return self.noised.scale * seen @ known.transpose(1, 2)


def contrast_errors(logits: Tensor) -> Tensor:
    """The contrastive loss of each sample, float32 [B]: the mean of both directions (CLIP, figure 3).

    The direction from exemplar to latents is what makes the scaled cosine that of Bayes; the other leaves any
    function of the latents free.

    Args:
        logits: result of `NoisedTrainee`, [B / G, G, G].
    """
    right = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:2])
    ways = (logits.flatten(0, 1), logits.transpose(1, 2).flatten(0, 1))
    return sum(F.cross_entropy(way, right.flatten(), reduction="none") for way in ways) / 2


def sick_groups(logits: Tensor, step: Step | None = None) -> Tensor:
    """The samples of groups with a cosine that is not finite, bool [B]."""
    sick = ~torch.isfinite(logits.detach()).flatten(1).all(dim=1)
    return sick.repeat_interleave(logits.shape[-1])


TASK = Task(
    trainee=NoisedTrainee,
    prepare=prepare,
    loss=lambda logits, step: contrast_errors(logits).mean(),
    errors=lambda logits, step: contrast_errors(logits.detach()),
    sick=sick_groups,
    made_up=made_up,
)
