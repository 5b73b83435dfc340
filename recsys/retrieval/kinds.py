"""Which index for which catalogue: kinds, what they weigh, and what is asked of them."""

import math
from dataclasses import dataclass
from typing import Literal

from recsys.errors import InputError

Kind = Literal["flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"]
FLAT = "flat"

_EACH = 40  # items that a centroid is learnt from; fewer than 39 make bad ones
_LISTS = 4  # times the square root of the items: lists, as a power of two
_CODES = 256  # centroids of each byte of a product quantiser

SMALL = 50_000
"""Items up to which every query is compared with all: exact, and fast enough."""


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How items are searched, and what the search may miss."""

    kind: Kind | Literal["auto"] = "auto"
    """flat compares a query with every item; hnsw walks a graph; ivf_* look into the nearest of many lists, with full
    vectors (flat), a byte for each number (sq8) or a code (pq). auto: by the catalogue's size and the memory."""
    recall: float = 0.95
    """Share of the k truly nearest that a search has to find, measured against exact search on a sample."""
    k: int = 100
    """Items that a search returns where recall and speed are measured."""
    memory: float | None = None
    """GiB that the index may take, beside the item vectors on disk; null: as much as it likes."""
    sample: int = 1000
    """Queries that the parameters are tuned on; as many others confirm what came out."""
    seed: int = 0
    """Of the sample, of the items that centroids are learnt from, and of their start."""

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InputError(f"index.recall is {self.recall}; expected a share above 0 and up to 1.")
        for name in ("k", "sample"):
            if getattr(self, name) < 1:
                raise InputError(f"index.{name} is {getattr(self, name)}; expected at least 1.")
        if self.memory is not None and self.memory <= 0:
            raise InputError(f"index.memory is {self.memory} GiB; expected more than 0, or null.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One index of FAISS, built and searched in one way."""

    kind: Kind = "flat"
    lists: int = 0
    """Inverted lists (nlist), each around a centroid; 0: none."""
    breadth: int = 0
    """How much of the index a query looks at: lists (nprobe), or candidates of the graph (efSearch)."""
    links: int = 32
    """Neighbours that an item of the graph (HNSW) is linked to, M."""
    code: int = 0
    """Bytes of an item in a product quantiser (ivf_pq)."""
    rescore: int = 1
    """Candidates for each wanted item that are scored anew by the full vectors; 1: none are."""

    def __post_init__(self) -> None:
        if self.kind.startswith("ivf") and (self.lists < 1 or self.breadth < 1):
            raise InputError(f"An index {self.kind} has {self.lists} lists and probes {self.breadth}; expected some.")
        if self.kind == "hnsw" and self.breadth < 1:
            raise InputError(f"An index hnsw searches {self.breadth} candidates; expected at least 1.")

    def learnt_from(self, items: int) -> int:
        """Items that centroids are learnt from, of so many. Raises InputError if there are fewer than centroids."""
        centroids = max(self.lists, _CODES if self.kind == "ivf_pq" else 0)
        if centroids > items:
            remedy = "take index.kind: flat, which needs no centroids"
            raise InputError(f"An index {self.kind} learns {centroids} centroids from {items} items; {remedy}.")
        return min(centroids * _EACH, items)


def weight(settings: Settings, items: int, width: int) -> int:
    """Bytes of an index in memory."""
    full, centroids = 4 * width, 4 * width * settings.lists
    match settings.kind:
        case "flat":
            return items * full
        case "hnsw":
            return items * (full + 8 * settings.links + 16)
        case "ivf_flat":
            return items * (full + 8) + centroids
        case "ivf_sq8":
            return items * (width + 8) + centroids
        case "ivf_pq":
            return items * (settings.code + 8) + centroids + 4 * width * (width + _CODES)


def choose(items: int, width: int, config: IndexConfig) -> Settings:
    """The index for N items of D numbers; its breadth is still to be tuned.

    auto: up to `SMALL` items flat; then lists of bytes, which are read several times as fast as full vectors and lose
    little; where they do not fit into the memory, the longest code of a product quantiser that does.

    Raises:
        InputError: the kind, or any, does not fit into the memory.
    """
    lists = min(2 ** round(math.log2(_LISTS * math.sqrt(items))), max(items // _EACH, 1))
    codes = [size for size in range(width // 4, 0, -1) if width % size == 0]
    kinds = {
        "flat": [Settings()],
        "hnsw": [Settings(kind="hnsw", breadth=config.k)],
        "ivf_flat": [Settings(kind="ivf_flat", lists=lists, breadth=1)],
        "ivf_sq8": [Settings(kind="ivf_sq8", lists=lists, breadth=1)],
        "ivf_pq": [Settings(kind="ivf_pq", lists=lists, breadth=1, code=size) for size in codes],
    }
    wanted = kinds.get(config.kind, [*kinds["flat"][: items <= SMALL], *kinds["ivf_sq8"], *kinds["ivf_pq"]])
    room = math.inf if config.memory is None else config.memory * 2**30
    fitting = [one for one in wanted if weight(one, items, width) <= room]
    if not fitting:
        least = min(weight(one, items, width) for one in wanted) / 2**30
        raise InputError(
            f"index.memory is {config.memory} GiB, and {items:,} items of width {width} take {least:.3g} GiB as "
            f"{config.kind}; give it more, or another index.kind."
        )
    return fitting[0]
