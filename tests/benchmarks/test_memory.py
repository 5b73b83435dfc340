import time

from memory import most_memory, own_memory


def test_memory_that_was_held_counts_when_it_is_gone():
    before = most_memory()
    with own_memory() as own:
        large = bytearray(b"x") * 200_000_000
        time.sleep(0.2)
        del large
    assert own[0] > 150
    assert most_memory() >= max(before, 150)


def test_nothing_is_counted_after_the_block():
    with own_memory() as own:
        pass
    seen = own[0]
    large = bytearray(b"x") * 200_000_000
    time.sleep(0.15)
    assert own[0] == seen
    assert len(large) == 200_000_000
