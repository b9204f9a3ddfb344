"""What a run leaves besides its steps: checkpoints, exports, scores before and after, a picture of the loss."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from vlmforge.checkpoint.store import prune
from vlmforge.data.collate import Batch
from vlmforge.data.held_out import ValidationLoader, validation_samples
from vlmforge.data.ledger import Ledger
from vlmforge.data.media import Media
from vlmforge.data.sample import content_media
from vlmforge.errors import DataError, Problem
from vlmforge.generate.load import stop_ids
from vlmforge.models.adapters import adapter_updates
from vlmforge.models.export import export_adapter, export_model
from vlmforge.observe.files import write_json
from vlmforge.observe.metrics import read_metrics
from vlmforge.observe.plot import collect_points, save_loss_curve
from vlmforge.parallel.mesh import barrier
from vlmforge.parallel.reduce import any_rank
from vlmforge.parallel.watch import doing
from vlmforge.train.interrupt import Stopped
from vlmforge.train.lost import settle_lost
from vlmforge.train.run_folder import mark_complete
from vlmforge.train.scoring import score_tasks
from vlmforge.train.session import Records, Session, base_folder, starting_folder
from vlmforge.train.validation import validation_loss

# A longer prompt is not repeated in the command that is suggested, in characters.
MAX_SHOWN_PROMPT = 120


def validate(session: Session, records: Records) -> dict[str, float]:
    """`validation_loss`, or nothing without validation data.

    Raises:
        DataError: as in training, or nothing is left to validate on.
    """
    config, world = session.config, session.world
    if not config.data.validation:
        return {}
    loader = ValidationLoader(config, session.tokenizer, world.data_rank, world.num_data_ranks, session.image_rule)
    with records.progress.status("validating") as tell:
        loss = validation_loss(session.state.root, _watch(loader, session, tell), world)
        if session.image_rule is not None:
            settle_lost(loader.ledger, loader.lost, world)
    _record_held_out(session, records, loader.ledger)
    # All of it was seen, so there is no number of rows to wait for.
    loader.ledger.check_bad_ratio(config.data.max_bad_ratio, 0, "data.validation")
    if loss is None:
        raise DataError(_nothing_held_out())
    session.validation_loss = loss
    return {"validation_loss": loss}


def _watch(loader: ValidationLoader, session: Session, tell: Callable[[int, int], None]) -> Iterator[Batch]:
    """The batches, until the run is told to stop; says how many of the samples are done.

    Raises:
        Stopped: on every rank.
    """
    num_done, world = 0, session.world
    for batch in loader:
        if any_rank(session.wish.is_set, world.device):
            raise Stopped
        yield batch
        num_done += len(batch.sample_ids) * world.num_data_ranks
        tell(min(num_done, loader.num_samples), loader.num_samples)


def _nothing_held_out() -> Problem:
    fix = "stage.seq_len=<more>, or data.on_too_long=error and data.on_bad_sample=error to see what is wrong"
    return Problem("no label token of data.validation is left to validate on", "data.validation", fix)


def _record_held_out(session: Session, records: Records, ledger: Ledger) -> None:
    """Write and say what was left out of a validation, where it is not what was left out of the last one."""
    before, session.validation_ledger = session.validation_ledger, ledger
    session.state.data = session.state.data | {"validation_ledger": ledger.as_dict()}
    # A ledger that comes from a checkpoint has counts, and not every sample.
    if ledger.has_left_out if before is None else ledger.as_dict() != before.as_dict():
        records.write_left_out(session.state.step, "validation", ledger)
        for line in ledger.lines():
            records.progress.message(f"validation: {line}")
    _write_ledger(session)


def _write_ledger(session: Session) -> None:
    """ledger.json: of the training, and of the last validation."""
    held_out = session.validation_ledger
    if session.world.is_main:
        validation = {} if held_out is None else {"validation": held_out.as_dict()}
        write_json(session.run.path / "ledger.json", session.ledger.as_dict() | validation)


def save(session: Session, records: Records) -> None:
    """Write a checkpoint and the ledger, then delete checkpoints that are too old; a collective."""
    with records.progress.status("saving"), doing("saving"):
        session.state.save(session.run.checkpoints)
        _write_ledger(session)
        if session.world.is_main:
            prune(session.run.checkpoints, session.config.checkpointing.keep_last)


def export(session: Session, records: Records) -> None:
    """Write `export/` anew: a Hugging Face folder, or a PEFT folder for an adapter; a collective."""
    model, tokenizer, folder = session.state.root.model, session.tokenizer, session.run.export
    is_main, adapter, rule = session.world.is_main, session.config.stage.adapter, session.image_rule
    with records.progress.status("exporting"):
        if adapter is not None:
            base = base_folder(session)
            # A run on random weights has written its base itself.
            revision = session.config.model.revision if base == session.config.model.pretrained else None
            export_adapter(model, tokenizer, folder, adapter, base, revision, is_main, rule)
            if session.config.checkpointing.export_merged:
                stops = stop_ids(model, tokenizer)
                export_model(model, tokenizer, session.run.merged, stops, is_main, adapter_updates(model), rule)
        else:
            export_model(model, tokenizer, folder, stop_ids(model, tokenizer), is_main, image_rule=rule)


def measure_before(session: Session, records: Records) -> None:
    """Validation loss and tasks of the model as it comes, once, before the first step."""
    config = session.config
    if not config.evaluate.before or session.state.step > 0:
        session.scores |= _read_scores(session)
        return
    scores: dict[str, Any] = dict(validate(session, records))
    if scores:
        records.progress.validation(0, scores["validation_loss"])
    folder = starting_folder(config)
    if folder is not None:
        scores |= _score(session, records, folder)
    _write_scores(session, {"before": scores})


def _read_scores(session: Session) -> dict[str, Any]:
    path = session.run.path / "scores.json"
    return json.loads(path.read_text()) if path.exists() and session.state.step > 0 else {}


def _score(session: Session, records: Records, folder: str) -> dict[str, Any]:
    config = session.config
    if not config.evaluate.tasks:
        return {}
    samples = validation_samples(config, config.evaluate.limit)
    with records.progress.status(f"scoring {', '.join(config.evaluate.tasks)} on {len(samples)} held-out samples"):
        scores = score_tasks(config, folder, samples, session.world, records.progress, session.wish)
    for name, result in scores.items():
        low, high = result["interval_95"]
        records.progress.message(
            f"{name}: {result['num_right']} of {result['num_samples']} right "
            f"({100 * result['num_right'] / max(1, result['num_samples']):.1f}%, "
            f"95% interval {100 * low:.1f}% to {100 * high:.1f}%)"
        )
    return scores


def _write_scores(session: Session, scores: dict[str, Any]) -> None:
    session.scores |= scores
    if session.world.is_main:
        write_json(session.run.path / "scores.json", session.scores)


def finish(session: Session, records: Records) -> None:
    """Export, score, draw, and mark the run as complete."""
    config, run = session.config, session.run
    after: dict[str, Any] = {}
    if session.validation_loss is None:
        # A run that was resumed only to be finished.
        validate(session, records)
    if session.validation_loss is not None:
        after["validation_loss"] = session.validation_loss
    if config.checkpointing.export != "never":
        export(session, records)
        after |= _score(session, records, str(run.export))
    if after:
        _write_scores(session, {"after": after})
    if session.world.is_main:
        save_loss_curve(run.path / "metrics.jsonl", run.path / "loss.png")
        mark_complete(run, session.total_steps)
        _say_goodbye(session, records, after)
    barrier()


def _say_goodbye(session: Session, records: Records, after: dict[str, Any]) -> None:
    """What was reached, one example, and the next command to type."""
    say = records.progress.message
    say(_tell_losses(session))
    ledger = session.ledger
    for line in ledger.lines() if len(ledger.sources) > 1 or ledger.has_left_out else ():
        say(line)
    if ledger.has_left_out:
        say(f"each sample that was left out, and why: {session.run.path / 'bad_samples.jsonl'}")
    prompt, image = "...", "" if session.image_rule is None else "image=PICTURE.png "
    for name in session.config.evaluate.tasks:
        if answers := after.get(name, {}).get("answers"):
            prompt = answers[0]["prompt"]
            say(f"example: {prompt!r} -> {answers[0]['answer']!r} (reference {answers[0]['reference']!r})")
            image = _keep_example(session)
            break
    if session.config.checkpointing.export != "never":
        quoted = shlex.quote(f"prompt={prompt}") if len(prompt) < MAX_SHOWN_PROMPT else 'prompt="..."'
        say(f"next: vlmforge generate checkpoint={session.run.path} {image}{quoted}")


def _tell_losses(session: Session) -> str:
    """The first and the last loss, of steps that had a label."""
    steps, losses = collect_points(read_metrics(session.run.path / "metrics.jsonl"), "loss")
    if not losses:
        return "no step had a label, so there is no loss to show"
    curve = session.run.path / "loss.png"
    return f"loss {losses[0]:.4f} at step {steps[0]}, {losses[-1]:.4f} at step {steps[-1]}; curve in {curve}"


def _keep_example(session: Session) -> str:
    """Save the picture that the first held-out sample asks about; `generate`'s word for it, or nothing without one."""
    turns, _ = validation_samples(session.config, 1)[0].as_task()
    media = [medium for turn in turns for medium in content_media(turn["content"])]
    if len(media) != 1 or not isinstance(media[0], Media):
        return ""
    path = session.run.path / "example.png"
    media[0].decode().save(path)
    return f"{shlex.quote(f'image={path}')} "
