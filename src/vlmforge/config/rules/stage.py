"""Rules of `stage`: its length, its labels, its adapter, its schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from vlmforge.config.encode import scalar_text
from vlmforge.config.overrides import COMMAND_LINE
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import nearest, nearest_folder, one_of


def check_length(subject: Subject) -> Iterator[Finding]:
    """A training run ends."""
    stage = subject.config.stage
    if stage.kind != "generate" and stage.max_steps is None and stage.max_epochs is None:
        yield Finding(
            ("stage.max_steps", "stage.max_epochs"),
            "stage.max_steps and stage.max_epochs are both not set: the run would not end",
            "stage.max_steps=100, or stage.max_epochs=1",
        )
    stop = subject.config.run.stop_after_steps
    if stop is not None and stage.max_steps is not None and stop > stage.max_steps:
        yield Finding(
            ("run.stop_after_steps", "stage.max_steps"),
            f"run.stop_after_steps = {stop} must be at most stage.max_steps = {stage.max_steps}",
            f"run.stop_after_steps={stage.max_steps}, or remove it",
        )


def check_labels(subject: Subject) -> Iterator[Finding]:
    """Plain text has no assistant whose turns could be trained."""
    if subject.config.stage.labels != "assistant" or subject.config.stage.kind == "generate":
        return
    for blend in ("train", "validation"):
        for index, source in enumerate(getattr(subject.config.data, blend)):
            if source.format == "text":
                at = f"data.{blend}.{index}.format"
                yield Finding(
                    ("stage.labels", at),
                    f"stage.labels = assistant with {at} = text: plain text has no assistant turns, so nothing "
                    "would be trained",
                    "stage.labels=all",
                )
                return


def check_adapter(subject: Subject) -> Iterator[Finding]:
    """kind=lora needs an adapter, and only it trains one; an adapter to start from is a PEFT folder."""
    stage = subject.config.stage
    if stage.kind == "lora" and stage.adapter is None:
        yield Finding(
            ("stage.kind", "stage.adapter"),
            "stage.kind = lora needs stage.adapter, which is not set",
            "stage.adapter.rank=16, or stage=lora",
        )
    if stage.kind in ("pretrain", "sft") and stage.adapter is not None:
        yield Finding(
            ("stage.adapter", *(f"stage.adapter.{item.name}" for item in fields(stage.adapter)), "stage.kind"),
            f"stage.adapter is set, and stage.kind = {stage.kind} trains the weights themselves",
            "stage.kind=lora, or stage.adapter=null",
        )
    if stage.adapter is not None and stage.adapter.target_modules == ():
        yield Finding(
            ("stage.adapter.target_modules",),
            "stage.adapter.target_modules = [] names no module",
            "stage.adapter.target_modules=all-linear",
        )
    path = None if stage.adapter is None else stage.adapter.path
    if path is not None and not (Path(path) / "adapter_config.json").is_file():
        near = nearest_folder(path)
        yield Finding(
            ("stage.adapter.path",),
            f"stage.adapter.path = {path}: no PEFT folder, there is no adapter_config.json in it",
            f"stage.adapter.path={near}" if near else "give the export/ of a LoRA run, or another PEFT folder",
        )


def check_trainable(subject: Subject) -> Iterator[Finding]:
    """Trainable groups are groups of the family, and something is trained."""
    stage = subject.config.stage
    shape = subject.shape()
    name = shape.family if shape is not None else None
    if stage.trainable is None or name is None or name not in subject.facts.families:
        return
    groups = list(subject.facts.families[name].groups)
    for group in stage.trainable:
        if group not in groups:
            near = nearest(group, groups) or groups
            yield Finding(
                ("stage.trainable", "model.family"),
                f"stage.trainable = {scalar_text(stage.trainable)}: {name} has no group {group}, only {one_of(groups)}",
                f"'stage.trainable=[{near[0]}]'",
            )
    if not stage.trainable and stage.adapter is None and stage.kind != "generate":
        yield Finding(
            ("stage.trainable", "stage.adapter"),
            "stage.trainable = [] without an adapter: nothing would be trained",
            f"'stage.trainable=[{groups[0]}]', or stage=lora",
        )
    if stage.adapter is not None and set(stage.trainable) >= set(groups):
        yield Finding(
            ("stage.adapter", "stage.trainable"),
            f"stage.adapter has no effect: stage.trainable = {scalar_text(stage.trainable)} trains every group in full",
            "remove stage.trainable, or stage.adapter=null",
        )


def check_frozen_in_eval(subject: Subject) -> Iterator[Finding]:
    """The mode of a frozen tower is a question only where there is a tower, and it is frozen."""
    family, stage = subject.family(), subject.config.stage
    if family is None or not subject.is_set("stage.frozen_in_eval"):
        return
    is_frozen = stage.trainable is not None and "vision_tower" not in stage.trainable
    if not family.image_keys or not (is_frozen or stage.adapter is not None):
        yield Finding(
            ("stage.frozen_in_eval", "stage.trainable"),
            "stage.frozen_in_eval = false has no effect: there is no vision tower that is frozen",
            "~stage.frozen_in_eval, or stage.trainable=[projector]",
        )


def check_adapter_beside_groups(subject: Subject) -> Iterator[Finding]:
    """What is trained beside an adapter would be lost: its export holds the adapter alone."""
    stage = subject.config.stage
    if stage.adapter is None or not stage.trainable or stage.kind == "generate":
        return
    shape = subject.shape()
    family = subject.facts.families.get(shape.family or "") if shape is not None else None
    if family is not None and set(stage.trainable) < set(family.groups):
        yield Finding(
            ("stage.trainable", "stage.adapter"),
            f"stage.trainable = {scalar_text(stage.trainable)} beside stage.adapter: the export of an adapter has no "
            "place for weights trained in full, in this version",
            "remove stage.trainable, or stage.adapter=null",
        )


def check_warmup(subject: Subject) -> Iterator[Finding]:
    """Warm-up is said in one unit, and ends before the run does."""
    stage, schedule = subject.config.stage, subject.config.stage.schedule
    names = ("warmup_steps", "warmup_samples", "warmup_ratio")
    given = [name for name in names if getattr(schedule, name) is not None]
    if len(given) > 1:
        # What the command line says is meant; what it was meant to replace is to go.
        given.sort(key=lambda name: not subject.origins.where(f"stage.schedule.{name}").startswith(COMMAND_LINE))
        kept, *others = (f"stage.schedule.{name}" for name in given)
        yield Finding(
            (kept, *others),
            f"{' and '.join((kept, *others))} are set, and warm-up has one length",
            f"keep {kept} and add  {' '.join(f'~{other}' for other in others)}",
        )
        return
    steps = schedule.warmup_steps
    if schedule.warmup_samples is not None:
        steps = schedule.warmup_samples // stage.global_batch_size
    if steps and stage.max_steps is not None and steps >= stage.max_steps:
        yield Finding(
            (f"stage.schedule.{given[0]}", "stage.max_steps"),
            f"stage.schedule.{given[0]} = {getattr(schedule, given[0])} must end before stage.max_steps = "
            f"{stage.max_steps}",
            f"~stage.schedule.{given[0]} stage.schedule.warmup_ratio=0.1",
        )
    if schedule.warmup_ratio == 1:
        yield Finding(
            ("stage.schedule.warmup_ratio",),
            "stage.schedule.warmup_ratio = 1 must be below 1: the run would be all warm-up",
            "stage.schedule.warmup_ratio=0.1",
        )


def check_decay(subject: Subject) -> Iterator[Finding]:
    """Decay is said in one unit, lies after the warm-up, and only where the schedule decays."""
    schedule = subject.config.stage.schedule
    names = ("decay_steps", "decay_samples")
    given = [name for name in names if getattr(schedule, name) is not None]
    if schedule.name == "constant":
        if schedule.min_lr_ratio > 0 or subject.is_set("stage.schedule.min_lr_ratio"):
            given.append("min_lr_ratio")
        for name in given:
            value = scalar_text(getattr(schedule, name))
            yield Finding(
                (f"stage.schedule.{name}", "stage.schedule.name"),
                f"stage.schedule.{name} = {value} has no effect with a constant schedule",
                f"~stage.schedule.{name}, or stage.schedule.name=cosine",
            )
    elif len(given) > 1:
        yield Finding(
            ("stage.schedule.decay_samples", "stage.schedule.decay_steps"),
            "stage.schedule.decay_steps and decay_samples are both set; the decay has one end",
            "~stage.schedule.decay_samples",
        )
    yield from _check_decay_after_warmup(subject)


def _check_decay_after_warmup(subject: Subject) -> Iterator[Finding]:
    """Both in steps, whichever unit each is said in."""
    schedule, rows = subject.config.stage.schedule, subject.config.stage.global_batch_size
    in_steps = {name: getattr(schedule, f"{name}_steps") for name in ("warmup", "decay")}
    in_samples = {name: getattr(schedule, f"{name}_samples") for name in ("warmup", "decay")}
    units = {name: "samples" if in_samples[name] is not None else "steps" for name in in_steps}
    lengths = {
        name: in_steps[name] if in_samples[name] is None else in_samples[name] / rows for name in ("warmup", "decay")
    }
    if lengths["warmup"] is None or lengths["decay"] is None or lengths["decay"] > lengths["warmup"]:
        return
    warmup, decay = (f"{name}_{units[name]}" for name in ("warmup", "decay"))
    yield Finding(
        (f"stage.schedule.{decay}", f"stage.schedule.{warmup}"),
        f"stage.schedule.{decay} = {getattr(schedule, decay)} must lie after {warmup} = {getattr(schedule, warmup)}",
        f"~stage.schedule.{decay}",
    )


def check_sampling(subject: Subject) -> Iterator[Finding]:
    """The likeliest token is not drawn, so nothing can narrow the draw."""
    generation = subject.config.stage.generation
    for name, neutral in (("top_p", 1.0), ("top_k", 0)):
        value = getattr(generation, name)
        if generation.temperature == 0 and value != neutral:
            yield Finding(
                (f"stage.generation.{name}", "stage.generation.temperature"),
                f"stage.generation.{name} = {scalar_text(value)} has no effect with temperature = 0",
                f"stage.generation.temperature=1.0, or stage.generation.{name}={scalar_text(neutral)}",
            )


def check_betas(subject: Subject) -> Iterator[Finding]:
    """A moment that never forgets is none."""
    betas = subject.config.stage.optimizer.betas
    if max(betas) >= 1:
        yield Finding(
            ("stage.optimizer.betas",),
            f"stage.optimizer.betas = {scalar_text(betas)} must both be below 1",
            "'stage.optimizer.betas=[0.9, 0.95]'",
        )


def check_packing(subject: Subject) -> Iterator[Finding]:
    """A packing window needs packing."""
    stage = subject.config.stage
    if stage.packing == "none" and subject.is_set("stage.packing_window"):
        yield Finding(
            ("stage.packing_window", "stage.packing"),
            f"stage.packing_window = {stage.packing_window} has no effect with stage.packing = none",
            "stage.packing=best_fit, or ~stage.packing_window",
        )


def check_token_cap(subject: Subject) -> Iterator[Finding]:
    """Micro-batches are cut by rows or by tokens; by tokens where rows differ in length, and every row fits."""
    stage, path = subject.config.stage, "stage.max_tokens_per_micro_batch"
    cap = stage.max_tokens_per_micro_batch
    if cap is None:
        return
    if stage.packing != "none":
        yield Finding(
            (path, "stage.packing"),
            f"{path} = {cap} is for rows of different lengths, and stage.packing = {stage.packing} fills them",
            f"~{path}, or stage.packing=none",
        )
    if cap < stage.seq_len:
        yield Finding(
            (path, "stage.seq_len"),
            f"{path} = {cap} must be at least stage.seq_len = {stage.seq_len}, the length of the longest sample",
            f"{path}={stage.seq_len}, or stage.seq_len={cap}",
        )
    # In a file it may be the default that `show` has printed; on the command line somebody means it.
    is_typed = subject.origins.get("stage.micro_batch_size", "").startswith(COMMAND_LINE)
    if is_typed or subject.is_set("stage.micro_batch_size"):
        yield Finding(
            (path, "stage.micro_batch_size"),
            f"{path} = {cap} and stage.micro_batch_size = {stage.micro_batch_size} are both set, and micro-batches are "
            "cut by tokens or by rows",
            f"~stage.micro_batch_size, or ~{path}",
        )


RULES: tuple[Rule, ...] = (
    check_length,
    check_labels,
    check_adapter,
    check_trainable,
    check_frozen_in_eval,
    check_adapter_beside_groups,
    check_warmup,
    check_decay,
    check_betas,
    check_sampling,
    check_packing,
    check_token_cap,
)
