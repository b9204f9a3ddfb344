"""How much memory this process has needed at most."""

from __future__ import annotations

import os
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


def memory_in_use(device: torch.device) -> str:
    """How much is held now and was held at most, of how much there is, for a message."""
    if device.type == "cuda":
        now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
        gib = [number / GIB_BYTES for number in (now, peak, free, total)]
        return "{:.1f} GiB held by tensors (peak {:.1f}); {:.1f} of the GPU's {:.1f} GiB are free".format(*gib)
    now, peak, total = resident_bytes(), peak_resident_bytes(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gib = [number / GIB_BYTES for number in (now, peak, total)]
    return "{:.1f} GiB held by this process (peak {:.1f}), of this machine's {:.1f} GiB".format(*gib)


def resident_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    statm_path = Path("/proc/self/statm")
    if not statm_path.exists():
        return peak_resident_bytes()
    return int(statm_path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
