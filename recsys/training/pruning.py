"""A trained pruner as a filter: its probabilities, the loss that its thresholds promise, and what it drops on valid."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torchmetrics.functional.classification import binary_auroc

from recsys.data.lists import ListEvaluation
from recsys.errors import InputError
from recsys.losses.ranking import listwise_softmax
from recsys.metrics.calibration import (
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    reliability,
)
from recsys.metrics.pruning import PruningCurve, least_relevant, pruning_curve, safe_threshold
from recsys.models.decision import KINDS, QUERIES, USERS, Calibration, DecisionConfig, Meaning, Promises, resolve
from recsys.models.pruner import Pruner, retriever_evidence
from recsys.models.states import StateCache
from recsys.shards import write_atomic

CalibrationKind = Literal["platt", "temperature", "isotonic"]

LOSSES = (
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3,
    0.4, 0.5,
)  # fmt: skip
"""Losses whose thresholds an exported pruner knows."""
KEPT = (0.95, 0.99)
"""Shares of the relevant candidates at which it is told how many of the others can be dropped."""
ENOUGH = 20
"""Relevant candidates from which on users, or queries, have a calibration and thresholds of their own."""
POINTS = 300  # of a curve in pruning.json
_STACK_RIDGE = 1e-3
_LEAST_SCALE = 1e-3  # probabilities are then all but equal to the share of right candidates


@dataclass(frozen=True, kw_only=True)
class Scored:
    """All real candidates of some lists, one after the other."""

    lists: int
    owner: Tensor  # [n] int64, the list of each, rising
    logits: Tensor  # [n] float32, the pruner's
    evidence: Tensor  # [n, E] float32, from `retriever_evidence`; the first is the retriever's score
    relevant: Tensor  # [n] bool
    asks: Tensor  # [n] bool, whether the list is a query's
    others: Tensor  # [n, G] float32 logits of the other targets
    came_true: Tensor  # [n, G] float32, NaN where it is not known

    def chances(self, model: Pruner) -> Tensor:
        """[n] float32 the model's probabilities."""
        return torch.from_numpy(model.probability(self.logits.numpy(), self.asks.numpy()))

    def of(self, kind: str) -> "Scored":
        """The lists of one kind of request."""
        kept = self.asks == (kind == QUERIES)
        numbers, owner = self.owner[kept].unique(return_inverse=True)
        return Scored(
            lists=len(numbers), owner=owner, logits=self.logits[kept], evidence=self.evidence[kept],
            relevant=self.relevant[kept], asks=self.asks[kept], others=self.others[kept],
            came_true=self.came_true[kept],
        )  # fmt: skip


@torch.no_grad()
def score_lists(
    model: Pruner, batches: Iterable[ListEvaluation], watch: Callable[[Tensor, ListEvaluation], None] | None = None
) -> Scored:
    """The pruner's and the retriever's scores of whole lists; `watch` is shown the logits [B, K] of each batch."""
    device, lists = next(model.parameters()).device, 0
    none, columns, more = torch.zeros(0), len(model.weights), torch.zeros(0, len(model.config.targets))
    found = [(none.long(), none, torch.zeros(0, columns), none.bool(), none.bool(), more, more)]
    model.eval()
    states = StateCache()
    for batch in batches:
        real = batch.lists.candidate >= 0
        evidence = retriever_evidence(batch.lists, real, lexical=model.lexical)
        judged = model.judge(batch.lists.to(device), states).cpu()
        logits, others = judged[..., 0], judged[..., 1:]
        came_true = torch.full_like(others, torch.nan) if batch.lists.others is None else batch.lists.others
        owner = lists + torch.arange(len(real))[:, None].expand_as(real)
        query = batch.lists.users.query
        asks = torch.zeros_like(real) if query is None else (query >= 0)[:, None].expand_as(real)
        relevant = batch.lists.label[real] > 0
        found.append((owner[real], logits[real], evidence[real], relevant, asks[real], others[real], came_true[real]))
        lists += len(real)
        if watch is not None:
            watch(logits, batch)
    owner, logits, evidence, relevant, asks, others, came_true = (
        torch.cat(parts) for parts in zip(*found, strict=True)
    )
    return Scored(
        lists=lists, owner=owner, logits=logits, evidence=evidence, relevant=relevant, asks=asks, others=others,
        came_true=came_true,
    )  # fmt: skip


def weigh(model: Pruner, held: Scored) -> Scored:
    """Give a model that has learnt without the retriever's evidence the weights of that evidence and of its own head.

    They are fitted on lists that neither model has learnt from. Returns these lists as the model now scores them.
    """
    columns = torch.cat([held.evidence, held.logits[:, None]], dim=1)  # [n, E + 1]
    weights = fit_weights(columns, held.relevant, held.owner)
    *evidence, head = weights.tolist()
    model.weigh(evidence, head)
    return replace(held, logits=(columns.double() @ weights).float())


def fit_weights(columns: Tensor, relevant: Tensor, owner: Tensor) -> Tensor:
    """[F] float64 weights of a sum of columns [n, F] by which the relevant ones stand first in their lists.

    They minimise the listwise softmax loss and a ridge of 0.001 (stacking, Wolpert 1992), which is convex.
    """
    sizes = torch.bincount(owner).tolist()
    padded = [
        pad_sequence(list(part.split(sizes)), batch_first=True) for part in (columns.double(), relevant, owner + 1)
    ]
    table, labels, mask = padded[0], padded[1].double(), padded[2] > 0
    weights = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = listwise_softmax(table @ weights, labels, mask) + _STACK_RIDGE * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return weights.detach()


def check_loss(loss: float | None, users: int, queries: int) -> None:
    """InputError where lists with so few relevant candidates cannot bound this loss: before a long training."""
    if loss is None:
        return
    for kind, own in ((USERS, users), (QUERIES, queries)):
        relevant = own if own >= ENOUGH else users + queries
        if relevant < least_relevant(loss):
            whose = f" of {kind}" if own >= ENOUGH else ""
            raise InputError(
                f"decision.loss {loss:g} needs at least {least_relevant(loss):,} relevant candidates in the lists"
                f"{whose} that are held out, and there are {relevant:,}. Hold out a greater share (calibrate), or "
                "allow a greater loss."
            )


def settle(model: Pruner, held: Scored, calibration: CalibrationKind, decision: DecisionConfig) -> None:
    """Give the model its probabilities and its decision, from lists that it has not learnt from (perhaps none).

    A kind of request that has few relevant candidates among them goes by the lists of both kinds.
    """
    for kind in KINDS if held.lists and len(held.logits) else ():
        own = held.of(kind)
        own = own if int(own.relevant.sum()) >= ENOUGH else held
        fitted = fit_calibration(own.logits, own.relevant, calibration)
        chances = torch.from_numpy(fitted.probability(own.logits.numpy()).astype("float32"))
        model.meaning[kind] = Meaning(calibration=fitted, promises=promise(own, chances, decision.loss))
    for place, name in enumerate(model.config.targets):
        known = ~held.came_true[:, place].isnan()
        if known.any():
            logits, true = held.others[known, place], held.came_true[known, place] > 0
            model.other_meaning[name] = fit_calibration(logits, true, calibration)
    for one in model.meaning.values():
        resolve(decision, one.promises)  # that it can be kept shows here, not when the model is used
    model.decision = decision


def judged_others(model: Pruner, scored: Scored) -> dict[str, dict[str, float]]:
    """Of each other target: candidates of which it is known, auc, log_loss (nats) and ece of its probabilities."""
    chances, found = torch.from_numpy(model.other_probabilities(scored.others.numpy())), {}
    for place, name in enumerate(model.config.targets):
        known = ~scored.came_true[:, place].isnan()
        if known.any():
            chance, true = chances[known, place], scored.came_true[known, place] > 0
            ece = expected_calibration_error(chance, true)
            found[name] = {"rows": int(known.sum()), **judged(chance, true), "ece": ece}
    return found


def judged(chances: Tensor, labels: Tensor) -> dict[str, float]:
    """auc, where there are right and wrong ones, and log_loss in nats: how well each candidate is judged, whatever list
    it stands in.
    """
    loss, mixed = float(binary_cross_entropy(chances, labels.float())), 0 < int(labels.sum()) < len(labels)
    return {**({"auc": float(binary_auroc(chances, labels.long()))} if mixed else {}), "log_loss": loss}


def fit_calibration(logits: Tensor, relevant: Tensor, kind: CalibrationKind = "platt") -> Calibration:
    """What makes probabilities of these logits; lists too few to show any order must not turn it around.

    So a scale is never below 0.001, and isotonic regression never falls by construction.
    """
    match kind:
        case "platt":
            scale, shift = fit_platt(logits, relevant)
        case "temperature":
            scale, shift = fit_temperature(logits, relevant), 0.0
        case "isotonic":
            return Calibration(corners=tuple(zip(*fit_isotonic(logits, relevant), strict=True)))
    if scale >= _LEAST_SCALE:
        return Calibration(scale=scale, shift=shift)
    rest = fit_platt(torch.zeros_like(logits), relevant)[1]
    return Calibration(scale=_LEAST_SCALE, shift=rest - _LEAST_SCALE * float(logits.mean()))


def promise(held: Scored, chances: Tensor, wanted: float | None) -> Promises:
    """The threshold of each of `LOSSES`, and of the wanted loss, that the held-out lists can bound."""
    relevant = int(held.relevant.sum())
    losses: list[float] = sorted({*LOSSES, wanted or LOSSES[0]})
    bounded = [loss for loss in losses if relevant >= least_relevant(loss)]
    thresholds = tuple((loss, safe_threshold(chances, held.relevant, loss)) for loss in bounded)
    return Promises(lists=held.lists, relevant=relevant, thresholds=thresholds)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What dropping by score does to some lists: by the pruner's probability, and by the retriever's score."""

    lists: int
    relevant: int
    others: int
    pruner: PruningCurve
    retriever: PruningCurve
    chances: Tensor  # [n]
    labels: Tensor  # [n] bool

    @classmethod
    def of(cls, model: Pruner, scored: Scored) -> "Measured":
        """The measures of some lists."""
        chances, relevant = scored.chances(model), int(scored.relevant.sum())
        pruner, retriever = (pruning_curve(score, scored.relevant) for score in (chances, scored.evidence[:, 0]))
        return cls(
            lists=scored.lists, relevant=relevant, others=len(chances) - relevant,
            pruner=pruner, retriever=retriever, chances=chances, labels=scored.relevant,
        )  # fmt: skip

    @property
    def ece(self) -> float:
        """Expected calibration error of the pruner's probabilities."""
        return expected_calibration_error(self.chances, self.labels)


def figures(curve: PruningCurve) -> dict[str, float]:
    """dropped@95, dropped@99: share of the others dropped while that percentage of the relevant candidates stays.

    Empty where no candidate is relevant, or all are.
    """
    found = {f"dropped@{keep:.0%}".removesuffix("%"): curve.dropped_at(keep) for keep in KEPT}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def write_pruning(folder: Path, model: Pruner, measured: Mapping[str, Measured]) -> None:
    """pruning.json: what is decided for each kind of request, what it rests on, and for each set the curves and the
    reliability. No ids.
    """
    decided = {kind: resolve(model.decision, one.promises) for kind, one in model.meaning.items()}
    sets = {name: _described(one) for name, one in measured.items() if one.relevant and one.others}
    content: dict[str, Any] = {
        "decision": {kind: asdict(one) for kind, one in decided.items()},
        "promises": {kind: asdict(one.promises) if one.promises else None for kind, one in model.meaning.items()},
        "sets": sets,
    }
    write_atomic(folder / "pruning.json", json.dumps(content))


def _described(one: Measured) -> dict[str, Any]:
    bins = reliability(one.chances, one.labels)
    return {
        "lists": one.lists, "relevant": one.relevant, "others": one.others, "ece": one.ece,
        "pruner": _points(one.pruner), "retriever": _points(one.retriever),
        "reliability": {name: getattr(bins, name).tolist() for name in ("predicted", "happened", "count")},
    }  # fmt: skip


def _points(curve: PruningCurve) -> dict[str, Any]:
    """The curve's best points, without the last one, whose threshold is infinite; its figures and area."""
    thin = curve.thinned(POINTS)
    points = {name: getattr(thin, name)[:-1].tolist() for name in ("threshold", "kept", "dropped")}
    return {**points, **figures(curve), "area": curve.area()}
