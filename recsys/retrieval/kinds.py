"""Which index for which catalogue: kinds, what they weigh, and what is asked of them."""

from dataclasses import dataclass
from typing import Literal

from recsys.errors import InputError

Kind = Literal["flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"]
FLAT = "flat"

_EACH = 40  # items that a centroid is learnt from; fewer than 39 make bad ones
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
    """GiB that the index may take; null: as much as the item vectors and a tenth."""
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
