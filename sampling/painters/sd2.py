"""The painter `sd2`: Stable Diffusion 2's inpainting model, by diffusers' own pipeline."""

from sampling.painters.pipelines import inpainting_painter

PAINTER = inpainting_painter(
    "sd2",
    (
        "sd2",
        "stable-diffusion-2-inpainting",
        "512-inpainting-ema.safetensors",
        "512-inpainting-ema.ckpt",
    ),
)
