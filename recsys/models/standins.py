"""What stands in a model's place of a part that onnxruntime computes, and is called like that part."""

import hashlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from recsys.batch import ItemBatch, PrunerBatch
from recsys.errors import InputError
from recsys.models.onnx import Session
from recsys.models.pruner import Pruner
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever

_NO_NOTES = {"row": -1, "age": 0.0, "vector": 0.0, "number": 0.0}
_NOTHING: dict[str, float] = {
    "users.query": -1, "users.query_vector": 0.0, "lexical_score": 0.0, "neighbours": 0.0,
    **{f"{notes}.{field}": value for notes in ("reviews", "ads") for field, value in _NO_NOTES.items()},
}  # fmt: skip
"""By input, what says that a batch has none: the model gives the same without it."""


class OnnxText(nn.Module):
    """In place of a TextEncoder's model. The hash of the file is its only weight, so that vectors that are cached by an
    encoder's weights are told apart.
    """

    def __init__(self, session: Session, config: Any) -> None:
        """`config` is transformers' own, of the model."""
        super().__init__()
        self.session, self.config = session, config
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(session.path.parent.glob(f"{session.path.name}*")):  # weights may lie beside it
            digest.update(path.read_bytes())
        self.digest = nn.Parameter(torch.tensor(list(digest.digest()), dtype=torch.uint8), requires_grad=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """`last_hidden_state` [q, T, W], which is all that is asked of it."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": types}
        (states,) = self.session.run(given, ["states"])
        return SimpleNamespace(last_hidden_state=torch.from_numpy(states))


class OnnxItems:
    """In place of `Retriever.encode_items`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, batch: ItemBatch) -> Tensor:
        """[n, D] item vectors."""
        return torch.from_numpy(self.session.run(named_tensors(batch, self.session.inputs, {}))[0])


class OnnxJudge:
    """In place of `Pruner.judge`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, batch: PrunerBatch, states: object = None) -> Tensor:
        """[B, K, 1 + G] logits. No texts are read here, whose `states` could be kept."""
        worded = batch.users.query_text_known
        if worded is not None and not worded.all():
            raise InputError(
                "The ONNX file of a pruner reads the words of queries, and some have none; set runtime: torch."
            )
        rows, columns = batch.candidate.shape
        sizes = {"requests": rows, "candidates": columns}
        return torch.from_numpy(self.session.run(named_tensors(batch, self.session.inputs, sizes))[0])


def serve_text(encoder: TextEncoder, session: Session) -> None:
    """Let onnxruntime compute a text encoder's states."""
    encoder.model.set_attn_implementation("sdpa")  # the config says from now on that nothing is packed
    encoder.model = OnnxText(session, encoder.model.config)


def serve_items(model: Retriever, session: Session) -> None:
    """Let onnxruntime compute the item vectors, from those of the texts on."""
    served: Any = model
    served.encode_items = OnnxItems(session)


def serve_lists(model: Pruner, session: Session) -> None:
    """Let onnxruntime judge lists."""
    served: Any = model
    served.judge = OnnxJudge(session)


def named_tensors(batch: object, inputs: dict[str, list[str | int]], sizes: dict[str, int]) -> dict[str, Tensor]:
    """What a graph takes of a batch, by name.

    Args:
        batch: an ItemBatch or a PrunerBatch.
        inputs: the names, PART.FIELD, with the size of each axis or its name.
        sizes: of named axes; others are of size 1 in what the batch has nothing of.

    Raises:
        InputError: a source is missing that the graph cannot do without.
    """
    found = {}
    for name, shape in inputs.items():
        size = [axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in shape]
        found[name] = _tensor(batch, name, size)
    return found


def _tensor(batch: object, name: str, shape: list[int]) -> Tensor:
    value: Any = batch
    for part in name.split("."):
        value = None if value is None else getattr(value, part)
    if value is not None and len(value):
        return value
    if name not in _NOTHING:
        raise InputError(
            f"The ONNX file needs {name}, which this data set does not have; use the data section that the models were "
            "trained with, or runtime: torch."
        )
    return torch.full(shape, _NOTHING[name])
