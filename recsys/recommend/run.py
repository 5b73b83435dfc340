"""The inference stages, from embed to export. Each reads files and writes files."""

import json
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from recsys.data.split import STAGES as SPLITS
from recsys.errors import InputError, nearest
from recsys.recommend.cascade import Cascade
from recsys.recommend.embedding import embed, index
from recsys.recommend.evaluate import Quality, evaluate_baselines, evaluate_lists
from recsys.recommend.explain import REASONS, describe_items, explain_lists
from recsys.recommend.expose import priced
from recsys.recommend.fairness import write_fairness
from recsys.recommend.funnel import Funnel
from recsys.recommend.progress import bar
from recsys.recommend.quality import write_quality
from recsys.recommend.samples import write_samples
from recsys.recommend.serve import Job, open_cascade, open_retriever, use_cores
from recsys.recommend.settings import InferRun
from recsys.recommend.sources import SOURCES, report_sources
from recsys.recommend.teach import teach
from recsys.recommend.work import Work
from recsys.recommend.workers import share_out
from recsys.results import ABLATION, TRADEOFF
from recsys.retrieval.candidates import write_candidates
from recsys.retrieval.export import export_onnx, export_text_tower, print_export
from recsys.retrieval.mine import mine, print_audit
from recsys.retrieval.runtime import ONNX
from recsys.shards import write_atomic

STAGES = (
    "embed", "index", "candidates", "mine", "teach", "recommend", "search", "explain", "describe", "export",
)  # fmt: skip
"""What `infer` can be asked to do."""

_SHARED = ("embed", "recommend", "search")


def run_stage(name: str, config: InferRun) -> Path:
    """Run one stage; returns the folder of its output."""
    use_cores(config)
    for key, given in (("shard", config.shard), ("workers", config.workers if config.workers > 1 else None)):
        if given is not None and name not in _SHARED:
            raise InputError(f"Stage {name!r} is not cut into shards; start it without --{key}={given}.")
    match name:
        case "embed":
            return embed(config)
        case "index":
            return index(config)
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
        case "explain":
            cascade, until = open_cascade(config, search=True), config.data.history.until
            return explain_lists(cascade, config.folder, config.explain, until, overwrite=config.overwrite)
        case "describe":
            cascade, explained = open_cascade(config, search=False), config.explain
            return describe_items(cascade, config.folder, explained, part=config.part, overwrite=config.overwrite)
        case "export":
            return _export(config)
        case _:
            raise InputError(f"Unknown stage {name!r}.{nearest(name, STAGES)} Expected one of {', '.join(STAGES)}.")


def _candidates(config: InferRun) -> Path:
    retriever, folder = open_retriever(config), _output(config, "candidates")
    count = write_candidates(
        retriever, folder, top_k=config.candidates, overwrite=config.overwrite, lexical=config.lexical
    )
    print(f"{count:,} requests x {config.candidates} candidates -> {folder}", file=sys.stderr)
    if config.lexical is not None and config.evaluate:
        report_sources(config.folder, Path(config.retriever), retriever.data, folder, config.lexical)
    return folder


def _mine(config: InferRun) -> Path:
    retriever, folder = open_retriever(config), _output(config, "mined")
    last = None if config.last_round is None else Path(config.last_round)
    found = mine(retriever, folder, config.mine, last_round=last, overwrite=config.overwrite, part=config.part)
    print(print_audit(found), file=sys.stderr)
    return folder


def _teach(config: InferRun) -> Path:
    cascade, folder = open_cascade(config, search=True), _output(config, "taught")
    count = teach(cascade, folder, overwrite=config.overwrite, part=config.part)
    print(f"{count:,} queries x {config.candidates} candidates -> {folder}", file=sys.stderr)
    return folder


def _recommend(config: InferRun) -> Path:
    folder, until = _output(config, "recommendations"), config.data.history.until
    job = Job.open(config, folder, search=False)
    written = _write_lists(config, job, folder, search=False)
    if written is None:
        return folder
    _keep_config(config)
    if config.evaluate and until in SPLITS and job.work.has_answers:
        baselines = evaluate_baselines(job.cascade, job.work.requests)
        _report_quality(config, *written, group=str(until), baselines=baselines)
    if config.users is None:
        served = priced(job.cascade, config.folder)
        write_samples(config.folder / "samples.json", served, job.work.requests, count=config.samples)
    return folder


def _search(config: InferRun) -> Path:
    folder, until = _output(config, "results"), config.data.history.until
    job = Job.open(config, folder, search=True)
    if job.cascade.fusion_fault():
        print(job.cascade.fusion_fault(), file=sys.stderr)
    written = _write_lists(config, job, folder, search=True)
    if written is None:
        return folder
    if not (config.folder / "infer.yaml").is_file():
        _keep_config(config)
    if config.evaluate and until in SPLITS and job.work.has_answers:
        _report_quality(config, *written, group=f"{until}_query", baselines={})
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


def _output(config: InferRun, name: str) -> Path:
    return Path(config.output) if config.output else config.folder / name


def _keep_config(config: InferRun) -> None:
    """infer.yaml: what `Recommender.load` answers with."""
    content = {**asdict(config), "overwrite": False, "shard": None, "workers": 1}
    write_atomic(config.folder / "infer.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _write_lists(config: InferRun, job: Job, folder: Path, *, search: bool) -> tuple[Job, float, Funnel] | None:
    """Make this share's parts that are not there yet; None while parts of others are missing.

    Returns:
        What was written to `folder`, how long it took, and what became of the candidates of these parts: where others
        were there, not of all.
    """
    todo = job.missing(config.share())
    measured = [config.folder / name for name in (ABLATION, TRADEOFF, REASONS)]  # on the lists that were there
    for path in [*measured, job.parts.folder / "DONE", folder / "DONE"] if todo else []:
        path.unlink(missing_ok=True)
    begin, found = time.perf_counter(), dict[int, Funnel]()
    opened = (lambda _: job) if config.workers == 1 else partial(Job.in_worker, config, job.parts.folder, search)
    with bar(f"{job.work.key.removesuffix('_id')} lists", len(todo)) as advance:
        for number, funnel in share_out(todo, config.workers, opened, Job.make):
            found[number] = funnel
            advance(funnel.seconds)
    missing = len(job.missing())
    if missing:
        print(f"shard {config.shard}: done; {missing} of {len(job.pieces)} parts are left to others", file=sys.stderr)
        return None
    done = job.finish(time.perf_counter() - begin, made=bool(todo))
    whole = Funnel(job.cascade)
    for number in todo:  # in one order, whoever was first: sums are the same to the bit
        whole.join(found[number])
    final = job.exposed(folder, config.folder, overwrite=config.overwrite)
    if final is not job:
        done = final.finish(done["seconds"], made=True)
        whole.forget("lists")
    print(f"{done['requests']:,} requests, {done['rows']:,} rows -> {folder}", file=sys.stderr)
    if whole.shortage():
        print(whole.shortage(), file=sys.stderr)
    return final, done["seconds"], whole


def _report_quality(
    config: InferRun, job: Job, seconds: float, funnel: Funnel, *, group: str, baselines: dict[str, Quality]
) -> None:
    """The written lists of the set `group` beside the baselines and the trainers' own figures, in results.json."""
    lists = evaluate_lists(job.cascade, job.work.requests, job.work.ids, job.parts, part=config.part)
    name = "retrieved lists" if config.pruner is None else "pruned lists"
    measured = {**baselines, name: replace(lists, seconds=seconds)}
    sources = dict.fromkeys(SOURCES, str(config.folder))
    trained = {"retriever": config.retriever, **sources, "pruner": config.pruner}
    numbered = {name: replace(one, each=_numbered(job.work, one.each)) for name, one in measured.items()}
    write_quality(config.folder, group, numbered, trained, funnel.stages())
    write_fairness(
        config.folder, group, job.cascade, job.work.requests, job.work.ids, job.parts, lists, part=config.part
    )
    _tell_pruning(config, job.cascade)


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
