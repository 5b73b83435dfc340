"""Two processes that work by turns, so that what else the machine does meets both alike.

A job is a function `job(pace, ...)`: it makes everything ready, then calls `pace.next()` before each piece of work and
goes on while that is true; what it returns comes back at the end. The other process waits meanwhile, without a thread
that spins.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from memory import most_memory

READY, DONE, FAILED = "ready", "done", "failed"


class Pace:
    """The job's end: tells how long each piece of work took, and waits until the next one is due."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.begin: float | None = None

    def next(self) -> bool:
        """Whether there is another piece of work; the clock runs from here to the next call."""
        self.pipe.send(READY if self.begin is None else time.perf_counter() - self.begin)
        more = self.pipe.recv()
        self.begin = time.perf_counter()
        return more


class Worker:
    """The other end: a job in a process of its own."""

    def __init__(self, job: Callable[..., Any], *arguments: Any) -> None:
        self.pipe, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=_work, args=(theirs, job, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def wait(self) -> None:
        """Until the job is ready for its first piece of work."""
        assert self._receive() == READY

    def turn(self) -> float:
        """Have one piece of work done; its seconds."""
        self.pipe.send(True)
        found = self._receive()
        if not isinstance(found, float):
            raise RuntimeError("a worker had no more to do; ask for fewer turns")
        return found

    def finish(self) -> tuple[Any, float]:
        """What the job returns, and the MiB that its process held at the most."""
        self.pipe.send(False)
        while True:
            found = self._receive()
            if isinstance(found, tuple):
                self.process.join()
                return found[1], found[2]

    def _receive(self) -> Any:
        try:
            found = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise RuntimeError(f"a worker ended with exit code {self.process.exitcode}") from None
        if isinstance(found, tuple) and found[0] == FAILED:
            raise RuntimeError(f"a worker failed:\n{found[1]}")
        return found


def _work(pipe: Connection, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The whole life of such a process."""
    try:
        found = job(Pace(pipe), *arguments)
        pipe.send((DONE, found, most_memory()))
    except Exception:
        with suppress(OSError):  # the other job may have failed before
            pipe.send((FAILED, traceback.format_exc()))


@contextmanager
def settings(threads: int) -> Iterator[None]:
    """The environment that processes start with in this block: so many threads, no network, few words."""
    wanted = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
              "TOKENIZERS_PARALLELISM": "true"}  # fmt: skip
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What two jobs did; first ours, then the peer's."""

    seconds: list[tuple[float, float]]
    """Of each pair of turns that counts."""
    results: tuple[Any, Any]
    memory: tuple[float, float]
    """MiB at the most."""
    peaks: list[float]
    """What `peak` said before each of these pairs."""


def by_turns(
    ours: tuple[Any, ...], peer: tuple[Any, ...], *, turns: int, threads: int, warm: int = 0,
    peak: Callable[[], float] | None = None,
) -> Turns:  # fmt: skip
    """Run two jobs by turns; who goes first changes each time.

    Args:
        ours, peer: a job and its arguments.
        turns: of each that count.
        threads: of each process.
        warm: turns before those.
        peak: measures the machine before each pair of turns; None: nothing does.
    """
    with settings(threads):
        workers = [Worker(*one) for one in (ours, peer)]
    found, peaks = [], []
    try:
        for worker in workers:
            worker.wait()
        for number in range(warm + turns):
            peaks += [] if peak is None else [peak()]
            order = (0, 1) if number % 2 else (1, 0)
            took = {who: workers[who].turn() for who in order}
            found.append((took[0], took[1]))
        (own, held), (theirs, peer_held) = (worker.finish() for worker in workers)
    finally:
        for worker in workers:
            worker.process.kill()
    return Turns(seconds=found[warm:], results=(own, theirs), memory=(held, peer_held), peaks=peaks[warm:])
