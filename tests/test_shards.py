import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import InputError
from recsys.shards import (
    Parts,
    disk_errors,
    file_hash,
    fingerprint,
    folder_hash,
    one_at_a_time,
    publish_folder,
    write_atomic,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_fingerprint_depends_on_every_value_and_not_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}, "x") == fingerprint({"b": 2, "a": 1}, "x")
    assert len({fingerprint("x", 1), fingerprint("x", 2), fingerprint("x1"), fingerprint(["x", 1])}) == 4


def test_the_hash_of_a_folder_sees_names_and_bytes(tmp_path):
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "deep" / "a").write_bytes(b"x")
    before = folder_hash(tmp_path / "one")
    assert folder_hash(tmp_path / "one") == before
    (tmp_path / "one" / "deep" / "a").rename(tmp_path / "one" / "deep" / "b")
    renamed = folder_hash(tmp_path / "one")
    (tmp_path / "one" / "deep" / "b").write_bytes(b"y")
    assert len({before, renamed, folder_hash(tmp_path / "one")}) == 3


def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 5_000_000)
    (tmp_path / "b").write_bytes(b"a" * 4_999_999 + b"b")
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")


def test_a_file_is_written_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_atomic(path, "first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(path.parent) == {"file.json"}
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_renamed_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch):
    write_atomic(tmp_path / "file", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"Cannot write .*file: No space left on device"):
        write_atomic(tmp_path / "file", "new")
    assert names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
        OSError("100000 requested and 496 written"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_what_the_disk_refuses_becomes_one_sentence(tmp_path, error):
    with pytest.raises(InputError, match=r"Cannot write .*Free some space"), disk_errors(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "gone"), ConnectionError("no network"), KeyError("x")]
)
def test_errors_that_are_not_the_disks_pass(tmp_path, error):
    with pytest.raises(type(error)), disk_errors(tmp_path):
        raise error


def test_a_folder_is_published_in_one_rename(tmp_path):
    with publish_folder(tmp_path / "deep" / "made") as made:
        (made / "a").write_text("1")
        assert not (tmp_path / "deep" / "made").exists()
    assert names(tmp_path / "deep") == {"made"}
    assert (tmp_path / "deep" / "made" / "a").read_text() == "1"


def test_a_published_folder_replaces_the_one_that_was_there(tmp_path):
    for content in ("old", "new"):
        with publish_folder(tmp_path / "made") as made:
            (made / content).write_text(content)
    assert names(tmp_path) == {"made"}
    assert names(tmp_path / "made") == {"new"}


def break_off(folder: Path, error: type[BaseException]) -> None:
    with publish_folder(folder) as made:
        (made / "half").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_is_broken_off_vanishes_and_the_old_one_stays(tmp_path, error):
    with publish_folder(tmp_path / "made") as made:
        (made / "old").write_text("old")
    with pytest.raises(error):
        break_off(tmp_path / "made", error)
    assert names(tmp_path) == {"made"}
    assert names(tmp_path / "made") == {"old"}


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "made").write_text("mine")
    with pytest.raises(InputError, match=r"Cannot write .*made: Not a directory"), publish_folder(tmp_path / "made"):
        pass
    assert (tmp_path / "made").read_text() == "mine"


def test_a_folder_published_meanwhile_stays_with_its_files(tmp_path):
    with publish_folder(tmp_path / "made") as late:
        (late / "content").write_text("late")
        with publish_folder(tmp_path / "made") as early:
            (early / "content").write_text("early")
        opened = (tmp_path / "made" / "content").open()
    assert opened.read() == (tmp_path / "made" / "content").read_text() == "early"
    opened.close()
    assert names(tmp_path) == {"made"}


def count_up(folder: Path) -> None:
    for _ in range(20):
        with one_at_a_time(folder):
            count = int((folder / "count").read_text())
            time.sleep(0.001)  # so that others would read the same number
            (folder / "count").write_text(str(count + 1))


def test_processes_take_turns(tmp_path):
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=count_up, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "count").read_text() == "60"
    assert names(tmp_path) == {"count"}


def test_a_turn_ends_with_an_error_and_a_place_that_is_no_folder_lets_all_in(tmp_path):
    for _ in range(2):  # the second would wait for ever
        with pytest.raises(ValueError, match="mine"), one_at_a_time(tmp_path / "new"):
            raise ValueError("mine")
    (tmp_path / "file").write_text("content")
    with one_at_a_time(tmp_path / "file" / "below"):
        assert (tmp_path / "file").read_text() == "content"


def publish(folder: Path, meet: Barrier, number: int) -> None:
    for _ in range(30):
        meet.wait()
        with publish_folder(folder) as made:
            (made / "content").write_text(str(number))


@pytest.mark.parametrize("there_before", [False, True])
def test_processes_that_publish_the_same_folder_at_the_same_time_all_succeed(tmp_path, there_before):
    if there_before:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "content").write_text("0")
    context = multiprocessing.get_context("fork")
    meet = context.Barrier(3)
    crowd = [context.Process(target=publish, args=(tmp_path / "made", meet, number)) for number in range(3)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(30)
    assert [one.exitcode for one in crowd] == [0, 0, 0]
    assert names(tmp_path) == {"made"}
    assert names(tmp_path / "made") == {"content"}


def test_parts_are_recorded_and_read_back_in_their_order(tmp_path):
    parts = Parts.open(tmp_path / "out", {"of": "f"})
    for number in (1, 10, 0):
        parts.write(number, pl.DataFrame({"n": [number] * 2}))
    assert [parts.finished(number) for number in (0, 1, 2, 10)] == [True, True, False, True]
    assert parts.rows() == 6
    assert parts.frame().collect()["n"].to_list() == [0, 0, 1, 1, 10, 10]


def test_parts_go_on_where_they_were_broken_off(tmp_path):
    Parts.open(tmp_path, {"of": "f"}).write(0, pl.DataFrame({"n": [1]}))
    again = Parts.open(tmp_path, {"of": "f"})
    assert again.finished(0)
    again.path(0).write_bytes(b"cut")
    assert not again.finished(0)


def test_a_part_that_was_never_recorded_is_not_read(tmp_path):
    parts = Parts.open(tmp_path, {"of": "f"})
    parts.write(0, pl.DataFrame({"n": [1]}))
    pl.DataFrame({"n": [7]}).write_parquet(parts.path(1))
    assert not parts.finished(1)
    assert parts.frame().collect()["n"].to_list() == [1]


def test_parts_of_another_fingerprint_are_refused_unless_asked(tmp_path):
    out = tmp_path / "out"
    Parts.open(out, {"of": "old"}).write(0, pl.DataFrame({"n": [1]}))
    (out / "DONE").write_text("")
    with pytest.raises(InputError, match=r"made from other inputs: not the same of\..*--overwrite=true"):
        Parts.open(out, {"of": "new"})
    assert Parts.open(out, {"of": "old"}).finished(0)
    assert not Parts.open(out, {"of": "new"}, overwrite=True).finished(0)
    assert names(out) == {"manifest.json"}


def test_two_processes_may_write_parts_of_one_folder(tmp_path):
    one, other = Parts.open(tmp_path, {"of": "f"}), Parts.open(tmp_path, {"of": "f"})
    for number in range(4):
        (one, other)[number % 2].write(number, pl.DataFrame({"n": [number]}), inputs="1")
    assert one.audit(["1"] * 4) == other.rows() == 4


def test_the_audit_finds_what_is_missing_damaged_or_too_much(tmp_path):
    def written(counts):
        parts = Parts.open(tmp_path / str(len(counts)), {"of": "f"})
        for number, count in enumerate(counts):
            parts.write(number, pl.DataFrame({"n": range(count)}), inputs=str(count))
        return parts

    for counts in ([2, 3, 1], [2, 2]):  # one part more, and one of another size
        with pytest.raises(InputError, match="was not what had been written"):
            written(counts).audit(["2", "3"])
    parts = written([2])
    parts.path(0).write_bytes(parts.path(0).read_bytes()[::-1])
    assert parts.finished(0, "2")  # of the right size
    with pytest.raises(InputError, match="part 0 was not what"):
        parts.audit(["2"])
    assert not parts.finished(0, "2")


def test_a_part_of_other_inputs_is_not_finished(tmp_path):
    parts = Parts.open(tmp_path, {"of": "f"})
    parts.write(0, pl.DataFrame({"n": [1]}), inputs="these rows")
    assert parts.finished(0, "these rows")
    assert not parts.finished(0, "other rows")


def test_a_folder_of_an_older_format_is_other_inputs(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "fingerprint": "f"}))
    with pytest.raises(InputError, match=r"made from other inputs: not the same .*format"):
        Parts.open(tmp_path, {"of": "f"})


def test_a_folder_of_somebody_elses_files_is_never_cleared(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="no output of this program"):
        Parts.open(tmp_path, {"of": "f"}, overwrite=True)
    assert names(tmp_path) == {"letter.txt"}


def test_a_part_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    parts = Parts.open(tmp_path, {"of": "f"})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        parts.write(0, pl.DataFrame({"n": [1]}))
    assert names(tmp_path) == {"manifest.json"}
    assert not parts.finished(0)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_manifest_is_one_sentence(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="not a readable manifest"):
        Parts.open(tmp_path, {"of": "f"})


WRITE_TOO_MUCH = """
import resource, signal, sys
from pathlib import Path
import numpy as np, polars as pl, pytest
from recsys.errors import InputError
from recsys.shards import Parts, publish_folder, write_atomic

folder = Path(sys.argv[1])
parts = Parts.open(folder / "out", {"of": "f"})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with pytest.raises(InputError, match="File too large"):
    parts.write(0, pl.DataFrame({"n": np.random.default_rng(0).random(10_000)}))
with pytest.raises(InputError, match="only a part"), publish_folder(folder / "made") as made:
    np.save(made / "a.npy", np.zeros(10_000))
with pytest.raises(InputError, match="File too large"):
    write_atomic(folder / "file", "a" * 10_000)
"""


def test_a_full_disk_is_told_whoever_writes(tmp_path):
    """A limit on the size of a file stands for the full disk: libraries report both in the same way."""
    pytest.importorskip("resource")
    subprocess.run([sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path)], check=True, timeout=60)
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"manifest.json"}
