"""The condition of a batch, the same object in training and in sampling, and the interface of its kinds."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.architecture import CONDITIONS, ModelConfig


@dataclass(frozen=True)
class Condition:
    """The UNet's inputs besides noisy latents and timesteps.

    Attributes:
        tokens: context of the cross-attention, [B, n, D].
        null: tokens that mean "no exemplar", [1, n, D].
        channels: input channels after the noisy latents, [B, K, h, w] (`conditioning.known_channels`); K = 0
            for a UNet that does not see the picture.
    """

    tokens: Tensor
    null: Tensor
    channels: Tensor

    def with_null(self, dropped: Tensor) -> "Condition":
        """The same condition with null tokens in the rows where `dropped`, bool [B], is true."""
        tokens = torch.where(dropped[:, None, None], self.null.to(self.tokens.dtype), self.tokens)
        return Condition(tokens, self.null, self.channels)

    def with_tokens(self, tokens: Tensor) -> "Condition":
        """The same channels with other tokens [R, n, D]; a single row of channels is repeated R times."""
        return Condition(tokens, self.null, self.channels.expand(len(tokens), -1, -1, -1))

    def null_rows(self, rows: Tensor) -> "Condition":
        """The rows with indices `rows`, int64 [R], with null tokens."""
        return Condition(self.null.expand(len(rows), -1, -1), self.null, self.channels[rows])

    def predict(self, unet: nn.Module, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """The UNet's prediction [B, C, h, w] for noisy latents [B, C, h, w] at timesteps, [B] or a scalar."""
        model_input = torch.cat([noisy_latents, self.channels], dim=1)
        return cast(Tensor, unet(model_input, timesteps, encoder_hidden_states=self.tokens).sample)


def stack_rows(*conditions: Condition) -> Condition:
    """The rows of several conditions in order; all conditions share the first one's null tokens."""
    return Condition(
        torch.cat([condition.tokens for condition in conditions]),
        conditions[0].null,
        torch.cat([condition.channels for condition in conditions]),
    )


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
    """The kind of condition of a model; `architecture.CONDITIONS` lists the kinds."""
    return cast(ConditionKind, import_module(CONDITIONS[config.condition].module).KIND)
