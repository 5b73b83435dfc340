"""Training with in-batch negatives: RetrieverTraining under Lightning beside sentence-transformers' trainer.

Both learn from the same pairs in the same order, all weights of the same model, AdamW with the same
constant rate, betas, decay and clipping, scale 20. A step is all that happens from one batch's end to that of the next:
reading it, forward, backward, clipping, the optimiser, what the trainers write down. Dropout draws differ.
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning import Callback
from measure import MINILM, THREADS
from turns import Pace

from recsys.batch import RetrieverBatch
from recsys.config import TextConfig, resolve_pretrained
from recsys.data.datamodule import DataModule, LoaderConfig
from recsys.data.datasets import NegativesConfig, RetrieverRows
from recsys.heap import keep_freed_memory
from recsys.models.towers import RetrieverConfig
from recsys.tables import DataConfig, ItemsConfig, QueriesConfig, RelevanceConfig, SplitConfig
from recsys.training.optim import OptimConfig
from recsys.training.retriever_run import RetrieverRun, open_training
from recsys.training.run import TrainerConfig, fit, open_run, prepare_process

RATE, BETAS = 2e-5, (0.9, 0.98)
ITEM_TEXT = ["title", "year", "genres", "description"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt."""

    data: str
    folder: str
    """For caches and runs."""
    steps: int
    batch: int = 64
    max_tokens: int = 128
    precision: str = "fp32"
    model: str = MINILM

    def run(self) -> RetrieverRun:
        """Ours, as a config."""
        data = DataConfig(
            root=self.data, cache=f"{self.folder}/cache", tables={"interactions": "", "users": ""},
            items=ItemsConfig(text=ITEM_TEXT), queries=QueriesConfig(), relevance=RelevanceConfig(),
            split=SplitConfig(by="column"),
        )  # fmt: skip
        text = TextConfig(model=self.model, mode="full", max_tokens=self.max_tokens)
        return RetrieverRun(
            task="retriever", name=f"ours_{self.precision}", runs=self.folder, overwrite=True, data=data,
            tasks=["query_to_item"],
            model=RetrieverConfig(text=text, id_vector=False, history=None, normalize=True),
            negatives=NegativesConfig(kind="batch", random=0, log_q=False),
            loader=LoaderConfig(batch_size=self.batch, bucket=1),
            optim=OptimConfig(epochs=1, lr=RATE, text_lr=RATE, weight_decay=0.0, warmup=0.0, floor=1.0),
            trainer=TrainerConfig(
                accelerator="cpu", threads=THREADS, precision="bf16-mixed" if self.precision == "bf16" else "32-true"
            ),
        )  # fmt: skip


class _Turns(Callback):
    """Waits for its turn before each step, and keeps the losses."""

    def __init__(self, pace: Pace) -> None:
        self.pace, self.losses = pace, []

    def on_train_start(self, *_: Any) -> None:
        self.pace.next()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        trainer.should_stop = not self.pace.next()


def ours(pace: Pace, task: Task) -> list[float]:
    """Job: the project's training, from `fit` on; returns the losses."""
    keep_freed_memory()  # as `recsys train` does
    config = prepare_process(task.run())
    module, rows = open_training(config)
    module.total_steps = task.steps
    turns = _Turns(pace)
    open_run(config)
    fit(
        config, module, DataModule(rows, lambda *_: [], config.loader, seed=config.seed), steps=task.steps,
        monitor="", checkpoint=None, more=[turns],
    )  # fmt: skip
    return turns.losses


def pairs_in_order(task: Task) -> tuple[list[str], list[str], list[np.ndarray]]:
    """The queries and items of all steps in the order of `ours`, and of each step the real tokens of every text."""
    config = task.run()
    _, rows = open_training(config)
    draws = iter(DataModule(rows, lambda *_: [], config.loader, seed=config.seed).train_dataloader().batches)
    queries, items, lengths = [], [], []
    for draw, _ in zip(draws, range(task.steps), strict=False):
        made = rows.assemble(draw)
        own, right = _texts(rows, draw.rows, made)
        queries += own
        items += right
        lengths.append(_lengths(made))
    return queries, items, lengths


def _texts(rows: RetrieverRows, places: np.ndarray, batch: RetrieverBatch) -> tuple[list[str], list[str]]:
    data = rows.features.data
    assert data.queries is not None
    asked = rows.queries[places - rows.window_count]
    return [data.queries.texts[row] for row in asked], [data.catalogue.texts[row] for row in batch.target.tolist()]


def _lengths(batch: RetrieverBatch) -> np.ndarray:
    assert batch.items is not None
    assert batch.items.text is not None
    assert batch.users.query_text is not None
    return np.concatenate([text.mask.sum(1).numpy() for text in (batch.items.text, batch.users.query_text)])


def peer(pace: Pace, task: Task) -> list[float]:
    """Job: sentence-transformers' trainer and MultipleNegativesRankingLoss; returns the losses."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pace.next()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not pace.next()

    def in_order(dataset: Any, **how: Any) -> DefaultBatchSampler:
        return DefaultBatchSampler(SequentialSampler(dataset), **how)

    queries, items, _ = pairs_in_order(task)
    model = SentenceTransformer(resolve_pretrained(task.model), device="cpu")
    model.max_seq_length = task.max_tokens
    loss, found = MultipleNegativesRankingLoss(model), []
    loss.register_forward_hook(lambda _, __, value: found.append(value.detach()))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder, per_device_train_batch_size=task.batch, max_steps=task.steps, learning_rate=RATE,
            warmup_steps=0, lr_scheduler_type="constant", adam_beta1=BETAS[0], adam_beta2=BETAS[1], report_to=[],
            save_strategy="no", logging_strategy="no", bf16=task.precision == "bf16", use_cpu=True, disable_tqdm=True,
            dataloader_drop_last=True, seed=1, batch_sampler=in_order,
        )  # fmt: skip
        SentenceTransformerTrainer(
            model=model, args=arguments, loss=loss, callbacks=[Turns()],
            train_dataset=Dataset.from_dict({"anchor": queries, "positive": items}),
        ).train()  # fmt: skip
    return [float(one) for one in found]
