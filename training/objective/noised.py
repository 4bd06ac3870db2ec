"""The task `noised-clip`: which exemplar, or prompt, among those of other samples belongs to noisy latents.

Samples are compared in groups of consecutive positions, so that the loss of a sample does not depend on the
micro-batch, the number of ranks or the accumulation.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.model import EditModel
from training.config import TrainConfig
from training.data.batches import Batch
from training.objective import edit
from training.objective.task import MakeTensor, Step, Task


class NoisedTrainee(nn.Module):
    """The noised encoder as the trained part."""

    def __init__(self, model: EditModel) -> None:
        super().__init__()
        assert model.noised is not None and model.config.noised is not None, "the model has a noised encoder"
        self.noised = model.noised
        self.group = model.config.noised.group

    def forward(self, step: Step) -> Tensor:
        """Scaled cosines of all latents of a group (rows) with all that it is compared with.

        Returns:
            float32 [P, B / G, G, G]: P = 1 for exemplars or prompts, 2 for both in this order.
        """
        seen = self.noised.see(step.noisy_latents, step.timesteps, step.channels)
        seen = seen.float().unflatten(0, (-1, self.group))
        ways = []
        for part in self.noised.parts:
            features = step.features if part == "exemplar" else step.pooled_text
            assert features is not None, f"the model is told no {part}"
            known = self.noised.know(features, part).float().unflatten(0, (-1, self.group))
            ways.append(self.noised.scale(part) * seen @ known.transpose(1, 2))
        return torch.stack(ways)


@torch.no_grad()
def prepare_contrast(model: EditModel, noise_scheduler: Any, batch: Batch, *more: Any) -> Step:
    """The step of `edit.prepare`, with the prompts' vectors where they are compared."""
    step = edit.prepare(model, noise_scheduler, batch, *more)
    if "text" not in model.config.noised_parts:
        return step
    assert step.text is not None, "the model is told text"
    return replace(step, pooled_text=model.pool_text(batch.texts, step.text))


def made_up_contrast(config: TrainConfig, make: MakeTensor) -> Step:
    """The step of `edit.made_up`, with vectors of prompts where they are compared."""
    step = edit.made_up(config, make)
    if "text" not in config.model.noised_parts:
        return step
    return replace(step, pooled_text=make(config.micro_batch_size, config.model.text_encoder.hidden_size))


def contrast_errors(logits: Tensor) -> Tensor:
    """The contrastive loss of each sample, float32 [B]: the mean of both directions (CLIP, figure 3).

    The direction from exemplar to latents is what makes the scaled cosine that of Bayes; the other leaves any
    function of the latents free. Where latents are compared with exemplars and prompts, it is the mean of
    both comparisons.

    Args:
        logits: result of `NoisedTrainee`, [P, B / G, G, G].
    """
    right = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[1:3]).flatten()
    return sum(_contrast(one, right) for one in logits) / len(logits)


def _contrast(logits: Tensor, right: Tensor) -> Tensor:
    ways = (logits.flatten(0, 1), logits.transpose(1, 2).flatten(0, 1))
    return sum(F.cross_entropy(way, right, reduction="none") for way in ways) / 2


def sick_groups(logits: Tensor, step: Step | None = None) -> Tensor:
    """The samples of groups with a cosine that is not finite, bool [B]."""
    sick = ~torch.isfinite(logits.detach()).flatten(2).all(dim=2).all(dim=0)
    return sick.repeat_interleave(logits.shape[-1])


TASK = Task(
    trainee=NoisedTrainee,
    prepare=prepare_contrast,
    loss=lambda logits, step: contrast_errors(logits).mean(),
    errors=lambda logits, step: contrast_errors(logits.detach()),
    sick=sick_groups,
    made_up=made_up_contrast,
)
