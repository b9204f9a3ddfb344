"""The training loop: the same for every stage, every model and every mesh.

It opens a session (model, optimizer, data), runs steps until the end or until somebody asks it to stop, and lets
`outcome.py` finish.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vlmforge.checkpoint.steps import list_steps
from vlmforge.config.derived import BatchSizes
from vlmforge.config.schema import Config
from vlmforge.data.bad import format_sample_id
from vlmforge.data.forecast import forecast_lines
from vlmforge.data.images import ImageRule
from vlmforge.data.lengths import measure_train_lengths
from vlmforge.data.loader import StepBatch, num_steps
from vlmforge.data.mixture import Lengths
from vlmforge.errors import EXIT_INTERRUPTED, EXIT_OK, DataError
from vlmforge.models.images import build_image_rule
from vlmforge.models.tokenizer import build_tokenizer
from vlmforge.observe.memory import peak_memory_gib
from vlmforge.observe.progress import Progress
from vlmforge.parallel.heap import reserve_huge_pages
from vlmforge.parallel.mesh import World, open_world
from vlmforge.parallel.reduce import any_rank
from vlmforge.parallel.watch import at_step, doing
from vlmforge.train.full_disk import tell_full_disk
from vlmforge.train.interrupt import Stopped, watch_signals
from vlmforge.train.lost import settle_lost
from vlmforge.train.optimizer import learning_rates
from vlmforge.train.outcome import export, finish, measure_before, save, validate
from vlmforge.train.run_folder import completed_steps, find_run, read_lengths
from vlmforge.train.schedule import lr_factor
from vlmforge.train.session import Records, Session, open_records, open_session
from vlmforge.train.shortage import tell_shortage
from vlmforge.train.step import StepResult, train_step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train(config: Config, sizes: BatchSizes) -> int:
    """Train a recipe on the ranks that are running; every rank calls this.

    Returns:
        0 when the run is done or stopped where it was told to, 130 when it was interrupted and saved.

    Raises:
        VlmforgeError: data, a checkpoint or the training itself is wrong.
    """
    run = find_run(config)
    # From here on a signal is a wish: even while the weights are loading it must not tear the ranks apart.
    with watch_signals() as wish, _join(config, sizes) as world:
        torch.use_deterministic_algorithms(config.run.deterministic)
        if world.device.type == "cpu" and config.stage.adapter is not None:
            reserve_huge_pages()
        tokenizer = build_tokenizer(config.model)
        image_rule = build_image_rule(config.model, tokenizer)
        lengths = read_lengths(run) or measure_train_lengths(config, tokenizer, image_rule)
        total_steps = _count_steps(config, tokenizer, image_rule, world, lengths)
        if config.checkpointing.resume == "auto" and completed_steps(run) == total_steps:
            done = (
                f"already complete: {run.path} has its {total_steps} steps, whatever the mesh; nothing is trained now"
            )
            _say(world, f"{done}; run.name=NAME starts a new run")
            return EXIT_OK
        shown = Progress(total_steps, every_steps=config.logging.every_steps, enabled=world.is_main)
        with tell_full_disk(run.checkpoints), shown as progress:
            with tell_shortage(config, world, "load", "loading the model"), doing("loading", waits=False):
                session = open_session(
                    config, sizes, world, run, tokenizer, image_rule, total_steps, progress, lengths, wish
                )
            with open_records(session, progress) as records:
                with suppress(Stopped):
                    return _run(session, records)
                # Not while the exception lives: it holds the model that was scored, and the batch that was measured.
                return _stop(session, records, is_interrupted=True)


def _join(config: Config, sizes: BatchSizes) -> AbstractContextManager[World]:
    launch = config.launch
    return open_world(sizes.axes, launch.device, launch.timeout_seconds, launch.preflight_seconds)


def _run(session: Session, records: Records) -> int:
    with tell_shortage(session.config, session.world, "score", "measuring before the first step"):
        measure_before(session, records)
    step_batches = iter(session.loader)
    while session.state.step < session.total_steps:
        stop_after = session.config.run.stop_after_steps
        is_interrupted = any_rank(session.wish.is_set, session.world.device)
        if is_interrupted or (stop_after is not None and session.state.step >= stop_after):
            return _stop(session, records, is_interrupted)
        try:
            _one_step(session, records, step_batches)
        except DataError:
            _save_alone(session, records)
            raise
    with tell_shortage(session.config, session.world, "score", "exporting and scoring"):
        finish(session, records)
    return EXIT_OK


def _count_steps(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    image_rule: ImageRule | None,
    world: World,
    lengths: Lengths | None,
) -> int:
    if config.stage.max_epochs is not None and config.stage.packing != "none":
        _say(world, "counting packed rows ...")
    for line in forecast_lines(config, lengths):
        _say(world, line)
    return num_steps(config, tokenizer, lengths, image_rule)


def _say(world: World, text: str) -> None:
    if world.is_main:
        print(text, flush=True)


def _one_step(session: Session, records: Records, step_batches: Iterator[StepBatch]) -> None:
    """Fetch, train, record, and at intervals validate, save and export."""
    config, step = session.config, session.state.step + 1
    start = time.perf_counter()
    at_step(step)
    with doing("data", waits=False):
        batch = next(step_batches)
    waited = time.perf_counter() - start
    batch = _share_losses(batch, session.world)
    rates, result = _update(session, batch, step)
    session.validation_loss = None
    line = _measurements(session, result, rates, time.perf_counter() - start, waited)
    is_last, is_stopped = step == session.total_steps, False
    if is_last or _is_due(step, config.evaluate.every_steps):
        with tell_shortage(config, session.world, "score", f"validating after step {step}"):
            is_stopped = not _validated(session, records, line)
    records.write_step(line, batch)
    # After the record, which says what is wrong with each bad sample.
    session.ledger.check_bad_ratio(config.data.max_bad_ratio, session.loader.samples_per_epoch)
    with tell_shortage(config, session.world, "save", f"saving after step {step}"):
        _keep(session, records, is_last)
    if is_stopped:
        raise Stopped


def _validated(session: Session, records: Records, line: dict[str, Any]) -> bool:
    """Add the validation loss to a line of metrics; False when the run was told to stop before it was known."""
    try:
        line |= validate(session, records)
    except Stopped:
        records.progress.message(f"step {line['step']} is left without a validation: the run was told to stop")
        return False
    return True


def _share_losses(batch: StepBatch, world: World) -> StepBatch:
    """The step's data with what any rank had to leave out of it."""
    if batch.lost is None:
        return batch
    lost = settle_lost(batch.ledger, batch.lost, world)
    gone = {format_sample_id(sample.left_out.source, sample.left_out.index) for sample in lost}
    return replace(batch, sample_ids=tuple(name for name in batch.sample_ids if name not in gone))


def _keep(session: Session, records: Records, is_last: bool) -> None:
    """Save and export where it is due; the end of the run exports by itself."""
    config, step = session.config, session.state.step
    if is_last or _is_due(step, config.checkpointing.every_steps):
        save(session, records)
    every_export = config.checkpointing.export
    if isinstance(every_export, int) and _is_due(step, every_export) and not is_last:
        export(session, records)


def _update(session: Session, batch: StepBatch, step: int) -> tuple[dict[str, float], StepResult]:
    """Train one step and move the session's position behind it; returns the learning rates used, by metric."""
    config, state = session.config, session.state
    # Dropout depends on the step and a rank's tokens only, so a resumed run draws what the whole run would have drawn.
    torch.manual_seed(_derive_seed(config.run.seed, step, session.world.token_rank))
    factor = lr_factor(config.stage.schedule, step, session.total_steps, config.stage.global_batch_size)
    largest = max(micro_batch.num_tokens for micro_batch in batch.micro_batches)
    with tell_shortage(config, session.world, "step", f"step {step}", largest):
        result = train_step(
            state.root,
            state.optimizer,
            batch.micro_batches,
            step=step,
            lr_factor=factor,
            max_grad_norm=config.stage.optimizer.max_grad_norm,
            world=session.world,
        )
    session.ledger.add(batch.ledger)
    state.step = step
    state.num_tokens_seen += result.num_tokens
    state.data = state.data | {"position": batch.state, "ledger": session.ledger.as_dict()}
    return learning_rates(config.stage.optimizer, factor), result


def _measurements(
    session: Session, result: StepResult, rates: dict[str, float], step_time_seconds: float, data_wait_seconds: float
) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    tokens_per_second = result.num_tokens / step_time_seconds
    limit = session.peak_flops * session.world.world_size
    return {
        "step": session.state.step,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        **rates,
        "num_tokens": result.num_tokens,
        "num_label_tokens": result.num_label_tokens,
        "tokens_per_second": tokens_per_second,
        "step_time_seconds": step_time_seconds,
        "data_wait_seconds": data_wait_seconds,
        "peak_memory_gib": peak_memory_gib(session.world.device.type),
        "mfu_ratio": tokens_per_second * session.flops_per_token / limit,
    }


def _is_due(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step % every_steps == 0


def _derive_seed(seed: int, step: int, token_rank: int) -> int:
    digest = hashlib.sha256(f"{seed}/{step}/{token_rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _save_alone(session: Session, records: Records) -> None:
    """Keep the steps that are done when the data stops the run; several ranks need not all be stopped by it."""
    step, folder = session.state.step, session.run.checkpoints
    if session.world.world_size == 1 and step > 0 and step not in list_steps(folder):
        save(session, records)
        records.progress.message(f"stopped after step {step} of {session.total_steps}; state saved in {folder}")


def _stop(session: Session, records: Records, is_interrupted: bool) -> int:
    """Save between two steps and leave the run to be continued."""
    save(session, records)
    where = f"after step {session.state.step} of {session.total_steps}; state saved in {session.run.checkpoints}"
    if is_interrupted:
        records.progress.message(f"interrupted {where}; the same command goes on from there")
        return EXIT_INTERRUPTED
    records.progress.message(f"stopped {where}; without run.stop_after_steps the same command goes on from there")
    return EXIT_OK
