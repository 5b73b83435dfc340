"""What the chip can do: the rate of its matrix products, which the work of a step is measured against."""

import time

import torch
from torch.nn import functional as F

Shape = tuple[int, int, int]
"""Rows, inner and outer width of a product X W^T."""
LAYER: Shape = (4096, 384, 1536)
"""MiniLM's feed-forward layer: large enough for a CPU to show what it can do, and done in a moment."""


def measured_rate(device: torch.device, dtype: torch.dtype, *, shape: Shape = LAYER, seconds: float = 0.15) -> float:
    """FLOP/s of one matrix product, the best of those that are done in about `seconds`."""
    rows, inner, outer = shape
    source = torch.Generator(device).manual_seed(0)
    left, right = (torch.rand(size, inner, device=device, generator=source).to(dtype) for size in (rows, outer))
    F.linear(left, right)  # the first call of a shape chooses its kernel
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        _wait(device)
        start = time.perf_counter()
        F.linear(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * outer / best


def _wait(device: torch.device) -> None:
    """A GPU works on after the call has returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
