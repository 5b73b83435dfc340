"""A tuned index beside FAISS Flat and a sweep of FAISS settings by hand, and lists for users beside FAISS alone.

    python benchmarks/index.py [--items=1000000] [--users=200000] [--width=384] [--clusters=4000] [--folder=DIR]
        [--part=tune|lists|all]

The vectors are made up. Clusters have sizes like 1 / rank^0.7 and lie around 64 topics: a centre is the direction of
topic + own, each of length 1. An item is the direction of centre + e, and a user that of a random item + 0.5 e, where e
has a mean square of 1 and the standard deviations of its axes fall like 1 / (axis + 1)^0.5, so that the hundred nearest
of a user lie in several clusters (their number is printed). Half of the users have seen 0 to 60 of their nearest items,
half 0 to 60 random ones.

tune: `tuned_index` for a recall@100 of 0.95 on other users than those of the table, then settings by hand, each on the
same 1,000 users of the table; nothing is tuned on those. HNSW stands in the sweep up to 1,000,000 items, for its
graph takes long. Centroids of the sweep are learnt as those of the tuned index are. lists: `ItemIndex.search` for all
users, 2,048 at a time, beside a direct call of FAISS on the same index for 100 items, in turns.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

import faiss
import numpy as np
from measure import keep

from recsys.retrieval.engine import FaissRows
from recsys.retrieval.exact import exact_top
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.kinds import IndexConfig, Settings, weight
from recsys.retrieval.tuning import Sample, tuned_index

K, TARGET, MEASURED, BLOCK = 100, 0.95, 1000, 2048
TOPICS, SPREAD, NOISE, ZIPF, SLOPE = 64, 1.0, 0.5, 0.7, 0.5
PROBES = (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384)


def directions(vectors: np.ndarray) -> np.ndarray:
    """The same vectors with length 1, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Where items and users lie."""

    def __init__(self, width: int, clusters: int) -> None:
        rng = np.random.default_rng(0)
        topics = directions(rng.normal(size=(TOPICS, width)))
        own = directions(rng.normal(size=(clusters, width)))
        self.centres = directions(topics[rng.integers(0, TOPICS, clusters)] + own)
        share = np.arange(1, clusters + 1) ** -ZIPF
        self.share = share / share.sum()
        axes = np.arange(1, width + 1) ** -SLOPE
        turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
        self.noise = (axes / np.linalg.norm(axes))[:, None].astype(np.float32) * turn.astype(np.float32)

    def around(self, places: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
        """Directions near some places."""
        count = len(places)
        return directions(places + spread * (rng.standard_normal((count, len(self.noise)), np.float32) @ self.noise))

    def items(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [count, D], and the cluster of each."""
        rng = np.random.default_rng(1)
        cluster, found = (
            rng.choice(len(self.centres), count, p=self.share),
            np.empty((count, len(self.noise)), np.float32),
        )
        for start in range(0, count, 1 << 16):
            rows = slice(start, start + (1 << 16))
            found[rows] = self.around(self.centres[cluster[rows]], SPREAD, rng)
        return found, cluster

    def users(self, items: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Vectors [count, D]."""
        rng = np.random.default_rng(seed)
        return self.around(items[rng.integers(0, len(items), count)], NOISE, rng)


def timed(*works: Callable[[], object], turns: int = 2) -> list[float]:
    """Seconds that each of some pieces of work takes, done in turns: the least of its own."""
    spent = np.empty((turns, len(works)))
    for turn in range(turns):
        for number, work in enumerate(works):
            begin = time.perf_counter()
            work()
            spent[turn, number] = time.perf_counter() - begin
    return spent.min(0).tolist()


Search = Callable[[np.ndarray], np.ndarray]


class Table:
    """What is printed, and kept."""

    head = ("", "recall", "queries/s", "MiB", "build s")

    def __init__(self) -> None:
        self.cells: list[list[str]] = []
        print("{:<34}{:>8}{:>12}{:>10}{:>8}".format(*self.head))

    def add(self, name: str, recall: float, speed: float, size: int, build: float) -> None:
        """A row: `size` in bytes, `build` in seconds."""
        self.cells.append([name.strip(), f"{recall:.3f}", f"{speed:,.0f}", f"{size / 2**20:,.0f}", f"{build:.0f}"])
        print("{:<34}{:>8}{:>12}{:>10}{:>8}".format(name, *self.cells[-1][1:]), flush=True)

    def measure(self, name: str, search: Search, sample: Sample, size: int, build: float) -> tuple[float, float]:
        """Measure one way of searching and add it; returns recall and queries a second."""
        found = search(sample.queries)
        recall = float(np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, sample.right, strict=True)]))
        speed = len(sample) / timed(lambda: search(sample.queries))[0]
        self.add(name, recall, speed, size, build)
        return recall, speed


def bare(rows: FaissRows) -> Search:
    """A search that calls FAISS directly."""
    return lambda users: rows.index.search(users, K, params=rows.parameters(None))[1]


def sweep(table: Table, vectors: np.ndarray, sample: Sample, own: FaissRows) -> Search:
    """Settings by hand; returns the fastest of those that reach the target."""
    reached, width = [], vectors.shape[1]
    sizes = [lists for lists in (1024, 4096) if lists * 39 <= len(vectors)]
    tried = [Settings(kind=kind, lists=lists, breadth=1) for lists in sizes for kind in ("ivf_sq8", "ivf_flat")]
    for settings in [*tried, Settings(kind="hnsw", breadth=K)] if len(vectors) <= 1_000_000 else tried:
        begin = time.perf_counter()
        same = (own.settings.kind, own.settings.lists) == (settings.kind, settings.lists)
        rows = own if same else ItemIndex.build(vectors, settings).shards[0].rows
        build = 0.0 if same else time.perf_counter() - begin
        assert isinstance(rows, FaissRows)
        for breadth in PROBES if settings.lists else (100, 150, 200, 300, 400, 600, 800):
            name = f"  {settings.kind} {settings.lists or 'M=32'}, {breadth}"
            search = bare(rows.tuned(breadth, 1, vectors))
            recall, speed = table.measure(name, search, sample, weight(settings, len(rows), width), build)
            if recall >= TARGET:
                reached.append((speed, search))
                break
    return max(reached, key=lambda one: one[0])[1]


def tune(world: World, items: np.ndarray, cluster: np.ndarray, path: Path) -> None:
    """Tune, sweep, and print both."""
    begin, asked = time.perf_counter(), world.users(items, MEASURED, 3)
    sample = Sample(queries=asked, right=exact_top(items, asked, K))
    spans = np.mean([len(np.unique(cluster[one])) for one in sample.right])
    largest = np.bincount(cluster).max()
    print(f"the {K} nearest of a user lie in {spans:.1f} clusters; the largest cluster holds {largest:,} items")
    flat, torch = timed(
        lambda: faiss.knn(asked, items, K, faiss.METRIC_INNER_PRODUCT), lambda: exact_top(items, asked, K), turns=1
    )
    tuned = tuned_index(items, IndexConfig(k=K, recall=TARGET), world.users(items, 5 * MEASURED, 2))
    tuned.save(path)
    own = tuned.rows
    if not isinstance(own, FaissRows):
        raise SystemExit("FAISS is not installed.")
    table = Table()
    for name, seconds in (("FAISS Flat", flat), ("exact search with torch", torch)):
        table.add(name, 1.0, MEASURED / seconds, items.nbytes, 0.0)
    said, shown = tuned.report, own.settings
    name = f"tuned: {shown.kind} {shown.lists}, {shown.breadth}, rescored {shown.rescore}"

    def ours(users: np.ndarray) -> np.ndarray:
        return own.search(users, K)[1]

    recall, _ = table.measure(name, ours, sample, said.memory, said.build_seconds)
    table.measure("  the same, FAISS called directly", bare(own), sample, said.memory, 0.0)
    found = f"recall {said.recall:.4f} +- {said.recall_error:.4f}, {said.queries_per_second:,.0f} queries/s"
    print(f"  in its own report: {found} {said.fault}")
    best = sweep(table, items, sample, own)
    speed, by_hand = timed(lambda: ours(asked), lambda: best(asked), turns=5)
    print(f"tuned: recall {recall:.3f}; {flat / speed:.1f} x Flat, {torch / speed:.1f} x torch, ", end="")
    print(f"{by_hand / speed:.2f} x the best by hand, in turns")
    note = (
        f"{len(items):,} items of width {items.shape[1]}; {K} neighbours of {MEASURED:,} users, recall wanted {TARGET}."
    )
    keep("index", begin, head=list(table.head), cells=table.cells, note=note)


def lists(world: World, items: np.ndarray, count: int, path: Path) -> None:
    """Lists for all users beside FAISS called directly."""
    index = ItemIndex.load(path, items)
    rows = index.shards[0].rows
    assert isinstance(rows, FaissRows)
    rng, spent, short = np.random.default_rng(4), np.zeros(2), 0  # seconds of ours, and of FAISS
    users = world.users(items, count, 5)
    for number, start in enumerate(range(0, count, BLOCK)):
        block = users[start : start + BLOCK]
        near = rows.search(block, 60)[1]
        seen = [
            np.unique(near[at, : rng.integers(0, 61)] if at % 2 else rng.integers(0, len(items), rng.integers(0, 61)))
            for at in range(len(block))
        ]
        found = np.zeros(0)
        for which in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            if which:
                rows.index.search(block, K, params=rows.parameters(None))
            else:
                found, _ = index.search(block, K, seen)
            spent[which] += time.perf_counter() - begin
        short += int((found < 0).sum())
    ours, direct = count / spent
    print(f"lists of {K} unseen items for {count:,} users: {ours:,.0f}/s, {short} places empty")
    print(f"FAISS called directly for {K} items: {direct:,.0f}/s; ours is {ours / direct:.3f} x that")


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("items", 1_000_000), ("users", 200_000), ("width", 384), ("clusters", 4000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "index_benchmark")
    parser.add_argument("--part", choices=["tune", "lists", "all"], default="all")
    options = parser.parse_args()
    world, path = World(options.width, options.clusters), options.folder / f"{options.items}.faiss"
    items, cluster = world.items(options.items)
    print(f"{options.items:,} items of width {options.width} in {options.clusters:,} clusters")
    if options.part != "lists":
        tune(world, items, cluster, path)
    if options.part != "tune":
        lists(world, items, options.users, path)


if __name__ == "__main__":
    main()
