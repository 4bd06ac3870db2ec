"""The hash of a model's frozen networks: whatever is computed with them belongs to no others."""

import torch
from torch import nn

from intarsia.files import fingerprint, sha256_bytes
from intarsia.model import EditModel
from intarsia.model_folder import notes_of


def frozen_hash(model: EditModel, *more: nn.Module) -> str:
    """The sha256 of what stored latents depend on: frozen networks, their geometry, and what they are asked.

    Weights are taken in bfloat16, so that networks which compute in half precision have the hash of their
    own exact weights.

    Args:
        model: model with the networks.
        more: further networks to include, on which stored latents do not depend.
    """
    config = model.config
    parts = [config.image_size, config.vae.model_dump(mode="json"), config.image_encoder.fields()]
    later = {name: note for name, note in notes_of(config).items() if name not in ("structure", "compose")}
    parts += later.values()
    networks = [network for network in (model.vae, model.image_encoder) if network is not None]
    for network in [*networks, *more]:
        for name, value in sorted(network.state_dict().items()):
            if value.is_floating_point():
                plain = value.detach().to("cpu", torch.bfloat16).contiguous()
                flat = plain.view(torch.int16).numpy().reshape(-1)
                parts.append([name, sha256_bytes(memoryview(flat).cast("B"))])
    return fingerprint(parts)
