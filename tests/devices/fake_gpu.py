"""The pieces of training and sampling on tensors that say they are on a GPU, where there is none.

    python -m tests.devices.fake_gpu GUARD.so

GUARD.so is guard.cpp, compiled. Prints a JSON object: scenario -> error, "" for none. A tensor left on the
CPU, or a dtype that an operation does not take, raises an error as it does on a GPU. Not covered: values,
NCCL, streams, DeepSpeed's engine, inductor, and code that reads a value back (schedulers' steps,
null-condition optimisation).
"""

import ctypes
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

Scenario = Callable[[], object]
FOUR = "model.condition=four"  # the example of docs/extending.md: more tokens than one


def see_a_gpu(guard: Path) -> None:
    """Load the guard, which has to be there before torch is imported."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    libraries = Path(spec.origin).parent / "lib"
    for library in (libraries / "libc10.so", libraries / "libtorch_cpu.so", guard):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import torch

    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.get_device_capability = lambda *_, **__: (9, 0)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False


def main() -> None:
    """Run every scenario."""
    see_a_gpu(Path(sys.argv[1]))
    from torch._subclasses.fake_tensor import FakeTensorMode

    found = {}
    for name, scenario in scenarios().items():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                scenario()
            found[name] = ""
        except Exception as error:  # noqa: BLE001 - the error is the result
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    print(json.dumps(found))


def scenarios() -> dict[str, Scenario]:
    """Scenario by name; those called `mistake: ...` must fail."""
    from torchao.optim.subclass_8bit import get_qmap_signed, get_qmap_unsigned

    from tests.extending import write_example
    from tests.paths import ROOT
    from tests.training.synthetic import write_config

    get_qmap_signed(), get_qmap_unsigned()  # remembered: they read a tensor's values, which fake ones lack
    folder = Path(sys.argv[1]).parent
    tiny = write_config(folder)
    write_example(folder, "four", "intarsia/conditions/four.py", "intarsia/architecture.py")
    sys.path.insert(0, str(folder))
    importlib.import_module("four")  # adds its row
    runs = {
        "tiny": [],
        "tiny lora": ["lora.rank=2", "model.init.model_folder=base"],
        "tiny averages": ["optimizer={ema_kind: post_hoc, ema_decay: null}"],
        "tiny velocities": ["model.noise.prediction_type=v_prediction"],
        "tiny moments in 8 bits": ["optimizer.moments=8bit"],
        "tiny four tokens": [FOUR],
        "tiny four tokens lora": [FOUR, "lora.rank=2", "model.init.model_folder=base"],
    }
    found: dict[str, Scenario] = {}
    for name, more in runs.items():
        for precision in ("fp32", "bf16") if name in ("tiny", "tiny moments in 8 bits") else ("bf16",):
            options = [*more, f"precision={precision}", "micro_batch_size=2"]
            found[f"train {name} {precision}"] = partial(train_step, tiny, options)
    found["train tiny fp8"] = partial(
        train_step, tiny, ["precision=bf16", "speed.fp8=true", "micro_batch_size=2"]
    )
    real = ROOT / "configs" / "train" / "pbe-sd14.yaml"
    found["train the real geometry bf16"] = partial(train_step, real, ["precision=bf16"])
    for dtype in ("float32", "float16", "bfloat16"):
        for more in ([], [FOUR]):
            name = " four tokens" if more else ""
            found[f"sample {dtype}{name}"] = partial(sample, dtype, *more)
            # The walks know nothing of tokens: one method with many is enough.
            for method in ("direct",) if more else ("ddim", "direct", "negative-condition", "ddpm"):
                found[f"invert {method} {dtype}{name}"] = partial(invert, dtype, method, *more)
    for mistake in ("the mask stays on the CPU", "timesteps stay on the CPU", "the autoencoder gets fp32"):
        found[f"mistake: {mistake}"] = partial(train_step, tiny, ["precision=bf16"], mistake)
    return found


def train_step(config_file: Path, overrides: list[str], mistake: str = "") -> None:
    """Prepare a micro-batch, loss, backward, optimizer with averages, and what the trackers compute."""
    from unittest import mock

    import torch
    from torchao.optim.adam import single_param_adam

    from intarsia.config import load_config
    from training.config import TrainConfig
    from training.estimate.trial import made_up_batch
    from training.objective import encode
    from training.objective.draws import draw_batch, noise_levels
    from training.objective.task import task_of
    from training.optimizer import moments8
    from training.optimizer.engine import make_optimizer
    from training.tracking.losses import by_quarter

    cuda = torch.device("cuda", 0)
    weighted = ["objective={min_snr_gamma: 5, mask_weight: 3, offset_noise: 0.1}"]
    config = load_config(TrainConfig, config_file, [*overrides, *weighted])
    with not_fake():  # as the loader gives them: on the CPU, with values
        batch, levels = made_up_batch(config, seed=0), noise_levels(config.model.noise)
        draws = draw_batch(config, batch.positions)
    model = model_on_gpu(config)
    task = task_of(config)
    with planted(encode, mistake):
        step = task.prepare(model, levels, batch, draws, cuda, config.objective)
    if mistake.startswith("timesteps"):
        step.__dict__["timesteps"] = draws.timesteps
    trainee = task.trainee(model)
    bf16 = config.precision == "bf16"
    with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
        prediction = trainee(step)
    task.loss(prediction, step).backward()
    task.sick(prediction, step)
    by_quarter(task.errors(prediction, step), step.timesteps, config.model.noise.num_train_timesteps)
    params = [param for param in trainee.parameters() if param.requires_grad]
    optimizer = make_optimizer(config, params)
    optimizer.begin(params)
    with mock.patch.object(moments8, "_compiled", lambda: single_param_adam):  # inductor needs a GPU
        optimizer.step()
    assert all(param.device == cuda for param in params)


@contextmanager
def not_fake() -> Iterator[None]:
    """Real tensors inside the block."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        yield


@contextmanager
def planted(encode: object, mistake: str) -> Iterator[None]:
    """A mistake in the way from pixels to the trained part's input."""
    from unittest import mock

    plain = {"mask_to_unit": encode.mask_to_unit, "latent_moments": encode.latent_moments}
    wrong = {
        "the mask": ("mask_to_unit", lambda mask: plain["mask_to_unit"](mask).cpu()),
        "the autoencoder": ("latent_moments", lambda vae, image: plain["latent_moments"](vae, image.float())),
    }
    for beginning, (name, function) in wrong.items():
        if mistake.startswith(beginning):
            with mock.patch.object(encode, name, function):
                yield
            return
    yield


def model_on_gpu(config: object) -> object:
    """The model of a run without values, on the GPU that is not there."""
    import torch

    from intarsia.model import EditModel
    from training.estimate import counting
    from training.model.build import choose_trained
    from training.model.speed import lay_out

    with not_fake(), torch.device("meta"):
        model = EditModel(config.model)
        choose_trained(model, config)
    with torch.device("cuda"):
        counting._fake(model)
        if config.precision == "bf16":
            for network in (model.vae, model.image_encoder):
                counting._halve(network)
        lay_out(model.unet, config.speed)
    return model


def edit_model(dtype: str, *overrides: str) -> object:
    """A tiny model to sample with; in float16 the autoencoder stays float32, as `load_model` has it."""
    import torch

    from intarsia.model import EditModel
    from tests.sampling.tiny import tiny_config

    with not_fake(), torch.device("meta"):
        model = EditModel(tiny_config(*overrides))
    from training.estimate import counting

    with torch.device("cuda"):
        counting._fake(model)
        for name, network in model.named_children():
            if not (dtype == "float16" and name == "vae"):
                for module in network.modules():
                    for key, param in module._parameters.items():
                        if param is not None:
                            cast = param.to(getattr(torch, dtype))
                            module._parameters[key] = torch.nn.Parameter(cast, requires_grad=False)
    return model


def encoded(model: object) -> tuple[object, object, object]:
    """An encoder, a condition of two rows, and latents."""
    import torch

    from sampling.denoise.condition import Encoder

    cuda = torch.device("cuda", 0)
    encoder = Encoder(model, cuda)
    encoder._remembered = lambda memory, rows, encode: encode(rows)  # hashes of fake tensors there are none
    size, cells = model.config.image_size, model.config.latent_size
    image = torch.zeros(2, size, size, 3, dtype=torch.uint8, device="cpu")
    edit_mask = torch.zeros(2, size, size, dtype=torch.uint8, device="cpu")
    exemplar = torch.zeros(2, 224, 224, 3, dtype=torch.uint8, device="cpu")
    noise = torch.zeros(2, 2, model.config.vae.latent_channels, cells, cells, device="cpu")
    told = encoder.told(list(exemplar), ["", ""])
    condition = encoder.condition(image, edit_mask, told, noise[0])
    known = encoder.known(image, edit_mask, noise)
    assert known.latents.device == condition.tokens.device == cuda
    return encoder, condition, noise[1].to(cuda)


def sample(dtype: str, *overrides: str) -> None:
    """Conditions, guidance of rows that are guided and of rows that are not, and the picture."""
    import torch

    from intarsia.conditioning import decode_latents, unit_to_image
    from sampling.denoise.guidance import guided_noise

    model = edit_model(dtype, *overrides)
    with torch.no_grad():
        _, condition, latents = encoded(model)
        for scales in (1.0, 5.0, [5.0, 1.0]):
            noise = guided_noise(model.unet, latents, torch.tensor(401, device="cuda"), condition, scales)
            assert noise.dtype == torch.float32
        pixels = decode_latents(model.vae, latents.to(model.vae.dtype)).float()
        assert unit_to_image(pixels).dtype == torch.uint8


def invert(dtype: str, method: str, *overrides: str) -> None:
    """One method of inversion on latents, with the blend that keeps the surroundings."""
    import torch

    from sampling.methods.inversion import Tokens, new_levels
    from sampling.methods.inversion import invert as walk
    from sampling.methods.run_inversion import model_denoiser
    from sampling.settings import InversionSettings

    model = edit_model(dtype, *overrides)
    with torch.no_grad():
        _, condition, latents = encoded(model)
        with not_fake():
            levels = new_levels(model.config.noise, 2)
        source, target = condition.tokens[:1], condition.tokens[1:]
        tokens = Tokens(source, target, condition.null)
        settings = InversionSettings(method=method, num_inference_steps=2, offset_scale=0.5)
        one = condition.select(torch.zeros(1, dtype=torch.int64, device="cuda"))
        with not_fake():
            alphas_at = model_denoiser(model.unet, one, model.config.noise)
        keep = torch.zeros(1, 1, *latents.shape[-2:], device="cuda")
        noise = torch.zeros(2, *latents[:1].shape, device="cuda")
        found = walk(alphas_at, latents[:1], tokens, settings, levels, keep, noise)
        assert found.edit.device == found.reconstruction.device == latents.device


if __name__ == "__main__":
    main()
