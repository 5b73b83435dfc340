"""Requests -> a hash of the rows that their lists depend on, so that a changed row is noticed where it matters."""

import hashlib

import numpy as np

from recsys.data.prepare import Prepared, Queries
from recsys.data.requests import Requests


def requests_hash(data: Prepared, requests: Requests) -> str:
    """Hash of all that some requests see and others need not: profiles, visible histories, moments, searches, queries.

    What every request depends on, the catalogue above all, is not in it.
    """
    digest = hashlib.blake2b(digest_size=16)
    users, known = requests.users, requests.users >= 0
    limits = () if data.filters is None else (data.filters.region, data.filters.age)
    profile = [column[users[known]] for column in (data.profile, data.profile_number, *limits)]
    for values in (known, *profile, *_histories(data, requests)):
        digest.update(str((values.shape, values.dtype.str)).encode())
        digest.update(np.ascontiguousarray(values).data)
    digest.update(f"{requests.before} {None if requests.among is None else requests.among.tolist()}".encode())
    if data.queries is not None:
        asked = requests.queries[requests.queries >= 0]
        earlier = np.flatnonzero(np.isin(data.queries.user, users[known]))  # searches that stand in a history
        place = {user: at for at, user in enumerate(users.tolist())}
        for rows in (asked, earlier):
            digest.update(repr([_search(data.queries, row, place) for row in rows.tolist()]).encode())
    return digest.hexdigest()


def _search(queries: Queries, row: int, place: dict[int, int]) -> tuple[object, ...]:
    """The words of a query, whose it is among the requests, when it was asked, of which split it is; and its picture,
    where queries have some.
    """
    whose = place.get(int(queries.user[row]), -1)
    shown = () if queries.pictures is None else (queries.pictures[row],)
    return queries.texts[row], whose, float(queries.order[row]), int(queries.stage[row]), *shown


def _histories(data: Prepared, requests: Requests) -> list[np.ndarray]:
    """The layout's rows from each user's first to the end of what is seen, and what is known of the moments."""
    histories = data.histories
    if histories is None:
        return []
    some = np.flatnonzero((requests.users >= 0) & (requests.ends >= 0))
    first = histories.offsets[requests.users[some]]
    lengths = np.maximum(requests.ends[some] - first, 0)
    rows = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    moments, ends = requests.moments[requests.moments >= 0], requests.ends[some]
    hidden = ends[
        ends < histories.offsets[requests.users[some] + 1]
    ]  # the first row that is not seen ends the searches
    seen = (histories.item, histories.order, histories.position, histories.event, histories.target, histories.context)
    told = histories.order[moments], histories.context[moments], histories.order[hidden]
    return [lengths, *(column[rows] for column in seen), *told]
