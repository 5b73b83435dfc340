"""The layout, made by parts, against loops over the rows."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data import histories as layout
from recsys.data.codes import code_of, fit_codes
from recsys.data.prepare import prepare
from recsys.data.split import SECOND, STAGES, TEST, TRAIN, VALID
from recsys.tables import (
    DataConfig,
    InteractionsConfig,
    ItemsConfig,
    PolicyConfig,
    SplitConfig,
    UsersConfig,
    check,
    links,
    validate,
)

ITEMS, USERS = 15, 25  # that have a row in their table; interactions name five more of each
SPLITS = [
    SplitConfig(by=by, second=second, **({"valid_from": 12, "test_from": 16} if by == "time" else {}))
    for by, second in product(["last", "time", "column"], [0, 2])
]


def write_tables(folder: Path, seed: int, parts: int) -> pl.DataFrame:
    """Random tables, the interactions in several files: orphans, rows that repeat, many of equal time, empty cells."""
    rng, count = np.random.default_rng(seed), 600
    time = rng.integers(0, 20, count)
    rows = pl.DataFrame({
        "who": [f"u{user}" for user in rng.integers(0, USERS + 5, count)],
        "what": rng.integers(0, ITEMS + 5, count) * 10,
        "when": time.astype(float) / 2 if seed % 2 else time,
        "event": rng.choice(["view", "cart", "buy"], count),
        "page": [[None, "", "home", "list"][page] for page in rng.integers(0, 4, count)],
        "hour": rng.integers(0, 24, count),
        "split": np.where(time < 12, "train", np.where(time < 16, "valid", "test")),
    })  # fmt: skip
    rows = pl.concat([rows, rows[:40]])
    (folder / "interactions").mkdir(parents=True)
    for number, part in enumerate(rows.iter_slices(-(-len(rows) // parts))):
        part.write_parquet(folder / f"interactions/{number}.parquet")
    items = rng.permutation(ITEMS) * 10
    pl.DataFrame({"item_id": items, "title": [f"thing {item}" for item in items]}).write_parquet(
        folder / "items.parquet"
    )
    pl.DataFrame({"who": [f"u{user}" for user in rng.permutation(USERS)]}).write_parquet(folder / "users.parquet")
    return rows


def settings(folder: Path, split: SplitConfig) -> DataConfig:
    roles = InteractionsConfig(
        user="who", item="what", order="when", event="event", target_events=["buy", "cart"], context=["page", "hour"]
    )
    return DataConfig(
        root=str(folder / "tables"), cache=str(folder / "cache"), items=ItemsConfig(text=["title"]),
        users=UsersConfig(id="who"), interactions=roles, split=split, policy=PolicyConfig(orphan="drop"),
    )  # fmt: skip


def plain_stages(rows: list[dict], split: SplitConfig) -> list[int]:
    """Of one user's rows in their order."""
    targets = [row for row in rows if row["target"]]
    if split.by == "column":
        own = [STAGES[row["split"]] for row in rows]
    elif split.by == "time":
        own = [TEST if row["when"] >= 16 else VALID if row["when"] >= 12 else TRAIN for row in rows]
    else:
        held = {id(targets[-2]): VALID, id(targets[-1]): TEST} if len(targets) >= 3 else {}
        own = [held.get(id(row), TRAIN) for row in rows]
        own = np.maximum.accumulate(own).tolist()
    train = [place for place, row in enumerate(rows) if row["target"] and own[place] == TRAIN]
    second = split.second
    while second and len(train) - second <= second:  # he would keep no more than that
        second -= 1
    if second:
        for place in range(train[-second], len(rows)):
            own[place] = SECOND if own[place] == TRAIN else own[place]
    return own


def plain_layout(rows: pl.DataFrame, folder: Path, split: SplitConfig) -> dict[str, list]:
    """Every array of the layout, by loops."""
    items = pl.read_parquet(folder / "items.parquet")["item_id"].to_list()
    users = pl.read_parquet(folder / "users.parquet")["who"].to_list()
    events, pages = sorted(set(rows["event"])), sorted(set(rows["page"]) - {None, ""})
    hours = sorted({str(hour) for hour in rows["hour"]})
    found = {name: [] for name in ("offsets", *layout.COLUMNS)} | {"offsets": [0]}
    kept = [row for row in rows.with_row_index("row").to_dicts() if row["what"] in items]
    for user in users:
        own = [row | {"target": row["event"] != "view"} for row in kept if row["who"] == user]
        first = {row["row"]: STAGES[row["split"]] if split.by == "column" else 0 for row in own}
        own.sort(key=lambda row: (row["when"], first[row["row"]], row["row"]))
        found["offsets"].append(found["offsets"][-1] + len(own))
        found["item"] += [items.index(row["what"]) for row in own]
        found["order"] += [row["when"] for row in own]
        found["position"] += range(len(own))
        found["event"] += [1 + events.index(row["event"]) for row in own]
        found["target"] += [row["target"] for row in own]
        found["stage"] += plain_stages(own, split)
        found["context"] += [
            [1 + pages.index(row["page"]) if row["page"] else 0, 1 + hours.index(str(row["hour"]))] for row in own
        ]
    return found


@pytest.mark.parametrize("bucket", [1, 30, 10_000])
@pytest.mark.parametrize("split", SPLITS, ids=lambda split: f"{split.by}-{split.second}")
def test_a_layout_by_parts_is_what_loops_over_the_rows_make(tmp_path, monkeypatch, split, bucket):
    monkeypatch.setattr(layout, "BUCKET_ROWS", bucket)
    seed = 2 * bucket  # even: times are whole numbers, and those of the split by time are as given
    rows = write_tables(tmp_path / "tables", seed, parts=1 + bucket % 7)
    found, expected = prepare(settings(tmp_path, split)).histories, plain_layout(rows, tmp_path / "tables", split)
    for name in ("offsets", *layout.COLUMNS):
        np.testing.assert_array_equal(getattr(found, name), np.array(expected[name]), name)
    assert not list((tmp_path / "cache").glob("**/bucket*"))


def test_who_is_dropped_and_what_repeats_are_counted_as_loops_do(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "_HASHES", 100)
    monkeypatch.setattr(links, "_KEYS", 3)
    rows = write_tables(tmp_path / "tables", 1, parts=3)
    config = settings(tmp_path, SplitConfig())
    keys = rows.select("who", "what", "event", "when").rows()
    repeats = [row for row, key in enumerate(keys) if key in keys[:row]]
    faults = {fault.kind: fault for fault in validate(config).warnings if fault.column != "what"}
    assert faults["duplicate row"].count == len(repeats)
    orphans = [int(user[1:]) >= USERS for user in rows["who"]]
    assert (faults["unknown id"].count, faults["unknown id"].rows) == (
        sum(orphans), tuple(np.flatnonzero(orphans)[:5].tolist())
    )  # fmt: skip
    prepare(config)
    gone = [user or item >= ITEMS * 10 for user, item in zip(orphans, rows["what"], strict=True)]
    dropped = pl.read_parquet(tmp_path / "cache/dropped/interactions.parquet").drop("dropped_because")
    assert dropped.equals(rows.filter(pl.Series(gone)))


def test_items_are_counted_alike_in_spans_and_at_once(tmp_path, monkeypatch):
    write_tables(tmp_path / "tables", 2, parts=2)
    config = settings(tmp_path, SplitConfig(second=1))
    data = prepare(config)
    whole = data.popularity()
    monkeypatch.setattr(layout, "BUCKET_ROWS", 7)
    assert data.popularity().tolist() == whole.tolist()
    rows = data.histories
    assert whole.tolist() == np.bincount(rows.item[rows.target & (rows.stage < VALID)], minlength=ITEMS).tolist()


def test_a_table_whose_users_have_no_rows_is_laid_out(tmp_path):
    rows = write_tables(tmp_path / "tables", 4, parts=1)
    for path in (tmp_path / "tables/interactions").iterdir():
        path.unlink()
    rows.filter(pl.col("who") == "u3", pl.col("what") == 0)[:1].write_parquet(
        tmp_path / "tables/interactions/0.parquet"
    )
    config = settings(tmp_path, SplitConfig())
    found = prepare(replace(config, interactions=replace(config.interactions, target_events=None))).histories
    assert (len(found), len(found.item), int(found.offsets[-1])) == (USERS, 1, 1)


def held_whole(frame: pl.LazyFrame) -> bool:
    """Whether polars reads a column whole to answer, in place of passing it on in pieces."""
    plan = frame.show_graph(plan_stage="physical", engine="streaming", show=False, raw_output=True)
    return any(step in str(plan) for step in ("columnar-function", "in-memory-map"))


def test_the_pass_that_deals_rows_holds_no_column_whole(tmp_path):
    write_tables(tmp_path / "tables", 2, parts=2)
    config = settings(tmp_path, SplitConfig(by="column"))
    tables = check(config)
    assert tables.interactions is not None
    assert held_whole(tables.interactions.select(pl.col("event").replace_strict(["buy"], [1], default=0)))
    assert not held_whole(layout._coded_rows(tables, config, fit_codes(tables, config), [(0, 9), (9, USERS)]))


@pytest.mark.parametrize("known", [[], ["b"], [f"v{value}" for value in range(300)] + ["b", "3"]])
def test_codes_are_places_in_the_list_of_known_values(known):
    cells = pl.DataFrame({"word": ["b", None, "", "v7", "new"], "number": [3, None, 4, 5, 3]})
    found = cells.lazy().select(code_of(pl.col("word"), known), code_of(pl.col("number"), known)).collect()
    for name in cells.columns:
        expected = [known.index(str(cell)) + 1 if str(cell) in known else 0 for cell in cells[name]]
        assert found[name].to_list() == expected
