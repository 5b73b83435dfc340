"""The price of diversity: each way of re-ranking at a range of settings, on candidates that are made once.

On the split that `data.history.until` names: a setting is chosen where answers are known (valid), and what it is worth
elsewhere has to be measured there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.data.requests import seen_items, user_requests
from recsys.data.split import STAGES
from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval, centred_interval, mean_interval, ratio_interval, resample_weights
from recsys.metrics.diversity import calibration_divergence, group_share, intra_list_distance, self_information
from recsys.metrics.long_tail import SEGMENTS, coverage, gini, popularity_segments
from recsys.metrics.ranking import ndcg
from recsys.recommend.cascade import Cascade
from recsys.recommend.diversity import CalibrationConfig, DppConfig, MmrConfig, XquadConfig
from recsys.recommend.evaluate import SHOWN, list_ranks, padded
from recsys.recommend.exposure import ExposureConfig, solve
from recsys.recommend.rerank import RerankConfig, Reranker, category_mixes, dealt, own_mixes
from recsys.recommend.settings import InferRun
from recsys.results import TRADEOFF
from recsys.shards import write_atomic

STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Lambdas that are tried."""
FACTORS = (1.25, 1.5, 1.75, 2.0, 2.5)
"""By which exposure targets raise the shares of torso, tail and unseen items."""
TAILS = (0.1, 0.15, 0.2, 0.25, 0.275, 0.3, 0.325, 0.35, 0.4)
"""Shares of the tail that are tried beside the torso's own, as a whole and in bands."""
BANDS = 5
MOST = 20_000
"""Users that are asked, if not otherwise said."""
_RESAMPLES = 200  # for what is no mean over requests
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Candidates of R requests whose answers are known, in the models' order."""

    items: np.ndarray  # [R, K] int64, -1 padded
    chance: np.ndarray  # [R, K] float64
    pasts: list[np.ndarray]
    targets: np.ndarray  # [R, P] int64
    grades: np.ndarray  # [R, P] float32


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A point of a curve."""

    way: str
    strength: float
    """Lambda; of exposures by how much they are raised, or the share of the tail; 0: no change."""
    config: RerankConfig


@dataclass(frozen=True, kw_only=True)
class Point:
    """What the lists of a setting are worth."""

    way: str
    strength: float
    measures: dict[str, Interval]
    """loss (of nDCG@10, relative: 0.05 is 5 % lost), ndcg@10, non_head@10, tail@10, coverage@10, gini@10, novelty@10,
    distance@10 and, where items have a category, divergence@10."""


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """All points on one set of requests."""

    group: str
    requests: int
    candidates: int
    wanted: dict[str, float]
    """Least value of measures, by name."""
    points: list[Point]
    """The models' own lists first."""

    @property
    def marked(self) -> int | None:
        """Number of the point that has what is wanted at the least loss; None: nothing wanted, or none has it."""
        fit = [
            number for number, point in enumerate(self.points)
            if self.wanted and all(point.measures[name].mean >= least for name, least in self.wanted.items())
        ]  # fmt: skip
        return max(fit, key=lambda number: self.points[number].measures["ndcg@10"].mean, default=None)


def draw_tradeoff(config: InferRun, wanted: dict[str, float], most: int = MOST) -> Tradeoff:
    """Re-rank the run's candidates in every setting, for at most so many users. Raises InputError where the split has
    no answers.
    """
    until = config.data.history.until
    if until not in ("valid", "test"):
        raise InputError(f"data.history.until is {until!r}; expected valid or test, whose answers are known.")
    if config.threads:
        torch.set_num_threads(config.threads)
    cascade = Cascade.open(config.retriever, config.pruner, config.data, config.candidates, config.decision)
    pool = gather(cascade, str(until), most)
    base = Setting(way="models", strength=0.0, config=RerankConfig())
    meter = Meter.of(cascade, pool)
    first = listed(cascade, pool, base)
    points = [meter.measure(base, first)]
    for setting in settings(cascade, first):
        points.append(meter.measure(setting, listed(cascade, pool, setting)))
    if config.rerank is not None:
        own = Setting(way="as configured", strength=1.0, config=config.rerank)
        points.append(meter.measure(own, listed(cascade, pool, own)))
    return Tradeoff(
        group=str(until), requests=len(pool.items), candidates=pool.items.shape[1], wanted=wanted, points=points
    )


def gather(cascade: Cascade, until: str, most: int = MOST) -> Pool:
    """The candidates of every user who has an answer; of more than `most`, so many are drawn."""
    if cascade.data.histories is None:
        raise InputError("recsys tradeoff is about users' lists, and this data set has no interactions.")
    requests = user_requests(cascade.data, STAGES[until])
    if not len(requests):
        raise InputError(f"No user has an answer in the split {until}; there is nothing to measure by.")
    rows = np.sort(np.random.default_rng(0).permutation(len(requests))[:most])
    requests, items, chances = requests.take(rows), [], []
    for start in range(0, len(requests), _BLOCK):
        lists = cascade.propose(requests.take(np.arange(start, min(start + _BLOCK, len(requests)))), None)
        items.append(lists.items)
        chances.append(cascade.chances(lists))
    targets, grades = padded(requests)
    return Pool(
        items=_stacked(items, -1), chance=_stacked(chances, 0), pasts=seen_items(cascade.data, requests),
        targets=targets, grades=grades,
    )  # fmt: skip


def _stacked(parts: list[np.ndarray], missing: float) -> np.ndarray:
    """Blocks of rows of different widths as one table."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=missing) for one in parts])


def settings(cascade: Cascade, first: np.ndarray) -> list[Setting]:
    """Every way at every strength; exposures are raised from the shares that the models' own lists [R, 10] have."""
    columns = list(cascade.config.items.category)
    kinds: dict[str, Any] = {"mmr": MmrConfig, "dpp": DppConfig, "xquad": XquadConfig}
    found = [
        Setting(way=name, strength=strength, config=RerankConfig(**{name: kind(strength=strength)}))
        for name, kind in kinds.items() for strength in STRENGTHS
    ]  # fmt: skip
    for strength in STRENGTHS if columns else ():
        one = CalibrationConfig(strength=strength, column=columns[0])
        found.append(Setting(way="calibration", strength=strength, config=RerankConfig(calibration=one)))
    codes = cascade_segments(cascade)[first[first >= 0]]
    shares = np.bincount(codes, minlength=len(SEGMENTS)) / max(len(codes), 1)
    return found + _exposures(dict(zip(SEGMENTS, (float(share) for share in shares), strict=True)))


def _exposures(shares: dict[str, float]) -> list[Setting]:
    """All but the head raised alike; the tail alone raised, beside a torso that keeps what it has, also in bands."""
    raised = [
        (
            "exposure",
            round(factor - 1, 2),
            {name: factor * share for name, share in shares.items() if name != "head"},
            1,
        )
        for factor in FACTORS
    ]
    tails = [
        (f"tail in {bands} bands" if bands > 1 else "tail", tail, {"torso": shares["torso"], "tail": tail}, bands)
        for bands in (1, BANDS) for tail in TAILS if tail > shares["tail"]
    ]  # fmt: skip
    return [
        Setting(way=way, strength=strength, config=RerankConfig(exposure=ExposureConfig(least=least, bands=bands)))
        for way, strength, least, bands in [*raised, *tails] if sum(least.values()) <= 1
    ]  # fmt: skip


def cascade_segments(cascade: Cascade) -> np.ndarray:
    """[N] popularity segments of the catalogue."""
    return popularity_segments(torch.from_numpy(cascade.data.popularity())).numpy().astype(np.int64)


def listed(cascade: Cascade, pool: Pool, setting: Setting) -> np.ndarray:
    """[R, 10] the lists of a setting, -1 padded."""
    config, columns = setting.config, list(cascade.config.items.category)
    reranker = Reranker.open(config, cascade.data, columns, cascade.item_vectors, SHOWN)
    order = reranker.order(pool.items, pool.chance, pool.pasts)
    items = np.take_along_axis(pool.items, order, 1)
    if config.exposure is None:
        return items[:, :SHOWN]
    groups, total = reranker.groups_of(items), int(np.minimum((items >= 0).sum(1), SHOWN).sum())
    found = solve(dealt(items, pool.chance), groups, SHOWN, config.exposure.quotas(reranker.names, total))
    first = np.argsort(~found.chosen, axis=1, kind="stable")[:, :SHOWN]
    return np.where(np.take_along_axis(found.chosen, first, 1), np.take_along_axis(items, first, 1), -1)


@dataclass(frozen=True, kw_only=True)
class Meter:
    """What measures lists: facts of the catalogue and of the requests, and the draws that all intervals are made of."""

    pool: Pool
    popularity: np.ndarray  # [N]
    segments: np.ndarray  # [N]
    vectors: np.ndarray  # [N, D] unit
    mixes: np.ndarray | None  # [N, G]
    own: np.ndarray | None  # [R, G]
    base: np.ndarray  # [R] nDCG@10 of the models' own lists
    weights: np.ndarray  # [S, R]

    @classmethod
    def of(cls, cascade: Cascade, pool: Pool) -> "Meter":
        """Of the first category column, if there is one."""
        columns = list(cascade.config.items.category)
        facts = Reranker.open(RerankConfig(), cascade.data, columns, cascade.item_vectors, SHOWN)
        mixes = category_mixes(cascade.data, columns, columns[0]) if columns else None
        return cls(
            pool=pool, popularity=cascade.data.popularity(), segments=facts.segments, vectors=facts.vectors,
            mixes=mixes, own=None if mixes is None else own_mixes(mixes, pool.pasts),
            base=_ndcg(pool, pool.items[:, :SHOWN], len(facts.segments)), weights=resample_weights(len(pool.items)),
        )  # fmt: skip

    def measure(self, setting: Setting, lists: np.ndarray) -> Point:
        """All measures of the lists [R, 10] of a setting."""
        worth = _ndcg(self.pool, lists, len(self.segments))
        each = {
            f"ndcg@{SHOWN}": worth,
            f"non_head@{SHOWN}": group_share(lists, self.segments > 0),
            f"tail@{SHOWN}": group_share(lists, self.segments > 1),
            f"novelty@{SHOWN}": self_information(lists, self.popularity),
            f"distance@{SHOWN}": intra_list_distance(lists, self.vectors),
        }
        if self.mixes is not None and self.own is not None:
            each[f"divergence@{SHOWN}"] = calibration_divergence(lists, self.mixes, self.own)
        lost = ratio_interval(worth, self.base, self.weights)
        measures = {"loss": Interval(mean=0 - lost.mean, low=0 - lost.high, high=0 - lost.low)}
        measures |= {name: mean_interval(values, self.weights) for name, values in each.items()}
        return Point(way=setting.way, strength=setting.strength, measures={**measures, **self._of_all(lists)})

    def _of_all(self, lists: np.ndarray) -> dict[str, Interval]:
        """Coverage and Gini, which belong to all lists together."""
        rows, _ = np.nonzero(lists >= 0)
        shown, size = lists[lists >= 0], len(self.segments)
        exposures = [np.bincount(shown, weights=some[rows], minlength=size) for some in self.weights[:_RESAMPLES]]
        whole, found = torch.from_numpy(np.bincount(shown, minlength=size)), {}
        for name, measure in (("coverage", coverage), ("gini", gini)):
            spread = np.array([measure(torch.from_numpy(one.astype(np.int64))) for one in exposures])
            found[f"{name}@{SHOWN}"] = centred_interval(measure(whole), spread)
        return found


def _ndcg(pool: Pool, lists: np.ndarray, items: int) -> np.ndarray:
    ranks = torch.from_numpy(list_ranks(lists, pool.targets, items))
    return ndcg(ranks, torch.from_numpy(pool.grades), min(SHOWN, items)).numpy()


def write_tradeoff(run: Path, found: Tradeoff) -> Path:
    """Keep it in RUN/tradeoff.json, until the run writes other lists; returns its path."""
    path = run / TRADEOFF
    rows: Sequence[dict[str, Any]] = [asdict(point) for point in found.points]
    content = {**asdict(found), "points": rows, "marked": found.marked}
    write_atomic(path, json.dumps(content, indent=1))
    return path
