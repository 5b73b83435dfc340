"""Hard negatives for 100,000 users among 100,000 items: memory above the vectors' own, and whether any is right.

    python benchmarks/mining.py [--users=100000] [--items=100000] [--width=64]

Vectors are made up: items in clusters, and each user among a few planted right items, which are nearest of all, so
that they would be the first negatives if they were not left out. Peak memory is the process's own (maximum resident
set), less what it was when all vectors lay in memory.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from recsys.data.mined import MineConfig
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.mine import find_negatives

PLANTED = 5  # right items of each user
BLOCK = 2048


def held() -> float:
    """MiB that this process holds now (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 2**10


def peak() -> float:
    """MiB, the most that this process has held so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def make(users: int, items: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of users and items, float32, and the planted items [users, PLANTED] of each user."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(256, width))
    vectors = (centres[rng.integers(0, 256, items)] + rng.normal(size=(items, width))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    planted = rng.integers(0, items, (users, PLANTED))
    asked = np.concatenate([vectors[block].mean(1) for block in np.array_split(planted, 50)])  # a low peak of its own
    return asked / np.linalg.norm(asked, axis=1, keepdims=True), vectors, planted


def main() -> None:
    """Mine, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("users", 100_000), ("items", 100_000), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    users, items, planted = make(options.users, options.items, options.width)
    before, begin, count, wrong = held(), time.perf_counter(), 0, 0
    index = ItemIndex.build(items)
    for start in range(0, len(users), BLOCK):
        own = [np.unique(row) for row in planted[start : start + BLOCK]]
        frame, _ = find_negatives(index, items, users[start : start + BLOCK], own, own, MineConfig(margin=0.0))
        request, item = frame["request"].to_numpy(), frame["item"].to_numpy()
        count += len(frame)
        wrong += int((planted[start + request] == item[:, None]).any(1).sum())
    size, matrix = (users.nbytes + items.nbytes) / 2**20, 4 * len(users) * len(items) / 2**20
    print(f"{len(users):,} users x {len(items):,} items of width {options.width}: {size:,.0f} MiB of vectors")
    print(f"{count:,} negatives in {time.perf_counter() - begin:,.0f} s, {wrong} of them planted as right")
    print(f"peak memory above what lay there before: {peak() - before:,.0f} MiB; the matrix would be {matrix:,.0f} MiB")


if __name__ == "__main__":
    main()
