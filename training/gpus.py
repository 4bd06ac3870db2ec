"""Named GPUs: how much they hold, and how much they could compute."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU by its maker's data sheet.

    Attributes:
        memory_gb: in 10^9 bytes, as sold.
        bf16_tflops: dense bf16 matrix products with fp32 accumulation, 10^12 operations per second at most.
        fp32_tflops: the same without tensor cores, which is what fp32 training without TF32 gets.
        source: of these numbers.
    """

    memory_gb: float
    bf16_tflops: float
    fp32_tflops: float
    source: str


GPUS = {
    "b200": Gpu(180, 2250, 75, "NVIDIA HGX B200 data sheet, per GPU; half of the sparse figure"),
    "h200": Gpu(141, 989, 67, "NVIDIA H200 data sheet, SXM; half of the sparse figure"),
    "h100": Gpu(80, 989, 67, "NVIDIA H100 data sheet, SXM; half of the sparse figure"),
    "a100-80": Gpu(80, 312, 19.5, "NVIDIA A100 data sheet"),
    "a100-40": Gpu(40, 312, 19.5, "NVIDIA A100 data sheet"),
    "l40s": Gpu(48, 362, 91.6, "NVIDIA L40S data sheet"),
    "4090": Gpu(24, 165, 82.6, "NVIDIA Ada GPU architecture whitepaper, RTX 4090"),
    "3090": Gpu(24, 71, 35.6, "NVIDIA Ampere GA102 whitepaper, RTX 3090"),
}
