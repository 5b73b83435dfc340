"""Several processes share out pieces of work; a piece that is finished stays."""

import os
import signal

import pytest

from recsys.errors import InputError
from recsys.recommend.workers import share_out


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
