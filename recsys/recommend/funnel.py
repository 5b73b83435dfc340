"""What each stage of the cascade hands on, what it costs, and what the stage behind it could still win."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from recsys.data.requests import Requests
from recsys.metrics.ceiling import perfect_ranks
from recsys.metrics.ranking import ndcg, recall
from recsys.recommend.cascade import Cascade, Lists
from recsys.recommend.evaluate import SHOWN, list_ranks, padded

PARTS = {"retriever": "retrieve", "pruner": "score", "lists": "decide"}
"""Stages, and the part of the clock that each of them is."""


class Funnel:
    """Sums over many requests. Quality is of those with a target, sizes and times are of all."""

    def __init__(self, cascade: Cascade) -> None:
        self.items = len(cascade.data.catalogue)
        self.wanted = min(cascade.top_k, self.items) if cascade.data.filters is not None else 0
        self.answered = self.judged = self.short = 0
        self.handed_on: dict[str, int] = {}
        self.worth: dict[str, np.ndarray] = {}  # [3] sums of recall, nDCG@10 and the nDCG@10 of a perfect order
        self.seconds = dict.fromkeys(PARTS.values(), 0.0)

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Adds the time of a block to a part of the work; handed to `Cascade.recommend` as its clock."""
        begin = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begin

    def add(self, lists: Lists, requests: Requests) -> None:
        """Count the lists of some requests."""
        targets, grades = padded(requests)
        asked = (targets >= 0).any(1)
        self.answered += len(requests)
        self.judged += int(asked.sum())
        self.short += int(((lists.candidates >= 0).sum(1) < self.wanted).sum())
        for name, items in {"retriever": lists.candidates, "pruner": lists.ordered, "lists": lists.items}.items():
            if items is not None:
                self.handed_on[name] = self.handed_on.get(name, 0) + int((items >= 0).sum())
                worth = self._worth(items[asked], targets[asked], grades[asked])
                self.worth[name] = self.worth.get(name, 0) + worth

    def forget(self, name: str) -> None:
        """Leave out a stage whose lists are not the last ones."""
        self.handed_on.pop(name, None)
        self.worth.pop(name, None)

    def join(self, other: "Funnel") -> None:
        """Count what another one has counted."""
        self.answered, self.judged = self.answered + other.answered, self.judged + other.judged
        self.short += other.short
        for name, count in other.handed_on.items():
            self.handed_on[name] = self.handed_on.get(name, 0) + count
            self.worth[name] = self.worth.get(name, 0) + other.worth[name]
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds

    def _worth(self, items: np.ndarray, targets: np.ndarray, grades: np.ndarray) -> np.ndarray:
        ranks, known = torch.from_numpy(list_ranks(items, targets, self.items)), torch.from_numpy(grades)
        cut, best = min(SHOWN, self.items), perfect_ranks(ranks, known, self.items)
        values = recall(ranks, self.items), ndcg(ranks, known, cut), ndcg(best, known, cut)
        return np.array([float(value.sum()) for value in values])

    def stages(self) -> list[dict[str, Any]]:
        """One row for each stage, as results.json keeps it; empty where no request had a target.

        `in` and `out` are candidates for each request, `recall` is that of all that the stage hands on (the ceiling of
        what comes behind it), `ideal_ndcg@10` is what a perfect next stage would make of it, `seconds` are those of one
        request and `share` is their share of the whole cascade's. Where items are filtered, `short` requests have fewer
        candidates than are wanted.
        """
        rows, total, coming = [], sum(self.seconds.values()) or 1.0, float(self.items)
        for name in self.worth if self.judged else ():
            found, order, ideal = (self.worth[name] / self.judged).tolist()
            spent, out = self.seconds[PARTS[name]], self.handed_on[name] / self.answered
            row = {"name": name, "answered": self.answered, "requests": self.judged, "in": coming, "out": out}
            row |= {"recall": found, f"ndcg@{SHOWN}": order, f"ideal_ndcg@{SHOWN}": ideal}
            rows.append({**row, "seconds": spent / self.answered, "share": spent / total})
            coming = out
        return [{**row, "short": self.short} if row["name"] == "retriever" and self.wanted else row for row in rows]

    def shortage(self) -> str:
        """One sentence where filters leave some requests with fewer candidates than are wanted, else ""."""
        if not self.short:
            return ""
        rest = f"{self.short:,} of {self.answered:,} requests have fewer than {self.wanted} candidates"
        return f"{rest}: no more items are in stock, sold in the user's region, within the age limit and not seen."
