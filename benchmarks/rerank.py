"""What re-ranking costs a user: 200 candidates to a list of 20, on one core.

    OMP_NUM_THREADS=1 python benchmarks/rerank.py [WIDTH]

Random unit vectors, 1,000 users, 20,000 items, blocks of users as in `Reranker`. Medians of five runs.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from measure import keep

from recsys.recommend.diversity import calibrate, dpp, mmr, xquad
from recsys.recommend.exposure import solve
from recsys.recommend.rerank import BLOCK

USERS, ITEMS, CANDIDATES, PLACES, STRENGTH, GROUPS = 1000, 20_000, 200, 20, 0.3, 18


def milliseconds(work: Callable[[], object]) -> float:
    """A user's share, the median of five."""
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) / USERS * 1000)
    return statistics.median(found)


def main(width: int) -> None:
    """Print the costs."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ITEMS, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    candidates = rng.integers(ITEMS, size=(USERS, CANDIDATES))
    relevance = -np.sort(-rng.random((USERS, CANDIDATES)), axis=1)
    groups, mixes = rng.integers(4, size=ITEMS), rng.dirichlet(np.ones(GROUPS), ITEMS).astype(np.float32)
    mix, own = rng.dirichlet(np.ones(4), USERS), rng.dirichlet(np.ones(GROUPS), USERS)

    def blocks(one: Callable[[slice], object]) -> Callable[[], None]:
        def work() -> None:
            for start in range(0, USERS, BLOCK):
                one(slice(start, start + BLOCK))

        return work

    works = {
        "MMR": blocks(lambda rows: mmr(relevance[rows], vectors[candidates[rows]], STRENGTH, PLACES)),
        "DPP": blocks(lambda rows: dpp(relevance[rows], vectors[candidates[rows]], STRENGTH, PLACES)),
        "xQuAD": blocks(lambda rows: xquad(relevance[rows], groups[candidates[rows]], mix[rows], STRENGTH, PLACES)),
        "calibration": blocks(
            lambda rows: calibrate(relevance[rows], mixes[candidates[rows]], own[rows], STRENGTH, PLACES)
        ),
        "exposure, all users at once": lambda: solve(
            relevance, groups[candidates], PLACES, np.array([0, 0, USERS * PLACES // 2, USERS * PLACES // 3])
        ),
    }
    begin, cells = time.perf_counter(), []
    torch.set_num_threads(1)
    print(f"{'':<30}{'ms a user':>10}")
    for name, work in works.items():
        cells.append([name, f"{milliseconds(work):.3f}"])
        print(f"{name:<30}{cells[-1][1]:>10}")
    keep("rerank", begin, head=["", "ms a user"], cells=cells, note=f"{USERS:,} users, vectors of width {width}.")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 192)
