"""Write a part, rename it, record it; skip finished parts. The whole of "nothing half-written, nothing lost".

A folder of parts carries `manifest.json` with the fingerprint of everything the parts depend on. A folder made from
other inputs is never overwritten unasked.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn a full disk or a folder without rights into one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"Cannot write {path}: {error.strerror or error}. Free some space or choose another folder.") from error


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
    """A temporary folder that takes the name `folder` when the block ends well, and vanishes when it does not."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            yield made
            os.chmod(made, 0o755)
            if folder.exists():
                old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
                os.rename(folder, old / "old")
                os.rename(made, folder)
                shutil.rmtree(old)
            else:
                os.rename(made, folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise


@dataclass(frozen=True)
class Parts:
    """A folder of numbered Parquet parts that all depend on one fingerprint."""

    folder: Path
    fingerprint: str

    @classmethod
    def open(cls, folder: Path, fingerprint: str, *, overwrite: bool = False) -> "Parts":
        """Go on in `folder`, or start it. A folder of another fingerprint is refused unless `overwrite`."""
        manifest = folder / "manifest.json"
        found = _read_manifest(manifest).get("fingerprint") if manifest.is_file() else None
        foreign = found is None and folder.is_dir() and any(folder.iterdir())
        if (found is not None and found != fingerprint) or foreign:
            if not overwrite:
                raise InputError(
                    f"{folder} holds output made from other inputs (fingerprint {found}, this run's is {fingerprint}). "
                    "Name another folder with --output=DIR, or replace it with --overwrite=true."
                )
            shutil.rmtree(folder)
        if found != fingerprint or not folder.is_dir():
            write_atomic(manifest, json.dumps({"fingerprint": fingerprint, "parts": {}}))
        return cls(folder, fingerprint)

    def path(self, number: int) -> Path:
        """Where part `number` lies."""
        return self.folder / f"part-{number:05d}.parquet"

    def finished(self, number: int) -> bool:
        """Whether part `number` is there and recorded with its size."""
        recorded = _read_manifest(self.folder / "manifest.json")["parts"].get(str(number))
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
        manifest = _read_manifest(self.folder / "manifest.json")
        manifest["parts"][str(number)] = {"rows": len(frame), "bytes": path.stat().st_size}
        write_atomic(self.folder / "manifest.json", json.dumps(manifest))

    def rows(self) -> int:
        """Rows in all recorded parts."""
        return sum(part["rows"] for part in _read_manifest(self.folder / "manifest.json")["parts"].values())

    def frame(self) -> pl.LazyFrame:
        """All parts as one table."""
        return pl.scan_parquet(sorted(self.folder.glob("part-*.parquet")))


def _read_manifest(path: Path) -> dict[str, dict[str, dict[str, int]]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable manifest ({error}); remove its folder to start again.") from error
