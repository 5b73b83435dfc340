"""What each source of candidates finds for the valid queries: the retriever, BM25, and both fused."""

from pathlib import Path

import numpy as np
import torch

from recsys.data.lists import CandidateLists
from recsys.data.prepare import Prepared
from recsys.data.requests import Requests, validation_requests
from recsys.metrics.accumulate import RankingMetrics
from recsys.metrics.long_tail import popularity_segments
from recsys.metrics.ranking import rank_of_targets, top_items
from recsys.recommend.evaluate import SHOWN, list_ranks, padded
from recsys.results import add_stage, read_results
from recsys.retrieval.hybrid import query_texts
from recsys.retrieval.lexical import LexicalConfig, LexicalIndex

SOURCES = ("BM25", "hybrid")
"""Names that rows of results.json start with."""


def report_sources(run: Path, retriever: Path, data: Prepared, candidates: Path, lexical: LexicalConfig) -> None:
    """Add to RUN/results.json what the retriever's trainer said of the valid queries, BM25's row and the fused lists'.

    Args:
        run: folder of the run.
        retriever: folder of the retriever's training run.
        data: that the candidates were made for.
        candidates: folder of the fused candidates. A target that is not in its list is a miss.
        lexical: how BM25 scores.
    """
    requests = validation_requests(data, ["query_to_item"]).get("valid_query")
    if requests is None:
        return
    trained = read_results(retriever)["stages"]
    rows = [one for one in trained if one["name"] == "retriever, valid_query"]
    for one in rows:
        add_stage(run, one["name"], one["metrics"], seconds=one["seconds"])
    add_stage(run, "BM25, valid_query", evaluate_lexical(LexicalIndex(data.catalogue.texts, lexical), data, requests))
    add_stage(run, "hybrid, valid_query", evaluate_candidates(CandidateLists.read(candidates, data), data))


def evaluate_lexical(index: LexicalIndex, data: Prepared, requests: Requests) -> dict[str, float]:
    """BM25 by full ranking of all items; one that shares no word with the query is not in the list."""
    metrics, texts = _metrics(data, (10, 20, 100)), query_texts(data, requests)
    for rows in index.blocks(len(texts)):
        scores = torch.from_numpy(index.scores(texts[rows]))
        scores = scores.masked_fill(scores == 0, float("-inf"))
        targets, grades = (torch.from_numpy(values) for values in padded(requests.take(np.arange(len(texts))[rows])))
        metrics.update(rank_of_targets(scores, targets), targets, top_items(scores, SHOWN), grades)
    return metrics.compute()


def evaluate_candidates(lists: CandidateLists, data: Prepared) -> dict[str, float]:
    """The written lists of the valid queries."""
    numbers = lists.sets["valid_query"]
    items, *_ = lists.table(numbers)
    targets, grades = padded(lists.requests.take(numbers))
    metrics = _metrics(data, tuple(k for k in (10, 20, 100) if k <= items.shape[1]) or (SHOWN,))
    ranks, shown = list_ranks(items, targets, len(data.catalogue)), np.full((len(items), SHOWN), -1)
    shown[:, : items.shape[1]] = items[:, :SHOWN]
    metrics.update(*(torch.from_numpy(values) for values in (ranks, targets, shown, grades)))
    return metrics.compute()


def _metrics(data: Prepared, ks: tuple[int, ...]) -> RankingMetrics:
    popularity = torch.from_numpy(data.popularity())
    return RankingMetrics(segments=popularity_segments(popularity), popularity=popularity, ks=ks, list_k=SHOWN)
