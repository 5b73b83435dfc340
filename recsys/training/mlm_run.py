"""The run of masked-language training: from the texts of a data set to a text model that others start from."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from recsys.batch import MaskedBatch
from recsys.data.datamodule import DataModule
from recsys.data.masked import MaskedRows, Masking, known_texts, masked_evaluations
from recsys.data.prepare import prepare
from recsys.data.text import load_tokenizer
from recsys.data.tokens import TokenCache, token_cache
from recsys.errors import InputError
from recsys.models.checkpoint import count_parameters
from recsys.models.masked import MaskedConfig, MaskedLanguageModel
from recsys.models.text import TextEncoder
from recsys.results import add_stage
from recsys.tables import DataConfig
from recsys.training.distributed import first_process
from recsys.training.mlm import MlmTraining
from recsys.training.run import (
    RunConfig,
    check_run,
    finish_run,
    fit,
    is_done,
    open_run,
    prepare_process,
    publish_model,
    write_versions,
)


@dataclass(frozen=True, kw_only=True)
class MlmRun(RunConfig):
    """A run that trains a text encoder further on the texts of items and train queries. A retriever or a pruner starts
    from its folder: model.text.model: RUNS/NAME/model."""

    data: DataConfig
    """The tables and the roles of their columns."""
    model: MaskedConfig
    """The text encoder, and how much is hidden from it."""
    held_out: float = 0.05
    """Share of the texts that is judged on and not learnt from."""

    def __post_init__(self) -> None:
        if self.trainer.strategy == "fsdp":
            raise InputError("trainer.strategy 'fsdp' is for a retriever's encoder; set it to auto.")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out is {self.held_out}; expected a share from 0 to below 1.")


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What a run is made of."""

    model: MaskedLanguageModel
    rows: MaskedRows
    valid: np.ndarray
    tokenizer: PreTrainedTokenizerFast
    data_hash: str


def train_mlm(config: MlmRun) -> Path:
    """Train, judge and export; returns the run's folder."""
    config = prepare_process(config)
    if is_done(config):
        return config.folder
    check_run(config)
    made = _make(config)
    rows, model = made.rows, made.model
    loaders = DataModule(rows, partial(_valid_loaders, rows, made.valid), config.loader, seed=config.seed)
    steps = config.optim.epochs * math.ceil(len(loaders.train_dataloader()) / config.trainer.accumulate)
    module = MlmTraining(model, optim=config.optim, total_steps=steps)
    checkpoint = open_run(config)
    total, trained = count_parameters(model)
    facts = {"weights": total, "trained_weights": trained, "steps": steps, "texts": len(rows.rows)}
    write_versions(config.folder, made.data_hash, facts)
    begin = time.perf_counter()
    trainer = fit(config, module, loaders, steps=steps, monitor="valid/accuracy", checkpoint=checkpoint)
    seconds = time.perf_counter() - begin
    publish_model(config.folder, partial(_export, model.text, made.tokenizer))
    if len(made.valid):
        trainer.validate(module, datamodule=loaders, verbose=False)
        if first_process():
            add_stage(config.folder, "mlm", module.results["valid"], seconds=seconds)
    finish_run(config.folder)
    return config.folder


def open_training(config: MlmRun) -> tuple[MlmTraining, MaskedRows]:
    """The training without a run around it: to plan, and to try a batch."""
    made = _make(config)
    return MlmTraining(made.model, optim=config.optim, total_steps=1), made.rows


def _make(config: MlmRun) -> _Made:
    data, cache = prepare(config.data), Path(config.data.cache)
    text = config.model.text
    texts, held = known_texts(data, config.held_out)
    if held.all():
        raise InputError(f"held_out {config.held_out} leaves none of {len(texts)} texts to learn from; set it to 0.")
    tokenizer = load_tokenizer(text, texts, cache / "tokenizer")
    tokens = token_cache(texts, tokenizer, text.max_tokens, cache)
    torch.manual_seed(config.seed)
    encoder = TextEncoder.build(text, len(tokenizer), cast("int", tokenizer.pad_token_id))
    model = MaskedLanguageModel(encoder)
    rows = MaskedRows(tokens, np.flatnonzero(~held), Masking.of(tokenizer, config.model.mask), seed=config.seed)
    return _Made(model=model, rows=rows, valid=np.flatnonzero(held), tokenizer=tokenizer, data_hash=data.hash)


class _Batches:
    """A process's share of the held-out texts, made anew on every pass."""

    def __init__(self, tokens: TokenCache, rows: np.ndarray, masking: Masking, rank: int, world: int) -> None:
        self.make = partial(masked_evaluations, tokens, rows, masking, part=rank, parts=world)

    def __iter__(self) -> Iterator[MaskedBatch]:
        return self.make()


def _valid_loaders(rows: MaskedRows, valid: np.ndarray, rank: int, world: int) -> list[Any]:
    return [_Batches(rows.tokens, valid, rows.masking, rank, world)] if len(valid) else []


def _export(text: TextEncoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text.save(folder)
    tokenizer.save_pretrained(folder)
