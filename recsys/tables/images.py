"""Whether the pictures of items and queries are there and can be decoded."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl

DECODED = 20_000
"""Most pictures that are decoded; of more, this many in even steps. Whether a file is there is asked for all."""


@dataclass(frozen=True)
class BrokenImage:
    """A cell that names or holds no picture."""

    row: int
    kind: Literal["missing image", "unreadable image"]

    @property
    def message(self) -> str:
        """What is wrong."""
        return (
            "no such file below the data root" if self.kind == "missing image" else "a picture that cannot be decoded"
        )


def broken_images(root: str, cells: pl.Series) -> list[BrokenImage]:
    """The filled cells without a file, and (where Pillow is installed) those that do not decode, by row."""
    filled = [(row, cell) for row, cell in enumerate(cells) if cell is not None and cell not in ("", b"")]
    there = [(row, cell) for row, cell in filled if isinstance(cell, bytes) or is_inside(root, cell)]
    here = {row for row, _ in there}
    broken = [BrokenImage(row, "missing image") for row, _ in filled if row not in here]
    if find_spec("PIL") is not None:
        chosen = there[:: max(1, -(-len(there) // DECODED))]
        with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters becomes a fault
            good = pool.map(_decodes, [cell if isinstance(cell, bytes) else Path(root) / cell for _, cell in chosen])
            broken += [
                BrokenImage(row, "unreadable image") for (row, _), fine in zip(chosen, good, strict=True) if not fine
            ]
    return sorted(broken, key=lambda one: one.row)


def pictures_digest(root: str, cells: pl.Series, *, times: bool = False) -> bytes:
    """Hash of what the cells name: paths, each with the size of its file, or bytes.

    With `times`, when the files were written, too: that tells all changes, and differs between two copies.
    """
    digest = blake2b(digest_size=16)
    for cell in cells:
        digest.update(_named(root, cell, times=times))
    return digest.digest()


def picture_digests(root: str, cells: pl.Series) -> list[str]:
    """The same of each cell by itself; "" where it is empty."""
    return [blake2b(_named(root, cell), digest_size=16).hexdigest() if cell else "" for cell in cells]


def _named(root: str, cell: str | bytes | None, *, times: bool = False) -> bytes:
    if isinstance(cell, bytes):
        return b"bytes" + blake2b(cell, digest_size=16).digest()
    found = (Path(root) / cell).stat() if cell is not None and is_inside(root, cell) else None
    stamp = "none" if found is None else f"{found.st_size} {found.st_mtime_ns if times else ''}"
    return f"path {cell} {stamp}\n".encode()


def is_inside(root: str, path: str) -> bool:
    """Whether this is a file below the root; a path that leads out of it is none."""
    outside = Path(path).is_absolute() or ".." in Path(path).parts  # a table must not point out of its folder
    try:
        return not outside and (Path(root) / path).is_file()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def _decodes(image: bytes | Path) -> bool:
    """Whether all of the file decodes; the reduced scale of JPEG makes that quick, `verify` would miss a cut file."""
    from PIL import Image  # an extra: the check is left out without it

    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            picture.draft("RGB", (32, 32))
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True
