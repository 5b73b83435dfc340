"""Model folders: config.json + safetensors + codes + tokenizer + text encoder. They load without Lightning."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from recsys.config import TextConfig
from recsys.errors import InputError
from recsys.models.history import HistoryEncoderConfig
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

SCHEMA = 1
"""Version of the folder's format."""


def save_retriever(model: Retriever, folder: Path) -> None:
    """Write config.json, model.safetensors and, below text/, the text encoder. The caller adds codes and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "kind": "retriever", "config": asdict(model.config), "sizes": asdict(model.sizes)}
    (folder / "config.json").write_text(json.dumps(content, indent=1))
    save_weights(model, folder / "model.safetensors")
    if model.text is not None:
        model.text.save(folder / "text")


def load_retriever(folder: Path) -> Retriever:
    """Read what `save_retriever` wrote, in evaluation mode."""
    content = read_config(folder, "retriever")
    values: dict[str, Any] = content["config"]
    text = TextConfig(**values.pop("text")) if values.get("text") else values.pop("text")
    history = HistoryEncoderConfig(**values.pop("history")) if values.get("history") else values.pop("history")
    config = RetrieverConfig(**values, text=text, history=history)
    encoder = TextEncoder.load(folder / "text", text) if text else None
    model = Retriever(config, Sizes(**content["sizes"]), encoder)
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """config.json of a model folder of this kind and schema."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json. Expected the folder RUN/model of a finished training run.")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}); export the model again.") from error
    if content.get("kind") != kind or content.get("schema") != SCHEMA:
        found = f"kind {content.get('kind')!r}, schema {content.get('schema')!r}"
        raise InputError(f"{path} holds {found}; expected kind {kind!r}, schema {SCHEMA}. Point to the run of a {kind}.")
    return content


def save_weights(model: nn.Module, path: Path) -> None:
    """All weights but the text encoder's, which lie in its own folder."""
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items() if not name.startswith("text.")}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load strictly: a missing or a surplus weight is an error."""
    try:
        found = load_file(path)
    except Exception as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); export the model again.") from error
    wanted = {name for name in model.state_dict() if not name.startswith("text.")}
    if wanted != set(found):
        odd = sorted(wanted ^ set(found))[:5]
        raise InputError(f"{path} does not fit config.json beside it; weights that only one of them has: {odd}.")
    model.load_state_dict({**{name: weight for name, weight in model.state_dict().items() if name.startswith("text.")}, **found}, strict=True)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Number of weights, and of those that are trained."""
    weights = list(model.parameters())
    return sum(weight.numel() for weight in weights), sum(weight.numel() for weight in weights if weight.requires_grad)


