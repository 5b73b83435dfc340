"""Tables to arrays, against plain loops over the same tables."""

import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from recsys.data import histories as layout
from recsys.data.codes import Codes, band_names, cut_points, in_bands, turns
from recsys.data.histories import assert_no_leak
from recsys.data.prepare import catalogue_hash, content_hash, hash_share, prepare
from recsys.data.split import SECOND, STAGES, TEST, TRAIN, VALID
from recsys.errors import InputError
from recsys.tables import (
    POPULARITY,
    DataConfig,
    HistoryConfig,
    InteractionsConfig,
    ItemsConfig,
    PolicyConfig,
    QueriesConfig,
    RelevanceConfig,
    SplitConfig,
    UsersConfig,
    check,
)

ITEMS = {
    "item_id": ["a", "b", "c", "d"],
    "title": ["Red hat", "Blue hat", None, "Shoe"],
    "kind": ["hat", "hat", None, "shoe"],
    "tags": ["new|red", "blue", "", "new|red|old"],
    "price": [1.0, 3.0, None, 5.0],
}
INTERACTIONS = {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "d"], "timestamp": [1, 2, 1]}


def write(folder: Path, **tables) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return folder


def settings(folder: Path, **sections) -> DataConfig:
    plain = {"items": ItemsConfig(text=["title"]), "cache": str(folder.parent / "cache")}
    return DataConfig(root=str(folder), **{**plain, **sections})


def made_up(folder: Path, seed: int = 0, **sections) -> tuple[DataConfig, pl.DataFrame]:
    """30 users, 20 items, 400 shuffled events with many of equal time, and the settings that read them."""
    rng, count = np.random.default_rng(seed), 400
    rows = pl.DataFrame({
        "user_id": rng.integers(0, 29, count) * 3, "item_id": [f"i{item}" for item in rng.integers(0, 20, count)],
        "timestamp": rng.integers(0, 40, count), "event": rng.choice(["view", "cart", "buy"], count),
        "page": [[None, "home", "list"][page] for page in rng.integers(0, 3, count)],
        "hour": rng.integers(0, 24, count),
    })  # fmt: skip
    items = {"item_id": [f"i{item}" for item in range(20)], "title": [f"thing {item}" for item in range(20)]}
    items["size"] = list(range(20))
    users = {"user_id": [user * 3 for user in range(30)][::-1]}
    roles = InteractionsConfig(event="event", target_events=["buy", "cart"], context=["page", "hour"])
    write(folder, items=items, users=users, interactions=rows)
    return settings(folder, **{"interactions": roles, **sections}), rows


def expected_rows(rows: pl.DataFrame) -> list[dict]:
    """The events as the layout should hold them: users in table order, the rows of each by time, then by table row."""
    numbered = rows.with_row_index("row").to_dicts()
    return sorted(numbered, key=lambda row: (-row["user_id"], row["timestamp"], row["row"]))


def test_the_layout_is_every_users_rows_in_time_order(tmp_path):
    config, rows = made_up(tmp_path / "data")
    data = prepare(config)
    found, expected = data.histories, expected_rows(rows)
    assert data.codes.event == ["buy", "cart", "view"]
    assert data.codes.context["page"] == ["home", "list"]
    assert found.item.tolist() == [int(row["item_id"][1:]) for row in expected]
    assert found.order.tolist() == [row["timestamp"] for row in expected]
    assert found.event.tolist() == [1 + data.codes.event.index(row["event"]) for row in expected]
    assert found.target.tolist() == [row["event"] != "view" for row in expected]
    pages, hours = data.codes.context["page"], data.codes.context["hour"]
    assert found.context.tolist() == [
        [1 + pages.index(row["page"]) if row["page"] else 0, 1 + hours.index(str(row["hour"]))] for row in expected
    ]
    counts = Counter(row["user_id"] for row in expected)
    assert np.diff(found.offsets).tolist() == [counts[user] for user in data.tables.users["user_id"]]
    assert found.position.tolist() == [place for user in data.tables.users["user_id"] for place in range(counts[user])]
    assert len(found) == 30


def test_a_layout_in_buckets_is_the_same_as_in_one_piece(tmp_path, monkeypatch):
    config, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1))
    whole = prepare(config).histories
    monkeypatch.setattr(layout, "BUCKET_ROWS", 25)
    parts = prepare(replace(config, cache=str(tmp_path / "other"))).histories
    assert len(list(layout._buckets(whole.offsets))) > 10
    for name in ("offsets", *layout.COLUMNS):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), name)


def test_a_layout_is_made_once_and_then_mapped(tmp_path, monkeypatch):
    config, _ = made_up(tmp_path / "data")
    first = prepare(config).histories
    monkeypatch.setattr(layout, "_lay_out", None)
    again = prepare(config).histories
    assert isinstance(again.item, np.memmap)
    np.testing.assert_array_equal(first.item, again.item)


def test_a_layout_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    config, _ = made_up(tmp_path / "data")

    def broken(*_, **__):
        raise InputError("no")

    monkeypatch.setattr(layout, "_arrays", broken)
    with pytest.raises(InputError, match="no"):
        prepare(config)
    assert not list((tmp_path / "cache").iterdir())


def test_the_names_of_a_users_columns_do_not_matter(tmp_path):
    words = {
        "user": ["x", "y", "x"],
        "item": [2, 1, 1],
        "order": [5, 6, 4],
        "row": [0, 0, 0],
        "user_id": [9, 9, 9],
        "stage": "s",
    }
    items = {"item": [1, 2], "row": ["one", "two"]}
    queries = {"q": [7, 8], "i": ["red", "blue"], "user": ["y", None]}
    relevance = {"q": [8, 8], "i": [2, 1]}
    root = write(tmp_path / "data", items=items, interactions=words, queries=queries, relevance=relevance)
    data = prepare(settings(
        root, items=ItemsConfig(id="item", text=["row"]), users=UsersConfig(id="row"),
        interactions=InteractionsConfig(user="user", item="item", order="order"),
        queries=QueriesConfig(id="q", text="i", user="user"), relevance=RelevanceConfig(query="q", item="i"),
    ))  # fmt: skip
    assert data.tables.users["row"].to_list() == ["x", "y"]
    assert data.histories.item.tolist() == [0, 1, 0]
    assert data.queries.user.tolist() == [1, -1]
    assert [data.queries.relevant(query)[0].tolist() for query in (0, 1)] == [[], [0, 1]]


def test_dates_are_seconds_since_1970(tmp_path):
    when = [datetime(1970, 1, 2), datetime(1970, 1, 1, 0, 0, 1, 500_000), datetime(1970, 1, 1)]
    for name, column in {
        "ms": pl.Series(when).cast(pl.Datetime("ms")),
        "tokyo": pl.Series([one.replace(tzinfo=UTC) for one in when]).dt.convert_time_zone("Asia/Tokyo"),
    }.items():
        rows = {"user_id": [1] * 3, "item_id": ["a", "b", "d"], "timestamp": column}
        data = prepare(settings(write(tmp_path / name, items=ITEMS, interactions=rows)))
        assert data.histories.order.tolist() == [0.0, 1.5, 86400.0]
        assert data.histories.item.tolist() == [3, 1, 0]


def test_a_position_keeps_its_gaps_and_a_time_does_not(tmp_path):
    rows = {
        "user_id": [1] * 3 + [2] * 2,
        "item_id": list("abdab"),
        "position": [2, 3, 7, 0, 4],
        "time": [5, 6, 7, 1, 2],
    }
    root = write(tmp_path / "data", items=ITEMS, interactions=rows)
    by_position = prepare(settings(root, interactions=InteractionsConfig(order="position"))).histories
    by_time = prepare(settings(root, interactions=InteractionsConfig(order="time"))).histories
    assert by_position.position.tolist() == [0, 1, 5, 0, 4]
    assert by_time.position.tolist() == [0, 1, 2, 0, 1]


def catalogue_settings(root: Path) -> DataConfig:
    roles = ItemsConfig(text=["title", "kind"], category=["kind", "tags"], number=["price"], separators={"tags": "|"})
    return settings(root, items=roles)


def test_categories_become_codes_and_what_is_missing_is_zero(tmp_path):
    data = prepare(catalogue_settings(write(tmp_path / "data", items=ITEMS, interactions=INTERACTIONS)))
    assert data.codes.item_category == {"kind": ["hat", "shoe"], "tags": ["blue", "new", "old", "red"]}
    kind, tags = data.catalogue.category[:, 0], data.catalogue.category[:, 1]
    assert kind.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [2, 0, 0]]
    assert tags.tolist() == [[2, 4, 0], [1, 0, 0], [0, 0, 0], [2, 4, 3]]
    assert data.catalogue.texts == ["Red hat. hat", "Blue hat. hat", "", "Shoe. shoe"]
    assert len(data.catalogue) == 4


def test_list_columns_and_plain_numbers_are_categories_too(tmp_path):
    items = {**ITEMS, "tags": [["b", "a"], [], None, [None, "a"]], "kind": [3, 3, None, 10]}
    roles = ItemsConfig(text=["title"], category=["tags", "kind"])
    data = prepare(settings(write(tmp_path / "data", items=items, interactions=INTERACTIONS), items=roles))
    assert data.codes.item_category == {"tags": ["a", "b"], "kind": ["10", "3"]}
    assert data.catalogue.category.tolist() == [[[2, 1], [2, 0]], [[0, 0], [2, 0]], [[0, 0], [0, 0]], [[1, 0], [1, 0]]]


def test_numbers_are_scaled_by_median_and_range_and_missing_ones_are_nan(tmp_path):
    items = {**ITEMS, "same": [7, 7, 7, 7], "none": pl.Series([None] * 4, dtype=pl.Float64)}
    roles = ItemsConfig(text=["title"], number=["price", "same", "none"])
    data = prepare(settings(write(tmp_path / "data", items=items, interactions=INTERACTIONS), items=roles))
    assert data.codes.item_number == {"price": [3.0, 2.0], "same": [7.0, 1.0], "none": [0.0, 1.0]}
    np.testing.assert_array_equal(data.catalogue.number[:, 0], np.array([-1, 0, np.nan, 1], dtype=np.float32))
    assert (data.catalogue.number[:, 1] == 0).all()
    assert np.isnan(data.catalogue.number[:, 2]).all()


def test_profiles_are_coded_like_items(tmp_path):
    users = {"user_id": ["u", "v"], "age": ["young", None], "pay": [10.0, 30.0]}
    root = write(tmp_path / "data", items=ITEMS, users=users, interactions=INTERACTIONS)
    data = prepare(settings(root, users=UsersConfig(category=["age"], number=["pay"])))
    assert data.profile.tolist() == [[[1]], [[0]]]
    assert data.profile_number.tolist() == [[-1.0], [1.0]]


def test_codes_that_were_saved_give_the_same_arrays(tmp_path):
    config = catalogue_settings(write(tmp_path / "data", items=ITEMS, interactions=INTERACTIONS))
    first = prepare(config)
    first.codes.save(tmp_path / "codes.json")
    codes = Codes.load(tmp_path / "codes.json")
    again = prepare(config, codes)
    assert codes == first.codes
    np.testing.assert_array_equal(again.catalogue.category, first.catalogue.category)
    np.testing.assert_array_equal(again.catalogue.number, first.catalogue.number)
    assert again.catalogue.index.tolist() == [0, 1, 2, 3]
    assert again.hash == first.hash


def test_on_other_tables_a_model_knows_what_it_has_seen_and_nothing_else(tmp_path):
    codes = prepare(catalogue_settings(write(tmp_path / "old", items=ITEMS, interactions=INTERACTIONS))).codes
    items = {
        "item_id": ["d", "z", "a"], "title": ["Shoe", "New", "Red hat"], "kind": ["coat", "shoe", "hat"],
        "tags": ["new|rare", "rare", "red"], "price": [5.0, 7.0, 1.0],
    }  # fmt: skip
    rows = {"user_id": ["w"], "item_id": ["z"], "timestamp": [3]}
    data = prepare(catalogue_settings(write(tmp_path / "new", items=items, interactions=rows)), codes)
    assert data.catalogue.index.tolist() == [3, -1, 0]
    assert data.catalogue.category[:, 0, 0].tolist() == [0, 2, 1]
    assert data.catalogue.category[:, 1].tolist() == [[2], [0], [4]]
    assert data.catalogue.number[:, 0].tolist() == [1.0, 2.0, -1.0]
    assert data.histories.item.tolist() == [1]


def test_ids_of_another_type_are_all_unseen_and_of_another_width_are_found(tmp_path):
    numbers = {**ITEMS, "item_id": [1, 2, 3, 4]}
    rows = {"user_id": ["u"], "item_id": [4], "timestamp": [1]}
    codes = prepare(settings(write(tmp_path / "numbers", items=numbers, interactions=rows))).codes
    narrow = pl.DataFrame({**ITEMS, "item_id": [4, 9, 1, 120]}, schema_overrides={"item_id": pl.Int8})
    root = write(tmp_path / "narrow", items=narrow, interactions={**rows, "item_id": pl.Series([4], dtype=pl.Int8)})
    assert prepare(settings(root), codes).catalogue.index.tolist() == [3, -1, 0, -1]
    root = write(tmp_path / "words", items=ITEMS, interactions=INTERACTIONS)
    assert prepare(settings(root), codes).catalogue.index.tolist() == [-1] * 4


def test_a_model_is_not_given_other_columns_than_it_learnt_from(tmp_path):
    config = catalogue_settings(write(tmp_path / "data", items=ITEMS, interactions=INTERACTIONS))
    codes = prepare(config).codes
    turned = replace(config, items=replace(config.items, category=["tags", "kind"]))
    np.testing.assert_array_equal(prepare(turned, codes).catalogue.category, prepare(config, codes).catalogue.category)
    fewer = replace(config, items=replace(config.items, category=["kind"], separators={}))
    with pytest.raises(InputError, match=r"data.items.category is \['kind'\].*trained with \['kind', 'tags'\]"):
        prepare(fewer, codes)


def test_a_model_that_knows_profiles_serves_data_without_a_users_table(tmp_path):
    users = {"user_id": ["u", "v"], "age": ["young", "old"], "pay": [10.0, 30.0]}
    roles = UsersConfig(category=["age"], number=["pay"])
    root = write(tmp_path / "data", items=ITEMS, users=users, interactions=INTERACTIONS)
    codes = prepare(settings(root, users=roles)).codes
    (root / "users.parquet").unlink()
    data = prepare(settings(root, users=roles), codes)
    assert data.profile.tolist() == [[[0]], [[0]]]
    assert np.isnan(data.profile_number).all()
    with pytest.raises(InputError, match=r"data.users names age, pay, and there is no users table"):
        prepare(settings(root, users=roles))


@pytest.mark.parametrize("content", ["", "[]", '{"colour": []}', None])
def test_a_damaged_codes_file_is_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "codes.json").write_text(content)
    with pytest.raises(InputError, match="not a readable codes file"):
        Codes.load(tmp_path / "codes.json")


def test_popularity_counts_train_targets(tmp_path):
    config, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1))
    data = prepare(config)
    expected, rows = np.zeros(20, dtype=int), data.histories
    for item, target, stage in zip(rows.item, rows.target, rows.stage, strict=True):
        expected[item] += target and stage in (TRAIN, SECOND)
    assert data.popularity().tolist() == expected.tolist()
    assert {TRAIN, SECOND, VALID, TEST} == set(rows.stage.tolist())


def test_how_often_an_item_was_taken_is_one_more_number_that_the_second_selection_has_no_part_in(tmp_path):
    plain, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1))
    config = replace(plain, items=replace(plain.items, popularity=True))
    data = prepare(config)
    counts, rows = np.zeros(20), data.histories
    for item, target, stage in zip(rows.item, rows.target, rows.stage, strict=True):
        counts[item] += target and stage == TRAIN
    low, middle, high = np.quantile(np.log1p(counts), [0.25, 0.5, 0.75])
    expected = (np.log1p(counts) - middle) / (high - low)
    np.testing.assert_allclose(data.catalogue.number[:, -1], expected, rtol=1e-5, atol=1e-6)
    assert data.codes.item_number[POPULARITY] == pytest.approx([middle, high - low])
    np.testing.assert_array_equal(prepare(config, data.codes).catalogue.number, data.catalogue.number)
    assert data.hash != prepare(plain).hash
    with pytest.raises(InputError, match=r"items\.number"):
        prepare(plain, data.codes)


def test_how_an_item_fared_is_told_by_the_shares_of_its_train_events(tmp_path):
    plain, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1))
    config = replace(plain, items=replace(plain.items, events=True))
    data = prepare(config)
    counts, rows = np.zeros((20, 3)), data.histories
    for item, event, stage in zip(rows.item, rows.event, rows.stage, strict=True):
        counts[item, event - 1] += stage == TRAIN
    usual = (counts.sum(0) + 1) / (counts.sum() + 3)
    told = np.log((counts + 10 * usual) / (counts.sum(1, keepdims=True) + 10) / usual)
    low, middle, high = np.quantile(told, [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_allclose(data.catalogue.number, (told - middle) / (high - low), rtol=1e-4, atol=1e-5)
    assert list(data.codes.item_number) == ["share of buy", "share of cart", "share of view"]
    np.testing.assert_array_equal(prepare(config, data.codes).catalogue.number, data.catalogue.number)
    assert data.hash != prepare(plain).hash
    with pytest.raises(InputError, match=r"items\.number"):
        prepare(plain, data.codes)


@pytest.mark.parametrize("setting", [{"events": True}, {"neighbours": ["users"]}])
def test_without_kinds_of_event_nobody_can_be_told_how_an_item_fared(tmp_path, setting):
    with pytest.raises(InputError, match=rf"{next(iter(setting))} .*name their column: data\.interactions\.event"):
        settings(tmp_path, items=ItemsConfig(text=["title"], **setting))


def test_items_are_alike_by_users_and_by_columns_that_have_a_role():
    with pytest.raises(InputError, match=r"neighbours names 'kinds'; it is for users and .* Did you mean 'kind'"):
        ItemsConfig(text=["title"], category=["kind"], neighbours=["users", "kinds"])


def test_what_items_have_in_common_is_learnt_where_somebody_asks(tmp_path):
    plain, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1))
    names = ["users", "title", "size"]
    items = replace(plain.items, category=["title"], number=["size"], events=True, neighbours=names)
    data = prepare(replace(plain, items=items))
    assert list(data.neighbours.ways) == names
    np.testing.assert_array_equal(data.neighbours.ways["title"].codes, data.catalogue.category[:, 0])
    np.testing.assert_array_equal(data.neighbours.ways["size"].values, data.catalogue.number[:, 0])
    assert data.neighbours.values[1:].tolist() == [0 if event == "view" else 1 for event in data.codes.event]
    assert prepare(plain).neighbours is None
    assert data.hash != prepare(plain).hash


def test_without_interactions_nobody_knows_how_often_an_item_was_taken(tmp_path):
    root = write(tmp_path / "data", items=ITEMS, queries={"query_id": [1], "query": ["hat"]})
    data = prepare(settings(root, items=ItemsConfig(text=["title"], popularity=True)))
    assert np.isnan(data.catalogue.number).all()
    assert data.catalogue.number.shape == (4, 1)


def test_a_column_may_not_be_called_what_popularity_is_called():
    with pytest.raises(InputError, match=r"that is what data\.items\.popularity adds"):
        ItemsConfig(number=[POPULARITY])
    with pytest.raises(InputError, match=r"that is what data\.items\.events adds"):
        ItemsConfig(number=["share of buy"])


@pytest.mark.parametrize("end", [None, "train", "second", "valid", "test", 20, "20", "1970-01-01T00:00:20"])
def test_until_ends_what_may_be_looked_at(tmp_path, end):
    config, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1), history=HistoryConfig(until=end))
    found = prepare(config).histories
    for user, last in enumerate(found.until(end)):
        rows = range(found.offsets[user], found.offsets[user + 1])
        hidden = {None: lambda _: False}.get(end, lambda row: found.order[row] >= 20)
        if end in STAGES:
            hidden = lambda row: found.stage[row] >= STAGES[end]  # noqa: E731
        assert [row for row in rows if not hidden(row)] == list(range(rows.start, last))


def test_a_stage_ends_after_its_last_row(tmp_path):
    config, _ = made_up(tmp_path / "data", split=SplitConfig(by="last", second=1))
    found = prepare(config).histories
    for stage in STAGES.values():
        for user, end in enumerate(found.stage_end(stage)):
            rows = range(found.offsets[user], found.offsets[user + 1])
            assert end == rows.start + sum(found.stage[row] <= stage for row in rows)


def test_the_row_at_an_order_value_is_the_first_that_is_not_earlier(tmp_path):
    found = prepare(made_up(tmp_path / "data")[0]).histories
    for user in range(len(found)):
        rows = range(found.offsets[user], found.offsets[user + 1])
        for order in (-1, 0, 7, 7.5, 100):
            assert found.row_at(user, order) == rows.start + sum(found.order[row] < order for row in rows)


def test_a_leak_is_refused_and_a_new_user_is_none():
    assert_no_leak(np.array([0, 0, 2, 0, 1, 3, 0], dtype=np.int8), np.array([0, 3, 3, 6, 7, 7]))
    assert_no_leak(np.zeros(0, dtype=np.int8), np.array([0, 0]))
    with pytest.raises(InputError, match="leaks the future: 2 rows"):
        assert_no_leak(np.array([0, 2, 0, 3, 1], dtype=np.int8), np.array([0, 3, 5]))


QUERIES = {
    "query_id": [5, 6, 7],
    "query": ["red", "blue hat", "shoe"],
    "who": ["v", "nobody", None],
    "when": [1.5, None, 3.0],
}
RELEVANCE = {"query_id": [7, 5, 5, 5], "item_id": ["d", "b", "a", "b"], "grade": [1.0, 2.0, 0.0, 9.0]}


def query_settings(root: Path, **sections) -> DataConfig:
    roles = {"queries": QueriesConfig(user="who", order="when"), "relevance": RelevanceConfig(grade="grade")}
    return settings(root, **{**roles, "policy": PolicyConfig(orphan="keep"), **sections})


def test_queries_have_users_times_and_what_is_relevant(tmp_path):
    root = write(tmp_path / "data", items=ITEMS, interactions=INTERACTIONS, queries=QUERIES, relevance=RELEVANCE)
    queries = prepare(query_settings(root)).queries
    assert queries.texts == ["red", "blue hat", "shoe"]
    assert queries.user.tolist() == [1, -1, -1]
    np.testing.assert_array_equal(queries.order, [1.5, np.nan, 3.0])
    found = [tuple(part.tolist() for part in queries.relevant(query)) for query in range(3)]
    assert found == [([0, 1], [0.0, 2.0]), ([], []), ([3], [1.0])]  # of a pair that is there twice the first counts
    assert queries.owner().tolist() == [0, 0, 2]
    assert len(queries) == 3


def test_without_grades_every_pair_is_relevant_and_without_pairs_nothing_is(tmp_path):
    root = write(tmp_path / "data", items=ITEMS, interactions=INTERACTIONS, queries=QUERIES, relevance=RELEVANCE)
    plain = prepare(query_settings(root, relevance=RelevanceConfig())).queries
    assert plain.grade.tolist() == [1.0, 1.0, 1.0]
    none = prepare(query_settings(root, tables={"relevance": ""})).queries
    assert none.offsets.tolist() == [0, 0, 0, 0]


def test_without_interactions_there_are_no_histories_and_queries_tell_the_popularity(tmp_path):
    queries = {**QUERIES, "who": [1, 2, None], "split": ["train", "train", "valid"]}
    root = write(tmp_path / "data", items=ITEMS, queries=queries, relevance=RELEVANCE)
    data = prepare(query_settings(root))
    assert data.histories is None
    assert data.queries.user.tolist() == [-1, -1, -1]
    assert data.queries.stage.tolist() == [TRAIN, TRAIN, VALID]
    assert data.popularity().tolist() == [0, 1, 0, 0]


def test_queries_are_cut_by_a_hash_of_their_id_that_no_other_row_moves(tmp_path):
    many = {"query_id": [f"q{query}" for query in range(1000)], "query": [f"word {query}" for query in range(1000)]}
    few = {name: values[::-7] for name, values in many.items()}
    stages = {}
    for name, table in {"many": many, "few": few}.items():
        root = write(tmp_path / name, items=ITEMS, interactions=INTERACTIONS, queries=table)
        found = prepare(settings(root, split=SplitConfig(valid_queries=0.2))).queries.stage
        stages[name] = dict(zip(table["query_id"], found.tolist(), strict=True))
    assert stages["few"] == {key: stages["many"][key] for key in stages["few"]}
    assert 150 < sum(stage == VALID for stage in stages["many"].values()) < 250
    assert 0 <= hash_share("a") < 1


def test_a_share_of_the_train_queries_is_kept_from_the_retriever(tmp_path):
    table = {"query_id": range(1000), "query": ["word"] * 1000, "split": ["train"] * 800 + ["valid"] * 200}
    root = write(tmp_path, items=ITEMS, interactions=INTERACTIONS, queries=table)
    plain, kept = (
        prepare(settings(root, split=SplitConfig(second_queries=share))).queries.stage for share in (0.0, 0.3)
    )
    assert (plain == np.repeat([TRAIN, VALID], [800, 200])).all()
    assert (kept[800:] == VALID).all()
    assert 180 < (kept == SECOND).sum() < 300
    assert set(kept[:800].tolist()) == {TRAIN, SECOND}


@pytest.mark.parametrize("name", ["valid_queries", "second_queries"])
def test_a_share_of_all_queries_or_below_none_is_refused(name):
    for share in (1.0, -0.1):
        with pytest.raises(InputError, match=f"split.{name}"):
            SplitConfig(**{name: share})


def test_a_search_that_leads_to_a_held_out_row_is_held_out_with_it(tmp_path):
    rows = {"user_id": ["u"] * 6, "item_id": list("abdabd"), "timestamp": range(6)}
    when = [0.5, 2.5, 3.5, 4.0, 4.5, 9.0, None]
    queries = {"query_id": range(8), "query": ["word"] * 8, "who": ["u"] * 7 + [None], "when": [*when, 4.5]}
    root = write(tmp_path / "data", items=ITEMS, interactions=rows, queries=queries)
    split = SplitConfig(by="last", second=1, valid_queries=0.0)
    data = prepare(query_settings(root, split=split))
    assert data.histories.stage.tolist() == [TRAIN, TRAIN, TRAIN, SECOND, VALID, TEST]
    assert data.queries.stage.tolist() == [TRAIN, TRAIN, VALID, VALID, TEST, TEST, TRAIN, TRAIN]
    own = write(tmp_path / "own", items=ITEMS, interactions=rows, queries={**queries, "split": ["train"] * 8})
    assert prepare(query_settings(own, split=split)).queries.stage.tolist() == [TRAIN] * 8


def test_the_hash_changes_with_content_and_roles_and_with_nothing_else(tmp_path):
    tables = {"items": ITEMS, "interactions": INTERACTIONS, "queries": QUERIES, "relevance": RELEVANCE}
    config = query_settings(write(tmp_path / "data", **tables))

    def digest(config: DataConfig) -> str:
        return content_hash(check(config), config)

    base = digest(config)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    shutil.move(tmp_path / "moved" / "queries.parquet", tmp_path / "asked.parquet")
    same = [
        replace(config, cache=str(tmp_path / "elsewhere")),
        replace(config, history=HistoryConfig(until="valid", max_items=3)),
        replace(config, root=str(tmp_path / "moved"), tables={"queries": str(tmp_path / "asked.parquet")}),
    ]
    assert {digest(one) for one in same} == {base}
    roles = [
        replace(config, items=ItemsConfig(text=["title", "kind"])),
        replace(config, items=ItemsConfig(text=["title"], category=["kind"])),
        replace(config, split=SplitConfig(second=1)),
        replace(config, relevance=RelevanceConfig()),
    ]
    changes = [
        {"items": {**ITEMS, "title": ["Red hut", *ITEMS["title"][1:]]}},
        {"items": {name: values[::-1] for name, values in ITEMS.items()}},
        {"interactions": {name: values[::-1] for name, values in INTERACTIONS.items()}},
        {"interactions": {**INTERACTIONS, "timestamp": [1, 2, 2]}},
        {"interactions": {**INTERACTIONS, "user_id": ["u", "v", "v"]}},
        {"queries": {**QUERIES, "query": ["red", "blue hat", "shoes"]}},
        {"relevance": {**RELEVANCE, "grade": [1.0, 2.0, 0.0, 8.0]}},
        {"users": {"user_id": ["u", "v", "nobody", "more"]}},
    ]
    others = [query_settings(write(tmp_path / str(at), **{**tables, **one})) for at, one in enumerate(changes)]
    found = [digest(one) for one in [config, *roles, *others]]
    assert len(set(found)) == len(found)


def test_faults_of_the_tables_stop_at_the_door(tmp_path):
    rows = {**INTERACTIONS, "item_id": ["a", "b", "nothing"]}
    with pytest.raises(InputError, match=r"interactions\.item_id.*that items\.item_id does not have"):
        prepare(settings(write(tmp_path / "data", items=ITEMS, interactions=rows)))


def test_csv_files_with_string_ids_and_no_users_table_are_enough(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    pl.DataFrame({**ITEMS, "item_id": ["007", "8", "x", "y"]}).write_csv(root / "items.csv")
    rows = {"user_id": ["b", "a", "b"], "item_id": ["8", "007", "y"], "position": [1, 0, 0]}
    pl.DataFrame(rows).write_csv(root / "interactions.csv")
    data = prepare(settings(root, interactions=InteractionsConfig(order="position")))
    assert data.tables.users["user_id"].to_list() == ["a", "b"]
    assert data.codes.item_ids == ["007", "8", "x", "y"]
    assert data.histories.offsets.tolist() == [0, 1, 3]
    assert data.histories.item.tolist() == [0, 3, 1]


# --- prompts of a class, and items that nobody has met


def garments(folder: Path, **sections) -> DataConfig:
    items = {
        "item_id": ["a", "b", "c", "d", "e"], "kind": ["hat", "shoe", "hat", None, "hat"],
        "part": ["train", "train", "valid", "train", "train"], "title": ["1", "2", "3", "4", "5"],
    }  # fmt: skip
    queries = {"query_id": ["x", "y", "z"], "query": ["a hat", "a shoe", "a coat"], "kind": ["hat", "shoe", "coat"]}
    write(folder, items=items, queries=queries)
    return settings(folder, relevance=RelevanceConfig(match="kind"), **sections)


def test_items_with_a_querys_value_are_relevant_to_it(tmp_path):
    queries = prepare(garments(tmp_path / "data")).queries
    found = [queries.relevant(query)[0].tolist() for query in range(3)]
    assert found == [[0, 2, 4], [1], []]
    assert (queries.grade == 1).all()


def test_a_relevance_table_goes_before_a_matching_column(tmp_path):
    config = garments(tmp_path / "data")
    write(tmp_path / "data", relevance={"query_id": ["x"], "item_id": ["b"]})
    queries = prepare(config).queries
    assert [queries.relevant(query)[0].tolist() for query in range(3)] == [[1], [], []]


def test_pairs_are_of_the_stage_of_the_query_or_of_the_item(tmp_path):
    plain = prepare(garments(tmp_path / "one", split=SplitConfig(valid_queries=0.0)))
    assert plain.pairs(TRAIN).tolist() == [True] * 4
    assert plain.catalogue.stage is None
    held = prepare(garments(tmp_path / "two", split=SplitConfig(items="part")))
    assert held.pairs(TRAIN).tolist() == [True, False, True, True]
    assert held.pairs(VALID).tolist() == [False, True, False, False]
    assert held.popularity().tolist() == [1, 1, 0, 0, 1]


def test_a_matching_column_that_a_table_lacks_is_refused(tmp_path):
    config = garments(tmp_path / "data")
    pl.read_parquet(tmp_path / "data/queries.parquet").drop("kind").write_parquet(tmp_path / "data/queries.parquet")
    with pytest.raises(InputError, match=r"queries\.kind.*relevance\.match"):
        prepare(config)


def test_a_cell_with_several_values_matches_each(tmp_path):
    config = garments(tmp_path / "data", items=ItemsConfig(text=["title"], category=["kind"], separators={"kind": "|"}))
    items = pl.read_parquet(tmp_path / "data/items.parquet")
    items.with_columns(kind=pl.Series(["hat|shoe", "shoe", "hat", None, "coat|hat"])).write_parquet(
        tmp_path / "data/items.parquet"
    )
    queries = prepare(config).queries
    assert [queries.relevant(query)[0].tolist() for query in range(3)] == [[0, 2, 4], [0, 1], [4]]


def test_other_pictures_under_the_same_names_are_other_data(tmp_path):
    config = garments(tmp_path / "data", items=ItemsConfig(text=["title"], image="picture"))
    items = pl.read_parquet(tmp_path / "data/items.parquet")
    items.with_columns(picture=pl.lit("one.png")).write_parquet(tmp_path / "data/items.parquet")
    Image.new("RGB", (8, 8)).save(tmp_path / "data/one.png")
    first = content_hash(check(config), config)
    assert content_hash(check(config), config) == first
    Image.new("RGB", (90, 80), "red").save(tmp_path / "data/one.png")
    assert content_hash(check(config), config) != first


def test_queries_that_show_pictures_are_told_by_what_they_show(tmp_path):
    config = garments(tmp_path / "data", queries=QueriesConfig(image="photo"))
    table, plain = tmp_path / "data/queries.parquet", garments(tmp_path / "data")
    assert prepare(plain).queries.pictures is None
    Image.new("RGB", (8, 8)).save(tmp_path / "data/one.png")
    shown = pl.read_parquet(table).with_columns(photo=pl.Series(["one.png", "gone.png", "one.png"]))
    shown.drop("query").write_parquet(table)
    first = prepare(config)
    assert first.queries.texts == ["", "", ""]
    assert [bool(one) for one in first.queries.pictures] == [True, False, True]
    assert first.queries.pictures[0] == first.queries.pictures[2]
    Image.new("RGB", (90, 80), "red").save(tmp_path / "data/one.png")
    second = prepare(config)
    assert second.hash != first.hash
    assert second.queries.pictures[0] != first.queries.pictures[0]
    assert catalogue_hash(second.tables, config) == catalogue_hash(first.tables, config)


def test_a_split_of_items_does_not_deal_queries(tmp_path):
    with pytest.raises(InputError, match="second_queries"):
        SplitConfig(items="part", second_queries=0.1)


def test_values_that_go_round_stand_at_their_place_in_the_period(tmp_path):
    rows = {**INTERACTIONS, "hour": [6, 0, 18], "page": ["x", "y", "x"]}
    folder = write(tmp_path / "tables", items=ITEMS, interactions=rows)
    roles = InteractionsConfig(context=["page", "hour"], cycles={"hour": 24})
    codes = prepare(settings(folder, interactions=roles)).codes
    assert codes.context["hour"] == ["0", "18", "6"]
    assert turns(codes) == [[], [0.0, 0.75, 0.25]]
    codes.save(tmp_path / "codes.json")
    assert Codes.load(tmp_path / "codes.json") == codes


def test_words_do_not_go_round(tmp_path):
    folder = write(tmp_path / "tables", items=ITEMS, interactions={**INTERACTIONS, "page": ["x", "y", "x"]})
    with pytest.raises(InputError, match=r"cycles: 'page' holds 'x', which is no number"):
        prepare(settings(folder, interactions=InteractionsConfig(context=["page"], cycles={"page": 7})))


@pytest.mark.parametrize(
    ("cycles", "message"), [({"hours": 24}, "cycles names"), ({"hour": 0}, "the period of 'hour'")]
)
def test_a_cycle_of_no_column_or_without_a_period_is_refused(cycles, message):
    with pytest.raises(InputError, match=message):
        InteractionsConfig(context=["hour"], cycles=cycles)


def test_numbers_of_users_are_cut_into_ranges_that_hold_about_as_many(tmp_path):
    ages = [*map(float, range(16, 76)), None, float("nan")]
    users = {"user_id": [f"u{number}" for number in range(len(ages))], "age": ages}
    folder = write(tmp_path / "tables", items=ITEMS, users=users, interactions={**INTERACTIONS, "user_id": ["u0"] * 3})
    data = prepare(settings(folder, users=UsersConfig(category=["age"], bands={"age": 4})))
    names = ["under 31", "31 to under 46", "46 to under 61", "from 61"]
    assert data.codes.user_category == {"age": names}
    assert data.profile[:, 0, 0].tolist() == [*(1 + (age >= 31) + (age >= 46) + (age >= 61) for age in ages[:-2]), 0, 0]
    data.codes.save(tmp_path / "codes.json")
    assert Codes.load(tmp_path / "codes.json") == data.codes
    assert prepare(settings(folder, users=UsersConfig(category=["age"])), data.codes).profile.tolist() == (
        data.profile.tolist()
    )


@pytest.mark.parametrize("numbers", [[1, 1, 1, 1], [1, 1, 1, 9], [5], [1, 2, 3, 4, 5, 6, 7, 8, 9], []])
def test_every_number_lies_in_one_range_and_no_range_is_empty(numbers):
    column = pl.Series("n", numbers, dtype=pl.Int64)
    points = cut_points(column, 4)
    found = in_bands(column.to_frame(), {"n": points})["n"].to_list()
    assert set(found) == set(band_names(points)) or not numbers
    assert found == [band_names(points)[sum(number >= point for point in points)] for number in numbers]


def test_words_are_not_cut_into_ranges_nor_are_columns_that_are_not_named(tmp_path):
    users = {"user_id": ["u", "v"], "town": ["a", "b"]}
    folder = write(tmp_path / "tables", items=ITEMS, users=users, interactions=INTERACTIONS)
    with pytest.raises(InputError, match=r"bands: 'town' holds String; expected numbers"):
        prepare(settings(folder, users=UsersConfig(category=["town"], bands={"town": 4})))
    wrong = [
        ({"tow": 4}, "bands names 'tow'"),
        ({"town": 1}, "cut into 1; expected 2"),
        ({"age": 4}, "both name 'age'"),
    ]
    for bands, message in wrong:
        with pytest.raises(InputError, match=message):
            UsersConfig(category=["town", "age"], number=["age"], bands=bands)
