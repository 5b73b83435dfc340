"""Dropout's draws as a pure function of seed, epoch, batch and process, like the order of the data."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class SeededNoise(Callback):
    """Seeds torch, numpy and Python anew before every batch.

    A resumed run then draws what the uninterrupted one would have drawn, without any random state in the checkpoint,
    whatever else (a loader, a validation) has drawn numbers in between.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed this batch."""
        seed_noise(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)


def seed_noise(*key: int) -> None:
    """Seed torch (every device), numpy and Python by a hash of `key`, so that neighbouring keys share nothing."""
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
