import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from recsys.errors import InputError
from recsys.training import progress
from recsys.training.progress import SpeedBar, usual_speed
from recsys.training.tracking import JsonlLogger

BATCH = SimpleNamespace(rows=4, tokens=30)
MODULE: Any = SimpleNamespace(device=torch.device("cpu"), step_flops=lambda batch: torch.tensor(50.0))
PEAK = 200.0  # FLOP/s


class Clock:
    """Goes on by one second at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", clock)
    monkeypatch.setattr(progress, "peak_rate", lambda device, precision: PEAK)
    return clock


def trainer(step: int, **changes: Any) -> Any:
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    values = {"global_step": step, "world_size": 1, "is_global_zero": True, "current_epoch": 0, "callback_metrics": {},
              "accumulate_grad_batches": 1, "state": state, "precision": "32-true", "loggers": [],
              "train_dataloader": SimpleNamespace(waited=0.1 * step)}  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def train(bar: SpeedBar, steps: int, *, loss: float = 2.0, **changes: Any) -> None:
    bar.on_train_start(trainer(0, **changes), MODULE)
    for step in range(1, steps + 1):
        outputs = {"loss": torch.tensor(loss)}
        bar.on_train_batch_end(trainer(step, **changes), MODULE, outputs, BATCH, step - 1)


def test_rates_are_counted_over_all_processes(tmp_path: Path) -> None:
    train(SpeedBar(tmp_path / "speed.jsonl", 10, every=2), 4, world_size=3)
    lines = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert [(line["rows_per_s"], line["tokens_per_s"]) for line in lines] == [(24.0, 180.0)] * 2


def test_mfu_is_the_operations_of_the_steps_over_what_the_chip_can_do(tmp_path: Path) -> None:
    train(SpeedBar(tmp_path / "speed.jsonl", 10, every=2), 4)  # two steps of 50 in a second
    assert usual_speed(tmp_path / "speed.jsonl")["mfu"] == pytest.approx(2 * 50 / PEAK)


def test_the_wait_for_data_is_a_share_of_the_time(tmp_path: Path) -> None:
    train(SpeedBar(tmp_path / "speed.jsonl", 10, every=2), 4)
    assert usual_speed(tmp_path / "speed.jsonl")["data_wait"] == pytest.approx(0.2)


def test_trackers_get_the_rates_and_the_metrics_do_not(tmp_path: Path) -> None:
    seen = []

    class Tracker:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            seen.append((step, metrics))

    loggers = [JsonlLogger(tmp_path / "metrics.jsonl"), Tracker()]
    train(SpeedBar(tmp_path / "speed.jsonl", 10, every=2), 2, loggers=loggers)
    ((step, metrics),) = seen
    assert step == 2
    assert metrics.keys() == {"time/rows_per_s", "time/tokens_per_s", "time/mfu", "time/data_wait"}
    assert not (tmp_path / "metrics.jsonl").exists()


def test_usual_speed_is_the_median_of_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "speed.jsonl"
    assert usual_speed(path) == {}
    rates = [
        {"step": 1, "rows_per_s": 9.0},
        *({"step": 2 + one, "rows_per_s": 1.0, "mfu": 0.1 * one} for one in range(3)),
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in rates))
    assert usual_speed(path) == {"rows_per_s": 1.0, "mfu": 0.1}


def test_validation_is_not_training_time(tmp_path: Path, clock: Clock) -> None:
    bar = SpeedBar(tmp_path / "speed.jsonl", 10, every=1)
    train(bar, 0)
    bar.on_validation_start(trainer(0), None)  # pyright: ignore[reportArgumentType]
    clock.now += 1000
    bar.on_validation_end(trainer(0), None)  # pyright: ignore[reportArgumentType]
    bar.on_train_batch_end(trainer(1), MODULE, {"loss": torch.tensor(1.0)}, BATCH, 0)
    assert json.loads((tmp_path / "speed.jsonl").read_text())["rows_per_s"] > 1


def test_without_a_terminal_a_line_is_printed_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(SpeedBar(tmp_path / "speed.jsonl", 100, every=1), 64)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert (
        lines[0]
        == "step 31/100  epoch 1  loss 2.0000  4 rows/s  30 tokens/s  MFU 25.0%  waits for data 10.0%  1.1 min left"
    )


def test_the_loss_is_shown_as_it_was_before_lightning_divided_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(SpeedBar(tmp_path / "speed.jsonl", 100, every=1), 32, accumulate_grad_batches=4)
    assert "loss 8.0000" in capsys.readouterr().err


def test_other_processes_than_the_first_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(SpeedBar(tmp_path / "speed.jsonl", 100, every=1), 64, is_global_zero=False)
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss is nan at step 2; lower optim\.lr"):
        train(SpeedBar(tmp_path / "speed.jsonl", 100, every=2), 2, loss=float("nan"))


def test_validation_prints_recall_and_ndcg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {name: torch.tensor(0.25) for name in ("valid/recall@10", "valid/ndcg@10", "valid/mrr")}
    bar = SpeedBar(tmp_path / "speed.jsonl", 10)
    bar.on_validation_end(trainer(7, callback_metrics=metrics), None)  # pyright: ignore[reportArgumentType]
    assert capsys.readouterr().err == "epoch 1  step 7  valid/recall@10 0.2500  valid/ndcg@10 0.2500\n"
    alone = trainer(7, callback_metrics=metrics, state=SimpleNamespace(fn=TrainerFn.VALIDATING))
    bar.on_validation_end(alone, None)  # pyright: ignore[reportArgumentType]
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_that_is_closed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    bar = SpeedBar(tmp_path / "speed.jsonl", 4, every=2)
    train(bar, 4)
    assert bar.bar is not None
    assert bar.bar.tasks[0].completed == 4
    bar.teardown(trainer(4), None, "fit")  # pyright: ignore[reportArgumentType]
    assert bar.bar is None
