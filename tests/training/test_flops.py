"""The formula against torch's own count."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recsys.batch import ApartBatch, MaskedBatch, RetrieverBatch, TextBatch, UserBatch
from recsys.config import ImageConfig, TextConfig
from recsys.models.history import HistoryEncoder, HistoryEncoderConfig
from recsys.models.image import ImageEncoder
from recsys.models.masked import MaskedLanguageModel
from recsys.models.split import SplitReader
from recsys.models.states import read_texts
from recsys.models.text import TextEncoder
from recsys.training.flops import StepWork, matrices, split_flops
from recsys.training.mlm import MlmTraining
from recsys.training.optim import OptimConfig
from recsys.training.retriever import RetrieverTraining

CONFIG = TextConfig(model="config:", mode="full", layers=3, width=32, heads=2, max_tokens=24)


class Model(nn.Module):
    """A text encoder and nothing else."""

    image = None

    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        self.text = text


def encoder(config: TextConfig = CONFIG) -> TextEncoder:
    made = TextEncoder.build(config, vocab_size=50)
    made.model.config._attn_implementation = "eager"  # torch counts no operations of the fused one on a CPU
    return made


def texts(rows: int, tokens: int, padding: int = 0) -> TextBatch:
    mask = torch.arange(tokens + padding).expand(rows, -1) < tokens
    return TextBatch(ids=torch.ones((rows, tokens + padding), dtype=torch.int64), mask=mask)


def batch(text: TextBatch) -> MaskedBatch:
    none = torch.zeros(0, dtype=torch.int64)
    return MaskedBatch(texts=text, token=none, original=none, tokens=int(text.mask.sum()))


def counted(work: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        work().sum().backward()
    return counter.get_total_flops()


def test_a_full_encoder_takes_what_torch_counts():
    text, made = texts(4, 20), encoder()
    assert float(StepWork.of(Model(made)).step(batch(text))) == counted(lambda: made(text))


def test_a_last_layer_for_first_tokens_alone_takes_what_torch_counts():
    text = texts(4, 20)
    made = TextEncoder.build(replace(CONFIG, pooling="cls", width=128), vocab_size=50)  # SDPA's formula is written out
    assert made.reads_first
    assert float(StepWork.of(Model(made)).step(batch(text))) == counted(lambda: made(text))


def test_padding_is_no_work():
    work = StepWork.of(Model(encoder()))
    assert float(work.step(batch(texts(4, 20)))) == float(work.step(batch(texts(4, 20, padding=9))))


def test_adapters_take_little_over_two_thirds(tmp_path: Any):
    full = encoder()
    full.save(tmp_path)
    text = texts(4, 20)
    made = encoder(replace(CONFIG, model=str(tmp_path), mode="lora", lora_rank=2))
    found = float(StepWork.of(Model(made)).step(batch(text)))
    assert found == pytest.approx(
        counted(lambda: made(text)), rel=0.1
    )  # the first layer needs no gradient of its input
    assert 0.6 < found / float(StepWork.of(Model(full)).step(batch(text))) < 0.9


def test_lookups_are_no_matrices():
    text = encoder()
    sizes = sum(weight.numel() for weight in matrices(text))
    assert sizes == 3 * (4 * 32**2 + 2 * 32 * 128)


def test_the_head_of_masked_training_counts():
    made = MaskedLanguageModel(encoder())
    module = MlmTraining(made, optim=OptimConfig(), total_steps=1)
    text = texts(4, 20)
    hidden = torch.tensor([3, 8, 15])
    masked = MaskedBatch(texts=text, token=hidden, original=hidden, tokens=80)
    assert float(module.step_flops(masked)) == counted(lambda: made(masked))


def test_a_history_and_its_scores_count():
    history = HistoryEncoder(HistoryEncoderConfig(layers=2, heads=2), 16)
    model: Any = SimpleNamespace(width=16, users=SimpleNamespace(history=history))
    module: Any = SimpleNamespace(model=model, catalogue=SimpleNamespace(index=torch.arange(10)))
    lengths = torch.tensor([2, 5])
    own: Any = SimpleNamespace(
        item=None, row=torch.arange(7), users=SimpleNamespace(history_mask=torch.arange(6) < lengths[:, None])
    )
    found = RetrieverTraining.product_flops(module, own)
    assert float(found) == 6 * 7 * 10 * 16 + 12 * 2 * 16 * (4 + 25)
    own.item = torch.arange(4)
    model.users.history = None
    assert RetrieverTraining.product_flops(module, own) == 6 * 7 * 4 * 16


@pytest.mark.parametrize("layers", [1, 2])
def test_a_split_cross_encoder_takes_what_torch_counts(layers):
    reader = SplitReader(TextEncoder.build(CONFIG, vocab_size=50), layers)  # in training, SDPA's formula is written out
    request, candidate = texts(2, 9), texts(3, 5)
    apart = ApartBatch(request=request, candidate=candidate, row=torch.tensor([[0, 2, -1], [1, 0, 2]]))
    pairs = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 2, 1, 0, 2])

    def work() -> torch.Tensor:
        return reader.pairs(
            read_texts(request, reader.requests), read_texts(candidate, reader.candidates), *pairs
        )  # fmt: skip

    assert float(split_flops(reader, apart)) == counted(work)


def test_pictures_count_where_their_encoder_learns():
    model: Any = nn.Module()
    model.image = ImageEncoder.build(ImageConfig(model="config:", mode="full", pixels=32, layers=1, width=8)).train()
    pixels = torch.zeros((2, 3, 32, 32), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:  # backward, torch counts a depthwise convolution as a dense one
        model.image(pixels)
    assert 2 * StepWork.of(model).picture == 3 * counter.get_total_flops()
    assert model.image.training
    none = torch.zeros(0, dtype=torch.int64)
    users = UserBatch(history=none.view(2, 0), history_mask=none.view(2, 0).bool(), query_image=pixels)
    rest = dict.fromkeys(("row", "step", "target", "seen_row", "seen_item", "seen_step"), none)
    work = StepWork.of(model)
    assert work.step(RetrieverBatch(items=None, item=None, users=users, **rest)) == 2 * work.picture
    model.image.frozen = True
    assert StepWork.of(model).picture == 0
