"""Pairs that a cross-encoder judges in a second: all layers over both texts, or the lower ones over each by itself.

    python benchmarks/split.py CONFIG [--queries=0] [--plain=10] [--turns=3] [--splits 3 4 5] [--precisions fp32 bf16]

CONFIG is a pruner's, such as configs/pruner/ml1m_search.yaml: of it are taken tables, text model and max_tokens. Every
valid query (or the first `--queries`) is judged beside the 100 items that BM25 finds best, by the very call that
inference makes, batches included. Weights are as they come: the speed does not depend on them. Of what reads both texts
in all layers, a sample of `--plain` queries is timed, since its cost grows with pairs alone.

cold: nothing is known of the candidates when the call begins, and each is read in it once. warm: all are known, as in a
service that has been asked before (the sample's queries). CrossEncoder: sentence-transformers, where it is installed,
from strings, with the same weights and max_tokens, which are those of a pair there, and of each side where it is split.
bf16: weights in bfloat16 on both sides. All take turns; printed are medians, and the ratio to the first line of the
same precision and to the first of all.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import THREADS, keep, machine

from recsys.config import TextConfig, parse_run, resolve_pretrained
from recsys.data.datasets import Features, Texts
from recsys.data.pairs import PairTexts
from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import Requests, candidate_requests
from recsys.data.text import load_tokenizer
from recsys.heap import keep_freed_memory
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.states import StateCache
from recsys.models.text import TextEncoder
from recsys.models.towers import Sizes
from recsys.recommend.score import score_candidates
from recsys.retrieval.lexical import LexicalConfig, LexicalIndex
from recsys.training.pruner_run import PrunerRun

CANDIDATES = 100


@dataclass(frozen=True)
class Lists:
    """Queries and their candidates."""

    data: Prepared
    requests: Requests
    items: np.ndarray  # [R, K], -1 padded

    @classmethod
    def of(cls, data: Prepared, count: int) -> "Lists":
        """The first valid queries, or all of them if `count` is 0."""
        requests = next(one for stage, one in candidate_requests(data, ["query_to_item"]) if stage == "valid")
        requests = requests.take(np.arange(count or len(requests))[: len(requests)])
        assert data.queries is not None
        texts = [data.queries.texts[row] for row in requests.queries]
        items, _ = LexicalIndex(data.catalogue.texts, LexicalConfig()).search(texts, CANDIDATES)
        return cls(data, requests, items)

    def first(self, count: int) -> "Lists":
        """Of a sample."""
        rows = np.arange(min(count, len(self.requests)))
        return replace(self, requests=self.requests.take(rows), items=self.items[rows])

    @property
    def pairs(self) -> int:
        """How many there are."""
        return int((self.items >= 0).sum())


class Judge:
    """An untrained pruner with so many layers that read apart; 0: all read both."""

    def __init__(self, lists: Lists, text: TextConfig, split: int, precision: str, cache: Path) -> None:
        tokenizer = load_tokenizer(text, [], cache)
        encoder = TextEncoder.build(text, len(tokenizer), tokenizer.pad_token_id or 0)
        if precision == "bf16":
            encoder.lower(torch.bfloat16)
        config = PrunerConfig(text=text, split=split)
        self.model = Pruner(config, Sizes(items=len(lists.data.catalogue)), encoder, vector_width=1).eval()
        self.pairs = PairTexts(
            lists.data, tokenizer, title=[], max_tokens=text.max_tokens, history=1, folder=cache, apart=config.apart
        )

    def __call__(self, lists: Lists, states: StateCache | None = None) -> np.ndarray:
        """[R, K] logits."""
        features = Features(lists.data, Texts(), Texts(), max_items=1)
        none = np.zeros((max(len(lists.data.catalogue), len(lists.requests)), 1), dtype=np.float32)
        return score_candidates(
            self.model, features, lists.requests, lists.items, np.zeros(lists.items.shape, dtype=np.float32), none,
            none[: len(lists.requests)], pairs=self.pairs, states=states,
        )[..., 0]  # fmt: skip


def peer(lists: Lists, text: TextConfig, precision: str) -> Callable[[], object] | None:
    """sentence-transformers on the same pairs; None where it is not installed."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        return None
    model: Any = CrossEncoder(
        resolve_pretrained(text.model), num_labels=1, max_length=text.max_tokens, device="cpu",
        model_kwargs={"dtype": torch.bfloat16} if precision == "bf16" else {},
    )  # fmt: skip
    queries = lists.data.queries
    assert queries is not None
    rows = [
        (queries.texts[query], lists.data.catalogue.texts[item])
        for query, items in zip(lists.requests.queries, lists.items, strict=True)
        for item in items if item >= 0
    ]  # fmt: skip
    return lambda: model.predict(rows, show_progress_bar=False)


def rate(work: Callable[[], object], pairs: int) -> float:
    """Pairs a second, once."""
    begin = time.perf_counter()
    work()
    return pairs / (time.perf_counter() - begin)


def measure(lists: Lists, text: TextConfig, options: argparse.Namespace, cache: Path) -> dict[str, list[float]]:
    """Rates of each way, of all turns."""
    some, found = lists.first(options.plain), dict[str, list[float]]()
    works = dict[str, tuple[Callable[[], object], int]]()
    for kind in options.precisions:
        other, plain = peer(some, text, kind), Judge(lists, text, 0, kind, cache)
        if other is not None:
            works[f"CrossEncoder, {kind}"] = other, some.pairs
        works[f"all layers over both, {kind}"] = partial(plain, some), some.pairs
        for split in options.splits:
            judge = Judge(lists, text, split, kind, cache)
            known = StateCache()
            judge(some, known)
            works[f"split {split}, cold, {kind}"] = partial(judge, lists), lists.pairs
            works[f"split {split}, warm, {kind}"] = partial(judge, some, known), some.pairs
    for _ in range(options.turns):
        for name, (work, pairs) in works.items():
            found.setdefault(name, []).append(rate(work, pairs))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    for name, value in (("queries", 0), ("plain", 10), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--splits", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    options = parser.parse_args()
    begun, config = time.perf_counter(), parse_run(PrunerRun, [options.config])
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as the commands do
    assert config.model.text is not None
    lists, cache = Lists.of(prepare(config.data), options.queries), Path(config.data.cache)
    found = measure(lists, config.model.text, options, cache)
    distinct = len(np.unique(lists.items[lists.items >= 0]))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()['cpu']}, {THREADS} threads, torch {torch.__version__}")
    print(f"{len(lists.requests)} queries, {lists.pairs} pairs, {distinct} distinct candidates")
    print(f"{'':<30}{'pairs/s':>10}{'least':>10}{'most':>10}{'x same':>8}{'x fp32':>8}")
    middle = {name: statistics.median(rates) for name, rates in found.items()}
    first = {kind: next(middle[name] for name in middle if name.endswith(kind)) for kind in options.precisions}
    cells = []
    for name, rates in found.items():
        own, all_first = middle[name] / first[name.split(", ")[-1]], middle[name] / next(iter(middle.values()))
        print(f"{name:<30}{middle[name]:>10.1f}{min(rates):>10.1f}{max(rates):>10.1f}{own:>8.2f}{all_first:>8.2f}")
        spread = f"{middle[name]:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        cells.append([name, spread, f"{own:.2f}", f"{all_first:.2f}"])
    head = ["", "pairs/s", "ratio to the first of this precision", "ratio to the first"]
    note = f"{len(lists.requests)} queries, {lists.pairs:,} pairs, {distinct:,} distinct candidates."
    keep("split", begun, head=head, cells=cells, note=note)


if __name__ == "__main__":
    main()
