"""The learning rate as a pure function of the step."""

from training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The learning rate of the update that follows `step` finished updates.

    Linear from warmup_start × lr at step 0 to lr at warmup_steps, then constant: the schedule Paint by
    Example was trained with.
    """
    if step >= config.warmup_steps:
        return config.lr
    share = config.warmup_start + (1 - config.warmup_start) * step / config.warmup_steps
    return config.lr * share
