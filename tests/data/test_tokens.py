"""The token cache against a tokenizer that is called text by text."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from recsys.data import text, tokens
from recsys.data.text import train_wordpiece
from recsys.data.tokens import TokenCache, token_cache

TEXTS = ["red hat", "", "红色的帽子", "a very long text about a red hat " * 4, "blue", "red hat"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece(TEXTS, 120)


def plain(tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> list[list[int]]:
    return [tokenizer(one, truncation=True, max_length=max_tokens)["input_ids"] for one in TEXTS]


def test_the_cache_holds_what_the_tokenizer_says(tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(text, "CHUNK", 4)
    cache = token_cache(TEXTS, tokenizer, 12, tmp_path)
    expected = plain(tokenizer, 12)
    assert len(cache) == len(TEXTS)
    assert cache.lengths.tolist() == [len(row) for row in expected]
    assert [cache.ids[a:b].tolist() for a, b in zip(cache.offsets, cache.offsets[1:], strict=False)] == expected


def test_a_batch_is_padded_to_its_longest_row(tokenizer, tmp_path: Path):
    cache = token_cache(TEXTS, tokenizer, 12, tmp_path)
    rows = np.array([4, 2, 4, 0])
    batch = cache.batch(rows)
    expected = tokenizer([TEXTS[row] for row in rows], padding=True, return_tensors="pt")
    assert torch.equal(batch.ids, expected["input_ids"])
    assert torch.equal(batch.mask, expected["attention_mask"].bool())
    assert batch.ids.dtype == torch.int64


def test_a_batch_pads_with_the_tokenizers_own_padding(tmp_path: Path):
    other = train_wordpiece(TEXTS, 120)
    other.pad_token = "[MASK]"
    batch = token_cache(TEXTS, other, 12, tmp_path).batch(np.array([0, 3]))
    assert set(batch.ids[~batch.mask].tolist()) == {other.mask_token_id}


def test_a_batch_of_no_rows_has_a_shape(tokenizer, tmp_path: Path):
    batch = token_cache(TEXTS, tokenizer, 12, tmp_path).batch(np.array([], dtype=np.int64))
    assert batch.ids.shape == batch.mask.shape == (0, 1)


def test_no_texts_make_an_empty_cache(tokenizer, tmp_path: Path):
    cache = token_cache([], tokenizer, 12, tmp_path)
    assert len(cache) == 0
    assert cache.lengths.tolist() == []


def test_a_cache_is_built_once_whatever_the_tokenizer_did_in_between(tokenizer, tmp_path: Path, monkeypatch):
    token_cache(TEXTS, tokenizer, 12, tmp_path)
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)
    monkeypatch.setattr(tokens, "_write", None)  # building again would fail
    assert token_cache(TEXTS, tokenizer, 12, tmp_path).lengths.max() == 12


def test_other_texts_lengths_or_tokenizers_have_caches_of_their_own(tokenizer, tmp_path: Path):
    caches = [
        token_cache(TEXTS, tokenizer, 12, tmp_path),
        token_cache(TEXTS, tokenizer, 8, tmp_path),
        token_cache(TEXTS[::-1], tokenizer, 12, tmp_path),
        token_cache(TEXTS, train_wordpiece(["other words"], 120), 12, tmp_path),
    ]
    assert len({cache.folder for cache in caches}) == 4


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 0x15
    path.write_bytes(content)


@pytest.mark.parametrize("fault", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "written.json"])
def test_a_damaged_cache_is_built_again(fault, name: str, tokenizer, tmp_path: Path):
    whole = token_cache(TEXTS, tokenizer, 12, tmp_path)
    expected = np.array(whole.ids)
    path = whole.folder / name
    path.write_bytes(path.read_bytes())
    fault(path)
    again = token_cache(TEXTS, tokenizer, 12, tmp_path)
    assert np.array_equal(again.ids, expected)
    assert [entry.name for entry in tmp_path.iterdir()] == [again.folder.name]


def test_a_failed_build_leaves_nothing(tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tokens, "_checksum", lambda values: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_cache(TEXTS, tokenizer, 12, tmp_path)
    assert not list(tmp_path.iterdir())


def test_worker_processes_open_the_files_themselves(tokenizer, tmp_path: Path):
    cache = token_cache(TEXTS, tokenizer, 12, tmp_path)
    rebuild, arguments = cache.__reduce__()
    copy = rebuild(*arguments)
    assert isinstance(copy, TokenCache)
    assert isinstance(copy.ids, np.memmap)
    loader = DataLoader([np.array([0]), np.array([3])], batch_size=None, collate_fn=cache.batch, num_workers=1)
    assert [batch.mask.sum().item() for batch in loader] == cache.lengths[[0, 3]].tolist()


def test_a_text_without_any_token_still_has_one(tmp_path: Path):
    bare = train_wordpiece(TEXTS, 120)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    cache = token_cache(["", "red"], bare, 12, tmp_path)
    assert cache.lengths.tolist() == [1, 1]
    assert cache.ids.tolist() == [bare.pad_token_id, bare.convert_tokens_to_ids("red")]


def test_the_growing_header_is_one_that_numpy_writes():
    file = io.BytesIO()
    tokens._header(file, 0)
    start = file.tell()
    tokens._header(file, 10**12)
    assert file.tell() == start


def test_dropped_tokens_are_gone_from_inside_by_seed_epoch_and_row_alone(tokenizer, tmp_path: Path):
    cache = token_cache(TEXTS, tokenizer, 40, tmp_path)

    def kept(rows: list[int], epoch: int = 0) -> list[list[int]]:
        batch = cache.batch(np.array(rows), (0.5, 7, epoch))
        assert batch.mask.shape[1] == max(1, int(batch.mask.sum(1).max()))
        return [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]

    whole = [row.tolist() for row in np.split(cache.ids, cache.offsets[1:-1])]
    for rows in ([0, 3, 4], [3]):
        for row, found in zip(rows, kept(rows), strict=True):
            left = iter(whole[row])
            assert all(token in left for token in found)  # in their order
            assert (found[0], found[-1]) == (whole[row][0], whole[row][-1])
    assert 0.3 < len(kept([3])[0]) / len(whole[3]) < 0.8
    assert kept([3]) == kept([0, 3])[1:]
    assert kept([3]) != kept([3], epoch=1)
    assert cache.batch(np.array([3]), (0.0, 7, 0)).ids.tolist() == cache.batch(np.array([3])).ids.tolist()
