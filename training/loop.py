"""The training run, from top to bottom."""

from pathlib import Path

from intarsia.config import dump_config
from training.checkpoint.resume import begin_or_continue
from training.checkpoint.saver import Saver
from training.checkpoint.snapshots import begin_snapshots
from training.config import TrainConfig, batch_shape
from training.data.batches import open_dataset, use_latents
from training.finish import write_model
from training.model.base_hash import content_hashes, weights_facts
from training.model.build import new_model, twin_of
from training.objective.preparation import Preparation
from training.objective.task import task_of
from training.optimizer import engine
from training.optimizer.ema import KEY
from training.optimizer.fragments import gather
from training.ranks.distributed import EXIT_AGAIN, StopFlag, World
from training.run.agreement import agree
from training.run.state import RunFolder, fresh_state
from training.tracking.losses import Losses, note_skip
from training.tracking.previews import due_preview, fixed_requests, write_preview
from training.tracking.progress import ProgressLine, about_update, log, start_logging, tell_plan, whereabouts
from training.tracking.stopwatch import Stopwatch, seconds_at_peak
from training.tracking.tracker import make_tracker
from training.tracking.validation import Validation


def train(config: TrainConfig, world: World, stop: StopFlag) -> int:
    """Run, or continue, the training of a run folder. Collective.

    Returns:
        0 when max_steps are done and RUN/model is written; 75 when a signal stopped the run after a save.

    Raises:
        UserError: for anything that the user can correct.
    """
    run = RunFolder(Path(str(config.run)))
    shape = batch_shape(config, world.size)
    start_logging(run, world)

    # Data: a position in one global order says which samples come next.
    dataset = open_dataset(config)

    # Model: the trained part goes into the engine, the frozen part stays outside.
    task, model = task_of(config), new_model(config, world.device, world.is_main)
    use_latents(config, dataset, model)
    agree(world, weights_facts(model, config))
    fresh = fresh_state(config, shape, dataset.shards, **content_hashes(model, world))
    trainer = engine.start_engine(config, shape, task.trainee(model))
    prepare = Preparation(config, model, world.device)

    # Begin, or go on from the newest whole checkpoint.
    state = begin_or_continue(trainer, fresh, run, world)
    tracker = make_tracker(config, run, state, world.is_main)
    if world.is_main:
        run.keep_config(dump_config(config))
        tell_plan(config, shape, state, dataset.order.total, model)
    stride = shape.global_batch
    span = range(state.position, state.position + (config.max_steps - state.step) * stride, stride)
    data = prepare.batches(dataset, shape, world.rank, span)
    requests = fixed_requests(dataset, config) if world.is_main else []
    saver = Saver(run.checkpoints, config.checkpoint, world, begin_snapshots(config, run, state, world))
    progress = ProgressLine(config.max_steps, world.is_main)
    losses = Losses(trainer.module, task, config.model.noise.num_train_timesteps, state, world)
    watch = Stopwatch(trainer.module, shape, world.device, seconds_at_peak(config, world))
    validation = Validation(config, dataset, world)
    world.when_stalled(lambda sentence: tracker.event(state.step, "stalled", sentence))

    def preview_if_due() -> None:
        path = due_preview(config, run, state.step, world)
        if path is None:
            return
        weights = gather(trainer, KEY, keep=world.is_main)
        if world.is_main:
            edits = write_preview(twin_of(config, model, weights), requests, config.preview, path)
            tracker.preview(state.step, path, edits)
        world.barrier()

    preview_if_due()
    watch.restart()
    stopped = world.any(stop.raised)
    while state.step < config.max_steps and not stopped:
        # Fetch; loss, forwards and backwards, micro-batch by micro-batch.
        micro_losses, seen = [], []
        for accum in range(shape.accum):
            world.at(f"loading data, step {state.step + 1}")
            with watch.waiting():
                batch = next(data)
            world.at(f"computing, step {state.step + 1}")
            loss, sick = engine.backward(trainer, task, prepare(batch), last=accum + 1 == shape.accum)
            watch.lap("backward")
            micro_losses.append(loss)
            seen.append((batch.keys, sick))

        # Step.
        update = engine.take_step(trainer, config, state.step)
        watch.lap("optimizer")
        world.at(f"logging and saving, step {state.step + 1}")
        state.step += 1
        state.position += stride
        if update.applied:
            losses.keep(micro_losses)
            state.skipped_in_a_row = 0
        else:
            losses.drop()
            tracker.event(state.step, "skipped", f"no finite gradient; the samples are in {run.skipped}")
            note_skip(config, run, world, state, seen)
        watch.images += stride
        done = state.step == config.max_steps

        # Log.
        if state.step % config.log_every == 0 or done:
            values = {
                **losses.values(),
                **about_update(config, update, state),
                **watch.values(),
                **whereabouts(dataset.order, state.position),
                **validation.values(trainer, model, state.step),
            }
            tracker.log(state.step, values)
            progress.show(state.step, values)
            watch.restart()

        # Preview; not when time is short: the next call makes up for it.
        stopped = world.any(stop.raised)  # a signal to any rank stops all of them, after the same step
        with watch.paused():
            if not stopped:
                preview_if_due()

            # Save; training continues while the files are written.
            saver.poll()
            if state.step % config.checkpoint.every_steps == 0 or done or stopped:
                losses.take_up()
                saver.start(trainer, state)

    saver.finish()
    progress.close()
    if state.step < config.max_steps:
        tracker.close(state.step, finished=False)
        log.info("stopped by a signal after step %d; run the same command again to go on", state.step)
        return EXIT_AGAIN
    if world.is_main:
        write_model(model, config, state, run)
    tracker.close(state.step, finished=True)
    world.barrier()
    return 0
