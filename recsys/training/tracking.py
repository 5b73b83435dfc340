"""Where numbers go: a JSONL beside the run is the ground truth; W&B and TensorBoard by config.

Nothing personal is logged: settings and measures alone.
"""

import json
import secrets
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from recsys.errors import InputError
from recsys.shards import write_atomic

WANDB_ID = "wandb_id"
"""File of a run's folder."""


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Trackers beside the JSONL."""

    wandb: Literal["off", "offline", "online"] = "off"
    """W&B; the key comes from the environment (WANDB_API_KEY)."""
    project: str = "recsys"
    """The W&B project."""
    tensorboard: bool = False
    """Write TensorBoard files below the run's folder."""
    every: int = 20
    """Steps between two logged values."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"track.every is {self.every}; expected at least 1 step.")


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

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def cut_lines(path: Path, last: int) -> None:
    """Forget the lines of a JSONL file beyond step `last`, and one left unfinished: a resumed run writes them again."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        write_atomic(path, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= last))


def has_line(path: Path, step: int) -> bool:
    """Whether a JSONL file has a whole line of this step."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return any(json.loads(line)["step"] == step for line in lines if line.endswith("}"))


def make_loggers(config: TrackConfig, run: Path, settings: dict[str, Any]) -> list[Logger]:
    """The JSONL first, then the trackers that the config names; `settings` is what they show as the run's config."""
    loggers: list[Logger] = [JsonlLogger(run / "metrics.jsonl")]
    if config.wandb != "off":
        loggers.append(_wandb_logger(config, run, settings))
    if config.tensorboard:
        loggers.append(TensorBoardLogger(save_dir=str(run), name="", version="tensorboard"))
    return loggers


def track_speed(loggers: Sequence[Logger], rates: Mapping[str, float], step: int) -> None:
    """Hand rates to the trackers as time/NAME; not to the JSONL, whose lines are the same in the same run."""
    for logger in loggers:
        if not isinstance(logger, JsonlLogger):
            logger.log_metrics({f"time/{name}": value for name, value in rates.items()}, step)


class PatientWandb(WandbLogger):
    """Goes on without W&B where its service is gone: a cluster's signal ends it before the run has saved."""

    lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As WandbLogger, until it fails."""
        import wandb

        if self.lost:
            return
        try:
            super().log_metrics(metrics, step)
        except (OSError, wandb.Error) as error:
            self.lost = True
            rank_zero_warn(f"W&B is gone ({error}); from here on metrics.jsonl alone has the numbers.")


def _wandb_logger(config: TrackConfig, run: Path, settings: dict[str, Any]) -> WandbLogger:
    """What the process prints stays here (console off): it is no metric."""
    import wandb  # seconds to import, and most runs do not need it

    if wandb.run is not None:  # of an earlier run of this process, which this one would be added to
        wandb.finish()
    tracker = PatientWandb(
        project=config.project, name=run.name, id=_wandb_id(run), save_dir=str(run), offline=config.wandb == "offline",
        settings={"console": "off"},
    )  # fmt: skip
    try:
        tracker.log_hyperparams(settings)
    except wandb.Error as error:
        found = str(error).splitlines()[0]
        raise InputError(f"W&B did not start ({found}); set WANDB_API_KEY, or use --track.wandb=offline.") from error
    return tracker


def _wandb_id(run: Path) -> str:
    """One W&B run for one run folder, however often it is resumed."""
    path = run / WANDB_ID
    if not path.is_file():
        write_atomic(path, secrets.token_hex(6))
    return path.read_text()
