"""Stages embed and index: the catalogue's vectors and its index, kept in the run's folder."""

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from recsys.recommend.cascade import OpenPruner
from recsys.recommend.serve import device_of, run_store, use_cores
from recsys.recommend.settings import InferRun
from recsys.recommend.workers import share_out
from recsys.retrieval.catalogue import INDEX, VECTORS, open_catalogue
from recsys.retrieval.embed import OpenRetriever, audit_items, stored_items
from recsys.vectors import Unfinished


def embed(config: InferRun) -> Path:
    """The vectors of the catalogue, and of every text and picture that models read."""
    folder, begin = config.folder / VECTORS, time.perf_counter()
    if config.workers > 1:
        shares, opened = list(range(config.workers)), partial(_worker_config, config)
        while not all(whole for _, whole in share_out(shares, config.workers, opened, _embed_share)):
            pass  # a table after the other: with the last part of one, the next can begin
    elif not _embed_part(config, config.share()):
        print(f"shard {config.shard}: done; the rest is left to others", file=sys.stderr)
        return folder
    retriever = OpenRetriever.open(Path(config.retriever), config.data, device=device_of(config))
    total, new = audit_items(retriever, folder, config.vectors)
    print(f"{total:,} items, {new:,} of them new -> {folder} in {time.perf_counter() - begin:,.0f} s", file=sys.stderr)
    return folder


def _worker_config(config: InferRun, worker: int) -> InferRun:
    own = replace(config, threads=config.cores, device=device_of(config, worker))
    use_cores(own)
    return own


def _embed_share(config: InferRun, number: int) -> bool:
    return _embed_part(config, (number, config.workers))


def _embed_part(config: InferRun, share: tuple[int, int]) -> bool:
    """Make a share of what is missing; whether nothing is any more."""
    try:
        retriever = OpenRetriever.open(Path(config.retriever), config.data, device=device_of(config), share=share)
        if config.pruner is not None:
            OpenPruner.open(Path(config.pruner), config.data, retriever, share)
        stored_items(retriever, config.folder / VECTORS, config.vectors, share)
    except Unfinished:
        return False
    return True


def index(config: InferRun) -> Path:
    """The index of the catalogue, tuned, beside what was measured."""
    retriever = OpenRetriever.open(Path(config.retriever), config.data, device=device_of(config))
    found = open_catalogue(retriever, run_store(config))
    print(f"{len(found.index):,} items: {found.told}", file=sys.stderr)
    return config.folder / INDEX
