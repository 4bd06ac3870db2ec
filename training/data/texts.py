"""The prompt of a sample: the label of its box, or a sentence about its picture."""

import numpy as np

from intarsia.errors import UserError
from intarsia.rng import derive_seed
from intarsia.sample import SampleMeta


def prompt_of(meta: SampleMeta, kind: str | None, seed: int, position: int) -> str | None:
    """`text_of`; None for a model that is not told text."""
    return None if kind is None else text_of(meta, kind, seed, position)


def text_of(meta: SampleMeta, kind: str, seed: int, position: int) -> str:
    """The prompt of a sample at a position of the global order.

    The label says what is in the hole. A sentence about the whole picture often does not, so that a model
    that is trained with sentences and random holes learns to ignore the prompt (Xie et al. 2023,
    "SmartBrush", section 1).

    Args:
        meta: record of the sample.
        kind: `DataConfig.text`. label; caption: one of the record's sentences, by a draw; either: label or
            sentence, each in half of the draws, and the label if there is no sentence.
        seed: seed of the run.
        position: position; the draw depends on it and on the seed only.

    Raises:
        UserError: for a caption of a sample without one.
    """
    if kind == "label" or (kind == "either" and not meta.captions):
        return meta.label
    if not meta.captions:
        raise UserError(
            f"data.text=caption, but sample {meta.key} has no caption; build the shards with captions, or "
            "set data.text=either or data.text=label"
        )
    rng = np.random.default_rng(derive_seed(seed, "text", position))
    if kind == "either" and rng.random() < 0.5:
        return meta.label
    return meta.captions[int(rng.integers(len(meta.captions)))]
