"""Paint by Example's quality score: likelihood of a picture's CLIP features under a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.metrics.clip_score import clip_b32
from evaluation.metrics.metric import Loading, Metric, Number
from evaluation.scoring.distributions import quality_scores, read_mixture
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Request


def _load(loading: Loading) -> Sequence[Number]:
    from evaluation.measures.weights import UNLISTED, find_weights, is_published
    from intarsia.files import sha256_file

    path = find_weights("mixture", loading.given)
    mixture = read_mixture(path)
    fingerprint = ("" if is_published("mixture", path) else UNLISTED) + sha256_file(path)[:12]
    whole = clip_b32(loading).whole
    recipe = f"quality-gmm{len(mixture.weights)}@{fingerprint}/{whole.identity}"
    return [
        Number(
            ReportColumn("quality_score", "quality score", "up", recipe),
            lambda case: {"result": Request((case.files["result"],), whole)},
            lambda case, values: float(quality_scores(values["result"][None], mixture)[0]),
        )
    ]


QUALITY_SCORE = Metric(
    help="Paint by Example's quality score",
    load=_load,
    weights=lambda options: ["clip-b32", "mixture"],
    without="quality",
)
