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
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from recsys.data.datamodule import DataModule
from recsys.data.datasets import Features, Texts
from recsys.data.lists import CandidateLists, ListEvaluation, PrunerRows, list_evaluations
from recsys.data.pairs import PairTexts
from recsys.data.prepare import Prepared, prepare
from recsys.data.sampling import uniform
from recsys.data.text import load_tokenizer
from recsys.errors import InputError
from recsys.metrics.calibration import expected_calibration_error, fit_platt
from recsys.models.checkpoint import count_parameters, save_pruner
from recsys.models.pruner import Calibration, DecisionConfig, Pruner, PrunerConfig
from recsys.models.text import TextEncoder
from recsys.results import add_stage
from recsys.shards import write_atomic
from recsys.tables import DataConfig
from recsys.training.pruner import LossMix, PrunerTraining
from recsys.training.retriever_run import sizes, text_sources
from recsys.training.run import RunConfig, check_run, fit, open_run, prepare_process, publish_model, write_versions

_LEAST_SCALE = 1e-3  # probabilities are then all but equal to the share of right candidates
_HELD_OUT = 1_000_003  # seed of the hash that holds lists out: the same in every run


@dataclass(frozen=True, kw_only=True)
class PrunerRun(RunConfig):
    """A run that trains a pruner on the candidates of a retriever."""

    data: DataConfig
    """The same tables and roles as the retriever's."""
    model: PrunerConfig
    candidates: str
    """Folder that `infer.py candidates` wrote."""
    loss: LossMix = field(default_factory=LossMix)
    sampled: int = 50
    """Candidates that are not right, drawn anew from each list in each epoch; the right ones are always there."""
    calibrate: float = 0.1
    """Share of the lists that is not learnt from: on it the best epoch is chosen (trainer.export: best) and scores are
    turned into probabilities; 0: no calibration, and valid chooses."""
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """Which candidates are kept, where inference does not say otherwise."""

    def __post_init__(self) -> None:
        if self.sampled < 1:
            raise InputError(f"sampled is {self.sampled}; a list needs at least 1 candidate beside the right ones.")
        if not 0 <= self.calibrate <= 0.9:
            raise InputError(f"calibrate is {self.calibrate}; expected a share from 0 to 0.9.")


def train_pruner(config: PrunerRun) -> Path:
    """Train, calibrate, evaluate and export; returns the run's folder."""
    prepare_process(config)
    check_run(config)
    data = prepare(config.data)
    lists = CandidateLists.read(Path(config.candidates), data)
    features, pairs, model, tokenizer = build(config, data, lists)
    learnt, held = hold_out(lists.sets["second"], config.calibrate)
    valid = {name: numbers for name, numbers in lists.sets.items() if name != "second"}
    judged = {**({"held_out": held} if len(held) else {}), **valid}  # the best epoch is chosen on a part of train
    rows = _training_rows(config, features, lists, learnt, pairs)
    read = partial(list_evaluations, features, lists, pairs=pairs)
    loaders = DataModule(rows, partial(_valid_loaders, read, list(judged.values())), config.loader, seed=config.seed)
    steps = config.optim.epochs * math.ceil(len(loaders.train_dataloader()) / config.trainer.accumulate)
    module = PrunerTraining(
        model, torch.from_numpy(data.popularity()), valid=list(judged), optim=config.optim, loss=config.loss,
        total_steps=steps,
    )  # fmt: skip
    checkpoint = open_run(config)
    total, trained = count_parameters(model)
    made = {"weights": total, "trained_weights": trained, "steps": steps, "lists": len(rows.rows)}
    write_versions(config.folder, data.hash, made)
    begin, monitor = time.perf_counter(), f"{next(iter(judged), 'valid')}/ndcg@10"
    trainer = fit(config, module, loaders, steps=steps, monitor=monitor, checkpoint=checkpoint)
    calibrate(model, read(rows=held), config.decision)
    seconds = time.perf_counter() - begin
    publish_model(config.folder, partial(_export, model, data, tokenizer, lists.lexical))
    if valid:
        trainer.validate(module, datamodule=loaders, verbose=False)
    for name, numbers in valid.items():
        _report(config.folder, name, module.results, calibration_error(model, read(rows=numbers)), seconds)
    return config.folder


def build(
    config: PrunerRun, data: Prepared, lists: CandidateLists
) -> tuple[Features, PairTexts | None, Pruner, PreTrainedTokenizerFast | None]:
    """The model for this data set and these candidates, and the readers of its batches."""
    cache, text, history = Path(config.data.cache), config.model.text, config.model.history
    tokenizer = encoder = pairs = None
    items = queries = Texts()
    if text is not None:
        searches = data.queries.texts if data.queries is not None else []
        tokenizer = load_tokenizer(text, [*data.catalogue.texts, *searches], cache / "tokenizer")
        encoder = TextEncoder.build(text, len(tokenizer), cast("int", tokenizer.pad_token_id))
        if config.model.reads_pairs:
            title = config.data.items.text[:1]
            pairs = PairTexts(data, tokenizer, title=title, max_tokens=text.max_tokens, history=history, folder=cache)
        else:
            items, queries = text_sources(text, data, tokenizer, encoder, cache)
    searched = config.data.history.queries and queries.vectors is not None
    features = Features(data, items, queries, max_items=min(history, config.data.history.max_items), searches=searched)
    torch.manual_seed(config.seed)
    known = sizes(data, len(tokenizer) if tokenizer else 0)
    width, lexical = lists.item_vectors.shape[1], lists.lexical is not None
    return features, pairs, Pruner(config.model, known, encoder, vector_width=width, lexical=lexical), tokenizer


def _training_rows(
    config: PrunerRun, features: Features, lists: CandidateLists, learnt: np.ndarray, pairs: PairTexts | None
) -> PrunerRows:
    return PrunerRows(
        features, lists, learnt, pairs=pairs, sampled=config.sampled, pointwise=config.loss.pointwise > 0,
        seed=config.seed,
    )  # fmt: skip


def hold_out(rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of requests to learn from, and those held out: by a hash of the number, at least one if `share` > 0."""
    place = uniform(_HELD_OUT, 0, rows)
    held = (place < share) | ((place == place.min(initial=1.0)) & (share > 0))
    return rows[~held], rows[held]


def score_lists(model: Pruner, batches: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of all real candidates of some lists, one after the other."""
    device, found = next(model.parameters()).device, [(torch.zeros(0), torch.zeros(0))]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            assert isinstance(batch, ListEvaluation)
            logits = model(batch.lists.to(device)).cpu()
            real = batch.lists.candidate >= 0
            found.append((logits[real], batch.lists.label[real]))
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(labels)


def calibrate(model: Pruner, batches: Any, decision: DecisionConfig) -> None:
    """Give the model its decision, and the scale and shift that make probabilities of its logits on unseen lists."""
    logits, labels = score_lists(model, batches)
    if len(logits):
        model.calibration = fit_calibration(logits, labels > 0)
    model.decision = decision


def fit_calibration(logits: Tensor, right: Tensor) -> Calibration:
    """Platt's scale and shift, but a scale above zero: lists too few to show any order must not turn it around."""
    scale, shift = fit_platt(logits, right)
    if scale < _LEAST_SCALE:
        rest = fit_platt(torch.zeros_like(logits), right)[1]
        return Calibration(scale=_LEAST_SCALE, shift=rest - _LEAST_SCALE * float(logits.mean()))
    return Calibration(scale=scale, shift=shift)


def calibration_error(model: Pruner, batches: Any) -> float:
    """Expected calibration error of the model's probabilities over all candidates of some lists."""
    logits, labels = score_lists(model, batches)
    return expected_calibration_error(torch.from_numpy(model.probability(logits.numpy())), labels > 0)


def _report(folder: Path, name: str, results: dict[str, dict[str, float]], error: float, seconds: float) -> None:
    """Add the retriever's order and the pruner's, by the same rules on the same candidates, to results.json."""
    suffix = "" if name == "valid" else f", {name}"
    add_stage(folder, f"retriever{suffix}", results[f"{name}_retriever"])
    add_stage(folder, f"pruner{suffix}", {**results[name], "ece": error}, seconds=seconds)


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
