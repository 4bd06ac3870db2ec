"""What GPUs compute and exchange, measured by a process for each: `python -m slurm.gpu_work`.

It runs under torchrun or srun. Rank 0 prints one line of JSON: the speed of a bf16 matrix product on each
rank, and the bus bandwidth of an all-reduce among all of them. Without GPUs the CPUs do both: a rehearsal.
"""

import json
import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any

from training.ranks.distributed import set_environment

MARK = "GPU-WORK "
_MEGABYTES = 256  # of the all-reduce on GPUs; 4 on CPUs
_ROUNDS = 10


def main() -> int:
    """Measure on this rank; rank 0 prints."""
    set_environment(os.environ)
    import torch
    import torch.distributed as ranks

    cuda = torch.cuda.is_available()
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    ranks.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=120))
    own = {"node": socket.gethostname(), "gpu": device.index, "flops": matmul_speed(device)}
    bandwidth = all_reduce_bandwidth(device, (_MEGABYTES if cuda else 4) * 2**20)
    everyone: list[Any] = [None] * ranks.get_world_size()
    ranks.all_gather_object(everyone, own)
    if ranks.get_rank() == 0:
        sys.stdout.write(MARK + json.dumps({"ranks": everyone, "bytes_per_s": bandwidth}) + "\n")
        sys.stdout.flush()
    ranks.destroy_process_group()
    return 0


def matmul_speed(device: Any) -> float:
    """Floating-point operations per second of a bf16 matrix product on a GPU, fp32 on a CPU."""
    import torch

    from training.tracking.stopwatch import matmul_peak

    return matmul_peak(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def all_reduce_bandwidth(device: Any, size: int) -> float:
    """Bus bandwidth of an all-reduce over all ranks, bytes per second; 0 for a single rank. Collective.

    2 (n - 1) / n × bytes / seconds, as NCCL's own tests define it: comparable for any number of ranks.

    Args:
        device: device of this rank.
        size: bytes that are reduced.
    """
    import torch
    import torch.distributed as ranks

    n = ranks.get_world_size()
    if n == 1:
        return 0.0
    content = torch.ones(size // 4, dtype=torch.float32, device=device)
    best = float("inf")
    for _ in range(_ROUNDS):
        ranks.barrier()
        began = time.perf_counter()
        ranks.all_reduce(content)
        content[:1].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
        content.fill_(1.0)
    return 2 * (n - 1) / n * size / best


if __name__ == "__main__":
    sys.exit(main())
