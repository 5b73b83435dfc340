"""Several processes share out pieces of work; a piece that is finished stays."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event, Lock

import pytest

from recsys.errors import InputError
from recsys.recommend.workers import _see_off, share_out


def open_number(worker: int) -> tuple[int, int]:
    return worker, os.getpid()


def square(opened: tuple[int, int], piece: int) -> tuple[int, int]:
    return piece**2, opened[1]


def fail_at_three(opened: tuple[int, int], piece: int) -> int:
    if piece == 3:
        raise InputError("three is refused")
    return piece


def die_at_three(opened: tuple[int, int], piece: int) -> int:
    if piece == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def test_one_worker_is_this_process_and_goes_in_order():
    found = list(share_out([4, 2, 3], 1, open_number, square))
    assert found == [(4, (16, os.getpid())), (2, (4, os.getpid())), (3, (9, os.getpid()))]


def test_several_workers_do_each_piece_once():
    found = dict(share_out(range(12), 2, open_number, square))
    assert {piece: value for piece, (value, _) in found.items()} == {piece: piece**2 for piece in range(12)}
    assert os.getpid() not in {process for _, process in found.values()}


def test_nothing_to_do_opens_nothing():
    assert list(share_out([], 1, lambda _: pytest.fail("opened"), square)) == []


def test_the_sentence_of_a_worker_is_said_by_the_parent():
    with pytest.raises(InputError, match="three is refused"):
        list(share_out(range(8), 2, open_number, fail_at_three))


def test_a_worker_that_is_killed_is_one_sentence():
    with pytest.raises(InputError, match=r"One of 2 workers was killed\. What was finished is kept.*fewer --workers"):
        list(share_out(range(8), 2, open_number, die_at_three))


def hold(lock: Lock, taken: Event) -> None:
    with lock:
        taken.set()
        signal.pause()


def test_who_is_killed_with_the_lock_that_the_others_wait_for_keeps_nobody_waiting():
    context = multiprocessing.get_context("spawn")
    lock, taken, never = context.Lock(), context.Event(), context.Event()
    first = context.Process(target=hold, args=(lock, taken), daemon=True)
    first.start()
    assert taken.wait(60)
    second = context.Process(target=hold, args=(lock, never), daemon=True)
    second.start()
    os.kill(first.pid or 0, signal.SIGKILL)
    _see_off([first, second])
    assert [first.exitcode, second.exitcode] == [-signal.SIGKILL, -signal.SIGTERM]
