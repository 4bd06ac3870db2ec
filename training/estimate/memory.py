"""Calculate one GPU's memory by part and by ZeRO stage from the counted numbers.

It follows DeepSpeed 0.19's runtime/zero/stage_1_and_2.py and our measurements: from stage 1 on, DeepSpeed
permanently keeps a second fp32 copy of its share of the weights, and one gradient buffer of its share.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from sampling.denoise.gpus import Gpu
from training.option_groups import ZeroStage

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.estimate.counting import Counts

STAGES = get_args(ZeroStage)
_FP32 = 4
_BUCKET = 500_000_000  # DeepSpeed's reduce_bucket_size, in numbers
_LIVE_WEIGHTS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters, in numbers


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: weights of the trained part; at stage 3 the rank's share and the weights gathered for use.
        frozen: weights of autoencoder and image tower.
        master: DeepSpeed's fp32 copy of the rank's share of the weights.
        moments: two moments of Adam.
        ema: averaged weights.
        gradients: gradients at the end of the backward pass, including DeepSpeed's buffers.
        activations: peak of forward and backward pass without the parts above.
        peak: largest sum at one moment; less than the total, since not all parts exist at the same time.
        moment: moment of the peak: encode, backward, reduce or step.
    """

    weights: int
    frozen: int
    master: int
    moments: int
    ema: int
    gradients: int
    activations: int
    peak: int
    moment: str


def memory_at(stage: int, ranks: int, counts: "Counts", options: dict[str, Any]) -> Memory:
    """The memory of one rank.

    Args:
        stage: ZeRO stage.
        ranks: number of ranks that share the optimizer's state.
        counts: counts of `counting.count`.
        options: `averages`, the number of averages of the weights; `moment_bytes` of one moment of a weight;
            and the booleans `accumulates` (more than
            one micro-batch per step), `offload` (optimizer state in the CPU's memory) and `on_gpu`.
    """
    whole = _FP32 * counts.trained
    share = -(-whole // ranks)
    state = 0 if options["offload"] else (whole if stage == 0 else share)
    bucket = _FP32 * (_BUCKET if options["on_gpu"] else min(_BUCKET, counts.trained))
    weights = whole if stage < 3 else share + min(whole, _FP32 * _LIVE_WEIGHTS)
    master = 0 if stage == 0 else state
    ema = state * options["averages"]
    both = int(2 * state / _FP32 * options["moment_bytes"])
    steady = weights + counts.frozen_bytes + master + both + ema
    kept = 0 if stage == 0 or options["offload"] else share  # the permanent gradient buffer
    before = (whole if stage < 2 else kept) if options["accumulates"] else 0
    with_gradients = counts.step_and_grads_bytes if stage < 2 else counts.step_bytes
    # Buckets exist from stage 1 on; on a CPU, stage 1 does without.
    reserved = bucket if stage and (options["on_gpu"] or stage > 1) else 0
    moments = {
        "encode": steady + kept + before + counts.encode_bytes,
        "backward": steady + kept + reserved + max(with_gradients, counts.step_bytes + before),
        "reduce": steady + kept + _at_reduction(stage, ranks, whole, bucket, options["on_gpu"]),
        "step": steady + (whole if stage == 0 else kept + (0 if options["offload"] else share)),
    }
    moment = max(moments, key=lambda name: moments[name])
    gradients = kept + (whole if stage < 2 else 0) + reserved
    return Memory(
        weights=weights,
        frozen=counts.frozen_bytes,
        master=master,
        moments=both,
        ema=ema,
        gradients=gradients,
        activations=counts.step_bytes,
        peak=moments[moment],
        moment=moment,
    )


def _at_reduction(stage: int, ranks: int, whole: int, bucket: int, on_gpu: bool) -> int:
    """Bytes of gradients and of the buffer that averages them, while the gradients are freed."""
    if stage == 0:
        return whole + (min(bucket, whole) if ranks > 1 else 0)
    if stage == 1:
        return whole + (bucket if on_gpu else 0)
    return bucket


def arithmetic_of(config: "TrainConfig") -> str:
    """The number format of a run's matrix products; `fp8+bf16`: fp8 in some layers, bf16 in the others."""
    if config.precision == "fp32":
        return "tf32" if config.speed.tf32 else "fp32"
    return "fp8+bf16" if config.speed.fp8 else "bf16"


def peak_tflops(gpu: Gpu, arithmetic: str, fp8_share: float) -> float | None:
    """The peak at which a GPU does a run's arithmetic, in 10^12 operations per second; None without fp8.

    Args:
        gpu: the GPU.
        arithmetic: a name of `arithmetic_of`.
        fp8_share: share of the arithmetic that is done in fp8; the times of both shares add up.
    """
    if arithmetic != "fp8+bf16":
        return {"fp32": gpu.fp32_tflops, "tf32": gpu.tf32_tflops, "bf16": gpu.bf16_tflops}[arithmetic]
    if gpu.fp8_tflops is None:
        return None
    return 1 / (fp8_share / gpu.fp8_tflops + (1 - fp8_share) / gpu.bf16_tflops)
