"""Which items may be listed for whom, against a plain loop over the tables."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.filters import Allowed, Filters
from recsys.data.prepare import content_hash, prepare
from recsys.errors import InputError
from recsys.tables import DataConfig, InteractionsConfig, ItemsConfig, UsersConfig, check

ITEMS, USERS = 40, 15
REGIONS = [None, ["north"], ["south", "east"], ["north", "east"], []]
ITEM_ROLES = ItemsConfig(text=["title"], stock="pieces", region="sold_in", age_limit="from_age")
USER_ROLES = UsersConfig(region="home", age="years")


def tables(folder: Path) -> DataConfig:
    """Items with all sorts of limits, and users of whom not all is known."""
    rng = np.random.default_rng(0)
    columns = {
        "items": {
            "item_id": range(ITEMS), "title": [f"thing {item}" for item in range(ITEMS)],
            "pieces": [None if item % 13 == 0 else item % 4 - 1 for item in range(ITEMS)],
            "sold_in": [REGIONS[item % 5] for item in range(ITEMS)],
            "from_age": [[None, 12, 18][item % 3] for item in range(ITEMS)],
        },
        "users": {
            "user_id": range(USERS), "home": [["north", "south", None, "west", ""][user % 5] for user in range(USERS)],
            "years": [[11.0, 12.0, None, 17.5, 40.0, 18.0][user % 6] for user in range(USERS)],
        },
        "interactions": {
            "user_id": np.repeat(np.arange(USERS), 3), "item_id": rng.integers(0, ITEMS, 3 * USERS),
            "timestamp": np.tile([1, 2, 3], USERS),
        },
    }  # fmt: skip
    folder.mkdir()
    for name, own in columns.items():
        pl.DataFrame({column: list(values) for column, values in own.items()}).write_parquet(folder / f"{name}.parquet")
    return DataConfig(root=str(folder), cache=str(folder / "cache"), items=ITEM_ROLES, users=USER_ROLES)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataConfig:
    return tables(tmp_path_factory.mktemp("filters") / "tables")


@pytest.fixture(scope="module")
def filters(config) -> Filters:
    found = prepare(config).filters
    assert found is not None
    return found


def may(item: dict, user: dict | None) -> bool:
    """By the roles' own words."""
    if (item["pieces"] or 0) <= 0:
        return False
    if user is None:
        return True
    home, years, limit = user["home"], user["years"], item["from_age"]
    if home and item["sold_in"] and home not in item["sold_in"]:
        return False
    return limit is None or (years is not None and years >= limit)


def test_the_masks_are_those_of_a_loop_over_the_tables(config, filters):
    items, users = (check(config).items.to_dicts(), check(config).users.to_dicts())
    asked = np.array([*range(USERS), -1, 3, -1])
    allowed = filters.of(asked)
    for row, user in enumerate(asked):
        wanted = [may(item, None if user < 0 else users[user]) for item in items]
        assert allowed.masks[allowed.group[row]].tolist() == wanted
    assert len(allowed.masks) < USERS


def test_groups_are_all_requests_once(filters):
    allowed = filters.of(np.array([3, 1, -1, 3, 8]))
    assert sorted(np.concatenate([rows for rows, _ in allowed.groups()]).tolist()) == [0, 1, 2, 3, 4]
    some = allowed.take(np.array([4, 0]))
    assert isinstance(some, Allowed)
    assert [some.masks[at].tolist() for at in some.group] == [
        allowed.masks[at].tolist() for at in allowed.group[[4, 0]]
    ]


@pytest.mark.parametrize(("region", "age"), [("north", 40), (None, 12), ("west", None), (None, None)])
def test_one_user_from_outside_is_filtered_like_one_of_the_table(filters, config, region, age):
    allowed = filters.about(region, age).of(np.array([0]))
    wanted = [may(item, {"home": region, "years": age}) for item in check(config).items.to_dicts()]
    assert allowed.masks[0].tolist() == wanted


@pytest.mark.parametrize(("stock", "left"), [([True, False, True, None], [0, 2]), ([2.5, 0.0, -1.0, None], [0])])
def test_stock_may_be_a_number_or_yes_and_no(tmp_path, stock, left):
    items = pl.DataFrame({"item_id": range(4), "title": list("abcd"), "stock": stock})
    items.write_parquet(tmp_path / "items.parquet")
    rows = pl.DataFrame({"user_id": [0, 0], "item_id": [0, 1], "timestamp": [1, 2]})
    rows.write_parquet(tmp_path / "interactions.parquet")
    roles = ItemsConfig(text=["title"], stock="stock")
    found = prepare(DataConfig(root=str(tmp_path), cache=str(tmp_path / "cache"), items=roles)).filters
    assert found is not None
    assert [np.flatnonzero(found.of(np.array([user])).masks[0]).tolist() for user in (-1, 0)] == [left, left]


def test_without_such_columns_there_is_no_filter(config):
    plain = replace(config, items=ItemsConfig(text=["title"]), users=UsersConfig())
    assert prepare(plain).filters is None


def test_the_hash_tells_filters_apart_and_is_without_them_what_it_was(config, monkeypatch):
    plain = replace(config, items=ItemsConfig(text=["title"]), users=UsersConfig())
    found, new = check(plain), content_hash(check(plain), plain)
    assert new != content_hash(found, config)
    monkeypatch.setattr("recsys.data.prepare._FILTERS", [])
    assert new != content_hash(found, plain)
    monkeypatch.setattr("recsys.data.prepare.asdict", lambda one: without_filters(asdict(one)))
    assert new == content_hash(found, plain)


def without_filters(roles: dict) -> dict:
    """A config of before there were filters."""
    for table, names in {"items": ("stock", "region", "age_limit"), "users": ("region", "age")}.items():
        roles[table] = {name: value for name, value in roles[table].items() if name not in names}
    return roles


@pytest.mark.parametrize(
    ("items", "users", "message"),
    [
        ({"region": "r"}, {}, r"data\.items\.region is set and data\.users\.region.*set both"),
        ({}, {"region": "r"}, r"data\.users\.region is set and data\.items\.region"),
        ({"age_limit": "a"}, {}, r"data\.items\.age_limit is set and data\.users\.age"),
        ({}, {"age": "a"}, r"data\.users\.age is set and data\.items\.age_limit"),
    ],
)
def test_half_a_filter_is_refused(items, users, message):
    with pytest.raises(InputError, match=message):
        DataConfig(root=".", items=ItemsConfig(text=["title"], **items), users=UsersConfig(**users))


@pytest.mark.parametrize("role", ["stock", "age_limit"])
def test_words_where_a_number_is_expected_are_a_fault(tmp_path, role):
    config = tables(tmp_path / "tables")
    wrong = replace(config, items=replace(ITEM_ROLES, **{role: "title"}), interactions=InteractionsConfig())
    with pytest.raises(InputError, match=rf"items\.title: String where numbers are expected \(data\.items\.{role}\)"):
        prepare(wrong)
