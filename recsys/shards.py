"""Write a part, rename it, record it; skip finished parts. The whole of "nothing half-written, nothing lost".

A folder of parts carries `manifest.json` with the fingerprint of everything the parts depend on. A folder made from
other inputs is never overwritten unasked.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import polars as pl

from recsys.errors import InputError


def fingerprint(*values: object) -> str:
    """A short hash of plain values (anything json can write), the same on every machine."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def file_hash(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """Hash of the names and bytes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint([(str(path.relative_to(folder)), file_hash(path)) for path in files])


MANIFEST = "manifest.json"
"""What a folder of parts was made from, and which parts are finished."""

_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn a full disk or a folder without rights into one sentence. Errors of another kind pass."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        fault = _disk_fault(error)
        if not fault:
            raise
        raise InputError(f"Cannot write {path}: {fault}. Free some space or choose another folder.") from error


def _disk_fault(error: Exception) -> str:
    """What the disk refused, or "". Libraries that are not Python say it in words: polars, safetensors, torch."""
    number = error.errno if isinstance(error, OSError) else None
    in_words = re.search(r"\(os error (\d+)\)", str(error))
    if number is None and in_words:
        number = int(in_words[1])
    if number in _DISK:
        return os.strerror(number)
    cut = re.search(r"\d+ requested and \d+ written|PytorchStreamWriter failed", str(error))
    return "only a part could be written" if cut else ""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old or the new content and never a part of it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def publish_folder(folder: Path) -> Generator[Path]:
    """A temporary folder that takes the name `folder` when the block ends well, and vanishes when it does not.

    A folder that was there before is replaced. One that another process published in the meantime stays: both made it
    from the same inputs, and somebody may be opening its files.
    """
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        replaces = folder.exists()
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield made
            os.chmod(made, 0o755)
            _take_name(made, folder, replaces)
        finally:
            shutil.rmtree(made, ignore_errors=True)  # nothing is there any more if it has taken the name


def _take_name(made: Path, folder: Path, replaces: bool) -> None:
    """Rename `made` to `folder`; what lies there is moved aside first (`replaces`), or stays."""
    aside = Path(f"{made}.old")
    while not _renamed(made, folder):
        if not replaces:
            return
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _renamed(made: Path, folder: Path) -> bool:
    """Whether `folder` was free, so that `made` is now called so."""
    try:
        os.rename(made, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


class _Manifest(TypedDict):
    fingerprint: str
    parts: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Parts:
    """A folder of numbered Parquet parts that all depend on one fingerprint."""

    folder: Path
    fingerprint: str

    @classmethod
    def open(cls, folder: Path, fingerprint: str, *, overwrite: bool = False) -> "Parts":
        """Go on in `folder`, or start it. A folder of another fingerprint is refused unless `overwrite`."""
        found = _read_manifest(folder)["fingerprint"] if (folder / MANIFEST).is_file() else None
        if found is None and folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir()):
            raise InputError(f"{folder} holds files that are no output of this program; name another folder.")
        if found not in (None, fingerprint):
            if not overwrite:
                raise InputError(
                    f"{folder} holds output made from other inputs (fingerprint {found}, this run's is {fingerprint}). "
                    "Name another folder with --output=DIR, or replace it with --overwrite=true."
                )
            _clear(folder)
        if found != fingerprint:
            _write_manifest(folder, {"fingerprint": fingerprint, "parts": {}})
        return cls(folder, fingerprint)

    def path(self, number: int) -> Path:
        """Where part `number` lies."""
        return self.folder / f"part-{number:05d}.parquet"

    def finished(self, number: int) -> bool:
        """Whether part `number` is there and recorded with its size."""
        recorded = _read_manifest(self.folder)["parts"].get(str(number))
        path = self.path(number)
        return recorded is not None and path.is_file() and path.stat().st_size == recorded["bytes"]

    def write(self, number: int, frame: pl.DataFrame) -> None:
        """Write part `number` beside its place, rename it, record it."""
        path = self.path(number)
        temporary = path.with_name(f".{path.name}.tmp")
        with disk_errors(path):
            try:
                frame.write_parquet(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        manifest = _read_manifest(self.folder)
        manifest["parts"][str(number)] = {"rows": len(frame), "bytes": path.stat().st_size}
        _write_manifest(self.folder, manifest)

    def rows(self) -> int:
        """Rows in all recorded parts."""
        return sum(part["rows"] for part in _read_manifest(self.folder)["parts"].values())

    def frame(self) -> pl.LazyFrame:
        """All recorded parts as one table, in their order. At least one must be there."""
        return pl.scan_parquet([self.path(number) for number in sorted(map(int, _read_manifest(self.folder)["parts"]))])


def _clear(folder: Path) -> None:
    """Remove a folder's content, the manifest last: broken off, it still says whose the rest is."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MANIFEST:
            path.unlink()
    (folder / MANIFEST).unlink()


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    write_atomic(folder / MANIFEST, json.dumps(manifest))


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        content: Any = json.loads(path.read_text())
        return cast("_Manifest", {"fingerprint": str(content["fingerprint"]), "parts": dict(content["parts"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a readable manifest ({error}); remove its folder to start again.") from error
