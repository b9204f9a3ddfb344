"""Rules of `run`, `checkpointing`, `logging` and `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from vlmforge.config.encode import scalar_text
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import nearest, one_of

TRACKERS = ("tensorboard", "wandb")


def check_name(subject: Subject) -> Iterator[Finding]:
    """A run's name is one folder."""
    name = subject.config.run.name
    if name is not None and (not name or name in (".", "..") or "/" in name):
        works = name.strip("/.").replace("/", "-") or "my-run"
        yield Finding(
            ("run.name",), f"run.name = {scalar_text(name)} must be the name of one folder", f"run.name={works}"
        )


def check_resume(subject: Subject) -> Iterator[Finding]:
    """`resume` is a word or a step folder that exists."""
    resume = subject.config.checkpointing.resume
    if resume not in ("auto", "never") and not Path(resume).is_dir():
        near = nearest(resume, ("auto", "never"))
        yield Finding(
            ("checkpointing.resume",),
            f"checkpointing.resume = {scalar_text(resume)} must be auto, never or a step folder that exists",
            f"checkpointing.resume={near[0] if near else 'auto'}",
        )


def check_trackers(subject: Subject) -> Iterator[Finding]:
    """Trackers are ours, and installed: a run should not learn that once its model is loaded."""
    for tracker in subject.config.logging.trackers or ():
        if tracker not in TRACKERS:
            near = nearest(tracker, TRACKERS) or list(TRACKERS)
            yield Finding(
                ("logging.trackers",),
                f"logging.trackers: {scalar_text(tracker)} is not a tracker; there is {one_of(TRACKERS)}",
                f"'logging.trackers=[{near[0]}]'",
            )
        elif find_spec(tracker) is None:
            yield Finding(
                ("logging.trackers",),
                f"logging.trackers: {tracker} needs the package {tracker}, which is not installed",
                f"pip install 'vlmforge[{tracker}]', or  'logging.trackers=[]'",
            )


def check_tasks(subject: Subject) -> Iterator[Finding]:
    """Tasks exist."""
    known = sorted(subject.facts.tasks)
    for task in subject.config.evaluate.tasks:
        if task not in known:
            near = nearest(task, known) or known
            yield Finding(
                ("evaluate.tasks",),
                f"evaluate.tasks: {scalar_text(task)} is not a task; there is {one_of(known)}",
                f"'evaluate.tasks=[{near[0]}]'",
            )


def check_export(subject: Subject) -> Iterator[Finding]:
    """Tasks after training are scored on the exported model."""
    config = subject.config
    if config.evaluate.tasks and config.checkpointing.export == "never":
        yield Finding(
            ("checkpointing.export", "evaluate.tasks"),
            f"evaluate.tasks = {scalar_text(list(config.evaluate.tasks))} needs the exported model, and "
            "checkpointing.export = never",
            "checkpointing.export=last, or 'evaluate.tasks=[]'",
        )


def check_merged(subject: Subject) -> Iterator[Finding]:
    """A merged export needs an adapter, and an export."""
    config = subject.config
    if not config.checkpointing.export_merged:
        return
    if config.stage.adapter is None:
        yield Finding(
            ("checkpointing.export_merged", "stage.adapter"),
            "checkpointing.export_merged = true needs stage.adapter, which is not set; export/ is the whole model",
            "checkpointing.export_merged=false",
        )
    elif config.checkpointing.export == "never":
        yield Finding(
            ("checkpointing.export_merged", "checkpointing.export"),
            "checkpointing.export_merged = true is written with export/, and checkpointing.export = never",
            "checkpointing.export=last",
        )


def check_validation(subject: Subject) -> Iterator[Finding]:
    """What is measured on validation data needs some."""
    evaluate = subject.config.evaluate
    if subject.config.data.validation:
        return
    for name in ("tasks", "before", "every_steps"):
        value = getattr(evaluate, name)
        if value:
            yield Finding(
                (f"evaluate.{name}", "data.validation"),
                f"evaluate.{name} = {scalar_text(value)} needs data.validation, which is not set",
                f"'data.validation=[{{path: data/validation.jsonl, format: messages}}]', or ~evaluate.{name}",
            )


RULES: tuple[Rule, ...] = (
    check_name,
    check_resume,
    check_trackers,
    check_tasks,
    check_export,
    check_merged,
    check_validation,
)
