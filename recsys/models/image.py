"""Pixels -> vectors: any image model of transformers, frozen or trained in full, or a small ConvNeXt from scratch.

A ConvNeXt (Liu et al. 2022, arXiv:2201.03545) normalises each place by itself: unlike with batch normalisation, what a
picture is worth does not depend on which others stand beside it, nor on how many processes share a batch.
"""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    ConvNextConfig,
    ConvNextModel,
    PreTrainedModel,
)

from recsys.config import ImageConfig, resolve_pretrained
from recsys.errors import InputError
from recsys.models.dropout import with_fast_dropout
from recsys.models.fields import widened
from recsys.models.text import check_whole, hash_weights, without_reports

_PATCH = 4  # pixels that the first layer of a model from scratch reads as one place
_BLOCK = 256  # pictures that are encoded at one time
_PROCESSOR = "preprocessor_config.json"
_PLAIN = [0.5, 0.5, 0.5]


class ImageEncoder(nn.Module):
    """An image model and the mean over its places. Vectors are not normalised.

    Frozen: no gradient and always in eval mode. Full: every weight learns.
    """

    mean: Tensor  # [3, 1, 1]
    deviation: Tensor  # [3, 1, 1]

    def __init__(self, model: PreTrainedModel, config: ImageConfig, mean: list[float], deviation: list[float]) -> None:
        """`mean` and `deviation` of the three colours, in parts of the brightest: what the model reads as 0 and 1."""
        super().__init__()
        self.model: Any = with_fast_dropout(model)
        self.frozen, self.pixels = config.mode == "frozen", config.pixels
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)
        if self.frozen:
            self.requires_grad_(False)
        self.train()
        with torch.no_grad():  # architectures name their width in many ways
            blank = torch.zeros(1, 3, config.pixels, config.pixels, dtype=torch.uint8)
            self.width: int = self.eval()(blank).shape[1]
        self.train()

    @classmethod
    def build(cls, config: ImageConfig) -> "ImageEncoder":
        """The encoder that `config` describes.

        Weights come as safetensors only, in float32, and no code of the model's folder is run. Raises InputError if
        they cannot be loaded, are not complete, or are not those of an image model for pictures of this size.
        """
        if config.from_scratch:
            return cls(_from_scratch(config), config, _PLAIN, _PLAIN)
        source = resolve_pretrained(config.model)
        try:
            with without_reports():
                model, found = _load_weights(source, config)
                encoder = cls(model, config, *_colours(source, config))
        except InputError:
            raise
        except (OSError, ValueError, RuntimeError, ImportError, LookupError, AttributeError, SafetensorError) as error:
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"Image model {config.model!r} could not be loaded ({first}). Expected config.json without custom code "
                "and safetensors weights, in a folder, as pkg:NAME, or at Hugging Face within reach."
            ) from error
        check_whole(f"image model {config.model!r}", found["missing_keys"])
        return encoder

    @classmethod
    def load(cls, folder: Path | str, config: ImageConfig) -> "ImageEncoder":
        """What `save` wrote, for inference: frozen, in eval mode."""
        if not (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder} is no image model (no config.json); expected what ImageEncoder.save wrote.")
        return cls.build(replace(config, model=str(folder), mode="frozen"))

    def save(self, folder: Path | str) -> None:
        """Write config.json, safetensors and the scaling of colours as `from_pretrained` reads them."""
        with without_reports():
            self.model.save_pretrained(folder)
        colours = {"image_mean": self.mean.flatten().tolist(), "image_std": self.deviation.flatten().tolist()}
        size = {"height": self.pixels, "width": self.pixels}
        (Path(folder) / _PROCESSOR).write_text(json.dumps({**colours, "size": size}, indent=1))

    def lower(self, dtype: torch.dtype) -> None:
        """For inference: keep and multiply the weights in a narrower format. Vectors stay float32."""
        self.model.to(dtype)

    def content_hash(self) -> str:
        """Of the weights and the scaling: what the vectors depend on, whatever folder the encoder came from."""
        return hash_weights(self, str((self.mean.tolist(), self.deviation.tolist())))

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Switch dropout; a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, P, P] uint8 -> [n, W] float32: what the architecture pools itself, or the mean over its places."""
        if len(pixels) == 0:  # one picture that is dropped again, so that absent ones still touch the parameters
            return self(pixels.new_zeros((1, *pixels.shape[1:])))[:0]
        scaled = (pixels.to(self.mean.dtype) / 255 - self.mean) / self.deviation
        found = self.model(pixel_values=scaled.to(self.model.dtype))
        if found.last_hidden_state.ndim == 4:
            return widened(found.pooler_output.flatten(1))
        return widened(found.last_hidden_state).mean(1)


@torch.no_grad()
def encode_images(encoder: ImageEncoder, pixels: np.ndarray) -> np.ndarray:
    """[n, W] float32 vectors of n pictures, [n, 3, P, P] uint8, in blocks."""
    device, training = next(encoder.parameters()).device, encoder.training
    encoder.eval()
    vectors = np.empty((len(pixels), encoder.width), dtype=np.float32)
    for start in range(0, len(pixels), _BLOCK):
        block = torch.from_numpy(np.array(pixels[start : start + _BLOCK]))
        vectors[start : start + _BLOCK] = encoder(block.to(device)).cpu().numpy()
    encoder.train(training)
    return vectors


def _from_scratch(config: ImageConfig) -> PreTrainedModel:
    widths = [config.width, 2 * config.width, 4 * config.width]
    shape = ConvNextConfig(
        num_channels=3, patch_size=_PATCH, num_stages=3, hidden_sizes=widths, depths=[config.layers] * 3,
        image_size=config.pixels, layer_scale_init_value=0.1,
    )  # fmt: skip
    return ConvNextModel(shape)


def _load_weights(source: str, config: ImageConfig) -> tuple[PreTrainedModel, dict[str, set[str]]]:
    shape = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if type(shape) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"Model {config.model!r} ({shape.model_type}) is no image encoder; choose one such as a ViT or a ConvNeXt."
        )
    expected = getattr(shape, "image_size", None)
    if expected not in (None, config.pixels) and hasattr(shape, "num_attention_heads"):
        raise InputError(
            f"image.pixels is {config.pixels}, but {config.model!r} reads pictures of {expected}; "
            f"set image.pixels: {expected}."
        )
    poolable = "add_pooling_layer" in inspect.signature(MODEL_MAPPING[type(shape)].__init__).parameters
    return AutoModel.from_pretrained(
        source, config=shape, trust_remote_code=False, use_safetensors=True, dtype=torch.float32,
        output_loading_info=True, **({"add_pooling_layer": False} if poolable else {}),
    )  # fmt: skip


def _colours(source: str, config: ImageConfig) -> tuple[list[float], list[float]]:
    """Mean and deviation that the model was trained with; a half each where its folder does not say. Raises InputError
    where it was trained on pictures of another size.
    """
    path = Path(source) / _PROCESSOR
    if not path.is_file():
        from transformers.utils import cached_file  # a name at the hub

        found = None if Path(source).is_dir() else cached_file(
            source, _PROCESSOR, _raise_exceptions_for_missing_entries=False
        )  # fmt: skip
        if found is None:
            return _PLAIN, _PLAIN
        path = Path(found)
    content = json.loads(path.read_text())
    height = content["size"].get("height", config.pixels) if isinstance(content.get("size"), dict) else config.pixels
    if height != config.pixels:
        raise InputError(f"image.pixels is {config.pixels}, but {config.model!r} reads {height}; set it to that.")
    return content.get("image_mean", _PLAIN), content.get("image_std", _PLAIN)
