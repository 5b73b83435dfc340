"""Lists that are diverse: MMR, a determinantal point process, xQuAD over groups, calibration to the user's own mix.

Each fills the places of a list one after the other with the best of (1 - strength) * relevance + strength * what it
cares for. Equal values go by column, so strength 0 keeps the order that was handed in, to the last item.
Letters: B requests, K candidates, D width, G groups, P places. `relevance` is never rising along a row; padding, at the
end of a row, has `PADDING`. All functions return [B, P] int64, the columns that were taken, the first place first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsys.errors import InputError

PADDING = -1e9
"""Relevance of padding: taken last, and still a number."""
_FLOOR = 1e-10  # least squared distance to what is taken already; whatever lies nearer counts as a copy
_SMOOTHING = (
    0.01  # share of the user's own mix that is put into the list's (Steck 2018), so that no logarithm is infinite
)


@dataclass(frozen=True, kw_only=True)
class MmrConfig:
    """Maximal marginal relevance: an item loses by its likeness to the nearest one that stands above it."""

    strength: float
    """Lambda, 0 to 1: weight of diversity; 1 - lambda is that of relevance, whose best is 1 in a list. 0: no change."""

    def __post_init__(self) -> None:
        check_strength("mmr", self.strength)


@dataclass(frozen=True, kw_only=True)
class DppConfig:
    """Determinantal point process: a list gains by the volume that its items' vectors span."""

    strength: float
    """Lambda, 0 to 1: weight of the log-volume; 0: no change."""

    def __post_init__(self) -> None:
        check_strength("dpp", self.strength)


@dataclass(frozen=True, kw_only=True)
class XquadConfig:
    """xQuAD: popularity groups (head, torso, tail, unseen) that the list lacks gain."""

    strength: float
    """Lambda, 0 to 1: weight of the groups; 0: no change."""
    mix: Literal["own", "even"] = "own"
    """Which groups a user wants: as in his own history, or all alike."""

    def __post_init__(self) -> None:
        check_strength("xquad", self.strength)


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Calibration: the list's mix of a category (genres, say) comes near the mix of the user's history."""

    strength: float
    """Lambda, 0 to 1: weight of the divergence between the two mixes; 0: no change."""
    column: str
    """One of data.items.category; an item with several values counts for each in equal shares."""

    def __post_init__(self) -> None:
        check_strength("calibration", self.strength)


def check_strength(name: str, strength: float) -> None:
    """Raises InputError for a lambda outside of 0..1."""
    if not 0 <= strength <= 1:
        raise InputError(f"rerank.{name}.strength is {strength}; expected a number from 0 (no change) to 1.")


def mmr(relevance: np.ndarray, vectors: np.ndarray, strength: float, places: int) -> np.ndarray:
    """Next is the candidate of the largest (1 - lambda) r_i - lambda max_{j taken} cos(i, j).

    Carbonell and Goldstein 1998, with the cosine as likeness.

    Args:
        relevance: [B, K] float64.
        vectors: [B, K, D] float32 unit vectors of the candidates.
        strength: lambda.
        places: P, at most K.
    """
    nearest = np.full(relevance.shape, -1.0)  # the least cosine: an empty list is near to nothing

    def value() -> np.ndarray:
        return (1 - strength) * relevance - strength * nearest

    def take(_: int, taken: np.ndarray) -> None:
        np.maximum(nearest, likeness(vectors, taken), out=nearest)

    return _filled(relevance.shape, places, value, take)


def dpp(relevance: np.ndarray, vectors: np.ndarray, strength: float, places: int) -> np.ndarray:
    """Next is the candidate that adds most to (1 - lambda) sum r_i + lambda log det of the taken ones' cosines.

    This is the greedy maximum a posteriori of the process with the kernel q_i cos(i, j) q_j, q = exp((1 - lambda) r /
    (2 lambda)), by a Cholesky factor that grows by one row a place (Chen, Zhang and Zhou 2018, algorithm 1): O(P^2 K),
    and no determinant for each candidate. Where everything that is left lies in the span of what is taken (more places
    than dimensions, or copies), relevance alone decides. Arguments as in `mmr`.
    """
    rows, (count, width) = np.arange(len(relevance)), relevance.shape
    factor = np.zeros((count, places, width))  # [B, P, K] rows of the Cholesky factor
    left = np.ones(relevance.shape)  # squared distance of each candidate to the span of the taken

    def value() -> np.ndarray:
        return (1 - strength) * relevance + strength * np.log(np.maximum(left, _FLOOR))

    def take(place: int, taken: np.ndarray) -> None:
        known = np.matmul(factor[rows, :place, taken][:, None, :], factor[:, :place])[:, 0]
        length = left[rows, taken][:, None]
        row = np.where(length > _FLOOR, likeness(vectors, taken) - known, 0) / np.sqrt(np.maximum(length, _FLOOR))
        factor[:, place] = row
        np.subtract(left, row * row, out=left)

    return _filled(relevance.shape, places, value, take)


def xquad(relevance: np.ndarray, groups: np.ndarray, mix: np.ndarray, strength: float, places: int) -> np.ndarray:
    """Next is the candidate of the largest (1 - lambda) r_i + lambda mix_g (1 - share of its group g among the taken).

    Santos et al. 2010, smooth as in Abdollahpouri et al. 2019: the share of the taken in place of whether there is one.

    Args:
        relevance: [B, K] float64.
        groups: [B, K] int64 group of each candidate, 0..G-1; any at padding.
        mix: [B, G] float64, what the user wants of each group; sums to 1.
        strength: lambda.
        places: P, at most K.
    """
    rows, counts = np.arange(len(relevance)), np.zeros(mix.shape)
    wanted = np.take_along_axis(mix, groups, 1)

    def value() -> np.ndarray:
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        return (1 - strength) * relevance + strength * wanted * (1 - np.take_along_axis(share, groups, 1))

    def take(_: int, taken: np.ndarray) -> None:
        counts[rows, groups[rows, taken]] += 1

    return _filled(relevance.shape, places, value, take)


def calibrate(relevance: np.ndarray, mixes: np.ndarray, own: np.ndarray, strength: float, places: int) -> np.ndarray:
    """Next is the candidate of the largest (1 - lambda) r_i - lambda KL(own || mix of the list with it).

    Steck 2018, equation 5, greedily; the list's mix q is smoothed to .99 q + .01 own.

    Args:
        relevance: [B, K] float64.
        mixes: [B, K, G] float32 mix of each candidate over the categories; sums to 1.
        own: [B, G] float64 mix of the user's history; sums to 1.
        strength: lambda.
        places: P, at most K.
    """
    rows, total = np.arange(len(relevance)), np.zeros(own.shape, dtype=np.float32)
    wanted = own.astype(np.float32)[:, None]  # [B, 1, G]
    place = 0

    def value() -> np.ndarray:
        listed = (total[:, None] + mixes) / np.float32(place + 1)
        smooth = np.float32(1 - _SMOOTHING) * listed + np.float32(_SMOOTHING) * wanted
        logs = np.log(np.maximum(smooth, np.float32(1e-20)))  # [B, K, G]
        gain = np.matmul(logs, wanted.swapaxes(1, 2))[..., 0]  # a constant less the divergence
        return (1 - strength) * relevance + strength * gain

    def take(at: int, taken: np.ndarray) -> None:
        nonlocal place, total
        total, place = total + mixes[rows, taken], at + 1

    return _filled(relevance.shape, places, value, take)


def likeness(vectors: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[B, K] cosine of every candidate with the one that was taken [B]."""
    one = vectors[np.arange(len(vectors)), taken]
    return np.matmul(vectors, one[:, :, None])[..., 0]


def _filled(
    shape: tuple[int, ...], places: int, value: Callable[[], np.ndarray], take: Callable[[int, np.ndarray], None]
) -> np.ndarray:
    """One candidate after the other, each the best of what is left; `take` is told of it."""
    rows, gone = np.arange(shape[0]), np.zeros(shape, dtype=np.bool_)
    order = np.empty((shape[0], places), dtype=np.int64)
    for place in range(places):
        taken = np.where(gone, -np.inf, value()).argmax(1)
        order[:, place], gone[rows, taken] = taken, True
        take(place, taken)
    return order
