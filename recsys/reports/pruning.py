"""pruning.json -> the page's section on what pruning keeps and drops, and whether its probabilities hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import InputError
from recsys.reports.figures import Shares, draw_shares

KEEP = 0.95  # of the relevant candidates: what the first sentence speaks of
_NAMES = {"valid": "Valid requests of users", "valid_query": "Valid queries"}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of lists: both figures, and what they say."""

    name: str
    lists: int
    candidates: int
    sentence: str
    marked: bool
    """Whether the decision's probability is ringed on the curve."""
    curve: str
    """SVG."""
    reliability: str
    """SVG."""
    bins: Sequence[tuple[float, float, int]]
    """Mean probability, share of relevant ones, candidates."""


@dataclass(frozen=True, kw_only=True)
class PruningSection:
    """What the template shows."""

    decision: str
    """What is kept, and what it rests on; a sentence for each kind of request."""
    panels: Sequence[Panel]


def pruning_section(content: Mapping[str, Any] | None, where: str) -> PruningSection | None:
    """The section of what pruning.json holds; None where there is no file or no set.

    Raises InputError, which names `where`, if something is missing in it.
    """
    if content is None or not content.get("sets"):
        return None
    try:
        decision, promises, sets = content["decision"], content["promises"], content["sets"]
        panels = [_panel(name, one, decision[_kind(name)]["probability"]) for name, one in sets.items()]
        said = {kind: decision_sentence(decision[kind], promises[kind]) for kind in map(_kind, sets)}
        return PruningSection(decision=_together(said), panels=panels)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where} does not hold pruning curves ({error!r}); train the pruner again.") from error


def _kind(name: str) -> str:
    """Of the requests of a set."""
    return "queries" if name == "valid_query" else "users"


def _together(said: Mapping[str, str]) -> str:
    """What is decided for each kind, once where it is the same for all."""
    if len({*said.values()}) == 1:
        return next(iter(said.values()))
    return " ".join(f"For {kind}: {text[0].lower()}{text[1:]}" for kind, text in said.items())


def decision_sentence(decision: Mapping[str, Any], promises: Mapping[str, Any] | None) -> str:
    """What is kept, and the loss that it was fitted for or could be."""
    rules = [f"the {decision['top']} best of each list"] if decision["top"] is not None else []
    if decision["probability"] is not None:
        rules.append(f"those with p ≥ {chance_text(decision['probability'])}")
    kept = f"The decision keeps {' and of these '.join(rules)}" if rules else "The decision keeps every candidate"
    if promises is None:
        return f"{kept}."
    rests = f"fitted on {promises['relevant']:,} relevant candidates of {promises['lists']:,} lists held out of train"
    if decision["loss"] is not None:
        return f"{kept}: at most {100 * decision['loss']:g} % of the relevant ones are expected to be lost, {rests}."
    known = [(loss, chance) for loss, chance in promises["thresholds"] if loss <= 1 - KEEP + 1e-9]
    if not known:
        return f"{kept}."
    loss, chance = known[-1]
    return f"{kept}. With decision.loss {loss:g} it would keep those with p ≥ {chance_text(chance)}, {rests}."


def chance_text(value: float) -> str:
    """.031, .0042, 0: two or more digits that say something, without the leading zero."""
    text = f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"
    return text.removeprefix("0") if 0 < value < 1 and "e" not in text else text


def _panel(name: str, one: Mapping[str, Any], chance: float | None) -> Panel:
    pruner, retriever, called = one["pruner"], one["retriever"], _NAMES.get(name, name)
    curves = [
        Shares(name=kind, across=curve["dropped"], up=curve["kept"], quiet=kind == "retriever")
        for kind, curve in (("retriever", retriever), ("pruner", pruner))
    ]
    bins = one["reliability"]
    points = Shares(name="bins", across=bins["predicted"], up=bins["happened"])
    mark = None if chance is None else _point(pruner, chance)
    return Panel(
        name=called, lists=one["lists"], candidates=one["relevant"] + one["others"],
        sentence=_sentence(pruner, retriever, one["ece"], mark), marked=mark is not None,
        curve=draw_shares(
            curves, title=f"{called}: kept against dropped", across="others dropped", up="relevant kept", mark=mark
        ),
        reliability=draw_shares(
            [points], title=f"{called}: reliability", across="predicted probability", up="share that is relevant",
            diagonal=True,
        ),
        bins=list(zip(bins["predicted"], bins["happened"], bins["count"], strict=True)),
    )  # fmt: skip


def _point(curve: Mapping[str, Any], chance: float) -> tuple[float, float]:
    """Others dropped and relevant kept at the curve's first threshold that is not below this one."""
    points = zip(curve["threshold"], curve["dropped"], curve["kept"], strict=True)
    return next(((dropped, kept) for threshold, dropped, kept in points if threshold >= chance), (1.0, 0.0))


def _sentence(
    pruner: Mapping[str, Any], retriever: Mapping[str, Any], ece: float, mark: tuple[float, float] | None
) -> str:
    name = f"dropped@{100 * KEEP:.0f}"
    said = f"Keeping {100 * KEEP:.0f} % of what is relevant drops {100 * pruner[name]:.0f} % of the rest"
    said += f" (by the retriever's score {100 * retriever[name]:.0f} %); ECE {chance_text(ece)}"
    if mark is not None:
        said += f"; the decision's probability keeps {100 * mark[1]:.1f} % and drops {100 * mark[0]:.0f} %"
    return f"{said}."
