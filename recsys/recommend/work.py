"""Who is to be answered: all users, those in a file, or the queries of a table."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.requests import Requests, answered_queries, search_requests, serving_requests, user_requests
from recsys.data.split import STAGES
from recsys.errors import InputError, nearest
from recsys.recommend.cascade import Cascade
from recsys.recommend.settings import InferRun
from recsys.tables import DataConfig


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


def users_work(config: InferRun, cascade: Cascade) -> Work:
    """One request for each user, or for each in the file that the config names."""
    users, until = _wanted_users(config, cascade), config.data.history.until
    requests = serving_requests(cascade.data, until, users)
    ids = cascade.data.tables.users[config.data.users.id].gather(users)
    known = user_requests(cascade.data, STAGES[until]).users if until in STAGES and cascade.data.histories else users
    return Work(key="user_id", ids=ids, rows=users, requests=requests, judged=known)


def queries_data(data: DataConfig) -> DataConfig:
    """What a search reads: the root's relevance is of other queries than those of a table of its own."""
    if "queries" not in data.tables or "relevance" in data.tables:
        return data
    return replace(data, tables={**data.tables, "relevance": ""}, relevance=replace(data.relevance, match=None))


def queries_work(config: InferRun, cascade: Cascade) -> Work:
    """One request for each query."""
    queries, table = cascade.data.queries, cascade.data.tables.queries
    if queries is None or table is None:
        remedy = "name one: --data.tables.queries=FILE"
        raise InputError(f"Stage 'search' needs a queries table and found none below {config.data.root}; {remedy}")
    rows, until = np.arange(len(queries)), config.data.history.until
    known = answered_queries(cascade.data, STAGES[until]) if until in STAGES else rows
    requests = search_requests(cascade.data, until)
    return Work(key="query_id", ids=table[config.data.queries.id], rows=rows, requests=requests, judged=known)


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
