"""How much memory this process has needed at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

GIB_BYTES = 2**30


def peak_memory_gib(device_type: str) -> float:
    """Peak memory, in GiB.

    On CUDA: what tensors of the current device held, since the last `torch.cuda.reset_peak_memory_stats`.
    Elsewhere: resident memory of this process since it started (VmHWM), which holds the Python libraries and
    mapped files too.
    """
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated() / GIB_BYTES
    return peak_resident_bytes() / GIB_BYTES


def peak_resident_bytes() -> int:
    """Peak resident memory of this process since it started."""
    status_path = Path("/proc/self/status")
    if status_path.exists():
        for line in status_path.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # On other systems and in sandboxes without VmHWM: the same from getrusage, bytes on macOS, else KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
