"""Compare the loss of a micro-batch on a device, in fp32 and bf16, with the loss on the CPU in fp32.

    python -m benchmarks.agreement cuda

It prints one line of JSON: precision -> loss, relative error. The model is that of configs/train/demo.yaml
with random weights; draws depend on positions only, so all cases have the same noise.
"""

import json
import sys
from contextlib import nullcontext
from typing import Any

from intarsia.config import load_config
from intarsia.files import ROOT
from training.config import TrainConfig


def main() -> int:
    """Measure and print the losses."""
    import torch

    device = torch.device(sys.argv[1])
    expected = loss_on(torch.device("cpu"), "fp32")
    found = {}
    for precision in ("fp32", "bf16"):
        loss = loss_on(device, precision)
        found[f"{device.type} {precision}"] = {"loss": loss, "error": abs(loss - expected) / expected}
    print(json.dumps(found))
    return 0


def loss_on(device: Any, precision: str) -> float:
    """The loss of one random micro-batch."""
    import torch

    from training.estimate.trial import made_up_batch
    from training.model.build import new_model
    from training.objective.preparation import Preparation
    from training.objective.task import task_of

    words = [f"precision={precision}", "micro_batch_size=8", "optimizer.ema_decay=null"]
    config = load_config(TrainConfig, ROOT / "configs" / "train" / "demo.yaml", words)
    model, task = new_model(config, device, is_main=False), task_of(config)
    step = Preparation(config, model, device)(made_up_batch(config, seed=0))
    bf16 = precision == "bf16"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
        prediction = task.trainee(model)(step)
    return float(task.loss(prediction, step))


if __name__ == "__main__":
    sys.exit(main())
