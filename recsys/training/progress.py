"""A progress bar with loss, rates and the time that is left; the rates also go to speed.jsonl and the trackers.

Beside rows and tokens a second: `mfu`, the share of the chip's peak that the step's own operations come to (model FLOPs
utilisation, Chowdhery et al. 2022, arXiv:2204.02311, appendix B), and `data_wait`, the share of the time in which the
trainer waited for a batch.
"""

import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recsys.data.datamodule import ResumableLoader
from recsys.errors import InputError
from recsys.training.module import TrainingModule
from recsys.training.peak import peak_rate
from recsys.training.tracking import track_speed

_PRINTED_EVERY = 30  # seconds between two lines where there is no terminal


class SpeedBar(Callback):
    """Shows where the run stands. On no terminal it prints a line every half minute."""

    def __init__(self, path: Path, total_steps: int, *, every: int = 20) -> None:
        self.path, self.total, self.every = path, total_steps, every
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.rows = self.tokens = self.batches = 0  # since the last look
        self.flops: Any = 0.0  # a tensor where the batches are: it is looked at together with the loss
        self.waited = 0.0  # seconds that the loader counts, at the last look
        self.peak = math.inf
        self.first = 0  # step that this process started from
        self.started = self.since = self.printed = self.paused = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, and see what the chip can do."""
        self.peak = peak_rate(pl_module.device, str(trainer.precision))
        self.waited = _waited(trainer)
        self.started = self.since = self.printed = time.perf_counter()
        self.first = trainer.global_step
        if sys.stderr.isatty() and trainer.is_global_zero:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rates]}"),
            )  # fmt: skip
            self.task = self.bar.add_task("train", total=self.total, completed=self.first, rates="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and from time to time show. Raises InputError when the loss is no number any more."""
        self.rows += batch.rows
        self.tokens += batch.tokens
        self.flops = self.flops + cast(TrainingModule, pl_module).step_flops(batch)
        self.batches += 1
        if self.batches == self.every:
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning divides it
            if not math.isfinite(loss):
                raise InputError(f"The loss is {loss} at step {trainer.global_step}; lower optim.lr or optim.text_lr.")
            self._show(trainer, loss)

    def _show(self, trainer: Trainer, loss: float) -> None:
        now, waited = time.perf_counter(), _waited(trainer)
        seconds = max(now - self.since, 1e-9)
        rates = {
            "rows_per_s": self.rows * trainer.world_size / seconds,
            "tokens_per_s": self.tokens * trainer.world_size / seconds,
            "mfu": float(self.flops) / seconds / self.peak,
            "data_wait": (waited - self.waited) / seconds,
        }
        self.rows = self.tokens = self.batches = 0
        self.flops, self.waited, self.since = 0.0, waited, now
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": trainer.global_step, **rates}) + "\n")
            track_speed(trainer.loggers, rates, trainer.global_step)
            line = f"loss {loss:.4f}  {rates['rows_per_s']:,.0f} rows/s  {rates['tokens_per_s']:,.0f} tokens/s"
            self._print(trainer, f"{line}  MFU {rates['mfu']:.1%}  waits for data {rates['data_wait']:.1%}", now)

    def _print(self, trainer: Trainer, line: str, now: float) -> None:
        step = trainer.global_step
        if self.bar is not None:
            self.bar.update(self.task, completed=step, rates=line)
        elif now - self.printed > _PRINTED_EVERY:
            left = (now - self.started) / max(step - self.first, 1) * (self.total - step) / 60
            where = f"step {step}/{self.total}  epoch {trainer.current_epoch + 1}"
            print(f"{where}  {line}  {left:.1f} min left", file=sys.stderr, flush=True)
            self.printed = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time spent on validation is not training's."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting; print the figures that matter."""
        self.since += time.perf_counter() - self.paused
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = [f"{name} {value:.4f}" for name, value in values.items() if name.endswith(("recall@10", "ndcg@10"))]
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and shown:
            where = f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}"
            print(f"{where}  {'  '.join(shown)}", file=sys.stderr, flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _waited(trainer: Trainer) -> float:
    return cast(ResumableLoader, trainer.train_dataloader).waited


def usual_speed(path: Path) -> dict[str, float]:
    """The median of each rate in speed.jsonl; nothing for a run that was too short to have one."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    names = [name for name in lines[-1] if name != "step"] if lines else []
    return {name: statistics.median(line[name] for line in lines if name in line) for name in names}
