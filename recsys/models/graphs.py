"""The parts of a model that inference computes, as functions of named tensors: what an ONNX file holds.

text: tokens -> states and vectors. items: columns of items and their texts' vectors -> item vectors. pruner: lists of
candidates -> logits; of a pruner that reads words, pairs of texts -> states and vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recsys.batch import ItemBatch, NoteBatch, PrunerBatch, TextBatch, UserBatch
from recsys.models.joint import JointEncoder
from recsys.models.pruner import Pruner
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever

_SIZES = {
    "texts": (4, 1, 7, 33), "tokens": (12, 3, 512, 5), "items": (9, 1, 40, 2), "values": (3, 1, 2, 1),
    "requests": (5, 1, 3, 64), "history": (8, 0, 16, 24), "moments": (9, 1, 17, 25), "candidates": (7, 1, 50, 3),
    "user_values": (4, 1, 2, 1), "queries": (6, 1, 2, 40), "reviews": (11, 1, 30, 2), "ads": (10, 1, 2, 30),
}  # fmt: skip
"""Sizes of each axis in the examples; the first is traced. A history is followed by one moment more."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor that a graph takes."""

    shape: tuple[str | int, ...]
    """A name for each axis of any size, else the size."""
    kind: Literal["float", "number", "age", "code", "flag", "real"] = "float"
    """number: NaN where it is missing; age: not negative; code: int64; flag: bool; real: int64, 1 for the first few of
    a row."""
    below: int | tuple[str, ...] = 1
    """Of codes: the bound, or the axes whose sizes it is the sum of."""
    least: int = 0
    """Smallest code."""

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """Random values."""
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in self.shape]
        chance = torch.rand(shape, generator=generator)
        match self.kind:
            case "float":
                return torch.randn(shape, generator=generator)
            case "number":
                return torch.where(chance < 0.1, torch.nan, 4 * chance - 2)
            case "age":
                return 100 * chance
            case "code":
                bound = self.below if isinstance(self.below, int) else sum(sizes[axis] for axis in self.below)
                return torch.randint(self.least, bound, shape, generator=generator)
            case "flag":
                return chance < 0.5
            case "real":
                return (torch.arange(shape[1]) <= chance[:, :1] * shape[1]).long()


class Graph(nn.Module):
    """One part of a model. Called with its inputs in their order; returns its outputs in theirs."""

    def __init__(self, inputs: dict[str, Input], outputs: tuple[str, ...], longest: int = 512) -> None:
        """`longest` is the most tokens that a text has."""
        super().__init__()
        self.inputs, self.outputs, self.longest = inputs, outputs, longest

    def examples(self) -> list[dict[str, Tensor]]:
        """Inputs of several sizes, the same at every call; a single text, item or request is among them."""
        generator, found = torch.Generator().manual_seed(0), []
        for each in zip(*_SIZES.values(), strict=True):
            sizes = dict(zip(_SIZES, each, strict=True))
            sizes["tokens"] = min(sizes["tokens"], self.longest)
            found.append({name: one.draw(sizes, generator) for name, one in self.inputs.items()})
        return found

    def _named(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self.inputs, tensors, strict=True))


class TextGraph(Graph):
    """A text encoder, with transformers' own attention: packed texts have no fixed graph.

    Inputs are what a tokenizer gives: input_ids and attention_mask [q, T] and, for pairs, token_type_ids.
    """

    def __init__(self, encoder: TextEncoder, *, pairs: bool = False) -> None:
        """`encoder` is changed: it packs no more."""
        shape, known = ("texts", "tokens"), encoder.model.config.vocab_size
        inputs = {"input_ids": Input(shape=shape, kind="code", below=known)}
        inputs["attention_mask"] = Input(shape=shape, kind="real")
        if pairs and encoder.typed:
            inputs["token_type_ids"] = Input(shape=shape, kind="code", below=2)
        super().__init__(inputs, ("states", "vectors"), encoder.max_tokens)
        encoder.model.set_attn_implementation("sdpa")
        self.encoder = encoder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """[q, T, W] states of the tokens and [q, W] pooled vectors, not normalised."""
        given = self._named(tensors)
        mask = given["attention_mask"].bool()
        batch = TextBatch(ids=given["input_ids"], mask=mask, part=given.get("token_type_ids"))
        states = self.encoder.states(batch)
        return states, self.encoder.pool(states, mask)


class ItemGraph(Graph):
    """A retriever's item tower, from the vectors of texts and pictures on."""

    def __init__(self, model: Retriever) -> None:
        super().__init__(item_inputs(model), ("vectors",))
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """[n, D] item vectors; with a dynamic representation [n, D + h], as `encode_items` gives them."""
        given: dict[str, Any] = self._named(tensors)
        return (self.model.encode_items(ItemBatch(**given)),)


class PrunerGraph(Graph):
    """A pruner over cached states (the joint transformer), whole."""

    def __init__(self, model: Pruner) -> None:
        assert model.joint is not None
        super().__init__(list_inputs(model, model.joint), ("logits",))
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """[B, K, 1 + G] logits, -inf at padding, of what lists are ordered by and of each other target."""
        given = self._named(tensors)
        parts: dict[str, dict[str, Any]] = {"": {}, "users": {}, "items": {}, "reviews": {}, "ads": {}}
        for name, tensor in given.items():
            part, _, field = name.rpartition(".")
            parts[part][field] = tensor
        items = ItemBatch(index=torch.arange(len(given["item_vector"])), **parts["items"])
        notes = {name: _notes(parts[name]) for name in ("reviews", "ads") if parts[name]}
        users, label = UserBatch(**parts["users"]), given["retriever_score"]  # labels are for training: not read
        return (self.model.judge(PrunerBatch(users=users, items=items, label=label, **notes, **parts[""])),)


def _notes(fields: dict[str, Tensor]) -> NoteBatch:
    without = fields["vector"].new_zeros(len(fields["vector"]), 0) if "number" not in fields else fields["number"]
    return NoteBatch(**{**fields, "number": without})


def item_inputs(model: Retriever) -> dict[str, Input]:
    """Of the item tower: fields of an ItemBatch."""
    tower, sizes = model.items, model.sizes
    found = {"index": Input(shape=("items",), kind="code", below=sizes.items, least=-1)}
    if tower.reads_text and model.text is not None:
        found["text_vector"] = Input(shape=("items", model.text.width))
    if tower.image is not None and model.image is not None:
        found |= _pictures(model.image.width)
    found |= _ready(sizes.item_vectors)
    if tower.category is not None:
        found["category"] = _codes(sizes.item_category, "items", "values")
    if tower.number is not None:
        found["number"] = Input(shape=("items", sizes.item_number), kind="number")
    return found


def list_inputs(model: Pruner, joint: JointEncoder) -> dict[str, Input]:
    """Of the joint transformer: fields of a PrunerBatch, those of its parts as PART.FIELD."""
    sizes, listed = model.sizes, ("requests", "candidates")
    found = {
        "candidate": Input(shape=listed, kind="code", below=("items",), least=-1),
        "retriever_score": Input(shape=listed),
        **({"lexical_score": Input(shape=listed)} if model.lexical else {}),
        **({"neighbours": Input(shape=(*listed, sizes.neighbours))} if sizes.neighbours else {}),
        "item_vector": Input(shape=("items", model.vector_width)),
        "user_vector": Input(shape=("requests", model.vector_width)),
        **{f"users.{name}": one for name, one in _user_inputs(model, joint).items()},
    }
    if joint.words is not None and model.text is not None:
        found["items.text_vector"] = Input(shape=("items", model.text.width))
    if joint.picture is not None and model.image is not None:
        found |= {f"items.{name}": one for name, one in _pictures(model.image.width).items()}
    found |= {f"items.{name}": one for name, one in _ready(sizes.item_vectors).items()}
    if joint.category is not None:
        found["items.category"] = _codes(sizes.item_category, "items", "values")
    if joint.number is not None:
        found["items.number"] = Input(shape=("items", sizes.item_number), kind="number")
    for name, numbers in (("reviews", sizes.reviews), ("ads", sizes.ads)):
        if numbers is not None:
            found |= {f"{name}.{field}": one for field, one in _note_inputs(model, name, numbers).items()}
    return found


def _user_inputs(model: Pruner, joint: JointEncoder) -> dict[str, Input]:
    sizes, past, entries = model.sizes, ("requests", "history"), ("items",)
    found = {}
    if joint.words is not None and model.text is not None:
        entries = ("items", "queries")
        found["query"] = Input(shape=("requests",), kind="code", below=("queries",), least=-1)
        found["query_vector"] = Input(shape=("queries", model.text.width))
    found["history"] = Input(shape=past, kind="code", below=entries)
    found["history_mask"] = Input(shape=past, kind="flag")
    if joint.event is not None:
        found["event"] = Input(shape=past, kind="code", below=sizes.event + 2)
    if joint.profile is not None:
        found["profile"] = _codes(sizes.user_category, "requests", "user_values")
    if joint.profile_number is not None:
        found["profile_number"] = Input(shape=("requests", sizes.user_number), kind="number")
    if joint.context is not None:
        shape = ("requests", "moments", len(sizes.context))
        found["context"] = Input(shape=shape, kind="code", below=min(sizes.context) + 1)
    return found


def _note_inputs(model: Pruner, name: str, numbers: int) -> dict[str, Input]:
    placed = ("requests", "candidates", model.config.notes)
    found = {"row": Input(shape=placed, kind="code", below=(name,), least=-1), "age": Input(shape=placed, kind="age")}
    if model.text is not None:
        found["vector"] = Input(shape=(name, model.text.width))
    if numbers or model.text is None:
        found["number"] = Input(shape=(name, numbers), kind="number")
    return found


def _pictures(width: int) -> dict[str, Input]:
    return {"image_vector": Input(shape=("items", width)), "image_known": Input(shape=("items",), kind="flag")}


def _ready(widths: list[int]) -> dict[str, Input]:
    """Vectors that were made elsewhere, where there are some."""
    if not widths:
        return {}
    known = Input(shape=("items", len(widths)), kind="flag")
    return {"ready_vector": Input(shape=("items", sum(widths))), "ready_known": known}


def _codes(sizes: list[int], rows: str, values: str) -> Input:
    """Of categories [n, C, V]; below the smallest number of values, so that they are codes of each column."""
    return Input(shape=(rows, len(sizes), values), kind="code", below=min(sizes) + 1)
