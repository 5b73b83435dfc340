"""The inference stages: candidates, mine, teach, recommend, search, export. Each reads files and writes files."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recsys.data.mined import MineConfig
from recsys.data.requests import Requests, answered_queries, search_requests, serving_requests, user_requests
from recsys.data.split import STAGES as SPLITS
from recsys.errors import InputError, nearest
from recsys.models.decision import DecisionConfig
from recsys.recommend.cascade import Cascade, Lists
from recsys.recommend.evaluate import Quality, evaluate_baselines, evaluate_lists
from recsys.recommend.funnel import Funnel
from recsys.recommend.quality import write_quality
from recsys.recommend.samples import write_samples
from recsys.recommend.sources import SOURCES, report_sources
from recsys.recommend.teach import teach
from recsys.results import ABLATION
from recsys.retrieval.candidates import write_candidates
from recsys.retrieval.embed import OpenRetriever
from recsys.retrieval.export import ExportConfig, export_onnx, export_text_tower, print_export
from recsys.retrieval.index import set_search_threads
from recsys.retrieval.lexical import LexicalConfig
from recsys.retrieval.mine import mine, print_audit
from recsys.retrieval.runtime import ONNX, TORCH, Runtime, open_onnx
from recsys.shards import Parts, fingerprint, write_atomic
from recsys.tables import DataConfig

STAGES = ("candidates", "mine", "teach", "recommend", "search", "export")
"""What `infer` can be asked to do."""


@dataclass(frozen=True, kw_only=True)
class InferRun:
    """A run that makes candidates, recommendations or search results with trained models."""

    task: str
    """infer."""
    name: str
    """Of the run; output lies below RUNS/NAME."""
    runs: str = "runs"
    """Folder of all runs."""
    retriever: str
    """Folder of the retriever's training run."""
    pruner: str | None = None
    """Folder of the pruner's training run; null: the retriever alone."""
    data: DataConfig
    """The tables to serve; roles as in the retriever's config."""
    candidates: int = 100
    """Items that the retriever proposes for each request."""
    lexical: LexicalConfig | None = None
    """BM25 as a second source for queries; its list and the retriever's become one of as many; null: none."""
    mine: MineConfig = field(default_factory=MineConfig)
    """Which items of the retriever's ranking are hard negatives (stage mine)."""
    last_round: str | None = None
    """Folder of an earlier round of mining, to tell how much is new (stage mine)."""
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """Which candidates are kept; where it says nothing, as the pruner's training run said."""
    users: str | None = None
    """CSV or Parquet file with the user ids to serve; null: all users."""
    output: str | None = None
    """Folder of the output; null: recommendations/, results/, candidates/, mined/ or taught/ below the run's folder."""
    overwrite: bool = False
    """Replace an output that was made from other inputs."""
    part: int = 1024
    """Requests in one part of the output."""
    shard: str | None = None
    """I/N: of every N parts only the I-th, from 1 on (recommend, search): N processes share the work without knowing
    of each other. The one that finds all parts there checks them and measures."""
    threads: int | None = None
    """CPU threads; null: all cores."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """What is written for other programs, or for `runtime` (stage export)."""
    runtime: Literal["torch", "onnx", "onnx_int8"] = "torch"
    """What computes text tower, item tower and pruner: torch, or onnxruntime from the files that stage export wrote to
    onnx/ below the run's folder (recommend, search, candidates, mine, teach; the history's encoder stays in torch)."""
    evaluate: bool = True
    """Where data.history.until names a split, measure the lists against it, beside popularity and Markov."""
    samples: int = 6
    """Requests that the report shows as examples."""

    def __post_init__(self) -> None:
        if self.data.interactions.judged:
            raise InputError("data.interactions.judged is for a pruner without candidates; leave it out here.")
        threads = 1 if self.threads is None else self.threads
        counts = {"candidates": self.candidates, "part": self.part, "threads": threads}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"{name} is {count}; expected at least 1.")
        if self.lexical is not None and self.data.split.items is not None:
            raise InputError("lexical does not go with data.split.items: BM25 would list items of every split.")
        if self.samples < 0:
            raise InputError(f"samples is {self.samples}; expected 0 or more.")
        if self.shard is not None and self.overwrite:
            remedy = "remove it first, or let one process without a shard begin"
            raise InputError(
                f"overwrite with shard {self.shard} would remove the output of the other shards; {remedy}."
            )
        self.share()

    @property
    def folder(self) -> Path:
        """Of this run."""
        return Path(self.runs) / self.name

    def open_runtime(self) -> Runtime:
        """What `runtime` names. Raises InputError if the files are not there."""
        return TORCH if self.runtime == "torch" else open_onnx(self.folder / ONNX, int8=self.runtime == "onnx_int8")

    def share(self) -> tuple[int, int]:
        """Which of how many shards, from 0 on."""
        found = re.fullmatch(r"(\d+)/(\d+)", self.shard or "1/1")
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard is {self.shard!r}; expected I/N with I from 1 to N, e.g. 1/8.")
        return int(found[1]) - 1, int(found[2])


@dataclass(frozen=True, kw_only=True)
class Work:
    """Requests to be answered, and what stands for each in the first column of the output."""

    key: str
    """user_id or query_id."""
    ids: pl.Series  # [R]
    rows: np.ndarray  # [R] int64, of the users or queries table
    requests: Requests
    judged: np.ndarray  # [J] int64, rows of the whole set that has answers, in its order: these and perhaps others

    @property
    def has_answers(self) -> bool:
        """Whether it is known for any request what would have been right."""
        return any(len(targets) for targets in self.requests.target_rows)


@dataclass(frozen=True, kw_only=True)
class Written:
    """Lists on disk, and what is known of their making."""

    parts: Parts
    seconds: float
    funnel: Funnel
    """Of the lists that this process made: where it went on from finished parts, not of all."""


def run_stage(name: str, config: InferRun) -> Path:
    """Run one stage; returns the folder of its output."""
    if config.threads:
        torch.set_num_threads(config.threads)
        set_search_threads(config.threads)
    if config.shard is not None and name not in ("recommend", "search"):
        raise InputError(f"Stage {name!r} is not cut into shards; start it without --shard={config.shard}.")
    match name:
        case "candidates":
            return _candidates(config)
        case "mine":
            return _mine(config)
        case "teach":
            return _teach(config)
        case "recommend":
            return _recommend(config)
        case "search":
            return _search(config)
        case "export":
            return _export(config)
        case _:
            raise InputError(f"Unknown stage {name!r}.{nearest(name, STAGES)} Expected one of {', '.join(STAGES)}.")


def _candidates(config: InferRun) -> Path:
    retriever, folder = _open_retriever(config), _output(config, "candidates")
    count = write_candidates(
        retriever, folder, top_k=config.candidates, overwrite=config.overwrite, lexical=config.lexical
    )
    print(f"{count:,} requests x {config.candidates} candidates -> {folder}", file=sys.stderr)
    if config.lexical is not None and config.evaluate:
        report_sources(config.folder, Path(config.retriever), retriever.data, folder, config.lexical)
    return folder


def _mine(config: InferRun) -> Path:
    retriever, folder = _open_retriever(config), _output(config, "mined")
    last = None if config.last_round is None else Path(config.last_round)
    found = mine(retriever, folder, config.mine, last_round=last, overwrite=config.overwrite, part=config.part)
    print(print_audit(found), file=sys.stderr)
    return folder


def _teach(config: InferRun) -> Path:
    cascade, folder = _open(config, config.data, config.lexical), _output(config, "taught")
    count = teach(cascade, folder, overwrite=config.overwrite, part=config.part)
    print(f"{count:,} queries x {config.candidates} candidates -> {folder}", file=sys.stderr)
    return folder


def _recommend(config: InferRun) -> Path:
    cascade, folder = _open(config, config.data, lexical=None), _output(config, "recommendations")
    users, until = _wanted_users(config, cascade), config.data.history.until
    requests = serving_requests(cascade.data, until, users)
    ids = cascade.data.tables.users[config.data.users.id].gather(users)
    known = user_requests(cascade.data, SPLITS[until]).users if until in SPLITS and cascade.data.histories else users
    work = Work(key="user_id", ids=ids, rows=users, requests=requests, judged=known)
    written = _write_lists(config, cascade, work, folder)
    if written is None:
        return folder
    _keep_config(config)
    if config.evaluate and until in SPLITS and work.has_answers:
        baselines = evaluate_baselines(cascade, work.requests)
        _report_quality(config, cascade, work, written, group=str(until), baselines=baselines)
    if config.users is None:
        write_samples(config.folder / "samples.json", cascade, requests, count=config.samples)
    return folder


def _search(config: InferRun) -> Path:
    data = config.data
    if "queries" in data.tables and "relevance" not in data.tables:
        tables = {**data.tables, "relevance": ""}  # the root's relevance is of other queries
        data = replace(data, tables=tables, relevance=replace(data.relevance, match=None))
    cascade, folder = _open(config, data, config.lexical), _output(config, "results")
    if cascade.fusion_fault():
        print(cascade.fusion_fault(), file=sys.stderr)
    queries, table = cascade.data.queries, cascade.data.tables.queries
    if queries is None or table is None:
        remedy = "name one: --data.tables.queries=FILE"
        raise InputError(f"Stage 'search' needs a queries table and found none below {data.root}; {remedy}")
    rows, until = np.arange(len(queries)), config.data.history.until
    known = answered_queries(cascade.data, SPLITS[until]) if until in SPLITS else rows
    requests = search_requests(cascade.data, until)
    work = Work(key="query_id", ids=table[data.queries.id], rows=rows, requests=requests, judged=known)
    written = _write_lists(config, cascade, work, folder)
    if written is None:
        return folder
    if not (config.folder / "infer.yaml").is_file():
        _keep_config(config)
    if config.evaluate and until in SPLITS and work.has_answers:
        _report_quality(config, cascade, work, written, group=f"{until}_query", baselines={})
    return folder


def _export(config: InferRun) -> Path:
    """The text encoder as a sentence-transformers folder, or all that ONNX can hold."""
    retriever, pruner = Path(config.retriever) / "model", Path(config.pruner) / "model" if config.pruner else None
    if config.export.format == "sentence_transformers":
        folder = _output(config, "sentence_transformers")
        return export_text_tower(retriever, folder, overwrite=config.overwrite)
    folder = _output(config, ONNX)
    made = export_onnx(retriever, pruner, folder, int8=config.export.int8, overwrite=config.overwrite)
    print(print_export(made, folder), file=sys.stderr)
    return folder


def _open(config: InferRun, data: DataConfig, lexical: LexicalConfig | None) -> Cascade:
    return Cascade.open(
        config.retriever, config.pruner, data, config.candidates, config.decision, lexical,
        runtime=config.open_runtime(),
    )  # fmt: skip


def _open_retriever(config: InferRun) -> OpenRetriever:
    return OpenRetriever.open(Path(config.retriever), config.data, runtime=config.open_runtime())


def _output(config: InferRun, name: str) -> Path:
    return Path(config.output) if config.output else config.folder / name


def _keep_config(config: InferRun) -> None:
    """infer.yaml: what `Recommender.load` answers with."""
    content = {**asdict(config), "overwrite": False, "shard": None}
    write_atomic(config.folder / "infer.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _wanted_users(config: InferRun, cascade: Cascade) -> np.ndarray:
    """[U] int64 distinct rows of the users table, in its order or the file's."""
    users, key = cascade.data.tables.users, config.data.users.id
    if config.users is None:
        return np.arange(len(users))
    wanted = _read_users(Path(config.users), key).select(pl.col(key).cast(pl.String))
    known = users.select(pl.col(key).cast(pl.String)).with_row_index("row")
    found = wanted.join(known, on=key, how="left", maintain_order="left")["row"]
    missing = np.flatnonzero(found.is_null().to_numpy())
    if len(missing):
        rows = ", ".join(str(row + 1) for row in missing[:3])
        raise InputError(
            f"{config.users}: {len(missing)} of {len(wanted)} users are not in the users table (row {rows} first). "
            "Remove them from the file, or add them to the table."
        )
    return found.unique(maintain_order=True).to_numpy().astype(np.int64)


def _read_users(path: Path, key: str) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"File of users {str(path)!r} does not exist; set users to a CSV or Parquet file.")
    try:
        frame = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}); expected a CSV or Parquet file with users.") from error
    if key not in frame.columns:
        raise InputError(
            f"{path} has no column {key!r}; found {', '.join(frame.columns)}.{nearest(key, frame.columns)}"
        )
    if not len(frame):
        raise InputError(f"{path} names no user; expected at least one row.")
    return frame


def _write_lists(config: InferRun, cascade: Cascade, work: Work, folder: Path) -> Written | None:
    """Make this shard's parts that are not there yet; None while parts of other shards are missing."""
    if not len(work.rows):
        raise InputError(f"There is nothing to answer: the table of each {work.key} is empty.")
    who = hashlib.blake2b(work.rows.tobytes(), digest_size=12).hexdigest()
    made_from = fingerprint(cascade.fingerprint, asdict(config.data.history), config.part, work.key, who)
    parts = Parts.open(folder, made_from, overwrite=config.overwrite)
    pieces = np.split(np.arange(len(work.rows)), range(config.part, len(work.rows), config.part))
    shard, shards = config.share()
    todo = [number for number in range(shard, len(pieces), shards) if not parts.finished(number)]
    if todo:  # what sources are worth was measured on other lists
        (config.folder / ABLATION).unlink(missing_ok=True)
    begin, funnel = time.perf_counter(), Funnel(cascade)
    for number in _progress(todo, f"{work.key.removesuffix('_id')} lists"):
        rows = pieces[number]
        requests = work.requests.take(rows)
        lists = cascade.recommend(requests, funnel)
        parts.write(number, _frame(cascade, lists, work.ids.gather(rows), work.key), inputs=len(rows))
        funnel.add(lists, requests)
    missing = len(pieces) - len(parts.finished_parts())
    if missing > 0:
        print(f"shard {config.shard}: done; {missing} of {len(pieces)} parts are left to others", file=sys.stderr)
        return None
    done = _finish(parts, work, pieces, time.perf_counter() - begin, made=bool(todo))
    print(f"{done['requests']:,} requests, {done['rows']:,} rows -> {folder}", file=sys.stderr)
    return Written(parts=parts, seconds=done["seconds"], funnel=funnel)


def _finish(parts: Parts, work: Work, pieces: list[np.ndarray], seconds: float, *, made: bool) -> dict[str, Any]:
    """DONE: that every request has its list once and nobody else has one, and how long the last parts took."""
    path = parts.folder / "DONE"
    if made or not path.is_file():
        rows = parts.audit([len(piece) for piece in pieces])
        for number, piece in enumerate(pieces):
            found = pl.read_parquet(parts.path(number), columns=[work.key, "rank"])
            if found.is_duplicated().any() or not found[work.key].is_in(work.ids.gather(piece).implode()).all():
                raise InputError(f"{parts.path(number)} repeats a row, or answers others than it should; remove it.")
        write_atomic(path, json.dumps({"requests": len(work.rows), "rows": rows, "seconds": seconds}))
    return json.loads(path.read_text())


def _progress(todo: list[int], what: str) -> Iterator[int]:
    """The numbers of parts, with a bar where somebody watches."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(what), *columns, disable=not sys.stderr.isatty()) as bar:
        yield from bar.track(todo)


def _frame(cascade: Cascade, lists: Lists, ids: pl.Series, key: str) -> pl.DataFrame:
    """Lists as rows: best first, rank from 1, ids as they came in; pruner_score is null where there is no pruner.
    Each other target of the pruner has a column of its own, NAME_score.
    """
    rows, ranks = np.nonzero(lists.items >= 0)
    none, pruned = pl.repeat(None, len(rows), dtype=pl.Float32, eager=True), lists.pruner_scores
    others, targets = lists.others, [] if cascade.pruner is None else list(cascade.pruner.model.config.targets)
    more = {} if others is None else {f"{name}_score": others[rows, ranks, at] for at, name in enumerate(targets)}
    return pl.DataFrame(
        {
            key: ids.gather(rows),
            "rank": (ranks + 1).astype(np.int32),
            "item_id": cascade.item_ids.gather(lists.items[rows, ranks]),
            "score": lists.scores[rows, ranks],
            "retriever_score": lists.retriever_scores[rows, ranks],
            "pruner_score": none if pruned is None else pruned[rows, ranks],
            **more,
        }
    )


def _report_quality(
    config: InferRun, cascade: Cascade, work: Work, written: Written, *, group: str, baselines: dict[str, Quality]
) -> None:
    """The written lists of the set `group` beside the baselines and the trainers' own figures, in results.json."""
    lists = evaluate_lists(cascade, work.requests, work.ids, written.parts, part=config.part)
    name = "retrieved lists" if config.pruner is None else "pruned lists"
    measured = {**baselines, name: replace(lists, seconds=written.seconds)}
    sources = dict.fromkeys(SOURCES, str(config.folder))
    trained = {"retriever": config.retriever, **sources, "pruner": config.pruner}
    numbered = {name: replace(one, each=_numbered(work, one.each)) for name, one in measured.items()}
    write_quality(config.folder, group, numbered, trained, written.funnel.stages())
    _tell_pruning(config, cascade)


def _numbered(work: Work, each: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same values by the number of each request in the whole set, as training counts them."""
    return {**each, "request": np.searchsorted(work.judged, work.rows[each["request"]])}


def _tell_pruning(config: InferRun, cascade: Cascade) -> None:
    """pruning.json of the pruner's run, for this run's page, with the decision of this run; none without a pruner."""
    own, path = config.folder / "pruning.json", Path(config.pruner or "") / "pruning.json"
    if config.pruner is not None and path.is_file():
        decided = {kind: asdict(one) for kind, one in cascade.decision.items()}
        write_atomic(own, json.dumps({**json.loads(path.read_text()), "decision": decided}))
    elif config.pruner is None:
        own.unlink(missing_ok=True)
