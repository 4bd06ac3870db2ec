"""The learning rate as a pure function of the step."""

from training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The learning rate of the update that follows `step` finished updates.

    Linear from warmup_start × lr at step 0 to lr at warmup_steps, then constant: the schedule Paint by
    Example was trained with. With decay_until it falls from there in a line, to decay_to × lr at that step.
    """
    if step < config.warmup_steps:
        return config.lr * _between(config.warmup_start, 1.0, step / config.warmup_steps)
    if config.decay_until is None:
        return config.lr
    done = (step - config.warmup_steps) / (config.decay_until - config.warmup_steps)
    return config.lr * _between(1.0, config.decay_to, min(done, 1.0))


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
