"""Freed memory is kept: a process of its own takes and frees the same large block, and counts its page faults."""

import os
import subprocess
import sys

import pytest

from recsys.heap import keep_freed_memory

PROGRAM = """
import ctypes, resource
from recsys.heap import keep_freed_memory
{keep}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 64 * 2**20
def use():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str, **environment: str) -> int:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)], env={**own, **environment}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return int(done.stdout)


pytestmark = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's allocator")


def test_memory_that_was_freed_is_taken_again_without_a_page_fault() -> None:
    assert faults("keep_freed_memory()") < 10
    assert faults("") > 100


def test_who_sets_the_allocator_is_left_alone() -> None:
    assert faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072") > 100


def test_where_large_blocks_cannot_be_kept_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second setting alone would freeze the size from which on blocks are given back at once, at its least."""
    asked = []

    class OlderLibrary:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            asked.append((name, value))
            return 0

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setattr("recsys.heap.ctypes.CDLL", lambda _: OlderLibrary)
    keep_freed_memory()
    assert len(asked) == 1
