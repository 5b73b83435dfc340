"""Pictures -> pixels or, for a frozen encoder, vectors; each made once and mapped from disk afterwards.

Pixels are cached as whole bytes at the size that the encoder reads: decoding, which costs most, is done once.
"""

import io
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys.data.sampling import uniform
from recsys.errors import InputError
from recsys.shards import fingerprint, publish_folder
from recsys.tables.images import is_inside, pictures_digest
from recsys.vectors import FrozenEncoder, VectorStore, content_keys

_LAYOUT = 1  # of the files; a change makes old caches unused
_BLOCK = 1024  # pictures that are decoded before they are written
_SHIFT = 8  # a picture is shifted by up to this part of its width


@dataclass(frozen=True, kw_only=True)
class Images:
    """How the pictures of items reach a batch: pixels for a trained encoder, or vectors of a frozen one."""

    known: np.ndarray  # [N] bool
    pixels: np.ndarray | None = None  # [N, 3, P, P] uint8
    vectors: np.ndarray | None = None  # [N, W]
    augment: bool = False

    def read(self, rows: np.ndarray, moved: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
        """The fields of an ItemBatch that are about pictures; `moved` is the seed and epoch of what augments them."""
        known = {"image_known": torch.from_numpy(self.known[rows])}
        if self.vectors is not None:
            return {**known, "image_vector": torch.from_numpy(np.asarray(self.vectors[rows], dtype=np.float32))}
        assert self.pixels is not None
        pixels = np.asarray(self.pixels[rows])
        if self.augment and moved is not None:
            pixels = shift_and_mirror(pixels, rows, *moved)
        return {**known, "image": torch.from_numpy(pixels)}


def shift_and_mirror(pixels: np.ndarray, rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """[n, 3, P, P] pictures of items `rows`, each shifted by up to an eighth and mirrored half of the time; what comes
    in from outside repeats the edge. A pure function of seed, epoch and row.
    """
    size = pixels.shape[-1]
    reach = size // _SHIFT
    places = np.arange(size)
    down, right, turn = (uniform(seed, epoch, 4 * rows + draw) for draw in range(3))
    y = places + (down * (2 * reach + 1)).astype(np.int64)[:, None] - reach
    x = places + (right * (2 * reach + 1)).astype(np.int64)[:, None] - reach
    x = np.where((turn < 0.5)[:, None], x[:, ::-1], x)
    y, x = np.clip(y, 0, size - 1), np.clip(x, 0, size - 1)
    number = np.arange(len(pixels))[:, None, None]
    return np.ascontiguousarray(
        pixels.transpose(0, 2, 3, 1)[number, y[:, :, None], x[:, None, :]].transpose(0, 3, 1, 2)
    )


def image_source(
    root: str,
    cells: pl.Series,
    pixels: int,
    folder: Path,
    *,
    frozen: FrozenEncoder | None,
    augment: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Images:
    """How pictures reach a batch.

    Args:
        root: folder that the cells' paths are below.
        cells: a path, bytes or null for each item.
        pixels: height and width.
        folder: of the caches.
        frozen: the encoder of [n, 3, P, P] uint8, whose vectors are kept; None: pixels go into the batch.
        augment: whether pictures that are trained on are shifted and mirrored.
        share: as `text_source` takes it.
    """
    home = pixel_cache(root, cells, pixels, folder)
    known = np.load(home / "known.npy", allow_pickle=False)
    made = np.load(home / "pixels.npy", mmap_mode="r", allow_pickle=False)
    if frozen is None:
        return Images(known=known, pixels=made, augment=augment)
    store = VectorStore(folder=folder / "image-vectors", made_from=frozen.key, width=frozen.width)
    keys = content_keys(picture.tobytes() for picture in made)
    return Images(known=known, vectors=store.read(keys, lambda rows: frozen.encode(made[rows]), share))


def pixel_cache(root: str, cells: pl.Series, pixels: int, folder: Path) -> Path:
    """The folder, below `folder`, of pixels.npy [N, 3, P, P] uint8 and known.npy [N] bool; made if it is not there.

    It is named by a hash of what the cells name: of paths, the file's size and time. A file that is missing or cannot
    be read is no error: its row is not known, and how many those are is said.
    """
    named = pictures_digest(root, cells, times=True).hex()
    home = folder / f"pixels-{fingerprint(_LAYOUT, pixels, str(Path(root).resolve()), named)}"
    if (home / "known.npy").is_file():
        return home
    decode = _decoder(root, pixels)
    with publish_folder(home) as made:
        shape = (len(cells), 3, pixels, pixels)
        out = np.lib.format.open_memmap(made / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
        known = np.zeros(len(cells), dtype=bool)
        with ThreadPoolExecutor() as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files
            for start in range(0, len(cells), _BLOCK):
                for row, found in enumerate(pool.map(decode, cells[start : start + _BLOCK]), start):
                    if found is not None:
                        out[row], known[row] = found, True
        out.flush()
        np.save(made / "known.npy", known)
    broken = np.flatnonzero(~known & cells.is_not_null().to_numpy())
    if len(broken):
        first = ", ".join(map(str, broken[:5]))
        print(f"images: {len(broken):,} of {len(cells):,} cannot be read and count as missing (rows {first})",
              file=sys.stderr)  # fmt: skip
    return home


def decode_picture(content: bytes, pixels: int) -> np.ndarray | None:
    """[1, 3, P, P] uint8 of a picture's bytes, kept nowhere; None for one that cannot be read."""
    found = _decoder("", pixels)(content)
    return None if found is None else found[None]


def _decoder(root: str, pixels: int) -> Callable[[Any], np.ndarray | None]:
    """Cell -> [3, P, P] uint8, None for what is missing or cannot be read. Raises InputError without Pillow."""
    try:
        from PIL import Image  # an extra: only who reads pictures needs it
    except ImportError as error:
        remedy = "Install the extra `images`: pip install 'recsys[images]'."
        raise InputError(f"Pictures are read with Pillow, which is not installed. {remedy}") from error

    def decode(cell: Any) -> np.ndarray | None:
        if not cell or not (isinstance(cell, bytes) or is_inside(root, cell)):
            return None
        try:
            with Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else Path(root) / cell) as picture:
                picture.draft("RGB", (pixels, pixels))
                clear = "transparency" in picture.info or "A" in picture.getbands()
                whole = picture.convert("RGBA") if clear else picture
                if whole.mode == "RGBA":  # what shines through is white
                    whole = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
                small = whole.convert("RGB").resize((pixels, pixels), Image.Resampling.BILINEAR, reducing_gap=3.0)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return np.asarray(small).transpose(2, 0, 1)

    return decode
