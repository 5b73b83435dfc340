"""What each source of data is worth: the cascade is asked again with one source hidden at a time.

Hidden means that the data set does not have it: the retriever proposes without it and the pruner judges without it, by
the path of what is missing. What is lost is what the models make of the source, and no proof that they could not do
without it after another training.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.data.requests import Requests, validation_requests
from recsys.data.split import STAGES
from recsys.errors import InputError
from recsys.metrics.bootstrap import Interval, paired_bootstrap
from recsys.metrics.ranking import ndcg
from recsys.recommend.cascade import Cascade, read_sources
from recsys.recommend.evaluate import SHOWN, list_ranks, padded
from recsys.recommend.settings import InferRun
from recsys.results import ABLATION
from recsys.retrieval.candidates import trained_tasks
from recsys.shards import write_atomic

_BLOCK = 64  # requests asked at one time
_MOST = 4096  # items that can all be candidates: the pruner reads them as one sequence
_ORACLE = {"history": "sequence"}
"""Names of sources in a data set's oracle.parquet, where they differ."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One source hidden, for one set of requests."""

    group: str
    """valid (users) or valid_query."""
    source: str
    requests: int
    ndcg: float
    """nDCG@10 of all candidates in the cascade's order, the source hidden."""
    lost: Interval
    """Of nDCG@10, by hiding it: positive where the source helps."""
    log_loss: Interval | None
    """What the pruner's mean log-loss gains by hiding it, on the candidates that the whole cascade proposes; None
    without a pruner, or for queries beside a lexical source.
    """
    oracle_lost: float | None
    """What the data set's oracle loses by it, where there is one."""


@dataclass(frozen=True, kw_only=True)
class _Worth:
    """Of each request with an answer, [R]."""

    ndcg: np.ndarray
    log_loss: np.ndarray | None
    proposed: list[np.ndarray]
    """Candidates of each block of requests."""


def ablate(config: InferRun, *, all_items: bool = False) -> list[Ablation]:
    """Hide each source that the models read, in turn; with `all_items` every item is a candidate.

    Raises InputError where `data.history.until` names no split with answers.
    """
    until = config.data.history.until
    if until not in ("valid", "test"):
        raise InputError(f"data.history.until is {until!r}; expected valid or test, whose answers are known.")
    if config.threads:
        torch.set_num_threads(config.threads)
    whole = _open(config, all_items, ())
    if all_items and len(whole.data.catalogue) > _MOST:
        raise InputError(f"--all_items is for at most {_MOST:,} items; here are {len(whole.data.catalogue):,}.")
    found: list[Ablation] = []
    tasks = trained_tasks(Path(config.retriever))
    named = validation_requests(whole.data, tasks, STAGES[until])
    groups = {name.replace("valid", until): requests for name, requests in named.items()}
    if not groups:
        raise InputError(f"No user or query has an answer in the split {until}; there is nothing to measure by.")
    base = {group: _worth(whole, requests) for group, requests in groups.items()}
    for group, worth in base.items():
        nothing = Interval(mean=0.0, low=0.0, high=0.0)
        found.append(Ablation(
            group=group, source="nothing", requests=len(worth.ndcg), ndcg=float(worth.ndcg.mean()), lost=nothing,
            log_loss=None if worth.log_loss is None else nothing, oracle_lost=None,
        ))  # fmt: skip
    oracle = _oracle_losses(Path(config.data.root))
    for source in read_sources(whole):
        without = _open(config, all_items, (source,))
        for group, requests in groups.items():
            told = oracle.get(_ORACLE.get(source, source)) if group == "valid" else None
            found.append(_compared(group, source, base[group], _worth(without, requests, base[group].proposed), told))
    return sorted(found, key=lambda one: one.group)


def _open(config: InferRun, all_items: bool, hidden: tuple[str, ...]) -> Cascade:
    top_k = config.candidates
    if all_items:
        top_k = 1 << 30  # as many as there are
    lexical = None if "text" in hidden else config.lexical
    return Cascade.open(config.retriever, config.pruner, config.data, top_k, config.decision, lexical, hidden)


def _worth(cascade: Cascade, requests: Requests, proposed: list[np.ndarray] | None = None) -> _Worth:
    """`proposed` are the candidates, by block, on which the log-loss is taken; None: the cascade's own. It is not taken
    where a lexical source, whose scores a pruner reads too, has its part in them.
    """
    ranked, losses, own = [], [], []
    for number, start in enumerate(range(0, len(requests), _BLOCK)):
        some = requests.take(np.arange(start, min(start + _BLOCK, len(requests))))
        found, logits = cascade.judge(some)
        items, (targets, grades) = found.items, padded(some)
        own.append(items)
        given = items if proposed is None else proposed[number]
        rated = logits if proposed is None else cascade.rate(some, given)
        asks = some.queries[:, None] >= 0
        if rated is not None and cascade.pruner is not None and not (found.lexical is not None and asks.any()):
            losses.append(_log_loss(cascade.pruner.model.probability(rated, asks), given, targets))
        if logits is not None:
            items = np.take_along_axis(items, np.argsort(-logits, axis=1, kind="stable"), 1)
        ranks = torch.from_numpy(list_ranks(items, targets, len(cascade.data.catalogue)))
        ranked.append(ndcg(ranks, torch.from_numpy(grades), min(SHOWN, len(cascade.data.catalogue))).numpy())
    return _Worth(ndcg=np.concatenate(ranked), log_loss=np.concatenate(losses) if losses else None, proposed=own)


def _log_loss(chances: np.ndarray, items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[B] mean cross-entropy, in nats, of the candidates [B, K] of each request."""
    right = ((items[:, :, None] == targets[:, None, :]) & (items >= 0)[:, :, None]).any(-1)
    chance = np.clip(chances.astype(np.float64), 1e-7, 1 - 1e-7)
    values = -np.where(right, np.log(chance), np.log1p(-chance))
    return np.where(items >= 0, values, 0).sum(1) / np.maximum((items >= 0).sum(1), 1)


def _compared(group: str, source: str, base: _Worth, without: _Worth, oracle: float | None) -> Ablation:
    more = None
    if base.log_loss is not None and without.log_loss is not None:
        more = paired_bootstrap(without.log_loss - base.log_loss)
    return Ablation(
        group=group, source=source, requests=len(base.ndcg), ndcg=float(without.ndcg.mean()),
        lost=paired_bootstrap(base.ndcg - without.ndcg), log_loss=more, oracle_lost=oracle,
    )  # fmt: skip


def _oracle_losses(root: Path) -> dict[str, float]:
    """What the oracle of ROOT/oracle.parquet (columns oracle, rank; as the demo shop has it) loses without each source:
    nDCG@10 over the users' valid purchases. Empty where there is none.
    """
    path = root / "oracle.parquet"
    if not path.is_file():
        return {}
    rank = pl.col("rank")
    gain = pl.when(rank < SHOWN).then(1 / (rank + 2).log(2)).otherwise(0.0).mean().alias("gain")
    known = dict(pl.read_parquet(path).group_by("oracle").agg(gain).rows())
    start = "oracle without "
    return {
        name.removeprefix(start): known["oracle"] - gain for name, gain in known.items() if name.startswith(start)
    }  # fmt: skip


def write_ablations(run: Path, found: list[Ablation]) -> Path:
    """Keep them in RUN/ablation.json, until the run writes other lists; returns its path."""
    path = run / ABLATION
    write_atomic(path, json.dumps({"rows": [asdict(one) for one in found]}, indent=1))
    return path
