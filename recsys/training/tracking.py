"""Where numbers go: a JSONL beside the run is the ground truth; W&B and TensorBoard by config. Nothing personal is logged."""

import json
import secrets
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from recsys.shards import write_atomic


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Trackers beside the JSONL."""

    wandb: Literal["off", "offline", "online"] = "off"
    """W&B; the key comes from the environment (WANDB_API_KEY)."""
    project: str = "recsys"
    tensorboard: bool = False
    every: int = 20
    """Steps between two logged values."""


class JsonlLogger(Logger):
    """One JSON object a line: step, and the values logged at it. The same run gives the same lines."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Of the logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The config is saved beside; nothing to do."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def cut(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed run logs it again."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] < step]
            write_atomic(self.path, "".join(line + "\n" for line in kept))


def make_loggers(config: TrackConfig, run: Path, settings: dict[str, Any]) -> list[Logger]:
    """The JSONL first, then the trackers that the config names."""
    loggers: list[Logger] = [JsonlLogger(run / "metrics.jsonl")]
    if config.wandb != "off":
        tracker = WandbLogger(
            project=config.project, name=run.name, id=_wandb_id(run), save_dir=str(run), resume="allow", offline=config.wandb == "offline"
        )
        tracker.log_hyperparams(settings)
        loggers.append(tracker)
    if config.tensorboard:
        loggers.append(TensorBoardLogger(save_dir=str(run), name="", version="tensorboard"))
    return loggers


def _wandb_id(run: Path) -> str:
    """One W&B run for one run folder, however often it is resumed."""
    path = run / "wandb_id"
    if not path.is_file():
        write_atomic(path, secrets.token_hex(6))
    return path.read_text()
