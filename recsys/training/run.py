"""One YAML is one run: composes data, model, trainer and trackers, and keeps the run's folder.

A run's folder holds config.yaml, versions.json, metrics.jsonl (the ground truth), speed.jsonl, results.json, checkpoints/
and the exported model/.
"""

import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.errors import InputError
from recsys.shards import disk_errors, publish_folder, write_atomic
from recsys.training.optim import OptimConfig
from recsys.training.preemption import Interrupted, StopAtBoundary
from recsys.training.progress import SpeedBar
from recsys.training.tracking import JsonlLogger, TrackConfig, make_loggers


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Where and in which precision to train."""

    accelerator: str = "auto"
    """cpu, gpu or auto."""
    devices: int = 1
    """Processes on each node, one for each GPU."""
    nodes: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: int | None = None
    """CPU threads of each process; null: all cores."""
    check_every: int = 1
    """Epochs between two validations."""
    export: Literal["last", "best"] = "last"
    """Which weights become the run's model: those of the last step, or of the best validation."""
    accumulate: int = 1
    """Batches whose gradients are summed before a step."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every training run has."""

    task: str
    """retriever or pruner."""
    name: str
    """Of the run; its folder is RUNS/NAME."""
    runs: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    resume: bool = False
    """Go on from the run's last checkpoint."""
    overwrite: bool = False
    """Replace a run of the same name."""

    @property
    def folder(self) -> Path:
        """Of this run."""
        return Path(self.runs) / self.name


def open_run(config: RunConfig) -> Path | None:
    """Make the run's folder, or find what to resume.

    Returns the checkpoint to go on from, if any. Refuses to overwrite a run unasked, and to resume under another config.
    """
    folder, text = config.folder, config_text(config)
    saved = folder / "config.yaml"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if config.resume:
        if not checkpoint.is_file():
            raise InputError(f"Nothing to resume in {folder}: {checkpoint} does not exist. Start the run without --resume.")
        if saved.read_text() != text:
            raise InputError(f"{folder} was started with another config ({saved}); resume with the same values, or choose another --name.")
        return checkpoint
    if saved.is_file() and not config.overwrite:
        state = "a finished run" if (folder / "results.json").is_file() else "an unfinished run"
        raise InputError(f"{folder} holds {state}. Go on with --resume=true, replace it with --overwrite=true, or choose another --name.")
    with disk_errors(folder):
        for old in ("metrics.jsonl", "speed.jsonl", "results.json", "samples.json", "wandb_id", "checkpoints/last.ckpt"):
            (folder / old).unlink(missing_ok=True)
        for old in folder.glob("checkpoints/best*.ckpt"):
            old.unlink()
        write_atomic(saved, text)
    return None


def config_text(config: Any) -> str:
    """The full config as YAML, without the flags that say how to start."""
    values = {key: value for key, value in asdict(config).items() if key not in ("resume", "overwrite")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def write_versions(folder: Path, data_hash: str, extra: dict[str, Any] | None = None) -> None:
    """versions.json: what made this run."""
    packages = ("torch", "lightning", "transformers", "torchmetrics", "polars", "numpy", "datasets", "wandb")
    content = {name: version(name) for name in packages}
    content |= {"python": platform.python_version(), "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {_chip()}"}
    content |= {"date": datetime.now(UTC).date().isoformat(), "data": data_hash, "command": " ".join(sys.argv[:3]), **(extra or {})}
    write_atomic(folder / "versions.json", json.dumps(content, indent=1))


def _chip() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or "unknown processor"


def prepare_process(config: RunConfig) -> None:
    """Threads and seeds of this process; deterministic algorithms."""
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    seed_everything(config.seed, verbose=False)


def fit(config: RunConfig, module: LightningModule, data: DataModule, *, steps: int, monitor: str, checkpoint: Path | None) -> Trainer:
    """Train to the end, or raise Interrupted after saving. The module holds the last weights afterwards."""
    folder = config.folder
    loggers = make_loggers(config.track, folder, yaml.safe_load(config_text(config)))
    if checkpoint is not None:
        step = torch.load(checkpoint, weights_only=True, map_location="cpu")["global_step"]
        for logger in loggers:
            if isinstance(logger, JsonlLogger):
                logger.cut(step)
    stop = StopAtBoundary(folder / "checkpoints" / "last.ckpt")
    best = ModelCheckpoint(folder / "checkpoints", filename="best", monitor=monitor, mode="max", save_top_k=1, enable_version_counter=False)
    last = ModelCheckpoint(folder / "checkpoints", filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True)
    trainer = Trainer(
        accelerator=config.trainer.accelerator, devices=config.trainer.devices, num_nodes=config.trainer.nodes,
        precision=config.trainer.precision, max_epochs=config.optim.epochs, gradient_clip_val=config.optim.clip,
        accumulate_grad_batches=config.trainer.accumulate, check_val_every_n_epoch=config.trainer.check_every,
        use_distributed_sampler=False, num_sanity_val_steps=0, logger=loggers, log_every_n_steps=config.track.every,
        callbacks=[best, last, SpeedBar(folder / "speed.jsonl", steps), stop],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with disk_errors(folder):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if stop.saved:
        raise Interrupted(f"Stopped at step {trainer.global_step} of {steps}; everything is saved. Go on with --resume=true.")
    if config.trainer.export == "best":
        state = torch.load(best.best_model_path, weights_only=True, map_location="cpu")["state_dict"]
        module.load_state_dict(state)
    return trainer


def publish_model(folder: Path, save: Any) -> None:
    """Replace folder/model by what `save(folder)` writes, in one rename."""
    with publish_folder(folder / "model") as made:
        save(made)


def add_stage(folder: Path, name: str, metrics: dict[str, float], *, seconds: float | None = None) -> None:
    """Add or replace one stage's figures in results.json."""
    path = folder / "results.json"
    content = json.loads(path.read_text()) if path.is_file() else {"stages": []}
    stages = [stage for stage in content["stages"] if stage["name"] != name]
    stages.append({"name": name, "metrics": metrics, "seconds": seconds})
    write_atomic(path, json.dumps({**content, "stages": stages, "queries": int(metrics.get("queries", 0))}, indent=1))
