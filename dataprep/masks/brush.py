"""The mask kind `brush`: strokes of a round brush over the box, which say little about the object's shape."""

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from dataprep.masks.mask_kind import MaskKind, MaskScene

if TYPE_CHECKING:
    import numpy as np

    from intarsia.boxes import Box
    from intarsia.masks import EditMask

_MOST_STROKES = 200


class BrushMask(MaskKind):
    """Strokes inside the extended box until enough of the annotated box is covered."""

    points: tuple[int, int] = (4, 12)  # fewest and most corners of a stroke
    width: tuple[float, float] = (0.1, 0.3)  # of the brush, as shares of the box's longer side
    cover: float = Field(default=0.5, gt=0, lt=1)  # share of the box that is repainted, at least

    @field_validator("points", "width")
    @classmethod
    def _ordered(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if not 0 < pair[0] <= pair[1]:
            raise ValueError("the smaller of two positive numbers comes first")
        return pair

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Whole numbers only, so that every processor draws the same strokes."""
        import numpy as np
        from PIL import Image

        from intarsia.masks import EditMask

        box, extended = scene.box, scene.extended
        picture = Image.new("L", scene.size)
        for _ in range(_MOST_STROKES):
            self._stroke(picture, box, extended, rng)
            inside = np.count_nonzero(box.cut(np.asarray(picture)))
            if inside >= self.cover * box.area:
                break
        pixels: np.ndarray = np.zeros(scene.size[::-1], np.uint8)
        extended.cut(pixels)[:] = extended.cut(np.asarray(picture))
        return EditMask(pixels, self.kind, ())

    def _stroke(self, picture: object, box: "Box", extended: "Box", rng: "np.random.Generator") -> None:
        """One stroke: it begins in the box, and each corner is at most half a box from the one before."""
        from PIL import ImageDraw

        draw = ImageDraw.Draw(picture)  # type: ignore[arg-type]
        longer = max(box.width, box.height)
        thin, thick = (max(int(share * longer), 1) for share in self.width)
        width = int(rng.integers(thin, thick, endpoint=True))
        x, y = int(rng.integers(box.x0, box.x1)), int(rng.integers(box.y0, box.y1))
        corners = [(x, y)]
        for _ in range(int(rng.integers(*self.points, endpoint=True)) - 1):
            across, down = max(box.width // 2, 1), max(box.height // 2, 1)
            x += int(rng.integers(-across, across, endpoint=True))
            y += int(rng.integers(-down, down, endpoint=True))
            x, y = min(max(x, extended.x0), extended.x1 - 1), min(max(y, extended.y0), extended.y1 - 1)
            corners.append((x, y))
        draw.line(corners, fill=255, width=width)
        for x, y in corners:
            draw.ellipse((x - width // 2, y - width // 2, x + width // 2, y + width // 2), fill=255)


MASK = BrushMask
