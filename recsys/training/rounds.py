"""Hard negatives that are mined anew while a retriever learns, by the model as it then is."""

from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from recsys.data.datasets import RetrieverRows
from recsys.data.mined import HardNegatives
from recsys.errors import InputError

Mine = Callable[..., None]
"""A run's folder with a model, the data, which items -> writes mined/ there (`retrieval.mine.mine_round`)."""


class HardRounds(Callback):
    """Swaps the hard negatives of `rows` before every `every`-th epoch, on all processes; a round is a folder.

    A round that lies there is not made again, so that a run that resumes learns from the same. Its hash stands in the
    checkpoint.
    """

    def __init__(
        self,
        rows: RetrieverRows,
        every: int,
        *,
        first: bool,
        open_round: Callable[[int, Trainer], tuple[HardNegatives, str]],
    ) -> None:
        """`first`: round 0 is mined, too, and not read from a table; `open_round` makes a round that is not there."""
        self.rows, self.every, self.open_round = rows, every, open_round
        self.number, self.hash, self.known = (-1 if first else 0), "", {"round": -1, "hash": ""}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the round of this epoch: of the first one, or of the one that is resumed."""
        self._swap(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The batches of the epoch are made after this."""
        self._swap(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Which round is learnt from."""
        return {"round": self.number, "hash": self.hash}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the checkpoint says of it."""
        self.known = state_dict

    def _swap(self, trainer: Trainer) -> None:
        number = trainer.current_epoch // self.every
        if number == self.number:
            return
        hard, found = self.open_round(number, trainer)
        if number == self.known["round"] and found != self.known["hash"]:
            raise InputError(
                f"Round {number} of the hard negatives is not the one of the checkpoint (hash {found[:12]}, there "
                f"{self.known['hash'][:12]}). Bring rounds/ back, or train anew with --overwrite=true."
            )
        self.rows.hard, self.number, self.hash = hard, number, found
