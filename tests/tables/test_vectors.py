"""Columns of vectors: which cells hold one, which are broken, and how that is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.errors import InputError
from recsys.tables import DataConfig, ItemsConfig, PolicyConfig, check, render, validate
from recsys.tables.vectors import VECTOR, holds_vectors, read_vectors

GOOD, OTHER, NAN, INFINITE = [1.0, 2.0, 3.0], [1.0, 2.0], [1.0, float("nan"), 3.0], [1e300, 0.0, 0.0]
CELLS = [GOOD, None, [], OTHER, NAN, INFINITE, GOOD, [4.0, None, 5.0]]


def save(folder: Path, sound: pl.Series, **policy: str) -> DataConfig:
    names = [f"i{row}" for row in range(len(sound))]
    pl.DataFrame({"item_id": names, "title": names, "sound": sound}).write_parquet(folder / "items.parquet")
    rows = {"user_id": ["u"] * len(names), "item_id": names, "timestamp": range(len(names))}
    pl.DataFrame(rows).write_parquet(folder / "interactions.parquet")
    return DataConfig(
        root=str(folder), cache=str(folder / "cache"), items=ItemsConfig(text=["title"], vectors=["sound"]),
        policy=PolicyConfig(**policy),
    )  # fmt: skip


def test_vectors_of_the_commonest_length_with_finite_numbers_are_known_and_all_others_are_not() -> None:
    found = read_vectors(pl.Series(CELLS).cast(VECTOR))
    assert found.width == 3
    assert found.known.tolist() == [True, False, False, False, False, False, True, False]
    assert (found.values[found.known] == GOOD).all()
    assert not found.values[~found.known].any()
    assert found.odd.tolist() == [3]
    assert found.infinite.tolist() == [4, 5, 7]


def test_a_column_of_good_vectors_is_not_copied() -> None:
    cells = pl.Series(np.random.default_rng(0).random((50, 4), dtype=np.float32)).cast(VECTOR)
    found = read_vectors(cells)
    assert found.known.all()
    assert np.shares_memory(found.values, cells.explode().to_numpy())
    assert (found.values == np.array(cells.to_list(), dtype=np.float32)).all()


@pytest.mark.parametrize("cells", [[], [None, None], [[], None]])
def test_a_column_without_any_vector_has_no_width(cells: list) -> None:
    found = read_vectors(pl.Series(cells, dtype=VECTOR))
    assert (found.width, found.values.shape, found.known.tolist()) == (0, (len(cells), 0), [False] * len(cells))


def test_lists_of_numbers_of_any_type_are_vectors_and_others_are_not() -> None:
    for dtype in (pl.List(pl.Int8), pl.List(pl.Float64), pl.Array(pl.Float32, 4), pl.List(pl.Null), pl.Null):
        assert holds_vectors(dtype if isinstance(dtype, pl.DataType) else dtype())
    for dtype in (pl.String(), pl.Float32(), pl.List(pl.String), pl.List(pl.List(pl.Float32)), None):
        assert not holds_vectors(dtype)


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.List(pl.Int64)])
def test_lists_of_any_kind_are_read_as_one(tmp_path: Path, dtype: pl.DataType) -> None:
    config = save(tmp_path, pl.Series([[1, 2], None, [3, 4]], dtype=dtype))
    assert validate(config).faults == []
    assert check(config).items["sound"].equals(pl.Series([[1.0, 2.0], None, [3.0, 4.0]], dtype=VECTOR))


def test_broken_vectors_are_counted_and_told_and_kept_as_missing_ones(tmp_path: Path) -> None:
    report = validate(save(tmp_path, pl.Series(CELLS)))
    assert report.errors == []
    assert [fault.line() for fault in report.warnings] == [
        "items.sound: a vector of another length than 3, which most have in 1 row (row 3: [1.0, 2.0]). Accepted: "
        "data.policy.vectors is keep.",
        "items.sound: a vector with NaN or an infinite number in 3 rows (rows 4, 5, 7: [1.0, nan, 3.0], "
        "[inf, 0.0, 0.0], [4.0, None, 5.0]). Accepted: data.policy.vectors is keep.",
    ]
    assert "sound 75.0%" in render(report)


def test_broken_vectors_may_stop_a_run_or_go_with_their_items(tmp_path: Path) -> None:
    config = save(tmp_path, pl.Series(CELLS), vectors="error")
    with pytest.raises(InputError, match=r"another length than 3.*Mend the rows, or set data\.policy\.vectors to drop"):
        check(config)
    dropping = replace(config, policy=PolicyConfig(vectors="drop", orphan="drop"))
    tables = check(dropping)
    assert tables.items["item_id"].to_list() == ["i0", "i1", "i2", "i6"]
    dropped = pl.read_parquet(tmp_path / "cache/dropped/items.parquet")
    assert set(dropped["dropped_because"]) == {"broken sound"}


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            pl.Series(["[1.0, 2.0]"] * 2),
            "items.sound: String where lists of numbers are expected (data.items.vectors). Write the table as Parquet, "
            "with a list of numbers in each cell, or name another column.",
        ),
        (pl.Series([1.0, 2.0]), "items.sound: Float64 where lists of numbers are expected"),
        (pl.Series([["a"], ["b"]]), "items.sound: List(String) where lists of numbers are expected"),
    ],
)
def test_a_column_that_is_no_list_of_numbers_is_refused(tmp_path: Path, cells: pl.Series, said: str) -> None:
    config = save(tmp_path, cells)
    with pytest.raises(InputError) as told:
        check(config)
    assert str(told.value).startswith(said)
    assert "\n" not in str(told.value)


def test_a_column_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    config = save(tmp_path, pl.Series([GOOD]))
    with pytest.raises(InputError, match=r"items\.sounds: there is no such column .*Did you mean 'sound'\?"):
        check(replace(config, items=ItemsConfig(text=["title"], vectors=["sounds"])))


@pytest.mark.parametrize("names", [["image"], ["nothing"], ["sound", "sound"]])
def test_a_name_that_another_source_has_is_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"data\.items\.vectors names .* rename the column"):
        ItemsConfig(vectors=names)


def test_vectors_alone_are_enough_to_tell_what_an_item_is(tmp_path: Path) -> None:
    config = save(tmp_path, pl.Series([GOOD, None]))
    assert validate(replace(config, items=ItemsConfig(vectors=["sound"]))).faults == []
