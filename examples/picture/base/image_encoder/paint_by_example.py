"""So that diffusers finds the class that model_index.json names."""

from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder  # noqa: F401
