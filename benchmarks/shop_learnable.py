"""How near to the demo shop's oracle one can come who has to learn a user's tastes from his purchases.

    python benchmarks/shop_learnable.py

The oracle is told what a user loves. Here every other cause is told outright too (popularity, profile, moment, reviews
and ads, what follows what), but of the loved category, brand, colour and pattern only how often each stood among the
user's purchases: the log of its share, with each of three priors. One weight for each is fitted (listwise softmax) on
the third and fifth purchases from the end, and nDCG@10 taken of the valid ones (size 1000, seed 0). No model can be
expected to do better from purchases alone; views and clicks, which tell of tastes as well, are left out.
"""

import numpy as np
import torch
from torch import Tensor

from recsys.data.sources.shop.causes import TERMS, Causes, profile_state
from recsys.data.sources.shop.english import ENGLISH
from recsys.data.sources.shop.oracle import Questions, oracle_ranks, questions
from recsys.data.sources.shop.world import People, Stock
from recsys.data.sources.shop.write import draw_shop
from recsys.losses.ranking import listwise_softmax

TASTES, PRIORS = ("category", "brand", "colour", "pattern"), (0.3, 1.0, 3.0)


def features(stock: Stock, people: People, asked: Questions) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """[R, N, F] of each cause, and [R, N] bool: which items are in the list."""
    rows, causes = len(asked.user), Causes.of(stock, tuple(TERMS))
    listed = np.tile(~np.asarray(stock.new), (rows, 1))
    for row, items in enumerate(asked.before):
        listed[row, items] = False
    told = {
        "popularity": np.tile(stock.popularity.clip(1e-9), (rows, 1)), "moment": causes.moment[asked.moment],
        "profile": causes.profile[profile_state(people)[asked.user]], "news": causes.news[asked.week],
        "sequence": causes.follow[asked.last],
    }  # fmt: skip
    found = {name: np.log(factor)[..., None] for name, factor in told.items()}
    for name in TASTES:
        label = getattr(stock, name)
        counts = np.stack([np.bincount(label[items], minlength=label.max() + 1) for items in asked.before])
        shares = [(counts + prior) / (counts + prior).sum(1, keepdims=True) for prior in PRIORS]
        found[name] = np.log(np.stack(shares, axis=-1))[:, label]
    return found, listed


def ndcg(ranks: Tensor) -> float:
    """Mean over purchases of one right item each; `ranks` from 0."""
    return float(torch.where(ranks < 10, 1 / (ranks + 2.0).log2(), 0.0).mean())


def learnt(train: list[tuple], valid: tuple, without: tuple[str, ...]) -> float:
    """nDCG@10 with weights that are fitted without some causes."""

    def table(found: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([found[name] for name in found if name not in without], axis=-1)).float()

    right = torch.cat([torch.from_numpy(asked.item) for asked, _, _ in train])
    values = torch.cat([table(found) for _, found, _ in train])
    real = torch.cat([torch.from_numpy(listed) for *_, listed in train])
    label = torch.zeros(real.shape).scatter_(1, right[:, None], 1.0)
    weights = torch.zeros(values.shape[-1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = listwise_softmax((values @ weights).masked_fill(~real, float("-inf")), label, real)
        found = found + 1e-3 * weights.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    asked, found, listed = valid
    scores = (table(found) @ weights.detach()).masked_fill(~torch.from_numpy(listed), float("-inf"))
    own = scores.gather(1, torch.from_numpy(asked.item)[:, None])
    return ndcg((scores > own).sum(1))


def main() -> None:
    """Print the table."""
    stock, people, visits, _ = draw_shop(1000, 0, ENGLISH)

    def posed(back: int) -> tuple:
        asked = questions(visits, stock, back=back)
        return asked, *features(stock, people, asked)

    train, valid = [posed(3), posed(5)], posed(2)
    print("oracle".ljust(56) + f"{ndcg(torch.from_numpy(oracle_ranks(stock, people, valid[0]))):.3f}")
    for without in ((), ("popularity",), ("colour", "pattern"), ("brand",), TASTES):
        name = f"learnt without {', '.join(without)}" if without else "learnt"
        print(f"{name:<56}{learnt(train, valid, without):.3f}", flush=True)


if __name__ == "__main__":
    main()
