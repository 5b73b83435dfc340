"""Histories that are trained on, changed anew in every epoch: entries left out, a beginning cut off, a run shuffled.

After the three of CL4SRec (Xie et al. 2022, arXiv:2010.14395), for a model that is asked at every step: what a change
would give away, or has made untrue, is not asked for in that epoch.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys.data.pasts import Past
from recsys.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Largest shares of a training window's entries; what is drawn for each window lies between 0 and them."""

    mask: float = 0.0
    """That are left out, wherever they stand; their places stay empty. Gaps in a history then do no harm."""
    crop: float = 0.0
    """That are cut off, the oldest ones: a history may begin anywhere."""
    reorder: float = 0.0
    """That a run has whose entries change places, at their own times; what comes within the run is not asked for."""

    def __post_init__(self) -> None:
        for name in ("mask", "crop", "reorder"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"augment.{name} is {getattr(self, name)}; expected a share from 0 to below 1.")


@dataclass(frozen=True, kw_only=True)
class Change:
    """Of one window in one epoch; the same for the same seed, epoch and window."""

    config: AugmentConfig
    seed: tuple[int, int, int]
    """Seed, epoch and row of the window."""

    def kept(self, count: int) -> np.ndarray:
        """[count] bool, which entries of a window stay."""
        if not self.config.mask and not self.config.crop:
            return np.ones(count, dtype=bool)
        rng = self._rng(2)
        stays = rng.random(count) >= self.config.mask * rng.random()
        return stays & (np.arange(count) >= int(count * self.config.crop * self._rng(5).random()))

    def reordered(self, past: Past) -> tuple[Past, np.ndarray]:
        """The same with a run of its entries shuffled, and [H + 1] bool, at which steps it may be asked for the next:
        not where a part of the run, and not all, stands before.
        """
        size = len(past.item)
        asked = np.ones(size + 1, dtype=bool)
        rng = self._rng(6)
        length = int(size * self.config.reorder * rng.random()) if self.config.reorder else 0
        if length < 2:
            return past, asked
        first = int(rng.integers(0, size - length + 1))
        place = np.arange(size)
        place[first : first + length] = first + rng.permutation(length)
        asked[first + 1 : first + length] = False
        return replace(past, item=past.item[place], query=past.query[place], event=past.event[place]), asked

    def _rng(self, use: int) -> np.random.Generator:
        seed, epoch, row = self.seed
        return np.random.default_rng([seed, epoch, use, row])
