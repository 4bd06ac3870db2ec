"""How well a model restores a picture: each sample's hole, repainted with its own exemplar.

This is the training task, done by the sampler. It shows that a model has learned, not that its edits are
good: an edit has many right answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures.metrics import mse
from intarsia.sample import Sample
from sampling.canvas.edits import EditRequest, EditResult
from sampling.painters.painter import Paint
from sampling.settings import EditSettings


@dataclass(frozen=True)
class Reconstruction:
    """The repainted samples and how far each is from the truth.

    Attributes:
        results: one edit per sample, composited: the picture's own pixels outside the mask.
        errors: mean squared error inside the mask, pixel values in [0, 1], one per sample.
    """

    results: list[EditResult]
    errors: list[float]

    @property
    def error(self) -> float:
        """The mean of `errors`."""
        return float(np.mean(self.errors))


def reconstruct(
    paint: Paint, samples: Sequence[Sample], settings: EditSettings, seed: int = 0
) -> Reconstruction:
    """Repaint every sample's hole with its own exemplar and compare with the picture.

    Sample i is painted from the noise of seed `seed` + i, so two models see the same noise. The edits are
    told the exemplar only: structure maps are blank, and a model that takes a prompt gets none.

    Raises:
        UserError: for a model that is told a prompt only.
    """
    requests = [
        EditRequest(sample.image, sample.edit_mask >= 128, sample.exemplar, seed + number)
        for number, sample in enumerate(samples)
    ]
    results = paint(requests, settings)
    errors = [mse(result.image, result.request.image, result.request.edit_mask) for result in results]
    return Reconstruction(results, errors)
