"""What is learned: inputs, targets and weights of the loss."""
