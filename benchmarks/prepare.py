"""Interactions validated, split and laid out for training: rows a second and the most memory, at two sizes.

    python benchmarks/prepare.py [--rows 10000000 100000000] [--users=1000000] [--items=1000000] [--folder=DIR]

The tables are made here, part by part: a log in the order of time, items by Zipf's law, most users with few rows
and some with thousands, an event in each row. Measured is a process of its own that does what a training does before
its first step: `prepare` (every check of the door, codes, content hash, the split, the layout on disk), then the
training rows, their loader and the first batch, then the requests of validation. A second process does the same and
finds the layout there. Making the tables is not counted; reading torch is in the memory and not in the seconds. Memory
is the most that the process ever had, pages of mapped files included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from memory import most_memory

from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.data.datasets import Features, NegativesConfig, RetrieverRows, Texts
from recsys.data.prepare import prepare
from recsys.data.requests import validation_requests
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig

PART_ROWS = 2_000_000
EVENTS = ("view", "cart", "buy")
START = 1_700_000_000  # seconds since 1970; eight rows a second, so that none is there twice


def write_tables(folder: Path, rows: int, users: int, items: int) -> None:
    """Items, users, and interactions as a folder of parts."""
    (folder / "interactions").mkdir(parents=True)
    titles = [f"thing {item} of kind {item % 97}" for item in range(items)]
    pl.DataFrame({"item_id": np.arange(items), "title": titles}).write_parquet(folder / "items.parquet")
    pl.DataFrame({"user_id": np.arange(users)}).write_parquet(folder / "users.parquet")
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        part = _log(first, min(PART_ROWS, rows - first), users, items)
        part.write_parquet(folder / f"interactions/part-{number:05d}.parquet")


def _log(first: int, rows: int, users: int, items: int) -> pl.DataFrame:
    rng = np.random.default_rng([0, first])
    user = (users * rng.random(rows) ** 1.5).astype(np.int64)  # the most eager one has 1 / users^(2/3) of all rows
    item = items ** rng.random(rows)  # whole part k with log(1 + 1/k) / log(items)
    event = rng.choice(len(EVENTS), rows, p=[0.8, 0.15, 0.05])
    return pl.DataFrame({
        "user_id": user * 7919 % users,  # so that neither ids nor rows say who is eager
        "item_id": (item.astype(np.int64) - 1) * 7919 % items,
        "timestamp": 1000 * START + 125 * np.arange(first, first + rows),
        "event": pl.Series(event).replace_strict(range(len(EVENTS)), EVENTS, return_dtype=pl.String),
    })  # fmt: skip


def measure(folder: Path) -> Iterator[tuple[str, float, float]]:
    """In this process: each step, its seconds, and the most memory in GiB until its end."""
    roles = InteractionsConfig(event="event", target_events=["cart", "buy"])
    config = DataConfig(
        root=str(folder / "tables"), cache=str(folder / "cache"), items=ItemsConfig(text=["title"]), interactions=roles
    )
    begin = time.perf_counter()
    data = prepare(config)
    yield "prepare", time.perf_counter() - begin, _peak()
    begin = time.perf_counter()
    features = Features(data, Texts(), Texts(), max_items=config.history.max_items)
    rows = RetrieverRows(features, tasks=["next_item"], negatives=NegativesConfig(kind="batch"), seed=0)
    loader = DataModule(rows, lambda *_: [], LoaderConfig(), seed=0).train_dataloader()
    next(iter(loader))
    yield "training rows, first batch", time.perf_counter() - begin, _peak()
    begin = time.perf_counter()
    validation_requests(data, ["next_item"])
    data.popularity()
    yield "valid requests, popularity", time.perf_counter() - begin, _peak()


def _peak() -> float:
    return most_memory() / 2**10


def _asked(folder: Path) -> list[tuple[str, float, float]]:
    asked = [sys.executable, __file__, "--measure", str(folder)]
    lines = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [tuple(json.loads(line)) for line in lines]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the tables are made, and removed; a few GiB")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        for one in measure(options.measure):
            print(json.dumps(one), flush=True)
        return
    seconds = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            write_tables(Path(place) / "tables", rows, options.users, options.items)
            for start in ("first", "second"):
                found = _asked(Path(place))
                total = sum(took for _, took, _ in found)
                print(f"{rows:,} rows, {start} start: {total:.0f} s, {rows / total:,.0f} rows/s, "
                      f"{max(peak for *_, peak in found):.2f} GiB", flush=True)  # fmt: skip
                for name, took, peak in found:
                    print(f"  {name:<28}{took:>8.1f} s{peak:>8.2f} GiB", flush=True)
                seconds += [total] if start == "first" else []
    if len(seconds) > 1:
        print(
            f"{options.rows[-1] / options.rows[0]:g} times the rows took {seconds[-1] / seconds[0]:.1f} times as long"
        )


if __name__ == "__main__":
    main()
