"""Texts -> token ids, once: memory-mapped flat arrays that batches are cut from.

Flat arrays were chosen over Arrow: a batch is one gather, without a Python object per text.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from recsys.batch import TextBatch
from recsys.data.sampling import uniform
from recsys.data.text import chunks, plain_backend, texts_digest
from recsys.shards import fingerprint, publish_folder

LONGEST = 1 << 20
"""Tokens of a text, more than any has: row * LONGEST + place names a token."""
_LAYOUT = 1  # of the files; a change makes old caches unused


class Tokens:
    """The tokens of n texts, special tokens included: text i is `ids[offsets[i] : offsets[i + 1]]`."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, pad_id: int) -> None:
        self.ids = ids  # [tokens] int32
        self.offsets = offsets  # [n + 1] int64
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[n] int64, tokens of each text; never 0."""
        return np.diff(self.offsets)

    def batch(self, rows: np.ndarray, drop: tuple[float, int, int] | None = None) -> TextBatch:
        """The texts of these rows (any order, repeats allowed), padded to the longest of them; [0, 1] for no rows.

        With `drop`, a share, a seed and an epoch, each token but the first and the last of a text is left out with that
        chance, as seed, epoch, row and place decide.
        """
        rows = np.asarray(rows, dtype=np.int64)
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        steps = np.arange(lengths.max(initial=1))
        inside = steps < lengths[:, None]
        if drop is not None:
            share, seed, epoch = drop
            chance = uniform(seed, epoch, rows[:, None] * LONGEST + steps)
            inside &= (chance >= share) | (steps == 0) | (steps == lengths[:, None] - 1)
            lengths = inside.sum(1)
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self.ids[(starts[:, None] + steps)[inside]]
        return TextBatch(ids=torch.from_numpy(ids), mask=torch.from_numpy(mask))


class TokenCache(Tokens):
    """Tokens that are mapped from disk. Cheap to hand to worker processes: they open the same files again."""

    def __init__(self, folder: Path, pad_id: int) -> None:
        """Open a finished cache. Raises ValueError or OSError if a file is missing, cut or of another shape."""
        ids, offsets = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("ids.npy", "offsets.npy")
        )
        super().__init__(ids, offsets, pad_id)
        self.folder = folder
        if self.ids.dtype != np.int32 or self.offsets.dtype != np.int64 or self.offsets[-1] != len(self.ids):
            raise ValueError(f"{folder} holds arrays that do not fit together")

    def __reduce__(self) -> tuple[type["TokenCache"], tuple[Path, int]]:
        """Reopen instead of copying: a memory map would travel as its whole content."""
        return TokenCache, (self.folder, self.pad_id)


def tokenize(texts: Sequence[str], backend: Tokenizer, pad_id: int) -> Tokens:
    """The tokens of texts, in memory; `backend` comes from `plain_backend`."""
    ids, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
    for found in _chunks_of_ids(texts, backend, pad_id):
        lengths.append(np.array([len(row) for row in found], dtype=np.int64))
        ids.append(np.fromiter(chain.from_iterable(found), dtype=np.int32))
    return Tokens(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), pad_id)


def _chunks_of_ids(texts: Sequence[str], backend: Tokenizer, pad_id: int) -> Iterator[list[list[int]]]:
    for chunk in chunks(texts):
        # A tokenizer without special tokens can find nothing in a text; attention needs one token.
        yield [encoding.ids or [pad_id] for encoding in backend.encode_batch_fast(chunk)]


def token_cache(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_tokens: int, folder: Path) -> TokenCache:
    """The token cache of these texts below `folder`: opened if it is there and whole, else built.

    Its sub-folder is named by a hash of texts, tokenizer and `max_tokens`. Building uses every core, keeps memory flat
    (a chunk of texts at a time), and leaves nothing half-written.
    """
    backend = plain_backend(tokenizer, max_tokens)
    pad_id = backend.token_to_id(str(tokenizer.pad_token)) or 0
    home = folder / f"tokens-{fingerprint(_LAYOUT, pad_id, backend.to_str(), texts_digest(texts))}"
    if not _whole(home):
        with publish_folder(home) as made:
            _write(texts, backend, pad_id, made)
    return TokenCache(home, pad_id)


def _whole(home: Path) -> bool:
    """Whether the cache is there with the content that was once written."""
    try:
        written = json.loads((home / "written.json").read_text())
        cache = TokenCache(home, 0)
        return written == {"ids": _checksum(cache.ids), "offsets": _checksum(cache.offsets)}
    except (OSError, ValueError, IndexError, EOFError):
        return False


def _checksum(values: np.ndarray) -> int:
    """CRC-32 of the array's bytes, a block at a time."""
    total = 0
    for start in range(0, len(values), 1 << 22):
        total = zlib.crc32(values[start : start + (1 << 22)].tobytes(), total)
    return total


def _write(texts: Sequence[str], backend: Tokenizer, pad_id: int, made: Path) -> None:
    lengths: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
    with (made / "ids.npy").open("wb") as file:
        _header(file, 0)
        for ids in _chunks_of_ids(texts, backend, pad_id):
            lengths.append(np.array([len(row) for row in ids], dtype=np.int64))
            file.write(np.fromiter(chain.from_iterable(ids), dtype="<i4").tobytes())
        offsets = np.cumsum(np.concatenate(lengths))
        _header(file, int(offsets[-1]))
    np.save(made / "offsets.npy", offsets)
    cache = TokenCache(made, pad_id)
    (made / "written.json").write_text(json.dumps({"ids": _checksum(cache.ids), "offsets": _checksum(cache.offsets)}))


def _header(file: BinaryIO, count: int) -> None:
    """Write the array's header at the front; numpy leaves room in it for the count to grow."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (count,)})
