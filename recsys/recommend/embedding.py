"""Stages embed and index: the catalogue's vectors and its index, kept in the run's folder."""

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from recsys.recommend.cascade import OpenPruner
from recsys.recommend.serve import device_of, open_retriever, run_store, use_cores
from recsys.recommend.settings import InferRun
from recsys.recommend.work import queries_data
from recsys.recommend.workers import share_out
from recsys.retrieval.catalogue import INDEX, VECTORS, open_catalogue
from recsys.retrieval.embed import audit_items, stored_items
from recsys.vectors import Unfinished


def embed(config: InferRun) -> Path:
    """The vectors of the catalogue, and of every text and picture that models read.

    What the retriever reads is shared out; what a pruner reads with another encoder, and the items' own vectors, which
    cost little, are made by whoever finds that whole.
    """
    begin, folder = time.perf_counter(), config.folder / VECTORS
    config = replace(config, data=queries_data(config.data))
    if config.workers > 1:
        opened, make = partial(_in_worker, config), partial(_embed_share, count=config.workers)
        list(share_out(range(config.workers), config.workers, opened, make))
    elif not _embed_share(config, *config.share()):
        print(f"shard {config.shard}: done; the rest is left to others", file=sys.stderr)
        return folder
    retriever = open_retriever(config)
    if config.pruner is not None:
        OpenPruner.open(Path(config.pruner), config.data, retriever)
    stored_items(retriever, folder, config.vectors)
    total, new = audit_items(retriever, folder, config.vectors)
    print(f"{total:,} items, {new:,} of them new -> {folder} in {time.perf_counter() - begin:,.0f} s", file=sys.stderr)
    return folder


def _in_worker(config: InferRun, worker: int) -> InferRun:
    own = replace(config, threads=config.cores, device=device_of(config, worker))
    use_cores(own)
    return own


def _embed_share(config: InferRun, number: int, count: int) -> bool:
    """Make a share of the vectors of texts and pictures that are missing; whether all are there."""
    try:
        open_retriever(config, (number, count))
    except Unfinished:
        return False
    return True


def index(config: InferRun) -> Path:
    """The index of the catalogue, tuned, beside what was measured."""
    retriever = open_retriever(replace(config, data=queries_data(config.data)))
    found = open_catalogue(retriever, run_store(config))
    print(f"{len(found.index):,} items: {found.told}", file=sys.stderr)
    return config.folder / INDEX
