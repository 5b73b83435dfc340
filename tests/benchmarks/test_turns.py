import pytest
from turns import Pace, by_turns


def job(pace: Pace, name: str) -> list[str]:
    """Says how often it was its turn."""
    turns = []
    while pace.next():
        turns.append(name)
    return turns


def failing(pace: Pace) -> None:
    raise ValueError("no such thing")


def test_two_jobs_work_by_turns():
    peaks = iter([1.0, 2.0, 3.0, 4.0])
    found = by_turns((job, "a"), (job, "b"), turns=3, warm=1, threads=1, peak=lambda: next(peaks))
    assert found.results == (["a"] * 4, ["b"] * 4)
    assert len(found.seconds) == 3
    assert min(min(pair) for pair in found.seconds) > 0
    assert found.peaks == [2.0, 3.0, 4.0]


def test_the_memory_of_a_job_is_its_own():
    large = bytearray(b"x") * 300_000_000
    found = by_turns((job, "a"), (job, "b"), turns=1, threads=1)
    assert len(large) == 300_000_000
    assert 1 < max(found.memory) < 250


def done_at_once(pace: Pace) -> None:
    pace.next()


def test_a_job_that_ends_too_soon_is_told():
    with pytest.raises(RuntimeError, match="no more to do"):
        by_turns((done_at_once,), (done_at_once,), turns=1, threads=1)


def test_what_a_job_fails_of_is_told():
    with pytest.raises(RuntimeError, match="no such thing"):
        by_turns((failing,), (failing,), turns=1, threads=1)
