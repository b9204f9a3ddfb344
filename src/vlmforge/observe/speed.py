"""How fast this device multiplies matrices, measured.

The number is the denominator of `mfu_ratio`. A measured one is used, not a data sheet's, because there is
none for a CPU or for a part of one, and because a GPU's depends on its clocks and its power limit. So an
`mfu_ratio` of 1 means: as fast as nothing but large matrix products in the same type.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEASURE_SECONDS = 0.3
CPU_SIZE = 2048
CUDA_SIZE = 8192  # smaller ones do not fill a large GPU


def measure_matmul_flops(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Time products of two square matrices for about 0.3 seconds.

    Args:
        device: where to compute.
        dtype: of the matrices: the type that the model computes in.
        size: rows and columns; None: 2048 on a CPU, 8192 on CUDA.

    Returns:
        Floating-point operations per second of the fastest product, a product of size n counted as 2 n^3.
    """
    import torch

    rows = size or (CUDA_SIZE if device.type == "cuda" else CPU_SIZE)
    # Random numbers, because a GPU multiplies constants with less power, and so at higher clocks. From a
    # generator of its own, because measuring must not change the random state of the training.
    generator = torch.Generator(device).manual_seed(0)
    left = torch.randn(rows, rows, generator=generator, device=device, dtype=dtype)
    right = torch.randn(rows, rows, generator=generator, device=device, dtype=dtype)
    out = torch.empty_like(left)

    def multiply() -> float:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    multiply()  # the first one loads kernels and touches the memory
    fastest = multiply()
    deadline = time.perf_counter() + MEASURE_SECONDS
    while time.perf_counter() < deadline:
        fastest = min(fastest, multiply())
    return 2 * rows**3 / fastest
