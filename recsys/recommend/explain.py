"""The stages explain and describe: written lists -> their evidence and a sentence for each; items -> words."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys.data.requests import Requests, search_requests, serving_requests
from recsys.errors import InputError
from recsys.metrics.long_tail import SEGMENTS, popularity_segments
from recsys.recommend.cascade import POPULARITY, Cascade
from recsys.recommend.claims import Claims
from recsys.recommend.evidence import Evidence, Explained, Explainer, evidence_frame
from recsys.recommend.facts import Facts, facts_of
from recsys.recommend.faithful import measure
from recsys.recommend.writer import Sentence, Sentences, model_key, open_writer
from recsys.results import read_results, write_results
from recsys.shards import Parts, fingerprint, write_atomic

LISTS = {"user_id": ("recommendations", "user"), "query_id": ("results", "query")}
"""By the first column of lists: the folder that they lie in, and that of their explanations below explanations/."""
REASONS = "reasons.json"
"""Beside samples.json: the sentences and the coloured words of the sampled lists, for the report."""
_RECIPE = 2  # of evidence and sentences; a change makes old ones unused
_TOGETHER = 64  # requests that are explained at one time


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """How recommendations are explained, and who writes the sentences."""

    top: int | None = None
    """Places of each list that are explained; null: all."""
    history: int = 20
    """Latest entries of a history that are left out, one at a time."""
    words: int = 8
    """Words of an item's text that are left out, of those with the largest integrated gradients; 0: none."""
    evidence: int = 5
    """Pieces of evidence that are kept with each recommendation, the best first; and as many again that a reason may
    name, where these are others."""
    tested: int = 200
    """Recommendations on which deletion and insertion of the evidence are measured; 0: none."""
    model: str | None = None
    """Causal language model that writes the sentences: a folder, pkg:NAME or Hugging Face name; null: templates do."""
    max_new_tokens: int = 40
    """Longest sentence of the model, in tokens."""

    def __post_init__(self) -> None:
        least = {"top": 1 if self.top is None else self.top, "history": self.history, "evidence": self.evidence}
        for name, count in {**least, "max_new_tokens": self.max_new_tokens}.items():
            if count < 1:
                raise InputError(f"explain.{name} is {count}; expected at least 1.")
        if self.words < 0 or self.tested < 0:
            raise InputError(f"explain: expected words and tested from 0; found {self.words} and {self.tested}.")


def explain_lists(cascade: Cascade, folder: Path, config: ExplainConfig, until: Any, *, overwrite: bool) -> Path:
    """Explain all lists that a run has written; returns FOLDER/explanations.

    Raises InputError where there are none, or they are not of this cascade.
    """
    kinds = [key for key, (name, _) in LISTS.items() if (folder / name / "DONE").is_file()]
    if not kinds:
        raise InputError(f"{folder} holds no finished lists; make some with: infer.py recommend CONFIG")
    told: dict[str, Any] = {}
    for key in kinds:
        if key == "query_id" and cascade.data.queries is None:
            raise InputError("The results are of queries, and this config has no queries table; name it.")
        one = _Stage(cascade, folder, config, key, until)
        told[LISTS[key][1]] = one.run(overwrite=overwrite)
    write_results(folder, {**read_results(folder), "explanations": told})
    return folder / "explanations"


class _Stage:
    """Lists of users, or of queries."""

    def __init__(self, cascade: Cascade, folder: Path, config: ExplainConfig, key: str, until: Any) -> None:
        self.cascade = cascade if key == "query_id" else replace(cascade, hybrid=None)
        self.folder, self.config, self.key, self.until = folder, config, key, until
        self.lists = Parts.read(folder / LISTS[key][0])
        self.explainer = Explainer(self.cascade, history=config.history, words=config.words)
        self.sentences = Sentences(
            catalogue_claims(self.explainer), open_writer(config.model, config.max_new_tokens)
        )  # fmt: skip
        self.head = popular_items(cascade)

    def run(self, *, overwrite: bool) -> dict[str, Any]:
        """Write the parts that are not there yet; returns what results.json says of them."""
        home = self.folder / "explanations" / LISTS[self.key][1]
        records = self.lists.finished_parts()
        own = {number: fingerprint(one["inputs"], one["hash"]) for number, one in records.items()}
        settings = _RECIPE, asdict(self.config), model_key(self.config.model)
        parts = Parts.open(home, {**self.cascade.made_from, "explain": settings}, overwrite=overwrite)
        known = read_results(self.folder).get("explanations", {}).get(LISTS[self.key][1])
        begin, todo = time.perf_counter(), [number for number in records if not parts.finished(number, own[number])]
        for number in todo:
            parts.write(number, self._part(number), inputs=own[number])
        parts.audit(list(own.values()))
        if self.key == "user_id" and (todo or not (self.folder / REASONS).is_file()):
            self._write_samples()
        if known is not None and not todo:
            return known
        return {**self._told(parts), "seconds": time.perf_counter() - begin, "faithfulness": self._tested()}

    def _part(self, number: int) -> pl.DataFrame:
        lists = pl.read_parquet(self.lists.path(number)).filter(pl.col("basis") != POPULARITY)
        ids = lists[self.key].unique(maintain_order=True)
        frames = [self._some(lists, ids[start : start + _TOGETHER]) for start in range(0, len(ids), _TOGETHER)]
        return pl.concat(frames)

    def _some(self, lists: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
        wanted = self._wanted(lists, ids)
        found = self.explain(ids, wanted)
        facts = self.facts(found)
        told = self.sentences.write(facts)
        return wanted.select(self.key, "rank", "item_id").with_columns(
            evidence_frame([self._kept(one, own) for one, own in zip(found, facts, strict=True)]),
            reason=pl.Series([one.text for one in told], dtype=pl.String),
            written_by=pl.Series([one.by for one in told], dtype=pl.String),
            refused=pl.Series([one.refused for one in told], dtype=pl.Boolean),
        )

    def _wanted(self, lists: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
        rows = lists.filter(pl.col(self.key).is_in(ids.implode()))
        return rows if self.config.top is None else rows.filter(pl.col("rank") <= self.config.top)

    def explain(self, ids: pl.Series, wanted: pl.DataFrame) -> list[Explained]:
        """The evidence of each row of some lists; `ids` are those of their requests."""
        without = self.explainer.open(self.requests(ids))
        return self.explainer.explain(without, self._pairs(ids, wanted, without.found.items))

    def _pairs(self, ids: pl.Series, wanted: pl.DataFrame, proposed: np.ndarray) -> list[tuple[int, int]]:
        places, items = _rows(ids, wanted[self.key]), _rows(self.cascade.item_ids, wanted["item_id"])
        if not (proposed[places] == items[:, None]).any(1).all():
            raise InputError(
                f"{self.lists.folder} lists items that these models do not propose; it was made by others. Make it "
                "again with: infer.py recommend CONFIG --overwrite=true"
            )
        return list(zip(places.tolist(), items.tolist(), strict=True))

    def requests(self, ids: pl.Series) -> Requests:
        """Those that these users or queries were answered by."""
        data, config = self.cascade.data, self.cascade.config
        if self.key == "user_id":
            return serving_requests(data, self.until, _rows(data.tables.users[config.users.id], ids))
        assert data.tables.queries is not None
        rows = _rows(data.tables.queries[config.queries.id], ids)
        return search_requests(data, self.until).take(rows)

    def facts(self, found: Sequence[Explained]) -> list[Facts]:
        """What may be said of each."""
        catalogue, texts, head = self.explainer.catalogue, self.cascade.data.catalogue.texts, self.head
        facts = [
            facts_of(catalogue, one.item, texts[one.item], one.evidence, popular=bool(head[one.item])) for one in found
        ]
        return [replace(one, evidence=one.evidence[: self.config.evidence]) for one in facts]

    def _kept(self, one: Explained, facts: Facts) -> list[Evidence]:
        """The best pieces, and those that the sentence may have named."""
        best = one.evidence[: self.config.evidence]
        return sorted(
            [*best, *(piece for piece in facts.evidence if piece not in best)], key=lambda piece: -piece.worth
        )

    def _told(self, parts: Parts) -> dict[str, Any]:
        """Counts of what was written."""
        rows = parts.frame().select("evidence", "written_by", "refused").collect()
        kinds = Counter(own[0]["kind"] for own in rows["evidence"].to_list() if own)
        written = rows["written_by"].value_counts(sort=True)
        return {
            "recommendations": len(rows), "first": dict(kinds.most_common()), "written_by": dict(written.rows()),
            "refused": int(rows["refused"].sum()),
        }  # fmt: skip

    def _tested(self) -> list[dict[str, Any]]:
        """Deletion and insertion on some recommendations, one of each of some requests, drawn evenly."""
        found, count = [], self.config.tested
        lists = self.lists.frame().select(self.key, "rank", "item_id").collect() if count else None
        if lists is None or not len(lists):
            return found
        rng = np.random.default_rng(0)
        picked = lists[rng.permutation(len(lists))].unique(self.key, keep="first", maintain_order=True)[:count]
        without = self.explainer.open(self.requests(picked[self.key]))
        pairs = self._pairs(picked[self.key], picked, without.found.items)
        return [one.row() for one in measure(self.explainer, without, pairs)]

    def _write_samples(self) -> None:
        """Sentences and words of the lists that samples.json shows."""
        path = self.folder / "samples.json"
        if not path.is_file():
            return
        shown = [str(user["id"]) for user in json.loads(path.read_text())["users"]]
        rows = self.lists.frame().filter(pl.col("user_id").cast(pl.String).is_in(shown)).collect()
        if not len(rows):
            return
        ids = rows["user_id"].unique(maintain_order=True)
        wanted = self._wanted(rows, ids)
        found = self.explain(ids, wanted)
        told = self.sentences.write(self.facts(found))
        write_atomic(self.folder / REASONS, json.dumps({"users": _samples(wanted, found, told)}, ensure_ascii=False))


def _samples(wanted: pl.DataFrame, found: Sequence[Explained], told: Sequence[Sentence]) -> list[dict[str, Any]]:
    rows = zip(wanted["user_id"].cast(pl.String), wanted["item_id"].cast(pl.String), found, told, strict=True)
    return [
        {
            "id": user, "item_id": item, "reason": sentence.text, "quotes_search": _quotes_search(one, sentence.text),
            "words": [list(word) for word in one.words],
        }
        for user, item, one, sentence in rows
    ]  # fmt: skip


def _quotes_search(found: Explained, text: str) -> bool:
    """Whether a sentence holds words that somebody has typed."""
    typed = (one.value for one in found.evidence if one.kind == "query" or one.name == "search")
    return any(value in text for value in typed)


def describe_items(cascade: Cascade, folder: Path, config: ExplainConfig, *, part: int, overwrite: bool) -> Path:
    """A description and ad copy of every item, from its row; returns FOLDER/descriptions."""
    explainer, home = Explainer(cascade, history=1, words=0), folder / "descriptions"
    sentences = Sentences(catalogue_claims(explainer), open_writer(config.model, config.max_new_tokens))
    settings = _RECIPE, config.max_new_tokens, model_key(config.model), part
    parts = Parts.open(home, {"items": cascade.made_from["items"], "explain": settings}, overwrite=overwrite)
    for number, rows in enumerate(_pieces(len(cascade.item_ids), part)):
        if not parts.finished(number):
            parts.write(number, _described(cascade, explainer, sentences, rows))
    return home


def _described(cascade: Cascade, explainer: Explainer, sentences: Sentences, rows: np.ndarray) -> pl.DataFrame:
    texts = cascade.data.catalogue.texts
    facts = [facts_of(explainer.catalogue, int(row), texts[row]) for row in rows]
    written = {"description": sentences.write(facts, "description"), "ad": sentences.write(facts, "ad")}
    columns: dict[str, Any] = {"item_id": cascade.item_ids.gather(rows)}
    for name, told in written.items():
        columns |= {name: [one.text for one in told], f"{name}_by": [one.by for one in told]}
    return pl.DataFrame(columns)


def _pieces(count: int, size: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def catalogue_claims(explainer: Explainer) -> Claims:
    """What a sentence may not name without evidence: every title, and every value of the items' category columns."""
    codes, catalogue = explainer.cascade.data.codes, explainer.catalogue
    values = [value for known in codes.item_category.values() for value in known]
    return Claims([*catalogue.titles, *values], personal=catalogue.profile)


def popular_items(cascade: Cascade) -> np.ndarray:
    """[N] bool: which items are head, those that half of the train interactions are with."""
    segments = popularity_segments(torch.from_numpy(cascade.data.popularity()))
    return (segments == SEGMENTS.index("head")).numpy()


def _rows(keys: pl.Series, ids: pl.Series) -> np.ndarray:
    """[len(ids)] int64 row of each id among the keys; InputError for one that is not there."""
    known = pl.DataFrame({"id": keys, "row": np.arange(len(keys))})
    found = ids.alias("id").to_frame().join(known, on="id", how="left", maintain_order="left")["row"]
    if found.null_count():
        raise InputError(f"{found.null_count()} of the listed ids are not in the tables; the data set has changed.")
    return found.to_numpy()
