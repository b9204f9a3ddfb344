"""Rules of `launch`: what each way to start the ranks needs, and which keys it has no use for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from vlmforge.config.encode import assignment, scalar_text
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
    "cpus_per_node": JOBS,
    "image": JOBS,
    "partition": ("slurm",),
    "account": ("slurm",),
    "time_limit": ("slurm",),
    "namespace": ("kubernetes",),
    "volumes": ("kubernetes",),
    "manifest": ("kubernetes",),
}

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


def check_kubernetes(subject: Subject) -> Iterator[Finding]:
    """Pods need an image, and claims a place."""
    launch = subject.config.launch
    if launch.kind != "kubernetes":
        return
    if launch.image is None:
        yield Finding(
            ("launch.image",),
            "launch.image is not set, and pods need one",
            "launch.image=vlmforge:0.1.0, after `docker build -t vlmforge:0.1.0 .`",
        )
    for claim, path in launch.volumes.items():
        is_claim = re.fullmatch(rf"{DNS_LABEL}(\.{DNS_LABEL})*", claim)
        if not is_claim or not re.fullmatch(r"(/[\w.+-]+)+", path, re.ASCII):
            yield Finding(
                ("launch.volumes",),
                f"launch.volumes = {scalar_text(launch.volumes)} must be claims and the absolute paths to mount them",
                "'launch.volumes={my-claim: /data}'",
            )


RULES: tuple[Rule, ...] = (check_effect, check_texts, check_folder, check_kubernetes)
