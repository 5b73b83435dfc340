"""What the chip can do: the rate of its matrix products, which the work of a step is a share of."""

import re
import time

import torch
from torch.nn import functional as F

GPUS = {
    "V100": (32, 125), "V100-16": (16, 125), "T4": (16, 65), "A100": (80, 312), "A100-40": (40, 312), "L40S": (48, 362),
    "H100": (80, 989), "H200": (141, 989),
}  # fmt: skip
"""GiB of memory, and TFLOP/s of dense half-precision products by the maker's data sheet."""
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

Shape = tuple[int, int, int]
"""Rows, inner and outer width of a product X W^T."""
LAYER: Shape = (4096, 384, 1536)
"""MiniLM's feed-forward layer: large enough for a CPU to show what it can do, and done in a moment."""
SQUARE: Shape = (8192, 8192, 8192)
"""Enough for any GPU."""


def peak_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of matrix products in a run's precision (Lightning's name of it).

    For half precision on a GPU of `GPUS`, what its data sheet says; else measured, in some tenths of a second.
    """
    dtype = _DTYPES.get(precision, torch.float32)
    if device.type != "cuda":
        return measured_rate(device, dtype)
    known = None if dtype == torch.float32 else sheet_rate(torch.cuda.get_device_name(device))
    return known or measured_rate(device, dtype, shape=SQUARE)


def sheet_rate(name: str) -> float | None:
    """FLOP/s in half precision by the data sheet of a GPU that calls itself `name`; None for one that is not known."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    return next((1e12 * rate for kind, (_, rate) in GPUS.items() if kind in words), None)


def measured_rate(device: torch.device, dtype: torch.dtype, *, shape: Shape = LAYER, seconds: float = 0.15) -> float:
    """FLOP/s of one matrix product, the best of those that are done in about `seconds`."""
    rows, inner, outer = shape
    source = torch.Generator(device).manual_seed(0)  # of its own: the run's dice stay where they are
    left, right = (torch.rand(size, inner, device=device, generator=source).to(dtype) for size in (rows, outer))
    best, begin = float("inf"), time.perf_counter()
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        F.linear(left, right)  # the first call of a shape chooses its kernel
        while best == float("inf") or time.perf_counter() - begin < seconds:  # once at least, on the busiest machine
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
