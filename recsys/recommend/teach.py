"""A pruner, or a larger retriever, as a teacher: its logits of the candidates of train queries, as a table that a
retriever learns from.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.requests import answered_queries, query_requests
from recsys.data.split import TRAIN
from recsys.errors import InputError
from recsys.recommend.cascade import Cascade
from recsys.shards import Parts, write_atomic


def teach(cascade: Cascade, folder: Path, *, overwrite: bool, part: int) -> int:
    """Write part-*.parquet (query_id, item_id, logit) for every train query with a right item, and then DONE; returns
    the number of queries.

    Without a pruner the logits are the retriever's own: its scores over the temperature that it was trained with. A
    right item that the retriever does not propose is not there.
    """
    data, roles = cascade.data, cascade.config
    if cascade.pruner is None and cascade.hybrid is not None:
        raise InputError("Stage 'teach' asks a pruner, or a retriever alone; set pruner: RUN, or lexical: null.")
    if data.queries is None or data.tables.queries is None or not len(answered_queries(data, TRAIN)):
        raise InputError("Stage 'teach' finds no train query with a right item; give queries and relevance.")
    requests = query_requests(data, answered_queries(data, TRAIN), stage=TRAIN)
    keys = data.tables.queries[roles.queries.id]
    features = cascade.retriever.features
    read = features.max_items, features.searches is not None
    made_from = {**cascade.made_from, "data": data.hash, "settings": ("teach", read, part)}
    parts = Parts.open(folder, made_from, overwrite=overwrite)
    starts = range(0, len(requests), part)
    for number, start in enumerate(starts):
        some = requests.take(np.arange(start, min(start + part, len(requests))))
        if parts.finished(number, str(len(some))):
            continue
        found, judged = cascade.judge(some)
        logits = found.scores * float(cascade.retriever.model.scale) if judged is None else judged
        rows, ranks = np.nonzero(found.items >= 0)
        frame = pl.DataFrame({
            "query_id": keys.gather(some.queries[rows]), "item_id": cascade.item_ids.gather(found.items[rows, ranks]),
            "logit": logits[rows, ranks],
        })  # fmt: skip
        parts.write(number, frame, inputs=str(len(some)))
    rows = parts.audit([str(min(part, len(requests) - start)) for start in starts])
    write_atomic(folder / "DONE", json.dumps({"requests": len(requests), "rows": rows}))
    return len(requests)
