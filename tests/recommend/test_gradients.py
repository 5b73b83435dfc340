"""Integrated gradients of words, against what they must add up to."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.data.requests import serving_requests
from recsys.errors import InputError
from recsys.recommend.counterfactual import Counterfactuals
from recsys.recommend.gradients import item_words, query_words
from recsys.recommend.words import Words

TEXTS = ["red thing 4 warm small", "soft thing", "blue thing 7 round round flat", "large large"]


@pytest.fixture
def asked(served):
    without = Counterfactuals(served, serving_requests(served.data, "valid", np.arange(4)), Words())
    return served.retriever, served.retriever.features.items(without.found.items[:, 0]), without.found.users


def test_the_parts_of_an_items_words_add_up_to_the_score_beside_a_text_of_pads(asked):
    retriever, items, users = asked
    found = item_words(retriever.model, retriever.words, Words(), items, torch.from_numpy(users), TEXTS)
    assert [len(one) for one in found] == [5, 2, 6, 2]
    tokens = retriever.words.tokens(TEXTS)
    special = torch.isin(tokens.ids, torch.tensor(retriever.words.tokenizer.all_special_ids))
    whole, none = (
        plain_scores(retriever, items, torch.from_numpy(users), ids, tokens.mask)
        for ids in (tokens.ids, torch.where(special, tokens.ids, 0))
    )
    np.testing.assert_allclose([one.sum() for one in found], whole - none, rtol=0.1, atol=0.02)


@torch.no_grad()
def plain_scores(retriever, items, users, ids, mask):
    states = retriever.words.encoder.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return (retriever.model.encode_items(replace(items, text_vector=pooled)) * users).sum(-1).numpy()


def test_the_parts_of_a_querys_words_add_up_too(served):
    model, reader = served.retriever.model, served.retriever.words
    texts, items = ["red thing", "large round warm"], torch.from_numpy(served.items[:2])
    found = query_words(model, reader, Words(), items, torch.zeros(2, model.width), texts)
    assert [len(one) for one in found] == [2, 3]
    pads = reader.tokens(texts)
    special = torch.isin(pads.ids, torch.tensor(reader.tokenizer.all_special_ids))
    bare = replace(pads, ids=torch.where(special, pads.ids, 0))
    with torch.no_grad():
        whole, none = ((model.normalised(model.items.project_text(reader.encoder(one))) * items).sum(-1)
                       for one in (pads, bare))  # fmt: skip
    np.testing.assert_allclose([one.sum() for one in found], (whole - none).numpy(), rtol=0.1, atol=0.02)


def test_a_word_that_was_cut_off_has_no_part(asked):
    retriever, items, users = asked
    texts = ["red thing 4 " * 10, *TEXTS[1:]]
    found = item_words(retriever.model, retriever.words, Words(), items, torch.from_numpy(users), texts)[0]
    assert len(found) == 30
    assert (found[14:] == 0).all()
    assert (found[:10] != 0).all()


def test_without_captum_one_sentence_says_what_to_install(asked, monkeypatch):
    retriever, items, users = asked
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"recsys\[explain\]"):
        item_words(retriever.model, retriever.words, Words(), items, torch.from_numpy(users), TEXTS)
