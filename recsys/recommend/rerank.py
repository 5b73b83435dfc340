"""Lists re-ranked after the models: any of the ways of `diversity`, in any order, and exposure targets over the run.

What is handed on from way to way is an order and no score: the chances of a list are dealt out again from its first to
its last candidate, so that each way starts from what the one before has made, on the same scale. The relevance that a
strength is weighed against is the chance over the best of the list, 1 for the first candidate.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch

from recsys.data.prepare import Prepared
from recsys.errors import InputError, nearest
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.recommend.diversity import (
    PADDING,
    CalibrationConfig,
    DppConfig,
    MmrConfig,
    XquadConfig,
    calibrate,
    dpp,
    mmr,
    xquad,
)
from recsys.recommend.exposure import BAND, POPULARITY, ExposureConfig, priced_order

WAYS = ("mmr", "dpp", "xquad", "calibration")
"""Of re-ranking a list by itself."""
BLOCK = 16
"""Requests at one time: their candidates' vectors stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """What users' lists are re-ranked by, among all candidates that the decision keeps; what is null does nothing.

    The columns of scores stay those of the models: a re-ranked list does not fall by them.
    """

    mmr: MmrConfig | None = None
    """Maximal marginal relevance, by the retriever's item vectors."""
    dpp: DppConfig | None = None
    """Determinantal point process, by the same."""
    xquad: XquadConfig | None = None
    """Popularity groups."""
    calibration: CalibrationConfig | None = None
    """The mix of a category in the user's own history."""
    order: list[str] = field(default_factory=lambda: list(WAYS))
    """In which the ways above work that are not null."""
    exposure: ExposureConfig | None = None
    """Least shares of groups over all lists of the run: always last, as it needs every list. Lists are first written at
    full length to pool/ beside the output."""

    def __post_init__(self) -> None:
        wrong = [name for name in self.order if name not in WAYS]
        if wrong:
            hint = nearest(wrong[0], WAYS)
            raise InputError(f"rerank.order names {wrong[0]!r}.{hint} Expected some of {', '.join(WAYS)}.")
        if len(set(self.order)) < len(self.order):
            raise InputError(f"rerank.order is {', '.join(self.order)}; expected each name once.")
        absent = [name for name in WAYS if getattr(self, name) is not None and name not in self.order]
        if absent:
            raise InputError(f"rerank.order lacks {absent[0]}, which is set; add it, or leave order out.")

    @property
    def steps(self) -> list[str]:
        """The ways that are set, in their order."""
        return [name for name in self.order if getattr(self, name) is not None]


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """A config, and what it needs to know of the catalogue."""

    config: RerankConfig
    places: int
    """Of the final list."""
    vectors: np.ndarray  # [N, D] float32 unit vectors
    segments: np.ndarray  # [N] int64 into SEGMENTS
    mixes: np.ndarray | None  # [N, G] float32 of the category that is calibrated, over its codes; sums to 1
    groups: np.ndarray  # [N] int64 of exposure
    names: list[str]
    """Of the groups of exposure."""
    prices: np.ndarray | None = None  # [G] of a run whose exposures were solved; None: none asked, or not solved yet

    @classmethod
    def open(cls, config: RerankConfig, data: Prepared, columns: list[str], vectors: np.ndarray, places: int) -> Self:
        """`columns` are data.items.category. Raises InputError for a column or group that there is not."""
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        segments = popularity_segments(torch.from_numpy(data.popularity())).numpy().astype(np.int64)
        mixes, bands = None, 1 if config.exposure is None else config.exposure.bands
        names, groups = popularity_groups(data.popularity(), segments, bands)
        if config.calibration is not None:
            mixes = category_mixes(data, columns, config.calibration.column)
        if config.exposure is not None and config.exposure.by != POPULARITY:
            names, groups = column_groups(data, columns, config.exposure.by)
        return cls(
            config=config, places=places, vectors=(vectors / lengths).astype(np.float32), segments=segments,
            mixes=mixes, groups=groups, names=names,
        )  # fmt: skip

    @property
    def reads_pasts(self) -> bool:
        """Whether it needs what the users had."""
        return self.config.calibration is not None or (self.config.xquad is not None and self.config.xquad.mix == "own")

    def order(self, items: np.ndarray, chance: np.ndarray, pasts: list[np.ndarray]) -> np.ndarray:
        """[B, K] columns in their new order; without a way, or with all strengths 0, they stay.

        Args:
            items: [B, K] int64 candidates in the models' order, -1 padded at the end.
            chance: [B, K] that each is right.
            pasts: the items that each request's user had; any, where `reads_pasts` is false.
        """
        columns = np.tile(np.arange(items.shape[1]), (len(items), 1))
        for start in range(0, len(items), BLOCK) if self.config.steps else ():
            some = slice(start, start + BLOCK)
            columns[some] = self._order(items[some], dealt(items[some], chance[some]), pasts[some])
        return columns

    def cut(self, items: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """[B, L] columns of the final list, of candidates in their new order: the first; where there are exposure
        targets those of the run's prices, or all while these are not known.
        """
        if self.prices is not None:
            return priced_order(dealt(items, chance), self.groups_of(items), self.places, self.prices)
        width = items.shape[1] if self.config.exposure is not None else min(self.places, items.shape[1])
        return np.tile(np.arange(width), (len(items), 1))

    def groups_of(self, items: np.ndarray) -> np.ndarray:
        """Exposure groups of items, -1 at padding."""
        return np.where(items >= 0, self.groups[items], -1)

    def _order(self, items: np.ndarray, chance: np.ndarray, pasts: list[np.ndarray]) -> np.ndarray:
        relevance = np.where(items >= 0, chance / np.maximum(chance[:, :1], 1e-30), PADDING)
        columns = np.tile(np.arange(items.shape[1]), (len(items), 1))
        for name in self.config.steps:
            first = self._way(name, np.take_along_axis(items, columns, 1), relevance, pasts)
            columns = np.take_along_axis(columns, completed(first, items.shape[1]), 1)
        return columns

    def _way(self, name: str, items: np.ndarray, relevance: np.ndarray, pasts: list[np.ndarray]) -> np.ndarray:
        config, places = self.config, min(self.places, items.shape[1])
        if name == "mmr" and config.mmr is not None:
            return mmr(relevance, self.vectors[items], config.mmr.strength, places)
        if name == "dpp" and config.dpp is not None:
            return dpp(relevance, self.vectors[items], config.dpp.strength, places)
        if name == "xquad" and config.xquad is not None:
            mix = self._wanted_groups(pasts, config.xquad)
            return xquad(relevance, self.segments[items], mix, config.xquad.strength, places)
        assert config.calibration is not None
        assert self.mixes is not None
        own = own_mixes(self.mixes, pasts)
        return calibrate(relevance, self.mixes[items], own, config.calibration.strength, places)

    def _wanted_groups(self, pasts: list[np.ndarray], config: XquadConfig) -> np.ndarray:
        if config.mix == "even":
            return np.full((len(pasts), len(SEGMENTS)), 1 / len(SEGMENTS))
        return own_mixes(np.eye(len(SEGMENTS))[self.segments], pasts)


def dealt(items: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """[B, K] float64 chances dealt out from the first to the last candidate, whatever their order is; 0 at padding."""
    return -np.sort(np.where(items >= 0, -chance.astype(np.float64), 0), axis=1)


def completed(first: np.ndarray, width: int) -> np.ndarray:
    """[B, K] all columns: those that were taken [B, P], then the others in their order."""
    key = np.tile(np.arange(width) + width, (len(first), 1))
    np.put_along_axis(key, first, np.arange(first.shape[1])[None], 1)
    return key.argsort(1, kind="stable")


def softmax(scores: np.ndarray, items: np.ndarray, scale: float) -> np.ndarray:
    """[B, K] float64 chance of each candidate by a retriever: softmax of scale * score over the list, 0 at padding."""
    logits = np.where(items >= 0, scale * scores.astype(np.float64), -np.inf)
    best = np.max(logits, axis=1, keepdims=True, initial=-np.inf, where=items >= 0)
    weight = np.where(items >= 0, np.exp(logits - np.where(np.isfinite(best), best, 0)), 0)
    return weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)


def category_mixes(data: Prepared, columns: list[str], column: str) -> np.ndarray:
    """[N, G] float32 share of each code of a category column in each item, equal among its values; code 0 is none."""
    codes = data.catalogue.category[:, _place(columns, column)]  # [N, V], 0 is padding
    mixes = np.zeros((len(codes), int(codes.max(initial=0)) + 1), dtype=np.float32)
    rows, _ = np.nonzero(codes)
    np.add.at(mixes, (rows, codes[codes > 0]), 1)
    mixes[~codes.any(1), 0] = 1
    return mixes / mixes.sum(1, keepdims=True)


def own_mixes(mixes: np.ndarray, pasts: list[np.ndarray]) -> np.ndarray:
    """[B, G] mean mix of what each user had; who had nothing has the mean of the catalogue."""
    return np.stack([mixes[past].mean(0) if len(past) else mixes.mean(0) for past in pasts]).astype(np.float64)


def popularity_groups(popularity: np.ndarray, segments: np.ndarray, bands: int) -> tuple[list[str], np.ndarray]:
    """Names of the segments, the tail cut into bands of equally many items from the most popular on; each item's place
    among them.
    """
    names, groups = [str(name) for name in SEGMENTS], segments.copy()
    if bands > 1:
        tail = SEGMENTS.index("tail")
        mine = np.argsort(-popularity, kind="stable")
        mine = mine[segments[mine] == tail]
        band = np.arange(len(mine)) * bands // max(len(mine), 1)
        groups[mine] = np.where(band == 0, tail, len(SEGMENTS) - 1 + band)
        names[tail] = f"tail{BAND}1"
        names += [f"tail{BAND}{number}" for number in range(2, bands + 1)]
    return names, groups


def column_groups(data: Prepared, columns: list[str], column: str) -> tuple[list[str], np.ndarray]:
    """Names of the values of a category column, the items without one first, and each item's place among them."""
    codes = data.catalogue.category[:, _place(columns, column)]
    several = int((codes[:, 1:] > 0).any(1).sum()) if codes.shape[1] > 1 else 0
    if several:
        raise InputError(f"rerank.exposure.by is {column!r}, and {several:,} items have several values; expected one.")
    return ["none", *data.codes.item_category[column]], codes[:, 0]


def _place(columns: list[str], column: str) -> int:
    if column not in columns:
        known = ", ".join(columns) or "none"
        raise InputError(
            f"rerank names the column {column!r}; data.items.category has {known}.{nearest(column, columns)}"
        )
    return columns.index(column)
