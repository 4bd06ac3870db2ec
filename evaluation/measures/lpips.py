"""LPIPS (Zhang et al. 2018), version 0.1: a backbone's features, normalised, compared by learned weights.

The backbones are torchvision's, with the same parameter names; the learned weights, a few kilobytes, are
the authors' (BSD-2-Clause).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.pretrained import State, load_strictly, without_prefix

Net = Literal["alex", "vgg", "squeeze"]

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
# Layers whose outputs are compared, by their number in torchvision's `features`.
_TAPS = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
_WIDTHS = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}


class Fire(nn.Module):
    """SqueezeNet's module: a narrow 1 × 1 convolution, then 1 × 1 and 3 × 3 ones side by side."""

    def __init__(self, inputs: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 2 wide, H, W]."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class Lpips(nn.Module):
    """The distance of pictures."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.features = _BACKBONES[net]()
        self.linear = nn.ParameterList(torch.empty(1, width, 1, 1) for width in _WIDTHS[net])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
        """The distance of each pair.

        Args:
            a: [B, 3, H, W] in [-1, 1].
            b: same shape and range.
            where: [B, 1, H, W], 1 = inside the mean; each layer's differences are enlarged to the picture and
                averaged there. None = mean over all of each layer, as published.

        Returns:
            [B].
        """
        distance = torch.zeros(len(a), device=a.device)
        for weight, x, y in zip(self.linear, self.layers(a), self.layers(b), strict=True):
            difference = (weight * (_unit(x) - _unit(y)) ** 2).sum(1, keepdim=True)
            if where is None:
                distance = distance + difference.mean((1, 2, 3))
            else:
                difference = F.interpolate(difference, where.shape[2:], mode="bilinear", align_corners=False)
                distance = distance + (difference * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
        return distance

    def layers(self, x: Tensor) -> list[Tensor]:
        """The compared features of pictures [B, 3, H, W] in [-1, 1]."""
        x = (x - self.shift) / self.scale
        outputs = []
        for number, layer in enumerate(self.features[: _TAPS[self.net][-1] + 1]):
            x = layer(x)
            if number in _TAPS[self.net]:
                outputs.append(x)
        return outputs


def load_lpips(net: Net, backbone: State, linear: State, where: tuple[str, str]) -> Lpips:
    """The network with torchvision's backbone (classifier left aside) and the authors' linear weights.

    Args:
        net: name of the backbone.
        backbone: `features.*` of torchvision's file.
        linear: `lin{i}.model.1.weight` of the authors' file.
        where: names of the two files, for errors.

    Raises:
        UserError: for weights of another network.
    """
    network = Lpips(net)
    load_strictly(network.features, without_prefix(backbone, "features."), where[0])
    names = {f"lin{number}.model.1.weight": str(number) for number in range(len(network.linear))}
    load_strictly(network.linear, {names.get(name, name): value for name, value in linear.items()}, where[1])
    return network.eval()


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + _EPSILON)


def _alex() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2)

    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), pool()),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool()),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), pool()),
    )


def _vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _squeeze() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool()),
        *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


_BACKBONES = {"alex": _alex, "vgg": _vgg, "squeeze": _squeeze}
