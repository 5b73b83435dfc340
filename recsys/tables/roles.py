"""What each column of each table is for. Reading, checking and describing all start from this list."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from recsys.errors import nearest
from recsys.tables.config import AdsConfig, DataConfig, InteractionsConfig, QueriesConfig, ReviewsConfig, SplitConfig

RoleKind = Literal["key", "link", "text", "category", "number", "order", "image", "vector", "event", "split", "grade"]


@dataclass(frozen=True)
class Role:
    """What one column of a table is for."""

    column: str
    kind: RoleKind
    table: str = ""
    """The table whose keys a key or link holds."""
    required: bool = True
    """Whether the column must be there and (key, link, order) filled in every row."""
    setting: str = ""
    """The setting that names the column, for messages."""


def roles(config: DataConfig, table: str) -> list[Role]:
    """The roles that `config` gives to columns of `table`, keys and links first."""
    match table:
        case "items":
            return _item_roles(config)
        case "users":
            users = config.users
            key = Role(users.id, "key", "users", setting="users.id")
            found = [key, *_many(users.category, "category", "users"), *_many(users.number, "number", "users")]
            return found + _filters("users", region=users.region, age=users.age)
        case "interactions":
            return _interaction_roles(config.interactions, config.split)
        case "queries":
            return _query_roles(config)
        case "reviews":
            return _review_roles(config.reviews or ReviewsConfig())
        case "ads":
            return _ad_roles(config.ads or AdsConfig())
        case _:
            relevance = config.relevance
            grade = [Role(relevance.grade, "grade", setting="relevance.grade")] if relevance.grade else []
            query = Role(relevance.query, "link", "queries", setting="relevance.query")
            return [query, Role(relevance.item, "link", "items", setting="relevance.item"), *grade]


def _many(columns: list[str], kind: RoleKind, table: str) -> list[Role]:
    return [Role(column, kind, setting=f"{table}.{kind}") for column in columns]


def _item_roles(config: DataConfig) -> list[Role]:
    items = config.items
    found = [Role(items.id, "key", "items", setting="items.id"), *_many(items.text, "text", "items")]
    found += [*_many(items.category, "category", "items"), *_many(items.number, "number", "items")]
    found += [Role(items.image, "image", setting="items.image")] if items.image else []
    found += [Role(name, "vector", setting="items.vectors") for name in items.vectors]
    found += [Role(config.split.items, "split", setting="split.items")] if config.split.items else []
    limits = _filters("items", region=items.region, stock=items.stock, age_limit=items.age_limit)
    return found + limits + _matched(config)


def _filters(table: str, *, region: str | None, **numbers: str | None) -> list[Role]:
    """Columns that say who may be listed what."""
    found = [Role(region, "category", setting=f"{table}.region")] if region else []
    return found + [Role(name, "number", setting=f"{table}.{key}") for key, name in numbers.items() if name]


def _matched(config: DataConfig) -> list[Role]:
    match = config.relevance.match
    return [Role(match, "category", setting="relevance.match")] if match else []


def _interaction_roles(interactions: InteractionsConfig, split: SplitConfig) -> list[Role]:
    found = [
        Role(interactions.user, "link", "users", setting="interactions.user"),
        Role(interactions.item, "link", "items", setting="interactions.item"),
        Role(interactions.order, "order", setting="interactions.order"),
    ]
    if interactions.event:
        found.append(Role(interactions.event, "event", setting="interactions.event"))
    if split.by == "column":
        found.append(Role(split.column, "split", setting="split.column"))
    return found + [Role(name, "category", setting="interactions.context") for name in interactions.context]


def _query_roles(config: DataConfig) -> list[Role]:
    queries, split = config.queries, config.split
    worded = queries.image is None or queries.text != QueriesConfig().text  # a column that is named must be there
    found = [
        Role(queries.id, "key", "queries", setting="queries.id"),
        Role(queries.text, "text", required=worded, setting="queries.text"),
    ]
    if queries.image:
        found.append(Role(queries.image, "image", setting="queries.image"))
    if queries.user:
        found.append(Role(queries.user, "link", "users", required=False, setting="queries.user"))
    if queries.order:
        found.append(Role(queries.order, "order", required=False, setting="queries.order"))
    return [*found, *_matched(config), Role(split.column, "split", required=False, setting="split.column")]


def _review_roles(reviews: ReviewsConfig) -> list[Role]:
    found = [
        Role(reviews.item, "link", "items", setting="reviews.item"),
        Role(reviews.order, "order", setting="reviews.order"),
        Role(reviews.text, "text", setting="reviews.text"),
    ]
    return found + ([Role(reviews.rating, "number", setting="reviews.rating")] if reviews.rating else [])


def _ad_roles(ads: AdsConfig) -> list[Role]:
    found = [
        Role(ads.item, "link", "items", setting="ads.item"),
        Role(ads.order, "order", setting="ads.order"),
        Role(ads.text, "text", setting="ads.text"),
    ]
    counts = {"ads.impressions": ads.impressions, "ads.clicks": ads.clicks}
    return found + [Role(name, "number", setting=setting) for setting, name in counts.items() if name]


def missing_columns(config: DataConfig, table: str, frame: pl.LazyFrame) -> list[tuple[Role, str]]:
    """Each column that the config names and the table does not have, with a message."""
    there = frame.collect_schema().names()

    def message(role: Role) -> str:
        known = f"the table has {', '.join(there)}.{nearest(role.column, there)}"
        return f"there is no such column (data.{role.setting}); {known}"

    lacking = [role for role in roles(config, table) if role.column not in there]
    return [(role, message(role)) for role in lacking if role.required or role.kind not in ("split", "text")]


def image_column(config: DataConfig, table: str) -> str | None:
    """The column of a table that holds pictures; None where there is none."""
    return {"items": config.items.image, "queries": config.queries.image}.get(table)
