"""Whether explanations name the cause that the demo shop has planted, where there is only one.

    python benchmarks/planted_causes.py RUN [SEED] [MOST]

RUN is an inference run on the English shop that `write_shop` made with SEED (0), whose models read every source
(configs/infer/shop_sources.yaml). Of each user's list, as of his valid purchase, those items are taken that have one
cause alone: without one source the oracle's probability of the item (`recsys/data/sources/shop/oracle.py`) falls by a
factor of e more, at least, than without any other. At most MOST (2000) of them.

Each source is taken away by what tells the models of it: text by words and the column of the brand, image by the
picture, profile by age and region, context by the moment, reviews and ads by these, sequence by the last purchase.
Named is the source that is worth most to the item (`recsys/recommend/shares.py`, as explanations have it), beside
what it is worth to the list's candidates on average: what lifts them all is no cause of one. A loved category is told
by words, picture, column and history alike; no source could be named for it.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from recsys.config import parse_run
from recsys.data.features import HIDEABLE
from recsys.data.requests import serving_requests
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.oracle import SOURCES, Questions, oracle_scores, questions
from recsys.data.sources.shop.world import People, Stock
from recsys.data.sources.shop.write import draw_shop
from recsys.metrics.bootstrap import paired_bootstrap
from recsys.recommend.cascade import Cascade
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Unit
from recsys.recommend.settings import InferRun
from recsys.recommend.shares import shared_worths
from recsys.recommend.words import Words

REFERENCES = 20  # candidates of each list, at even distances, that an item's loss is measured beside
TOGETHER = 64  # requests at one time
MARGIN = 1.0  # nats that the planted source costs the oracle more than any other

assert set(SOURCES) - {"sequence"} <= set(HIDEABLE)


def oracle_losses(stock: Stock, people: People, asked: Questions) -> np.ndarray:
    """[R, N, 7] what hiding each source costs the logarithm of the oracle's probability of an item."""

    def chances(*hidden: str) -> np.ndarray:
        scores = np.concatenate([block for _, block in oracle_scores(stock, people, asked, hidden)]).clip(min=0)
        with np.errstate(divide="ignore"):
            return np.log(scores / scores.sum(1, keepdims=True))

    whole = chances()
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.stack([whole - chances(name) for name in SOURCES], axis=-1))


def deletions(cascade: Cascade, without: Counterfactuals, request: int) -> list[frozenset[Unit]]:
    """What tells the models of each of `SOURCES`."""
    roles = cascade.config
    past = without.pasts[request]
    target = (roles.interactions.target_events or ["purchase"])[0]
    bought = past.item[past.event == cascade.data.codes.event.index(target) + 1]
    columns = roles.users.category
    return [
        frozenset({Unit.source("text"), Unit("field", roles.items.category.index("brand"))}),
        frozenset({Unit.source("image")}),
        frozenset({Unit("profile", columns.index("age")), Unit("profile", columns.index("region"))}),
        frozenset({Unit.source("context")}),
        frozenset({Unit.source("reviews")}),
        frozenset({Unit.source("ads")}),
        frozenset({Unit("history", int(bought[-1]))}) if len(bought) else frozenset(),
    ]


def worths(cascade: Cascade, without: Counterfactuals, pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """[n, 7] what each source is worth to each item, and to the references of its list on average."""
    gone = {request: deletions(cascade, without, request) for request, _ in pairs}
    picks = np.linspace(0, without.found.items.shape[1] - 1, REFERENCES).round().astype(int)
    others = [(request, int(without.found.items[request, at])) for request in gone for at in picks]
    found = np.stack(shared_worths(without, [*pairs, *others], [gone[request] for request, _ in [*pairs, *others]]))
    mean = dict(zip(gone, found[len(pairs) :].reshape(len(gone), REFERENCES, -1).mean(1), strict=True))
    return found[: len(pairs)], np.stack([mean[request] for request, _ in pairs])


def main(run: Path, seed: int, most: int) -> None:
    """Print the shares."""
    torch.set_num_threads(1)
    one = parse_run(InferRun, [str(run / "infer.yaml")])
    cascade = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision)
    stock, people, visits, _ = draw_shop(len(cascade.item_ids), seed, ENGLISH)
    if not np.array_equal(stock.price, cascade.data.tables.items["price"].to_numpy()):
        sys.exit(f"{one.data.root} is not the English shop of seed {seed}.")
    asked = questions(visits, stock)
    requests = serving_requests(cascade.data, "valid", asked.user)
    losses = oracle_losses(stock, people, asked)
    ranked = np.sort(losses, axis=-1)
    single = ranked[..., -1] - ranked[..., -2] >= MARGIN
    planted, own, mean, rows = [], [], [], np.arange(0)
    for start in range(0, len(requests), TOGETHER):
        rows = np.arange(start, min(start + TOGETHER, len(requests)))
        some = requests.take(rows)
        listed = [(row, int(item)) for row, items in enumerate(cascade.recommend(some).items) for item in items]
        pairs = [(row, item) for row, item in listed if item >= 0 and single[start + row, item]]
        if pairs:
            found = worths(cascade, Counterfactuals(cascade, some, Words()), pairs)
            own.append(found[0])
            mean.append(found[1])
            planted += [int(losses[start + row, item].argmax()) for row, item in pairs]
        if len(planted) >= most:
            break
    tell(np.array(planted), np.concatenate(own), np.concatenate(mean), int(rows[-1]) + 1)


def tell(planted: np.ndarray, own: np.ndarray, mean: np.ndarray, users: int) -> None:
    """Shares, with intervals over recommendations."""
    print(f"{len(planted):,} recommendations with one cause, of {users:,} users' lists; chance {1 / len(SOURCES):.3f}")
    for name, values in (("beside the list", own - mean), ("by itself", own)):
        named = values.argmax(1)
        right = (named == planted).astype(float)
        share = paired_bootstrap(right)
        print(f"\nthe planted source is named, {name}: {share.mean:.3f}  ({share.low:.3f} to {share.high:.3f})")
        print(f"{'planted':<10}{'items':>7}{'right':>7}   named" + "".join(f"{source:>10}" for source in SOURCES))
        for number, source in enumerate(SOURCES):
            rows = planted == number
            said = np.bincount(named[rows], minlength=len(SOURCES))
            hit = right[rows].mean() if rows.any() else 0.0
            print(f"{source:<10}{rows.sum():>7}{hit:>7.2f}        " + "".join(f"{count:>10}" for count in said))


if __name__ == "__main__":
    given = [*sys.argv[1:], *("0", "2000")[len(sys.argv) - 2 :]]
    main(Path(given[0]), int(given[1]), int(given[2]))
