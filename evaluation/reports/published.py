"""Published numbers with the recipe of each, so that only numbers of the same recipe are compared."""

from collections.abc import Mapping
from dataclasses import dataclass

from evaluation.scoring.report import Report, ReportColumn

_COCOEE_CASES = 3500
_TEST2017 = "test2017 (40,670 pictures, clip-b32/middle512-bicubic224/v1)"
_COCOEE = {
    "frechet_clip": f"frechet/clip-b32/bicubic224/v1 to {_TEST2017}",
    "quality_score": "quality-gmm20/clip-b32/bicubic224/v1",
    "clip_score": "clip-score/clip-b32/pbe-region224/v1 and clip-b32/square224/v1",
}
_FG = "board-fg/{0}/result-fg-{1}/v1 and {0}/exemplar-fg-{1}/v1 with given masks"
_BOARD = {
    "clip_fg": _FG.format("clip-b32", "square224"),
    "dino_fg": _FG.format("dino-s16-pooler", "bilinear-square224"),
    "fid_fg": "frechet/clip-b32/square224-box-square224/v1 to GT-crops "
    "(3,500 pictures, clip-b32/box-square224/v1)",
    "frechet_clip": _COCOEE["frechet_clip"],
    "quality_score": _COCOEE["quality_score"],
}
_PIE = {
    "structure_distance": "structure-dino-b8-key11/last512-bilinear224-0to255/v1 of jpeg75 results",
    "psnr": "psnr/last512-background-blank/v1 of jpeg75 results",
    "lpips": "lpips-squeeze-0.1/last512-background-blank/v1 of jpeg75 results",
    "mse": "mse/last512-background-blank/v1 of jpeg75 results",
    "ssim": "ssim-gauss11-valid-rgb/last512-background-blank/v1 of jpeg75 results",
    "clip_whole": "clip-l14/last512-bicubic224/v1 of jpeg75 results",
    "clip_edited": "clip-l14/last512-edited-blank-bicubic224/v1 of jpeg75 results",
}


@dataclass(frozen=True)
class Published:
    """A published row.

    Attributes:
        method: name in the publication.
        source: publication and table.
        values: column -> number.
        methods: column -> recipe without weights, as `ReportColumn.method`.
        cases: number of cases.
        masked: whether the bench's masks were given to the model, so that it knew what to keep.
    """

    method: str
    source: str
    values: Mapping[str, float]
    methods: Mapping[str, str]
    cases: int
    masked: bool = True

    def unlike(self, column: ReportColumn, report: Report) -> str:
        """Why its number of a column cannot be compared with the report's; empty if it can."""
        if not self.masked and "composite" in report.settings.get("settings", {}):  # a setting of masks
            return f"{self.source}: without the bench's masks; {report.name}: the model was given them"
        if column.method != self.methods[column.name]:
            return f"{self.source}: {self.methods[column.name]}; here {column.method}"
        if not report.weights_checked:
            return (
                f"{report.name} is a report of an earlier version, which did not check weights: score again"
            )
        if column.unlisted:
            return "weights that are not on the list of published files (@~ in the recipe)"
        if not report.whole or report.expected != self.cases:
            return (
                f"{self.source}: all {self.cases:,} cases; here {len(report.rows):,} of {report.expected:,}"
            )
        return ""


def published_rows(bench: str) -> tuple[Published, ...]:
    """The published rows of a bench; none for a user's list."""
    return _ROWS.get(bench, ())


def _pie(method: str, *values: float) -> Published:
    source = "Direct Inversion (Ju et al. 2024), table 1, Stable Diffusion 1.4 (PnP: 1.5)"
    return Published(method, source, dict(zip(_PIE, values, strict=True)), _PIE, 700, masked=False)


def _board(method: str, *values: float) -> Published:
    """A row of the board: CLIP_fg, DINO_fg, FID_fg, FID, QS; its repository says how each is computed."""
    source = "bcmi's board of image composition"
    return Published(method, source, dict(zip(_BOARD, values, strict=False)), _BOARD, _COCOEE_CASES)


_ROWS = {
    "COCOEE": (
        Published(
            "Paint by Example",
            "Paint by Example (Yang et al. 2022), table 1, as its repository computes it",
            {"frechet_clip": 3.18, "quality_score": 77.80, "clip_score": 84.97},
            _COCOEE,
            _COCOEE_CASES,
        ),
        _board("Paint by Example (board)", 84.84, 52.52, 6.24),
        _board("ObjectStitch", 85.97, 61.12, 6.86, 3.35, 76.86),
        _board("AnyDoor", 89.7, 70.16, 10.5, 3.60, 76.18),
        _board("ControlCom", 88.31, 63.67, 6.28, 3.19, 77.84),
    ),
    # Table 1 of the paper, as its repository gives it: inversion + editing.
    "PIE-Bench": (
        _pie("DDIM + P2P", 69.43, 17.87, 208.8, 219.88, 71.14, 25.01, 22.44),
        _pie("Null-text + P2P", 13.44, 27.03, 60.67, 35.86, 84.11, 24.75, 21.86),
        _pie("Negative-prompt + P2P", 16.17, 26.21, 69.01, 39.73, 83.4, 24.61, 21.87),
        _pie("StyleDiffusion + P2P", 11.65, 26.05, 66.1, 38.63, 83.42, 24.78, 21.72),
        _pie("Direct Inversion + P2P", 11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.1),
        _pie("DDIM + MasaCtrl", 28.38, 22.17, 106.62, 86.97, 79.67, 23.96, 21.16),
        _pie("Direct Inversion + MasaCtrl", 24.7, 22.64, 87.94, 81.09, 81.33, 24.38, 21.35),
        _pie("DDIM + P2P-Zero", 61.68, 20.44, 172.22, 144.12, 74.67, 22.8, 20.54),
        _pie("Direct Inversion + P2P-Zero", 49.22, 21.53, 138.98, 127.32, 77.05, 23.31, 21.05),
        _pie("DDIM + PnP", 28.22, 22.28, 113.46, 83.64, 79.05, 25.41, 22.55),
        _pie("Direct Inversion + PnP", 24.29, 22.46, 106.06, 80.45, 79.68, 25.41, 22.62),
    ),
}
