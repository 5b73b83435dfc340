"""The retriever's run, from tables to a model folder."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from lightning import Trainer
from transformers import PreTrainedTokenizerFast

from recsys.batch import EvaluationBatch
from recsys.config import TextConfig
from recsys.data.augment import AugmentConfig
from recsys.data.cloze import ClozeConfig, add_cloze, split_texts
from recsys.data.codes import turns
from recsys.data.datamodule import DataModule
from recsys.data.datasets import Features, NegativesConfig, RetrieverRows, Texts
from recsys.data.images import Images, image_source
from recsys.data.mined import HardNegatives, read_mined
from recsys.data.neighbours import columns
from recsys.data.prepare import Prepared, prepare
from recsys.data.query_images import check_query_images, query_cells
from recsys.data.requests import Requests, evaluation_batches, validation_requests
from recsys.data.taught import read_taught
from recsys.data.text import load_tokenizer
from recsys.data.vectors import text_source
from recsys.errors import InputError
from recsys.models.checkpoint import count_parameters, save_retriever
from recsys.models.image import ImageEncoder, encode_images
from recsys.models.text import TextEncoder, encode_all
from recsys.models.towers import Retriever, RetrieverConfig, Sizes
from recsys.results import add_requests, add_stage, stage_name
from recsys.shards import folder_hash, publish_folder
from recsys.tables import DataConfig
from recsys.training.distributed import first_process, is_sharded, whole_state
from recsys.training.retriever import LossConfig, RetrieverTraining, TeacherConfig
from recsys.training.rounds import HardRounds, Mine
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
from recsys.vectors import FrozenEncoder


@dataclass(frozen=True, kw_only=True)
class RetrieverRun(RunConfig):
    """A run that trains a two-tower retriever."""

    data: DataConfig
    """The tables and the roles of their columns."""
    model: RetrieverConfig
    """The two towers."""
    tasks: list[str] = field(default_factory=lambda: ["next_item"])
    """next_item, query_to_item or both."""
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    """What each positive is told apart from."""
    each_pair: bool = False
    """Whether every relevant pair of a query and an item is learnt in every epoch, for a few queries with many items
    each; else every query, with one of its items drawn anew."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How histories are changed while they are trained on."""
    cloze: ClozeConfig | None = None
    """Items asked for by some of their own words, beside what queries ask for (task query_to_item); null: none."""
    teacher: TeacherConfig | None = None
    """A pruner to learn from, beside what is right; for task query_to_item. null: none."""
    loss: LossConfig = field(default_factory=LossConfig)
    """How the loss is computed; it changes speed and memory, not what is learnt."""

    def __post_init__(self) -> None:
        if self.data.interactions.judged:
            raise InputError("data.interactions.judged is for a pruner without candidates; leave it out here.")
        if not self.tasks or not set(self.tasks) <= {"next_item", "query_to_item"}:
            raise InputError(f"tasks is {self.tasks}; expected next_item, query_to_item or both.")
        if "next_item" in self.tasks and self.model.history is None:
            raise InputError("Task 'next_item' needs model.history; set it, or train on query_to_item alone.")
        if "next_item" in self.tasks and self.data.split.items is not None:
            raise InputError("data.split.items is for queries alone; leave it out, or set tasks: [query_to_item].")
        if self.data.split.items is not None and self.model.id_vector:
            raise InputError("data.split.items asks for items that nobody has met; set model.id_vector: false.")
        if self.teacher is not None and "query_to_item" not in self.tasks:
            raise InputError("teacher is for task query_to_item; add it to tasks, or take the teacher out.")
        if self.teacher is not None and self.negatives.kind == "all":
            raise InputError("teacher goes with negatives.kind: batch, whose items are encoded for each batch; set it.")
        check_query_images(self.data, encoded=self.model.image is not None)
        if "query_to_item" in self.tasks and self.model.text is None and self.data.queries.image is None:
            other = "or data.queries.image and model.image where pictures ask"
            raise InputError(f"Task 'query_to_item' needs model.text, the encoder of queries and items; {other}.")
        trained_text = self.model.text is not None and self.model.text.mode != "frozen"
        if trained_text and self.negatives.kind == "all":
            reason = "would encode every item's text at every step"
            raise InputError(f"negatives.kind 'all' with a trained encoder {reason}; set negatives.kind: batch.")
        if self.negatives.kind == "all" and self.model.image is not None and self.model.image.mode == "full":
            reason = "would encode every item's picture at every step"
            raise InputError(f"negatives.kind 'all' with a trained image encoder {reason}; set negatives.kind: batch.")
        if self.loss.cached is not None and not trained_text:
            raise InputError("loss.cached is for a text encoder that is trained; set model.text.mode: full or lora.")
        if self.trainer.strategy == "fsdp" and (self.loss.cached is not None or not trained_text):
            found = "does not go with loss.cached" if trained_text else "shares out a text encoder that is trained"
            remedy = "use trainer.strategy: auto" if trained_text else "set model.text.mode: full"
            raise InputError(f"trainer.strategy 'fsdp' {found}; {remedy}.")
        if self.trainer.strategy == "fsdp" and self.model.text is not None and self.model.text.pretrained:
            raise InputError("model.text.pretrained needs whole weights; set it to 0, or trainer.strategy to auto.")
        if self.negatives.refresh and self.trainer.strategy == "fsdp":
            raise InputError("negatives.refresh needs whole weights; set it to 0, or trainer.strategy to auto.")
        if self.cloze is not None and (self.negatives.kind == "all" or "query_to_item" not in self.tasks):
            raise InputError("cloze goes with negatives.kind: batch and task query_to_item; set both, or leave it out.")
        knows = trained_text and self.model.text is not None and not self.model.text.from_scratch
        if self.negatives.alike and not (knows and "query_to_item" in self.tasks and self.data.items.text):
            remedy = "set negatives.alike: 0, or train an encoder that has weights, on query_to_item"
            raise InputError(f"negatives.alike goes by what texts mean at the start of training; {remedy}.")
        if self.negatives.alike and self.data.queries.image is not None:
            remedy = "set negatives.alike: 0, or leave data.queries.image out"
            raise InputError(f"negatives.alike goes by the words of queries, and pictures may have none; {remedy}.")


def train_retriever(config: RetrieverRun, mine: Mine | None = None) -> Path:
    """Train, evaluate and export; returns the run's folder. `mine` makes the rounds of `negatives.refresh`."""
    config = prepare_process(config)
    if is_done(config):
        return config.folder
    check_run(config)
    data = prepare(config.data)
    features, model, tokenizer = build(config, data)
    valid = validation_requests(data, config.tasks)
    rows = training_rows(config, features, model, tokenizer)
    if config.negatives.alike and model.text is not None and tokenizer is not None:
        rows.group_alike(*_meanings(config, data, tokenizer, model.text))
    loaders = DataModule(rows, partial(_valid_loaders, features, list(valid.values())), config.loader, seed=config.seed)
    steps = config.optim.epochs * math.ceil(len(loaders.train_dataloader()) / config.trainer.accumulate)
    module = RetrieverTraining(
        model, features.catalogue(), torch.from_numpy(data.popularity()), valid=list(valid), optim=config.optim,
        loss=config.loss, total_steps=steps, pixels=features.pixels, teacher=config.teacher,
    )  # fmt: skip
    checkpoint = open_run(config)
    total, trained = count_parameters(model)
    write_versions(config.folder, data.hash, {"weights": total, "trained_weights": trained, "steps": steps})
    begin, monitor = time.perf_counter(), f"{next(iter(valid), 'valid')}/ndcg@10"
    rounds = _rounds(config, rows, data, partial(_export, model, data, tokenizer), mine)
    trainer = fit(config, module, loaders, steps=steps, monitor=monitor, checkpoint=checkpoint, more=rounds)
    seconds = time.perf_counter() - begin
    made = model if not is_sharded(model) else _gathered(model, build(config, data)[1])
    publish_model(config.folder, partial(_export, made, data, tokenizer))
    if valid:
        module.keep_requests([len(one) for one in valid.values()])
    for name, values in (evaluate(trainer, module, loaders) if valid else {}).items():
        if first_process():
            stage = stage_name("retriever", name)
            add_stage(config.folder, stage, values, seconds=seconds)
            add_requests(config.folder, stage, module.requests[name])
    finish_run(config.folder)
    return config.folder


def _rounds(
    config: RetrieverRun, rows: RetrieverRows, data: Prepared, export: Callable[[Path], None], mine: Mine | None
) -> list[HardRounds]:
    """What mines anew, where that is wanted."""
    negatives = config.negatives
    if not negatives.refresh:
        return []
    if mine is None:
        raise InputError("negatives.refresh needs somebody who mines; train with train.py, or hand in mine_round.")

    def open_round(number: int, trainer: Trainer) -> tuple[HardNegatives, str]:
        place = config.folder / "rounds" / f"{number:03d}"
        if first_process() and not place.is_dir():
            with publish_folder(place) as made:
                shutil.copy(config.folder / "config.yaml", made)
                export(made / "model")
                mine(made, config.data, negatives.mine)
                shutil.rmtree(made / "model")
        trainer.strategy.barrier()
        found = read_mined(place / "mined", negatives.hard, data, config.data)
        return found, folder_hash(place / "mined")

    return [HardRounds(rows, negatives.refresh, first=negatives.mined is None, open_round=open_round)]


def open_training(config: RetrieverRun) -> tuple[RetrieverTraining, RetrieverRows]:
    """The training without a run around it: to plan, and to try a batch."""
    data = prepare(config.data)
    features, model, tokenizer = build(config, data)
    module = RetrieverTraining(
        model, features.catalogue(), torch.from_numpy(data.popularity()), valid=[], optim=config.optim,
        loss=replace(config.loss, products="float32"), total_steps=1, teacher=config.teacher,
    )  # fmt: skip
    return module, training_rows(config, features, model, tokenizer)


def build(config: RetrieverRun, data: Prepared) -> tuple[Features, Retriever, PreTrainedTokenizerFast | None]:
    """The model for this data set, and the reader of its batches."""
    tokenizer = encoder = None
    items = queries = Texts()
    if config.model.text is not None:
        cache = Path(config.data.cache)
        tokenizer = load_tokenizer(config.model.text, data.words(), cache / "tokenizer")
        encoder = TextEncoder.build(config.model.text, len(tokenizer), cast("int", tokenizer.pad_token_id))
        items, queries = text_sources(config.model.text, data, tokenizer, encoder, cache)
    history = config.data.history
    pictures = None
    if config.model.image is not None:
        torch.manual_seed(config.seed)
        pictures = ImageEncoder.build(config.model.image)
    augment = config.model.image is not None and config.model.image.augment
    shown = query_image_reader(config.data, data, pictures, augment=augment)
    searched = history.queries and encoder is not None and (queries.there or shown is not None)
    features = Features(
        data, items, queries, max_items=history.max_items, searches=searched,
        images=image_reader(config.data, data, pictures, augment=augment), query_images=shown,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    model = Retriever(config.model, sizes(data, len(tokenizer) if tokenizer else 0), encoder, pictures)
    return features, model, tokenizer


def text_reader(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, encoder: TextEncoder, cache: Path
) -> Callable[[list[str]], Texts]:
    """A table's texts -> how they reach a batch of this encoder."""
    frozen = FrozenEncoder(
        encode=lambda tokens: encode_all(encoder, tokens.batch, tokens.lengths), width=encoder.width,
        key=encoder.content_hash(),
    ) if config.mode == "frozen" else None  # fmt: skip
    return partial(
        text_source, tokenizer=tokenizer, max_tokens=config.max_tokens, folder=cache, frozen=frozen,
        dropout=config.token_dropout,
    )  # fmt: skip


def image_reader(config: DataConfig, data: Prepared, encoder: ImageEncoder | None, *, augment: bool) -> Images | None:
    """How pictures reach a batch of this encoder; InputError where no column holds them."""
    if encoder is None:
        return None
    if config.items.image is None:
        raise InputError("model.image is set, and data.items.image names no column; name the pictures' column.")
    return _pictures(config, data.tables.items[config.items.image], encoder, augment=augment)


def query_image_reader(
    config: DataConfig, data: Prepared, encoder: ImageEncoder | None, *, augment: bool
) -> Images | None:
    """The same of what queries show; None where no column says it."""
    cells = query_cells(config, data)
    return None if encoder is None or cells is None else _pictures(config, cells, encoder, augment=augment)


def _pictures(config: DataConfig, cells: pl.Series, encoder: ImageEncoder, *, augment: bool) -> Images:
    return image_source(
        config.root, cells, encoder.pixels, Path(config.cache),
        frozen=_frozen_images(encoder) if encoder.frozen else None, augment=augment and not encoder.frozen,
    )  # fmt: skip


def _frozen_images(encoder: ImageEncoder) -> FrozenEncoder:
    return FrozenEncoder(encode=partial(encode_images, encoder), width=encoder.width, key=encoder.content_hash())


def training_rows(
    config: RetrieverRun, features: Features, model: Retriever, tokenizer: PreTrainedTokenizerFast | None
) -> RetrieverRows:
    """What is learnt from."""
    negatives = config.negatives
    hard = None
    if negatives.mined is not None:
        hard = read_mined(Path(negatives.mined), negatives.hard, features.data, config.data)
    taught, teacher = None, config.teacher
    if teacher is not None:
        taught = read_taught(Path(teacher.logits), teacher.candidates, features.data, config.data)
    rows = RetrieverRows(
        features, tasks=config.tasks, negatives=negatives, augment=config.augment,
        hard=hard, taught=taught, each_pair=config.each_pair, seed=config.seed,
    )  # fmt: skip
    if config.cloze is not None and config.model.text is not None and model.text is not None and tokenizer is not None:
        asking, answering = split_texts(features, config.cloze, config.data.items.text)
        read = text_reader(config.model.text, tokenizer, model.text, Path(config.data.cache))
        own, items = features.data.queries, features.data.catalogue.texts
        rows.features, rows.cloze = add_cloze(
            features, asking, answering, rows.known, config.cloze.share,
            queries=read([*([] if own is None else own.texts), *asking]), items=read([*items, *answering]),
        )  # fmt: skip
    return rows


def _meanings(
    config: RetrieverRun, data: Prepared, tokenizer: PreTrainedTokenizerFast, encoder: TextEncoder
) -> tuple[np.ndarray, np.ndarray]:
    """[Q, W] and [N, W] vectors of all queries and items by the encoder as it is, made once."""
    known = replace(encoder.config, mode="frozen", token_dropout=0.0, pretrained=0.0)
    items, queries = text_sources(known, data, tokenizer, encoder, Path(config.data.cache))
    assert items.vectors is not None
    assert queries.vectors is not None
    return queries.vectors, items.vectors


def text_sources(
    config: TextConfig, data: Prepared, tokenizer: PreTrainedTokenizerFast, encoder: TextEncoder, cache: Path
) -> tuple[Texts, Texts]:
    """How item and query texts reach a batch of this encoder."""
    source = text_reader(config, tokenizer, encoder, cache)
    searches = data.queries.texts if data.queries is not None else []
    described = any(data.catalogue.texts)  # where no column of text is named, the items have no words
    return source(data.catalogue.texts) if described else Texts(), source(searches) if any(searches) else Texts()


def sizes(data: Prepared, vocab: int) -> Sizes:
    """Number of known values of every column."""
    codes = data.codes
    return Sizes(
        items=len(codes.item_ids),
        item_category=[len(values) for values in codes.item_category.values()], item_columns=list(codes.item_category),
        item_number=len(codes.item_number), item_vectors=list(codes.item_vectors.values()),
        user_category=[len(values) for values in codes.user_category.values()], user_number=len(codes.user_number),
        context=[len(values) for values in codes.context.values()], turns=turns(codes), event=len(codes.event),
        vocab=vocab, neighbours=0 if data.neighbours is None else columns(len(data.neighbours.ways)),
        **{name: notes.number.shape[1] for name, notes in data.notes.items()},
    )  # fmt: skip


def _valid_loaders(features: Features, requests: list[Requests], rank: int, world: int) -> list[Any]:
    return [_Batches(features, one, rank, world) for one in requests]


class _Batches:
    """A process's share of the validation batches, made anew on every pass."""

    def __init__(self, features: Features, requests: Requests, rank: int, world: int) -> None:
        self.make = partial(evaluation_batches, features, requests, part=rank, parts=world)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return self.make()


def evaluate(trainer: Trainer, module: RetrieverTraining, data: DataModule) -> dict[str, dict[str, float]]:
    """Full-ranking metrics of the module's present weights, by validation set."""
    trainer.validate(module, datamodule=data, verbose=False)
    return module.results


def _gathered(sharded: Retriever, model: Retriever) -> Retriever:
    """`model` with the weights of the sharded one, on the first process."""
    state = whole_state(sharded)
    if state:
        model.load_state_dict(state)
    return model


def _export(model: Retriever, data: Prepared, tokenizer: PreTrainedTokenizerFast | None, folder: Path) -> None:
    save_retriever(model, folder)
    data.codes.save(folder / "codes.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "text")
