"""The painter `sd1.5`: Stable Diffusion 1.5's inpainting model, by diffusers' own pipeline."""

from sampling.painters.pipelines import inpainting_painter

PAINTER = inpainting_painter(
    "sd1.5",
    (
        "sd1.5",
        "stable-diffusion-inpainting",
        "stable-diffusion-v1-5-inpainting",
        "sd-v1-5-inpainting.safetensors",
        "sd-v1-5-inpainting.ckpt",
    ),
)
