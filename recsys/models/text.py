"""Tokens -> vectors: a BERT-like encoder, frozen, with adapters, or trained in full."""

import copy
import hashlib
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedModel
from transformers.utils import logging

from recsys.batch import TextBatch
from recsys.config import TextConfig, resolve_pretrained
from recsys.errors import InputError
from recsys.models.dropout import with_fast_dropout
from recsys.models.fields import widened
from recsys.models.packing import ATTENTION, PACKABLE, first_states, layers_of, packed_states

_GROUPS, _GROUP_ROWS = 4, 8
"""Groups of like length that a batch is read in, at most, and rows that a group has, at least."""
_WASTE = 1.15
"""Padded tokens for each real one from which on packing is faster than one padded call."""
_CPU_TOKENS, _GPU_TOKENS = 2048, 32768
"""Tokens that are encoded at one time: on a CPU 2,048 are as fast as more, in less memory (benchmarks/step.py)."""
_WIDE = 128
"""Width from which on packing is faster than groups: below it, a token's products are too small to pay for the cut."""


class TextEncoder(nn.Module):
    """A text model and its pooling. Vectors are not normalised.

    Frozen: no gradient and always in eval mode. LoRA: adapters on every linear layer learn, the rest is fixed. Full:
    every weight learns. The model's own pooling layer is left out: it would have no gradient.
    """

    def __init__(self, model: nn.Module, width: int, config: TextConfig) -> None:
        super().__init__()
        self.model: Any = with_fast_dropout(model)  # transformers' own, or peft's around it
        self.width = width
        self.config, self.max_tokens, self.pooling = config, config.max_tokens, config.pooling
        self.frozen = config.mode == "frozen"
        self.compiled = False
        self.max_groups = _GROUPS
        """Calls of the model that one batch may take; 1 where all processes must call it equally often."""
        if self.frozen:
            self.requires_grad_(False)
        self.train()

    @classmethod
    def build(cls, config: TextConfig, vocab_size: int, pad_id: int = 0) -> "TextEncoder":
        """The encoder that `config` describes, for token ids below `vocab_size`.

        Weights come as safetensors only, in float32, and no code of the model's folder is run. Raises InputError if
        they cannot be loaded, are not complete, or do not fit the tokenizer or `max_tokens`.
        """
        model = _from_scratch(config, vocab_size, pad_id) if config.from_scratch else _from_weights(config)
        _check_fit(model, config, vocab_size)
        if config.checkpointing and config.mode != "frozen":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        width = model.config.hidden_size
        return cls(_with_adapters(model, config) if config.mode == "lora" else model, width, config)

    @classmethod
    def load(cls, folder: Path | str, config: TextConfig) -> "TextEncoder":
        """What `save` wrote, for inference: frozen, in eval mode, pooled as `config` says.

        To train it further, build from a config whose `model` is the folder.
        """
        if not (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder} is no text model (no config.json); expected what TextEncoder.save wrote.")
        return cls.build(replace(config, model=str(folder), mode="frozen"), vocab_size=0)

    def lower(self, dtype: torch.dtype) -> None:
        """For inference: keep and multiply the weights of the text model in a narrower format. Vectors stay float32."""
        self.model.to(dtype)

    def compile_model(self) -> None:
        """Compile the text model for texts of any number and length; the names of its weights stay. Texts are no longer
        packed: the lengths of a pack would be compiled in.
        """
        self.compiled = True
        self.model.compile(dynamic=True)

    @torch.no_grad()
    def blend(self) -> None:
        """Once, after training: mix the weights that it started from back in, by their share `config.pretrained`.

        w = (1 - share) w_trained + share w_start (Wortsman et al. 2022, arXiv:2109.01903, eq. 1); for adapters, what
        they add to a layer is scaled.
        """
        share = self.config.pretrained
        if not share:
            return
        if self.config.mode == "lora":
            for name, weight in self.model.named_parameters():
                if "lora_B" in name:
                    weight.mul_(1 - share)
            return
        start = _from_weights(self.config).state_dict()
        for name, weight in self.model.state_dict().items():
            if weight.is_floating_point():
                weight.lerp_(start[name].to(weight.device), share)

    def save(self, folder: Path | str) -> None:
        """Write config.json and safetensors as `from_pretrained` reads them, adapters merged into the weights."""
        model = self.model
        if hasattr(model, "merge_and_unload"):
            model = copy.deepcopy(model).merge_and_unload()  # the copy, so that training can go on
        with without_reports():
            model.save_pretrained(folder)

    def content_hash(self) -> str:
        """Of the weights and the pooling: what the vectors depend on, whatever folder the encoder came from."""
        return hash_weights(self, self.pooling)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Switch dropout; a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)

    def states(self, batch: TextBatch) -> Tensor:
        """[q, T, W], one state per token; those of padding mean nothing."""
        if len(batch.ids) == 0:  # one row that is dropped again, so that absent texts still touch the parameters
            row = torch.zeros((1, 1), dtype=torch.int64, device=batch.ids.device)
            return self.model(input_ids=row, attention_mask=row + 1).last_hidden_state[:0]
        types = {"token_type_ids": batch.part} if batch.part is not None and self.typed else {}
        return self.model(input_ids=batch.ids, attention_mask=batch.mask.long(), **types).last_hidden_state

    def forward(self, batch: TextBatch) -> Tensor:
        """[q, W] float32: the mean over the real tokens, or the first token's state.

        Little is computed for padding: on a CPU texts of unlike length are packed, elsewhere (where many short calls
        are slow, or the model is narrow) those of like length are read together. The values are those of one padded
        batch up to rounding.
        """
        if self._packs(batch):
            lengths = batch.mask.sum(1)
            wasteful = len(lengths) * int(lengths.max()) > _WASTE * int(lengths.sum())
            return self._packed(batch) if wasteful else self._pooled(batch.take(torch.arange(len(lengths))))
        groups = min(self.max_groups, len(batch.ids) // _GROUP_ROWS)
        if groups < 2:
            return self._pooled(batch)
        lengths = batch.mask.sum(1)
        order = lengths.argsort(stable=True)
        parts = [self._pooled(batch.take(rows)) for rows in order.tensor_split(groups)]
        return torch.cat(parts)[order.argsort()]

    def token_states(self, batch: TextBatch) -> Tensor:
        """[tokens, W] float32: the states of the real tokens, text after text."""
        if self._packs(batch):
            return widened(packed_states(self.model, batch, typed=self.typed))
        return widened(self.states(batch)[batch.mask])

    def _packs(self, batch: TextBatch) -> bool:
        """Whether packing these texts is right, and faster."""
        on_cpu = batch.ids.device.type == "cpu"
        return self._keeps_apart and self.width >= _WIDE and not self.compiled and on_cpu and len(batch.ids) > 1

    @property
    def _keeps_apart(self) -> bool:
        """Whether the model's attention does; any other would read across texts."""
        return self.model.config._attn_implementation == ATTENTION

    @property
    def reads_first(self) -> bool:
        """Whether the last layer is computed for the first tokens alone: where their states are what is asked for, and
        layers may be called one by one: not those that are compiled, or shared out among processes.
        """
        return self.pooling == "cls" and self._keeps_apart and not self.compiled and self.max_groups > 1

    @property
    def last_layer(self) -> nn.Module:
        """Of a BERT."""
        return layers_of(self.model)[-1]

    def _first(self, batch: TextBatch, *, packed: bool) -> Tensor:
        return widened(first_states(self.model, batch, typed=self.typed, packed=packed))

    @property
    def typed(self) -> bool:
        """Whether the model takes token types."""
        return getattr(self.model.config, "type_vocab_size", 0) > 1

    def _packed(self, batch: TextBatch) -> Tensor:
        if self.reads_first:
            return self._first(batch, packed=True)
        states = widened(packed_states(self.model, batch, typed=self.typed))
        lengths = batch.mask.sum(1)
        if self.pooling == "cls":
            return states[lengths.cumsum(0) - lengths]
        text = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths)
        total = states.new_zeros(len(lengths), states.shape[1]).index_add(0, text, states)
        return total / lengths.clamp(min=1)[:, None]

    def _pooled(self, batch: TextBatch) -> Tensor:
        if self.reads_first and len(batch.ids):
            return self._first(batch, packed=False)
        return self.pool(self.states(batch), batch.mask)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """[q, T, W] states and [q, T] which tokens are real -> [q, W] float32."""
        states = widened(states)
        if self.pooling == "cls":
            return states[:, 0]
        real = mask[:, : states.shape[1], None].to(states.dtype)
        return (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def hash_weights(model: nn.Module, about: str) -> str:
    """Hash of all weights of a model, and of what else its vectors depend on."""
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode_all(
    encoder: TextEncoder,
    cache_batch: Callable[[np.ndarray], TextBatch],
    lengths: np.ndarray,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """[n, W] float32 vectors of n texts, in their order.

    Texts of like length share a batch of at most `batch_tokens`, padding included (one text at least): little is
    computed for padding, and the largest batch comes first, so that too little memory shows at once. None: as many as
    `tokens_at_once`.
    """
    device, training = next(encoder.parameters()).device, encoder.training
    vectors = np.empty((len(lengths), encoder.width), dtype=np.float32)
    encoder.eval()
    for rows in batches_of_like_length(lengths, batch_tokens or tokens_at_once(device)):
        vectors[rows] = encoder(cache_batch(rows).to(device)).cpu().numpy()
    encoder.train(training)
    return vectors


def tokens_at_once(device: torch.device) -> int:
    """How many tokens are best read in one call: what a CPU's caches hold the states of, or what keeps a GPU busy."""
    return _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS


def batches_of_like_length(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Rows of texts, longest first, in batches of at most `tokens`, padding included; one text at least."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, tokens // max(1, int(lengths[order[start]])))]
        yield rows
        start += len(rows)


def _from_scratch(config: TextConfig, vocab_size: int, pad_id: int) -> PreTrainedModel:
    if config.width % config.heads:
        raise InputError(f"text.width {config.width} is no multiple of text.heads {config.heads}; change one of them.")
    shape = BertConfig(
        vocab_size=vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=max(512, config.max_tokens),
        pad_token_id=pad_id,
    )
    shape._attn_implementation = ATTENTION
    return BertModel(shape, add_pooling_layer=False)


def _from_weights(config: TextConfig) -> PreTrainedModel:
    try:
        with without_reports():
            model, found = _load_weights(resolve_pretrained(config.model))
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise InputError(
            f"Text model {config.model!r} could not be loaded ({_first_line(error)}). Expected config.json without "
            "custom code and safetensors weights, in a folder, as pkg:NAME, or at Hugging Face within reach."
        ) from error
    check_whole(f"text model {config.model!r}", found["missing_keys"])
    if config.keep_layers is not None:
        _keep_layers(model, config.keep_layers, config.model)
    return model


def _keep_layers(model: PreTrainedModel, count: int, name: str) -> None:
    """Leave `count` of the layers of a model, evenly chosen, the first and the last among them."""
    total = model.config.num_hidden_layers
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == total]
    if count > total or len(stacks) != 1 or getattr(model.config, "layer_types", None):
        found = f"it has {total}" if count > total else "its layers are not all of one kind"
        raise InputError(f"text.keep_layers is {count}, and of text model {name!r} {found}; set it lower, or to null.")
    kept = set(np.linspace(0, total - 1, count).round().astype(int).tolist())
    for number in reversed(range(total)):
        if number not in kept:
            del stacks[0][number]
    model.config.num_hidden_layers = count


def check_whole(model: str, missing: set[str]) -> None:
    """Raise InputError where the weights of a model lack tensors."""
    if missing:
        names = sorted(missing)
        raise InputError(
            f"The weights of {model} lack {len(names)} tensors that its config.json asks for "
            f"({', '.join(names[:3])} ...); expected a folder written by save_pretrained."
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _load_weights(source: str) -> tuple[PreTrainedModel, dict[str, set[str]]]:
    shape = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kind = MODEL_MAPPING[type(shape)]
    poolable = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return AutoModel.from_pretrained(
        source,
        config=shape,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation=ATTENTION if shape.model_type in PACKABLE else "sdpa",
        output_loading_info=True,
        **({"add_pooling_layer": False} if poolable else {}),
    )


def _with_adapters(model: PreTrainedModel, config: TextConfig) -> nn.Module:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on every linear layer."""
    from peft import LoraConfig, get_peft_model  # seconds to import, and most runs do not need it

    rank = config.lora_rank
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def _check_fit(model: PreTrainedModel, config: TextConfig, vocab_size: int) -> None:
    known = getattr(model.config, "vocab_size", None)
    if known is None or model.config.is_encoder_decoder:
        kind = model.config.model_type
        raise InputError(f"Model {config.model!r} ({kind}) is no text encoder; choose one such as a BERT.")
    if vocab_size > known:
        raise InputError(
            f"The tokenizer has {vocab_size} tokens, but text model {config.model!r} knows {known}; "
            "use the tokenizer that belongs to the model."
        )
    longest = getattr(model.config, "max_position_embeddings", None) or config.max_tokens
    if 0 < longest < config.max_tokens:
        raise InputError(
            f"text.max_tokens is {config.max_tokens}, but text model {config.model!r} has {longest} positions; "
            f"set text.max_tokens: {longest} or lower."
        )


@contextmanager
def without_reports() -> Generator[None]:
    """No progress bar and no report on the pooling layer that is left out on purpose."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
