"""Several processes of this machine, by Python's own pool: each opens what it needs once and is given one piece after
another. A piece that is finished stays, whatever becomes of the process that made it.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from recsys.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

_opened: Any = None
"""What this worker has opened."""


def share_out(
    pieces: Sequence[int], workers: int, open_work: Callable[[int], T], make: Callable[[T, int], R]
) -> Generator[tuple[int, R]]:
    """What `make` gives for each piece, as they are finished: (piece, result).

    Args:
        pieces: numbers.
        workers: processes. With one, the work is done in this process.
        open_work: number of a worker, from 0 on -> what it works with; called once in each process. A function of a
            module, or a partial of one, as `make` is.
        make: the work on one piece.

    Raises:
        InputError: a process was killed. An error of a piece is raised here, and what has not begun is left.
    """
    if workers == 1 or len(pieces) < 2:
        opened = open_work(0) if pieces else None
        yield from ((piece, make(opened, piece)) for piece in pieces)  # pyright: ignore[reportArgumentType]
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    number = context.Value("i", 0)
    count, others = min(workers, len(pieces)), multiprocessing.active_children()
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(open_work, number)) as pool:
        try:
            waiting = {pool.submit(_make, make, piece): piece for piece in pieces}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            remedy = "run the same command again, with fewer --workers if memory was short"
            raise InputError(f"One of {count} workers was killed. What was finished is kept; {remedy}.") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is in work is finished
            _see_off([one for one in multiprocessing.active_children() if one not in others])


def _see_off(workers: Sequence[BaseProcess]) -> None:
    """Wait until all have ended. One that is killed while it waits for a piece takes the lock that the others wait for
    with it, and Python's pool, once it has told them to end, does not look whether they can.
    """
    while living := [one for one in workers if one.is_alive()]:
        if any(one.exitcode for one in workers):
            for one in living:
                one.terminate()
        wait([one.sentinel for one in living])


def _begin(open_work: Callable[[int], Any], number: Any) -> None:
    """Runs once in each worker."""
    global _opened
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with number.get_lock():
        own, number.value = number.value, number.value + 1
    _opened = open_work(own)


def _end_with_parent() -> None:
    """A parent that is killed says nothing to its workers, who would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(make: Callable[[Any, int], R], piece: int) -> R:
    return make(_opened, piece)
