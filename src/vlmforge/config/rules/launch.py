"""Rules of `launch`: what each way to start the ranks needs, and which keys it has no use for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from vlmforge.config.encode import assignment, scalar_text
from vlmforge.config.rules.environment import check_environment
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import one_of

JOBS = ("slurm", "kubernetes")

# Keys that not every kind reads. With `print`, which starts nothing, all may be set.
KINDS_OF: Mapping[str, tuple[str, ...]] = {
    "submit": JOBS,
    "folder": JOBS,
    "host": ("print",),
    "port": JOBS,
    "max_restarts": JOBS,
    "stop_seconds": JOBS,
    "requeue": ("slurm",),
    "cpus_per_node": JOBS,
    "memory_gib_per_node": JOBS,
    "environment": JOBS,
    "image": JOBS,
    "partition": ("slurm",),
    "account": ("slurm",),
    "time_limit": ("slurm",),
    "namespace": ("kubernetes",),
    "volumes": JOBS,
    "secrets": ("kubernetes",),
    "pod": ("kubernetes",),
    "manifest": ("kubernetes",),
}

# Slurm may send the signal before a time limit this much earlier.
EARLY_SECONDS = 60
# What a TrainJob can patch of its pods, and a PyTorchJob say besides; neither what they run nor what they may mount.
POD_FIELDS = ("nodeSelector", "tolerations", "affinity", "securityContext", "imagePullSecrets", "serviceAccountName")
PYTORCHJOB_FIELDS = ("priorityClassName", "schedulerName")

DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
# What these texts may look like: they stand in scripts and manifests, where a line break would begin something new.
SHAPES: Mapping[str, tuple[str, str, str]] = {
    "host": (r"[\w.:\[\]-]+", "a name or an address", "10.0.0.1"),
    "image": (r"[\w][\w./:@+#-]*", "the name of an image, without spaces", "vlmforge:0.1.0"),
    "partition": (r"[\w.+-]+(,[\w.+-]+)*", "names of partitions, with commas between", "gpu"),
    "account": (r"[\w.+-]+", "a name without spaces", "my-project"),
    "time_limit": (
        r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}",
        "a time as Slurm writes it: minutes, hours:minutes:seconds or days-hours:minutes:seconds",
        "1-00:00:00",
    ),
    "namespace": (DNS_LABEL, "lower-case letters, digits and dashes", "training"),
}


def check_effect(subject: Subject) -> Iterator[Finding]:
    """A key that this kind does not read was meant for another one."""
    kind = subject.config.launch.kind
    if kind == "print":
        return
    for name, kinds in KINDS_OF.items():
        path = f"launch.{name}"
        if kind not in kinds and subject.is_set(path):
            value = getattr(subject.config.launch, name)
            yield Finding(
                (path, "launch.kind"),
                f"{path} = {scalar_text(value)} has no effect with launch.kind = {kind}",
                f"launch={one_of(kinds)}, or ~{path}",
            )


def check_texts(subject: Subject) -> Iterator[Finding]:
    """Names and times of the cluster look as the cluster reads them."""
    for name, (pattern, meaning, example) in SHAPES.items():
        value = getattr(subject.config.launch, name)
        if value is not None and not re.fullmatch(pattern, value, re.ASCII):
            path = f"launch.{name}"
            yield Finding((path,), f"{path} = {scalar_text(value)} must be {meaning}", assignment(path, example))


def check_folder(subject: Subject) -> Iterator[Finding]:
    """A line break in a path would end the line of the script that it stands in."""
    launch, run = subject.config.launch, subject.config.run
    for path, value in (("launch.folder", launch.folder), ("run.output_dir", run.output_dir), ("run.name", run.name)):
        if launch.kind in JOBS and value is not None and not value.isprintable():
            yield Finding(
                (path,), f"{path} = {scalar_text(value)} holds a character that cannot be printed", f"~{path}"
            )


def is_mesh_open(subject: Subject) -> bool:
    """Whether the ranks are elsewhere, and nothing says how many: a login node without a GPU cannot."""
    launch, facts = subject.config.launch, subject.facts
    is_said = launch.processes_per_node is not None or facts.world_size is not None or launch.device == "cpu"
    is_elsewhere = launch.kind != "local" and facts.num_gpus == 0
    return is_elsewhere and not is_said and subject.config.parallelism.dp_shard == -1


def check_mesh_elsewhere(subject: Subject) -> Iterator[Finding]:
    """The number of ranks must be known before a job is written."""
    if not is_mesh_open(subject):
        return
    yield Finding(
        ("launch.processes_per_node", "parallelism.dp_shard"),
        f"launch.kind = {subject.config.launch.kind} with parallelism.dp_shard = -1 needs launch.processes_per_node: "
        "the GPUs counted would be this machine's, which shows none",
        "launch.processes_per_node=8, or launch.device=cpu for one rank on each machine's CPU",
    )


def check_time_limit(subject: Subject) -> Iterator[Finding]:
    """Ranks are told to stop before the time limit, which is after they have started."""
    launch = subject.config.launch
    limit = None if launch.time_limit is None else _seconds(launch.time_limit)
    needed = launch.stop_seconds + EARLY_SECONDS
    if limit is None or limit > needed:
        return
    minutes = needed // 60 + 10
    longer = f"launch.time_limit=0-{minutes // 60:02}:{minutes % 60:02}:00"
    shorter = f", or launch.stop_seconds={max(1, (limit - EARLY_SECONDS) // 4)}" if limit > EARLY_SECONDS + 1 else ""
    yield Finding(
        ("launch.time_limit", "launch.stop_seconds"),
        f"launch.time_limit = {scalar_text(launch.time_limit)} ({limit} s) leaves no time to train: ranks are told to "
        f"stop launch.stop_seconds = {launch.stop_seconds} s before it, and Slurm may be a minute early",
        longer + shorter,
    )


def _seconds(text: str) -> int | None:
    """A time as Slurm reads it; None where it cannot be read, which a rule of its own reports."""
    pattern, _, _ = SHAPES["time_limit"]
    if not re.fullmatch(pattern, text, re.ASCII):
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))


def check_volumes(subject: Subject) -> Iterator[Finding]:
    """Claims, or folders, and a place for each."""
    launch = subject.config.launch
    path = r"(/[\w.+-]+)+"
    what, source = ("claims", rf"{DNS_LABEL}(\.{DNS_LABEL})*") if launch.kind == "kubernetes" else ("folders", path)
    example = "my-claim" if launch.kind == "kubernetes" else "/scratch/data"
    if launch.kind == "slurm" and launch.image is None and launch.volumes:
        yield Finding(
            ("launch.volumes", "launch.image"),
            "launch.volumes has no effect with launch.kind = slurm and no launch.image: nothing is mounted without a "
            "container",
            "~launch.volumes, or launch.image=<the container>",
        )
    for name, place in launch.volumes.items():
        if not re.fullmatch(source, name, re.ASCII) or not re.fullmatch(path, place, re.ASCII):
            yield Finding(
                ("launch.volumes",),
                f"launch.volumes = {scalar_text(launch.volumes)} must be {what} and the absolute paths to mount them",
                f"'launch.volumes={{{example}: /data}}'",
            )


def check_kubernetes(subject: Subject) -> Iterator[Finding]:
    """Pods need an image, and of their specification a recipe says where and as whom they run, never what."""
    launch = subject.config.launch
    if launch.kind != "kubernetes":
        return
    if launch.image is None:
        yield Finding(
            ("launch.image", "launch.kind"),
            "launch.image is not set, and pods need one",
            "launch.image=registry.example/vlmforge:0.1.0, after `docker build` and `docker push`",
        )
    allowed = POD_FIELDS if launch.manifest == "trainjob" else (*POD_FIELDS, *PYTORCHJOB_FIELDS)
    for name in launch.pod:
        if name not in allowed:
            yield Finding(
                ("launch.pod", "launch.manifest"),
                f"launch.pod.{name} is none of what launch.manifest = {launch.manifest} may say of its pods: "
                f"{', '.join(allowed)}",
                f"remove launch.pod.{name}; containers and volumes are what launch.image and launch.volumes say",
            )


RULES: tuple[Rule, ...] = (
    check_effect,
    check_texts,
    check_folder,
    check_mesh_elsewhere,
    check_time_limit,
    check_volumes,
    check_environment,
    check_kubernetes,
)
