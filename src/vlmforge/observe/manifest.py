"""manifest.json: enough about where a run came from to explain it, or to make it again.

What only the caller can know (mesh, data, template, parent) is passed in.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import vlmforge

PACKAGES = ("torch", "transformers", "peft", "datasets")
GIT_TIMEOUT_SECONDS = 10


def build_manifest(
    *,
    mesh: Mapping[str, int],
    data_fingerprints: Mapping[str, Any],
    chat_template_hash: str | None = None,
    parent_checkpoint: str | None = None,
    argv: Sequence[str] | None = None,
    started: datetime.datetime | None = None,
    working_dir: Path | None = None,
) -> dict[str, Any]:
    """Describe this process, this machine and this working folder.

    Args:
        mesh: size of every mesh axis.
        data_fingerprints: for each blend its sources, with size and hash of their files.
        chat_template_hash: of the template that samples are rendered with; None: no template.
        parent_checkpoint: what the weights came from; None: random ones.
        argv: the command line; None: this process's.
        started: time of the start, with its zone; None: now.
        working_dir: whose git state is recorded; None: the current folder.
    """
    return {
        "started": (started or datetime.datetime.now(datetime.UTC)).isoformat(timespec="seconds"),
        "command": list(sys.argv if argv is None else argv),
        "versions": {
            "python": platform.python_version(),
            "vlmforge": vlmforge.__version__,
            **{name: read_version(name) for name in PACKAGES},
        },
        "git": read_git_state(working_dir or Path.cwd()),
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "cpu": read_cpu_name(),
            "num_cpus": count_cpus(),
            "gpus": list_gpu_names(),
        },
        "mesh": dict(mesh),
        "data": dict(data_fingerprints),
        "chat_template_sha256": chat_template_hash,
        "parent_checkpoint": parent_checkpoint,
    }


def read_version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it; None without a repository, a commit or git."""
    commit = run_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = run_git(folder, "status", "--porcelain", "--untracked-files=no")
    # None: git could not tell in time, as on a slow disk.
    return {"commit": commit, "is_dirty": None if changes is None else bool(changes)}


def run_git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints, without the space around it; None if it fails."""
    # Reading the state must not take the lock that the user's own git commands need.
    command = ["git", "--no-optional-locks", *arguments]
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def count_cpus() -> int:
    """CPUs that this process may use, which under a container or a batch system are not all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_cpu_name() -> str:
    """The CPU's model name, as far as the system tells."""
    info_path = Path("/proc/cpuinfo")
    if info_path.exists():
        for line in info_path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def list_gpu_names() -> list[str]:
    """Names of the CUDA devices this process sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
