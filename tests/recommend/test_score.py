"""Scoring candidates a batch at a time."""

import numpy as np
import pytest

from recsys.config import TextConfig
from recsys.data.requests import serving_requests
from recsys.errors import InputError
from recsys.models.pruner import PrunerConfig
from recsys.recommend.score import open_pairs, score_candidates
from recsys.retrieval.candidates import Found, retrieve


@pytest.fixture
def found(served) -> Found:
    requests = serving_requests(served.data, "valid", np.arange(9))
    return retrieve(served.retriever, served.index, served.item_vectors, requests, 6)


def scored(served, found: Found, items: np.ndarray, **options) -> np.ndarray:
    requests = serving_requests(served.data, "valid", np.arange(9))
    pruner = served.pruner
    return score_candidates(
        pruner.model, pruner.features, requests, items, found.scores, served.item_vectors, found.users, **options
    )[..., 0]


def test_logits_do_not_depend_on_the_batch(served, found):
    whole = scored(served, found, found.items)
    assert whole.shape == found.items.shape
    np.testing.assert_allclose(scored(served, found, found.items, batch_size=2), whole, rtol=1e-3, atol=1e-4)


def test_padding_has_no_chance(served, found):
    items = found.items.copy()
    items[3, 4:] = -1
    logits = scored(served, found, items)
    assert np.isneginf(logits[3, 4:]).all()
    assert np.isfinite(logits[3, :4]).all()


def test_a_pruner_of_cached_states_needs_no_pairs(served):
    assert open_pairs(served.pruner.folder, served.pruner.model, served.data, served.config) is None


def test_a_cross_encoder_without_pairs_is_refused(served, found, monkeypatch):
    text = TextConfig(model="config:", mode="full")
    monkeypatch.setattr(served.pruner.model, "config", PrunerConfig(text=text))
    with pytest.raises(InputError, match=r"cross-encoder and was given no pairs.*open_pairs"):
        scored(served, found, found.items)
