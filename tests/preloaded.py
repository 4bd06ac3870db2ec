"""What the programs of tests/forks.py need, imported once: they are forked from a process that has it."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"  # as training.ranks.distributed.connect does before it

import deepspeed.runtime.zero.muon.original_muon  # noqa: F401 - imported at the first start otherwise

import tests.training.many_runs  # noqa: F401
import training.loop  # noqa: F401
