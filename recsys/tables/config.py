"""The roles of a user's columns, as settings: one dataclass a table, and what to do about split, history and faults."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from recsys.errors import InputError, nearest

Policy = Literal["error", "drop", "keep"]

TABLES = {
    "items": ("items",),
    "users": ("users",),
    "interactions": ("interactions",),
    "queries": ("queries",),
    "relevance": ("relevance", "qrels"),
    "reviews": ("reviews",),
    "ads": ("ads",),
}
"""Every table and the names its file may have."""


POPULARITY = "times taken"
"""Name of the number that `items.popularity` adds."""
SHARE = "share of "
"""What the names of the numbers that `items.events` adds begin with; the event follows."""
SOURCES = ("text", "image", "profile", "context", "history", "reviews", "ads")
"""Names that sources are told apart by, where one is hidden or explained; `items.vectors` adds its columns' names."""


@dataclass(frozen=True, kw_only=True)
class ItemsConfig:
    """Roles of the items table's columns. Columns that are not named here are kept and not used."""

    id: str = "item_id"
    """Key column, integer or string."""
    text: list[str] = field(default_factory=list)
    """Text columns, joined with ". " in this order."""
    category: list[str] = field(default_factory=list)
    """Category columns: one value a cell, or a list column."""
    number: list[str] = field(default_factory=list)
    """Number columns; scaled by median and interquartile range of the table."""
    popularity: bool = False
    """Whether how often an item was taken is one more number: the log of 1 + its train interactions (targets, without
    those of the second selection). An item that nobody has met yet has the least, and goes by the rest."""
    events: bool = False
    """Whether it is known how an item fared: for each kind of event one more number, the log of its share among the
    item's train interactions over its share among all, ten interactions that are as usual counted in. 0 where nobody
    has met it."""
    neighbours: list[str] = field(default_factory=list)
    """What makes items alike, so that a candidate is judged by what its user said of alike ones (the joint transformer
    of a pruner reads it; `recsys/data/neighbours.py`): `users`, where the same users took them alike in the train
    interactions, and names of items.category and items.number. What an event is worth is its own number where all kinds
    are numbers, else 1 for a target and 0 for another."""
    image: str | None = None
    """Column with a path below the data root, or bytes."""
    vectors: list[str] = field(default_factory=list)
    """Columns of vectors that were made elsewhere, of a sound or a film, say: a list of numbers in each cell, all of
    one length in a column. Each column is a source of its own; an empty cell is a missing one."""
    separators: dict[str, str] = field(default_factory=dict)
    """Category columns whose cells hold several values, with the string between them, e.g. {genres: ", "}."""
    stock: str | None = None
    """Number column: pieces in stock, or whether there are any. What has none (0 or less, false, empty) is not
    listed."""
    region: str | None = None
    """Column with the region, or a list of the regions, where an item is sold; empty: everywhere. A user is listed what
    is sold in his (users.region)."""
    age_limit: str | None = None
    """Number column: years that a user (users.age) must have reached; empty: none."""

    def numbers(self, events: Sequence[str]) -> list[str]:
        """Names of all numbers that are known of an item; `events` are the kinds that there are."""
        taken, fared = [POPULARITY] * self.popularity, [SHARE + event for event in events] * self.events
        return [*self.number, *taken, *fared]

    def __post_init__(self) -> None:
        for name in self.number:
            if name == POPULARITY or name.startswith(SHARE):
                setting = "popularity" if name == POPULARITY else "events"
                raise InputError(f"data.items.number names {name!r}; that is what data.items.{setting} adds.")
        for name in self.neighbours:
            if name not in (known := ["users", *self.category, *self.number]):
                there = f"it is for users and columns of items.category and items.number.{nearest(name, known)}"
                raise InputError(f"data.items.neighbours names {name!r}; {there}")
        for name in self.vectors:
            if name in (*SOURCES, "nothing") or self.vectors.count(name) > 1:
                raise InputError(
                    f"data.items.vectors names {name!r}, and another source is called so; rename the column."
                )
        for name in self.separators:
            if name not in self.category:
                known = f"it is for columns of items.category.{nearest(name, self.category)}"
                raise InputError(f"data.items.separators names {name!r}; {known}")


@dataclass(frozen=True, kw_only=True)
class UsersConfig:
    """Roles of the users table's columns. The table is optional."""

    id: str = "user_id"
    category: list[str] = field(default_factory=list)
    number: list[str] = field(default_factory=list)
    bands: dict[str, int] = field(default_factory=dict)
    """Category columns of numbers, each with how many ranges of about as many users it is cut into, e.g. {age: 8}: what
    is learnt of one year of age is then not learnt of thirty people alone."""
    region: str | None = None
    """Column with the user's region, written as in items.region; who has none is listed what is sold anywhere."""
    age: str | None = None
    """Number column: years; one without an age is listed nothing that has a limit."""

    def __post_init__(self) -> None:
        for name, count in self.bands.items():
            if name not in self.category:
                known = f"it is for columns of users.category.{nearest(name, self.category)}"
                raise InputError(f"data.users.bands names {name!r}; {known}")
            if name in self.number:
                raise InputError(f"data.users.number and data.users.bands both name {name!r}; leave it out of one.")
            if count < 2:
                raise InputError(f"data.users.bands: {name!r} is cut into {count}; expected 2 ranges or more.")


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig:
    """Roles of the interactions table's columns."""

    user: str = "user_id"
    item: str = "item_id"
    order: str = "timestamp"
    """Column that orders a user's rows: a timestamp (number, date or datetime) or a position."""
    event: str | None = None
    """Column that names the event (view, click, purchase, ...)."""
    target_events: list[str] | None = None
    """Events that are positives; null: every row."""
    context: list[str] = field(default_factory=list)
    """Category columns that describe the moment: page, device, hour, ..."""
    cycles: dict[str, float] = field(default_factory=dict)
    """Context columns of numbers that go round, with their period, e.g. {hour: 24}: 23 and 0 are then neighbours."""
    judged: bool = False
    """Whether rows that are no target are wrong answers (a rating of 3 where 4 and 5 are targets): a pruner without
    candidates learns from both. A row sees what its user did strictly before, and nothing of a later split, which may
    stand anywhere."""

    def __post_init__(self) -> None:
        if self.judged and (self.event is None or self.target_events is None):
            raise InputError("interactions.judged tells targets from other rows; set event and target_events.")
        for name, period in self.cycles.items():
            if name not in self.context:
                known = f"it is for columns of interactions.context.{nearest(name, self.context)}"
                raise InputError(f"data.interactions.cycles names {name!r}; {known}")
            if period <= 0:
                raise InputError(
                    f"data.interactions.cycles: the period of {name!r} is {period}; expected 24, or 7, ..."
                )


@dataclass(frozen=True, kw_only=True)
class QueriesConfig:
    """Roles of the queries table's columns. The table is optional."""

    id: str = "query_id"
    text: str = "query"
    """Column with the words. Where pictures ask, a table may do without a column "query"."""
    image: str | None = None
    """Column with a path below the data root, or bytes: what a query shows, beside its words or in place of them. Read
    by the encoder of the items' pictures (model.image of a retriever)."""
    user: str | None = None
    """Column with the user who searched; with `order` the search can stand in the user's history."""
    order: str | None = None
    """Column on the same scale as interactions.order."""


@dataclass(frozen=True, kw_only=True)
class RelevanceConfig:
    """Roles of the relevance table's columns (the file may also be called qrels)."""

    query: str = "query_id"
    item: str = "item_id"
    grade: str | None = None
    """Column with the grade, 0 = irrelevant; null: every row is relevant with grade 1."""
    match: str | None = None
    """Column that queries and items share, for prompts of a class: where there is no relevance table, all items with a
    query's value are relevant to it."""


@dataclass(frozen=True, kw_only=True)
class ReviewsConfig:
    """Roles of the reviews table's columns. The pruner reads those that were written before the moment."""

    item: str = "item_id"
    text: str = "text"
    order: str = "timestamp"
    """Column on the same scale as interactions.order."""
    rating: str | None = None
    """Number column; scaled by median and interquartile range of the table."""


@dataclass(frozen=True, kw_only=True)
class AdsConfig:
    """Roles of the ads table's columns. The pruner reads those that had begun before the moment."""

    item: str = "item_id"
    text: str = "text"
    order: str = "timestamp"
    """Column on the same scale as interactions.order."""
    impressions: str | None = None
    """Column with the number of times that the ad was shown; with `clicks`, the click rate of an item's earlier ads."""
    clicks: str | None = None

    def __post_init__(self) -> None:
        if (self.impressions is None) != (self.clicks is None):
            raise InputError("data.ads: a click rate needs both impressions and clicks; name both columns, or neither.")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How rows are dealt to train, valid and test."""

    by: Literal["last", "time", "column"] = "last"
    """last: each user's last target row is test, the one before it valid. time: rows from `valid_from` on are valid,
    from `test_from` on test. column: the table says so itself."""
    column: str = "split"
    """Column with the words train, valid, test (by: column)."""
    valid_from: float | str | None = None
    """First order value, or ISO date, of the valid rows (by: time)."""
    test_from: float | str | None = None
    second: int = 0
    """Number of each user's last train targets that the retriever is not trained on: the pruner learns from them. Fewer
    where it would be half of his or more."""
    items: str | None = None
    """Column of the items table with the words train, valid, test, for queries about items that nobody has met: valid
    items are not learnt from, and are ranked among themselves; the queries may be the same."""
    valid_queries: float = 0.1
    """Share of queries dealt to valid by a hash of their id, where the queries table has no split column."""
    second_queries: float = 0.0
    """Share of the train queries, by a hash of their id, that the retriever is not trained on: only on lists that it
    does not know by heart can its evidence be weighed and the pruner be calibrated."""

    def __post_init__(self) -> None:
        for name in ("valid_queries", "second_queries"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"split.{name} is {getattr(self, name)}; expected a share from 0 to below 1.")
        if self.items is not None and self.second_queries:
            raise InputError("split.items deals items, not queries; leave split.second_queries at 0.")


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """What a model may look at."""

    until: str | float | None = None
    """Rows from here on are hidden: the name of a split (valid, test), an order value or an ISO date.
    null: every row is seen."""
    max_items: int = 200
    """Longest history, in entries; the latest are kept."""
    queries: bool = False
    """Whether a user's own searches stand in the history."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What to do about faults that the user may accept. What is dropped is counted and written to a file."""

    orphan: Policy = "error"
    """A row that names an unknown item or user."""
    image: Policy = "keep"
    """A missing or unreadable image; keep: the item or query stays, its image becomes missing."""
    vectors: Policy = "keep"
    """A vector of another length than most of its column, or with a NaN or an infinite number; keep: the item stays,
    the vector becomes missing."""
    text: Policy = "keep"
    """An item without any text; a query without words and without a picture that can be read."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set: a folder of tables and the roles of their columns."""

    root: str
    """Folder with NAME.parquet, NAME.csv or NAME/ (Parquet parts), or `hf:NAME` for a Hugging Face data set whose
    subsets or splits bear the tables' names."""
    tables: dict[str, str] = field(default_factory=dict)
    """Tables that lie elsewhere, e.g. {queries: other/queries.parquet}; `hf:NAME#SUBSET` is allowed too, and an empty
    string leaves a table out."""
    items: ItemsConfig
    users: UsersConfig = field(default_factory=UsersConfig)
    interactions: InteractionsConfig = field(default_factory=InteractionsConfig)
    queries: QueriesConfig = field(default_factory=QueriesConfig)
    relevance: RelevanceConfig = field(default_factory=RelevanceConfig)
    reviews: ReviewsConfig | None = None
    """null: reviews are not read."""
    ads: AdsConfig | None = None
    """null: ads are not read."""
    split: SplitConfig = field(default_factory=SplitConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    cache: str = "cache"
    """Folder for token, vector and layout caches, and records of what was checked; everything in it can be made
    again."""

    def __post_init__(self) -> None:
        needs = {
            "items.region": (self.items.region, "users.region", self.users.region),
            "items.age_limit": (self.items.age_limit, "users.age", self.users.age),
        }
        for name, (item, other, user) in needs.items():
            if (item is None) != (user is None):
                given, missing = (name, other) if user is None else (other, name)
                raise InputError(
                    f"data.{given} is set and data.{missing}, which it is compared with, is not; set both."
                )
        if self.items.events and self.interactions.event is None:
            raise InputError("data.items.events counts kinds of event; name their column: data.interactions.event.")
        if self.items.neighbours and self.interactions.event is None:
            raise InputError("data.items.neighbours compares events; name their column: data.interactions.event.")
        for name in self.tables:
            if name not in TABLES:
                raise InputError(
                    f"data.tables names {name!r}; the tables are {', '.join(TABLES)}.{nearest(name, TABLES)}"
                )
