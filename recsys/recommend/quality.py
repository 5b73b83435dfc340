"""What is kept of an inference run's quality: results.json and requests.parquet in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from recsys.recommend.evaluate import Quality
from recsys.results import (
    add_request_rows,
    add_requests,
    read_requests,
    read_results,
    split_name,
    stage,
    stage_name,
    write_cascade,
    write_stages,
)


def write_quality(
    folder: Path, group: str, measured: Mapping[str, Quality], trained: Mapping[str, str | None],
    cascade: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Keep what the lists of one command are worth, in place of what an earlier run of that command said.

    Lists for users and lists for queries are made by two commands; each leaves the figures of the other.

    Args:
        folder: of the inference run.
        group: the set of requests, e.g. valid or valid_query.
        measured: the baselines, by name, and last the written lists.
        trained: training runs by what they train; their own figures on the same set stand before the lists.
        cascade: of the `Funnel`; empty where nothing was made.
    """
    runs = {kind: Path(run) for kind, run in trained.items() if run}
    rows = [_trained_rows(run, kind, group) for kind, run in runs.items()]  # read before anything is written: the
    copied = [one for kind, run in runs.items() for one in _trained_stages(run, kind, group)]  # folder may be the same
    found = [stage(stage_name(name, group), one.metrics, one.seconds) for name, one in measured.items()]
    stages = [*found[:-1], *copied, found[-1]]
    stages += [one for one in read_results(folder)["stages"] if _stays(one["name"], group, {*runs}, stages)]
    write_stages(folder, sorted(stages, key=lambda one: _of_queries(one["name"])))
    for frame in rows:
        if frame is not None:
            add_request_rows(folder, frame)
    for name, one in measured.items():
        add_requests(folder, stage_name(name, group), one.each)
    if cascade:
        write_cascade(folder, group, cascade)


def _stays(name: str, group: str, trained: set[str], new: list[dict[str, Any]]) -> bool:
    """Whether an earlier stage is one of the other command, or of training: the run may be that of the retriever."""
    others = split_name(name)[0] in trained or _of_queries(name) != group.endswith("_query")
    return others and all(one["name"] != name for one in new)


def _of_queries(name: str) -> bool:
    return split_name(name)[1].endswith("_query")


def _trained_stages(run: Path, kind: str, group: str) -> list[dict[str, Any]]:
    return [one for one in read_results(run)["stages"] if split_name(one["name"]) == (kind, group)]


def _trained_rows(run: Path, kind: str, group: str) -> pl.DataFrame | None:
    rows = read_requests(run)
    return None if rows is None else rows.filter((pl.col("stage") == kind) & (pl.col("set") == group))
