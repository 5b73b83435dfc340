"""Reading: files of each kind, ids as they were, types of a CSV, tables that lie elsewhere."""

from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig, QueriesConfig, UsersConfig, read_tables

ITEMS = pl.DataFrame({"item_id": [3, 1, 2], "title": ["red shoe", "blue hat", "green bag"]})
INTERACTIONS = pl.DataFrame({"user_id": [7, 7, 5], "item_id": [1, 2, 3], "timestamp": [10, 20, 15]})
TEXT = ItemsConfig(text=["title"])


def save(folder: Path, **tables: pl.DataFrame) -> DataConfig:
    """Write tables as Parquet; a config with the default roles."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return DataConfig(root=str(folder), items=TEXT, cache=str(folder / "cache"))


def save_csv(folder: Path, **tables: str) -> DataConfig:
    """Write tables as CSV, lines parted by spaces."""
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text.replace(" ", "\n") + "\n")
    return DataConfig(root=str(folder), items=TEXT, cache=str(folder / "cache"))


def interactions(config: DataConfig) -> pl.DataFrame:
    found = read_tables(config).interactions
    assert found is not None
    return found.collect()


def test_parquet_comes_back_as_it_was_written(tmp_path: Path) -> None:
    tables = read_tables(save(tmp_path, items=ITEMS, interactions=INTERACTIONS))
    assert tables.items.equals(ITEMS)
    assert tables.interactions is not None
    assert tables.interactions.collect().equals(INTERACTIONS)
    assert (tables.queries, tables.relevance) == (None, None)


def test_without_a_users_table_users_are_the_distinct_ids_in_order(tmp_path: Path) -> None:
    tables = read_tables(save(tmp_path, items=ITEMS, interactions=INTERACTIONS))
    assert tables.users.to_dict(as_series=False) == {"user_id": [5, 7]}


def test_a_folder_of_parts_is_one_table_in_the_order_of_names(tmp_path: Path) -> None:
    config = save(tmp_path, items=ITEMS)
    (tmp_path / "interactions").mkdir()
    INTERACTIONS[:2].write_parquet(tmp_path / "interactions" / "part-0.parquet")
    INTERACTIONS[2:].write_parquet(tmp_path / "interactions" / "part-1.parquet")
    assert interactions(config).equals(INTERACTIONS)


def test_relevance_may_be_called_qrels(tmp_path: Path) -> None:
    qrels = pl.DataFrame({"query_id": [1], "item_id": [3]})
    config = save(tmp_path, items=ITEMS, queries=pl.DataFrame({"query_id": [1], "query": ["hat"]}), qrels=qrels)
    tables = read_tables(config)
    assert tables.relevance is not None
    assert tables.relevance.equals(qrels)


def test_csv_ids_keep_their_zeros_in_every_table(tmp_path: Path) -> None:
    config = save_csv(
        tmp_path, items="item_id,title 007,shoe 8,hat", interactions="user_id,item_id,timestamp 1,8,5 2,007,6"
    )
    assert read_tables(config).items["item_id"].to_list() == ["007", "8"]
    assert interactions(config).to_dict(as_series=False) == {
        "user_id": [1, 2],
        "item_id": ["8", "007"],
        "timestamp": [5, 6],
    }


def test_csv_ids_that_are_all_integers_are_integers(tmp_path: Path) -> None:
    config = save_csv(tmp_path, items="item_id,title 7,shoe 8,hat", interactions="user_id,item_id,timestamp u1,8,5")
    assert read_tables(config).items["item_id"].to_list() == [7, 8]
    assert interactions(config).row(0) == ("u1", 8, 5)


def test_csv_ids_follow_a_parquet_table_of_strings(tmp_path: Path) -> None:
    config = save_csv(tmp_path, interactions="user_id,item_id,timestamp 1,8,5")
    save(tmp_path, items=ITEMS.with_columns(pl.col("item_id").cast(pl.String)))
    assert interactions(config)["item_id"].to_list() == ["8"]


def test_integer_ids_of_two_widths_can_be_compared(tmp_path: Path) -> None:
    config = save(tmp_path, items=ITEMS.cast({"item_id": pl.Int32}), interactions=INTERACTIONS)
    assert read_tables(config).items.schema["item_id"] == interactions(config).schema["item_id"] == pl.Int64


def test_categorical_ids_become_strings(tmp_path: Path) -> None:
    rows = INTERACTIONS.with_columns(pl.Series("user_id", ["a", "a", "b"], dtype=pl.Categorical))
    assert read_tables(save(tmp_path, items=ITEMS, interactions=rows)).users["user_id"].to_list() == ["a", "b"]


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["3", "12"], [3, 12]),
        (["0.5", "2"], [0.5, 2.0]),
        (["2024-05-01", "2024-05-02"], [date(2024, 5, 1), date(2024, 5, 2)]),
        (["2024-05-01T10:00:00", "2024-05-02T10:00:00Z"], [datetime(2024, 5, 1, 10), datetime(2024, 5, 2, 10)]),
        (["3", "soon"], ["3", "soon"]),
    ],
)
def test_the_order_of_a_csv_takes_the_first_type_that_fits_all_cells(tmp_path: Path, cells: list, read: list) -> None:
    rows = "".join(f" 1,7,{cell}" for cell in cells)
    config = save_csv(tmp_path, items="item_id,title 7,shoe", interactions=f"user_id,item_id,timestamp{rows}")
    assert interactions(config)["timestamp"].to_list() == read


def test_a_csv_number_is_a_number_and_a_category_stays_a_word(tmp_path: Path) -> None:
    save_csv(
        tmp_path,
        items="item_id,title,price,code 7,shoe,9.5,01 8,hat,,02",
        interactions="user_id,item_id,timestamp 1,7,1",
    )
    items = ItemsConfig(text=["title"], number=["price"], category=["code"])
    table = read_tables(DataConfig(root=str(tmp_path), items=items)).items
    assert table["price"].to_list() == [9.5, None]
    assert table["code"].to_list() == ["01", "02"]


def test_a_table_can_lie_elsewhere_or_be_left_out(tmp_path: Path) -> None:
    save(tmp_path / "set", items=ITEMS, interactions=INTERACTIONS, users=pl.DataFrame({"user_id": [5, 7, 9]}))
    INTERACTIONS[:1].write_parquet(tmp_path / "today.parquet")
    places = {"interactions": str(tmp_path / "today.parquet"), "users": ""}
    tables = read_tables(DataConfig(root=str(tmp_path / "set"), tables=places, items=TEXT))
    assert tables.users["user_id"].to_list() == [7]


def test_a_hugging_face_folder_gives_its_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    save_csv(
        tmp_path,
        items="item_id,title a,shoe",
        train="user_id,item_id,timestamp 1,a,1",
        late="user_id,item_id,timestamp 1,a,2",
    )
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: items\n  data_files: items.csv\n- config_name: interactions\n  data_files:\n"
        "  - split: train\n    path: train.csv\n  - split: validation\n    path: late.csv\n---\n"
    )
    config = DataConfig(root=f"hf:{tmp_path}", items=TEXT)
    assert read_tables(config).items["item_id"].to_list() == ["a"]
    assert interactions(config)["split"].to_list() == ["train", "valid"]
    with pytest.raises(InputError, match=r"has no subset 'item'. Did you mean 'items'"):
        read_tables(DataConfig(root=f"hf:{tmp_path}", tables={"items": f"hf:{tmp_path}#item"}, items=TEXT))
    one = read_tables(DataConfig(root=f"hf:{tmp_path}", tables={"items": f"hf:{tmp_path}#items"}, items=TEXT))
    assert one.items.shape == (1, 2)


def test_a_saved_dataset_gives_its_splits_and_pictures_as_bytes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"item_id": datasets.Value("int64"), "title": datasets.Value("string"), "image": datasets.Image()}
    )
    items = datasets.Dataset.from_dict(
        {"item_id": [1], "title": ["hat"], "image": [{"bytes": b"x", "path": None}]}, features=features
    )
    rows = datasets.Dataset.from_dict({"user_id": [1], "item_id": [1], "timestamp": [1]})
    datasets.DatasetDict({"items": items, "interactions": rows}).save_to_disk(str(tmp_path / "saved"))
    config = DataConfig(root=f"hf:{tmp_path / 'saved'}", items=ItemsConfig(text=["title"], image="image"))
    assert read_tables(config).items["image"].to_list() == [b"x"]


def test_an_unknown_hugging_face_name_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        read_tables(DataConfig(root=f"hf:{tmp_path / 'nothing'}", items=TEXT))


def test_a_missing_table_tells_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    save(tmp_path, item=ITEMS, interactions=INTERACTIONS)
    with pytest.raises(InputError, match=r"items.parquet, items.csv, items/ .*holds .*item.parquet.* mean 'item'"):
        read_tables(DataConfig(root=str(tmp_path), items=TEXT))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"root": "nowhere"}, "Data folder 'nowhere' does not exist"),
        ({"tables": {"users": "nowhere/users.csv"}}, "Table file 'nowhere/users.csv' does not exist"),
        ({"items": ItemsConfig(id="item", text=["title"])}, "items.item: there is no such column .* mean 'item_id'"),
        (
            {"interactions": InteractionsConfig(order="time")},
            "interactions.time: .*interactions.order.* mean 'timestamp'",
        ),
    ],
)
def test_what_is_missing_is_named_with_the_nearest_name(tmp_path: Path, change: dict, said: str) -> None:
    save(tmp_path, items=ITEMS, interactions=INTERACTIONS)
    with pytest.raises(InputError, match=said):
        read_tables(DataConfig(**({"root": str(tmp_path), "items": TEXT} | change)))


def test_two_files_for_one_table_are_refused(tmp_path: Path) -> None:
    save_csv(tmp_path, items="item_id,title 1,hat")
    with pytest.raises(InputError, match=r"items.parquet and items.csv both lie in"):
        read_tables(save(tmp_path, items=ITEMS, interactions=INTERACTIONS))


def test_an_empty_folder_of_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    with pytest.raises(InputError, match=r"holds no \*.parquet parts"):
        read_tables(save(tmp_path, items=ITEMS, interactions=INTERACTIONS))


def test_misspelt_settings_name_the_nearest_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'queries'"):
        DataConfig(root=".", tables={"querys": "x.csv"}, items=TEXT)
    with pytest.raises(InputError, match="Did you mean 'genres'"):
        ItemsConfig(category=["genres"], separators={"genre": ", "})


def test_queries_alone_have_no_users(tmp_path: Path) -> None:
    config = save(tmp_path, items=ITEMS, queries=pl.DataFrame({"query_id": [1], "query": ["hat"]}))
    tables = read_tables(config)
    assert tables.interactions is None
    assert tables.users.is_empty()


def test_any_column_names_do(tmp_path: Path) -> None:
    save_csv(
        tmp_path,
        items="sku,name a-1,shoe a-2,hat",
        interactions="who,what,nth ann,a-1,0 bob,a-2,0 ann,a-2,1",
        queries="q,words,by 1,hat,bob",
    )
    config = DataConfig(
        root=str(tmp_path),
        items=ItemsConfig(id="sku", text=["name"]),
        users=UsersConfig(id="who"),
        interactions=InteractionsConfig(user="who", item="what", order="nth"),
        queries=QueriesConfig(id="q", text="words", user="by"),
    )
    assert read_tables(config).users["who"].to_list() == ["ann", "bob"]
