"""What a dynamic item representation costs a user: 200 candidates scored by it, and by the dot product alone.

    python benchmarks/dynamic.py [WIDTH] [FEATURES]

Random vectors, 1,000 users, 100,000 items, one thread. Medians of nine runs.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from recsys.models.dynamic import DynamicConfig
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

USERS, ITEMS, CANDIDATES, BATCH = 1000, 100_000, 200, 64


def milliseconds(work: Callable[[], object]) -> float:
    """A user's share, the median of nine."""
    found = []
    for _ in range(9):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) / USERS * 1000)
    return statistics.median(found)


@torch.no_grad()
def main(width: int, features: int) -> None:
    """Print the costs."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    candidates = torch.randint(0, ITEMS, (USERS, CANDIDATES))
    users = torch.randn(USERS, width)
    nearest = torch.randn(ITEMS, width)
    print(f"{'':<34}{'ms a user':>10}")
    for name, config in (("dot product", None), (f"dynamic, {features} features", DynamicConfig(width=features))):
        model = Retriever(RetrieverConfig(width=width, dynamic=config), Sizes(items=8), None).eval()
        items = torch.randn(ITEMS, width + (features if config else 0))

        def score(model: Retriever = model, items: torch.Tensor = items) -> None:
            for part in torch.arange(USERS).split(BATCH):
                model.score(users[part], items[candidates[part]])

        print(f"{name:<34}{milliseconds(score):>10.3f}")

    def search() -> None:
        for part in torch.arange(USERS).split(BATCH):
            (users[part] @ nearest.T).topk(CANDIDATES)

    print(f"{f'exact search of {ITEMS:,} items':<34}{milliseconds(search):>10.3f}")


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:], *("128", "64")[len(sys.argv) - 1 :])))
