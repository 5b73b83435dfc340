"""Exposure targets applied to a run: all lists at full length come in as parts, the final lists go out as parts.

The choice depends on all lists, so it is made once they are all there, by whoever finds them: a pure function of the
parts, whatever number of processes has written them. Its prices stay in the run's folder, for requests that come later.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import InputError
from recsys.recommend.cascade import Cascade, Lists
from recsys.recommend.exposure import Exposure, solve
from recsys.recommend.rerank import Reranker, dealt
from recsys.shards import Parts, fingerprint, write_atomic

PRICES = "exposure.json"
"""In the run's folder: the groups, what they were to have, have and cost."""


def expose(
    cascade: Cascade, long: Parts, folder: Path, ids: list[pl.Series], *, inputs: str, run: Path, overwrite: bool
) -> Parts:  # fmt: skip
    """Write the lists in which every group has its places to `folder`, and prices to RUN/exposure.json.

    Args:
        cascade: that made the parts, with exposure targets.
        long: one part for each of `ids`, lists of full length.
        folder: of the final parts, which hold some of the rows of the long ones.
        ids: [B] the first column's values of each part's requests.
        inputs: hash of what all long parts were made from alone; every final part depends on all of them.
        run: folder of the run.
        overwrite: replace parts that were made otherwise.
    """
    reranker = cascade.reranker
    assert reranker is not None
    assert reranker.config.exposure is not None
    parts = Parts.open(folder, {"lists": long.fingerprint, "places": reranker.places}, overwrite=overwrite)
    of = fingerprint(parts.fingerprint, inputs)
    if _solved(run / PRICES) == of and all(parts.finished(number, inputs) for number in range(len(ids))):
        return parts
    (run / PRICES).unlink(missing_ok=True)
    groups, chance = _pool(cascade, reranker, long, ids)
    total = int(np.minimum((groups >= 0).sum(1), reranker.places).sum())
    quotas = reranker.config.exposure.quotas(reranker.names, total)
    found = solve(chance, groups, reranker.places, quotas)
    starts = np.cumsum([0, *map(len, ids)])
    for number, some in enumerate(ids):
        frame = pl.read_parquet(long.path(number))
        kept = found.chosen[starts[number] : starts[number + 1]]
        parts.write(number, _shortened(frame, some, kept), inputs)
    _tell(run / PRICES, reranker, found, quotas, of)
    return parts


def _solved(path: Path) -> str:
    """Which lists the prices in a file are of; "" where there are none."""
    try:
        return str(json.loads(path.read_text())["of"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def priced(cascade: Cascade, run: Path) -> Cascade:
    """The cascade with the prices of a run's exposures, where it has exposure targets and they were solved."""
    reranker, path = cascade.reranker, run / PRICES
    if reranker is None or reranker.config.exposure is None or not path.is_file():
        return cascade
    try:
        prices = {row["group"]: float(row["price"]) for row in json.loads(path.read_text())["groups"]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no prices ({error}); run infer.py recommend with overwrite again.") from error
    known = np.array([prices.get(name, 0.0) for name in reranker.names])
    return replace(cascade, reranker=replace(reranker, prices=known))


def _pool(cascade: Cascade, reranker: Reranker, long: Parts, ids: list[pl.Series]) -> tuple[np.ndarray, np.ndarray]:
    """Groups [R, K] int16 and chances [R, K] float64 of all lists, in their order."""
    width = max(long.frame().select(pl.col("rank").max()).collect().item() or 1, 1)
    groups, chances = [], []
    for number, some in enumerate(ids):
        lists = _lists(cascade, pl.read_parquet(long.path(number)), some, width)
        groups.append(reranker.groups_of(lists.items).astype(np.int16))
        chances.append(dealt(lists.items, cascade.chances(lists)))
    return np.concatenate(groups), np.concatenate(chances)


def _lists(cascade: Cascade, frame: pl.DataFrame, ids: pl.Series, width: int) -> Lists:
    """What `_frame` has written, as lists of so many places."""
    items = pl.DataFrame({"item_id": cascade.item_ids, "item": np.arange(len(cascade.item_ids))})
    found = frame.select("item_id").join(items, on="item_id", how="left", maintain_order="left")["item"]
    cells = _rows(frame, ids), frame["rank"].to_numpy() - 1

    def table(values: pl.Series, missing: float) -> np.ndarray:
        out = np.full((len(ids), width), missing, dtype=values.to_numpy().dtype)
        out[cells] = values.to_numpy()
        return out

    own = frame["score"]  # of strangers, whom no model has judged
    rows, scores = table(found, -1).astype(np.int64), table(frame["retriever_score"].fill_null(own), 0)
    pruned = None if cascade.pruner is None else table(frame["pruner_score"].fill_null(own), 0)
    return Lists(
        items=rows, scores=scores, retriever_scores=scores, pruner_scores=pruned, candidates=rows,
        candidate_scores=scores,
    )  # fmt: skip


def _rows(frame: pl.DataFrame, ids: pl.Series) -> np.ndarray:
    """[rows] place of each row's request among the ids."""
    key = frame.columns[0]
    owners = pl.DataFrame({key: ids, "row": np.arange(len(ids))})
    return frame.select(key).join(owners, on=key, how="left", maintain_order="left")["row"].to_numpy()


def _shortened(frame: pl.DataFrame, ids: pl.Series, kept: np.ndarray) -> pl.DataFrame:
    """The rows that are kept [B, K], with ranks from 1 on in each list."""
    some = frame.filter(pl.Series(kept[_rows(frame, ids), frame["rank"].to_numpy() - 1]))
    return some.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(frame.columns[0]))


def _tell(path: Path, reranker: Reranker, found: Exposure, quotas: np.ndarray, of: str) -> None:
    """Keep prices and places; one sentence where a group could not have its places."""
    rows = [
        {"group": name, "wanted": int(wanted), "places": int(count), "missing": int(missing), "price": float(price)}
        for name, wanted, count, missing, price in zip(
            reranker.names, quotas, found.counts, found.missing, found.prices, strict=True
        )
    ]
    assert reranker.config.exposure is not None
    write_atomic(path, json.dumps({**asdict(reranker.config.exposure), "of": of, "groups": rows}, indent=1))
    short = [row for row in rows if row["missing"]]
    if short:
        worst = max(short, key=lambda row: row["missing"])
        found_of = f"{worst['group']!r} {worst['missing']:,} of {worst['wanted']:,}"
        remedy = "no choice among the candidates has more: raise candidates, or ask for less"
        print(f"exposure: {len(short)} groups lack places, {found_of}; {remedy}.", file=sys.stderr)
