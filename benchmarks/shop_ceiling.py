"""What a pruner can drop in the demo shop at best: the oracle's own lists, pruned by its own probabilities.

    python benchmarks/shop_ceiling.py [SIZE] [SEED]

For every user's valid purchase the oracle proposes its K best items; one threshold on its probabilities, the same for
all lists, keeps 95 % of the purchases that are in them. Printed: recall@K, and the share of the others that falls.
"""

import sys

import numpy as np
import torch

from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.oracle import AT_HAND, oracle_scores, questions
from recsys.data.sources.shop.write import draw_shop
from recsys.metrics.pruning import pruning_curve

KEEP = 0.95


def main(size: int, seed: int) -> None:
    """Print the table."""
    stock, people, visits, _ = draw_shop(size, seed, ENGLISH)
    asked = questions(visits, stock)
    print(f"{'oracle':<16}{'K':>6}{'recall@K':>10}{f'dropped@{100 * KEEP:.0f}':>12}")
    for name, hidden in (("everything", ()), ("sources at hand", AT_HAND)):
        scores = np.concatenate([block for _, block in oracle_scores(stock, people, asked, hidden)]).clip(min=0)
        chance = scores / scores.sum(axis=1, keepdims=True)
        order = np.argsort(-chance, axis=1, kind="stable")
        for count in (50, 100, 200, 500, size):
            listed = order[:, :count]
            bought = listed == asked.item[:, None]
            listed_chance = torch.from_numpy(np.take_along_axis(chance, listed, 1).ravel())
            curve = pruning_curve(listed_chance, torch.from_numpy(bought.ravel()))
            recall = bought.any(axis=1).mean()
            print(f"{name:<16}{count:>6}{recall:>10.3f}{curve.dropped_at(KEEP):>12.3f}")


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:], *("1000", "0")[len(sys.argv) - 1 :])))
