"""Vectors -> nearest rows by inner product, with FAISS; the one file that imports it."""

import os
import tempfile
from copy import copy
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recsys.errors import InputError
from recsys.retrieval.clusters import learn_centroids, nearest_centroids, nearest_lists
from recsys.retrieval.exact import ExactRows
from recsys.retrieval.kinds import FLAT, Settings
from recsys.shards import disk_errors

_GPU_MOST = 2048  # k and nprobe of a search on a GPU
_RESCORED = 64  # queries whose rows are scored anew at one time
_CONSTRUCTION = 100  # efConstruction of HNSW
_ADDED = 1 << 17  # items that are added at one time
_ENCODED = 40_000  # items that the range of a byte, or the codes of a product quantiser, are learnt from
_ROTATIONS = 20  # iterations that the rotation of OPQ is learnt in
REMEDY = "pip install 'recsys[cpu]', or 'recsys[gpu]' on a machine with CUDA"


def _import_faiss() -> Any:
    """faiss, from the extra `cpu` or `gpu`; None where neither is installed. Both together overwrite each other's
    files, so that is refused.
    """
    if _is_installed("faiss-cpu") and _is_installed("faiss-gpu"):
        raise InputError(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other's files. "
            "Remedy: pip uninstall faiss-cpu faiss-gpu, then pip install 'recsys[cpu]' or 'recsys[gpu]'."
        )
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


faiss = _import_faiss()


def faiss_version() -> str | None:
    """Of the FAISS that searches; None: torch does."""
    return None if faiss is None else faiss.__version__


def set_search_threads(count: int) -> None:
    """CPU threads of every search of this process."""
    if faiss is not None:
        faiss.omp_set_num_threads(count)


class Rows(Protocol):
    """Rows of vectors that can be searched."""

    @property
    def exact(self) -> bool:
        """Whether the nearest are always found."""
        ...

    def __len__(self) -> int: ...

    def search(
        self, users: np.ndarray, depth: int, allowed: np.ndarray | None = None, *, thorough: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, as `ExactRows.search` gives them; `thorough`: an index that guesses compares all."""
        ...


class FaissRows:
    """A FAISS index; row n is the n-th vector that was added."""

    def __init__(self, index: Any, settings: Settings, vectors: np.ndarray | None = None) -> None:
        """`vectors` [N, D], perhaps mapped from disk, are what `settings.rescore` needs."""
        self.index, self.settings, self.vectors = index, settings, vectors
        self.exact = settings.kind == FLAT
        self.gpu = faiss.index_cpu_to_all_gpus(index) if _gpus() and settings.kind != "hnsw" else None
        if settings.rescore > 1 and vectors is None:
            raise InputError(f"An index with rescore {settings.rescore} needs the items' vectors beside it; none came.")

    def __len__(self) -> int:
        return self.index.ntotal

    def search(
        self, users: np.ndarray, depth: int, allowed: np.ndarray | None = None, *, thorough: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows.search`."""
        users, wide = np.ascontiguousarray(users, dtype=np.float32), min(depth * self.settings.rescore, len(self))
        chosen = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.gpu is not None and not thorough and chosen is None and max(wide, self.settings.breadth) <= _GPU_MOST:
            scores, rows = self.gpu.search(users, wide, params=self.parameters(None))
        elif self.settings.lists:
            probes = self.settings.lists if thorough else self.settings.breadth
            scores, rows = self._in_lists(users, wide, probes, chosen)
        elif thorough and self.settings.kind == "hnsw":
            parameters = None if chosen is None else faiss.SearchParameters(sel=chosen)
            scores, rows = faiss.downcast_index(self.index.storage).search(users, wide, params=parameters)
        else:
            scores, rows = self.index.search(users, wide, params=self.parameters(chosen))
        scores[rows < 0] = -np.inf
        return (scores, rows) if self.settings.rescore == 1 else self._rescored(users, rows, depth)

    def tuned(self, breadth: int, rescore: int, vectors: np.ndarray) -> "FaissRows":
        """The same index, searched otherwise; `vectors` [N, D] are what is scored anew by."""
        other = copy(self)
        other.settings = replace(self.settings, breadth=breadth, rescore=rescore)
        other.vectors = vectors if rescore > 1 else None
        return other

    def parameters(self, chosen: Any) -> Any:
        """Of one search by FAISS alone."""
        match self.settings.kind:
            case "hnsw":
                return faiss.SearchParametersHNSW(efSearch=self.settings.breadth, sel=chosen)
            case "ivf_flat" | "ivf_sq8":
                return faiss.SearchParametersIVF(nprobe=self.settings.breadth, sel=chosen)
            case _:
                return None if chosen is None else faiss.SearchParameters(sel=chosen)

    def _in_lists(self, users: np.ndarray, depth: int, probes: int, chosen: Any) -> tuple[np.ndarray, np.ndarray]:
        """Look into the `probes` nearest lists of each user.

        The lists are found with torch (see `clusters`), and users whose nearest list is the same are answered one after
        the other, so that it still lies in the cache: together a fifth faster than FAISS alone.
        """
        turn, lists = _unchained(self.index)
        users = users if turn is None else turn.apply(users)
        own, products = nearest_lists(users, _centroids(lists), probes)
        order = np.argsort(own[:, 0], kind="stable")
        asked = [np.ascontiguousarray(part[order]) for part in (users, own, products)]
        scores, rows = np.empty((len(users), depth), dtype=np.float32), np.empty((len(users), depth), dtype=np.int64)
        lists.search_preassigned_c(
            len(users), faiss.swig_ptr(asked[0]), depth, *(faiss.swig_ptr(part) for part in (*asked[1:], scores, rows)),
            False, faiss.SearchParametersIVF(nprobe=probes, sel=chosen), None,
        )  # fmt: skip
        found = np.empty_like(scores), np.empty_like(rows)
        found[0][order], found[1][order] = scores, rows
        return found

    def _rescored(self, users: np.ndarray, rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The best of the rows by their full vectors."""
        assert self.vectors is not None
        scores, best = np.empty((len(users), depth), dtype=np.float32), np.empty((len(users), depth), dtype=np.int64)
        for start in range(0, len(users), _RESCORED):
            block = slice(start, start + _RESCORED)
            own = np.einsum("bkd,bd->bk", self.vectors[np.maximum(rows[block], 0)], users[block])
            own[rows[block] < 0] = -np.inf
            order = np.argsort(-own, axis=1, kind="stable")[:, :depth]
            scores[block] = np.take_along_axis(own, order, 1)
            best[block] = np.take_along_axis(rows[block], order, 1)
        return scores, best

    def save(self, path: Path) -> None:
        """Write to one file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(path):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            try:
                faiss.write_index(self.index, name)
                os.chmod(name, 0o644)
                os.replace(name, path)
            finally:
                Path(name).unlink(missing_ok=True)


def _gpus() -> int:
    return faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0


def read_rows(path: Path, settings: Settings, vectors: np.ndarray | None) -> FaissRows:
    """What `FaissRows.save` wrote, mapped from disk. Raises RuntimeError if it is no index."""
    if faiss is None:
        raise InputError(f"{path} is an index of FAISS, which is not installed. Remedy: {REMEDY}.")
    return FaissRows(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), settings, vectors)


def build_rows(vectors: np.ndarray, settings: Settings, seed: int = 0) -> FaissRows | ExactRows:
    """An index of [N, D] vectors. Without FAISS, `flat` is searched with torch and other kinds are refused."""
    if faiss is None and settings.kind == FLAT:
        return ExactRows(vectors=np.ascontiguousarray(vectors, dtype=np.float32))
    if faiss is None:
        raise InputError(f"faiss is not installed, and index.kind {settings.kind} needs it. Remedy: {REMEDY}.")
    index = _empty(vectors, settings, seed)
    for start in range(0, len(vectors), _ADDED):  # vectors mapped from disk are never held whole
        _add(index, np.ascontiguousarray(vectors[start : start + _ADDED], dtype=np.float32))
    return FaissRows(index, settings, vectors if settings.rescore > 1 else None)


def _empty(vectors: np.ndarray, settings: Settings, seed: int) -> Any:
    """An index without items that has learnt what it needs of `vectors`."""
    width = vectors.shape[1]
    if settings.kind == FLAT:
        return faiss.IndexFlatIP(width)
    if settings.kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, settings.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _CONSTRUCTION
        return index
    sample = _sample(vectors, settings.learnt_from(len(vectors)), seed)
    rotation, index = _rotation(sample, settings), _lists(width, settings)
    turned = sample if rotation is None else rotation.apply(sample)
    index.quantizer.add(learn_centroids(turned, settings.lists, seed))
    index.train(_sample(turned, _ENCODED, seed))
    if rotation is None:
        return index
    both = faiss.IndexPreTransform(rotation, index)
    rotation.this.disown()
    index.this.disown()
    both.own_fields = True
    return both


def _add(index: Any, vectors: np.ndarray) -> None:
    """Add items at the end, to the lists of their centroids where there are some."""
    turn, lists = _unchained(index)
    if not isinstance(lists, faiss.IndexIVF):
        index.add(vectors)
        return
    turned = vectors if turn is None else turn.apply(vectors)
    own = nearest_centroids(turned, _centroids(lists))
    lists.add_core(len(turned), faiss.swig_ptr(turned), None, faiss.swig_ptr(own), None)
    index.ntotal = lists.ntotal


def _unchained(index: Any) -> tuple[Any, Any]:
    """The rotation before an index, None without one, and the index itself."""
    if not isinstance(index, faiss.IndexPreTransform):
        return None, index
    return faiss.downcast_VectorTransform(index.chain.at(0)), faiss.downcast_index(index.index)


def _centroids(lists: Any) -> np.ndarray:
    """[lists, D] float32, the memory of an index of lists."""
    coarse = faiss.downcast_index(lists.quantizer)
    return faiss.rev_swig_ptr(coarse.get_xb(), lists.nlist * lists.d).reshape(-1, lists.d)


def _sample(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).permutation(len(vectors))[:count]
    return np.ascontiguousarray(vectors[np.sort(rows)], dtype=np.float32)


def _rotation(sample: np.ndarray, settings: Settings) -> Any:
    """OPQ (Ge et al. 2013) for a product quantiser; None for the other kinds."""
    if settings.kind != "ivf_pq":
        return None
    rotation = faiss.OPQMatrix(sample.shape[1], settings.code)
    rotation.niter = _ROTATIONS
    rotation.train(_sample(sample, _ENCODED, 0))
    return rotation


def _lists(width: int, settings: Settings) -> Any:
    """An index of inverted lists without centroids."""
    coarse, product = faiss.IndexFlatIP(width), faiss.METRIC_INNER_PRODUCT
    match settings.kind:
        case "ivf_flat":
            index = faiss.IndexIVFFlat(coarse, width, settings.lists, product)
        case "ivf_sq8":
            bytewise = faiss.ScalarQuantizer.QT_8bit
            index = faiss.IndexIVFScalarQuantizer(coarse, width, settings.lists, bytewise, product)
        case _:
            index = faiss.IndexIVFPQ(coarse, width, settings.lists, settings.code, 8, product)
    coarse.this.disown()
    index.own_fields = True
    return index
