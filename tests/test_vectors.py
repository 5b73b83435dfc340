"""Vectors of a table that are made part by part, once, and kept where a row has not changed."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import InputError
from recsys.vectors import Unfinished, VectorStore, content_keys

TEXTS = [f"text {number % 17}" for number in range(20)]


class Encoder:
    """What each text says, as numbers; counts what it is asked."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.asked = texts, []

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.asked += rows.tolist()
        return np.array([plain(self.texts[row]) for row in rows], dtype=np.float32)


def plain(text: str) -> list[float]:
    return [float(text.split()[1]), float(len(text)), float(text.split()[1]) % 7]


def keys(texts: list[str]) -> np.ndarray:
    return content_keys(text.encode() for text in texts)


def store(folder: Path, **more) -> VectorStore:
    return VectorStore(folder=folder / "store", made_from="one", width=3, part=6, **more)


def read(one: VectorStore, texts: list[str], share: tuple[int, int] = (0, 1)) -> tuple[np.ndarray, list[int]]:
    encoder = Encoder(texts)
    return one.read(keys(texts), encoder, share), encoder.asked


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_row_has_its_vector_and_nothing_is_made_twice(tmp_path):
    found, asked = read(store(tmp_path), TEXTS)
    assert isinstance(found, np.memmap)
    assert found.tolist() == [plain(text) for text in TEXTS]
    assert asked == list(range(20))
    again, asked = read(store(tmp_path), TEXTS)
    assert again.tolist() == found.tolist()
    assert asked == []


def test_equal_rows_of_a_part_are_asked_for_once(tmp_path):
    texts = ["text 4", "text 1", "text 4", "text 4", "text 1", "text 9", "text 4"]
    found, asked = read(store(tmp_path), texts)
    assert found.tolist() == [plain(text) for text in texts]
    assert asked == [0, 1, 5, 6]


def test_only_what_has_changed_is_made_and_what_is_gone_is_not_there(tmp_path):
    read(store(tmp_path), TEXTS)
    changed = ["text 101", *TEXTS[3:9], "text 102", *TEXTS[:3], "text 103"]
    found, asked = read(store(tmp_path), changed)
    assert found.tolist() == [plain(text) for text in changed]
    assert asked == [0, 7, 11]
    assert store(tmp_path).made(keys(changed)) == (12, 3)


@pytest.mark.parametrize("other", [{"made_from": "two"}, {"width": 4}, {"dtype": "float16"}])
def test_vectors_of_another_making_are_not_used(tmp_path, other):
    read(store(tmp_path), TEXTS)
    encoder = Encoder(TEXTS)
    replace(store(tmp_path), **other).read(
        keys(TEXTS), lambda rows: np.zeros((len(encoder(rows)), other.get("width", 3)), dtype=np.float32)
    )
    assert encoder.asked == list(range(20))


def test_earlier_states_stay_or_go(tmp_path):
    read(store(tmp_path), TEXTS)
    read(store(tmp_path), TEXTS[:7])
    assert read(store(tmp_path), TEXTS)[1] == []
    tidy = replace(store(tmp_path), keep=False, made_from="two")
    read(tidy, TEXTS)
    read(tidy, TEXTS[:7])
    assert len(list((tmp_path / "store").glob("*/*/DONE"))) == 1
    assert read(tidy, TEXTS)[1] == list(range(7, 17))


def test_another_table_of_the_same_encoder_does_not_stand_in_the_way(tmp_path):
    read(store(tmp_path), TEXTS)
    read(store(tmp_path), ["text 900", "text 901"])
    assert read(store(tmp_path), [*TEXTS, "text 902"])[1] == [20]


def test_a_state_that_is_being_filled_stays_when_another_is_whole(tmp_path):
    tidy = replace(store(tmp_path), keep=False)

    def encode(rows: np.ndarray) -> np.ndarray:
        if rows[0] == 6:
            read(tidy, TEXTS[:3])
        return np.array([plain(TEXTS[row]) for row in rows], dtype=np.float32)

    assert tidy.read(keys(TEXTS), encode).tolist() == [plain(text) for text in TEXTS]


def test_a_state_of_which_little_is_left_is_made_anew(tmp_path):
    read(store(tmp_path), TEXTS)
    state = next((tmp_path / "store").glob("*/*/DONE")).parent
    for path in state.iterdir():
        if path.name != "part-00001.json":
            path.unlink()
    found, asked = read(store(tmp_path), TEXTS)
    assert found.tolist() == [plain(text) for text in TEXTS]
    assert asked == list(range(20))


def test_the_shares_of_several_processes_make_the_file_of_one(tmp_path):
    read(store(tmp_path / "one"), TEXTS)
    for number in (1, 2):
        with pytest.raises(Unfinished):
            read(store(tmp_path / "three"), TEXTS, (number, 3))
    read(store(tmp_path / "three"), TEXTS, (0, 3))
    assert files(tmp_path / "three") == files(tmp_path / "one")


def test_one_that_fails_half_way_goes_on_from_its_finished_parts(tmp_path):
    read(store(tmp_path / "whole"), TEXTS)
    encoder = Encoder(TEXTS)

    def broken(rows: np.ndarray) -> np.ndarray:
        if rows[0] >= 12:
            raise RuntimeError("out of memory")
        return encoder(rows)

    with pytest.raises(RuntimeError):
        store(tmp_path / "cut").read(keys(TEXTS), broken)
    _, asked = read(store(tmp_path / "cut"), TEXTS)
    assert asked == list(range(12, 20))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from recsys.vectors import VectorStore, content_keys
def encode(rows):
    time.sleep(0.03)
    return np.stack([rows, rows ** 2], axis=1).astype(np.float32)
keys = content_keys(str(row).encode() for row in range(60))
VectorStore(folder=Path(sys.argv[1]), made_from="x", width=2, part=3).read(keys, encode)
"""


def finished(folder: Path) -> int:
    """Parts that are recorded."""
    with suppress(FileNotFoundError):  # a folder that is being renamed
        return len(list(folder.glob("*/*/part-*.json")))
    return 0


def test_kills_at_any_moment_change_no_byte(tmp_path):
    def start(folder: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parents[1])])

    assert start(tmp_path / "whole").wait(60) == 0
    for kill in range(1, 4):
        process = start(tmp_path / "killed")
        while finished(tmp_path / "killed") < 5 * kill and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    assert start(tmp_path / "killed").wait(60) == 0
    found = {name: content for name, content in files(tmp_path / "killed").items() if "/." not in name}
    assert found == files(tmp_path / "whole")


def test_a_full_disk_is_one_sentence_and_the_part_is_made_later(tmp_path, monkeypatch):
    read(store(tmp_path), TEXTS[:7])

    fsync = os.fsync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("vectors.npy"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"Cannot write .*vectors\.npy: No space left on device"):
        read(store(tmp_path), TEXTS)
    monkeypatch.undo()
    found, asked = read(store(tmp_path), TEXTS)
    assert found.tolist() == [plain(text) for text in TEXTS]
    assert asked == list(range(7, 17))


def test_a_damaged_part_is_found_and_made_anew(tmp_path):
    whole, _ = read(store(tmp_path), TEXTS)
    expected = whole.tolist()
    path = next((tmp_path / "store").glob("*/*/vectors.npy"))
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"odd!")
    with pytest.raises(InputError, match=r"part 3 is not what had been written \(1 of 4 parts\).*same command again"):
        store(tmp_path).audit(keys(TEXTS))
    found, asked = read(store(tmp_path), TEXTS)
    assert found.tolist() == expected
    assert asked == [18, 19]
    store(tmp_path).audit(keys(TEXTS))


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    read(store(tmp_path), TEXTS)
    path = next((tmp_path / "store").glob("*/*/vectors.npy"))
    os.truncate(path, 200)
    with pytest.raises(InputError, match=r"vectors\.npy is cut short.*Remove .*made anew"):
        read(store(tmp_path), TEXTS)


def test_a_table_without_rows_has_no_vectors(tmp_path):
    found, asked = read(store(tmp_path), [])
    assert found.shape == (0, 3)
    assert asked == []
