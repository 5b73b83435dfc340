"""From a pruner's logit to keep or drop: what makes a probability of it, and what is dropped by it.

Users and queries have their own probabilities and thresholds: another share of what is proposed is relevant for each.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from recsys.errors import InputError

USERS: str = "users"
QUERIES: str = "queries"
KINDS = (USERS, QUERIES)
"""Of requests."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What turns a logit into a probability: sigmoid(scale * logit + shift) or, where there are corners, the straight
    lines between them (level beyond the first and the last). Neither ever falls while the logit rises.
    """

    scale: float = 1.0
    shift: float = 0.0
    corners: tuple[tuple[float, float], ...] = ()
    """Logits, rising, each with its probability, never falling (isotonic regression)."""

    def __post_init__(self) -> None:
        steps = np.diff(np.array(self.corners, dtype=np.float64).reshape(-1, 2), axis=0)
        if self.scale < 0 or (steps[:, 0] <= 0).any() or (steps[:, 1] < 0).any():
            raise InputError(
                f"The calibration falls while the logit rises (scale {self.scale}, {len(self.corners)} corners); "
                "expected one that rises. Export the model again."
            )

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """[...] float64 of finite logits [...]."""
        if self.corners:
            return np.interp(logits, *np.array(self.corners, dtype=np.float64).T)
        return np.exp(-np.logaddexp(0.0, -(self.scale * logits.astype(np.float64) + self.shift)))


@dataclass(frozen=True, kw_only=True)
class DecisionConfig:
    """Which candidates stay: those that pass whatever is set. Nothing set: all, in their new order."""

    top: int | None = None
    """Keep the m most probable."""
    probability: float | None = None
    """Keep those of at least this calibrated probability."""
    loss: float | None = None
    """Drop as many as can be dropped while at most this share of the relevant candidates is expected to be lost: the
    pruner knows the probability for it from lists that were held out of its training."""

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise InputError(f"decision.top is {self.top}; expected at least 1, or null to keep any number.")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise InputError(f"decision.probability is {self.probability}; expected a number from 0 to 1, or null.")
        if self.loss is not None and not 0 < self.loss < 1:
            raise InputError(f"decision.loss is {self.loss}; expected a share between 0 and 1, such as 0.05, or null.")


@dataclass(frozen=True, kw_only=True)
class Promises:
    """What each loss costs in probability, as measured on lists that were held out of training."""

    lists: int
    relevant: int
    """Relevant candidates in these lists; so few that they are what limits the promise."""
    thresholds: tuple[tuple[float, float], ...]
    """Losses, rising, each with the probability at or above which candidates stay; losses that so few relevant
    candidates cannot bound are absent."""

    def probability(self, loss: float) -> float:
        """Of the highest listed loss that is not above this one. Raises InputError where all are above it."""
        found = [probability for listed, probability in self.thresholds if listed <= loss]
        if not found:
            least = f"{self.thresholds[0][0]:g} and more" if self.thresholds else "no loss at all"
            raise InputError(
                f"decision.loss {loss:g} is less than this pruner can promise: the {self.relevant:,} relevant "
                f"candidates of its {self.lists:,} held-out lists bound {least}. Allow more, or train it again with a "
                "greater share calibrate."
            )
        return found[-1]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a pruner's logits mean for one kind of request."""

    calibration: Calibration = field(default_factory=Calibration)
    promises: Promises | None = None
    """None: what a threshold loses was never measured."""


def resolve(decision: DecisionConfig, promises: Promises | None) -> DecisionConfig:
    """The decision with the probability that its loss asks for, or its own one if that is higher.

    Raises:
        InputError: a loss, and no promises (or none for so small a loss).
    """
    if decision.loss is None:
        return decision
    if promises is None:
        remedy = "train it again with calibrate above 0, or set decision.probability"
        raise InputError(
            f"decision.loss needs a pruner that knows what a threshold loses, and this one does not; {remedy}."
        )
    return replace(decision, probability=max(decision.probability or 0.0, promises.probability(decision.loss)))


def decide(probabilities: np.ndarray, *, top: int | None, least: np.ndarray | float = 0.0) -> np.ndarray:
    """Which candidates stay: the most probable, of those that are probable enough.

    Equal ones by column, the retriever's order. A negative probability (padding) never stays.

    Args:
        probabilities: [B, K] from `Pruner.probability`.
        top: how many stay at most; None: any number.
        least: [B, 1] or one number, the probability from which on candidates stay.

    Returns:
        [B, K] bool.
    """
    kept = (probabilities >= least) & (probabilities >= 0)
    if top is not None:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
        kept &= place < top
    return kept
