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
    seconds, results, memory = by_turns((job, "a"), (job, "b"), turns=3, warm=1, threads=1)
    assert results == [["a"] * 4, ["b"] * 4]
    assert len(seconds) == 3
    assert min(min(pair) for pair in seconds) > 0
    assert min(memory) > 1


def done_at_once(pace: Pace) -> None:
    pace.next()


def test_a_job_that_ends_too_soon_is_told():
    with pytest.raises(RuntimeError, match="no more to do"):
        by_turns((done_at_once,), (done_at_once,), turns=1, threads=1)


def test_what_a_job_fails_of_is_told():
    with pytest.raises(RuntimeError, match="no such thing"):
        by_turns((failing,), (failing,), turns=1, threads=1)
