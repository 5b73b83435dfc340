"""Stages against a loop over each user's rows."""

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest

from recsys.data.split import SECOND, STAGES, TEST, TRAIN, VALID, assign_stages, order_value
from recsys.errors import InputError
from recsys.tables import SplitConfig


def made_up(seed: int, users: int = 40) -> pl.DataFrame:
    """Users with 0 to 14 rows in any order, many of equal order, two thirds of them targets."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(0, 15, users))
    rng.shuffle(user)
    order = rng.integers(0, 8, len(user)).astype(float)
    words = np.where(order < 4, "train", np.where(order < 6, "valid", "test"))
    return pl.DataFrame(
        {"user": user, "order": order, "target": rng.random(len(user)) < 0.67, "split": words}
    ).with_row_index("row")


def by_user(frame: pl.DataFrame) -> list[list[dict]]:
    return [sorted(part.to_dicts(), key=lambda row: (row["order"], row["row"])) for part in frame.partition_by("user")]


def plain_last(rows: list[dict], second: int) -> list[int]:
    targets = [place for place, row in enumerate(rows) if row["target"]]
    own = dict.fromkeys(targets, TRAIN)
    if len(targets) >= 3:
        own |= {targets[-2]: VALID, targets[-1]: TEST}
    return plain_second(rows, [own.get(place, -1) for place in range(len(rows))], second)


def plain_second(rows: list[dict], own: list[int], second: int) -> list[int]:
    """Reserve rows for the second selection; a row of stage -1 has the stage of the target before it."""
    train = [place for place, row in enumerate(rows) if row["target"] and own[place] == TRAIN]
    while second and len(train) - second <= second:  # he would keep no more than that
        second -= 1
    for place in train[len(train) - second :]:
        own[place] = SECOND
    found = []
    for place in range(len(rows)):
        before = found[-1] if found else TRAIN
        found.append(before if own[place] == -1 else max(own[place], before))
    return found


def assigned(frame: pl.DataFrame, config: SplitConfig) -> dict[int, int]:
    """Row -> stage; and the sorted rows are checked to be sorted."""
    found = assign_stages(frame.lazy(), config).collect()
    keys = found.select("user", "order").rows()
    assert keys == sorted(keys)
    assert found.schema["stage"] == pl.Int8
    return dict(zip(found["row"].to_list(), found["stage"].to_list(), strict=True))


@pytest.mark.parametrize("second", [0, 1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_leave_last_out_is_what_a_loop_finds(seed, second):
    frame = made_up(seed)
    found = assigned(frame, SplitConfig(by="last", second=second))
    for rows in by_user(frame):
        assert [found[row["row"]] for row in rows] == plain_last(rows, second)


@pytest.mark.parametrize("second", [0, 2, 5])
@pytest.mark.parametrize("test_from", [None, 6])
def test_a_split_by_time_is_the_same_moment_for_everybody(test_from, second):
    frame = made_up(5)
    found = assigned(frame, SplitConfig(by="time", valid_from=4, test_from=test_from, second=second))
    for rows in by_user(frame):
        own = [
            TEST if test_from and row["order"] >= test_from else VALID if row["order"] >= 4 else TRAIN for row in rows
        ]
        assert [max(one, TRAIN) if one != SECOND else TRAIN for one in (found[row["row"]] for row in rows)] == own
        reserved = [found[row["row"]] == SECOND for row in rows if row["target"] and found[row["row"]] <= SECOND]
        assert sum(reserved) == min(second, max(len(reserved) - 1, 0) // 2)


@pytest.mark.parametrize("second", [0, 1])
def test_a_split_column_is_taken_as_it_is(second):
    frame = made_up(6)
    found = assigned(frame, SplitConfig(by="column", second=second))
    for row in frame.to_dicts():
        stage = found[row["row"]]
        assert (TRAIN if stage == SECOND else stage) == STAGES[row["split"]]


def test_rows_of_equal_order_stand_as_in_the_table_and_by_column_an_earlier_split_first():
    frame = pl.DataFrame({
        "row": [0, 1, 2, 3], "user": [0] * 4, "order": [1.0] * 4, "target": [True] * 4,
        "split": ["valid", "train", "test", "train"],
    })  # fmt: skip
    by_last = assign_stages(frame.lazy(), SplitConfig(by="last")).collect()
    assert by_last.select("row", "stage").rows() == [(0, TRAIN), (1, TRAIN), (2, VALID), (3, TEST)]
    by_column = assign_stages(frame.lazy(), SplitConfig(by="column")).collect()
    assert by_column.select("row", "stage").rows() == [(1, TRAIN), (3, TRAIN), (0, VALID), (2, TEST)]


@pytest.mark.parametrize(
    "config",
    [
        SplitConfig(by="last"),
        SplitConfig(by="last", second=2),
        SplitConfig(by="time", valid_from=3, test_from=6, second=1),
        SplitConfig(by="column", second=1),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_stage_never_falls_in_a_history(config, seed):
    found = assign_stages(made_up(seed, users=80).lazy(), config).collect()
    falls = found.with_columns(pl.col("stage").cast(pl.Int64).diff().over("user").alias("step")).filter(
        pl.col("step") < 0
    )
    assert not len(falls)


def test_reserving_never_hides_a_leak():
    """A train row after a valid one (in a table whose faults were not checked) still falls, so that it is found."""
    frame = pl.DataFrame({
        "row": range(6), "user": [0] * 6, "order": [float(row) for row in range(6)], "target": [True] * 6,
        "split": ["train", "train", "train", "valid", "train", "test"],
    })  # fmt: skip
    stages = assign_stages(frame.lazy(), SplitConfig(by="column", second=1)).collect()["stage"].to_list()
    assert stages == [TRAIN, TRAIN, TRAIN, VALID, SECOND, TEST]


def test_a_user_with_two_targets_is_all_train():
    frame = pl.DataFrame({"row": [0, 1, 2], "user": [0] * 3, "order": [0.0, 1.0, 2.0], "target": [True, False, True]})
    assert set(assigned(frame, SplitConfig(by="last", second=1)).values()) == {TRAIN}


def test_a_time_split_says_what_is_missing_or_turned_round():
    with pytest.raises(InputError, match="valid_from is not set"):
        assign_stages(made_up(0).lazy(), SplitConfig(by="time"))
    with pytest.raises(InputError, match=r"test_from 3 is before split.valid_from 5"):
        assign_stages(made_up(0).lazy(), SplitConfig(by="time", valid_from=5, test_from=3))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (2.5, 2.5),
        ("17", 17.0),
        ("1e3", 1000.0),
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01 00:01:00.5", 60.5),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:10Z", 10.0),
        (date(1970, 1, 2), 86400.0),
        (datetime(1970, 1, 1, 0, 0, 30), 30.0),
    ],
)
def test_an_order_value_is_a_number_or_a_date(value, number):
    assert order_value(str(value) if isinstance(value, date) else value) == number


def test_an_order_value_that_is_neither_is_refused():
    with pytest.raises(InputError, match="'yesterday' is neither a number nor an ISO date"):
        order_value("yesterday")
