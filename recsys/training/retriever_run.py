"""The retriever's run, from tables to a model folder."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from recsys.config import TextConfig
from recsys.data.datamodule import DataModule
from recsys.data.datasets import Features, NegativesConfig, RetrieverRows, Texts
from recsys.data.prepare import Prepared, prepare
from recsys.data.requests import Requests, evaluation_batches, query_requests, user_requests
from recsys.data.split import VALID
from recsys.data.text import load_tokenizer
from recsys.data.vectors import text_source
from recsys.errors import InputError
from recsys.models.checkpoint import count_parameters, save_retriever
from recsys.models.text import TextEncoder, encode_all
from recsys.models.towers import Retriever, RetrieverConfig, Sizes
from recsys.shards import fingerprint
from recsys.tables import DataConfig
from recsys.training.retriever import LossConfig, RetrieverTraining
from recsys.training.run import RunConfig, add_stage, fit, open_run, prepare_process, publish_model, write_versions


@dataclass(frozen=True, kw_only=True)
class RetrieverRun(RunConfig):
    """A run that trains a two-tower retriever."""

    data: DataConfig
    model: RetrieverConfig
    tasks: list[str] = field(default_factory=lambda: ["next_item"])
    """next_item, query_to_item or both."""
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    history_dropout: float = 0.0
    """Largest share of entries that a training window loses, drawn anew for each: a gap in a history then does no harm."""
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in ("next_item", "query_to_item"):
                raise InputError(f"tasks holds {task!r}; expected next_item, query_to_item or both.")
        if "next_item" in self.tasks and self.model.history is None:
            raise InputError("Task 'next_item' needs model.history; set it, or train on query_to_item alone.")
        if "query_to_item" in self.tasks and self.model.text is None:
            raise InputError("Task 'query_to_item' needs model.text, the encoder of queries and items.")
        trained_text = self.model.text is not None and self.model.text.mode != "frozen"
        if trained_text and self.negatives.kind == "all":
            raise InputError("negatives.kind 'all' with a trained text encoder would encode every item at every step; set negatives.kind: batch.")


def train_retriever(config: RetrieverRun) -> Path:
    """Train, evaluate and export; returns the run's folder."""
    prepare_process(config)
    checkpoint = open_run(config)
    data = prepare(config.data)
    features, model, tokenizer = build(config, data)
    rows = RetrieverRows(
        features, tasks=config.tasks, negatives=config.negatives, history_dropout=config.history_dropout,
        batch_size=config.loader.batch_size, seed=config.seed,
    )  # fmt: skip
    valid = validation_requests(data, config.tasks)
    module_data = DataModule(rows, partial(_valid_loaders, features, list(valid.values())), config.loader, seed=config.seed)
    steps = config.optim.epochs * -(-len(module_data.train_dataloader()) // config.trainer.accumulate)
    module = RetrieverTraining(
        model, features.catalogue(), torch.from_numpy(data.popularity()), valid=list(valid), optim=config.optim, loss=config.loss,
        total_steps=steps,
    )  # fmt: skip
    total, trained = count_parameters(model)
    write_versions(config.folder, data.hash, {"weights": total, "trained_weights": trained, "steps": steps})
    begin = time.perf_counter()
    trainer = fit(config, module, module_data, steps=steps, monitor=f"{next(iter(valid), 'valid')}/ndcg@10", checkpoint=checkpoint)
    seconds = time.perf_counter() - begin
    publish_model(config.folder, partial(_export, model, data, tokenizer))
    if valid:
        for name, value in evaluate(trainer, module, module_data).items():
            add_stage(config.folder, "retriever" if name == "valid" else f"retriever, {name}", value, seconds=seconds)
    return config.folder


def build(config: RetrieverRun, data: Prepared) -> tuple[Features, Retriever, PreTrainedTokenizerFast | None]:
    """The model for this data set, and the reader of its batches."""
    cache = Path(config.data.cache)
    tokenizer = encoder = None
    items = queries = Texts()
    if config.model.text is not None:
        texts = data.catalogue.texts
        searches = data.queries.texts if data.queries is not None else []
        tokenizer = load_tokenizer(config.model.text, [*texts, *searches], cache / "tokenizer")
        encoder = TextEncoder.build(config.model.text, len(tokenizer), tokenizer.pad_token_id)
        items, queries = text_sources(config.model.text, data, tokenizer, encoder, cache)
    features = Features(
        data, items, queries, max_items=config.data.history.max_items, searches=config.data.history.queries and encoder is not None
    )
    torch.manual_seed(config.seed)
    return features, Retriever(config.model, sizes(data, len(tokenizer) if tokenizer else 0), encoder), tokenizer


def text_sources(config: TextConfig, data: Prepared, tokenizer: PreTrainedTokenizerFast, encoder: TextEncoder, cache: Path) -> tuple[Texts, Texts]:
    """How item and query texts reach a batch of this encoder."""
    frozen = config.mode == "frozen"
    source = partial(
        text_source, tokenizer=tokenizer, max_tokens=config.max_tokens, folder=cache,
        encode=(lambda tokens: encode_all(encoder, tokens.batch, tokens.lengths)) if frozen else None,
        encoder_key=fingerprint(config.model, config.pooling) if frozen else "",
    )  # fmt: skip
    searches = data.queries.texts if data.queries is not None else []
    return source(data.catalogue.texts), source(searches) if searches else Texts()


def sizes(data: Prepared, vocab: int) -> Sizes:
    """Number of known values of every column."""
    codes = data.codes
    return Sizes(
        items=len(codes.item_ids),
        item_category=[len(values) for values in codes.item_category.values()], item_number=len(codes.item_number),
        user_category=[len(values) for values in codes.user_category.values()], user_number=len(codes.user_number),
        context=[len(values) for values in codes.context.values()], event=len(codes.event), vocab=vocab,
    )  # fmt: skip


def validation_requests(data: Prepared, tasks: list[str], stage: int = VALID) -> dict[str, Requests]:
    """Requests of the valid split for each task that has some: `valid` for users, `valid_query` for queries."""
    found = {}
    if "next_item" in tasks and data.histories is not None:
        found["valid"] = user_requests(data, stage)
    if "query_to_item" in tasks and data.queries is not None:
        found["valid_query"] = query_requests(data, np.flatnonzero(data.queries.stage == stage))
    return {name: requests for name, requests in found.items() if len(requests)}


def _valid_loaders(features: Features, requests: list[Requests], rank: int, world: int) -> list[list]:
    return [_Batches(features, one, rank, world) for one in requests]  # type: ignore[misc]


class _Batches:
    """A process's share of the validation batches, made anew on every pass."""

    def __init__(self, features: Features, requests: Requests, rank: int, world: int) -> None:
        self.args = (features, requests)
        self.part = {"part": rank, "parts": world}

    def __iter__(self):  # noqa: ANN204
        return evaluation_batches(*self.args, **self.part)


def evaluate(trainer, module: RetrieverTraining, data: DataModule) -> dict[str, dict[str, float]]:  # noqa: ANN001
    """Full-ranking metrics of the module's present weights, by validation set."""
    values = trainer.validate(module, datamodule=data, verbose=False)
    flat = {name: value for part in values for name, value in part.items()}
    return {
        prefix: {name.removeprefix(f"{prefix}/"): value for name, value in flat.items() if name.startswith(f"{prefix}/")}
        for prefix in module.valid
    }


def _export(model: Retriever, data: Prepared, tokenizer: PreTrainedTokenizerFast | None, folder: Path) -> None:
    save_retriever(model, folder)
    data.codes.save(folder / "codes.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "text")
