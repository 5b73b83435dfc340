"""The most memory that a process has held."""

import re
import resource
from pathlib import Path


def most_memory() -> float:
    """MiB that this process has held at the most, pages of mapped files included.

    By Linux's VmHWM: ru_maxrss of a process that another one has started begins at what that one held.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**10
