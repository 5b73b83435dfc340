"""Write a part, rename it, record it; skip finished parts. The whole of "nothing half-written, nothing lost".

A folder of parts carries `manifest.json` with the fingerprint of everything the parts depend on, and beside each part
its record. A folder made from other inputs is never overwritten unasked.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
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


def array_hash(values: np.ndarray, block: int = 1 << 14) -> str:
    """Hash of an array's shape, type and bytes; one that is mapped from disk is never held whole."""
    digest = hashlib.blake2b(f"{values.shape} {values.dtype}".encode(), digest_size=16)
    for start in range(0, len(values), block):
        digest.update(np.ascontiguousarray(values[start : start + block]).data)
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """Hash of the names and bytes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint([(str(path.relative_to(folder)), file_hash(path)) for path in files])


MANIFEST = "manifest.json"
"""What a folder of parts was made from."""

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


@contextmanager
def one_at_a_time(folder: Path) -> Generator[None]:
    """Let the processes of a machine into the block one after the other. A lock ends with its process, however that
    does; a folder that cannot be locked lets all in.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


FORMAT = 3
"""Version of what a folder of parts holds."""


class Record(TypedDict):
    """What lies beside a finished part, as part-00000.json."""

    fingerprint: str
    rows: int
    inputs: str
    bytes: int
    hash: str


@dataclass(frozen=True)
class Parts:
    """A folder of numbered Parquet parts that all depend on one fingerprint.

    Several processes may write different parts of one folder at the same time: nothing but the fingerprint is shared.
    """

    folder: Path
    fingerprint: str

    @classmethod
    def open(cls, folder: Path, made_from: Mapping[str, object], *, overwrite: bool = False) -> "Parts":
        """Go on in `folder`, or start it. One that was made from other things is refused unless `overwrite`.

        `made_from` names all that every part depends on; what a single part depends on is its `inputs`.
        """
        own = {name: fingerprint(value) for name, value in made_from.items()}
        found = _read_manifest(folder) if (folder / MANIFEST).is_file() else None
        if found is None and folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir()):
            raise InputError(f"{folder} holds files that are no output of this program; name another folder.")
        if found not in (None, own):
            if not overwrite:
                others = [name for name in {**own, **found} if own.get(name) != found.get(name)]
                raise InputError(
                    f"{folder} holds output made from other inputs: not the same {', '.join(others)}. "
                    "Name another folder with --output=DIR, or replace it with --overwrite=true."
                )
            _clear(folder)
        if found != own:
            write_atomic(folder / MANIFEST, json.dumps({"format": FORMAT, "made_from": own}))
        return cls(folder, fingerprint(own))

    @classmethod
    def read(cls, folder: Path) -> "Parts":
        """What lies in a folder, whatever it was made from."""
        return cls(folder, fingerprint(_read_manifest(folder)))

    def path(self, number: int) -> Path:
        """Where part `number` lies."""
        return self.folder / f"part-{number:05d}.parquet"

    def record(self, number: int) -> Record | None:
        """What is recorded of part `number`; None if it is not there, or not of this fingerprint."""
        return self._read_record(self.path(number).with_suffix(".json"))

    def _read_record(self, path: Path) -> Record | None:
        try:
            found: Record = json.loads(path.read_text())
            whole = found["fingerprint"] == self.fingerprint
            return found if whole and path.with_suffix(".parquet").stat().st_size == found["bytes"] else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def finished(self, number: int, inputs: str = "") -> bool:
        """Whether part `number` is there, made from `inputs`, and recorded with its size."""
        record = self.record(number)
        return record is not None and record["inputs"] == inputs

    def write(self, number: int, frame: pl.DataFrame, inputs: str = "") -> None:
        """Write part `number`, made from `inputs` (a hash), beside its place; rename it; record it."""
        path = self.path(number)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{path.name}.")  # two may make the same part
        os.close(handle)
        temporary = Path(name)
        with disk_errors(path):
            try:
                frame.write_parquet(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                record = Record(
                    fingerprint=self.fingerprint, rows=len(frame), inputs=inputs, bytes=temporary.stat().st_size,
                    hash=file_hash(temporary),
                )  # fmt: skip
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        write_atomic(path.with_suffix(".json"), json.dumps(record))

    def finished_parts(self) -> dict[int, Record]:
        """The records of all finished parts by their numbers, in their order."""
        paths = sorted(self.folder.glob("part-*.json"), key=lambda path: int(path.stem[5:]))
        found = {int(path.stem[5:]): self._read_record(path) for path in paths}
        return {number: record for number, record in found.items() if record is not None}

    def rows(self) -> int:
        """Rows in all finished parts."""
        return sum(record["rows"] for record in self.finished_parts().values())

    def frame(self) -> pl.LazyFrame:
        """All finished parts as one table, in their order. At least one must be there."""
        return pl.scan_parquet([self.path(number) for number in self.finished_parts()])

    def audit(self, inputs: Sequence[str]) -> int:
        """Check that there are exactly the parts made from `inputs` each, byte for byte; returns their rows.

        InputError for a part that is damaged or made from others: it is no longer recorded, and so made again.
        """
        wrong = [number for number, one in enumerate(inputs) if not self._holds(number, one)]
        more = sorted(set(self.finished_parts()) - set(range(len(inputs))))
        for number in wrong + more:
            self.path(number).with_suffix(".json").unlink(missing_ok=True)
        if wrong or more:
            what = ", ".join(map(str, [*wrong, *more][:5]))
            raise InputError(
                f"{self.folder}: part {what} was not what had been written. It is taken as missing now: run the same "
                "command again, which makes it anew."
            )
        return self.rows()

    def _holds(self, number: int, inputs: str) -> bool:
        record = self.record(number)
        return record is not None and record["inputs"] == inputs and file_hash(self.path(number)) == record["hash"]


def _clear(folder: Path) -> None:
    """Remove a folder's content, the manifest last: broken off, it still says whose the rest is."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MANIFEST:
            path.unlink()
    (folder / MANIFEST).unlink()


def _read_manifest(folder: Path) -> dict[str, str]:
    """What the parts were made from, hashed; of another format nothing can be said."""
    path = folder / MANIFEST
    try:
        content: Any = json.loads(path.read_text())
        return dict(content["made_from"]) if content["format"] == FORMAT else {"format": str(content["format"])}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a readable manifest ({error}); remove its folder to start again.") from error
