"""The painter `instruct_pix2pix`: InstructPix2Pix, told what to change, by diffusers' own pipeline."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from sampling.painters.pipelines import PipelineRow, pipeline_painter

_PIPELINE = "StableDiffusionInstructPix2PixPipeline"


def _arguments(image: Image.Image, mask: Image.Image, side: int) -> Mapping[str, Any]:
    """It sees the whole square and knows of no mask, which only decides what is shown."""
    return {"image": image, "image_guidance_scale": 1.5}


PAINTER = pipeline_painter(
    PipelineRow(
        "instruct_pix2pix",
        _PIPELINE,
        (_PIPELINE,),
        (
            "instruct_pix2pix",
            "instruct-pix2pix",
            "instruct-pix2pix-00-22000.safetensors",
            "instruct-pix2pix-00-22000.ckpt",
        ),
        _arguments,
        {"num_in_channels": 8},
    )
)
