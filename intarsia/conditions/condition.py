"""The condition of a batch, the same object in training and in sampling; and what a kind of condition is."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.architecture import CONDITIONS, ModelConfig


@dataclass(frozen=True)
class Condition:
    """What the UNet is told besides the noisy latents.

    Attributes:
        tokens: [B, n, D], the cross-attention's context.
        null: [1, n, D], the tokens that stand for "nothing".
        channels: [B, K, h, w], input channels behind the noisy latents (`conditioning.known_channels`); none
            for a UNet that never sees the picture.
    """

    tokens: Tensor
    null: Tensor
    channels: Tensor

    def with_null(self, dropped: Tensor) -> "Condition":
        """The null tokens in the rows where `dropped`, bool [B], holds."""
        tokens = torch.where(dropped[:, None, None], self.null.to(self.tokens.dtype), self.tokens)
        return Condition(tokens, self.null, self.channels)

    def with_tokens(self, tokens: Tensor) -> "Condition":
        """Other tokens [R, n, D], for as many rows as they have; a single row of channels serves all."""
        return Condition(tokens, self.null, self.channels.expand(len(tokens), -1, -1, -1))

    def null_rows(self, rows: Tensor) -> "Condition":
        """The rows `rows`, int64 [R], with null tokens."""
        return Condition(self.null.expand(len(rows), -1, -1), self.null, self.channels[rows])

    def predict(self, unet: nn.Module, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """The UNet's answer [B, C, h, w] to noisy latents [B, C, h, w] at timesteps [B] or scalar."""
        model_input = torch.cat([noisy_latents, self.channels], dim=1)
        return cast(Tensor, unet(model_input, timesteps, encoder_hidden_states=self.tokens).sample)


def stack_rows(*conditions: Condition) -> Condition:
    """The rows of several conditions with one null, one after the other."""
    return Condition(
        torch.cat([condition.tokens for condition in conditions]),
        conditions[0].null,
        torch.cat([condition.channels for condition in conditions]),
    )


@dataclass(frozen=True)
class ConditionKind:
    """One kind of condition: how an exemplar becomes the tokens that its row in CONDITIONS counts.

    Attributes:
        feature_shape: shape of what the frozen tower says of one exemplar; `cache-latents` stores that.
        see: (frozen tower, exemplars float [B, 3, S, S], normalised) -> features [B, *feature_shape].
        encoder: new trained encoder of a model: a module that maps features to tokens [B, n, D] and has a
            parameter `null_exemplar` [1, n, D].
    """

    feature_shape: Callable[[ModelConfig], tuple[int, ...]]
    see: Callable[[Any, Tensor], Tensor]
    encoder: Callable[[ModelConfig], nn.Module]


def condition_kind(config: ModelConfig) -> ConditionKind:
    """The kind of condition that a model is told; `architecture.CONDITIONS` lists them."""
    return cast(ConditionKind, import_module(CONDITIONS[config.condition].module).KIND)
