"""The pruner's run, from the retriever's candidates to a calibrated model folder."""

import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from recsys.data.datamodule import DataModule
from recsys.data.features import Features, Texts, note_readers
from recsys.data.lists import CandidateLists, PrunerRows, list_evaluations
from recsys.data.pairs import PairTexts
from recsys.data.prepare import Prepared, prepare
from recsys.data.sampling import uniform
from recsys.data.split import SECOND
from recsys.data.text import load_tokenizer
from recsys.errors import InputError, nearest
from recsys.models.checkpoint import count_parameters, save_pruner
from recsys.models.decision import DecisionConfig
from recsys.models.image import ImageEncoder
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.text import TextEncoder
from recsys.results import add_requests, add_stage, stage_name
from recsys.shards import write_atomic
from recsys.tables import DataConfig
from recsys.training.distributed import first_process
from recsys.training.judged import JudgedTraining
from recsys.training.pruner import Judge, LossMix, PrunerTraining
from recsys.training.pruning import (
    CalibrationKind,
    Measured,
    check_loss,
    figures,
    judged,
    judged_others,
    score_lists,
    settle,
    weigh,
    write_pruning,
)
from recsys.training.retriever_run import image_reader, sizes, text_reader, text_sources
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

_HELD_OUT = 1_000_003  # seed of the hash that holds lists out: the same in every run


@dataclass(frozen=True, kw_only=True)
class PrunerRun(RunConfig):
    """A run that trains a pruner on the candidates of a retriever."""

    data: DataConfig
    """The same tables and roles as the retriever's."""
    model: PrunerConfig
    candidates: str | None = None
    """Folder that `infer.py candidates` wrote; null: there is no retriever, and every row of the interactions is judged
    for itself (data.interactions.judged)."""
    loss: LossMix = field(default_factory=LossMix)
    sampled: int = 50
    """Candidates that are not right, drawn anew from each list in each epoch; the right ones are always there. Where
    texts are read apart (model.late, model.split) and model.evidence is after, a list meets those of the whole batch.
    """
    calibrate: float = 0.1
    """Share of the lists that is not learnt from: on it the best epoch is chosen (trainer.export: best) and scores are
    turned into probabilities; 0: no calibration, and valid chooses."""
    calibration: CalibrationKind = "platt"
    """platt: two numbers; temperature: one, which leaves the share of relevant ones alone; isotonic: any rising shape,
    for thousands of relevant candidates."""
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """Which candidates are kept, where inference does not say otherwise."""

    def __post_init__(self) -> None:
        if self.trainer.strategy == "fsdp":
            raise InputError("trainer.strategy 'fsdp' is for a retriever's encoder; set it to auto.")
        if self.model.split and self.trainer.compile:
            raise InputError("model.split calls the text encoder's layers one by one; set trainer.compile: false.")
        if self.sampled < 1:
            raise InputError(f"sampled is {self.sampled}; a list needs at least 1 candidate beside the right ones.")
        if not 0 <= self.calibrate <= 0.9:
            raise InputError(f"calibrate is {self.calibrate}; expected a share from 0 to 0.9.")
        if self.model.evidence == "after" and not self.calibrate:
            raise InputError("model.evidence 'after' needs lists that are held out, and calibrate is 0; set it to 0.1.")
        if self.candidates is None and (self.model.reads_pairs or not self.loss.pointwise):
            raise InputError(
                "Rows judged for themselves (no candidates) are for the joint transformer and a pointwise loss; "
                "set model.text.mode: frozen and loss.pointwise: 1, or name the folder of infer.py candidates."
            )
        if self.decision.loss is not None and not self.calibrate:
            raise InputError("decision.loss is fitted on lists that are held out, and calibrate is 0; set it to 0.1.")


def train_pruner(config: PrunerRun) -> Path:
    """Train, calibrate, evaluate and export; returns the run's folder."""
    config = prepare_process(config)
    if is_done(config):
        return config.folder
    check_run(config)
    data = prepare(config.data)
    lists = _lists(config, data)
    features, pairs, model, tokenizer = build(config, data, lists)
    learnt, held = hold_out(lists.sets["second"], config.calibrate, _decided(lists, data))
    relevant, asks = (lists.table(held)[2] > 0).sum(1), lists.requests.queries[held] >= 0
    check_loss(config.decision.loss, int(relevant[~asks].sum()), int(relevant[asks].sum()))
    valid = {name: numbers for name, numbers in lists.sets.items() if name != "second"}
    watched = {**({"held_out": held} if len(held) else {}), **valid}  # the best epoch is chosen on a part of train
    rows = _training_rows(config, features, lists, learnt, pairs)
    read = partial(list_evaluations, features, lists, pairs=pairs, targets=_target_codes(config, data))
    loaders = DataModule(rows, partial(_valid_loaders, read, list(watched.values())), config.loader, seed=config.seed)
    steps = config.optim.epochs * math.ceil(len(loaders.train_dataloader()) / config.trainer.accumulate)
    popularity = torch.from_numpy(data.popularity())
    module = _training(config, model, popularity, list(watched), steps)
    checkpoint = open_run(config)
    total, trained = count_parameters(model)
    made = {"weights": total, "trained_weights": trained, "steps": steps, "lists": len(rows.rows)}
    write_versions(config.folder, data.hash, made)
    best = "auc" if config.candidates is None else "ndcg@10"
    begin, monitor = time.perf_counter(), f"{next(iter(watched), 'valid')}/{best}"
    fit(config, module, loaders, steps=steps, monitor=monitor, checkpoint=checkpoint)
    scored = score_lists(model, read(rows=held))
    if config.model.evidence == "after":
        scored = weigh(model, scored)
    settle(model, scored, config.calibration, config.decision)
    seconds = time.perf_counter() - begin
    publish_model(config.folder, partial(_export, model, data, tokenizer, lists.lexical))
    measured = {}
    for name, numbers in valid.items():
        judge = None if config.candidates is None else Judge(len(numbers), popularity)
        scored = score_lists(model, read(rows=numbers), None if judge is None else judge.add)
        measured[name] = Measured.of(model, scored)
        if first_process():
            _report(config.folder, name, judge, measured[name], seconds)
            for target, values in judged_others(model, scored).items():
                add_stage(config.folder, stage_name(f"pruner: {target}", name), values)
    if first_process():
        write_pruning(config.folder, model, measured)
    finish_run(config.folder)
    return config.folder


def _lists(config: PrunerRun, data: Prepared) -> CandidateLists:
    return (
        CandidateLists.judged(data) if config.candidates is None else CandidateLists.read(Path(config.candidates), data)
    )


def _training(
    config: PrunerRun, model: Pruner, popularity: torch.Tensor, valid: list[str], steps: int
) -> PrunerTraining | JudgedTraining:
    if config.candidates is None:
        return JudgedTraining(model, valid=valid, optim=config.optim, loss=config.loss, total_steps=steps)
    return PrunerTraining(model, popularity, valid=valid, optim=config.optim, loss=config.loss, total_steps=steps)


def open_training(config: PrunerRun) -> tuple[PrunerTraining | JudgedTraining, PrunerRows]:
    """The training without a run around it: to plan, and to try a batch."""
    data = prepare(config.data)
    lists = _lists(config, data)
    features, pairs, model, _ = build(config, data, lists)
    learnt, _ = hold_out(lists.sets["second"], config.calibrate, _decided(lists, data))
    popularity = torch.from_numpy(data.popularity())
    module = _training(config, model, popularity, [], 1)
    return module, _training_rows(config, features, lists, learnt, pairs)


def build(
    config: PrunerRun, data: Prepared, lists: CandidateLists
) -> tuple[Features, PairTexts | None, Pruner, PreTrainedTokenizerFast | None]:
    """The model for this data set and these candidates, and the readers of its batches."""
    cache, text, history = Path(config.data.cache), config.model.text, config.model.history
    tokenizer = encoder = pairs = None
    items = queries = Texts()
    vectors: dict[str, np.ndarray | None] = dict.fromkeys(data.notes)
    if text is not None:
        tokenizer = load_tokenizer(text, data.words(), cache / "tokenizer")
        encoder = TextEncoder.build(text, len(tokenizer), cast("int", tokenizer.pad_token_id))
        if config.model.reads_pairs:
            title = config.data.items.text[:1]
            pairs = PairTexts(
                data, tokenizer, title=title, max_tokens=text.max_tokens, history=history, folder=cache,
                apart=config.model.apart,
            )  # fmt: skip
        else:
            items, queries = text_sources(text, data, tokenizer, encoder, cache)
            vectors = {
                name: text_reader(text, tokenizer, encoder, cache)(one.texts).vectors
                for name, one in data.notes.items()
            }
    searched = config.data.history.queries and queries.vectors is not None
    pictures = None if config.model.image is None else ImageEncoder.build(config.model.image)
    features = Features(
        data, items, queries, max_items=min(history, config.data.history.max_items), searches=searched,
        images=image_reader(config.data, data, pictures, augment=False),
        notes=None if config.model.reads_pairs else note_readers(data, vectors, config.model.notes),
    )  # fmt: skip
    torch.manual_seed(config.seed)
    known = sizes(data, len(tokenizer) if tokenizer else 0)
    width, lexical = lists.item_vectors.shape[1], lists.lexical is not None
    model = Pruner(config.model, known, encoder, vector_width=width, lexical=lexical, image=pictures)
    if config.candidates is None:  # about half of the rows may be right, where one candidate in fifty is
        right = float((lists.label[lists.sets["second"]] > 0).mean())
        for head in (model.head, model.others):
            if head is not None:
                torch.nn.init.constant_(head.bias, math.log((right + 1e-3) / (1 - right + 1e-3)))
    return features, pairs, model, tokenizer


def _training_rows(
    config: PrunerRun, features: Features, lists: CandidateLists, learnt: np.ndarray, pairs: PairTexts | None
) -> PrunerRows:
    return PrunerRows(
        features, lists, learnt, pairs=pairs, sampled=config.sampled, pointwise=config.loss.pointwise > 0,
        seed=config.seed, targets=_target_codes(config, features.data),
        shared=config.model.apart is not None and config.model.evidence == "after",
    )  # fmt: skip


def _target_codes(config: PrunerRun, data: Prepared) -> list[np.ndarray]:
    """Of each of `model.targets`, the codes of the events that make it true."""
    known = {event: code for code, event in enumerate(data.codes.event, start=1)}
    for name, events in config.model.targets.items():
        for event in events:
            if event not in known:
                there = f"the events are {', '.join(known) or 'not named (data.interactions.event)'}"
                raise InputError(f"model.targets: {name} names the event {event!r}; {there}.{nearest(event, known)}")
    return [np.array([known[event] for event in events]) for events in config.model.targets.values()]


def hold_out(rows: np.ndarray, share: float, decided: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of requests to learn from, and those held out: by a hash of the number, at least one if `share` > 0.

    `decided` [rows] says it of some beforehand: 1 held out, 0 learnt from, -1 by the hash.
    """
    place = uniform(_HELD_OUT, 0, rows)
    held = (place < share) | ((place == place.min(initial=1.0)) & (share > 0))
    if decided is not None and share > 0:
        held = np.where(decided < 0, held, decided > 0)
    return rows[~held], rows[held]


def _decided(lists: CandidateLists, data: Prepared) -> np.ndarray | None:
    """[rows] what `split.second_queries` says of the lists that may be learnt from; None where it says nothing.

    Held out are the queries that the retriever does not know, and no others: it knows those by heart.
    """
    asked = lists.requests.queries[lists.sets["second"]]
    unknown = data.queries is not None and (data.queries.stage[asked] == SECOND) & (asked >= 0)
    return np.where(asked >= 0, unknown, -1) if np.any(unknown) else None


def _report(folder: Path, name: str, judge: Judge | None, measured: Measured, seconds: float) -> None:
    """Add the retriever's order and the pruner's, by the same rules on the same candidates, to the run's results; where
    rows are judged for themselves, how well they are.
    """
    if judge is None:
        values = {
            "rows": measured.lists,
            **judged(measured.chances, measured.labels),
            **figures(measured.pruner),
            "ece": measured.ece,
        }
        add_stage(folder, stage_name("pruner", name), values, seconds=seconds)
        return
    (pruned, pruned_each), (retrieved, retrieved_each) = judge.compute()
    retriever, pruner = stage_name("retriever", name), stage_name("pruner", name)
    add_stage(folder, retriever, {**retrieved, **figures(measured.retriever)})
    add_stage(folder, pruner, {**pruned, **figures(measured.pruner), "ece": measured.ece}, seconds=seconds)
    add_requests(folder, retriever, retrieved_each)
    add_requests(folder, pruner, pruned_each)


class _Batches:
    """A process's share of the validation batches, made anew on every pass."""

    def __init__(self, read: Any, rows: np.ndarray, rank: int, world: int) -> None:
        self.read = partial(read, rows=rows, part=rank, parts=world)

    def __iter__(self):  # noqa: ANN204
        return self.read()


def _valid_loaders(read: Any, rows: list[np.ndarray], rank: int, world: int) -> list[_Batches]:
    return [_Batches(read, one, rank, world) for one in rows]


def _export(
    model: Pruner, data: Prepared, tokenizer: PreTrainedTokenizerFast | None, lexical: dict[str, Any] | None,
    folder: Path,
) -> None:  # fmt: skip
    save_pruner(model, folder)
    data.codes.save(folder / "codes.json")
    if lexical is not None:
        write_atomic(folder / "lexical.json", json.dumps(lexical))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "text")
