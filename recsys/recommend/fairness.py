"""Whom the written lists serve and what they show: nDCG and exposure by groups of users and items, in results.json."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys.data.codes import in_bands
from recsys.data.requests import Requests
from recsys.metrics.bootstrap import mean_interval, resample_weights
from recsys.metrics.diversity import group_share
from recsys.metrics.fairness import LEAST, compare_groups, told_groups
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.recommend.cascade import Cascade
from recsys.recommend.evaluate import SHOWN, Quality, read_lists
from recsys.results import read_results, write_results
from recsys.shards import Parts

MISSING = "missing"
"""Name of the group of those whose column is empty."""


def write_fairness(
    folder: Path, group: str, cascade: Cascade, requests: Requests, ids: pl.Series, parts: Parts, quality: Quality,
    *, part: int,
) -> None:  # fmt: skip
    """Keep fairness.GROUP in FOLDER/results.json: of all requests with a user and an answer; nothing without ten.

    Args:
        folder: of the inference run.
        group: the set of requests, e.g. valid.
        cascade: that made the lists.
        requests: R, in the order of the parts.
        ids: [R] of the parts' first column.
        parts: of the written lists, `part` requests each.
        quality: of the lists, by `evaluate_lists`.
        part: requests in a part.
    """
    asked = quality.each["request"]
    mine = requests.users[asked] >= 0
    if mine.sum() < LEAST:
        return
    shown = np.concatenate(list(_shown(cascade, ids, parts, part)))[asked[mine]]
    if not (shown >= 0).any():
        return
    each = {name: values[mine] for name, values in quality.each.items()}
    segments = popularity_segments(torch.from_numpy(cascade.data.popularity())).numpy()
    weights = resample_weights(int(mine.sum()))
    told = {
        "requests": int(mine.sum()),
        "users": _by_users(cascade, requests.users[asked[mine]], each[f"ndcg@{SHOWN}"], shown, segments, weights),
        "items": _by_items(each, shown, segments, weights),
    }
    content = read_results(folder)
    write_results(folder, {**content, "fairness": {**content.get("fairness", {}), group: told}})


def _shown(cascade: Cascade, ids: pl.Series, parts: Parts, part: int) -> Iterator[np.ndarray]:
    """The first ten of every list, part by part."""
    for number, start in enumerate(range(0, len(ids), part)):
        frame, some = pl.read_parquet(parts.path(number)), ids[start : start + part]
        yield read_lists(cascade, frame, some, max(cascade.length, SHOWN))[:, :SHOWN]


def _by_users(
    cascade: Cascade, users: np.ndarray, ndcg: np.ndarray, shown: np.ndarray, segments: np.ndarray, weights: np.ndarray
) -> list[dict[str, Any]]:
    """For each category column of the users: nDCG, and the share of items beyond the head that they are shown."""
    beyond = np.nan_to_num(group_share(shown, segments > 0))
    found, people = [], in_bands(cascade.data.tables.users, cascade.data.codes.user_bands)
    for column in cascade.config.users.category:
        cells = people[column]
        if cells.dtype.is_nested():
            continue  # who has several values is in no group
        groups = cells.cast(pl.String).fill_null(MISSING).gather(users).to_list()
        row = {f"ndcg@{SHOWN}": ndcg, f"non_head@{SHOWN}": beyond}
        measured = {name: asdict(compare_groups(values, groups, weights)) for name, values in row.items()}
        found.append({"column": column, "measures": measured})
    return found


def _by_items(
    each: dict[str, np.ndarray], shown: np.ndarray, segments: np.ndarray, weights: np.ndarray
) -> list[dict[str, Any]]:
    """For each popularity group: its share of the places and of the right answers; the nDCG of who looks for it."""
    target, found = each["segment"].astype(np.str_), []
    told = told_groups(target.tolist())
    measured = compare_groups(each[f"ndcg@{SHOWN}"], target.tolist(), weights)
    worth = {group.name: asdict(group.value) for group in measured.told}
    for code, name in enumerate(SEGMENTS):
        share = mean_interval(group_share(shown, segments == code), weights)
        right = mean_interval((target == name).astype(np.float64), weights)
        row = {"group": name, "items": int((segments == code).sum()), "exposure": asdict(share)}
        row |= {"answers": asdict(right) if name in told else None, f"ndcg@{SHOWN}": worth.get(name)}
        found.append(row)
    gap = None if measured.gap is None else asdict(measured.gap)
    return [{"by": "popularity", "groups": found, "gap": gap}]
