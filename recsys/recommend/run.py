"""The inference stages: candidates, recommend, search, export. Each reads files and writes files."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recsys.data.requests import Requests, query_requests, serving_requests
from recsys.data.split import STAGES as SPLITS
from recsys.errors import InputError, nearest
from recsys.models.pruner import DecisionConfig
from recsys.recommend.cascade import Cascade, Lists
from recsys.recommend.evaluate import evaluate_baselines, evaluate_lists, write_samples
from recsys.retrieval.candidates import write_candidates
from recsys.results import add_stage
from recsys.retrieval.embed import OpenRetriever
from recsys.shards import Parts, disk_errors, fingerprint, write_atomic
from recsys.tables import DataConfig

STAGES = ("candidates", "recommend", "search", "export")
"""What `infer` can be asked to do."""


@dataclass(frozen=True, kw_only=True)
class InferRun:
    """A run that makes candidates, recommendations or search results with trained models."""

    task: str
    """infer."""
    name: str
    """Of the run; output lies below RUNS/NAME."""
    runs: str = "runs"
    retriever: str
    """Folder of the retriever's training run."""
    pruner: str | None = None
    """Folder of the pruner's training run; null: the retriever alone."""
    data: DataConfig
    candidates: int = 100
    """Items that the retriever proposes for each request."""
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """Which candidates are kept."""
    users: str | None = None
    """CSV or Parquet file with the user ids to serve; null: all users."""
    output: str | None = None
    """Folder of the output; null: recommendations/, results/ or candidates/ below the run's folder."""
    overwrite: bool = False
    """Replace an output that was made from other inputs."""
    part: int = 1024
    """Requests in one part of the output."""
    threads: int | None = None
    """CPU threads; null: all cores."""
    evaluate: bool = True
    """Where data.history.until names a split, measure the lists against it, beside popularity and Markov."""
    samples: int = 6
    """Requests that the report shows as examples."""

    @property
    def folder(self) -> Path:
        """Of this run."""
        return Path(self.runs) / self.name


def run_stage(stage: str, config: InferRun) -> Path:
    """Run one stage; returns the folder of its output."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    match stage:
        case "candidates":
            return _candidates(config)
        case "recommend":
            return _recommend(config)
        case "search":
            return _search(config)
        case "export":
            return _export(config)
        case _:
            raise InputError(f"Unknown stage {stage!r}.{nearest(stage, STAGES)} Expected one of {', '.join(STAGES)}.")


def _candidates(config: InferRun) -> Path:
    retriever = OpenRetriever.open(Path(config.retriever), config.data)
    folder = Path(config.output) if config.output else config.folder / "candidates"
    with disk_errors(folder):
        count = write_candidates(retriever, folder, top_k=config.candidates, overwrite=config.overwrite)
    print(f"{count:,} requests x {config.candidates} candidates -> {folder}", file=sys.stderr)
    return folder


def _recommend(config: InferRun) -> Path:
    cascade = Cascade.open(config.retriever, config.pruner, config.data, config.candidates, config.decision)
    write_atomic(config.folder / "infer.yaml", yaml.safe_dump({**asdict(config), "overwrite": False}, sort_keys=False, allow_unicode=True))
    users = _wanted_users(config, cascade)
    requests = serving_requests(cascade.data, config.data.history.until, users)
    ids = cascade.data.tables.users[config.data.users.id]
    folder = Path(config.output) if config.output else config.folder / "recommendations"
    seconds, parts = _write_lists(config, cascade, requests, folder, "user_id", lambda rows: ids.gather(users[rows]))
    if config.evaluate and config.data.history.until in SPLITS and any(len(one) for one in requests.target_rows):
        _report_quality(config, cascade, requests, parts, seconds)
    if not config.users:
        write_samples(config.folder / "samples.json", cascade, requests, count=config.samples, images=Path(config.data.root))
    return folder


def _report_quality(config: InferRun, cascade: Cascade, requests: Requests, parts: Parts, seconds: float) -> None:
    """Measure the written lists and put them beside the baselines and the trainer's own figures."""
    for source in (config.retriever, config.pruner):
        _copy_stages(Path(source) / "results.json" if source else None, config.folder)
    for name, (metrics, spent) in evaluate_baselines(cascade, requests).items():
        add_stage(config.folder, name, metrics, seconds=spent)
    metrics = evaluate_lists(cascade, requests, parts)
    add_stage(config.folder, "pruned lists" if config.pruner else "retrieved lists", metrics, seconds=seconds)


def _copy_stages(path: Path | None, folder: Path) -> None:
    if path is None or not path.is_file():
        return
    for stage in json.loads(path.read_text())["stages"]:
        add_stage(folder, stage["name"], stage["metrics"], seconds=stage["seconds"])


def _search(config: InferRun) -> Path:
    data = config.data
    if "queries" in data.tables and "relevance" not in data.tables:
        data = replace(data, tables={**data.tables, "relevance": ""})  # the root's relevance belongs to other queries
    cascade = Cascade.open(config.retriever, config.pruner, data, config.candidates, config.decision)
    if cascade.data.queries is None or cascade.data.tables.queries is None:
        raise InputError(f"Stage 'search' needs a queries table; none was found below {data.root}. Name one: --data.tables.queries=FILE")
    requests = query_requests(cascade.data, np.arange(len(cascade.data.queries)))
    ids = cascade.data.tables.queries[data.queries.id]
    folder = Path(config.output) if config.output else config.folder / "results"
    _write_lists(config, cascade, requests, folder, "query_id", lambda rows: ids.gather(rows))
    return folder


def _export(config: InferRun) -> Path:
    """The text encoder as a sentence-transformers folder."""
    from recsys.retrieval.export import export_text_tower

    folder = Path(config.output) if config.output else config.folder / "sentence_transformers"
    return export_text_tower(Path(config.retriever) / "model", folder, overwrite=config.overwrite)


def _wanted_users(config: InferRun, cascade: Cascade) -> np.ndarray:
    """[U] int64 rows of the users table to serve, in table order or the file's."""
    users = cascade.data.tables.users
    if config.users is None:
        return np.arange(len(users))
    key = config.data.users.id
    wanted = _read_users(Path(config.users), key)
    known = users.select(pl.col(key).cast(pl.String)).with_row_index("row")
    found = wanted.select(pl.col(key).cast(pl.String)).join(known, on=key, how="left", maintain_order="left")["row"]
    missing = np.flatnonzero(found.is_null().to_numpy())
    if len(missing):
        rows = ", ".join(str(row) for row in missing[:3])
        raise InputError(f"{config.users}: {len(missing)} of {len(wanted)} users are not in the users table (rows {rows} first). Remove them, or add them.")
    return found.to_numpy().astype(np.int64)


def _read_users(path: Path, key: str) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"File of users {str(path)!r} does not exist.")
    frame = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    if key not in frame.columns:
        raise InputError(f"{path} has no column {key!r}; found {frame.columns}.")
    if not len(frame):
        raise InputError(f"{path} names no user.")
    return frame


def _write_lists(  # noqa: PLR0913
    config: InferRun, cascade: Cascade, requests: Requests, folder: Path, key: str, ids: Callable[[np.ndarray], pl.Series]
) -> tuple[float, Parts]:
    """Make every part that is not there yet; returns the seconds it took and the parts."""
    if not len(requests):
        raise InputError(f"Nobody to serve: the table with {key} is empty.")
    settings = asdict(config.decision), config.part, config.candidates, config.data.history.until, config.data.history.max_items
    parts = Parts.open(folder, fingerprint(cascade.fingerprint, settings, ids(np.arange(len(requests))).hash(0).sum()), overwrite=config.overwrite)
    begin = time.perf_counter()
    for number, rows in _progress(_cut(len(requests), config.part), key):
        if not parts.finished(number):
            lists = cascade.recommend(requests.take(rows))
            parts.write(number, _frame(cascade, lists, ids(rows), key))
    seconds = time.perf_counter() - begin
    write_atomic(folder / "DONE", json.dumps({"rows": parts.rows(), "requests": len(requests)}))
    print(f"{len(requests):,} requests, {parts.rows():,} rows in {seconds:.1f} s -> {folder}", file=sys.stderr)
    return seconds, parts


def _cut(count: int, size: int) -> list[tuple[int, np.ndarray]]:
    return [(number, np.arange(start, min(start + size, count))) for number, start in enumerate(range(0, count, size))]


def _progress(work: list[tuple[int, np.ndarray]], key: str) -> Iterator[tuple[int, np.ndarray]]:
    columns = (TextColumn(key.removesuffix("_id") + " parts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        yield from bar.track(work)


def _frame(cascade: Cascade, lists: Lists, ids: pl.Series, key: str) -> pl.DataFrame:
    """Lists as rows: best first, rank from 1, ids as they came in."""
    rows, ranks = np.nonzero(lists.items >= 0)
    frame = pl.DataFrame({key: ids.gather(rows).alias(key), "rank": (ranks + 1).astype(np.int32)})
    return frame.with_columns(
        cascade.item_ids.gather(lists.items[rows, ranks]).alias("item_id"),
        *[
            pl.Series(name, values[rows, ranks])
            for name, values in (("score", lists.scores), ("retriever_score", lists.retriever_scores), ("pruner_score", lists.pruner_scores))
            if values is not None
        ],
    )
