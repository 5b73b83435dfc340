"""A progress bar with loss, rates and the time that is left; the rates also go to speed.jsonl beside the run."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recsys.errors import InputError

_PRINTED_EVERY = 30  # seconds between two lines where there is no terminal


class SpeedBar(Callback):
    """Shows where the run stands. On no terminal it prints a line every half minute."""

    def __init__(self, path: Path, total_steps: int, *, every: int = 20) -> None:
        self.path, self.total, self.every = path, total_steps, every
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.rows = self.tokens = self.batches = 0  # since the last look
        self.first = 0  # step that this process started from
        self.started = self.since = self.printed = self.paused = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
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
        self.batches += 1
        if self.batches == self.every:
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning divides it
            if not math.isfinite(loss):
                raise InputError(f"The loss is {loss} at step {trainer.global_step}; lower optim.lr or optim.text_lr.")
            self._show(trainer, loss)

    def _show(self, trainer: Trainer, loss: float) -> None:
        now = time.perf_counter()
        per_second = trainer.world_size / max(now - self.since, 1e-9)
        rates = {"rows_per_s": self.rows * per_second, "tokens_per_s": self.tokens * per_second}
        self.rows = self.tokens = self.batches = 0
        self.since = now
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": trainer.global_step, **rates}) + "\n")
            line = f"loss {loss:.4f}  {rates['rows_per_s']:,.0f} rows/s  {rates['tokens_per_s']:,.0f} tokens/s"
            self._print(trainer, line, now)

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
