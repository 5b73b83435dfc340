"""What is exported equals the original, as plain sentence-transformers loads it."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from recsys.batch import TextBatch
from recsys.config import TextConfig
from recsys.data.text import train_wordpiece
from recsys.errors import InputError
from recsys.models.export import export_sentence_transformers
from recsys.models.text import TextEncoder

TEXTS = ["red hat", "红色的帽子", "Ein grüner Hut", "a long text about one red hat " * 5, ""]
LENGTH = 10


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece(TEXTS, 120)


def build(tokenizer: PreTrainedTokenizerFast, pooling: str) -> TextEncoder:
    torch.manual_seed(0)
    config = TextConfig(model="config:", mode="full", width=16, heads=2, pooling=pooling, max_tokens=LENGTH)
    return TextEncoder.build(config, len(tokenizer)).eval()


def vectors_of(encoder: TextEncoder, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    words = tokenizer(TEXTS, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        return encoder(TextBatch(ids=words["input_ids"], mask=words["attention_mask"].bool()))


@pytest.mark.parametrize(
    ("pooling", "dense", "normalize"),
    [("mean", None, False), ("cls", nn.Linear(16, 8), True), ("mean", nn.Linear(16, 4, bias=False), False)],
)
def test_sentence_transformers_gives_the_same_vectors(pooling, dense, normalize, tokenizer, tmp_path: Path):
    library = pytest.importorskip("sentence_transformers")
    encoder = build(tokenizer, pooling)
    export_sentence_transformers(
        encoder, tokenizer, tmp_path / "out", pooling=pooling, max_tokens=LENGTH, dense=dense, normalize=normalize
    )
    expected = vectors_of(encoder, tokenizer)
    expected = expected if dense is None else dense(expected).detach()
    expected = nn.functional.normalize(expected, dim=-1) if normalize else expected
    model = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    torch.testing.assert_close(model.encode(TEXTS, convert_to_tensor=True), expected, atol=1e-5, rtol=0)
    assert not list((tmp_path / "out").glob("**/*.bin"))


def test_exporting_twice_writes_the_same_and_leaves_the_random_numbers_alone(tokenizer, tmp_path: Path):
    pytest.importorskip("sentence_transformers")
    encoder = build(tokenizer, "mean")
    state = torch.get_rng_state()
    for name in ("one", "two"):
        export_sentence_transformers(
            encoder, tokenizer, tmp_path / name, pooling="mean", max_tokens=LENGTH, dense=None, normalize=True
        )
    assert torch.equal(torch.get_rng_state(), state)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_missing_library_names_its_extra(tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"recsys\[export\]"):
        export_sentence_transformers(
            build(tokenizer, "mean"), tokenizer, tmp_path, pooling="mean", max_tokens=LENGTH, dense=None, normalize=True
        )
    assert not list(tmp_path.iterdir())
