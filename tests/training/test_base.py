"""What is frozen and comes from a file stays out of checkpoints, and no other base takes its place."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel, build_model
from intarsia.weights import save_model
from tests.training.synthetic import write_config
from training.checkpoint.folder import check_config, checkpoint_name
from training.checkpoint.rank_files import Parts
from training.checkpoint.resume import begin_or_continue
from training.checkpoint.saver import Saver
from training.config import BatchShape, TrainConfig
from training.finish import consolidate
from training.model.base_hash import base_hash, content_hashes, is_of_base, unmark
from training.model.build import new_model
from training.objective.edit import EditTrainee
from training.optimizer import fragments
from training.optimizer.ema import KEY
from training.optimizer.engine import make_optimizer
from training.option_groups import CheckpointConfig
from training.ranks.distributed import World
from training.run.state import RunFolder, TrainState, fresh_state

CPU = torch.device("cpu")
WORLD = World(rank=0, size=1, device=CPU)
FROZEN = ["freeze=[unet.down_blocks, exemplar_encoder.mapper]"]
ADAPTED = ["lora.rank=2"]


class PlainEngine:
    """DeepSpeed's engine at stage 0, as far as saving goes, and a step of training."""

    device = CPU

    def __init__(self, config: TrainConfig) -> None:
        self.model = new_model(config, CPU, is_main=True)
        self.module = EditTrainee(self.model)
        trained = [param for param in self.module.parameters() if param.requires_grad]
        self.optimizer = make_optimizer(config, trained)
        fragments.begin(self)

    def zero_optimization_stage(self) -> int:
        return 0

    def train(self) -> None:
        for param in self.module.parameters():
            param.grad = torch.ones_like(param) if param.requires_grad else None
        self.optimizer.step()


def base_at(folder: Path, seed: int = 5) -> Path:
    save_model(build_model(load_config(TrainConfig, write_config(folder)).model, seed), folder / "base")
    return folder / "base"


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    options = [f"run={folder / 'run'}", f"model.init.model_folder={folder / 'base'}", *overrides]
    return load_config(TrainConfig, write_config(folder), options)


def fresh(config: TrainConfig, model: EditModel) -> TrainState:
    return fresh_state(config, BatchShape(4, 1, 1), [], **content_hashes(model, WORLD))


def saved(config: TrainConfig, engine: PlainEngine, state: TrainState) -> Path:
    """The checkpoint of one step more."""
    engine.train()
    state.step += 1
    run = RunFolder(Path(str(config.run)))
    saver = Saver(run.checkpoints, CheckpointConfig(), WORLD)
    saver.start(engine, state)
    saver.finish()
    return run.checkpoints / checkpoint_name(state.step)


def go_on(config: TrainConfig) -> tuple[PlainEngine, TrainState]:
    engine = PlainEngine(config)
    run = RunFolder(Path(str(config.run)))
    return engine, begin_or_continue(engine, fresh(config, engine.model), run, WORLD)


def names_in(checkpoint: Path) -> set[str]:
    return {key.partition("/")[2] for key in Parts(checkpoint).sizes()}


def same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize("options", [FROZEN, ADAPTED])
def test_a_checkpoint_holds_what_is_trained_and_a_run_goes_on_from_it(
    tmp_path: Path, options: list[str]
) -> None:
    base_at(tmp_path)
    config = config_of(tmp_path, *options)
    engine = PlainEngine(config)
    checkpoint = saved(config, engine, fresh(config, engine.model))
    trained = {name for name, param in engine.module.named_parameters() if param.requires_grad}
    assert names_in(checkpoint) == trained
    size = sum(param.numel() for param in engine.module.parameters() if param.requires_grad)
    part = checkpoint / "part-00000-of-00001.safetensors"
    header = int.from_bytes(part.read_bytes()[:8], "little")
    assert part.stat().st_size == 4 * 4 * size + header + 8  # weight, two moments, average
    again, state = go_on(config)
    assert state.step == 1
    assert same_weights(again.module, engine.module)


@pytest.mark.parametrize("options", [FROZEN, ADAPTED])
def test_a_whole_model_is_made_of_checkpoint_and_base(tmp_path: Path, options: list[str]) -> None:
    base_at(tmp_path)
    config = config_of(tmp_path, *options)
    engine = PlainEngine(config)
    checkpoint = saved(config, engine, fresh(config, engine.model))
    whole = EditTrainee(consolidate(config, engine.model, checkpoint))
    for name, param in engine.module.named_parameters():
        expected = engine.optimizer.state[param][KEY] if param.requires_grad else param
        assert torch.equal(whole.get_parameter(name), expected), name
    base_at(tmp_path, seed=6)
    with pytest.raises(UserError, match=r"run was begun with other weights than .*base holds now"):
        consolidate(config, engine.model, checkpoint)


def test_a_run_does_not_go_on_over_another_base(tmp_path: Path) -> None:
    base_at(tmp_path)
    config = config_of(tmp_path, *ADAPTED)
    engine = PlainEngine(config)
    saved(config, engine, fresh(config, engine.model))
    base_at(tmp_path, seed=6)
    words = r"run was begun with other weights than .*base holds now, .*put the old weights back there, or"
    with pytest.raises(UsageError, match=words):
        go_on(config)
    base_at(tmp_path)
    assert go_on(config)[1].step == 1


def test_weights_may_be_moved_and_their_content_may_not_change(tmp_path: Path) -> None:
    """Autoencoder and CLIP are in no checkpoint either, whatever is trained."""
    base_at(tmp_path)
    for number, options in enumerate((ADAPTED, [])):
        config = config_of(tmp_path, *options, f"run={tmp_path}/run{number}")
        saved(config, engine := PlainEngine(config), fresh(config, engine.model))
    (tmp_path / "base").rename(tmp_path / "moved")
    for number, options in enumerate((ADAPTED, [])):
        moved = [f"model.init.model_folder={tmp_path}/moved", f"run={tmp_path}/run{number}"]
        config = config_of(tmp_path, *options, *moved)
        check_config(config.model_dump(mode="json"), RunFolder(Path(str(config.run))))
        assert go_on(config)[1].step == 1
    other = EditModel(config.model)
    other.unet, other.exemplar_encoder = engine.model.unet, engine.model.exemplar_encoder
    save_model(other, tmp_path / "moved")
    words = r"begun with another autoencoder or image encoder than model.init.model_folder=.*moved gives now"
    with pytest.raises(UsageError, match=words):
        go_on(config)


def test_a_run_whose_checkpoints_hold_the_base_goes_on_so(tmp_path: Path) -> None:
    """Older ones do; what they hold counts, whatever the model folder holds now."""
    base_at(tmp_path)
    config = config_of(tmp_path, *ADAPTED)
    engine = PlainEngine(config)
    unmark(engine.module.parameters())
    old = saved(config, engine, replace(fresh(config, engine.model), frozen_hash=""))
    everything = {name for name, _ in engine.module.named_parameters()}
    assert names_in(old) == everything
    base_at(tmp_path, seed=6)
    again, state = go_on(config)
    assert same_weights(again.module, engine.module)
    newer = saved(config, again, state)
    assert names_in(newer) == everything
    whole = EditTrainee(consolidate(config, again.model, newer))
    assert all(
        torch.equal(whole.get_parameter(n), p)
        for n, p in again.module.named_parameters()
        if "base_layer" in n
    )


def test_what_began_at_random_is_kept(tmp_path: Path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path), FROZEN)
    model = new_model(config, CPU, is_main=True)
    assert not any(is_of_base(param) for param in model.parameters())
    assert base_hash(model) == ""


def test_the_hash_is_of_the_frozen_weights_alone(tmp_path: Path) -> None:
    base_at(tmp_path)
    first, second = (new_model(config_of(tmp_path, *ADAPTED, f"seed={seed}"), CPU, True) for seed in (1, 2))
    assert base_hash(first) == base_hash(second) != ""
    with torch.no_grad():
        next(param for param in second.parameters() if is_of_base(param)).view(-1)[0] += 1
    assert base_hash(first) != base_hash(second)
