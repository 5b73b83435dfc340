"""How long one answer takes, from Python, in this process."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recsys.recommend.recommender import Recommender
from recsys.results import read_results, write_results

CALLS = 100
WARM_UP = 5


def measure_latency(run: Path) -> dict[str, dict[str, float]]:
    """p50 and p99 in milliseconds of `recommend` and `search` on the run's own users and queries; kept in results.json.

    Raises InputError where the models or the data of the run are not there.
    """
    recommender = Recommender.load(run)
    found = {name: _percentiles(ask) for name, ask in _questions(recommender).items()}
    write_results(run, {**read_results(run), "latency_ms": found})
    return found


def _questions(recommender: Recommender) -> dict[str, Callable[[int], object]]:
    """What is asked: histories of the data's users, texts of its queries."""
    data, ids = recommender.cascade.data, recommender.cascade.item_ids
    histories, retriever = data.histories, recommender.cascade.retriever
    texts = [text for text in data.queries.texts[:1000] if text.strip()] if data.queries is not None else []
    asks: dict[str, Callable[[int], object]] = {}
    if histories is not None and len(histories) and retriever.model.users.history is not None:
        users = np.random.default_rng(0).integers(len(histories), size=CALLS + WARM_UP)

        def recommend(number: int) -> object:
            rows = histories.item[slice(*histories.offsets[users[number] :][:2])]
            return recommender.recommend(ids.gather(rows).to_list())

        asks["recommend"] = recommend
    if texts and retriever.words is not None:
        asks["search"] = lambda number: recommender.search(texts[number % len(texts)])
    return asks


def _percentiles(ask: Callable[[int], object]) -> dict[str, float]:
    spent = []
    for number in range(WARM_UP + CALLS):
        begin = time.perf_counter()
        ask(number)
        spent.append((time.perf_counter() - begin) * 1000)
    p50, p99 = np.percentile(spent[WARM_UP:], [50, 99])
    return {"p50": float(p50), "p99": float(p99)}
