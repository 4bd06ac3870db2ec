"""The options: what is refused, with which words, and what follows from what."""

from pathlib import Path

import pytest

from intarsia.config import load_config
from intarsia.errors import UsageError
from tests.paths import ROOT
from tests.training.synthetic import write_config
from training.config import TrainConfig, batch_shape, may_change, require_paths, zero_stage_of
from training.optimizer.engine import learning_rate
from training.option_groups import OptimizerConfig

CONFIGS = sorted((ROOT / "configs" / "train").glob("*.yaml"))


def load(tmp_path: Path, text: str = "", *overrides: str) -> TrainConfig:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(TrainConfig, path, overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_says_what_it_costs(path: Path) -> None:
    load_config(TrainConfig, path)
    header = path.read_text().partition("\n\n")[0].lower()
    assert "memory" in header
    assert "hours" in header or "minutes" in header


def test_the_papers_config_is_the_papers() -> None:
    config = load_config(TrainConfig, ROOT / "configs" / "train" / "pbe-sd14.yaml")
    assert batch_shape(config, 64).accum == 1
    assert config.max_steps * 256 == 40 * 1_900_000
    assert (config.model.image_size, config.exemplar_dropout) == (512, 0.2)
    assert (config.optimizer.grad_clip, config.optimizer.ema_decay) == (None, None)
    assert learning_rate(config.optimizer, 0) == pytest.approx(1e-11)
    assert learning_rate(config.optimizer, 5_000) == pytest.approx(0.5e-5, rel=1e-5)
    assert learning_rate(config.optimizer, 10_000) == learning_rate(config.optimizer, 200_000) == 1e-5


def test_with_decay_the_rate_falls_in_a_line_or_a_wave_and_stays_down() -> None:
    options = OptimizerConfig(lr=1.0, warmup_steps=10, decay_until=110, decay_to=0.2)
    rates = [learning_rate(options, step) for step in (10, 60, 110, 500)]
    assert rates == pytest.approx([1.0, 0.6, 0.2, 0.2])
    wave = options.model_copy(update={"decay": "cosine"})
    rates = [learning_rate(wave, step) for step in (5, 10, 35, 60, 110, 500)]
    quarter = 0.2 + 0.8 * (1 + 0.5**0.5) / 2
    assert rates == pytest.approx([learning_rate(options, 5), 1.0, quarter, 0.6, 0.2, 0.2])
    with pytest.raises(ValueError, match=r"decay=cosine needs optimizer\.decay_until"):
        OptimizerConfig(decay="cosine")
    with pytest.raises(ValueError, match="decay_until=5 must lie beyond warmup_steps=10"):
        OptimizerConfig(warmup_steps=10, decay_until=5)


def test_unknown_keys_are_refused_with_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'optimizer.ema'; .*valid here: lr, .*ema_decay"):
        load(tmp_path, "", "optimizer.ema=1")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("zero_stage=4", "zero_stage=4"),
        ("micro_batch_size=0", "micro_batch_size=0"),
        ("exemplar_dropout=1.5", "exemplar_dropout=1.5"),
        ("global_batch_size=6", "global_batch_size=6 is not a multiple of micro_batch_size=4"),
        ("model.unet.in_channels=4", "model.unet.in_channels=4 can only be sampled"),
        ("optimizer={ema_kind: post_hoc, ema_decay: 0.9}", "set optimizer.ema_decay=null and choose"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer.betas.1=1.0: .*less than 1"),
        ("optimizer.lr=.inf", "optimizer.lr=inf: .*finite number"),
        ("preview.num_inference_steps=501", "preview.num_inference_steps=501"),
        ("tracker.project=a/b", "tracker.project='a/b'"),
        ("run=''", "run=''"),
        ("optimizer.ema_widths=[0.05, 0.3]", r"ema_widths=\[0.05, 0.3\]: each must lie from 0.01 to 0.28"),
        ("optimizer.ema_widths=[0.05, 0.05]", "be there once; the paper takes"),
        (
            "optimizer.ema_snapshot_every=1500",
            "ema_snapshot_every=1500 is not a multiple of checkpoint.every_steps=1000",
        ),
    ],
)
def test_bad_values_are_named(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(tmp_path, "", override)


def test_one_name_needs_no_brackets_and_home_may_be_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home := tmp_path / "home"))
    options = [
        "data.shards=~/s",
        "freeze=unet.conv_in",
        "run=~/r",
        "model.init.vae=~/v",
        "data.cache_dir=~/c",
    ]
    config = load(tmp_path, "", *options)
    assert (config.data.shards, config.freeze) == ((f"{home}/s",), ("unet.conv_in",))
    assert config.run == f"{home}/r"
    assert [config.model.init.vae, config.data.cache_dir] == [home / "v", home / "c"]
    assert load(tmp_path, "", "data.shards=[s3://~/a, ~/b]").data.shards == ("s3://~/a", f"{home}/b")


def test_ranks_share_the_optimizer_where_there_are_several(tmp_path: Path) -> None:
    default, told = load(tmp_path, ""), load(tmp_path, "", "zero_stage=2")
    assert [zero_stage_of(default, ranks) for ranks in (1, 2, 64)] == [0, 1, 1]
    assert [zero_stage_of(told, ranks) for ranks in (1, 2)] == [2, 2]
    assert zero_stage_of(load(tmp_path, "", "offload_optimizer=true"), 1) == 1


def test_what_deepspeed_or_the_compiler_do_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compile=true needs zero_stage=0, 1 or 2: at stage 3 torch comp"):
        load(tmp_path, "", "compile=true", "zero_stage=3")
    with pytest.raises(UsageError, match=r"offload_optimizer=true needs zero_stage=1, 2 or 3: stage 0 has"):
        load(tmp_path, "", "offload_optimizer=true", "zero_stage=0")


def test_batch_sizes_are_derived_once(tmp_path: Path) -> None:
    assert batch_shape(load(tmp_path, "", "global_batch_size=32"), 2).accum == 4
    assert batch_shape(load(tmp_path, "", "grad_accum_steps=3"), 2).global_batch == 24
    assert batch_shape(load(tmp_path), 1).global_batch == 4


@pytest.mark.parametrize(
    "overrides", [["global_batch_size=12"], ["global_batch_size=16", "grad_accum_steps=4"]]
)
def test_contradictory_batch_sizes_are_refused_with_the_remedy(tmp_path: Path, overrides: list[str]) -> None:
    with pytest.raises(UsageError, match="choose a global_batch_size that is a multiple of 8"):
        batch_shape(load(tmp_path, "", *overrides), 2)


def test_missing_paths_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"add data\.shards=FOLDER"):
        require_paths(load(tmp_path))
    with pytest.raises(UsageError, match="add run=FOLDER"):
        require_paths(load(tmp_path, "", "data.shards=x"))


def test_weights_of_the_published_networks_are_asked_for_and_looked_for_at_once(tmp_path: Path) -> None:
    given = ["data.shards=x", f"run={tmp_path}"]
    with pytest.raises(UsageError, match=r"no weights for the autoencoder.*model\.init\.stable_diffusion="):
        require_paths(load(tmp_path, "", *given))
    with pytest.raises(UsageError, match=r"model\.init\.vae=nowhere does not exist"):
        require_paths(load(tmp_path, "", *given, "model.init.vae=nowhere"))
    given.append(f"model.init.vae={tmp_path}")
    with pytest.raises(UsageError, match=r"no weights for CLIP.*add model\.init\.image_encoder="):
        require_paths(load(tmp_path, "", *given))
    require_paths(load(tmp_path, "", *given, f"model.init.image_encoder={tmp_path}"))
    require_paths(load_config(TrainConfig, write_config(tmp_path), given[:2]))


@pytest.mark.parametrize(("value", "meaning"), [("off", "off"), ("on", "auto"), ("offline", "offline")])
def test_wandb_off_means_off_although_yaml_reads_it_as_false(
    tmp_path: Path, value: str, meaning: str
) -> None:
    assert load(tmp_path, "", f"tracker.wandb={value}").tracker.wandb == meaning
    assert load(tmp_path, f"tracker: {{wandb: {value}}}").tracker.wandb == meaning


def test_what_may_change_between_two_calls() -> None:
    assert may_change("max_steps")
    assert may_change("preview.num_images")
    assert may_change("optimizer.ema_snapshot_every")
    assert may_change("model.init.vae")
    assert not may_change("optimizer.lr")
    assert not may_change("optimizer.ema_widths")
    assert not may_change("seed")
