"""The interface of metrics: a number that benches report, or a few that belong together.

A metric is a row of METRICS. It says what it needs (files of a case, weights), asks for values of pictures by
name, and makes its columns of the answers; decoding, batches, the store, intervals, tables and `compare` are
the same for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from evaluation.measures.metrics import Mask
from evaluation.scoring.report import ReportColumn, SetFigure
from evaluation.scoring.scoring import Case

if TYPE_CHECKING:
    from evaluation.measures.measures import Value
    from evaluation.scoring.scorer import Score
    from evaluation.scoring.store import ValueStore

T = TypeVar("T")

# Metrics by name: the module and the name in it. `Bench.metrics` names those that a bench reports, in order.
METRICS = {
    "clip-frechet": "evaluation.metrics.frechet:CLIP_FRECHET",
    "fid": "evaluation.metrics.frechet:FID",
    "clip-score-published": "evaluation.metrics.clip_score:CLIP_SCORE_PUBLISHED",
    "clip-score": "evaluation.metrics.clip_score:CLIP_SCORE",
    "clip-i-b32": "evaluation.metrics.identity:CLIP_I_B32",
    "clip-i-l14": "evaluation.metrics.identity:CLIP_I_L14",
    "dino-s16": "evaluation.metrics.identity:DINO_S16",
    "dinov2-b14": "evaluation.metrics.identity:DINOV2_B14",
    "dinov2-l14": "evaluation.metrics.identity:DINOV2_L14",
    "dreamsim": "evaluation.metrics.identity:DREAMSIM",
    "board-clip": "evaluation.metrics.board:BOARD_CLIP",
    "board-dino": "evaluation.metrics.board:BOARD_DINO",
    "board-fid": "evaluation.metrics.board:BOARD_FID",
    "fid-clean": "evaluation.metrics.frechet:FID_CLEAN",
    "crop-fid": "evaluation.metrics.frechet:CROP_FID",
    "quality": "evaluation.metrics.quality:QUALITY_SCORE",
    "background": "evaluation.metrics.pixels:BACKGROUND_ERRORS",
    "edited": "evaluation.metrics.pixels:EDITED_ERRORS",
    "edited-lpips": "evaluation.metrics.perceptual:EDITED_LPIPS",
    "whole": "evaluation.metrics.pixels:WHOLE_ERRORS",
    "whole-lpips": "evaluation.metrics.perceptual:WHOLE_LPIPS",
    "pie-structure": "evaluation.metrics.pie_table:STRUCTURE",
    "pie-psnr": "evaluation.metrics.pie_table:PSNR",
    "pie-lpips": "evaluation.metrics.pie_table:LPIPS",
    "pie-errors": "evaluation.metrics.pie_table:ERRORS",
    "pie-clip": "evaluation.metrics.pie_table:CLIP",
}


@dataclass(frozen=True, eq=False)
class EditCase:
    """A case of a bench, with its result once there is one.

    Attributes:
        key: name of the case.
        files: file by kind: "image", "mask", "exemplar", "truth", "result" and others that metrics name.
        group: category, for benches that have them.
        edit_mask: bool [H, W], for benches whose masks are not files.
        prompts: descriptions of the source and of the edit, for benches with prompts.
    """

    key: str
    files: Mapping[str, Path]
    group: str = ""
    edit_mask: Mask | None = None
    prompts: tuple[str, str] = ("", "")

    @property
    def has_mask(self) -> bool:
        """Whether there is an edit mask."""
        return self.edit_mask is not None or "mask" in self.files

    @property
    def mask(self) -> Path | Mask:
        """The edit mask as `Request.mask` takes it."""
        return self.files["mask"] if self.edit_mask is None else self.edit_mask


Values: TypeAlias = "Mapping[str, Value]"  # by the names that `wanted` gives


@dataclass(frozen=True)
class Number:
    """A number of every case.

    Attributes:
        column: name, title and recipe.
        wanted: function from a case to the requests of its value, by names of your own.
        value: function from a case and the answers to the number; NaN if it has none.
    """

    column: ReportColumn
    wanted: Callable[[EditCase], Case]
    value: Callable[[EditCase, Values], float]


@dataclass(frozen=True)
class SetAnswers:
    """The answers for all cases, in the order of their sorted keys.

    Attributes:
        cases: the cases.
        values: name of a request -> values [N, ...].
        rows: case -> column -> number, of the columns of cases.
    """

    cases: Sequence[EditCase]
    values: Mapping[str, Value]
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SetNumber:
    """Numbers of the whole set, such as distances.

    Attributes:
        figures: function from all answers to the numbers and to remarks on them.
        wanted: function from a case to the requests that the numbers are made of.
        least: number of cases below which they are left out, with a remark.
    """

    figures: Callable[[SetAnswers], tuple[Sequence[SetFigure], Sequence[str]]]
    wanted: Callable[[EditCase], Case] = lambda case: {}
    least: int = 1


@dataclass
class Loading:
    """What a metric may use when it is loaded.

    Attributes:
        options: parsed options of the command, with those of `Metric.add_options`.
        cases: cases to be scored.
        given: weights by name, as `weights.parse_weights` makes them.
        device: device of networks.
        score: function that computes values of other pictures, such as a reference set's.
        store: computed values on disk.
        remarks: sentences that the report ends with.
        shared: results of `once`, by function and names.
    """

    options: argparse.Namespace
    cases: Sequence[EditCase]
    given: Mapping[str, Path]
    device: str
    score: Score
    store: ValueStore | None = None
    remarks: list[str] = field(default_factory=list)
    shared: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def once(self, function: Callable[..., T], *names: Any) -> T:
        """`function(*names, given, device, store)`, computed once for all metrics: a feature network."""
        key = function, *names
        if key not in self.shared:
            self.shared[key] = function(*names, self.given, self.device, self.store)
        return cast(T, self.shared[key])


@dataclass(frozen=True)
class Metric:
    """One kind of number.

    Attributes:
        help: description in a few words.
        load: function that loads what is needed and gives the numbers.
        weights: function from the options to the names of the weights, as in `WEIGHT_SOURCES`; it raises
            UsageError for options that are wrong.
        needs: kinds of files that every case must have; else it is left out, or refused by `--with`.
        without: word of `--without` that leaves it out; empty = it needs nothing that could be missing.
        of_one_bench: whether only benches that name it can report it; else `--with` adds it to any.
        add_options: functions that add options to the group of numbers; metrics may share them.
    """

    help: str
    load: Callable[[Loading], Sequence[Number | SetNumber]]
    weights: Callable[[argparse.Namespace], Sequence[str]] = lambda options: ()
    needs: tuple[str, ...] = ()
    without: str = ""
    of_one_bench: bool = False
    add_options: Sequence[Callable[[argparse._ArgumentGroup], None]] = ()


def metric_of(name: str) -> Metric:
    """The metric called `name` in METRICS."""
    module, _, constant = METRICS[name].partition(":")
    return cast(Metric, getattr(import_module(module), constant))
