"""A second start on the same files, against the first."""

import logging
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data import prepare as preparing
from recsys.data.checked import Checked, checked_path
from recsys.data.prepare import prepare
from recsys.errors import InputError
from recsys.tables import DataConfig, HistoryConfig, ItemsConfig, PolicyConfig, QueriesConfig, SplitConfig

ROWS = {
    "user_id": ["u", "u", "v", "v", "w"],
    "item_id": ["a", "b", "b", "b", "nothing"],
    "timestamp": [1, 2, 1, 1, 5],
}


def write(folder: Path, **columns: list) -> DataConfig:
    folder.mkdir(exist_ok=True)
    pl.DataFrame({"item_id": ["a", "b"], "title": ["hat", ""]}).write_parquet(folder / "items.parquet")
    pl.DataFrame({**ROWS, **columns}).write_parquet(folder / "interactions.parquet")
    policy = PolicyConfig(orphan="drop")
    return DataConfig(root=str(folder), cache=f"{folder}-cache", items=ItemsConfig(text=["title"]), policy=policy)


def refuse(*_: object) -> None:
    raise AssertionError("looked at again")


def test_a_second_start_on_the_same_files_finds_the_same_and_looks_at_nothing(tmp_path, monkeypatch, caplog):
    config = write(tmp_path / "data")
    caplog.set_level(logging.WARNING)
    first, told = prepare(config), caplog.messages.copy()
    caplog.clear()
    monkeypatch.setattr(preparing, "inspect", refuse)
    monkeypatch.setattr(preparing, "content_hash", refuse)
    second = prepare(replace(config, history=HistoryConfig(max_items=3)))
    assert caplog.messages == told
    assert len(told) == 4  # an item without words, an orphan, a row that repeats; and what was dropped
    assert second.hash == first.hash
    assert second.tables.users.equals(first.tables.users)
    assert second.codes == first.codes
    for one in fields(first.histories):
        np.testing.assert_array_equal(getattr(second.histories, one.name), getattr(first.histories, one.name))
    assert len(pl.read_parquet(f"{config.cache}/dropped/interactions.parquet")) == 1


def test_another_file_or_setting_is_looked_at(tmp_path):
    config = write(tmp_path / "data")
    base = checked_path(config)
    assert checked_path(replace(config, history=HistoryConfig(max_items=3))) == base
    settings = [replace(config, policy=PolicyConfig()), replace(config, split=SplitConfig(second=1))]
    assert len({base, *map(checked_path, settings)}) == 3
    path = tmp_path / "data/interactions.parquet"
    before = path.stat()
    path.write_bytes(path.read_bytes())  # as large, and then as old
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checked_path(config) != base
    first = prepare(config).hash
    write(tmp_path / "data", timestamp=[1, 2, 1, 6, 5])
    assert prepare(config).hash != first


def test_what_has_errors_is_not_recorded(tmp_path):
    config = replace(write(tmp_path / "data"), policy=PolicyConfig())
    for _ in range(2):
        with pytest.raises(InputError, match="does not have"):
            prepare(config)


@pytest.mark.parametrize("content", ["", "[]", '{"hash": "x"}', '{"hash": "x", "usable": [1], "faults": []}'])
def test_a_damaged_record_is_none(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    assert Checked.read(path) is None
    assert Checked.read(tmp_path / "nothing.json") is None


def test_pictures_and_data_sets_elsewhere_are_looked_at_each_time(tmp_path):
    config = write(tmp_path / "data")
    assert checked_path(replace(config, items=ItemsConfig(image="picture"))) is None
    assert checked_path(replace(config, queries=QueriesConfig(image="photo"))) is None
    assert checked_path(replace(config, root="hf:somebody/something")) is None
    assert checked_path(replace(config, tables={"queries": "hf:somebody/something"})) is None
    assert Checked.read(None) is None


def test_a_table_that_lies_elsewhere_is_known_by_its_file_too(tmp_path):
    config = write(tmp_path / "data")
    (tmp_path / "data/interactions.parquet").rename(tmp_path / "log.parquet")
    config = replace(config, tables={"interactions": str(tmp_path / "log.parquet")})
    before = checked_path(config)
    pl.DataFrame(ROWS)[:3].write_parquet(tmp_path / "log.parquet")
    assert checked_path(config) != before
