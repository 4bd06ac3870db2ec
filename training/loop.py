"""The training run: the page that tells the story."""

from pathlib import Path

import torch

from intarsia.config import dump_config
from training import checkpoint, engine
from training.config import TrainConfig, batch_shape
from training.data import batches, open_dataset, use_latents
from training.distributed import EXIT_AGAIN, StopFlag, World
from training.ema import averaged_weights
from training.finish import write_model
from training.model import new_model
from training.objective import Trainee, draw_batch, finite, new_noise_scheduler, prepare
from training.previews import fixed_requests, write_preview
from training.progress import Progress, Stopwatch, log, peak_memory_gb, start_logging, tell_plan
from training.state import RunFolder, TrainState, library_versions, shards_fingerprint
from training.tracker import make_tracker


def train(config: TrainConfig, world: World, stop: StopFlag) -> int:
    """Run, or continue, the training of a run folder. Collective.

    Returns:
        0 when max_steps are done and RUN/model is written; 75 when a signal stopped the run after a save.

    Raises:
        UserError: for anything the user can put right.
    """
    run = RunFolder(Path(str(config.run)))
    shape = batch_shape(config, world.size)
    start_logging(run, world)

    # Data: a position in one global order says which samples come next.
    dataset = open_dataset(config)

    # Model: the trained part goes into the engine, the frozen part stays outside.
    model = new_model(config, world.device, world.is_main)
    use_latents(config, dataset, model)
    trainer = engine.start_engine(config, shape, Trainee(model))
    noise_scheduler = new_noise_scheduler(config.model.noise)
    averaging = config.optimizer.ema_decay is not None

    # Begin, or go on from the newest whole checkpoint.
    fresh = TrainState(
        world_size=world.size,
        zero_stage=config.zero_stage,
        data_fingerprint=shards_fingerprint(dataset.reader.shards),
        config=config.model_dump(mode="json"),
        libraries=library_versions(),
    )
    state = checkpoint.begin_or_continue(trainer, fresh, run, world)
    tracker = make_tracker(config, run, state, world.is_main)
    if world.is_main:
        run.keep_config(dump_config(config))
        tell_plan(config, shape, state, dataset.order.total, model)
    stride = shape.global_batch
    span = range(state.position, state.position + (config.max_steps - state.step) * stride, stride)
    data = batches(config.data, dataset, shape, world.rank, span)
    every = config.preview.every_steps
    requests = fixed_requests(dataset, config.preview.num_images) if every and world.is_main else []
    progress, watch = Progress(config.max_steps, world.is_main), Stopwatch()
    losses: list[torch.Tensor] = []  # of this rank, since the last line of metrics or checkpoint

    def take_up_losses() -> None:
        if losses:
            state.unlogged_losses += finite(world.mean(torch.stack(losses).tolist()), state.step)
            losses.clear()

    def preview_if_due() -> None:
        path = run.previews / f"step-{state.step:08d}.png"
        due = every and (state.step % every == 0 or state.step == config.max_steps)
        if not due or world.from_main(path.is_file()):
            return
        with averaged_weights(trainer, averaging, world.is_main):
            if world.is_main:
                write_preview(model, requests, config.preview, path)
                tracker.image(state.step, "preview", path)
        world.barrier()

    preview_if_due()
    watch.restart()
    stopped = world.any(stop.raised)
    while state.step < config.max_steps and not stopped:
        # Fetch; loss, forwards and backwards, micro-batch by micro-batch.
        micro_losses = []
        for accum in range(shape.accum):
            with watch.waiting():
                batch = next(data)
            draws = draw_batch(config, batch.positions)
            inputs = prepare(model, noise_scheduler, batch, draws, world.device, config.objective)
            micro_losses.append(engine.backward(trainer, inputs, last=accum + 1 == shape.accum))

        # Step.
        update = engine.take_step(trainer, config, state.step)
        losses.append(torch.stack(micro_losses).mean())
        state.step += 1
        state.position += stride
        watch.images += stride
        done = state.step == config.max_steps

        # Log.
        if state.step % config.log_every == 0 or done:
            take_up_losses()
            values = {
                "train/loss": sum(state.unlogged_losses) / len(state.unlogged_losses),
                "train/lr": update.lr,
                "train/grad_norm": float(update.grad_norm),
                **watch.values(),
                "memory/peak_gb": peak_memory_gb(world.device.type),
            }
            tracker.log(state.step, values)
            progress.show(state.step, values, watch.seconds() / watch.images * stride)
            state.unlogged_losses = []
            watch.restart()

        # Preview; not when time is short: the next call makes up for it.
        stopped = world.any(stop.raised)  # a signal to any rank stops all of them, after the same step
        with watch.paused():
            if not stopped:
                preview_if_due()

            # Save.
            if state.step % config.checkpoint.every_steps == 0 or done or stopped:
                take_up_losses()
                checkpoint.save(trainer, state, run.checkpoints, world, config.checkpoint.keep_last)

    progress.close()
    tracker.close()
    if state.step < config.max_steps:
        log.info("stopped by a signal after step %d; run the same command again to go on", state.step)
        return EXIT_AGAIN
    with averaged_weights(trainer, averaging, world.is_main):
        if world.is_main:
            write_model(model, config, state, run)
    world.barrier()
    return 0
