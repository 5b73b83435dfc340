"""Lists for many requests, cut into parts: made by one process or by several, and checked when all are there."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from recsys.data.asked import requests_hash
from recsys.errors import InputError
from recsys.recommend.cascade import POPULARITY, Cascade, Lists
from recsys.recommend.expose import expose
from recsys.recommend.funnel import Funnel
from recsys.recommend.settings import InferRun
from recsys.recommend.work import Work, check_queries, queries_data, queries_work, users_work
from recsys.retrieval.catalogue import Store
from recsys.retrieval.embed import OpenRetriever
from recsys.retrieval.index import set_search_threads
from recsys.retrieval.runtime import ONNX, Runtime, open_onnx, open_torch
from recsys.shards import Parts, array_hash, fingerprint, write_atomic


def device_of(config: InferRun, worker: int = 0) -> str:
    """What a worker computes on: the GPUs of this machine in turn, where it has some."""
    if config.device is not None:
        return config.device
    return f"cuda:{worker % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def run_runtime(config: InferRun) -> Runtime:
    """What computes the run's models. Raises InputError if the files are not there."""
    if config.runtime == "torch":
        return open_torch(device_of(config), config.precision)
    return open_onnx(config.folder / ONNX, int8=config.runtime == "onnx_int8")


def open_retriever(config: InferRun, share: tuple[int, int] = (0, 1)) -> OpenRetriever:
    """The retriever alone; `share` is that of `OpenRetriever.open`."""
    return OpenRetriever.open(Path(config.retriever), config.data, runtime=run_runtime(config), share=share)


def open_cascade(config: InferRun, *, search: bool) -> Cascade:
    """The models of a run and its catalogue, for searches or for users."""
    data = queries_data(config.data) if search else config.data
    found = Cascade.open(
        config.retriever, config.pruner, data, config.candidates, config.decision,
        config.lexical if search else None, runtime=run_runtime(config), store=run_store(config),
    )  # fmt: skip
    return found if search else found.reranked_by(config.rerank)


def run_store(config: InferRun) -> Store:
    """Where the run keeps its catalogue."""
    return Store(folder=config.folder, dtype=config.vectors, index=config.index)


def use_cores(config: InferRun) -> None:
    """Let models and search compute with the threads of this process."""
    torch.set_num_threads(config.cores)
    set_search_threads(config.cores)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Lists that are to be written."""

    cascade: Cascade
    work: Work
    parts: Parts
    pieces: list[np.ndarray]
    """Requests of each part."""
    inputs: list[str]
    """Hash of what each part depends on alone."""

    @classmethod
    def open(cls, config: InferRun, folder: Path, *, search: bool) -> Self:
        """Load the models, see who is asked about, and begin or take up the output.

        With exposure targets these are lists of full length, in a folder pool/ beside `folder`: see `exposed`.
        """
        if search:
            check_queries(config.data)
        cascade = open_cascade(config, search=search)
        work = (queries_work if search else users_work)(config, cascade)
        if not len(work.rows):
            raise InputError(f"There is nothing to answer: the table of each {work.key} is empty.")
        who = hashlib.blake2b(work.ids.hash(seed=1).to_numpy().tobytes(), digest_size=12).hexdigest()
        made_from = {**cascade.made_from, "history": asdict(config.data.history), "part": config.part}
        made_from |= {"users or queries": (work.key, who), "threads": torch.get_num_threads()}
        if cascade.reranker is not None or (work.basis == POPULARITY).any():
            made_from |= {"popularity": array_hash(cascade.data.popularity())}
        exposed = cascade.reranker is not None and cascade.reranker.config.exposure is not None
        place = folder.with_name("pool") if exposed else folder
        parts = Parts.open(place, made_from, overwrite=config.overwrite)
        pieces = np.split(np.arange(len(work.rows)), range(config.part, len(work.rows), config.part))
        inputs = [requests_hash(cascade.data, work.requests.take(piece)) for piece in pieces]
        return cls(cascade=cascade, work=work, parts=parts, pieces=pieces, inputs=inputs)

    @classmethod
    def in_worker(cls, config: InferRun, folder: Path, search: bool, worker: int) -> Self:
        """The same, in one of several processes."""
        own = replace(config, threads=config.cores, device=device_of(config, worker), workers=1, overwrite=False)
        use_cores(own)
        return cls.open(own, folder, search=search)

    def missing(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """Numbers of the parts of a share that are not there."""
        numbers = range(share[0], len(self.pieces), share[1])
        return [number for number in numbers if not self.parts.finished(number, self.inputs[number])]

    def make(self, number: int) -> Funnel:
        """Write one part; returns what became of its candidates."""
        rows, funnel = self.pieces[number], Funnel(self.cascade)
        requests = self.work.requests.take(rows)
        lists = self.cascade.recommend(requests, funnel)
        basis = self.work.basis[rows]
        if (basis == POPULARITY).any():
            lists = _popular(self.cascade, lists, basis == POPULARITY)
        frame = _frame(self.cascade, lists, self.work.ids.gather(rows), self.work.key, basis)
        self.parts.write(number, frame, self.inputs[number])
        funnel.add(lists, requests)
        return funnel

    def exposed(self, folder: Path, run: Path, *, overwrite: bool) -> Self:
        """The final lists, where there are exposure targets: chosen from all the lists of full length at one time."""
        if self.cascade.reranker is None or self.cascade.reranker.config.exposure is None:
            return self
        ids, inputs = [self.work.ids.gather(piece) for piece in self.pieces], fingerprint(self.inputs)
        parts = expose(self.cascade, self.parts, folder, ids, inputs=inputs, run=run, overwrite=overwrite)
        return replace(self, parts=parts, inputs=[inputs] * len(ids))

    def finish(self, seconds: float, *, made: bool) -> dict[str, Any]:
        """DONE: that every request has its list once and nobody else has one, and how long the last parts took."""
        path = self.parts.folder / "DONE"
        if made or not path.is_file():
            rows = self.parts.audit(self.inputs)
            for number, piece in enumerate(self.pieces):
                found = pl.read_parquet(self.parts.path(number), columns=[self.work.key, "rank"])
                known = found[self.work.key].is_in(self.work.ids.gather(piece).implode())
                if found.is_duplicated().any() or not known.all():
                    raise InputError(
                        f"{self.parts.path(number)} repeats a row, or answers others than it should; remove it."
                    )
            write_atomic(path, json.dumps({"requests": len(self.work.rows), "rows": rows, "seconds": seconds}))
        return json.loads(path.read_text())


def _popular(cascade: Cascade, lists: Lists, strangers: np.ndarray) -> Lists:
    """The same lists, but those of strangers [B] bool are the items in stock that are taken most; score is how often,
    beside the first of them.
    """
    counts, filters = cascade.data.popularity().astype(np.float64), cascade.data.filters
    if filters is not None:
        counts[~filters.of(np.array([-1])).masks[0]] = -1
    best = np.argsort(-counts, kind="stable")[: cascade.length]
    best = best[counts[best] >= 0]
    wider = max(len(best) - lists.items.shape[1], 0)

    def changed(values: np.ndarray, missing: float, own: np.ndarray | float) -> np.ndarray:
        out = np.pad(values, ((0, 0), (0, wider), *((0, 0),) * (values.ndim - 2)), constant_values=missing)
        out[strangers] = missing
        out[strangers, : len(best)] = own
        return out

    scores = counts[best] / max(counts[best].max(initial=0), 1)
    pruned, others = lists.pruner_scores, lists.others
    return replace(
        lists, items=changed(lists.items, -1, best), scores=changed(lists.scores, 0, scores),
        retriever_scores=changed(lists.retriever_scores, 0, 0),
        pruner_scores=None if pruned is None else changed(pruned, 0, 0),
        others=None if others is None else changed(others, 0, 0),
    )  # fmt: skip


def _frame(cascade: Cascade, lists: Lists, ids: pl.Series, key: str, basis: np.ndarray) -> pl.DataFrame:
    """Lists as rows: best first, rank from 1, ids as they came in; pruner_score is null where there is no pruner, and
    both scores for strangers. Each other target of the pruner has a column of its own, NAME_score.
    """
    rows, ranks = np.nonzero(lists.items >= 0)
    none, pruned = pl.repeat(None, len(rows), dtype=pl.Float32, eager=True), lists.pruner_scores
    others, targets = lists.others, [] if cascade.pruner is None else list(cascade.pruner.model.config.targets)
    more = {} if others is None else {f"{name}_score": others[rows, ranks, at] for at, name in enumerate(targets)}
    frame = pl.DataFrame(
        {
            key: ids.gather(rows),
            "rank": (ranks + 1).astype(np.int32),
            "item_id": cascade.item_ids.gather(lists.items[rows, ranks]),
            "score": lists.scores[rows, ranks],
            "retriever_score": lists.retriever_scores[rows, ranks],
            "pruner_score": none if pruned is None else pruned[rows, ranks],
            **more,
            "basis": basis[rows],
        }
    )
    modelled = pl.col("retriever_score", "pruner_score")
    return frame.with_columns(pl.when(pl.col("basis") != POPULARITY).then(modelled))
