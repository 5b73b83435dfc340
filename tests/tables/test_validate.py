"""Validation: each fault is told with table, column, count and rows; a sound data set has none; ids stay private."""

import logging
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from recsys.errors import InputError
from recsys.tables import (
    AdsConfig,
    DataConfig,
    Fault,
    InteractionsConfig,
    ItemsConfig,
    PolicyConfig,
    QueriesConfig,
    RelevanceConfig,
    ReviewsConfig,
    SplitConfig,
    UsersConfig,
    check,
    links,
    render,
    validate,
)

Tables = dict[str, pl.DataFrame]


def sound() -> Tables:
    """Six items, three users, nine interactions (row n at time n), two queries; nothing is wrong with them."""
    users = ["ann", "bob", "cyd"]
    return {
        "items": pl.DataFrame(
            {
                "item_id": list("abcdef"),
                "title": ["red shoe", "blue hat", "green bag", "white sock", "black tie", "grey coat"],
                "about": ["warm", None, "big", "soft", "long", "heavy"],
                "price": [1.0, 2.0, None, 4.0, 5.0, 6.0],
                "image": ["a.png", "b.png", None, None, None, None],
            }
        ),
        "users": pl.DataFrame({"user_id": users, "age": [30, 40, 50]}),
        "interactions": pl.DataFrame(
            {
                "user_id": [users[row % 3] for row in range(9)],
                "item_id": [*"abcdeabca"],
                "timestamp": list(range(9)),
                "event": ["view", "view", "buy"] * 3,
                "split": ["train"] * 3 + ["valid"] * 3 + ["test"] * 3,
            }
        ),
        "queries": pl.DataFrame({"query_id": [1, 2], "query": ["warm hat", "secret wish"], "user_id": ["ann", None]}),
        "relevance": pl.DataFrame({"query_id": [1, 2], "item_id": ["b", "c"], "grade": [1, 0]}),
    }


def save(folder: Path, tables: Tables) -> DataConfig:
    """Write the tables and two pictures; the config that gives every column its role."""
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(folder / name)
    return DataConfig(
        root=str(folder),
        cache=str(folder / "cache"),
        items=ItemsConfig(text=["title", "about"], number=["price"], image="image"),
        users=UsersConfig(number=["age"]),
        interactions=InteractionsConfig(event="event", target_events=["view", "buy"]),
        queries=QueriesConfig(user="user_id"),
        relevance=RelevanceConfig(grade="grade"),
        split=SplitConfig(by="column"),
    )


def cell(tables: Tables, table: str, column: str, values: dict[int, object]) -> Tables:
    """`tables` with some cells of one column replaced."""
    cells = tables[table][column].to_list()
    for row, value in values.items():
        cells[row] = value
    changed = tables[table].with_columns(pl.Series(column, cells))
    return tables | {table: changed}


def test_a_sound_data_set_has_no_faults(tmp_path: Path) -> None:
    config = save(tmp_path, sound())
    report = validate(config)
    assert report.faults == []
    assert "Faults: 0 errors, 0 warnings\n  none" in render(report)
    assert check(config).items.equals(sound()["items"])
    assert not (tmp_path / "cache").exists()


BROKEN: dict[str, tuple[Callable[[Tables], Tables], str]] = {
    "a missing table": (
        lambda tables: {name: table for name, table in tables.items() if name != "items"},
        "items: There is no items table: looked for items.parquet, items.csv, items/",
    ),
    "a missing column": (
        lambda tables: tables | {"items": tables["items"].rename({"title": "titel"})},
        "items.title: there is no such column (data.items.text); the table has item_id, titel, about, price, image. "
        "Did you mean 'titel'?",
    ),
    "a number column of words": (
        lambda tables: (
            tables | {"items": tables["items"].with_columns(price=pl.Series(["1", "two", "3", "four", None, "6"]))}
        ),
        "items.price: String where numbers are expected (data.items.number); unreadable in 2 rows (rows 1, 3: 'two', "
        "'four').",
    ),
    "an order column of words": (
        lambda tables: tables | {"interactions": tables["interactions"].with_columns(timestamp=pl.lit("soon"))},
        "interactions.timestamp: String where numbers, dates or datetimes are expected (data.interactions.order); "
        "unreadable in 9 rows (first rows 0, 1, 2, 3, 4: 'soon', 'soon', 'soon', 'soon', 'soon').",
    ),
    "a duplicate key": (
        lambda tables: cell(tables, "items", "item_id", {4: "a", 5: "b"}),
        "items.item_id: an id that an earlier row has in 2 rows (rows 4, 5: 'a', 'b').",
    ),
    "an empty key": (
        lambda tables: cell(tables, "queries", "query_id", {1: None}),
        "queries.query_id: an empty id in 1 row (row 1: empty).",
    ),
    "an unknown item": (
        lambda tables: cell(tables, "interactions", "item_id", {3: "zz", 7: "yy"}),
        "interactions.item_id: an id that items.item_id does not have in 2 rows (rows 3, 7: 'zz', 'yy'). Mend the "
        "rows, or set data.policy.orphan to drop or keep.",
    ),
    "an unknown user": (
        lambda tables: cell(tables, "interactions", "user_id", {0: "eve"}),
        "interactions.user_id: an id that users.user_id does not have in 1 row (row 0).",
    ),
    "an unknown query": (
        lambda tables: cell(tables, "relevance", "query_id", {0: 9}),
        "relevance.query_id: an id that queries.query_id does not have in 1 row (row 0: 9).",
    ),
    "ids of two types": (
        lambda tables: tables | {"relevance": tables["relevance"].with_columns(item_id=pl.lit(4))},
        "relevance.item_id: ids are Int32 here and String in items.item_id.",
    ),
    "a NaN": (
        lambda tables: cell(tables, "items", "price", {0: float("nan"), 3: float("inf")}),
        "items.price: NaN or an infinite number in 2 rows (rows 0, 3: nan, inf).",
    ),
    "no time": (
        lambda tables: cell(tables, "interactions", "timestamp", {8: None}),
        "interactions.timestamp: no time or position in 1 row (row 8: empty).",
    ),
    "time below zero": (
        lambda tables: cell(tables, "interactions", "timestamp", {0: -5}),
        "interactions.timestamp: a time or position below 0 in 1 row (row 0: -5).",
    ),
    "a split that leaks": (
        lambda tables: cell(tables, "interactions", "timestamp", {0: 100}),
        "interactions.split, timestamp: the future leaks: a row of an earlier split (train, valid, test) stands after "
        "one of a later split, in 1 row (row 0: 'train' 100).",
    ),
    "a valid row after a test one": (
        lambda tables: cell(tables, "interactions", "timestamp", {4: 100}),
        "a later split, in 1 row (row 4: 'valid' 100).",
    ),
    "an unknown split word": (
        lambda tables: cell(tables, "interactions", "split", {6: "testing"}),
        "interactions.split: a word other than train, valid, test in 1 row (row 6: 'testing').",
    ),
    "an event that never occurs": (
        lambda tables: tables | {"interactions": tables["interactions"].with_columns(event=pl.lit("views"))},
        "interactions.event: no row has the target event 'view'; the events are views. "
        "Did you mean 'views'?",
    ),
    "an empty table": (
        lambda tables: tables | {"interactions": tables["interactions"].clear()},
        "interactions: the table has no rows.",
    ),
    "a negative grade": (
        lambda tables: cell(tables, "relevance", "grade", {1: -1}),
        "relevance.grade: a grade below 0 in 1 row (row 1: -1).",
    ),
    "a grade that is no number": (
        lambda tables: tables | {"relevance": tables["relevance"].with_columns(grade=pl.Series(["1", "good"]))},
        "relevance.grade: String where numbers are expected (data.relevance.grade); unreadable in 1 row (row 1: "
        "'good').",
    ),
    "a list as text": (
        lambda tables: tables | {"items": tables["items"].with_columns(about=pl.Series([["x"]] * 6))},
        "items.about: List(String) where one text or number a cell are expected (data.items.text).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_is_told_clearly(name: str, tmp_path: Path) -> None:
    breaking, line = BROKEN[name]
    config = save(tmp_path, breaking(sound()))
    report = validate(config)
    assert any(line in fault.line() for fault in report.errors), render(report)
    assert line in render(report)
    assert "Faults: 0 errors" not in render(report)
    with pytest.raises(InputError) as caught:
        check(config)
    assert str(caught.value).splitlines() == [fault.line() for fault in report.errors]


def only(faults: list[Fault]) -> Fault:
    assert len(faults) == 1, faults
    return faults[0]


def test_a_damaged_file_is_one_fault_and_the_other_tables_are_still_told(tmp_path: Path) -> None:
    config = save(tmp_path, sound())
    whole = (tmp_path / "users.parquet").read_bytes()
    (tmp_path / "users.parquet").write_bytes(whole[: len(whole) // 2])
    report = validate(config)
    assert "users: cannot be read as a table" in only(report.errors).line()
    assert [fact.value for fact in report.facts if (fact.table, fact.name) == ("items", "rows")] == [6]


def test_a_file_whose_pages_are_damaged_is_a_fault_and_no_traceback(tmp_path: Path) -> None:
    config = save(tmp_path, sound())
    whole = bytearray((tmp_path / "interactions.parquet").read_bytes())
    whole[4:400] = bytes(396)
    (tmp_path / "interactions.parquet").write_bytes(whole)
    assert any("interactions: cannot be read" in fault.line() for fault in validate(config).errors)


def test_a_csv_with_a_ragged_line_is_a_fault(tmp_path: Path) -> None:
    config = save(tmp_path, {name: table for name, table in sound().items() if name != "users"})
    (tmp_path / "users.csv").write_text("user_id,age\nann,30\nbob,40,50,60\n")
    assert only(validate(config).errors).line().startswith("users: cannot be read as a table")


def test_one_bad_cell_of_a_csv_is_found_by_its_row(tmp_path: Path) -> None:
    tables = sound()
    config = save(tmp_path, {name: table for name, table in tables.items() if name != "interactions"})
    text = tables["interactions"].write_csv()
    (tmp_path / "interactions.csv").write_text(text.replace("cyd,c,2", "cyd,c,soon"))
    assert "unreadable in 1 row (row 2: 'soon')" in only(validate(config).errors).line()


def test_no_text_column_is_a_fault(tmp_path: Path) -> None:
    config = replace(save(tmp_path, sound()), items=ItemsConfig())
    assert only(validate(config).errors).line() == (
        "items: neither a text column nor pictures or vectors are named. Set data.items.text to the columns that say "
        "what an item is, or data.items.image or vectors."
    )


def test_target_events_need_an_event_column(tmp_path: Path) -> None:
    config = replace(save(tmp_path, sound()), interactions=InteractionsConfig(target_events=["buy"]))
    assert only(validate(config).errors).kind == "no event column"


def test_one_of_several_target_events_may_be_missing(tmp_path: Path) -> None:
    config = replace(
        save(tmp_path, sound()), interactions=InteractionsConfig(event="event", target_events=["buys", "view"])
    )
    assert only(validate(config).faults).line().endswith("the events are buy, view. Did you mean 'buy'?")
    assert validate(config).errors == []


def test_a_query_s_time_must_be_on_the_interactions_scale(tmp_path: Path) -> None:
    tables = sound()
    tables["queries"] = tables["queries"].with_columns(when=pl.lit("2024-05-01").str.to_date())
    config = replace(save(tmp_path, tables), queries=QueriesConfig(order="when"))
    assert "the two cannot be compared" in only(validate(config).errors).line()


def test_rows_that_repeat_are_a_warning_and_buckets_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = sound()
    tables["interactions"] = pl.concat([tables["interactions"], tables["interactions"][:2], tables["interactions"][:1]])
    config = replace(save(tmp_path, tables), split=SplitConfig())
    fault = only(validate(config).warnings)
    assert (fault.kind, fault.count, fault.rows) == ("duplicate row", 3, (10, 11))
    assert check(config).interactions is not None
    monkeypatch.setattr(links, "_HASHES", 2)
    monkeypatch.setattr(links, "_KEYS", 1)
    assert only(validate(config).warnings) == fault


def test_tables_that_are_of_no_use_alone_are_warnings(tmp_path: Path) -> None:
    config = save(tmp_path, sound())
    lonely = replace(config, tables={"queries": ""})
    assert "relevance without the queries" in only(validate(lonely).warnings).line()
    nothing = replace(config, tables={"interactions": "", "relevance": ""})
    assert "nothing to learn from" in only(validate(nothing).warnings).line()


def test_neither_interactions_nor_queries_is_a_fault(tmp_path: Path) -> None:
    config = save(tmp_path, {"items": sound()["items"], "interaction": sound()["interactions"]})
    assert "Did you mean 'interaction'?" in only(validate(config).errors).line()


@pytest.mark.parametrize("show", [False, True])
def test_user_ids_and_query_texts_are_told_only_when_asked_for(show: bool, tmp_path: Path) -> None:
    tables = cell(sound(), "interactions", "user_id", {0: "eve"})
    tables = cell(tables, "users", "user_id", {2: "bob"})
    tables = cell(tables, "queries", "query", {0: "\t"})
    tables = cell(tables, "queries", "user_id", {1: "eve"})
    tables["interactions"] = pl.concat([tables["interactions"], tables["interactions"][:1]])
    text = render(validate(save(tmp_path, tables), show_ids=show))
    assert [name in text for name in ("'eve'", "'bob'", "'\\t'")] == [show] * 3
    assert "secret" not in text
    assert "interactions.user_id: an id that users.user_id does not have in" in text


def test_facts_tell_rows_coverage_ranges_popularity_and_activity(tmp_path: Path) -> None:
    tables = sound()
    config = replace(save(tmp_path, tables), interactions=InteractionsConfig(event="event", target_events=["view"]))
    report = validate(config, unknown_share=lambda texts: len(texts) / 10)
    facts = {(fact.table, fact.column, fact.name): fact.value for fact in report.facts}
    assert facts["items", "", "rows"] == 6
    assert facts["items", "about", "coverage"] == pytest.approx(5 / 6)
    assert facts["items", "image", "coverage"] == pytest.approx(2 / 6)
    assert (facts["items", "price", "lowest"], facts["items", "price", "highest"]) == (1.0, 6.0)
    assert facts["interactions", "event", "event view"] == 6
    assert facts["interactions", "split", "split valid"] == 3
    assert facts["interactions", "user_id", "per user: 50% of users at most"] == 3
    # views fall on a b d e b c: the most popular of six items holds two of six
    assert facts["interactions", "item_id", "popularity: top 10% of items hold"] == pytest.approx(2 / 6)
    assert facts["interactions", "item_id", "popularity: items never met"] == 1
    assert facts["items", "title", "unknown tokens"] == pytest.approx(0.6)
    assert "1 to 6" in render(report)


@pytest.mark.parametrize(("share", "warned"), [(0.05, 0), (0.051, 3)])
def test_more_than_a_twentieth_of_unknown_tokens_is_a_warning(tmp_path: Path, share: float, warned: int) -> None:
    report = validate(save(tmp_path, sound()), unknown_share=lambda _: share)
    found = [fault for fault in report.warnings if fault.kind == "unknown tokens"]
    columns = ["items.title", "items.about", "queries.query"]
    assert [f"{fault.table}.{fault.column}" for fault in found] == columns[:warned]
    assert not report.errors


def test_times_as_dates_are_told_as_dates(tmp_path: Path) -> None:
    tables = sound()
    day = pl.date(2024, 5, 1) + pl.duration(days=pl.col("timestamp"))
    tables["interactions"] = tables["interactions"].with_columns(timestamp=day)
    report = validate(save(tmp_path, tables))
    assert report.faults == []
    assert "2024-05-01 to 2024-05-09" in render(report)


def png(cut: int | None = None) -> bytes:
    held = BytesIO()
    Image.effect_noise((64, 64), 90).save(held, "PNG")
    return held.getvalue()[:cut]


def test_missing_cut_and_outside_images_follow_the_policy(tmp_path: Path) -> None:
    tables = cell(sound(), "items", "image", {1: "gone.png", 2: "cut.png", 3: "../outside.png"})
    config = save(tmp_path, tables)
    (tmp_path / "cut.png").write_bytes(png(2000))
    found = {fault.kind: (fault.count, fault.rows, fault.severity) for fault in validate(config).faults}
    assert found == {"missing image": (2, (1, 3), "warning"), "unreadable image": (1, (2,), "warning")}
    assert check(config).items["image"].to_list() == ["a.png", None, None, None, None, None]
    strict = replace(config, policy=PolicyConfig(image="error"))
    with pytest.raises(InputError, match=r"items.image: no such file below the data root in 2 rows \(rows 1, 3"):
        check(strict)


def test_images_may_be_bytes(tmp_path: Path) -> None:
    tables = sound()
    cells = [png(), png(2000), None, None, None, None]
    tables["items"] = tables["items"].with_columns(image=pl.Series(cells, dtype=pl.Binary))
    fault = only(validate(save(tmp_path, tables)).faults)
    assert (fault.kind, fault.rows, fault.values) == ("unreadable image", (1,), ("(bytes)",))


def test_what_a_policy_drops_is_counted_and_kept_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tables = cell(sound(), "interactions", "item_id", {3: "zz", 7: "yy"})
    tables = cell(tables, "interactions", "user_id", {3: "eve"})
    config = replace(save(tmp_path, tables), policy=PolicyConfig(orphan="drop"))
    with caplog.at_level(logging.WARNING):
        kept = check(config).interactions
    assert kept is not None
    assert kept.collect().equals(
        tables["interactions"].with_row_index().filter(~pl.col("index").is_in([3, 7])).drop("index")
    )
    dropped = pl.read_parquet(tmp_path / "cache" / "dropped" / "interactions.parquet")
    assert dropped["timestamp"].to_list() == [3, 7]
    assert dropped["dropped_because"].to_list() == ["unknown or dropped user_id", "unknown or dropped item_id"]
    assert "1 for unknown or dropped item_id, 1 for unknown or dropped user_id" in caplog.text
    assert "eve" not in caplog.text


def test_rows_that_name_a_dropped_item_or_query_go_with_it(tmp_path: Path) -> None:
    tables = cell(cell(sound(), "items", "title", {1: " "}), "queries", "query", {1: None})
    tables = cell(tables, "items", "image", {0: "gone.png"})
    tables["relevance"] = pl.DataFrame({"query_id": [1, 1, 2], "item_id": ["b", "c", "c"], "grade": [1, 1, 1]})
    config = replace(save(tmp_path, tables), policy=PolicyConfig(text="drop", image="drop"))
    kept = check(config)
    assert kept.items["item_id"].to_list() == list("cdef")
    assert kept.interactions is not None
    assert kept.interactions.collect()["item_id"].to_list() == list("cdec")
    assert kept.queries is not None
    assert kept.queries["query_id"].to_list() == [1]
    assert kept.relevance is not None
    assert kept.relevance.rows() == [(1, "c", 1)]


def test_kept_orphans_stay_where_they_are(tmp_path: Path) -> None:
    tables = cell(sound(), "interactions", "item_id", {3: "zz"})
    config = replace(save(tmp_path, tables), policy=PolicyConfig(orphan="keep"))
    kept = check(config).interactions
    assert kept is not None
    assert kept.collect().equals(tables["interactions"])


def test_a_policy_may_not_drop_everything(tmp_path: Path) -> None:
    tables = sound()
    tables["interactions"] = tables["interactions"].with_columns(item_id=pl.lit("zz"))
    config = replace(save(tmp_path, tables), policy=PolicyConfig(orphan="drop"))
    with pytest.raises(InputError, match="interactions: the policies drop every row"):
        check(config)


def test_dropped_rows_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    tables = cell(sound(), "interactions", "item_id", {3: "zz"})
    (tmp_path / "cache").write_text("in the way")
    config = replace(save(tmp_path, tables), policy=PolicyConfig(orphan="drop"))
    with pytest.raises(InputError, match="Cannot write dropped rows"):
        check(config)


def test_strings_csv_positions_and_nothing_else_are_enough(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,name\na-1,shoe\na-2,hat\n")
    (tmp_path / "interactions.csv").write_text("who,sku,position\nann,a-1,0\nbob,a-2,0\nann,a-2,1\n")
    config = DataConfig(
        root=str(tmp_path),
        items=ItemsConfig(id="sku", text=["name"]),
        interactions=InteractionsConfig(user="who", item="sku", order="position"),
    )
    assert validate(config).faults == []
    assert check(config).users["user_id"].to_list() == ["ann", "bob"]


def with_notes(folder: Path, **columns: list) -> DataConfig:
    """The sound tables, and three reviews and ads."""
    notes = {
        "item_id": ["a", "b", "a"],
        "text": ["good", "bad", "so so"],
        "timestamp": [1, 2, 3],
        "stars": [5.0, 1.0, 3.0],
    }
    notes = pl.DataFrame({**notes, **columns})
    config = save(folder, {**sound(), "reviews": notes, "ads": notes})
    return replace(config, reviews=ReviewsConfig(rating="stars"), ads=AdsConfig())


def test_reviews_and_ads_are_told_with_their_strange_words(tmp_path: Path) -> None:
    report = validate(with_notes(tmp_path), unknown_share=lambda texts: 0.5 if "good" in texts else 0.0)
    assert not report.errors
    told = {(fact.table, fact.name): fact.value for fact in report.facts if fact.name in ("rows", "unknown tokens")}
    assert told["reviews", "rows"] == told["ads", "rows"] == 3
    assert told["reviews", "unknown tokens"] == 0.5
    assert {fault.table for fault in report.warnings} == {"reviews", "ads"}


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"item_id": ["a", "nothing", "b"]}, "unknown id"), ({"timestamp": [1, None, 3]}, "empty order"),
        ({"stars": [1.0, float("nan"), 2.0]}, "not finite"), ({"timestamp": ["1", "2", "x"]}, "wrong type"),
    ],
)  # fmt: skip
def test_faults_of_reviews_are_told(tmp_path: Path, columns: dict, kind: str) -> None:
    report = validate(with_notes(tmp_path, **columns))
    assert kind in {fault.kind for fault in report.errors if fault.table == "reviews"}


def test_a_match_column_and_a_split_of_items_are_checked(tmp_path: Path) -> None:
    tables = sound()
    tables["items"] = tables["items"].with_columns(part=pl.Series(["train", "valid", "odd", "train", "train", "test"]))
    config = save(tmp_path, tables)
    config = replace(config, split=replace(config.split, items="part"), relevance=RelevanceConfig(match="kind"))
    report = validate(config)
    said = {(fault.table, fault.column, fault.kind) for fault in report.errors}
    assert {
        ("items", "part", "unknown split"),
        ("items", "kind", "missing column"),
        ("queries", "kind", "missing column"),
    } <= said


def asking(folder: Path, words: list[str | None] | None, photos: list[object], **changes: object) -> DataConfig:
    """Two queries with words, if there are some, and photos."""
    tables = sound()
    own = tables["queries"].with_columns(photo=pl.Series(photos))
    own = own.drop("query") if words is None else own.with_columns(query=pl.Series(words, dtype=pl.String))
    config = save(folder, tables | {"queries": own})
    return replace(config, queries=QueriesConfig(user="user_id", image="photo"), **changes)


def test_queries_that_show_pictures_need_no_words(tmp_path: Path) -> None:
    config = asking(tmp_path, None, ["a.png", "b.png"])
    assert validate(config).faults == []
    assert check(config).queries.columns == ["query_id", "user_id", "photo"]
    named = replace(config, queries=replace(config.queries, text="words"))
    assert "data.queries.text" in only(validate(named).errors).line()
    assert "data.queries.text" in only(validate(replace(config, queries=QueriesConfig())).errors).line()


def test_a_query_is_empty_without_words_and_without_a_picture_that_can_be_read(tmp_path: Path) -> None:
    whole = {"warm hat": "gone.png", "": "a.png"}
    assert {fault.kind for fault in validate(asking(tmp_path, [*whole], [*whole.values()])).faults} == {"missing image"}
    config = asking(tmp_path, [None, " "], ["gone.png", None])
    found = {fault.kind: (fault.column, fault.count, fault.rows, fault.values) for fault in validate(config).faults}
    empty = ("query, photo", 2, (0, 1), ())
    assert found == {"missing image": ("photo", 1, (0,), ()), "empty text": empty}
    assert check(config).queries["photo"].to_list() == [None, None]
    assert "'gone.png'" in render(validate(config, show_ids=True))


def test_pictures_of_queries_may_be_bytes(tmp_path: Path) -> None:
    config = asking(tmp_path, None, [png(2000), b""])
    found = {fault.kind: fault.rows for fault in validate(config).faults}
    assert found == {"unreadable image": (0,), "empty text": (0, 1)}
    assert check(config).queries["photo"].to_list() == [None, b""]


def test_policies_drop_queries_with_broken_pictures_and_empty_ones(tmp_path: Path) -> None:
    config = asking(tmp_path, ["warm hat", "wish"], ["a.png", "gone.png"], policy=PolicyConfig(image="drop"))
    tables = check(config)
    assert tables.queries["query_id"].to_list() == [1]
    assert tables.relevance["query_id"].to_list() == [1]
    config = asking(tmp_path, [None, None], ["a.png", "gone.png"], policy=PolicyConfig(text="drop"))
    assert check(config).queries["query_id"].to_list() == [1]
    config = asking(tmp_path, [None, None], ["a.png", "gone.png"], policy=PolicyConfig(image="error"))
    with pytest.raises(InputError, match=r"queries\.photo: no such file below the data root in 1 row \(row 1\)"):
        check(config)
