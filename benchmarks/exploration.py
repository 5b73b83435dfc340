"""A week of rounds in the demo shop, with and without exploration.

    python benchmarks/exploration.py [ITEMS] [SEED ...]

Each round every user is shown ten items and answers. Both policies rank by the same stand-in for a model, counted from
the year's purchases: popularity, and how an item's category, brand, style and region go with what the user has bought
and is. Both learn from their own clicks how much better than expected each item does; one gives a share of the places
to tail and unseen items by Thompson sampling. Reported: clicks, the share of them that tail and unseen items get, and
the click rate of an even choice among the explorable, estimated from the log, beside the truth.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch

from recsys.data.sources.shop.answers import Audience, answer
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.tables import POSITION_BIAS
from recsys.data.sources.shop.visits import Visits
from recsys.data.sources.shop.write import draw_shop
from recsys.metrics.clicks import Rate, click_rate, examination_error, fit_examination
from recsys.metrics.long_tail import popularity_segments
from recsys.recommend.loop import Beliefs, ExploreConfig, Explored, explore

ROUNDS, PLACES, CANDIDATES = 7, 10, 5
EXPLORE = ExploreConfig(budget=0.2, first=5, even=0.1)  # chosen on seeds 100 and 101
HALF = 5.0  # lift at which half of those who look click: the scale on which the stand-in foretells
TRUST = 0.1  # expected clicks after which an item's own clicks weigh as much as the stand-in


@dataclass(frozen=True)
class Shop:
    """What the shop's owner knows, and the users."""

    audience: Audience
    affinity: np.ndarray  # [U, N] how well an item suits, 1 on average
    popularity: np.ndarray  # [N] purchases over the mean
    rare: np.ndarray  # [N] bool, tail or unseen
    examination: np.ndarray  # [L] fitted on the shop's own impressions
    error: np.ndarray  # [L]

    @classmethod
    def open(cls, size: int, seed: int) -> "Shop":
        """Of so many items; the log of the year comes from a policy that draws by popularity."""
        stock, people, visits, _ = draw_shop(size, seed, ENGLISH)
        audience = Audience.of(stock, people, visits)
        owned, everybody = audience.owned, np.arange(len(people))
        affinity = matched(owned, stock.category, everybody) * matched(owned, stock.brand, everybody)
        affinity *= matched(owned, stock.style, people.generation) * matched(owned, stock.region, people.region)
        counts = owned.sum(0)
        return cls(
            audience=audience, affinity=affinity / affinity.mean(), popularity=(counts + 1) / (counts.mean() + 1),
            rare=popularity_segments(torch.from_numpy(counts)).numpy() > 1, **examined(visits, seed),
        )  # fmt: skip


def matched(owned: np.ndarray, label: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """[U, N] share of the item's label among what users of this kind [U] own, over its share among all."""
    groups = np.eye(label.max() + 1)[label]  # [N, G]
    overall = owned.sum(0) @ groups / owned.sum()
    bought = np.zeros((kind.max() + 1, groups.shape[1]))
    np.add.at(bought, kind, owned @ groups)
    shares = (bought + 5 * overall) / (bought.sum(1, keepdims=True) + 5)
    return (shares / overall)[kind][:, label]


def examined(visits: Visits, seed: int) -> dict[str, np.ndarray]:
    """The examination of each place and its error, from the lists that the shop showed in the year."""
    rows = np.flatnonzero(visits.listed[:, 0] >= 0)
    items, lift = visits.listed[rows].ravel(), visits.lift[rows].ravel()
    ranks, lists = np.tile(np.arange(PLACES), len(rows)), np.repeat(np.arange(len(rows)), PLACES)
    luck = np.random.default_rng(seed).random(len(items))
    clicked = luck < (ranks + 1.0) ** -POSITION_BIAS * lift / (lift + HALF)
    error = examination_error(items, ranks, clicked, lists, PLACES)
    return {"examination": fit_examination(items, ranks, clicked, PLACES), "error": error}


@dataclass(frozen=True)
class Week:
    """What a week of rounds came to."""

    clicks: int
    rare: int
    estimate: Rate | None
    truth: float


def live(shop: Shop, config: ExploreConfig, seed: int) -> Week:
    """Seven rounds of one policy."""
    rng, owned = np.random.default_rng(seed), shop.audience.owned
    beliefs = Beliefs.before(config, len(shop.popularity))
    clicks = rare = 0
    found, hoped = np.zeros(len(shop.popularity)), np.zeros(len(shop.popularity))
    log: list[tuple[np.ndarray, ...]] = []
    truths = []
    suits = shop.affinity / (shop.affinity + HALF)  # chance of a click on an item of the usual appeal
    for _ in range(ROUNDS):
        foretold = shop.affinity * shop.popularity * (TRUST + found) / (TRUST + hoped)
        lists = np.argsort(np.where(owned, 0, -foretold), axis=1, kind="stable")[:, :PLACES]
        left = np.where(shop.rare & ~owned, suits, 0)
        np.put_along_axis(left, lists, 0, 1)
        some = np.argsort(-left, axis=1, kind="stable")[:, :CANDIDATES]
        shown = explore(lists, some, np.take_along_axis(left, some, 1), beliefs, config, rng)
        attractions = shop.audience.attractions(rng)
        clicked = answer(rng, attractions, shown.items)
        clicks, rare = clicks + int(clicked.sum()), rare + int(clicked[shop.rare[shown.items]].sum())
        users, places = np.nonzero(shown.drawn)
        choices = shown.choices[users, places]
        log.append((clicked[users, places], places, shown.propensity[users, places], choices))
        truths.append(even_choice(attractions, some, shown)[users, places])
        items, size = shown.items.ravel(), len(found)
        lift = np.take_along_axis(shop.affinity * shop.popularity, shown.items, 1)
        found = found + np.bincount(items, clicked.ravel(), size)
        hoped = hoped + np.bincount(items, (shop.examination * lift / (lift + HALF)).ravel(), size)
        looks = shop.examination * np.take_along_axis(suits, shown.items, 1)
        beliefs = beliefs.learnt(items, looks.ravel(), clicked.ravel())
    drawn, places, propensity, choices = (np.concatenate(one) for one in zip(*log, strict=True))
    if not len(places):
        return Week(clicks=clicks, rare=rare, estimate=None, truth=np.nan)
    look, error = shop.examination[places], shop.error[places]
    estimate = click_rate(drawn, look, 1 / choices, propensity, clip=100, error=error)
    return Week(clicks=clicks, rare=rare, estimate=estimate, truth=float(np.concatenate(truths).mean()))


def even_choice(attractions: np.ndarray, candidates: np.ndarray, shown: Explored) -> np.ndarray:
    """[U, L] chance of a click, once looked at, on an even choice of what was left when a place was given away."""
    whole = np.take_along_axis(attractions, candidates, 1).sum(1)[:, None]
    own = np.where(shown.drawn, np.take_along_axis(attractions, shown.items, 1), 0)
    earlier = shown.choices[:, None, :] > shown.choices[:, :, None]  # [U, L, L]
    return (whole - (earlier * own[:, None, :]).sum(2)) / np.maximum(shown.choices, 1)


def main(size: int, seeds: list[int]) -> None:
    """Print a line for each seed."""
    print(f"{'seed':>4}{'clicks':>9}{'with':>9}{'ratio':>8}{'rare':>8}{'with':>8}{'ratio':>8}   estimate, 95 %, truth")
    inside, ratios = 0, []
    for seed in seeds:
        shop = Shop.open(size, seed)
        plain, tried = live(shop, ExploreConfig(budget=0.0), seed), live(shop, EXPLORE, seed)
        assert tried.estimate is not None
        before, after = plain.rare / plain.clicks, tried.rare / tried.clicks
        ends, more = tried.estimate.interval, tried.clicks / plain.clicks
        ratios.append((more, after / before))
        inside += ends.low <= tried.truth <= ends.high
        print(
            f"{seed:>4}{plain.clicks:>9,}{tried.clicks:>9,}{more:>8.3f}"
            f"{before:>8.3f}{after:>8.3f}{after / before:>8.2f}"
            f"   {ends.mean:.4f} [{ends.low:.4f}, {ends.high:.4f}] {tried.truth:.4f}"
        )
    clicks, rare = np.mean(ratios, axis=0)
    print(f"mean: {clicks:.3f} x clicks, {rare:.2f} x share of rare; truth in {inside} of {len(seeds)} intervals")


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    main(given[0] if given else 1000, given[1:] or [0, 1, 2, 3, 4])
