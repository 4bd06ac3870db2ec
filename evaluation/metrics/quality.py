"""Paint by Example's quality score: likelihood of a picture's CLIP features under a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.measures.measures import Value
from evaluation.metrics.clip_score import clip_b32
from evaluation.metrics.metric import EditCase, Loading, Metric, Number, Values
from evaluation.scoring.distributions import quality_scores, read_mixture
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Request
from intarsia.errors import UserError


def _load(loading: Loading) -> Sequence[Number]:
    from evaluation.measures.weights import UNLISTED, find_weights, is_published
    from intarsia.files import sha256_bytes

    path, store = find_weights("mixture", loading.given), loading.store
    mixture, clip = read_mixture(path), clip_b32(loading)
    if mixture.means.shape[1] != clip.width:
        raise UserError(
            f"{path} is a mixture of {mixture.means.shape[1]} dimensions, and CLIP's features have "
            f"{clip.width}; give the mixture of this CLIP, or --without quality leaves it out"
        )
    whole, whole_hash = clip.whole, mixture.digest
    fingerprint = ("" if is_published("mixture", path) else UNLISTED) + whole_hash[:12]

    def value(case: EditCase, values: Values) -> float:
        """Kept, since each of the mixture's 20 matrices is multiplied for each picture."""
        features = values["result"]

        def compute() -> Value:
            return np.asarray(quality_scores(features[None], mixture)[0])

        if store is None:
            return float(compute())
        digest = sha256_bytes(f"{whole_hash} {features.dtype}".encode() + features.tobytes())
        return float(store.computed(f"quality|v1|{digest[:40]}", compute))

    recipe = f"quality-gmm{len(mixture.weights)}@{fingerprint}/{whole.identity}"
    return [
        Number(
            ReportColumn("quality_score", "quality score", "up", recipe),
            lambda case: {"result": Request((case.files["result"],), whole)},
            value,
        )
    ]


QUALITY_SCORE = Metric(
    help="Paint by Example's quality score",
    load=_load,
    weights=lambda options: ["clip-b32", "mixture"],
    without="quality",
)
