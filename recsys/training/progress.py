"""A progress bar with loss, rates and the time that is left; the rates also go to speed.jsonl beside the run."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class SpeedBar(Callback):
    """Shows where the run stands. On no terminal it prints a line every half minute."""

    def __init__(self, path: Path, total_steps: int, *, every: int = 20) -> None:
        self.path, self.total, self.every = path, total_steps, every
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        self.rows = self.tokens = self.steps = 0
        self.since = self.printed = time.perf_counter()
        self.first = trainer.global_step
        self.started = self.since
        if sys.stderr.isatty() and trainer.is_global_zero:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rates]}"))
            self.task = self.bar.add_task("train", total=self.total, completed=self.first, rates="")
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, and from time to time show."""
        self.rows += batch.rows
        self.tokens += batch.tokens
        self.steps += 1
        if trainer.is_global_zero and self.steps % self.every == 0:
            self._show(trainer, float(outputs["loss"]))

    def _show(self, trainer: Trainer, loss: float) -> None:
        now = time.perf_counter()
        world, spent = trainer.world_size, max(now - self.since, 1e-9)
        rates = {"rows_per_s": self.rows * world / spent, "tokens_per_s": self.tokens * world / spent}
        line = f"loss {loss:.4f}  {rates['rows_per_s']:,.0f} rows/s  {rates['tokens_per_s']:,.0f} tokens/s"
        with self.path.open("a") as file:
            file.write(json.dumps({"step": trainer.global_step, **rates}) + "\n")
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, rates=line)
        elif now - self.printed > 30:
            done = trainer.global_step - self.first
            left = (now - self.started) / max(done, 1) * (self.total - trainer.global_step)
            print(f"step {trainer.global_step}/{self.total}  epoch {trainer.current_epoch}  {line}  {left / 60:.1f} min left", file=sys.stderr, flush=True)
            self.printed = now
        self.rows = self.tokens = 0
        self.since = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time spent on validation is not training's."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting; print the figures that matter."""
        if hasattr(self, "since"):
            self.since += time.perf_counter() - self.paused
        shown = {name: float(value) for name, value in trainer.callback_metrics.items() if name.endswith(("recall@10", "ndcg@10"))}
        if trainer.is_global_zero and not trainer.sanity_checking and shown:
            text = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
            print(f"epoch {trainer.current_epoch}  step {trainer.global_step}  {text}", file=sys.stderr, flush=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
