"""Every recipe, scaled down to a model of toy size, trains two steps and leaves what it promises."""

from pathlib import Path

import pytest

from intarsia.config import load_config
from intarsia.files import read_json
from intarsia.model import build_model
from intarsia.weights import read_model_config, save_model
from tests.paths import ROOT
from tests.processes import starts_processes
from tests.training.launch import launch
from tests.training.synthetic import make_shards, write_config
from training.config import TrainConfig
from training.run.result import result_of
from training.tracking.tracker import read_metrics

RECIPES = sorted((ROOT / "configs" / "train").glob("*.yaml"))
TINY = [
    "model.image_size=32",
    "model.unet.block_out_channels=[8, 16]",
    "model.unet.down_block_types=[DownBlock2D, CrossAttnDownBlock2D]",
    "model.unet.layers_per_block=1",
    "model.unet.cross_attention_dim=8",
    "model.unet.norm_num_groups=4",
    "model.vae={block_out_channels: [8, 8], layers_per_block: 1, norm_num_groups: 4}",
    "model.image_encoder={hidden_size: 16, intermediate_size: 16, num_hidden_layers: 5, "
    "num_attention_heads: 2, image_size: 32, patch_size: 8}",
    "model.init.vae=null",
    "data={num_workers: 0, latents: false, stored_tokens: false}",
    "micro_batch_size=2",
    "global_batch_size=4",
    "max_steps=2",
    "log_every=1",
    "preview.every_steps=0",
    "tracker.wandb=off",
]
TINY_TEXT = (
    "model.text_encoder={vocab_size: 514, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, "
    "num_attention_heads: 2, max_position_embeddings: 12}"
)
ADAPTS = ("finetune", "lora", "upsampler")  # these begin with a model folder


@pytest.fixture(scope="module")
@starts_processes
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders by the recipes' names."""
    root = tmp_path_factory.mktemp("recipes")
    shards = make_shards(root / "shards")
    save_model(build_model(load_config(TrainConfig, write_config(root)).model, 5), root / "base")
    jobs = []
    for path in RECIPES:
        model = load_config(TrainConfig, path).model
        several = isinstance(model.unet.attention_head_dim, tuple)
        overrides = [
            *TINY,
            *([TINY_TEXT] if "text" in model.parts else []),
            *(["model.noised={size: toy, group: 2}"] if model.noised else []),
            *(["model.low_res.factor=2"] if model.low_res else []),
            f"model.unet.attention_head_dim={'[1, 2]' if several else 2}",
            f"data.shards={shards}",
            f"run={root / path.stem}",
            *([f"model.init.model_folder={root / 'base'}"] if path.stem.startswith(ADAPTS) else []),
        ]
        jobs.append({"config": str(path), "overrides": overrides})
    launch(root, "recipes", jobs)
    return root


@pytest.mark.whole
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_scaled_down_recipe_trains_and_leaves_a_model(runs: Path, path: Path) -> None:
    run = runs / path.stem
    losses = [record["train/loss"] for record in read_metrics(run / "metrics.jsonl")]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
    config = load_config(TrainConfig, path)
    result = run / read_json(run / "finished.json")["model"]
    if config.lora or config.model.noised:
        assert (result / result_of(config).marker).is_file()
        return
    made = read_model_config(result)
    assert made.noise == config.model.noise
    assert made.unet.use_linear_projection == config.model.unet.use_linear_projection


TOYS = ("demo", "picture", "upsampler-picture")  # which make their own weights


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_to_expect(path: Path) -> None:
    header = path.read_text().partition("\n\n")[0].split("\nextends:")[0].lower()
    assert "python -m training" in header or "-m training" in header
    for word in ("memory", "loss"):
        assert word in header
    assert "hours" in header or "minutes" in header


def test_every_recipe_that_needs_weights_says_which(runs: Path) -> None:
    for path in RECIPES:
        needed = {"finetune": "model_folder", "lora": "model_folder"} | dict.fromkeys(TOYS, "extends")
        assert needed.get(path.stem.removesuffix("-conditions"), "model.init.") in path.read_text()
