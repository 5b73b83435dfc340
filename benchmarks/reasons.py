"""Reasons of an explained run: how fast templates write them, and whether they name anything beyond evidence and row.

    python benchmarks/reasons.py RUN [COUNT]

RUN has explanations/user or explanations/query (`infer.py explain CONFIG`). COUNT (10,000) of the recommendations are
told anew, on one thread, five times; the median rate counts. Each sentence is then read by a parser that shares nothing
with the project's own check: what is quoted, every number, and every word that stands in any item's text or columns
must stand in the recommendation's evidence or its item's row; and no value of the users table may be named that these
lack.
"""

import re
import statistics
import sys
import time
from pathlib import Path

import polars as pl

from recsys.config import parse_run
from recsys.data.text import join_columns
from recsys.recommend.cascade import Cascade
from recsys.recommend.claims import Claims
from recsys.recommend.evidence import Catalogue, Evidence
from recsys.recommend.facts import Facts, facts_of
from recsys.recommend.settings import InferRun
from recsys.recommend.writer import Sentences

WORD = re.compile(r"[^\W\d_]+")
TEMPLATES = (
    "because you bought chose before looked at searched for of its in text suits the moment how it looks what latest "
    "reviews say is advertised just now description matches and your search found our pick popular with many"
)
"""All that the English sentences say of their own."""


def facts(cascade: Cascade, catalogue: Catalogue, rows: pl.DataFrame) -> list[Facts]:
    """Of each explained recommendation."""
    place = {item: row for row, item in enumerate(cascade.item_ids.to_list())}
    texts = cascade.data.catalogue.texts
    return [
        facts_of(catalogue, place[item], texts[place[item]], [Evidence(**one) for one in evidence])
        for item, evidence in zip(rows["item_id"].to_list(), rows["evidence"].to_list(), strict=True)
    ]


def strangers(sentence: str, allowed: str, vocabulary: set[str], personal: set[str]) -> list[str]:
    """What a sentence names and `allowed` lacks."""
    quoted, numbers = re.findall(r"“([^”]*)”", sentence), re.findall(r"\d[\d.,]*\d|\d", sentence)
    words = [word for word in WORD.findall(sentence.casefold()) if word in vocabulary]
    private = [value for value in personal if value in sentence.casefold()]
    return [part for part in [*quoted, *numbers, *words, *private] if part.casefold() not in allowed]


def main(run: Path, count: int) -> None:
    """Print rate and faults."""
    one = parse_run(InferRun, [str(run / "infer.yaml")])
    cascade = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision)
    catalogue = Catalogue.of(cascade)
    rows = pl.concat([pl.read_parquet(path).select("item_id", "evidence", "reason")
                      for path in sorted(run.glob("explanations/*/part-*.parquet"))])[:count]  # fmt: skip
    begin = time.perf_counter()
    told = facts(cascade, catalogue, rows)
    print(f"{len(told):,} recommendations; facts {len(told) / (time.perf_counter() - begin):,.0f} a second")
    sentences, rates = Sentences(Claims([])), []
    for _ in range(5):
        begin = time.perf_counter()
        written = [one.text for one in sentences.write(told)]
        rates.append(len(told) / (time.perf_counter() - begin))
    print(f"templates {statistics.median(rates):,.0f} a second; {len(set(written)):,} different sentences")
    items, users = cascade.data.tables.items, cascade.data.tables.users.drop(one.data.users.id, strict=False)
    named = [name for name in items.columns if items[name].dtype != pl.Binary]
    cells = [cell.casefold() for name in named for cell in join_columns(items, [name])]
    vocabulary = {word for cell in cells for word in WORD.findall(cell)} - set(TEMPLATES.split())
    personal = {cell.casefold() for name in users.columns for cell in join_columns(users, [name]) if len(cell) > 3}
    faults = [
        found
        for text, own in zip([*rows["reason"].to_list(), *written], [*told, *told], strict=True)
        if (found := strangers(text, " ".join(own.allowed).casefold(), vocabulary, personal))
    ]
    print(f"{len(faults):,} of {2 * len(told):,} sentences name something beyond evidence and row: {faults[:3]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int((*sys.argv[2:], "10000")[0]))
