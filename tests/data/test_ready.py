"""Ready-made vectors: from a column to the rows of a batch; what is missing, and what is refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.codes import Codes
from recsys.data.features import Features, Texts
from recsys.data.prepare import prepare
from recsys.data.ready import fit_widths, read_ready, ready_vectors
from recsys.errors import InputError
from recsys.tables import DataConfig, ItemsConfig
from recsys.tables.vectors import VECTOR

SOUND = [[1.0, 2.0], None, [3.0, float("nan")], [5.0, 6.0]]
FILM = [[1.0, 2.0, 3.0]] * 3 + [[1.0]]


def items(**columns: list) -> pl.DataFrame:
    given = {"sound": SOUND, "film": FILM, **columns}
    return pl.DataFrame({name: pl.Series(cells, dtype=VECTOR) for name, cells in given.items()})


def save(folder: Path, vectors: list[str], **columns: list) -> DataConfig:
    folder.mkdir(exist_ok=True)
    table = items(**columns).with_columns(item_id=pl.Series(list("abcd")), title=pl.Series(list("abcd")))
    table.write_parquet(folder / "items.parquet")
    rows = {"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": range(4)}
    pl.DataFrame(rows).write_parquet(folder / "interactions.parquet")
    return DataConfig(
        root=str(folder), cache=str(folder / "cache"), items=ItemsConfig(text=["title"], vectors=vectors)
    )  # fmt: skip


def test_a_batch_has_the_columns_of_its_rows_side_by_side() -> None:
    found = read_ready(ready_vectors(items(), {"sound": 2, "film": 3}), np.array([3, 0, 2]))
    assert found["ready_vector"].tolist() == [[5, 6, 0, 0, 0], [1, 2, 1, 2, 3], [0, 0, 1, 2, 3]]
    assert found["ready_vector"].dtype == torch.float32
    assert found["ready_known"].tolist() == [[True, False], [True, True], [False, True]]
    assert read_ready({}, np.array([0])) == {}


def test_a_hidden_column_is_missing_everywhere_and_the_others_are_not() -> None:
    found = read_ready(ready_vectors(items(), {"sound": 2, "film": 3}), np.arange(4), {"film", "text"})
    assert found["ready_known"].tolist() == [[True, False], [False, False], [False, False], [True, False]]


def test_widths_are_learnt_and_a_column_without_a_good_vector_is_refused() -> None:
    assert fit_widths(items(), ["film", "sound"]) == {"film": 3, "sound": 2}
    for cells in ([None] * 4, [[]] * 4, [[float("inf")]] * 4):
        with pytest.raises(InputError, match=r"items\.sound holds no vector in any of 4 rows; .* Fill the column"):
            fit_widths(items(sound=cells), ["sound"])


def test_a_table_without_any_vector_has_missing_ones_for_a_model_that_knows_them() -> None:
    for table in (items(sound=[None] * 4), items().drop("sound")):
        (found,) = ready_vectors(table, {"sound": 2}).values()
        assert found.values.shape == (4, 2)
        assert not found.known.any()


def test_vectors_of_another_width_than_was_learnt_are_refused() -> None:
    with pytest.raises(InputError, match=r"items\.film holds vectors of 3 numbers, and the model was trained with 2"):
        ready_vectors(items(), {"film": 2})


def test_a_data_set_is_read_by_the_widths_of_its_model(tmp_path: Path) -> None:
    data = prepare(save(tmp_path / "one", ["film", "sound"]))
    assert data.codes.item_vectors == {"film": 3, "sound": 2}
    data.codes.save(tmp_path / "codes.json")
    codes = Codes.load(tmp_path / "codes.json")
    bare = prepare(save(tmp_path / "two", ["film", "sound"], sound=[None] * 4), codes)
    features = Features(bare, Texts(), Texts(), max_items=4, hidden=["film"])
    assert not features.items(np.arange(4)).ready_known.any()
    whole = Features(data, Texts(), Texts(), max_items=4).catalogue()
    assert whole.ready_known.sum().item() == 5
    assert whole.take(torch.tensor([3])).ready_vector.tolist() == [[0, 0, 0, 5, 6]]
    with pytest.raises(InputError, match=r"data\.items\.vectors is \['film'\], and the model was trained with"):
        prepare(save(tmp_path / "two", ["film"]), codes)


def test_a_vector_that_changes_is_another_data_set_and_a_column_without_a_role_is_none(tmp_path: Path) -> None:
    first = prepare(save(tmp_path / "one", ["film"]))
    other = prepare(save(tmp_path / "two", ["film"], film=[[1.0, 2.0, 4.0], *FILM[1:]]))
    assert first.hash != other.hash
    assert prepare(save(tmp_path / "three", [])).catalogue.vectors == {}


def test_codes_of_a_model_without_such_columns_still_load(tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text('{"item_ids": ["a"]}')
    assert Codes.load(tmp_path / "codes.json").item_vectors == {}
