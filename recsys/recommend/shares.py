"""What each of several sources is worth to a score, where one can stand in for another.

A region that the purchases betray is hardly missed when the profile is gone, and a purchase that betrays it is hardly
missed beside the profile: leaving one out at a time, neither is worth anything. The Shapley value (Shapley 1953) shares
out what both are worth. It is computed here as the mean of two of its terms, what a source adds to all others and what
it adds to none, which is the value itself wherever sources act alone or in pairs.
"""

from collections.abc import Sequence

import numpy as np

from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Asked, Gone, Unit

Pair = tuple[int, int]
"""Number of a request, and row of the items table."""


def shared_worths(
    without: Counterfactuals, pairs: Sequence[Pair], sources: Sequence[Sequence[Gone]]
) -> list[np.ndarray]:
    """[S] float32 worths of each pair's S sources, in units of the score; `sources` are what is gone without each."""
    asked = [Asked(*pair, gone) for pair, own in zip(pairs, sources, strict=True) for gone in _gone(own)]
    scores, found, start = without.scores(asked), list[np.ndarray](), 0
    for own in sources:
        all_there, nothing, *others = np.split(scores[start : start + 2 + 2 * len(own)], [1, 2, 2 + len(own)])
        missed, alone = all_there - others[0], others[1] - nothing
        found.append((missed + alone) / 2)
        start += 2 + 2 * len(own)
    return found


def _gone(sources: Sequence[Gone]) -> list[Gone]:
    """Nothing; all; each; all but each."""
    nothing = frozenset[Unit]()
    rest = [nothing.union(*sources[:at], *sources[at + 1 :]) for at in range(len(sources))]
    return [nothing, nothing.union(*sources), *sources, *rest]
