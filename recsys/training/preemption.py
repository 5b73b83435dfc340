"""A signal raises a flag; at the next step boundary all processes agree, the run is saved and stops."""

import signal
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from recsys.shards import write_atomic
from recsys.stopping import Interrupted, request
from recsys.training.distributed import highest

STARTED, DONE = "STARTED", "DONE"
"""Files of a run's folder: training has begun; all of the run has ended well."""


class StopAtBoundary(Checkpoint):
    """Saves `checkpoint` after every epoch, after every `every` steps, and after the step in which a signal comes; then
    it raises Interrupted.

    It raises when the next batch starts: Lightning has logged the step by then, as it does in a run that goes on.
    Lightning's own way to stop would log, validate and end the epoch where the uninterrupted run does not. Being the
    last of the callbacks that save, this one keeps what the others know (which weights were best). A signal that comes
    before the first step stops there, with nothing to save.
    """

    def __init__(self, checkpoint: Path, every: int | None = None) -> None:
        self.checkpoint, self.every, self.stopping, self.begun = checkpoint, every, 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals (again: Lightning puts its own handlers in front)."""
        request.listen(signal.SIGINT)
        if trainer.is_global_zero:
            write_atomic(self.checkpoint.parents[1] / STARTED, "")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop, once all is saved."""
        if not self.begun:
            self.begun, self.stopping = True, highest(request.number, pl_module.device)
        if self.stopping:
            saved = "everything is saved" if trainer.global_step else "nothing was done yet"
            request.number = 0
            raise Interrupted(
                f"Stopped at step {trainer.global_step}; {saved}. Go on with --resume=auto.", self.stopping
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when a signal has come, but not among batches whose gradients are still summed: they would be lost.

        After the last batch of an epoch, the epoch ends first.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            self.stopping = highest(request.number, pl_module.device)
            if self.stopping or (self.every and trainer.global_step % self.every == 0):
                trainer.save_checkpoint(self.checkpoint)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a whole epoch."""
        self.stopping = highest(request.number, pl_module.device)
        trainer.save_checkpoint(self.checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back; but not where the run has stopped: a scheduler ends all processes of a job as soon as
        one of them has ended, and each has to say for itself that it wants to be started again.
        """
        if not isinstance(exception, Interrupted):
            request.forget()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning gives its own back."""
        request.forget()
