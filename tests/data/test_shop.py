"""The demo shop keeps the contract of tables, is the same for the same seed, and holds what a model should learn."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.data.sources.shop import DEVICES, GENDERS, KINDS, NEXT, NOUNS, PAGES, REGIONS, write_shop
from recsys.errors import InputError

TABLES = ("items", "users", "interactions", "queries", "relevance")
SIZE = 200


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "shop"
    write_shop(folder, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def tables(shop: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(shop / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def purchases(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Purchases in order of user and time, with the category and brand of the item."""
    bought = tables["interactions"].filter(pl.col("event") == "purchase").sort("user_id", "timestamp")
    return bought.join(tables["items"].select("item_id", "category", "brand"), on="item_id", maintain_order="left")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "again", size=SIZE)
    write_shop(tmp_path / "other", size=SIZE, seed=1)
    first, again, other = _bytes(shop), _bytes(tmp_path / "again"), _bytes(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[f"{name}.parquet"] != other[f"{name}.parquet"] for name in TABLES)


def test_keys_are_unique_and_references_are_known(tables: dict[str, pl.DataFrame]) -> None:
    items, users, queries = tables["items"]["item_id"], tables["users"]["user_id"], tables["queries"]["query_id"]
    for keys in (items, users, queries):
        assert keys.is_unique().all()
    for table in ("interactions", "queries"):
        assert tables[table]["user_id"].is_in(users.implode()).all()
    for table in ("interactions", "relevance"):
        assert tables[table]["item_id"].is_in(items.implode()).all()
    assert set(tables["relevance"]["query_id"]) == set(queries)
    assert not tables["relevance"].select("query_id", "item_id").is_duplicated().any()


def test_no_cell_is_null_empty_or_out_of_range(tables: dict[str, pl.DataFrame]) -> None:
    for table in tables.values():
        assert sum(table.null_count().row(0)) == 0
    assert not any((tables["items"][text] == "").any() for text in ("title", "description"))
    assert tables["items"]["price"].is_between(1, 10_000).all()
    assert tables["users"]["age"].is_between(16, 80).all()
    assert set(tables["users"]["gender"]) <= set(GENDERS)
    assert set(tables["users"]["region"]) == set(REGIONS)
    assert set(tables["relevance"]["grade"]) == {0, 1, 2, 3}
    rows = tables["interactions"]
    assert set(rows["event"]) == {"view", "cart", "purchase"}
    assert set(rows["page"]) == set(PAGES)
    assert set(rows["device"]) == set(DEVICES)


def test_time_order_and_hour_agree(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["interactions"]
    assert rows["timestamp"].is_sorted()
    assert not rows.select("user_id", "timestamp").is_duplicated().any()
    assert (rows["hour"] == rows["timestamp"] // 3600 % 24).all()


def test_every_image_is_a_small_picture_of_its_item(shop: Path, tables: dict[str, pl.DataFrame]) -> None:
    image = pytest.importorskip("PIL.Image")
    paths = tables["items"]["image"].to_list()
    assert len({(shop / path).read_bytes() for path in paths}) > SIZE // 3
    for path in paths:
        with image.open(shop / path) as picture:
            assert (picture.size, picture.mode, picture.format) == ((64, 64), "RGB", "PNG")


def test_a_user_buys_three_items_or_more_and_none_twice(purchases: pl.DataFrame) -> None:
    assert not purchases.select("user_id", "item_id").is_duplicated().any()
    counts = purchases.group_by("user_id").len()
    assert counts.height == 2 * SIZE
    assert counts["len"].min() >= 3  # type: ignore[operator]


def test_items_that_nobody_met_came_late(tables: dict[str, pl.DataFrame]) -> None:
    items, rows = tables["items"], tables["interactions"]
    met = items["item_id"].is_in(rows["item_id"].unique().implode())
    late = items["created_at"] > int(rows["timestamp"].quantile(0.95) or 0)
    assert round(0.05 * SIZE) <= (~met).sum() <= round(0.08 * SIZE)
    assert late.sum() == round(0.05 * SIZE)
    assert not (late & met).any()


def test_popularity_falls_off_like_a_long_tail(purchases: pl.DataFrame) -> None:
    counts = np.sort(purchases.group_by("item_id").len()["len"].to_numpy())[::-1]
    assert counts[: SIZE // 10].sum() > 0.2 * counts.sum()  # evenly it would be 0.1
    assert counts[SIZE // 2 :].sum() < 0.35 * counts.sum()


def test_the_accessory_follows_far_more_often_than_by_chance(purchases: pl.DataFrame) -> None:
    names = [nouns[0] for nouns in NOUNS]
    user, category = purchases["user_id"].to_numpy(), purchases["category"].replace_strict(names, range(len(names)))
    now, then = category.to_numpy()[:-1], category.to_numpy()[1:]
    same = user[1:] == user[:-1]
    follows = (NEXT[now] == then)[same]
    share = np.bincount(then[same], minlength=len(KINDS)) / same.sum()  # of all purchases
    chance = share[NEXT[now[same]]].mean()
    assert follows.mean() > 0.3
    assert follows.mean() > 3 * chance
    brand = purchases["brand"].to_numpy()
    assert (brand[1:] == brand[:-1])[same][follows].mean() > 1.5 * (brand[1:] == brand[:-1])[same][~follows].mean()


def test_older_users_pay_more(purchases: pl.DataFrame, tables: dict[str, pl.DataFrame]) -> None:
    items = tables["items"].select("item_id", level=pl.col("price") / pl.col("price").median().over("category"))
    paid = purchases.join(items, on="item_id").join(tables["users"], on="user_id")
    means = paid.group_by(old=pl.col("age") > 45).agg(pl.col("level").log().mean()).sort("old")["level"]
    assert means[1] > means[0] + 0.1


def test_users_have_lasting_tastes(purchases: pl.DataFrame) -> None:
    """Two purchases of one user share a brand more often than two of strangers; so for categories."""
    for column in ("brand", "category"):
        counts = purchases.group_by("user_id", column).len()["len"].to_numpy()
        pairs = (purchases.group_by("user_id").len()["len"].to_numpy()).astype(float)
        alike = (counts * (counts - 1)).sum() / (pairs * (pairs - 1)).sum()
        share = purchases[column].value_counts(normalize=True)["proportion"].to_numpy()
        assert alike > 1.3 * (share**2).sum(), column


@pytest.mark.parametrize("context", ["page", "device", "hour"])
def test_context_sways_the_category(purchases: pl.DataFrame, context: str) -> None:
    moment = (purchases["hour"] // 6 if context == "hour" else purchases[context]).to_numpy()
    shuffled = np.random.default_rng(0).permutation(moment)
    category = purchases["category"].to_numpy()
    assert _information(moment, category) > 2 * _information(shuffled, category)


def _information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information in nats."""
    table = np.zeros((len(np.unique(a)), len(np.unique(b))))
    np.add.at(table, (np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]), 1 / len(a))
    chance = table.sum(1, keepdims=True) * table.sum(0)
    return float((table[table > 0] * np.log(table[table > 0] / chance[table > 0])).sum())


def _popularity_recall(purchases: pl.DataFrame, k: int) -> float:
    """Share of users whose last purchase is among the k most bought items that they had not bought before."""
    items = np.unique(purchases["item_id"].to_numpy(), return_inverse=True)[1]
    starts = np.unique(purchases["user_id"].to_numpy(), return_index=True)[1]
    users = np.split(items, starts[1:])
    popularity = np.bincount(np.concatenate([bought[:-1] for bought in users]), minlength=items.max() + 1).astype(float)
    hits = 0
    for bought in users:
        score = popularity.copy()
        score[bought[:-1]] = -1
        hits += bought[-1] in np.argsort(-score, kind="stable")[:k]
    return hits / len(users)


def test_popularity_finds_little_but_something_at_the_default_size(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop")
    rows = pl.read_parquet(tmp_path / "shop/interactions.parquet")
    bought = rows.filter(pl.col("event") == "purchase").sort("user_id", "timestamp")
    assert 0.02 <= _popularity_recall(bought, 10) <= 0.10
    assert 20 <= rows.height / 2000 <= 30


def test_a_higher_grade_shares_more_words_with_the_query(tables: dict[str, pl.DataFrame]) -> None:
    text = pl.concat_str("title", "description", separator=" ").str.to_lowercase().str.extract_all(r"[\w-]+")
    judged = (
        tables["relevance"]
        .join(tables["queries"].select("query_id", words=pl.col("query").str.split(" ")), on="query_id")
        .join(tables["items"].select("item_id", text=text), on="item_id")
    )
    overlap = pl.col("words").list.set_intersection("text").list.len() / pl.col("words").list.len()
    means = judged.group_by("grade").agg(overlap.mean().alias("overlap")).sort("grade")["overlap"].to_list()
    assert means == sorted(means)
    assert means[3] > means[0] + 0.2
    assert means[3] < 0.95  # synonyms keep words alone from finding everything


def test_every_query_has_an_item_of_the_best_grade_and_comes_before_its_purchase(
    tables: dict[str, pl.DataFrame],
) -> None:
    best = tables["relevance"].group_by("query_id").agg(pl.col("grade").max())
    assert (best["grade"] == 3).all()
    bought = tables["interactions"].filter(pl.col("event") == "purchase").rename({"timestamp": "end"})
    soon = tables["queries"].join(bought, on="user_id").filter((pl.col("end") - pl.col("timestamp")).is_between(1, 600))
    found = soon.join(tables["relevance"].filter(pl.col("grade") == 3), on=["query_id", "item_id"], how="semi")
    assert found.height > 0.8 * tables["queries"].height


def test_one_number_scales_the_shop(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    write_shop(tmp_path / "small", size=SIZE // 4)
    for name, factor in {"items": 4, "users": 4, "queries": 4, "interactions": 4}.items():
        small = pl.read_parquet(tmp_path / f"small/{name}.parquet")
        assert small.height == pytest.approx(tables[name].height / factor, rel=0.15), name


def test_bad_arguments_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asked for 10 items; it needs at least 50"):
        write_shop(tmp_path / "shop", size=10)
    with pytest.raises(InputError, match="seed is -1"):
        write_shop(tmp_path / "shop", seed=-1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds files"):
        write_shop(tmp_path, size=50)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_without_pillow_the_extra_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "__import__", _without_pillow(builtins.__import__))
    with pytest.raises(InputError, match="extra `reports`"):
        write_shop(tmp_path / "shop", size=50)
    assert list(tmp_path.iterdir()) == []


def _without_pillow(real: Callable[..., Any]) -> Callable[..., Any]:
    def find(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *rest, **named)

    return find
