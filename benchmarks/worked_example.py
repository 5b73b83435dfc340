"""One worked example: what somebody looked at and searched for decides between six candidates, in Chinese.

    python benchmarks/worked_example.py [FOLDER] [--name=NAME --KEY=VALUE ...]

Makes a Chinese shop of digital goods below FOLDER (runs/worked_example), trains a retriever and a pruner of every
source there (configs/*/shop_sources.yaml, with the searches in the histories), and asks the pruner about cases that
neither has met. In each case somebody new, with a profile, has looked at goods of three kinds on the days before, and
has just searched for three things. Six candidates stand before the pruner: one of each kind that was searched, and one
of each of three other kinds. One of the first three is advertised this month; reviews, pictures, ads and columns are
the shop's own. Kinds, items, profile and moment are drawn evenly: nothing but the case itself speaks for the first
three.

With --name, another pruner is trained beside the first, whose config differs by the keys that follow.

Printed: the example in its own words, what the pruner keeps over many cases, and what is lost where a source is hidden.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from measure import machine, versions

from recsys.cli import main as recsys
from recsys.config import parse_run
from recsys.data.features import HIDEABLE
from recsys.data.requests import Requests
from recsys.data.sources.shop import LANGUAGES, write_shop
from recsys.data.sources.shop.tables import say
from recsys.data.sources.shop.visits import DEVICE_SHARES, HOUR_SHARES, PAGE_SHARES
from recsys.data.sources.shop.world import CAMPAIGN, DAY, DAYS, DEVICES, HOUR, PAGES, START
from recsys.metrics.bootstrap import Interval, paired_bootstrap
from recsys.recommend.cascade import Cascade
from recsys.recommend.settings import InferRun

LANGUAGE = "zh_digital"
NOUNS = [group[0] for group in LANGUAGES[LANGUAGE].nouns]
EXAMPLE = ["充电宝", "蓝牙耳机", "Kindle", "蓝牙音箱", "手环", "智能手表"]
PROPOSED = ["--pruner=null", "--candidates=200", "--threads=1"]
SEARCHED = ["--data.history.queries=true"]
SIZE, SEARCHES = 320, 8  # of the shop: items, and searches an item; one purchase in six then follows a search
RETRIEVER = ["--tasks=[next_item,query_to_item]", "--loader.batch_size=256", "--optim.epochs=8", "--trainer.threads=1"]
PRUNER = ["--model.searches=true", "--optim.epochs=3", "--trainer.threads=1"]
CASES, SEED = 500, 2
DRAWS = 200  # of the example's items
ROWS = ("views", "searches")  # of a case's tables, which can be left out like a source
WANTED = 3  # of the candidates, which stand first in a case
VIEWS = 2  # items of each wanted kind that were looked at, each on a day of its own


@dataclass(frozen=True, kw_only=True)
class Case:
    """Somebody, what he did, and six candidates."""

    profile: dict[str, Any]
    """age, gender, region, interests, as in the users table."""
    viewed: Sequence[str]
    """Items, the latest last."""
    searches: Sequence[str]
    candidates: Sequence[str]
    """Items: one of each kind that was searched, then as many of other kinds."""
    time: int
    """Seconds since 1970, UTC: the moment."""
    page: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The tables that cases are drawn from."""

    items: pl.DataFrame
    users: pl.DataFrame
    reviews: pl.DataFrame
    ads: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Shop":
        """Items that nobody has met are left out: whether something is new is no part of a case."""
        tables = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("items", "users", "reviews", "ads")}
        tables["items"] = tables["items"].filter(pl.col("created_at") < START)
        return cls(**tables)

    def kind(self, number: int) -> list[str]:
        """Ids of the items of a kind."""
        return self.items.filter(category=NOUNS[number])["item_id"].to_list()

    def running(self, time: int) -> dict[str, str]:
        """Texts of the ads that run at this time, by item."""
        month = 7 * DAY * CAMPAIGN
        now = self.ads.filter(timestamp=START + (time - START) // month * month)
        return dict(now.select("item_id", "text").iter_rows())

    def review(self, item: str, time: int) -> str:
        """The newest review of an item at this time, which every item has."""
        return self.reviews.filter(pl.col("timestamp") < time, item_id=item).sort("timestamp")["text"][-1]


def draw_case(rng: np.random.Generator, shop: Shop, kinds: Sequence[int] = ()) -> Case:
    """One case; `kinds` of the six candidates are drawn, where they are not given."""
    kinds = kinds or rng.permutation(len(NOUNS))[: 2 * WANTED].tolist()
    hour = int(rng.choice(24, p=HOUR_SHARES))
    time = int(START + rng.integers(DAYS // 2, DAYS) * DAY + hour * HOUR + rng.integers(600, HOUR))
    shelves, running = [shop.kind(kind) for kind in kinds], set(shop.running(time))
    pushed = next((one for one in rng.permutation(WANTED) if running & set(shelves[one])), None)
    shelves_now = [[item for item in shelf if n != pushed or item in running] for n, shelf in enumerate(shelves)]
    candidates = [str(rng.choice(shelf)) for shelf in shelves_now]
    viewed = [
        item
        for shelf, own in zip(shelves[:WANTED], candidates[:WANTED], strict=True)
        for item in rng.permutation([item for item in shelf if item != own])[:VIEWS].tolist()
    ]
    somebody = shop.users.row(int(rng.integers(len(shop.users))), named=True)
    interests = [NOUNS[kind] for kind in np.sort(rng.permutation(len(NOUNS))[:2])]
    return Case(
        profile={**somebody, "interests": interests},
        viewed=rng.permutation(viewed).tolist(),
        searches=[say(rng, LANGUAGES[LANGUAGE].nouns[kind]) for kind in rng.permutation(kinds[:WANTED])],
        candidates=candidates,
        time=time,
        page=str(rng.choice(PAGES, p=PAGE_SHARES)),
        device=str(rng.choice(DEVICES, p=DEVICE_SHARES)),
    )


def write_cases(shop: Path, folder: Path, cases: Sequence[Case], without: Collection[str] = ()) -> dict[str, str]:
    """Tables of the shop with the cases' users, views and searches behind its own; returns the path of each by name.

    A user's last row is a view at the moment itself: it tells page, device and hour, and is not seen. `without` may
    hold some of `ROWS`: these are then left out.
    """
    rng, users = np.random.default_rng(0), []
    views: list[dict[str, Any]] = []
    searches: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        user = f"case{number:05d}"
        users.append({**case.profile, "user_id": user})
        ahead = (len(case.viewed) - np.arange(len(case.viewed))) * DAY
        seen = [] if "views" in without else [(i, case.time - int(a)) for i, a in zip(case.viewed, ahead, strict=True)]
        for item, time in [*seen, (case.candidates[0], case.time)]:
            where = {"page": case.page, "device": case.device, "hour": time // HOUR % 24}
            views.append({"user_id": user, "item_id": item, "timestamp": time, "event": "view", **where})
        before = np.sort(rng.integers(500, 601, len(case.searches)))[::-1]  # as the shop's searches
        for at, (query, seconds) in enumerate(zip(case.searches, before, strict=True)):
            names = {"query_id": f"{user}-{at}", "query": query.lower(), "user_id": user}
            searches.append({**names, "timestamp": case.time - int(seconds)})
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"users": users, "interactions": views, "queries": [] if "searches" in without else searches}
    for name, more in rows.items():
        table = pl.read_parquet(shop / f"{name}.parquet")
        added = pl.DataFrame(more, schema=table.schema) if more else table.clear()
        pl.concat([table, added]).write_parquet(folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in rows}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the pruner says of the candidates of C cases."""

    logits: np.ndarray  # [C, 6]
    chances: np.ndarray  # [C, 6] calibrated probabilities


def judge(config: InferRun, shop: Path, place: Path, cases: Sequence[Case], hidden: str = "") -> Judged:
    """The candidates are judged among all items of the shop, without one source: one of `HIDEABLE` or `ROWS`.

    Args:
        config: as the shop's models are asked.
        shop: its tables.
        place: an empty folder, for the cases' tables.
        cases: C of them.
        hidden: the source; "" for none.
    """
    tables = write_cases(shop, place, cases, [hidden])
    # No search of a case is kept for validation, and every item is a candidate.
    split = replace(config.data.split, valid_queries=0.0)
    data = replace(config.data, tables=tables, split=split, cache=str(place / "cache"))
    gone = [name for name in HIDEABLE if name == hidden]
    cascade = Cascade.open(config.retriever, config.pruner, data, 1 << 30, config.decision, hidden=gone)
    rows, asked = case_requests(cascade, cases)
    every = np.tile(np.arange(len(cascade.data.catalogue)), (len(cases), 1))
    logits = cascade.rate(asked, every)
    assert logits is not None
    assert cascade.pruner is not None
    own = np.take_along_axis(logits, rows, 1)
    return Judged(logits=own, chances=cascade.pruner.model.probability(own, np.zeros_like(own, dtype=np.bool_)))


def case_requests(cascade: Cascade, cases: Sequence[Case]) -> tuple[np.ndarray, Requests]:
    """[C, 6] rows of the candidates in the items table, and one request for each case."""
    data, histories = cascade.data, cascade.data.histories
    assert histories is not None
    row = {item: at for at, item in enumerate(cascade.item_ids)}
    rows = np.array([[row[item] for item in case.candidates] for case in cases])
    users = np.arange(len(histories) - len(cases), len(histories))  # behind the shop's own
    assert data.tables.users[cascade.config.users.id][int(users[0])] == "case00000"
    last = histories.offsets[users + 1] - 1
    ones = [np.ones(WANTED)] * len(cases)
    return rows, Requests(
        users=users, queries=np.full(len(cases), -1), ends=last, moments=last, target_rows=list(rows[:, :WANTED]),
        grades=ones,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How the wanted stand among the candidates, in each of C cases."""

    share: np.ndarray  # [C] of the three best that are wanted; chance 1/2
    whole: np.ndarray  # [C] 1: the three best are the three wanted; chance 1/20
    auc: np.ndarray  # [C] of pairs of a wanted and another one, how many stand in this order; chance 1/2

    @classmethod
    def of(cls, scores: np.ndarray) -> "Kept":
        """`scores` [C, 6], the wanted first; of equal ones a wanted one stands last."""
        order = np.argsort(-scores[:, ::-1], axis=1, kind="stable")[:, :WANTED]
        share = (order >= WANTED).mean(1)
        wanted, others = scores[:, :WANTED, None], scores[:, None, WANTED:]
        auc = ((wanted > others) + 0.5 * (wanted == others)).mean((1, 2))
        return cls(share=share, whole=(share == 1).astype(float), auc=auc)


def the_example(rng: np.random.Generator, shop: Shop) -> Case:
    """The one with these words: a young woman who likes new technology. Its items are drawn, as in every case."""
    case = draw_case(rng, shop, [NOUNS.index(kind) for kind in EXAMPLE])
    who = {"age": 24, "gender": "女", "region": "首都", "interests": ["手机", "智能手表"]}
    return replace(case, profile={**case.profile, **who}, searches=EXAMPLE[:WANTED], page="search", device="phone")


def make(folder: Path, *, size: int, searches: int, retriever: Sequence[str], pruner: Sequence[str]) -> None:
    """A shop and its models below `folder`, unless they are there; `retriever` and `pruner` are overrides
    of the configs shop_sources.yaml.
    """
    if not (folder / "data").is_dir():
        write_shop(folder / "data", size=size, language=LANGUAGE, searches=searches)
    both = places(folder)
    first = f"--retriever={folder}/shop_sources"
    learnt = [f"--model.{name}.model={folder}/shop_sources/model/{name}" for name in ("text", "image")]
    learnt += [f"--candidates={folder}/shop_sources_lists/candidates"]
    for command in (
        ["train", "configs/retriever/shop_sources.yaml", *both, "--resume=auto", *retriever],
        ["infer", "candidates", "configs/infer/shop_sources.yaml", *both, first, *PROPOSED],
        ["train", "configs/pruner/shop_sources.yaml", *both, "--resume=auto", *learnt, *pruner],
    ):  # fmt: skip
        if recsys(command):
            sys.exit(f"recsys {' '.join(command)} has failed; see above.")


def places(folder: Path) -> list[str]:
    """Overrides: everything lies below the folder, and searches stand in the histories."""
    return [f"--runs={folder}", f"--data.root={folder}/data", f"--data.cache={folder}/cache", *SEARCHED]


def opened(folder: Path, pruner: str = "shop_sources_pruner") -> InferRun:
    """How the shop's models are asked; `pruner` is the name of its run."""
    models = [f"--retriever={folder}/shop_sources", f"--pruner={folder}/{pruner}"]
    return parse_run(InferRun, ["configs/infer/shop_sources.yaml", *places(folder), *models])


def tell_example(case: Case, shop: Shop, logits: np.ndarray, chances: np.ndarray) -> None:
    """What is given; of each candidate whether it is kept, its probability, title, newest review and running ad."""
    rows = {row["item_id"]: row for row in shop.items.to_dicts()}
    who = case.profile
    print(f"profile   {who['age']}, {who['gender']}, {who['region']}; interests {'、'.join(who['interests'])}")
    print(f"looked at {'、'.join(rows[item]['title'] for item in case.viewed)}")
    print(f"searched  {'、'.join(case.searches)}")
    kept, running = np.argsort(-logits, kind="stable")[:WANTED], shop.running(case.time)
    for at, item in enumerate(case.candidates):
        told = [rows[item]["title"], shop.review(item, case.time), *([running[item]] if item in running else [])]
        print(f"{'keep' if at in kept else 'drop'}  {chances[at]:.4f}  {rows[item]['category']}: {' | '.join(told)}")


def tell_kept(name: str, kept: Kept) -> None:
    """One row of the table over many cases."""
    columns = [paired_bootstrap(values) for values in (kept.share, kept.whole, kept.auc)]
    print(f"| {name} | " + " | ".join(_with_ends(one) for one in columns) + " |")


def _with_ends(one: Interval) -> str:
    return f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})"


def main(folder: Path, name: str, *overrides: str) -> None:
    """Make, ask, print."""
    pruner = [*PRUNER, f"--name={name}", *overrides]
    make(folder, size=SIZE, searches=SEARCHES, retriever=RETRIEVER, pruner=pruner)
    torch.set_num_threads(1)
    shop, config, rng = Shop.read(folder / "data"), opened(folder, name), np.random.default_rng(SEED)
    cases = [draw_case(rng, shop) for _ in range(CASES)]
    examples = [the_example(rng, shop) for _ in range(DRAWS)]

    def asked(hidden: str = "") -> Judged:
        with TemporaryDirectory() as place:
            return judge(config, folder / "data", Path(place), [*cases, *examples], hidden)

    whole = asked()
    print("\nThe example")
    tell_example(examples[0], shop, whole.logits[CASES], whole.chances[CASES])
    print(f"\n| seed {SEED} | wanted among the best three | all three | AUC |")
    taken = pl.read_parquet(folder / "data/interactions.parquet").filter(event="purchase").group_by("item_id").len()
    counts = dict(taken.iter_rows())
    popular = np.array([[counts.get(item, 0) for item in case.candidates] for case in cases], dtype=np.float64)
    base = Kept.of(whole.logits[:CASES])
    tell_kept(f"{CASES} cases, by how often they were bought", Kept.of(popular))
    tell_kept(f"{CASES} cases, by the pruner", base)
    tell_kept(f"the example, {DRAWS} draws of its items, by the pruner", Kept.of(whole.logits[CASES:]))
    print("\n| hidden | wanted among the best three | lost | AUC | lost |")
    for name in (*HIDEABLE, *ROWS):
        without = Kept.of(asked(name).logits[:CASES])
        lost = [_with_ends(paired_bootstrap(a - b)) for a, b in ((base.share, without.share), (base.auc, without.auc))]
        print(f"| {name} | {without.share.mean():.3f} | {lost[0]} | {without.auc.mean():.3f} | {lost[1]} |", flush=True)
    print(f"\n{machine()}\n{versions()}")


if __name__ == "__main__":
    given = sys.argv[1:] or ["runs/worked_example"]
    named = [one.removeprefix("--name=") for one in given[1:2]] or ["shop_sources_pruner"]
    main(Path(given[0]), named[0], *given[2:])
