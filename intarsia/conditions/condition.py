"""The condition of a batch, the same object in training and in sampling, and the interface of its kinds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.architecture import CONDITIONS, ModelConfig


@dataclass(frozen=True)
class Part:
    """What the UNet is told in tokens by one source, such as the exemplar or the prompt.

    Attributes:
        name: name of the part, one of `ModelConfig.parts`.
        tokens: its tokens, [B, n, D].
        null: tokens that mean that nothing is told, [1, n, D].
    """

    name: str
    tokens: Tensor
    null: Tensor

    def with_null(self, dropped: Tensor) -> "Part":
        """The same part with null tokens in the rows where `dropped`, bool [B], is true."""
        tokens = torch.where(dropped[:, None, None], self.null.to(self.tokens.dtype), self.tokens)
        return Part(self.name, tokens, self.null)

    def select(self, rows: Tensor, told: bool) -> "Part":
        """The rows with indices `rows`, int64 [R]; with null tokens if they are not told."""
        tokens = self.tokens[rows] if told else self.null.expand(len(rows), -1, -1)
        return Part(self.name, tokens, self.null)


@dataclass(frozen=True)
class Condition:
    """The UNet's inputs besides noisy latents and timesteps.

    Attributes:
        parts: parts of the cross-attention's context, in its order.
        channels: input channels after the noisy latents, [B, K, h, w] (`conditioning.known_channels`); K = 0
            for a UNet that does not see the picture.
        levels: of an upsampler, levels of the low-resolution pictures' noise, int64 [B]; None for others.
    """

    parts: tuple[Part, ...]
    channels: Tensor
    levels: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        """The context of the cross-attention, [B, n, D]: the tokens of all parts, one after the other."""
        return _joined([part.tokens for part in self.parts])

    @property
    def null(self) -> Tensor:
        """The context that tells nothing, [1, n, D]."""
        return _joined([part.null for part in self.parts])

    def with_null(self, dropped: Mapping[str, Tensor]) -> "Condition":
        """The same condition with parts dropped in some rows: part name -> bool [B]."""
        parts = [part.with_null(dropped[part.name]) if part.name in dropped else part for part in self.parts]
        return replace(self, parts=tuple(parts))

    def with_tokens(self, tokens: Tensor) -> "Condition":
        """The same channels with another context [R, n, D]; a single row of channels is repeated R times."""
        whole = Part("whole", tokens, self.null)
        levels = None if self.levels is None else self.levels.expand(len(tokens))
        return Condition((whole,), self.channels.expand(len(tokens), -1, -1, -1), levels)

    def select(self, rows: Tensor, told: Collection[str] | None = None) -> "Condition":
        """The rows with indices `rows`, int64 [R]; only the parts in `told` are told, by default all."""
        parts = [part.select(rows, told is None or part.name in told) for part in self.parts]
        levels = None if self.levels is None else self.levels[rows]
        return Condition(tuple(parts), self.channels[rows], levels)

    def predict(self, unet: nn.Module, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """The UNet's prediction [B, C, h, w] for noisy latents [B, C, h, w] at timesteps, [B] or a scalar."""
        model_input = torch.cat([noisy_latents, self.channels], dim=1)
        levels = {} if self.levels is None else {"class_labels": self.levels}
        answer = unet(model_input, timesteps, encoder_hidden_states=self.tokens, **levels)
        return cast(Tensor, answer.sample)


def stack_rows(*conditions: Condition) -> Condition:
    """The rows of several conditions in order; all conditions have the first one's parts and null tokens."""
    parts = [
        Part(same[0].name, torch.cat([part.tokens for part in same]), same[0].null)
        for same in zip(*(condition.parts for condition in conditions), strict=True)
    ]
    levels = [condition.levels for condition in conditions if condition.levels is not None]
    channels = torch.cat([condition.channels for condition in conditions])
    return Condition(tuple(parts), channels, torch.cat(levels) if levels else None)


def _joined(tokens: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(tokens), dim=1) if len(tokens) > 1 else tokens[0]


@dataclass(frozen=True)
class ConditionKind:
    """One kind of condition: how an exemplar becomes tokens; its row in CONDITIONS has their number.

    Attributes:
        feature_shape: function from a model config to the shape of the frozen tower's features of one
            exemplar; `cache-latents` stores these features.
        see: function (model config, frozen tower, exemplars float [B, 3, S, S], normalised) -> features
            [B, *feature_shape].
        encoder: function from a model config to a new trainable encoder, a module that maps features to
            tokens [B, n, D] and has a parameter `null_exemplar` [1, n, D].
    """

    feature_shape: Callable[[ModelConfig], tuple[int, ...]]
    see: Callable[[ModelConfig, Any, Tensor], Tensor]
    encoder: Callable[[ModelConfig], nn.Module]


def condition_kind(config: ModelConfig) -> ConditionKind:
    """How a model that is told an exemplar makes tokens of it; `architecture.CONDITIONS` lists the kinds."""
    return cast(ConditionKind, import_module(str(CONDITIONS[config.condition].module)).KIND)
