"""Models, adapters and shards sent to a Hub on the loopback by huggingface_hub's client, and got again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from huggingface_hub import DatasetCard, ModelCard
from safetensors.torch import load_file

from dataprep.cli import main as dataprep
from intarsia.config import load_config
from intarsia.hub.card import size_category, with_data
from intarsia.lora import kohya_state, merge_adapters
from intarsia.model_folder import ADAPTERS
from intarsia.weights import read_model, save_model
from sampling.cli import main as sampling
from tests.hub_server import Hub, hub_server
from tests.sampling.tiny import files_of, tiny_model
from tests.training.synthetic import make_video_shards, write_config
from training.config import TrainConfig
from training.model.build import new_model
from training.model.lora import write_adapters

Command = Callable[..., subprocess.CompletedProcess[str]]
REPORT = {
    "bench": "COCOEE",
    "expected": 3,
    "columns": [
        {"name": "lpips", "title": "LPIPS", "better": "down", "recipe": "lpips-alex", "digits": 2},
        {"name": "psnr", "title": "PSNR", "better": "up", "recipe": "psnr", "digits": 2},
    ],
    "averages": {"all": {"count": 2, "lpips": [0.25, 0.2, 0.3], "psnr": ["inf", "inf", "inf"]}},
    "figures": [{"column": {"name": "fid", "title": "FID", "recipe": "fid-inception"}, "value": 12.5}],
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Hub, Command]]:
    """The Hub, and a function that runs a command against it."""
    with hub_server() as (hub, address):
        environment = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": hub.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }

        def call(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", *map(str, words)]
            return subprocess.run(
                command, env=environment | more, capture_output=True, text=True, check=False
            )

        yield hub, call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    save_model(tiny_model(), folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video_shards(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model, and adapters of random weights for it, with a scale of 3/2."""
    folder = tmp_path_factory.mktemp("adapters")
    save_model(tiny_model(), folder / "base")
    options = [f"model.init.model_folder={folder / 'base'}", "lora.rank=2", "lora.alpha=3"]
    model_of = yaml.safe_load((Path("configs/model/tiny.yaml")).read_text())["model"]
    path = write_config(folder)
    content = yaml.safe_load(path.read_text()) | {"model": model_of}
    path.write_text(yaml.safe_dump(content))
    config = load_config(TrainConfig, path, options)
    trained = new_model(config, torch.device("cpu"), True)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, param in trained.unet.named_parameters():
            if ".lora_" in name:
                param.normal_()
    write_adapters(trained, config.lora, folder / "lora", "# Adapters\n")
    return folder / "base", folder / "lora"


def done(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.processes
def test_a_model_comes_back_bit_for_bit_and_is_sent_once(
    hub: tuple[Hub, Command], model: Path, tmp_path: Path
) -> None:
    server, call = hub
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    push = ["sampling", "push", model, "lab/tiny", "--licence", "openrail", "--base-model", "lab/sd14"]
    push += ["--dataset", "lab/oi", "--report", tmp_path, "--private"]
    assert "/lab/tiny/commit/" in done(call(*push))
    out = tmp_path / "pulled"
    assert f"{out}: lab/tiny at {server.sha('models/lab/tiny')}" in done(
        call("sampling", "pull", "lab/tiny", out)
    )
    sent = {name: content for name, content in files_of(model).items() if name != "README.md"}
    got = files_of(out)
    assert sent == {name: got[name] for name in sent}
    assert all(
        torch.equal(a, b) for a, b in zip(*(read_model(f).parameters() for f in (model, out)), strict=True)
    )
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "openrail",
        "lab/sd14",
        ["lab/oi"],
    )
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {"lpips": 0.25, "fid": 12.5}
    assert results["lpips"].dataset_name == "COCOEE, 2 of 3 cases"
    assert results["lpips"].metric_args == {"recipe": "lpips-alex"}
    server.asked.clear()
    done(call(*push))
    assert not [line for line in server.asked if line.startswith("PUT")]  # the weights are there


@pytest.mark.processes
def test_a_pull_that_broke_continues_and_another_commit_is_refused(
    hub: tuple[Hub, Command], model: Path, tmp_path: Path
) -> None:
    server, call = hub
    done(call("sampling", "push", model, "lab/tiny", "--licence", "other"))
    out, repo = tmp_path / "pulled", "models/lab/tiny"
    whole = server.repos[repo].pop("unet/diffusion_pytorch_model.safetensors")
    server.repos[repo]["unet/lost"] = b""
    index = server.repos[repo].pop("model_index.json")
    assert "has no model_index.json or" in call("sampling", "pull", "lab/tiny", out).stderr
    assert not out.exists()
    server.repos[repo] |= {"unet/diffusion_pytorch_model.safetensors": whole, "model_index.json": index}
    done(call("sampling", "pull", "lab/tiny", out))
    (out / "model_index.json").unlink()
    (out / "unet/diffusion_pytorch_model.safetensors").unlink()  # as if it had been killed
    done(call("sampling", "pull", "lab/tiny", out))
    assert (out / "unet/diffusion_pytorch_model.safetensors").read_bytes() == whole
    first = server.sha(repo)
    server.commits[repo].append("another")
    run = call("sampling", "pull", "lab/tiny", out)
    assert (run.returncode, f"commit {first} -> {server.sha(repo)}" in run.stderr) == (2, True)
    run = call("sampling", "pull", "lab/tiny", model)
    assert (run.returncode, "has other files; give a folder that does not exist" in run.stderr) == (2, True)


@pytest.mark.processes
def test_shards_come_back_whole_and_the_viewer_finds_the_tars(
    hub: tuple[Hub, Command], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, call = hub
    (shards / ".lock").touch()
    (shards / ".toy.tar.tmp-1").touch()
    assert "/datasets/lab/toy/commit/" in done(
        call("dataprep", "push", shards, "lab/toy", "--licence", "cc-by-2.0")
    )
    assert not [name for name in server.repos["datasets/lab/toy"] if name.startswith(".")]
    out = tmp_path / "pulled"
    assert f"python -m dataprep verify {out}" in done(call("dataprep", "pull", "lab/toy", out))
    assert dataprep(["verify", str(out), "--workers", "1"]) == 0, capsys.readouterr().out
    card = DatasetCard.load(out / "README.md")
    [config] = card.data.to_dict()["configs"]
    assert (card.data.license, card.data.task_categories) == ("cc-by-2.0", ["image-to-image"])
    [files] = config["data_files"]
    assert files["split"] == "train" and list(out.glob(files["path"])) == list(out.glob("*.tar"))
    assert card.text.startswith((shards / "README.md").read_text()[:40])


@pytest.mark.processes
def test_refusals_are_one_sentence(hub: tuple[Hub, Command], model: Path, tmp_path: Path) -> None:
    _, call = hub
    push = ["sampling", "push", model, "lab/tiny", "--licence", "other"]
    refused = {
        "has no model lab/tiny that you may use (401)": call(*push, HF_TOKEN="hf_wrong"),
        "has no model lab/none that you may use (404)": call("sampling", "pull", "lab/none", tmp_path / "a"),
        "is not a name of a repository; write OWNER/NAME": call("sampling", "pull", "a/b/c", tmp_path / "a"),
        "cannot be reached": call(*push, HF_ENDPOINT="http://127.0.0.1:9"),
        "cannot be reached (HF_HUB_OFFLINE is set)": call(*push, HF_HUB_OFFLINE="1"),
        "has no such branch, tag or commit": (
            done(call(*push)),
            call("sampling", "pull", "lab/tiny", tmp_path / "a", "--revision", "v9"),
        )[1],
    }
    for sentence, run in refused.items():
        assert run.returncode in (1, 2) and sentence in run.stderr, (sentence, run.stderr)
        assert run.stderr.strip().count("\n") == 0, run.stderr
    assert not (tmp_path / "a").exists()


def test_adapters_go_with_the_names_of_diffusers_and_of_comfyui(adapters: tuple[Path, Path]) -> None:
    base, folder = adapters
    own, kohya = load_file(folder / ADAPTERS), kohya_state(folder)
    assert all(name.startswith("unet.") for name in own)
    # diffusers reads both names, and finds the same weights.
    read, alphas = _convert_non_diffusers_lora_to_diffusers(dict(kohya))
    assert len(read) == len(own) and set(alphas.values()) == {3.0}
    # ComfyUI (comfy/lora.py) takes lora_unet_LAYER, a layer's name with _ for each dot, and adds
    # alpha / rank * up @ down to its weight: what our merge adds.
    before, after = read_model(base), read_model(base)
    assert 3 * merge_adapters(after, folder) == len(kohya)
    used = 0
    for name, weight in before.unet.named_parameters():
        layer = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        if name.endswith(".weight") and f"{layer}.alpha" in kohya:
            up, down = kohya[f"{layer}.lora_up.weight"], kohya[f"{layer}.lora_down.weight"]
            change = (
                kohya[f"{layer}.alpha"] / down.shape[0] * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
            )
            torch.testing.assert_close(after.unet.get_parameter(name), weight + change, rtol=1e-5, atol=1e-5)
            used += 3
    assert used == len(kohya)


@pytest.mark.processes
def test_pushed_adapters_have_both_files_and_their_base(
    hub: tuple[Hub, Command], adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    server, call = hub
    push = ["sampling", "push", adapters[1], "lab/lora", "--licence", "other", "--base-model", "lab/tiny"]
    done(call(*push))
    assert {ADAPTERS, "lora_kohya.safetensors", "README.md"} <= set(server.repos["models/lab/lora"])
    done(call("sampling", "pull", "lab/lora", tmp_path / "lora"))
    data = ModelCard.load(tmp_path / "lora/README.md").data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("lab/tiny", "adapter")
    assert "lora" in data["tags"]
    assert merge_adapters(read_model(adapters[0]), tmp_path / "lora") > 0


def test_a_dry_run_sends_nothing(model: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sampling(["push", str(model), "lab/tiny", "--licence", "other", "--dry-run"]) == 0
    assert dataprep(["push", str(shards), "lab/toy", "--licence", "other", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert (
        "license: other" in printed and "\nmodel_index.json\n" in printed and "\nmanifest.json\n" in printed
    )


def test_a_folder_that_is_not_finished_is_not_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path), "lab/x", "--licence", "other"]
    assert (sampling(["push", *words]), dataprep(["push", *words])) == (1, 1)
    said = capsys.readouterr().err
    assert "is not a model folder: it has no model_index.json" in said and "is not a shard folder" in said


def test_a_card_keeps_its_own_data_and_text() -> None:
    card = "---\ntags: [a]\npipeline_tag: x\nown: 1\n---\n# Title\n\n---\nrest\n"
    text = with_data(card, {"tags": ["b", "a"], "license": "mit", "pipeline_tag": "y", "base_model": None})
    front, own = text.split("---\n", 2)[1:]
    assert yaml.safe_load(front) == {"tags": ["a", "b"], "pipeline_tag": "y", "own": 1, "license": "mit"}
    assert own == "# Title\n\n---\nrest\n"
    assert with_data("# Plain\n", {"license": "mit"}) == "---\nlicense: mit\n---\n# Plain\n"
    assert [size_category(n) for n in (999, 1000, 10**9)] == ["n<1K", "1K<n<10K", "n>100M"]
