"""Sentences by a model: a good one is kept, another is replaced and counted; and 10,000 by templates."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from recsys.data.requests import search_requests, serving_requests
from recsys.errors import InputError
from recsys.recommend.evidence import Evidence, Explainer
from recsys.recommend.explain import catalogue_claims
from recsys.recommend.facts import Facts, facts_of
from recsys.recommend.writer import CausalWriter, Sentences, first_line, prompt

SAID = "Because you bought blue thing"


class Parrot:
    """Says the same of everything."""

    def __init__(self, text: str) -> None:
        self.text = text

    def write(self, prompts):
        return [self.text for _ in prompts]


@pytest.fixture(scope="module")
def explainer(served):
    return Explainer(served, history=8, words=4)


@pytest.fixture(scope="module")
def found(served, explainer):
    """The evidence of lists of users and of searches."""
    asked = [
        serving_requests(served.data, "valid", np.arange(12)),
        search_requests(served.data, "valid").take(np.arange(12)),
    ]
    out = []
    for requests in asked:
        without = explainer.open(requests)
        pairs = [(row, int(item)) for row in range(12) for item in without.found.items[row, :5]]
        out += explainer.explain(without, pairs)
    return out


def facts(found, explainer, served) -> list[Facts]:
    texts = served.data.catalogue.texts
    return [facts_of(explainer.catalogue, one.item, texts[one.item], one.evidence) for one in found]


def test_a_sentence_that_the_facts_hold_is_kept_and_another_replaced_and_counted(found, explainer, served):
    told = facts(found, explainer, served)
    claims = catalogue_claims(explainer)
    good = Sentences(claims, Parrot("This is it.")).write(told)
    bad = Sentences(claims, Parrot("A leather thing for your age.")).write(told)
    plain = Sentences(claims).write(told)
    assert {(one.by, one.refused) for one in good} == {("model", False)}
    assert {(one.by, one.refused) for one in bad} == {("template", True)}
    assert [one.text for one in bad] == [one.text for one in plain]
    assert {(one.by, one.refused) for one in plain} == {("template", False)}


def tiny_model(text: str, *, steps: int, words: list[str]) -> CausalWriter:
    """A GPT-2 of two layers over whole words; after `steps` it ends every prompt with `text`."""
    torch.manual_seed(0)
    vocab = {word: row for row, word in enumerate(["<pad>", "<eos>", "<unk>", *dict.fromkeys([*text.split(), *words])])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    shape = GPT2Config(
        vocab_size=len(vocab),
        n_positions=48,
        n_embd=32,
        n_layer=2,
        n_head=2,
        eos_token_id=1,
        bos_token_id=1,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(shape)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    wanted = torch.tensor([[2] * 4 + [vocab[word] for word in text.split()] + [1]])
    for _ in range(steps):
        loss = model(input_ids=wanted, labels=wanted.masked_fill(wanted == 2, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return CausalWriter(model, tokenizer, max_new_tokens=8, batch_size=3)


WORDS = ["leather", "expensive", "cashmere", "99", "women"]


def test_a_small_language_model_is_kept_where_it_has_learnt_and_refused_where_it_babbles(explainer):
    piece = Evidence(kind="history", name="i005", value="blue thing 5", worth=1.0, event="buy")
    told = [Facts(title=f"red thing {n}", language="en", row={"kind": "kind 1"}, evidence=[piece]) for n in range(7)]
    claims = catalogue_claims(explainer)
    learnt = Sentences(claims, tiny_model(SAID, steps=60, words=WORDS)).write(told)
    assert {one.by for one in learnt} == {"model"}
    assert {one.text for one in learnt} == {SAID}
    babbled = Sentences(claims, tiny_model(SAID, steps=0, words=WORDS * 4)).write(told)
    assert {(one.by, one.refused) for one in babbled} == {("template", True)}


def test_the_same_prompts_give_the_same_text_whoever_stands_beside_them(explainer):
    writer = tiny_model(SAID, steps=20, words=WORDS)
    prompts = [" ".join(["leather"] * (1 + row % 5)) for row in range(10)]
    together = writer.write(prompts)
    assert together == writer.write(prompts)
    assert together == [writer.write([one])[0] for one in prompts]


def test_a_model_is_loaded_from_its_folder_and_a_broken_one_refused(tmp_path):
    made = tiny_model(SAID, steps=5, words=WORDS)
    made.model.save_pretrained(tmp_path / "model")
    made.tokenizer.save_pretrained(tmp_path / "model")
    again = CausalWriter.load(str(tmp_path / "model"), max_new_tokens=8)
    assert again.write(["leather 99"]) == made.write(["leather 99"])
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="could not be loaded"):
        CausalWriter.load(str(tmp_path / "model"), max_new_tokens=8)


def test_a_prompt_holds_the_row_and_the_tested_evidence_and_nothing_personal(found, explainer, served):
    for one in facts(found, explainer, served):
        text = prompt(one, "reason")
        assert one.title in text
        assert not re.search(r"18-24|25-34|town \d", text)


def test_only_the_first_line_is_taken():
    assert first_line("\n  It is red. \nAnd blue.") == "It is red."
    assert first_line(" \n") == ""


def strangers(sentence: str, one: Facts, vocabulary: set[str]) -> list[str]:
    """A parser of its own: what is quoted, a number or a word of the catalogue, and does not stand in the facts."""
    allowed = " ".join([*one.row, *one.row.values(), one.title, one.text, *(e.value for e in one.evidence)]).casefold()
    quoted = re.findall(r"“([^”]*)”", sentence)
    numbers = re.findall(r"\d[\d.,]*\d|\d", sentence)
    words = [word for word in re.findall(r"[^\W\d_]+", sentence.casefold()) if word in vocabulary]
    return [part for part in [*quoted, *numbers, *words] if part.casefold() not in allowed]


def test_ten_thousand_reasons_name_nothing_beyond_evidence_and_row(found, explainer, served):
    rng = np.random.default_rng(0)
    told, pool = facts(found, explainer, served), [piece for one in found for piece in one.evidence]
    columns = served.data.tables.users.drop("user_id")
    personal = {str(value).casefold() for name in columns.columns for value in columns[name].drop_nulls().unique()}
    vocabulary = {word for text in served.data.catalogue.texts for word in re.findall(r"[^\W\d_]+", text.casefold())}
    claims, made = catalogue_claims(explainer), []
    for number in range(10_000):  # the lists' own facts, and others with evidence from anywhere
        base = told[number % len(told)]
        drawn = [pool[at] for at in rng.integers(len(pool), size=rng.integers(0, 4))]
        mixed = facts_of(explainer.catalogue, 0, "", drawn).evidence
        made.append(base if number < len(told) else replace(base, evidence=mixed, language=("en", "zh")[number % 2]))
    sentences = Sentences(claims).write(made)
    assert not [one.text for one, own in zip(sentences, made, strict=True) if strangers(one.text, own, vocabulary)]
    assert not [
        one.text for one in sentences if any(value in one.text.casefold() for value in personal if len(value) > 3)
    ]
    assert not [one.text for one, own in zip(sentences, made, strict=True) if claims.faults(one.text, own)]
    assert len({one.text for one in sentences}) > 100
