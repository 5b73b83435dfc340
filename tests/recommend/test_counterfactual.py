"""Scores without this or that, against the cascade that is asked again in full."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from recsys.config import parse_run
from recsys.data.features import HIDEABLE
from recsys.data.requests import search_requests, serving_requests
from recsys.recommend.cascade import Cascade
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.deletions import Asked, Unit
from recsys.recommend.words import Words
from recsys.retrieval.lexical import LexicalConfig
from recsys.training.pruner_run import PrunerRun, train_pruner


def users(cascade: Cascade, count: int = 5):
    return serving_requests(cascade.data, "valid", np.arange(count))


def queries(cascade: Cascade, count: int = 6):
    return search_requests(cascade.data, "valid").take(np.arange(count))


def candidates_of(without: Counterfactuals, gone: frozenset[Unit] = frozenset()) -> list[Asked]:
    return [Asked(row, int(item), gone) for row, items in enumerate(without.found.items) for item in items if item >= 0]


@pytest.fixture(scope="module", params=["pruner", "retriever", "lexical"])
def cascade(request, served, journey):
    if request.param == "pruner":
        return served
    if request.param == "retriever":
        return replace(served, pruner=None)
    one = journey.infer(output=journey.folder)
    lexical = LexicalConfig(candidates=60, weight=0.5)
    return Cascade.open(one.retriever, None, one.data, one.candidates, one.decision, lexical)


@pytest.mark.parametrize("ask", [users, queries])
def test_with_nothing_gone_the_score_is_the_cascades_own(cascade, ask):
    requests = ask(cascade)
    found, logits = cascade.judge(requests)
    without = Counterfactuals(cascade, requests, Words())
    scores = without.scores(candidates_of(without)).reshape(found.items.shape)
    np.testing.assert_allclose(scores, found.scores if logits is None else logits, rtol=1e-3, atol=1e-4)


def test_a_history_without_an_item_is_that_of_somebody_who_never_had_it(cascade):
    requests = users(cascade)
    without = Counterfactuals(cascade, requests, Words())
    gone = int(without.pasts[2].item[1])
    scores = without.scores(
        [one for one in candidates_of(without, frozenset({Unit("history", gone)})) if one.request == 2]
    )
    histories, data = cascade.data.histories, cascade.data
    first, last = int(histories.offsets[2]), int(histories.offsets[3])
    keep = np.ones(len(histories.item), dtype=bool)
    keep[first:last] = (histories.item[first:last] != gone) | (np.arange(first, last) >= requests.ends[2])
    removed = int((~keep).sum())
    cut = {
        name: getattr(histories, name)[keep]
        for name in ("item", "order", "position", "event", "target", "stage", "context")
    }
    offsets = histories.offsets - removed * (np.arange(len(histories.offsets)) > 2)
    other = cascade.about(replace(data, histories=replace(histories, offsets=offsets, **cut)))
    asked = requests.take(np.array([2]))
    asked = replace(asked, ends=asked.ends - removed, moments=asked.moments - removed)
    plain = Counterfactuals(other, asked, Words(), found=replace_found(without.found, 2))
    np.testing.assert_allclose(scores, plain.scores(candidates_of(plain)), rtol=1e-3, atol=1e-4)


def replace_found(found, row):
    some = slice(row, row + 1)
    return replace(found, items=found.items[some], scores=found.scores[some], users=found.users[some])


@pytest.mark.parametrize("source", ["profile", "context", "history"])
def test_a_source_of_the_request_is_gone_as_if_the_data_set_had_it_not(served, journey, source):
    one = journey.infer(output=journey.folder)
    hidden = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision, hidden=[source])
    without = Counterfactuals(served, users(served), Words())
    plain = Counterfactuals(replace(hidden, items=served.items), users(served), Words(), found=without.found)
    scores = without.scores(candidates_of(without, frozenset({Unit.source(source)})))
    np.testing.assert_allclose(scores, plain.scores(candidates_of(plain)), rtol=1e-3, atol=1e-4)
    assert np.abs(scores - without.scores(candidates_of(without))).max() > 1e-4


def test_a_word_of_the_query_is_gone_as_if_it_had_not_been_asked(cascade):
    requests = queries(cascade)
    without = Counterfactuals(cascade, requests, Words())
    texts = [" ".join(text.split()[:1] + text.split()[2:]) for text in cascade.data.queries.texts]
    other = cascade.about(replace(cascade.data, queries=replace(cascade.data.queries, texts=texts)))
    for part in (other.retriever, other.pruner):
        if part is not None:
            part.features.query_texts = part.words.read(texts)
    other, base = without_searches(other), without_searches(cascade)
    plain = Counterfactuals(other, requests, Words(), found=without.found)
    gone = Counterfactuals(base, requests, Words(), found=without.found)
    if cascade.hybrid is not None:
        plain.lexical.pool = gone.lexical.pool  # what was proposed stays, and with it what scores are measured over
    scores = gone.scores(candidates_of(without, frozenset({Unit("query", 1)})))
    np.testing.assert_allclose(scores, plain.scores(candidates_of(plain)), rtol=1e-3, atol=1e-4)


def without_searches(cascade: Cascade) -> Cascade:
    """The same, histories without the searches in them: else a changed query would change these, too."""

    def plain(part):
        features = copy(part.features)
        features.searches = None
        return replace(part, features=features)

    pruner = None if cascade.pruner is None else plain(cascade.pruner)
    return replace(cascade, retriever=plain(cascade.retriever), pruner=pruner)


def test_a_word_or_a_column_of_the_item_changes_that_item_alone(cascade):
    without = Counterfactuals(cascade, users(cascade, 2), Words())
    first, second = without.found.items[0, :2].tolist()
    base = without.scores([Asked(0, first), Asked(0, second)])
    for unit in (Unit("word", 0), Unit("field", 0), Unit("field", 1), Unit.source("text")):
        changed = without.scores([Asked(0, first, frozenset({unit})), Asked(0, second)])
        assert abs(changed[0] - base[0]) > 1e-6
        assert changed[1] == pytest.approx(base[1], abs=1e-5)


def test_many_at_once_are_each_as_if_alone(cascade):
    without = Counterfactuals(cascade, users(cascade), Words())
    units = [Unit("word", 0), Unit("field", 0), Unit("profile", 0), Unit("profile", 2), Unit("context", 0)]
    units += [Unit.source(name) for name in HIDEABLE] + [Unit("history", int(without.pasts[0].item[0]))]
    asked = [Asked(row, int(without.found.items[row, 0]), frozenset({unit})) for row in range(5) for unit in units]
    alone = [without.scores([one])[0] for one in asked]
    np.testing.assert_allclose(without.scores(asked), alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "apart"), [("together", {}), ("late", {"late": True, "evidence": "after"}), ("split", {"split": 1})]
)
def test_a_pruner_that_reads_the_words_of_pairs_reads_them_without_a_word(journey, tmp_path, name, apart):
    text = {**journey.retriever["text"], "max_tokens": 32, "layers": 2}
    model = {**journey.pruner, "text": text, **apart}
    candidates = f"{journey.folder}/runs/infer/candidates"
    config = journey.write("pruner", name=f"pairs_{name}", candidates=candidates, model=model)
    run = train_pruner(parse_run(PrunerRun, [str(config), f"--runs={tmp_path}"]))
    one = journey.infer(f"--pruner={run}", output=tmp_path)
    cascade = Cascade.open(one.retriever, one.pruner, one.data, one.candidates, one.decision)
    for requests in (users(cascade, 3), queries(cascade, 3)):
        _, logits = cascade.judge(requests)
        without = Counterfactuals(cascade, requests, Words())
        base = without.scores(candidates_of(without))
        np.testing.assert_allclose(base.reshape(logits.shape), logits, rtol=1e-3, atol=1e-4)
    for kind in ("word", "query"):
        changed = without.scores(candidates_of(without, frozenset({Unit(kind, 0)})))
        assert np.abs(changed - base).max() > 1e-4
    assert (cascade.pruner.states.size > 0) == (name != "together")
