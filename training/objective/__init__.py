"""The training objective: inputs, targets and weights of the loss."""
