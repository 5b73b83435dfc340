"""results.json of a run's folder: the figures of each stage, side by side; requests.parquet: those of each request."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.errors import InputError
from recsys.shards import write_atomic

ABLATION = "ablation.json"
"""Beside results.json: what each source is worth to the models that made the lists."""

TRADEOFF = "tradeoff.json"
"""Beside results.json: what each way of re-ranking costs and brings on the candidates of the lists."""

REQUESTS = "requests.parquet"
"""Beside results.json: the values of each request that was measured, by stage and set, without ids or texts."""


def read_results(folder: Path) -> dict[str, Any]:
    """What stands in FOLDER/results.json, or no stages."""
    path = folder / "results.json"
    if not path.is_file():
        return {"stages": []}
    try:
        content = json.loads(path.read_text())
        return {**content, "stages": [{**stage, "name": stage["name"]} for stage in content["stages"]]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} does not hold results ({error}); remove it and run the stage again.") from error


def stage_name(kind: str, group: str) -> str:
    """What a stage is called that was measured on a set of requests: "pruner", "pruner, valid_query"."""
    return kind if group == "valid" else f"{kind}, {group}"


def split_name(name: str) -> tuple[str, str]:
    """The kind and the set of a stage's name: the other way round."""
    kind, _, group = name.partition(", ")
    return kind, group or "valid"


def stage(name: str, metrics: dict[str, float], seconds: float | None = None) -> dict[str, Any]:
    """One stage's figures, as they stand in the file."""
    return {"name": name, "metrics": metrics, "seconds": seconds}


def add_stage(folder: Path, name: str, metrics: dict[str, float], *, seconds: float | None = None) -> None:
    """Add one stage's figures at the end, in place of those of the same name."""
    others = [one for one in read_results(folder)["stages"] if one["name"] != name]
    write_stages(folder, [*others, stage(name, metrics, seconds)])


def write_stages(folder: Path, stages: list[dict[str, Any]]) -> None:
    """Replace all stages; the number of queries is that of the last one on the set of the first."""
    first = split_name(stages[0]["name"])[1]
    last = [one for one in stages if split_name(one["name"])[1] == first][-1]
    queries = int(last["metrics"].get("queries", 0))
    write_results(folder, {**read_results(folder), "stages": stages, "queries": queries})
    _forget_requests(folder, [one["name"] for one in stages])


def write_cascade(folder: Path, group: str, rows: list[dict[str, Any]]) -> None:
    """Keep what each stage of the cascade hands on and costs, for the requests of a set: results.json, `cascade`.

    As with stages, those of users and those of queries stand beside each other, each in place of the last ones.
    """
    content = read_results(folder)
    of_queries = group.endswith("_query")
    others = {name: one for name, one in content.get("cascade", {}).items() if name.endswith("_query") != of_queries}
    write_results(folder, {**content, "cascade": {**others, group: rows}})


def write_results(folder: Path, content: dict[str, Any]) -> None:
    """Replace results.json in one step."""
    write_atomic(folder / "results.json", json.dumps(content, indent=1))


def read_requests(folder: Path) -> pl.DataFrame | None:
    """What FOLDER/requests.parquet holds; None where nothing was measured."""
    path = folder / REQUESTS
    if not path.is_file():
        return None
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} cannot be read ({error}); remove it and run the stage again.") from error


def _forget_requests(folder: Path, names: list[str]) -> None:
    """Values of requests go with their stage."""
    rows = read_requests(folder)
    if rows is not None:
        kept = pl.DataFrame([split_name(name) for name in names], schema=["stage", "set"], orient="row")
        _write_requests(folder, rows.join(kept, on=["stage", "set"], how="semi", maintain_order="left"))


def _write_requests(folder: Path, rows: pl.DataFrame) -> None:
    content = io.BytesIO()
    rows.write_parquet(content)
    write_atomic(folder / REQUESTS, content.getvalue())


def add_requests(folder: Path, name: str, values: Mapping[str, np.ndarray]) -> None:
    """Add the values of each request, as `RequestValues` computes them, in place of those of the same stage."""
    kind, group = split_name(name)
    rows = pl.DataFrame({column: pl.Series(entries) for column, entries in values.items()})
    add_request_rows(folder, rows.select(pl.lit(kind).alias("stage"), pl.lit(group).alias("set"), pl.all()))


def add_request_rows(folder: Path, rows: pl.DataFrame) -> None:
    """Add rows of requests.parquet, in place of those of the same stages and sets."""
    known = read_requests(folder)
    if known is not None:
        rows = pl.concat([known.join(rows, on=["stage", "set"], how="anti", maintain_order="left"), rows])
    _write_requests(folder, rows)
