"""Whether the evidence of a run's lists carried their scores: areas of deletion and insertion beside random evidence.

    python benchmarks/faithfulness.py RUN [COUNT] [SEED]

RUN is an inference run with lists (recommendations/, else results/). One place of each of COUNT (50) lists is drawn by
SEED (0). Printed: areas under the curves, in units of the score, named and random, and the paired gap with its 95 %
interval; and how far single pieces lower the score: the best one, and a random one of the same recommendation.
"""

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.config import parse_run
from recsys.data.requests import Requests, search_requests, serving_requests
from recsys.metrics.bootstrap import paired_bootstrap
from recsys.recommend.cascade import Cascade
from recsys.recommend.deletions import Asked
from recsys.recommend.evidence import Explainer
from recsys.recommend.faithful import measure
from recsys.recommend.settings import InferRun


def drawn(cascade: Cascade, run: Path, until: str, count: int, seed: int) -> tuple[Requests, np.ndarray]:
    """Requests, and one row of the items table of each of their lists."""
    users = (run / "recommendations").is_dir()
    lists = pl.read_parquet(sorted((run / ("recommendations" if users else "results")).glob("part-*.parquet")))
    key = lists.columns[0]
    rng = np.random.default_rng(seed)
    picked = lists[rng.permutation(len(lists))].unique(key, keep="first", maintain_order=True)
    place = {item: row for row, item in enumerate(cascade.item_ids.to_list())}
    if users:
        rows = {one: row for row, one in enumerate(cascade.data.tables.users[cascade.config.users.id].to_list())}
        picked = picked[:count]
        requests = serving_requests(cascade.data, until, np.array([rows[one] for one in picked[key]]))
    else:
        found = search_requests(cascade.data, until)
        answered = {int(row) for row, right in enumerate(found.target_rows) if len(right)}
        ids = cascade.data.tables.queries[cascade.config.queries.id].to_list()
        rows = {one: row for row, one in enumerate(ids) if row in answered or not answered}
        picked = picked.filter(pl.col(key).is_in(list(rows)))[:count]
        requests = found.take(np.array([rows[one] for one in picked[key]]))
    return requests, np.array([place[one] for one in picked["item_id"]])


def main(run: Path, count: int, seed: int) -> None:
    """Print the areas."""
    torch.set_num_threads(1)
    one = parse_run(InferRun, [str(run / "infer.yaml")])
    lexical = None if (run / "recommendations").is_dir() else one.lexical
    cascade = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision, lexical)
    requests, items = drawn(cascade, run, str(one.data.history.until), count, seed)
    explainer = Explainer(cascade, history=one.explain.history, words=one.explain.words)
    begin, without = time.perf_counter(), explainer.open(requests)
    pairs = [(row, int(item)) for row, item in enumerate(items)]
    base = without.scores([Asked(*pair) for pair in pairs])
    units = explainer.units(without, pairs, explainer.gradients(without, pairs))
    worths = [list(found.values()) for found in explainer.worths(without, pairs, units, base)]
    best = np.array([max(own) for own in worths])
    random = np.array([float(np.mean(own)) for own in worths])  # the mean over all pieces: of a random one, expected
    gap = paired_bootstrap(best - random)
    print(f"{len(pairs)} recommendations, {np.mean([len(own) for own in units]):.0f} pieces each")
    print(f"without the best piece {best.mean():.3f} lower, without a random one {random.mean():.3f}: "
          f"gap {gap.mean:.3f} ({gap.low:.3f} to {gap.high:.3f})")  # fmt: skip
    for row in measure(explainer, without, pairs, seed):
        for way, found in (("deletion", row.deletion), ("insertion", row.insertion)):
            print(f"{row.pieces:<9}{row.by:<15}{way:<10} named {found.named:8.3f}  random {found.random:8.3f}  "
                  f"gap {found.gap.mean:.3f} ({found.gap.low:.3f} to {found.gap.high:.3f})")  # fmt: skip
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("50", "0")[len(sys.argv) - 2 :]]
    main(Path(given[0]), int(given[1]), int(given[2]))
