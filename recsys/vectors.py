"""Vectors of a table's rows at rest: one file that is mapped, filled part by part, in which nothing is computed twice.

A store has a folder for each state of the table: the content key of each row (keys.npy), the vectors (vectors.npy, of
its final size from the start), a record beside each finished part and, last of all, DONE. Rows that an earlier state
knows are copied from it. A part is the same whoever makes it, and whenever.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import InputError
from recsys.shards import disk_errors, fingerprint, one_at_a_time, publish_folder, write_atomic

_LAYOUT = 1  # of the files; a change makes old stores unused
_LATEST = 8  # states that may be copied from


class Unfinished(Exception):
    """This process has made its share of a table's vectors, and parts of other shares are missing."""


Encode = Callable[[np.ndarray], np.ndarray]
"""[n] rows of the table -> their vectors, [n, W]."""


def content_keys(rows: Iterable[bytes]) -> np.ndarray:
    """[n] keys of contents, 16 bytes each: equal where the content is."""
    return np.frombuffer(b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in rows), dtype="S16")


def find_keys(known: np.ndarray, keys: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """[n] int64 row of each key among the known ones, -1 for one that is not there; `order` sorts the known ones."""
    if not len(known):
        return np.full(len(keys), -1)
    order = np.argsort(known, kind="stable") if order is None else order
    rows = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    return np.where(known[rows] == keys, rows, -1)


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder whose weights stay as they are, so that a content has one vector."""

    encode: Callable[[Any], np.ndarray]
    """n contents, as the encoder reads them -> [n, W] float32."""
    width: int
    """W."""
    key: str
    """What the vectors depend on beside the contents."""


@dataclass(frozen=True, kw_only=True)
class VectorStore:
    """Where vectors that were made in one way lie.

    Several processes may fill one state at the same time: each writes its own parts in their places.
    """

    folder: Path
    made_from: str
    """Fingerprint of all that the vectors depend on, beside the content of their rows."""
    width: int
    dtype: str = "float32"
    part: int = 65_536
    """Rows that are made at a time."""
    keep: bool = True
    """Whether states of other tables and other making stay when a state is whole."""

    def read(self, keys: np.ndarray, encode: Encode, share: tuple[int, int] = (0, 1)) -> np.ndarray:
        """The vectors of a table, [N, W], mapped from disk; what is not there is made first.

        Args:
            keys: [N] of the rows, from `content_keys`.
            encode: of rows that no earlier state knows; equal rows of one part are asked for once.
            share: I, N: this process makes every N-th part from the I-th on.

        Raises:
            InputError: the disk is full, or a file has been cut short.
            Unfinished: parts of other shares are missing.
        """
        state = self._state(keys)
        if not (state / "DONE").is_file():
            earlier = self._begin(state, keys)
            for number in range(share[0], self._parts(keys), share[1]):
                if _record(state, number) is None:
                    self._fill(state, number, keys, earlier, encode)
            if any(_record(state, number) is None for number in range(self._parts(keys))):
                raise Unfinished
            self._end(state)
        return self._open(state, len(keys))

    def made(self, keys: np.ndarray) -> tuple[int, int]:
        """Rows of a whole state, and how many of them were not copied from an earlier one."""
        records = [_record(self._state(keys), number) or {} for number in range(self._parts(keys))]
        return len(keys), sum(one.get("new", 0) for one in records)

    def audit(self, keys: np.ndarray) -> None:
        """Check a whole state, byte for byte. InputError for a damaged part, which is taken as missing from then on."""
        state = self._state(keys)
        vectors = self._open(state, len(keys))
        blocks = {number: vectors[number * self.part :][: self.part] for number in range(self._parts(keys))}
        damaged = [
            number for number, block in blocks.items() if (_record(state, number) or {}).get("hash") != _hash(block)
        ]
        for number in damaged:
            _place(state, number).unlink(missing_ok=True)
        if damaged:
            (state / "DONE").unlink()
            raise InputError(
                f"{state / 'vectors.npy'}: part {damaged[0]} is not what had been written ({len(damaged)} of "
                f"{len(blocks)} parts). Run the same command again, which makes what is damaged anew."
            )

    @property
    def _home(self) -> Path:
        return self.folder / fingerprint(_LAYOUT, self.made_from, self.width, self.dtype, self.part)

    def _state(self, keys: np.ndarray) -> Path:
        return self._home / hashlib.blake2b(keys.tobytes(), digest_size=12).hexdigest()

    def _parts(self, keys: np.ndarray) -> int:
        return -(-len(keys) // self.part)

    def _begin(self, state: Path, keys: np.ndarray) -> "_Earlier | None":
        """Make the state's folder, if it is not there; open the earlier state that is copied from, chosen then."""
        with one_at_a_time(self._home):
            if not (state / "earlier.json").is_file():
                with publish_folder(state) as made:
                    np.save(made / "keys.npy", keys)
                    _reserve(made / "vectors.npy", (len(keys), self.width), self.dtype)
                    write_atomic(made / "earlier.json", json.dumps(self._nearest(keys)))
        name = json.loads((state / "earlier.json").read_text())
        return None if name is None else _Earlier.open(self._home / name)

    def _nearest(self, keys: np.ndarray) -> str | None:
        """The name of the whole state that knows most of the keys, of the latest few: tables with one encoder share a
        store.
        """
        found = []
        for done in self._home.glob("*/DONE"):
            with suppress(OSError):  # another process removes it
                found.append((done.stat().st_mtime_ns, done.parent.name))
        known = {}
        for _, name in sorted(found)[-_LATEST:]:
            with suppress(OSError, ValueError):
                own = np.load(self._home / name / "keys.npy", allow_pickle=False)
                known[name] = int((find_keys(own, keys) >= 0).sum())
        best = max(known, key=lambda name: known[name], default=None)
        return best if best is not None and known[best] else None

    def _fill(self, state: Path, number: int, keys: np.ndarray, earlier: "_Earlier | None", encode: Encode) -> None:
        first = number * self.part
        own, where, inverse = np.unique(keys[first : first + self.part], return_index=True, return_inverse=True)
        known = np.full(len(own), -1) if earlier is None else find_keys(earlier.keys, own, earlier.order)
        values = np.empty((len(own), self.width), dtype=self.dtype)
        if earlier is not None:
            values[known >= 0] = earlier.vectors[known[known >= 0]]
        new = np.flatnonzero(known < 0)
        new = new[np.argsort(where[new])]  # in the table's order
        if len(new):
            values[new] = encode(first + where[new])
        content = np.ascontiguousarray(values[inverse])
        _write_rows(state / "vectors.npy", first, content)
        write_atomic(_place(state, number), json.dumps({"new": len(new), "hash": _hash(content)}))

    def _end(self, state: Path) -> None:
        write_atomic(state / "DONE", "")
        for done in [] if self.keep else self.folder.glob("*/*/DONE"):  # what is being filled has none yet
            if done.parent != state:
                done.unlink(missing_ok=True)
                shutil.rmtree(done.parent, ignore_errors=True)  # another process may be doing the same

    def _open(self, state: Path, count: int) -> np.ndarray:
        path, shape = state / "vectors.npy", (count, self.width)
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is cut short or damaged ({error}). Remove {state}: it is made anew then."
            ) from error
        if vectors.shape != shape:
            raise InputError(f"{path} holds values of shape {vectors.shape}, expected {shape}. Remove {state}.")
        return vectors


@dataclass(frozen=True, kw_only=True)
class _Earlier:
    """A whole state, by content."""

    keys: np.ndarray  # [N]
    order: np.ndarray  # [N] int64, that sorts them
    vectors: np.ndarray  # [N, W]

    @classmethod
    def open(cls, state: Path) -> "_Earlier | None":
        """None where it has gone in the meantime."""
        try:
            keys = np.load(state / "keys.npy", mmap_mode="r", allow_pickle=False)
            vectors = np.load(state / "vectors.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None
        return cls(keys=keys, order=np.argsort(keys, kind="stable"), vectors=vectors)


def _place(state: Path, number: int) -> Path:
    return state / f"part-{number:05d}.json"


def _record(state: Path, number: int) -> dict[str, Any] | None:
    try:
        return json.loads(_place(state, number).read_text())
    except (OSError, ValueError):
        return None


def _hash(values: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).view(np.uint8).data, digest_size=16).hexdigest()


def _reserve(path: Path, shape: tuple[int, int], dtype: str) -> None:
    """An array of its final size, whose values are still to come."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


def _write_rows(path: Path, first: int, values: np.ndarray) -> None:
    """Write rows to their place. Not through a memory map, whose writer a full disk kills without a word."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        start = file.tell() + first * values.shape[1] * values.itemsize
    with disk_errors(path), os.fdopen(os.open(path, os.O_WRONLY), "wb") as file:  # never a page read with a neighbour's
        file.seek(start)
        file.write(values.data)
        file.flush()
        os.fsync(file.fileno())
