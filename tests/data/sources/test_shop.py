"""The demo shop keeps the contract of tables, is the same for the same seed, and holds what a model should learn."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.data.sources.shop import LANGUAGES, write_shop
from recsys.data.sources.shop.kinds import KINDS, NEXT
from recsys.data.sources.shop.world import DAYS, DEVICES, PAGES, START, YOUNGEST
from recsys.errors import InputError
from recsys.tables import (
    DataConfig,
    InteractionsConfig,
    ItemsConfig,
    QueriesConfig,
    RelevanceConfig,
    UsersConfig,
    validate,
)

TABLES = ("items", "users", "interactions", "queries", "relevance", "reviews", "ads", "impressions", "oracle")
SIZE = 200
WORDS = LANGUAGES["en"]
NOUNS = [group[0] for group in WORDS.nouns]


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
    """Purchases in order of user and time, with the item's and the user's columns."""
    bought = tables["interactions"].filter(pl.col("event") == "purchase").sort("user_id", "timestamp")
    joined = bought.join(tables["items"], on="item_id", maintain_order="left")
    return joined.join(tables["users"], on="user_id", maintain_order="left", suffix="_user")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "again", size=SIZE)
    write_shop(tmp_path / "other", size=SIZE, seed=1)
    first, again, other = _bytes(shop), _bytes(tmp_path / "again"), _bytes(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[f"{name}.parquet"] != other[f"{name}.parquet"] for name in TABLES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_validate_finds_no_fault(tmp_path: Path, language: str) -> None:
    write_shop(tmp_path / "shop", size=60, language=language)
    config = DataConfig(
        root=str(tmp_path / "shop"), cache=str(tmp_path / "cache"),
        items=ItemsConfig(text=["title", "description"], category=["category", "attributes", "region"], image="image"),
        users=UsersConfig(category=["gender", "region", "interests"], number=["age"]),
        interactions=InteractionsConfig(event="event", target_events=["purchase"], context=["page", "device", "hour"]),
        queries=QueriesConfig(user="user_id", order="timestamp"), relevance=RelevanceConfig(grade="grade"),
    )  # fmt: skip
    report = validate(config)
    assert not report.errors
    assert not report.faults


def test_languages_differ_in_words_and_in_nothing_else(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "shop", size=SIZE, language="zh")
    first, other = _bytes(shop), _bytes(tmp_path / "shop")
    same = {name for name in first if first[name] == other[name]}
    worded = {f"{table}.parquet" for table in ("items", "users", "queries", "reviews", "ads")}
    assert set(first) - same == worded
    items = pl.read_parquet(tmp_path / "shop/items.parquet")
    for column in ("title", "description"):
        assert items[column].str.contains(r"^\S*\p{Han}\S*$").all()
        assert not items[column].str.contains("[a-z{}]").any()


def test_keys_are_unique_and_references_are_known(tables: dict[str, pl.DataFrame]) -> None:
    items, users, queries = tables["items"]["item_id"], tables["users"]["user_id"], tables["queries"]["query_id"]
    for keys in (items, users, queries):
        assert keys.is_unique().all()
    for table in ("interactions", "queries", "reviews", "impressions", "oracle"):
        assert tables[table]["user_id"].is_in(users.implode()).all()
    for table in ("interactions", "relevance", "reviews", "ads", "impressions", "oracle"):
        assert tables[table]["item_id"].is_in(items.implode()).all()
    assert set(tables["relevance"]["query_id"]) == set(queries)
    assert not tables["relevance"].select("query_id", "item_id").is_duplicated().any()


def test_no_cell_is_null_empty_or_out_of_range(tables: dict[str, pl.DataFrame]) -> None:
    for table in tables.values():
        assert sum(table.null_count().row(0)) == 0
    assert not any((tables["items"][text] == "").any() for text in ("title", "description"))
    assert tables["items"]["price"].is_between(1, 10_000).all()
    assert tables["users"]["age"].is_between(16, 80).all()
    assert set(tables["users"]["gender"]) <= set(WORDS.genders)
    assert set(tables["users"]["region"]) == set(WORDS.regions)
    assert set(tables["items"]["section"]) == set(PAGES)
    assert set(tables["relevance"]["grade"]) == {0, 1, 2, 3}
    rows = tables["interactions"]
    assert set(rows["event"]) == {"view", "click", "cart", "purchase"}
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
    user, category = purchases["user_id"].to_numpy(), purchases["category"].replace_strict(NOUNS, range(len(KINDS)))
    now, then = category.to_numpy()[:-1], category.to_numpy()[1:]
    same = user[1:] == user[:-1]
    follows = (NEXT[now] == then)[same]
    share = np.bincount(then[same], minlength=len(KINDS)) / same.sum()  # of all purchases
    assert follows.mean() > 2 * share[NEXT[now[same]]].mean()


def test_profile_and_moment_meet_their_items_more_often_than_by_chance(purchases: pl.DataFrame) -> None:
    groups = np.searchsorted(YOUNGEST, purchases["age"], side="right") - 1
    told = purchases.with_columns(
        group=np.array(WORDS.styles)[groups], part=(pl.col("hour") // 6).replace_strict(range(4), WORDS.dayparts)
    )
    for label, state in (("style", "group"), ("region", "region_user"), ("daypart", "part"), ("section", "page")):
        assert (told[label] == told[state]).mean() > 1.3 * (told[label] == told[state].shuffle(seed=0)).mean(), label


def test_on_a_phone_the_picture_decides_and_at_a_desk_the_description(
    purchases: pl.DataFrame, tables: dict[str, pl.DataFrame]
) -> None:
    careful = tables["items"]["description"].str.contains("tested by hand|Carefully|workshop|We made").to_numpy()
    known = dict(zip(tables["items"]["item_id"], careful, strict=True))
    share = purchases.with_columns(careful=pl.col("item_id").replace_strict(known)).group_by("device")
    means = dict(share.agg(pl.col("careful").mean()).iter_rows())
    assert means["desktop"] > means["phone"] + 0.1
    assert means["desktop"] > means["tablet"] + 0.1


def test_the_newest_review_and_an_advertisement_sway(purchases: pl.DataFrame, tables: dict[str, pl.DataFrame]) -> None:
    reviews = tables["reviews"].select("item_id", "rating", "timestamp").sort("timestamp")
    told = (
        purchases.select("item_id", "timestamp")
        .sort("timestamp")
        .join_asof(reviews, on="timestamp", by="item_id", check_sortedness=False)
    )
    assert told["rating"].null_count() == 0
    assert (told["rating"] > 3).sum() > 1.5 * (told["rating"] < 3).sum()
    ads = tables["ads"].select("item_id", campaign=(pl.col("timestamp") - START) // (28 * 86_400))
    bought = purchases.select("item_id", campaign=(pl.col("timestamp") - START) // (28 * 86_400))
    pushed = bought.join(ads, on=["item_id", "campaign"], how="semi").height / bought.height
    assert pushed > 1.5 * ads.height / (13 * SIZE)


def test_reviews_come_before_and_after_and_from_buyers(tables: dict[str, pl.DataFrame]) -> None:
    reviews = tables["reviews"]
    assert reviews["rating"].is_between(1, 5).all()
    early, late = (reviews.filter(side) for side in (pl.col("timestamp") < START, pl.col("timestamp") >= START))
    assert early["item_id"].n_unique() == early.height == round(0.95 * SIZE)
    assert late["timestamp"].max() < START + DAYS * 86_400  # type: ignore[operator]
    bought = tables["interactions"].filter(event="purchase").select("item_id", "user_id", bought="timestamp")
    known = late.join(bought, on=["item_id", "user_id"]).filter(pl.col("bought") < pl.col("timestamp"))
    assert known.height > 0.8 * late.height


def test_advertisements_have_no_more_clicks_than_impressions(tables: dict[str, pl.DataFrame]) -> None:
    ads = tables["ads"]
    assert (ads["clicks"] <= ads["impressions"]).all()
    rate = ads.group_by("item_id").agg(pl.col("clicks").sum() / pl.col("impressions").sum())["clicks"]
    assert 0.02 < rate.median() < 0.05  # type: ignore[operator]


def test_lists_tell_how_likely_each_place_was_and_the_top_is_clicked_more(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["impressions"]
    lists = rows.group_by("list_id").agg(pl.col("rank").sort(), pl.col("item_id").n_unique())
    assert (lists["item_id"] == 10).all()
    assert lists["rank"].to_list() == [list(range(1, 11))] * lists.height
    assert rows["propensity"].is_between(0, 1, closed="right").all()
    first = rows.filter(rank=1).group_by("item_id").agg(pl.col("propensity").n_unique(), pl.len())
    assert (first["propensity"] == 1).all()
    clicked = rows.group_by(top=pl.col("rank") <= 3).agg(pl.col("clicked").mean()).sort("top")["clicked"]
    assert clicked[1] > 1.5 * clicked[0]
    assert 0.01 < rows["clicked"].mean() < 0.5  # type: ignore[operator]


def test_users_say_what_they_love(purchases: pl.DataFrame) -> None:
    said = purchases.select(pl.col("category").is_in("interests"))["category"].mean()
    assert said > 3 * 2 / len(KINDS)  # type: ignore[operator]


def test_users_have_lasting_tastes(purchases: pl.DataFrame) -> None:
    """Two of a user's first purchases share a brand more often than two of strangers; so for categories."""
    purchases = purchases.group_by("user_id", maintain_order=True).head(8)
    for column, factor in (("brand", 1.1), ("category", 1.3)):
        counts = purchases.group_by("user_id", column).len()["len"].to_numpy()
        pairs = (purchases.group_by("user_id").len()["len"].to_numpy()).astype(float)
        alike = (counts * (counts - 1)).sum() / (pairs * (pairs - 1)).sum()
        share = purchases[column].value_counts(normalize=True)["proportion"].to_numpy()
        assert alike > factor * (share**2).sum(), column


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


def _ndcg(rank: pl.Expr) -> pl.Expr:
    return pl.when(rank < 10).then(1 / (rank + 2).log(2)).otherwise(0.0).mean()


def test_at_the_default_size_every_source_is_worth_something_and_popularity_little(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop")
    rows = pl.read_parquet(tmp_path / "shop/interactions.parquet")
    bought = rows.filter(pl.col("event") == "purchase").sort("user_id", "timestamp")
    assert 0.02 <= _popularity_recall(bought, 10) <= 0.10
    assert 37 <= rows.height / 2000 <= 47
    oracles = pl.read_parquet(tmp_path / "shop/oracle.parquet").group_by("oracle").agg(_ndcg(pl.col("rank")))
    ndcg = dict(oracles.iter_rows())
    whole, at_hand = ndcg.pop("oracle"), ndcg.pop("oracle, sources at hand")
    assert len(ndcg) == 8
    assert all(0.04 <= 1 - one / whole <= 0.20 for one in ndcg.values()), ndcg
    assert at_hand < min(ndcg.values())


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


def test_more_searches_leave_every_other_table_as_it_is(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "shop", size=SIZE, searches=5)
    first, other = _bytes(shop), _bytes(tmp_path / "shop")
    assert {name for name in first if first[name] != other[name]} == {"queries.parquet", "relevance.parquet"}
    asked = pl.read_parquet(tmp_path / "shop/queries.parquet")
    assert asked.height == 5 * SIZE
    assert asked.select("user_id", "timestamp").is_duplicated().sum() == 0


def test_one_number_scales_the_shop(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    write_shop(tmp_path / "small", size=SIZE // 2)
    for name in ("items", "users", "queries", "interactions"):
        small = pl.read_parquet(tmp_path / f"small/{name}.parquet")
        assert small.height == pytest.approx(tables[name].height / 2, rel=0.15), name


def test_bad_arguments_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asked for 10 items; it needs at least 50"):
        write_shop(tmp_path / "shop", size=10)
    with pytest.raises(InputError, match="seed is -1"):
        write_shop(tmp_path / "shop", seed=-1)
    with pytest.raises(InputError, match="asked for 0 searches an item"):
        write_shop(tmp_path / "shop", searches=0)
    with pytest.raises(InputError, match="language is 'fr'; expected one of en, zh, zh_digital"):
        write_shop(tmp_path / "shop", language="fr")
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
