"""Which rows each stage may learn from and is judged on.

A user's rows carry a stage that never falls as time goes on: first what the retriever learns from, then what the
second selection learns from, then valid, then test. So "what a model may look at" is always a prefix.
"""

import polars as pl

from recsys.errors import InputError
from recsys.tables import SplitConfig

TRAIN, SECOND, VALID, TEST = 0, 1, 2, 3
STAGES = {"train": TRAIN, "second": SECOND, "valid": VALID, "test": TEST}


def assign_stages(rows: pl.LazyFrame, config: SplitConfig) -> pl.LazyFrame:
    """Add the column `stage` (int8) to rows with `user`, `order`, `target`, sorted by user and order.

    Rows that are no targets take the stage of the next target before which they stand, or of the last one.
    """
    match config.by:
        case "last":
            after = pl.col("target").cast(pl.Int32).reverse().cum_sum().reverse().over("user")
            total = pl.col("target").cast(pl.Int32).sum().over("user")
            stage = pl.when(total < 3).then(TRAIN).when(after >= 3).then(TRAIN)
            stage = stage.when((after == 2) & pl.col("target")).then(VALID)
            own = stage.when((after == 1) & pl.col("target")).then(TEST).otherwise(TRAIN)
        case "time":
            own = _by_time(config)
        case "column":
            words = {word: STAGES[word] for word in ("train", "valid", "test")}
            own = pl.col("split").replace_strict(words, return_dtype=pl.Int8)
    rows = rows.with_columns(own.cast(pl.Int8).alias("stage"))
    if config.by == "last":
        rows = rows.with_columns(pl.col("stage").cum_max().over("user"))
    return _reserve_second(rows, config.second)


def _by_time(config: SplitConfig) -> pl.Expr:
    if config.valid_from is None:
        raise InputError("split.by is 'time' and split.valid_from is not set; give the first order value of the valid rows.")
    later = pl.when(pl.col("order") >= order_value(config.test_from)).then(TEST) if config.test_from is not None else None
    base = later.when(pl.col("order") >= order_value(config.valid_from)) if later is not None else pl.when(
        pl.col("order") >= order_value(config.valid_from)
    )
    return base.then(VALID).otherwise(TRAIN)


def _reserve_second(rows: pl.LazyFrame, count: int) -> pl.LazyFrame:
    """The last `count` train targets of each user who keeps at least as many for the first stage."""
    if count == 0:
        return rows
    train_target = pl.col("target") & (pl.col("stage") == TRAIN)
    after = train_target.cast(pl.Int32).reverse().cum_sum().reverse().over("user")
    total = train_target.cast(pl.Int32).sum().over("user")
    reserved = train_target & (after <= count) & (total >= 2 * count + 1)
    first_stage = pl.when(reserved).then(SECOND).otherwise(pl.col("stage")).cast(pl.Int8)
    rows = rows.with_columns(first_stage.alias("stage"))
    return rows.with_columns(pl.col("stage").cum_max().over("user"))


def order_value(value: float | str) -> float:
    """An order value as a number: itself, or an ISO date in seconds since 1970 (UTC)."""
    if not isinstance(value, str):
        return float(value)
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return float(pl.Series([value]).str.to_datetime(time_zone="UTC").dt.epoch("s")[0])
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{value!r} is neither a number nor an ISO date such as 2024-05-31 or 2024-05-31T12:00:00.") from error
