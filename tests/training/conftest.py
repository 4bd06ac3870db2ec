"""Runs to which things happen, started together, because every process must import DeepSpeed anew."""

import shutil
from typing import Any

import pytest

from intarsia.config import load_config
from intarsia.model import build_model
from intarsia.weights import save_model
from tests.processes import starts_processes
from tests.training.launch import Runs, launch, torchrun
from tests.training.stored import store
from tests.training.synthetic import make_shards, write_config
from training.config import TrainConfig

BAD = "s00003"  # the sample that gives no finite number
# Two averages, whose snapshots give others; whatever holds for them holds for one.
POST_HOC = "optimizer={lr: 1.0e-3, eps: 1.0e-4, warmup_steps: 0, ema_kind: post_hoc}"
TOKENS = "model.exemplar.tokens=class+patches"
TEXT = "model.text_encoder={vocab_size: 514, hidden_size: 9, intermediate_size: 8, num_hidden_layers: 1, \
num_attention_heads: 3, max_position_embeddings: 12}"
TELL_TEXT = ["model.condition=text", TEXT, "model.unet.input_layout=sd"]
TELL_BOTH = ["model.condition=both", TEXT]
LOW_RES = "model.low_res={factor: 2}"
STAGES = {
    "stage0": ["zero_stage=0"],
    "stage1": ["zero_stage=1", POST_HOC],
    "stage2": ["zero_stage=2"],
    "stage3": ["zero_stage=3"],
    "offloaded2": ["zero_stage=2", "offload_optimizer=true"],
    "offloaded3": ["zero_stage=3", "offload_optimizer=true"],
}
FOLDER = "checkpoints"
SAVED = "step-00000002"


@pytest.fixture(scope="session")
@starts_processes
def hard_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Finished runs by name; NAME-resaved are checkpoints that were only loaded and saved again.

    Those that change their ranks or stage: whole, shrunk, grown, stages; adapters, tokens (many of the
    exemplar), text, both (exemplar and text), low-res (an upsampler), stored and compiled, with undisturbed
    ones, NAME-whole. Those that only stop and go on: adapters-resumed, both-resumed. Those that skip steps:
    of STAGES, pair0, pair2, resumed, ended. One that hangs: hung.
    One that dies while it saves: killed, found with killed-checkpoints, else like undisturbed.
    """
    root = tmp_path_factory.mktemp("hard")
    config = write_config(root)
    save_model(build_model(load_config(TrainConfig, config).model, 5), root / "base")
    many, few = make_shards(root / "many"), make_shards(root / "few", (8,))

    def job(name: str, shards: Any, *overrides: str, **more: Any) -> dict[str, Any]:
        common = [f"data.shards={shards}", f"run={root / name}", "max_steps=4", "micro_batch_size=2"]
        return {"config": str(config), "overrides": [*common, *overrides], "shard_all": True, **more}

    def elastic(name: str, *overrides: str, **more: Any) -> dict[str, Any]:
        # Two ranks cannot share an odd number of elements evenly.
        (root / f"{name}-positions").mkdir(exist_ok=True)
        options = ["model.unet.cross_attention_dim=9", "global_batch_size=8", POST_HOC, *overrides]
        return job(name, many, *options, positions=str(root / f"{name}-positions"), **more)

    def resave(source: str, target: str, *overrides: str) -> dict[str, Any]:
        return elastic("resaving", *overrides, resave=[str(root / source), str(root / target)])

    def poisoned(name: str, *overrides: str, **more: Any) -> dict[str, Any]:
        options = ["checkpoint={every_steps: 1, keep_last: 9}", "global_batch_size=4", *overrides]
        return job(name, few, *options, poison=[BAD], **more)

    adapted = [f"model.init.model_folder={root / 'base'}", "model.unet.cross_attention_dim=8", "lora.rank=3"]
    stored, compiled = ["data.latents=true"], ["compile=true"]
    with pytest.MonkeyPatch.context() as patch:
        store(load_config(TrainConfig, config, elastic("stored", *stored)["overrides"]), patch)
    often = ["zero_stage=2", "checkpoint.every_steps=1"]
    ending = ["max_skipped_in_a_row=1", "tracker.wandb=offline"]

    pair = [
        elastic("shrunk", "zero_stage=1", stop_after=2),
        poisoned("pair0", "zero_stage=0"),
        poisoned("pair2", "zero_stage=2"),
        elastic("adapters", *adapted, "zero_stage=2", stop_after=2),
        elastic("stored", *stored, "zero_stage=2", stop_after=2),
        elastic("tokens", TOKENS, "zero_stage=2", stop_after=2),
        elastic("both", *TELL_BOTH, "zero_stage=2", stop_after=2),
        elastic("low-res", LOW_RES, "zero_stage=2", stop_after=2),
        # No stage 3 before these: it replaces torch's linear function, which changes roundings.
        elastic("undisturbed", *often),
        elastic("killed", *often, killed=2),
    ]
    alone = [
        resave(f"shrunk/checkpoints/{SAVED}", "stage2-alone", "zero_stage=2"),
        elastic("whole"),
        elastic("shrunk", "zero_stage=2", stop_after=1),
        elastic("grown", stop_after=2),
        elastic("adapters-whole", *adapted),
        elastic("adapters-resumed", *adapted, stop_after=2),
        elastic("adapters-resumed", *adapted),
        elastic("stored-whole", *stored),
        elastic("tokens-whole", TOKENS),
        elastic("tokens", TOKENS),
        elastic("text-whole", *TELL_TEXT),
        elastic("text", *TELL_TEXT, stop_after=2),
        *(elastic(name, *TELL_BOTH) for name in ("both-whole", "both")),
        *(elastic(name, LOW_RES) for name in ("low-res-whole", "low-res")),
        elastic("both-resumed", *TELL_BOTH, stop_after=2),
        elastic("both-resumed", *TELL_BOTH),
        elastic("stored", *stored),
        elastic("compiled", *compiled, stop_after=2, backend="aot_eager"),
        elastic("stages", "zero_stage=2", stop_after=1),
        elastic("stages", "zero_stage=3", "checkpoint.asynchronous=false", stop_after=1),
        elastic("stages", "zero_stage=0", stop_after=1),
        elastic("stages", "zero_stage=3", "offload_optimizer=true"),
        *(poisoned(name, *options) for name, options in STAGES.items()),
        poisoned("resumed", *STAGES["stage1"], stop_after=2),
        poisoned("resumed", *STAGES["stage1"]),
        poisoned("ended", *ending, fails=f"(samples {BAD}; all are in"),
    ]
    pair_again = [
        elastic("killed", *often),
        resave(f"stage2-alone/{SAVED}", "stage3-pair", "zero_stage=3"),
        resave(f"stage3-pair/{SAVED}", "stage0-pair", "zero_stage=0"),
        resave(f"stage0-pair/{SAVED}", "stage2-offloaded-pair", "zero_stage=2", "offload_optimizer=true"),
        elastic("shrunk", "zero_stage=3"),
        elastic("text", *TELL_TEXT, "zero_stage=3"),
        elastic("grown", "zero_stage=2"),
        elastic("adapters", *adapted, "zero_stage=3"),
        elastic("compiled", *compiled, "zero_stage=2", backend="aot_eager"),
        job("hung", few, "tracker.wandb=offline", sleep=[100, 15]),
    ]
    killed = torchrun(root, "pair", pair)
    assert "Signal 9" in killed.stderr, killed.stderr[-4000:]
    shutil.copytree(root / "killed" / FOLDER, root / "killed-checkpoints")
    launch(root, "alone", alone)
    hung = torchrun(root, "pair-again", pair_again)
    assert (root / "hung").exists(), hung.stderr[-4000:]
    (root / "hung.txt").write_text(f"{hung.returncode}\n{hung.stderr}")
    return Runs(root)
