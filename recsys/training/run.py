"""One YAML is one run: composes data, model, trainer and trackers, and keeps the run's folder.

A run's folder holds config.yaml, versions.json, metrics.jsonl (the ground truth), speed.jsonl, results.json,
checkpoints/ and the exported model/.
"""

import json
import logging
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from recsys.config import parse_run
from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.errors import InputError
from recsys.results import read_results, write_results
from recsys.shards import disk_errors, publish_folder, write_atomic
from recsys.training.distributed import first_process, load_state
from recsys.training.noise import SeededNoise
from recsys.training.optim import OptimConfig
from recsys.training.precision import Resolved, check_gpus, resolve_precision
from recsys.training.preemption import DONE, STARTED, StopAtBoundary
from recsys.training.progress import SpeedBar, usual_speed
from recsys.training.tracking import WANDB_ID, TrackConfig, cut_lines, has_line, make_loggers

CHECKPOINTS = ("last.ckpt", "previous.ckpt")
"""By age; best.ckpt is the one with the best score."""
LAST = Path("checkpoints") / CHECKPOINTS[0]
WRITTEN = ("metrics.jsonl", "speed.jsonl", "results.json", "requests.parquet", "samples.json", WANDB_ID)
"""Files that a run that starts anew does not inherit."""

PLACE = ("accelerator", "devices", "nodes", "strategy", "threads", "compile")
"""Keys of `trainer` that change the last bits at most, not what is learnt."""

NOT_FOR_USERS = (
    r".*LeafSpec.*is deprecated",
    r".*module\(s\) in eval mode at the start of training",  # the frozen text encoder
    r".*is smaller than the logging interval",
    r".*It is recommended to use .*sync_dist=True",  # the metrics hold counts over all processes already
    r".*does not have many workers",
    r"Checkpoint directory .* exists and is not empty",
    r"The `srun` command is available",  # a login node, where nobody asked for it
    r"Total length of .* across ranks is zero",  # no validation
    r".*is_gradient_checkpointing. is deprecated",  # what peft still asks transformers for
)
"""Starts of warnings, as patterns."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Where and in which precision to train."""

    accelerator: str = "auto"
    """cpu, gpu or auto."""
    devices: int = 1
    """Processes on each node, one for each GPU."""
    nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "fsdp"] = "auto"
    """auto: every process has the whole model (DDP). fsdp: the text encoder's weights, gradients and Adam's moments are
    shared out, for an encoder that is trained in full and too large for a card; validation gathers its weights.
    Tested with two processes on CPUs in float32."""
    precision: Literal["auto"] | Resolved = "32-true"
    """Of the training steps; validation is computed in float32, as inference is. auto: bf16-mixed where the chip has
    it in hardware, else 16-mixed on a GPU, else 32-true; the run's config.yaml names what it was."""
    threads: int | None = None
    """CPU threads of each process; null: all cores."""
    check_every: int = 1
    """Epochs between two validations."""
    save_every: int | None = None
    """Steps between two checkpoints, beside that of every epoch: what a machine that dies can cost."""
    export: Literal["last", "best"] = "last"
    """Which weights become the run's model: those of the last step, or of the best validation."""
    accumulate: int = 1
    """Batches whose gradients are summed before a step."""
    compile: bool = False
    """Compile the text encoder (torch.compile, shapes dynamic): minutes at the start, faster steps on a GPU."""

    def __post_init__(self) -> None:
        names = ("devices", "nodes", "check_every", "accumulate", "save_every")
        wrong = {name: count for name in names if (count := getattr(self, name)) is not None and count < 1}
        if wrong or (self.threads is not None and self.threads < 1):
            raise InputError(f"trainer: expected counts of at least 1; found {wrong or {'threads': self.threads}}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every training run has."""

    task: str
    """retriever, pruner or mlm."""
    name: str
    """Of the run; its folder is RUNS/NAME."""
    runs: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    """Of the first weights, the order of the data and dropout."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How rows become batches."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How long and how fast to learn."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Where and in which precision to train."""
    track: TrackConfig = field(default_factory=TrackConfig)
    """Where numbers go."""
    resume: bool | Literal["auto"] = False
    """Go on from the run's newest whole checkpoint. auto: if there is one, else start, and leave a finished run alone:
    for a job that may be started again and again."""
    overwrite: bool = False
    """Replace a run of the same name."""

    @property
    def folder(self) -> Path:
        """Of this run."""
        return Path(self.runs) / self.name


Run = TypeVar("Run", bound=RunConfig)


def check_run(config: RunConfig) -> Path | None:
    """The checkpoint to go on from, if any.

    Refuses to overwrite a run unasked, and to resume under another config. Writes nothing.
    """
    folder, saved = config.folder, config.folder / "config.yaml"
    if config.resume:
        checkpoint = newest_checkpoint(folder, config.track.every) if saved.is_file() else None
        if checkpoint is None and config.resume != "auto":
            place = folder / LAST.parent
            raise InputError(f"Nothing to resume: {place} holds no whole checkpoint. Start the run without --resume.")
        if saved.is_file() and _learning(_read_again(saved, config)) != _learning(config_text(config)):
            remedy = "resume with the same values, or choose another --name"
            raise InputError(f"{folder} was started with another config ({saved}); {remedy}.")
        return checkpoint
    if saved.is_file() and not config.overwrite and first_process():  # others may see what the first has just begun
        state = "a finished run" if (folder / DONE).is_file() else "an unfinished run"
        resume = "Go on with --resume=true, replace" if (folder / LAST).is_file() else "Replace"
        raise InputError(f"{folder} holds {state}. {resume} it with --overwrite=true, or choose another --name.")
    return None


def _read_again(saved: Path, config: RunConfig) -> str:
    """The saved config with what it does not name, as a config of an earlier version may not, at its default."""
    try:
        return config_text(parse_run(type(config), [str(saved)]))
    except InputError:  # it names what there is no longer
        return saved.read_text()


def _learning(text: str) -> dict[str, Any]:
    """A config without what says where the work is done: a run may go on elsewhere, on more processes or fewer."""
    content = yaml.safe_load(text)
    content["trainer"] = {name: value for name, value in content["trainer"].items() if name not in PLACE}
    return content


def is_done(config: RunConfig) -> bool:
    """Whether there is nothing left to do: a finished run, and `resume: auto`."""
    return config.resume == "auto" and (config.folder / DONE).is_file() and check_run(config) is not None


def newest_checkpoint(folder: Path, every: int) -> Path | None:
    """The newest whole checkpoint of a run: the last one, or the one before it if that cannot be used, which is said.

    A process that was killed between a checkpoint and the line of its step has lost that line: it goes on from the
    checkpoint before, and comes to the same line again.
    """
    for path in (folder / LAST.parent / name for name in CHECKPOINTS):
        if path.is_file():
            try:
                step = read_checkpoint(path)["global_step"]
            except InputError:
                rank_zero_warn(f"{path} is no whole checkpoint and was skipped.")
                continue
            if step < every or has_line(folder / "metrics.jsonl", step // every * every - 1):
                return path
            rank_zero_warn(f"{path} is newer than metrics.jsonl and was skipped.")
    return None


def open_run(config: RunConfig) -> Path | None:
    """Make the run's folder, or find what to resume: as `check_run`, but what an older run left is removed."""
    folder, checkpoint = config.folder, check_run(config)
    if checkpoint is not None and first_process() and (folder / "config.yaml").read_text() != config_text(config):
        rank_zero_warn(
            f"{folder} goes on in another place (devices, nodes, threads or accelerator differ): it continues with the "
            "same global rows, but sums are made in another order and dropout draws anew, so that bits may differ."
        )
        write_atomic(folder / "config.yaml", config_text(config))
    if checkpoint is None and first_process():
        with disk_errors(folder):
            for old in (STARTED, DONE, *WRITTEN):
                if old != WANDB_ID or config.resume != "auto":  # a job that begins again is the same W&B run
                    (folder / old).unlink(missing_ok=True)
            for old in ("checkpoints", "model", "tensorboard"):
                shutil.rmtree(folder / old, ignore_errors=True)
            write_atomic(folder / "config.yaml", config_text(config))
    return checkpoint


def config_text(config: Any) -> str:
    """The full config as YAML, without the flags that say how to start."""
    values = {key: value for key, value in asdict(config).items() if key not in ("resume", "overwrite")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def write_versions(folder: Path, data_hash: str, extra: dict[str, Any] | None = None) -> None:
    """versions.json: what made this run."""
    if not first_process():
        return
    packages = ("torch", "lightning", "transformers", "torchmetrics", "polars", "numpy", "datasets", "wandb")
    content = {name: version(name) for name in packages}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {_chip()}"
    content |= {"python": platform.python_version(), "machine": machine, "date": datetime.now(UTC).date().isoformat()}
    content |= {"data": data_hash, "command": " ".join(sys.argv[:3]), **(extra or {})}
    write_atomic(folder / "versions.json", json.dumps(content, indent=1))


def _chip() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or "unknown processor"


def prepare_process(config: Run) -> Run:
    """Threads and seeds of this process, and silence for Lightning's remarks that a user can do nothing about.

    Returns the config with its precision resolved.
    """
    check_gpus(config.trainer.accelerator)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    seed_everything(config.seed, verbose=False)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=remark)
    precision = resolve_precision(config.trainer.precision, config.trainer.accelerator)
    return replace(config, trainer=replace(config.trainer, precision=precision))


def fit(
    config: RunConfig, module: LightningModule, data: DataModule, *, steps: int, monitor: str, checkpoint: Path | None,
    more: Sequence[Callback] = (),
) -> Trainer:  # fmt: skip
    """Train to the end, or raise Interrupted (after saving) when a signal asks for it.

    The module holds the weights to export afterwards: the last ones, or those with the best `monitor` on validation;
    its text encoder's with as much of the pretrained ones as is wanted.
    """
    folder, validates = config.folder, bool(data.val_dataloader())
    if config.trainer.export == "best" and not (validates and config.trainer.check_every <= config.optim.epochs):
        raise InputError("trainer.export is 'best', but no validation takes place; set it to last, or add valid rows.")
    if checkpoint is not None and first_process():
        step = read_checkpoint(checkpoint)["global_step"]
        cut_lines(folder / "metrics.jsonl", step - 1)
        cut_lines(folder / "speed.jsonl", step)
    stop = StopAtBoundary(folder / LAST, config.trainer.save_every)
    best = ModelCheckpoint(
        folder / "checkpoints", filename="best", monitor=monitor, mode="max", enable_version_counter=False,
        save_on_train_epoch_end=False,
    )  # fmt: skip
    callbacks = [
        *more,
        SeededNoise(config.seed),
        SpeedBar(folder / "speed.jsonl", steps),
        *([best] if validates else []),
        stop,
    ]
    text = getattr(module.model, "text", None)
    if config.trainer.compile and text is not None:
        text.compile_model()
    with disk_errors(folder):
        trainer = make_trainer(config, callbacks)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if config.trainer.export == "best":
        content = read_checkpoint(Path(best.best_model_path))
        module.on_load_checkpoint(content)
        load_state(module, content["state_dict"])
    if text is not None:
        text.blend()
    return trainer


def make_trainer(config: RunConfig, callbacks: Sequence[Callback]) -> Trainer:
    """Lightning's trainer, as the config has it."""
    loggers = make_loggers(config.track, config.folder, yaml.safe_load(config_text(config)))
    return Trainer(
        accelerator=config.trainer.accelerator, devices=config.trainer.devices, num_nodes=config.trainer.nodes,
        strategy=strategy_of(config.trainer),
        precision=resolve_precision(config.trainer.precision, config.trainer.accelerator),
        max_epochs=config.optim.epochs, gradient_clip_val=config.optim.clip,
        accumulate_grad_batches=config.trainer.accumulate, check_val_every_n_epoch=config.trainer.check_every,
        use_distributed_sampler=False, num_sanity_val_steps=0, logger=loggers, log_every_n_steps=config.track.every,
        callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False, plugins=_plugins(),
    )  # fmt: skip


def strategy_of(config: TrainerConfig) -> str | ModelParallelStrategy:
    """What Lightning is to use."""
    if config.strategy == "auto":
        return "auto"
    count = config.devices * config.nodes
    return ModelParallelStrategy(data_parallel_size=count, tensor_parallel_size=1, save_distributed_checkpoint=False)


def _plugins() -> list[Any]:
    """Atomic checkpoints; under SLURM, Lightning's own answer to signals is left out: it works inside the handler."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [AtomicCheckpoints(), *slurm]


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint that is not whole never has its name; the one that the last replaces stays beside it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside, rename."""
        place = Path(path)
        part = place.with_name(f".{place.name}.part")
        super().save_checkpoint(checkpoint, part, storage_options)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if place.name == CHECKPOINTS[0] and place.is_file():
            os.replace(place, place.with_name(CHECKPOINTS[1]))
        os.replace(part, place)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code of it is run."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)  # what is not asked for is not read
    except Exception as error:  # torch has no error of its own for this
        found = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a readable checkpoint ({found}); start again with --overwrite=true."
        ) from error


def publish_model(folder: Path, save: Callable[[Path], None]) -> None:
    """Replace folder/model by what `save(folder)` writes, in one rename; by the first process alone."""
    if not first_process():
        return
    with publish_folder(folder / "model") as made:
        save(made)


def finish_run(folder: Path) -> None:
    """Add to the results how fast it was, and mark that all of the run has ended well."""
    if first_process():
        speed, results = usual_speed(folder / "speed.jsonl"), read_results(folder)
        if speed and results["stages"]:
            write_results(folder, {**results, "speed": speed})
        write_atomic(folder / DONE, "")
