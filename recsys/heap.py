"""Memory that is freed stays with the process: a training step frees and takes the same gigabytes again and again."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_MOST = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, at the price of a process that never shrinks.

    By default it gives large blocks back to the system at once, which hands them out again page by page, set to zero:
    a hundred thousand page faults a step of a text encoder on a CPU (`benchmarks/heap.py`). Whoever sets
    MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES decides for himself; with another allocator or C
    library nothing happens.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return
    if mallopt(_MMAP_THRESHOLD, _MOST):  # an older glibc refuses; with the other alone, all would be given back at once
        mallopt(_TRIM_THRESHOLD, _MOST)
