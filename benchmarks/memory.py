"""The most memory that a process has held."""

import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
LOOK = 0.05  # seconds between two looks


def most_memory() -> float:
    """MiB that this process has held at the most, pages of mapped files included.

    By Linux's VmHWM: ru_maxrss of a process that another one has started begins at what that one held.
    """
    return _said("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextmanager
def own_memory() -> Iterator[list[float]]:
    """A list whose one entry is the most MiB that this process holds within the block, pages of mapped files left out.

    Those are the system's to take back at any time. Looked at twenty times a second; without Linux's /proc, 0.
    """
    most, done = [_said("RssAnon")], threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            most[0] = max(most[0], _said("RssAnon"))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()
        most[0] = max(most[0], _said("RssAnon"))


def _said(name: str) -> float:
    found = re.search(rf"{name}:\s*(\d+) kB", STATUS.read_text()) if STATUS.is_file() else None
    return int(found[1]) / 2**10 if found else 0.0
