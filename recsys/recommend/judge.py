"""Judgements of single rows, without candidates: what each source is worth to a pruner that was trained on them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from recsys.config import read_part
from recsys.data.codes import Codes
from recsys.data.features import HIDEABLE
from recsys.data.lists import CandidateLists
from recsys.data.prepare import Prepared, prepare
from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval, paired_bootstrap
from recsys.models.checkpoint import load_pruner
from recsys.models.pruner import Pruner
from recsys.recommend.score import score_candidates
from recsys.retrieval.embed import TextReader, check_roles, open_features
from recsys.tables import DataConfig


@dataclass(frozen=True, kw_only=True)
class WithoutSource:
    """How well rows are judged with one source hidden."""

    source: str
    """"nothing": none is."""
    rows: int
    auc: float
    log_loss: float
    """In nats, the mean over the rows."""
    lost: Interval
    """What the log-loss gains by hiding it: positive where the source helps."""


@dataclass(frozen=True, kw_only=True)
class OpenJudge:
    """A pruner that was trained on judgements, and the rows that it is asked about."""

    model: Pruner
    data: Prepared
    lists: CandidateLists
    words: TextReader | None
    config: DataConfig

    @classmethod
    def open(cls, run: Path) -> Self:
        """Load RUN/model and the data that RUN/config.yaml names."""
        config = read_part(run / "config.yaml", "data", DataConfig) if (run / "config.yaml").is_file() else None
        if config is None or not config.interactions.judged:
            raise InputError(
                f"{run} is no run of infer (no infer.yaml; make one with: infer.py recommend CONFIG), and no run "
                "of a pruner on judgements (data.interactions.judged)."
            )
        folder = run / "model"
        model, codes = load_pruner(folder), Codes.load(folder / "codes.json")
        check_roles(codes, config, folder)
        data, words = prepare(config, codes), TextReader.open(folder, model, config.cache)
        return cls(model=model, data=data, lists=CandidateLists.judged(data), words=words, config=config)

    def chances(self, rows: np.ndarray, hidden: Collection[str] = ()) -> np.ndarray:
        """[R] float32 probability that each of some rows of `lists` is a target, without `hidden` sources."""
        features = open_features(
            self.words, self.data, self.config, self.model.image, notes=self.model.config.notes, hidden=hidden
        )
        item, score, _ = self.lists.table(rows)
        logits = score_candidates(
            self.model, features, self.lists.requests.take(rows), item, score, self.lists.item_vectors,
            self.lists.user_vectors[rows],
        )[..., 0]  # fmt: skip
        return self.model.probability(logits, np.array(False))[:, 0]

    def sources(self) -> list[str]:
        """The sources that the model reads."""
        codes, model = self.data.codes, self.model
        there = {
            "text": model.text is not None, "image": model.image is not None, "context": bool(codes.context),
            "profile": bool(codes.user_category or codes.user_number), "history": True,
            "reviews": "reviews" in self.data.notes, "ads": "ads" in self.data.notes,
        }  # fmt: skip
        return [*(name for name in HIDEABLE if there[name]), *codes.item_vectors]


def ablate_judged(run: Path) -> list[WithoutSource]:
    """Hide each source in turn from the valid rows of a pruner that was trained on judgements."""
    judge = OpenJudge.open(run)
    rows = judge.lists.sets.get("valid")
    if rows is None:
        raise InputError("No row of the interactions is of the valid split; there is nothing to measure by.")
    label = judge.lists.label[rows] > 0
    whole = _measured("nothing", judge.chances(rows), label)
    others = [_measured(source, judge.chances(rows, (source,)), label) for source in judge.sources()]
    return [_compared(whole, one) for one in (whole, *others)]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    source: str
    auc: float
    losses: np.ndarray  # [R]


def _measured(source: str, chances: np.ndarray, label: np.ndarray) -> _Measured:
    chance = np.clip(chances.astype(np.float64), 1e-7, 1 - 1e-7)
    area = binary_auroc(torch.from_numpy(chance), torch.from_numpy(label).long())
    return _Measured(source=source, auc=float(area), losses=-np.log(np.where(label, chance, 1 - chance)))


def _compared(whole: _Measured, one: _Measured) -> WithoutSource:
    return WithoutSource(
        source=one.source, rows=len(one.losses), auc=one.auc, log_loss=float(one.losses.mean()),
        lost=paired_bootstrap(one.losses - whole.losses),
    )  # fmt: skip


def print_judged(found: list[WithoutSource]) -> str:
    """As aligned text."""
    lines = [f"{found[0].rows:,} rows", f"{'hidden':<10}{'AUC':>8}{'log-loss':>10}{'gained':>10}{'95 %':>20}"]
    for one in found:
        line = f"{one.source:<10}{one.auc:>8.4f}{one.log_loss:>10.4f}"
        ends = f"[{one.lost.low:.4f}, {one.lost.high:.4f}]"
        lines.append(line if one is found[0] else f"{line}{one.lost.mean:>10.4f}{ends:>20}")
    return "\n".join(lines)
