"""GPUs by name with the figures of their data sheets, for estimates of time and memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU according to its data sheet.

    Attributes:
        memory_gb: nominal memory, in 10^9 bytes.
        bf16_tflops: peak of dense bf16 matrix products with fp32 accumulation, in 10^12 operations per
            second.
        fp32_tflops: peak in fp32 without tensor cores, as in fp32 training without TF32, in the same unit.
        tf32_tflops: peak of dense TF32 matrix products.
        fp8_tflops: peak of dense fp8 matrix products with fp32 accumulation; None = the GPU has no fp8.
        source: source of these numbers.
    """

    memory_gb: float
    bf16_tflops: float
    fp32_tflops: float
    tf32_tflops: float
    fp8_tflops: float | None
    source: str


_HALF = "half of the sparse figures of TF32, bf16 and fp8"
GPUS = {
    "b200": Gpu(180, 2250, 75, 1125, 4500, f"NVIDIA HGX B200 data sheet, per GPU; {_HALF}"),
    "h200": Gpu(141, 989, 67, 494.5, 1979, f"NVIDIA H200 data sheet, SXM; {_HALF}"),
    "h100": Gpu(80, 989, 67, 494.5, 1979, f"NVIDIA H100 data sheet, SXM; {_HALF}"),
    "a100-80": Gpu(80, 312, 19.5, 156, None, "NVIDIA A100 data sheet"),
    "a100-40": Gpu(40, 312, 19.5, 156, None, "NVIDIA A100 data sheet"),
    "l40s": Gpu(48, 362, 91.6, 183, 733, f"NVIDIA L40S data sheet; {_HALF}"),
    "4090": Gpu(24, 165, 82.6, 82.6, 330, "NVIDIA Ada GPU architecture whitepaper, RTX 4090"),
    "3090": Gpu(24, 71, 35.6, 35.6, None, "NVIDIA Ampere GA102 whitepaper, RTX 3090"),
}


def peak_of(name: str, dtype: str) -> float:
    """The peak of a GPU for weights of a dtype, in 10^12 operations per second; float32 is without TF32."""
    return GPUS[name].fp32_tflops if dtype == "float32" else GPUS[name].bf16_tflops
