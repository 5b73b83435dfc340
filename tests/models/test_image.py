"""The image encoder: from scratch, from a folder of any architecture, and what it writes."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from recsys.config import ImageConfig
from recsys.errors import InputError
from recsys.models.image import ImageEncoder, encode_images

TINY = ImageConfig(model="config:", mode="full", pixels=16, layers=1, width=4)


def pixels(count: int, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder.build(TINY).eval()


def folder_of(model, path: Path) -> str:
    model.save_pretrained(path)
    return str(path)


def test_a_picture_has_one_vector_whatever_stands_beside_it(encoder):
    together = encoder(pixels(5))
    assert together.shape == (5, encoder.width) == (5, 16)
    torch.testing.assert_close(encoder(pixels(5)[3:4]), together[3:4])


def test_no_pictures_still_touch_every_weight(encoder):
    found = encoder(pixels(0))
    assert found.shape == (0, 16)
    found.sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in encoder.parameters())


def test_every_weight_is_trained(encoder):
    encoder(pixels(4)).square().sum().backward()
    assert all(weight.grad.any() for weight in encoder.parameters())


def test_what_is_saved_is_loaded_to_the_bit_and_frozen(encoder, tmp_path):
    encoder.save(tmp_path / "image")
    loaded = ImageEncoder.load(tmp_path / "image", TINY)
    assert torch.equal(loaded(pixels(3)), encoder(pixels(3)))
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert not loaded.train().training
    assert loaded.content_hash() == encoder.content_hash()


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (ViTModel(ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                            image_size=16, patch_size=8)), 12),
        (ConvNextModel(ConvNextConfig(hidden_sizes=[4, 6], depths=[1, 1], num_stages=2)), 6),
        (ResNetModel(ResNetConfig(hidden_sizes=[4, 8], depths=[1, 1], embedding_size=4)), 8),
    ],
    ids=["vit", "convnext", "resnet"],
)  # fmt: skip
def test_any_image_model_of_transformers_can_be_used(model, width, tmp_path):
    config = ImageConfig(model=folder_of(model, tmp_path / "model"), pixels=16)
    encoder = ImageEncoder.build(config)
    assert encoder.width == width
    assert encoder(pixels(2)).shape == (2, width)


def test_colours_are_scaled_as_the_folder_says(encoder, tmp_path):
    encoder.save(tmp_path / "image")
    (tmp_path / "image/preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    other = ImageEncoder.load(tmp_path / "image", TINY)
    scaled = (pixels(2).float() / 255 * 2 - 1) / 2 + 0.5
    expected = encoder.model(pixel_values=scaled).pooler_output
    torch.testing.assert_close(other(pixels(2)), expected)
    assert other.content_hash() != encoder.content_hash()


def test_vectors_of_many_pictures_are_those_of_each(encoder, monkeypatch):
    monkeypatch.setattr("recsys.models.image._BLOCK", 2)
    found = encode_images(encoder.train(), pixels(5).numpy())
    assert encoder.training
    torch.testing.assert_close(torch.from_numpy(found), encoder.eval()(pixels(5)))


def test_a_model_that_reads_no_pictures_is_refused(tmp_path):
    words = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    config = ImageConfig(model=folder_of(words, tmp_path / "model"))
    with pytest.raises(InputError, match=r"no image encoder; choose one such as a ViT"):
        ImageEncoder.build(config)


def test_a_transformer_for_another_size_is_refused_with_the_right_one(tmp_path):
    shape = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    with pytest.raises(InputError, match=r"set image\.pixels: 32"):
        ImageEncoder.build(ImageConfig(model=folder_of(ViTModel(shape), tmp_path / "model"), pixels=16))


def test_weights_that_are_not_complete_are_refused(encoder, tmp_path):
    encoder.save(tmp_path / "image")
    config = (tmp_path / "image/config.json").read_text().replace('"depths": [\n    1', '"depths": [\n    2')
    (tmp_path / "image/config.json").write_text(config)
    with pytest.raises(InputError, match=r"lack \d+ tensors"):
        ImageEncoder.load(tmp_path / "image", TINY)
    with pytest.raises(InputError, match="is no image model"):
        ImageEncoder.load(tmp_path / "nothing", TINY)


def test_settings_that_teach_nothing_are_refused():
    with pytest.raises(InputError, match=r"image\.mode: full"):
        ImageConfig(model="config:")
    with pytest.raises(InputError, match="pixels from 16"):
        ImageConfig(model="config:", mode="full", pixels=8)


def test_pictures_of_another_size_than_the_encoder_was_trained_on_are_refused(encoder, tmp_path):
    encoder.save(tmp_path / "image")
    with pytest.raises(InputError, match=r"image\.pixels is 32, but .* reads 16"):
        ImageEncoder.build(ImageConfig(model=str(tmp_path / "image"), pixels=32))
