import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from recsys.errors import InputError
from recsys.training.tracking import JsonlLogger, PatientWandb, TrackConfig, cut_lines, make_loggers


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_jsonl_has_one_line_for_each_step_that_was_logged(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log_metrics({"train/loss": 0.5}, step=19)
    logger.log_metrics({"valid/ndcg@10": 0.25}, step=20)
    assert lines(logger.path) == [{"step": 19, "train/loss": 0.5}, {"step": 20, "valid/ndcg@10": 0.25}]


def test_cutting_forgets_later_steps_and_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"step": 3}\n{"step": 4, "a')
    cut_lines(path, 5)
    assert [line["step"] for line in lines(path)] == [1, 5, 3]


def test_cutting_a_file_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    cut_lines(tmp_path / "metrics.jsonl", 5)
    assert not list(tmp_path.iterdir())


def test_the_jsonl_alone_is_the_default(tmp_path: Path) -> None:
    assert [type(logger) for logger in make_loggers(TrackConfig(), tmp_path, {})] == [JsonlLogger]


def test_tensorboard_writes_below_the_run(tmp_path: Path) -> None:
    logger = make_loggers(TrackConfig(tensorboard=True), tmp_path, {})[1]
    assert isinstance(logger, TensorBoardLogger)
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.save()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_run_goes_on_where_wandb_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def gone(self: WandbLogger, metrics: dict[str, float], step: int | None = None) -> None:
        calls.append(step)
        if len(calls) > 1:
            raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(WandbLogger, "log_metrics", gone)
    logger = PatientWandb(save_dir=str(tmp_path), offline=True)
    logger.log_metrics({"train/loss": 0.5}, 1)
    with pytest.warns(UserWarning, match=r"W&B is gone \(Connection lost\)"):
        logger.log_metrics({"train/loss": 0.4}, 2)
    logger.log_metrics({"train/loss": 0.3}, 3)
    assert calls == [1, 2]


def test_logging_every_zero_steps_is_refused() -> None:
    with pytest.raises(InputError, match=r"track\.every is 0"):
        TrackConfig(every=0)


# --- W&B, offline: read back from the file that it writes


def records(path: Path) -> Iterator[bytes]:
    """A .wandb file: a 7-byte header, then LevelDB's log format: blocks of 32 KiB, records cut into pieces."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


@pytest.fixture
def wandb_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two runs of one process, each of which logs a little."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("first", "second"):
        run = tmp_path / name
        run.mkdir()
        logger = make_loggers(TrackConfig(wandb="offline"), run, {"optim": {"lr": 0.002}, "name": name})[1]
        assert isinstance(logger, WandbLogger)
        print("query: red shoes of user u00042")
        logger.log_metrics({"train/loss": 0.5}, step=19)
    wandb.finish()
    wandb.teardown()  # waits until its process has written everything
    return {path.relative_to(tmp_path).parts[0]: path for path in tmp_path.glob("*/wandb/*/run-*.wandb")}


def test_an_offline_run_holds_config_and_history_and_nothing_personal(wandb_files: dict[str, Path]) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    assert wandb_files.keys() == {"first", "second"}  # a second run of the process is not added to the first
    for name, path in wandb_files.items():
        history, config = [], {}
        for content in records(path):
            record = Record.FromString(content)
            history += list(record.history.item)
            config |= {item.key: item.value_json for item in record.run.config.update}
            config |= {item.key: item.value_json for item in record.config.update}
        values = {item.key or "/".join(item.nested_key): item.value_json for item in history}
        assert values["train/loss"] == "0.5"
        assert json.loads(config["name"]) == name
        assert json.loads(config["optim"]) == {"lr": 0.002}
        assert b"u00042" not in path.read_bytes()
        assert b"red shoes" not in path.read_bytes()
        assert not list(path.parent.glob("**/output.log"))


def test_a_resumed_run_keeps_its_wandb_id(tmp_path: Path) -> None:
    from recsys.training.tracking import _wandb_id

    assert _wandb_id(tmp_path) == _wandb_id(tmp_path)
