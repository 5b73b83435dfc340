"""Which rows each stage may learn from and is judged on.

A user's rows carry a stage that never falls as time goes on: first what the retriever learns from, then what the
second selection learns from, then valid, then test. So "what a model may look at" is always a prefix.
"""

from datetime import UTC, datetime

import polars as pl

from recsys.errors import InputError
from recsys.tables import SplitConfig

TRAIN, SECOND, VALID, TEST = 0, 1, 2, 3
STAGES = {"train": TRAIN, "second": SECOND, "valid": VALID, "test": TEST}


def assign_stages(rows: pl.LazyFrame, config: SplitConfig) -> pl.LazyFrame:
    """Sort rows by user and time and add the column `stage` (int8).

    Args:
        rows: with `user`, `order`, `target`, `row` (its number in the table) and, by column, the words `split`.
        config: how rows are dealt. By `last`, a row that is no target has the stage of the target before it.

    Rows of equal order stand as in the table, except that by column an earlier split stands first.
    """
    if config.by == "last":
        rows = rows.sort("user", "order", "row").with_columns(stage=_leave_last_out())
    else:
        own = _by_time(config) if config.by == "time" else stage_of("split")
        rows = rows.with_columns(stage=own).sort("user", "order", "stage", "row")
    return _reserve_second(rows, config.second) if config.second else rows


def stage_of(column: str) -> pl.Expr:
    """The stage of each word (train, valid, test) of a column."""
    words = ("train", "valid", "test")
    return pl.col(column).replace_strict(words, [STAGES[word] for word in words], return_dtype=pl.Int8)


def _leave_last_out() -> pl.Expr:
    """The last target test, the one before it valid, for users with at least three."""
    after, total = _targets_from(pl.col("target")), pl.col("target").sum().over("user")
    own = pl.when(after == 1).then(TEST).when(after == 2).then(VALID).otherwise(TRAIN)
    held = pl.when(pl.col("target") & (total >= 3)).then(own).otherwise(TRAIN)
    return held.cast(pl.Int8).cum_max().over("user")


def _targets_from(target: pl.Expr) -> pl.Expr:
    """How many targets stand at this row or after it in the same history."""
    return target.cast(pl.Int32).cum_sum(reverse=True).over("user")


def _by_time(config: SplitConfig) -> pl.Expr:
    if config.valid_from is None:
        raise InputError(
            "split.by is time and split.valid_from is not set; give the first order value of the valid rows."
        )
    valid_from = order_value(config.valid_from)
    valid = pl.when(pl.col("order") >= valid_from).then(VALID).otherwise(TRAIN)
    if config.test_from is None:
        return valid.cast(pl.Int8)
    test_from = order_value(config.test_from)
    if test_from < valid_from:
        span = f"split.test_from {config.test_from} is before split.valid_from {config.valid_from}"
        raise InputError(f"{span}; the test rows are the later ones.")
    return pl.when(pl.col("order") >= test_from).then(TEST).otherwise(valid).cast(pl.Int8)


def _reserve_second(rows: pl.LazyFrame, count: int) -> pl.LazyFrame:
    """The last `count` train targets, with what follows them in train, of each user; of one who would keep no more than
    that, as many as leave him more.
    """
    target = pl.col("target") & (pl.col("stage") == TRAIN)
    total = target.sum().over("user")
    reserved = target & (_targets_from(target) <= pl.min_horizontal(count, (total - 1) // 2))
    second = pl.when(pl.col("stage") == TRAIN).then(reserved.cast(pl.Int8)).cum_max().over("user")
    return rows.with_columns(stage=pl.when(pl.col("stage") == TRAIN).then(second).otherwise(pl.col("stage")))


def order_value(value: float | str) -> float:
    """An order value as a number: itself, or an ISO date in seconds since 1970 (UTC where it names no zone)."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        example = "2024-05-31 or 2024-05-31T12:00:00"
        raise InputError(f"{value!r} is neither a number nor an ISO date such as {example}.") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
