"""Who is to be answered: all users, those in a file, or the queries of a table."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.requests import Requests, answered_queries, search_requests, serving_requests, user_requests
from recsys.data.split import STAGES
from recsys.errors import InputError, nearest
from recsys.recommend.cascade import HISTORY, POPULARITY, PROFILE, QUERY, Cascade
from recsys.recommend.settings import InferRun
from recsys.tables import DataConfig
from recsys.tables.config import TABLES
from recsys.tables.formats import open_source


@dataclass(frozen=True, kw_only=True)
class Work:
    """Requests to be answered, and what stands for each in the first column of the output."""

    key: str
    """user_id or query_id."""
    ids: pl.Series  # [R]
    rows: np.ndarray  # [R] int64, of the users or queries table
    requests: Requests
    judged: np.ndarray  # [J] int64, rows of the whole set that has answers, in its order: these and perhaps others
    basis: np.ndarray
    """[R] what each list is made from."""

    @property
    def has_answers(self) -> bool:
        """Whether it is known for any request what would have been right."""
        return any(len(targets) for targets in self.requests.target_rows)


def users_work(config: InferRun, cascade: Cascade) -> Work:
    """One request for each user, or for each in the file that the config names; who is not in the users table is asked
    about as nobody known.
    """
    until, data, key = config.data.history.until, cascade.data, config.data.users.id
    keys = data.tables.users[key]
    ids, users = (keys, np.arange(len(keys))) if config.users is None else _wanted_users(Path(config.users), keys)
    requests = _of_nobody(serving_requests(data, until, np.maximum(users, 0)), users < 0)
    basis = np.where(requests.ends > 0, HISTORY, PROFILE)
    if data.histories is not None:
        basis = np.where(requests.ends > data.histories.offsets[np.maximum(users, 0)], HISTORY, PROFILE)
    basis = np.where(users < 0, POPULARITY, basis)
    judged = user_requests(data, STAGES[until]).users if until in STAGES and data.histories else users
    return Work(key="user_id", ids=ids, rows=users, requests=requests, judged=judged, basis=basis)


def _of_nobody(requests: Requests, nobody: np.ndarray) -> Requests:
    """The same requests, some of them [R] bool by nobody known."""
    if not nobody.any():
        return requests
    empty = np.zeros(0, dtype=np.int64)
    right = [empty if gone else items for gone, items in zip(nobody, requests.target_rows, strict=True)]
    grades = [empty if gone else grade for gone, grade in zip(nobody, requests.grades, strict=True)]
    users, ends, moments = (
        np.where(nobody, missing, values)
        for missing, values in ((-1, requests.users), (0, requests.ends), (-1, requests.moments))
    )
    return replace(requests, users=users, ends=ends, moments=moments, target_rows=right, grades=grades)


def queries_data(data: DataConfig) -> DataConfig:
    """What a search reads: the root's relevance is of other queries than those of a table of its own."""
    if "queries" not in data.tables or "relevance" in data.tables:
        return data
    return replace(data, tables={**data.tables, "relevance": ""}, relevance=replace(data.relevance, match=None))


def check_queries(data: DataConfig) -> None:
    """Refuse data without a queries table, before anything is embedded."""
    if open_source(data.root, TABLES["queries"], data.tables.get("queries")) is None:
        remedy = "name one: --data.tables.queries=FILE"
        raise InputError(f"Stage 'search' needs a queries table and found none below {data.root}; {remedy}")


def queries_work(config: InferRun, cascade: Cascade) -> Work:
    """One request for each query."""
    queries, table = cascade.data.queries, cascade.data.tables.queries
    assert queries is not None
    assert table is not None
    rows, until = np.arange(len(queries)), config.data.history.until
    known = answered_queries(cascade.data, STAGES[until]) if until in STAGES else rows
    requests = search_requests(cascade.data, until)
    basis = np.full(len(rows), QUERY)
    return Work(
        key="query_id", ids=table[config.data.queries.id], rows=rows, requests=requests, judged=known, basis=basis
    )


def _wanted_users(path: Path, keys: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The distinct ids of a file, as the users table writes ids, and [U] int64 their rows there, -1 for a stranger."""
    wanted = _read_users(path, keys.name)[keys.name].cast(pl.String).cast(keys.dtype, strict=False)
    wrong = np.flatnonzero(wanted.is_null().to_numpy())
    if len(wrong):
        rows = ", ".join(str(row + 1) for row in wrong[:3])
        raise InputError(
            f"{path}: {len(wrong)} of {len(wanted)} rows hold no user id of type {keys.dtype} (row {rows} first). "
            "Remove them, or mend them."
        )
    distinct = wanted.unique(maintain_order=True).alias(keys.name)
    known = keys.to_frame().with_row_index("row")
    rows = distinct.to_frame().join(known, on=keys.name, how="left", maintain_order="left")["row"]
    return distinct, rows.cast(pl.Int64).fill_null(-1).to_numpy()


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
