"""Adapters: nothing at the start, trained alone, saved exactly, read by diffusers, merged into weights."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.lora import EXEMPLAR_ENCODER, merge_adapters
from intarsia.model import EditModel, build_model
from intarsia.model_folder import ADAPTERS
from intarsia.weights import read_model, save_model
from sampling.cli import main
from tests.closeness import longest_sum, relative_error, rounding
from tests.processes import starts_processes
from tests.training.launch import Runs, launch
from tests.training.synthetic import make_sample, make_shards, write_config
from training.config import TrainConfig, require_paths
from training.data.batches import collate
from training.estimate.counting import count
from training.model.build import new_model
from training.model.frozen import halve_base
from training.model.lora import write_adapters
from training.objective.draws import draw_batch, noise_levels
from training.objective.edit import EditTrainee, loss_of, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    config = load_config(TrainConfig, write_config(folder))
    save_model(build_model(config.model, 5), folder / "model")
    return folder / "model"


def config_of(base: Path, folder: Path, *overrides: str) -> TrainConfig:
    options = [f"model.init.model_folder={base}", "lora.rank=2", "lora.alpha=3", *overrides]
    return load_config(TrainConfig, write_config(folder), options)


def answer(model: EditModel, config: TrainConfig) -> torch.Tensor:
    """The prediction for four samples, with gradients filled in."""
    batch = collate([(position, make_sample(position)) for position in range(4)])
    scheduler = noise_levels(config.model.noise)
    step = prepare(model, scheduler, batch, draw_batch(config, batch.positions), CPU)
    prediction = EditTrainee(model)(step)
    if prediction.requires_grad:
        loss_of(prediction, step).backward()
    return prediction.detach()


def taught(config: TrainConfig) -> EditModel:
    """A model whose adapters have been through three steps."""
    model = new_model(config, CPU, True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        answer(model, config)
        optimizer.step()
    return model


def test_at_the_start_nothing_changes_and_only_b_has_a_gradient(base: Path, tmp_path: Path) -> None:
    config = config_of(base, tmp_path)
    model = new_model(config, CPU, True)
    assert torch.equal(answer(model, config), answer(read_model(base).train(), config))
    trained = {name: p for name, p in EditTrainee(model).named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert not any("attn2.to_q" in name or "attn2.to_k" in name for name in trained)
    for name, param in trained.items():
        assert (param.grad.abs().max() == 0) == (".lora_A." in name), name
        assert (param.abs().max() == 0) == (".lora_B." in name), name
    a = torch.cat([p.flatten() for name, p in trained.items() if ".lora_A." in name])
    assert float(a.detach().std()) == pytest.approx(1 / config.lora.rank, rel=0.15)


def test_the_adapters_come_from_the_seed(base: Path, tmp_path: Path) -> None:
    configs = [config_of(base, tmp_path, f"seed={seed}") for seed in (1, 1, 2)]
    first, same, other = (new_model(config, CPU, True).unet.state_dict() for config in configs)
    names = [name for name in first if ".lora_A." in name]
    assert all(torch.equal(first[name], same[name]) for name in names)
    assert not any(torch.equal(first[name], other[name]) for name in names)


@pytest.mark.portable
def test_diffusers_reads_the_file_and_computes_the_same(base: Path, tmp_path: Path) -> None:
    config = config_of(base, tmp_path)
    model = taught(config)
    write_adapters(model, config.lora, tmp_path / "lora", "card")
    theirs = UNet2DConditionModel.from_pretrained(base / "unet")
    theirs.load_lora_adapter(tmp_path / "lora", weight_name=ADAPTERS, prefix="unet")
    own = {n.replace(".default", ""): v for n, v in model.unet.state_dict().items() if ".lora_" in n}
    read = {n.removeprefix("unet."): v for n, v in load_file(tmp_path / "lora" / ADAPTERS).items()}
    assert own.keys() == read.keys()
    assert all(torch.equal(own[name], read[name]) for name in own)
    peer = read_model(base)
    before = answer(peer, config)
    peer.unet = theirs.eval()
    ours = answer(model.eval(), config)
    assert float((ours - before).abs().max()) > 1e-3
    assert relative_error(ours, answer(peer, config)) < rounding(longest_sum(peer.unet))


@pytest.mark.portable
@pytest.mark.parametrize("encoder", [False, True])
def test_merged_weights_compute_what_the_adapters_did(base: Path, tmp_path: Path, encoder: bool) -> None:
    config = config_of(base, tmp_path, f"lora.train_exemplar_encoder={encoder}")
    model = taught(config)
    write_adapters(model, config.lora, tmp_path / "lora", "card")
    assert (tmp_path / "lora" / EXEMPLAR_ENCODER).is_file() == encoder
    command = ["merge-lora", "--model", base, "--lora", tmp_path / "lora", "--out", tmp_path / "merged"]
    assert main([str(word) for word in command]) == 0
    merged = read_model(tmp_path / "merged")
    ours, expected = answer(merged, config), answer(model.eval(), config)
    assert relative_error(ours, expected) < rounding(longest_sum(merged.unet, merged.exemplar_encoder))
    unchanged = read_model(base)
    merge_adapters(unchanged, tmp_path / "lora", scale=0.0)
    name = "conv_in.weight"
    assert torch.equal(unchanged.unet.state_dict()[name], merged.unet.state_dict()[name])


def test_adapters_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    config = config_of(base, tmp_path)
    write_adapters(new_model(config, CPU, True), config.lora, tmp_path / "lora", "card")
    wider = load_config(TrainConfig, write_config(tmp_path), ["model.unet.block_out_channels=[8, 32]"])
    with pytest.raises(UserError, match="give the model folder that the adapters were trained on"):
        merge_adapters(build_model(wider.model, 0), tmp_path / "lora")
    with pytest.raises(UserError, match=r"pytorch_lora_weights\.safetensors does not exist"):
        merge_adapters(build_model(wider.model, 0), tmp_path)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("[attn2.to_q]", "attn2.to_q includes the cross-attention's query or key"),
        ("[to_k]", "to_k includes the cross-attention's query or key"),
        ("[attn3.to_v]", r"the UNet has no layer attn3\.to_v"),
    ],
)
def test_targets_that_cannot_learn_are_refused(base: Path, tmp_path: Path, targets: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        new_model(config_of(base, tmp_path, f"lora.targets={targets}"), CPU, True)


def test_adapters_need_a_model_that_can_edit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lora needs model\.init\.model_folder.*blind to the hole"):
        load_config(
            TrainConfig, write_config(tmp_path), ["lora.rank=4", "model.init.stable_diffusion=sd.ckpt"]
        )
    with pytest.raises(UsageError, match=r"no base given: lora adapts a model; add model\.init\.model_fol"):
        require_paths(
            load_config(TrainConfig, write_config(tmp_path), ["lora.rank=4", "data.shards=x", "run=y"])
        )


@pytest.fixture(scope="module")
@starts_processes
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Adapters trained in bf16 over a base in fp32 and in bf16; `resumed` in two calls."""
    root = tmp_path_factory.mktemp("runs")
    config, shards = write_config(root), make_shards(root / "shards")
    common = [f"model.init.model_folder={base}", f"data.shards={shards}", "max_steps=4", "precision=bf16"]
    common += ["lora.rank=2", "preview={every_steps: 2, num_images: 2, num_inference_steps: 2}"]

    def job(name: str, **more: object) -> dict[str, object]:
        own = [f"run={root / name}", f"lora.base={'fp32' if name == 'fp32' else 'bf16'}"]
        return {"config": str(config), "overrides": [*common, *own], **more}

    launch(root, "lora", [job("fp32"), job("bf16"), job("resumed", stop_after=2), job("resumed")])
    return Runs(root)


@pytest.mark.parametrize("name", ["bf16", "resumed"])
def test_a_base_in_bf16_changes_no_number(runs: Runs, name: str) -> None:
    assert runs.losses(name) == runs.losses("fp32")
    ours, theirs = (load_file(runs.root / own / "lora" / ADAPTERS) for own in (name, "fp32"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (runs.root / name / "previews" / "step-00000004.png").is_file()


def test_a_base_in_bf16_takes_half_the_memory(base: Path, tmp_path: Path) -> None:
    whole, half = (
        count(config_of(base, tmp_path, "precision=bf16", f"lora.base={precision}")).frozen_bytes
        for precision in ("fp32", "bf16")
    )
    model = new_model(config_of(base, tmp_path), CPU, False)
    halved = halve_base(EditTrainee(model))
    assert whole - half == 2 * halved > 0
    assert {p.dtype for p in model.unet.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "lora.base=bf16 needs precision=bf16"),
        (["precision=bf16", "zero_stage=3"], "needs zero_stage=0, 1 or 2"),
    ],
)
def test_a_base_in_bf16_where_it_cannot_be_is_refused(
    base: Path, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        config_of(base, tmp_path, "lora.base=bf16", *overrides)
