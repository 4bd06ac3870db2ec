"""Which views of an object may be pairs: another picture, far enough in time, and not nearly the same."""

from collections.abc import Sequence

import numpy as np

from dataprep.records import REASONS, Annotations, RejectReason, View


def judge_partners(notes: Annotations, min_gap: int, verdict: np.ndarray) -> None:
    """Drop views without any possible partner, as far as annotations show it; writes into `verdict`.

    Args:
        notes: annotations with views.
        min_gap: smallest distance of two frames of a pair.
        verdict: int16 [N] as `judge_boxes`.
    """
    views = notes.views
    if views is None:
        raise ValueError("annotations without views have no partners")
    rows = np.flatnonzero(verdict < 0)
    track, picture = views.track[rows], notes.picture[rows]
    order = np.lexsort((rows, track, picture))
    edges: np.ndarray = np.flatnonzero(np.diff(track[order]) | np.diff(picture[order])) + 1
    for group in np.split(rows[order], edges) if len(rows) else ():
        of_group = [
            View(
                views.files[views.file[row]],
                int(views.frame[row]),
                int(views.track[row]),
                bool(views.is_target[row]),
                bool(views.is_exemplar[row]),
            )
            for row in group.tolist()
        ]
        alone = np.array([not part for part in taking_part(possible_partners(of_group, min_gap))], bool)
        verdict[group[alone]] = REASONS.index(RejectReason.NO_PARTNER)


def possible_partners(views: Sequence[View], min_gap: int) -> list[list[int]]:
    """For each view the places of those that may show the exemplar when it is repainted."""
    return [
        [place for place, other in enumerate(views) if other is not view and view.pairs_with(other, min_gap)]
        for view in views
    ]


def taking_part(partners: Sequence[Sequence[int]]) -> list[bool]:
    """For each view whether it is in any pair, as target or exemplar."""
    wanted = {place for places in partners for place in places}
    return [bool(places) or place in wanted for place, places in enumerate(partners)]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two object masks, bool [H, W]; 0 for masks of two sizes."""
    if one.shape != other.shape:
        return 0.0
    shared = np.count_nonzero(one & other)
    union = np.count_nonzero(one) + np.count_nonzero(other) - shared
    return shared / union if union else 0.0
