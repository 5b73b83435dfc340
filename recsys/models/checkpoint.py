"""Model folders: config.json + safetensors + codes + tokenizer + text encoder. They load without Lightning."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.config import ImageConfig, TextConfig
from recsys.errors import InputError
from recsys.models.decision import KINDS, Calibration, DecisionConfig, Meaning, Promises
from recsys.models.dynamic import DynamicConfig
from recsys.models.history import HistoryEncoderConfig
from recsys.models.image import ImageEncoder
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.text import TextEncoder
from recsys.models.towers import Retriever, RetrieverConfig, Sizes

SCHEMA = 2
"""Version of the folder's format."""


def save_retriever(model: Retriever, folder: Path) -> None:
    """Write config.json, model.safetensors and, below text/ and image/, the encoders. The caller adds codes
    and tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "kind": "retriever", "config": asdict(model.config), "sizes": asdict(model.sizes)}
    (folder / "config.json").write_text(json.dumps(content, indent=1))
    save_weights(model, folder / "model.safetensors")
    if model.text is not None:
        model.text.save(folder / "text")
    if model.image is not None:
        model.image.save(folder / "image")


def load_retriever(folder: Path) -> Retriever:
    """Read what `save_retriever` wrote, in evaluation mode."""
    content = read_config(folder, "retriever")
    with _described(folder):
        values: dict[str, Any] = content["config"]
        text = TextConfig(**values["text"]) if values["text"] else None
        image = ImageConfig(**values["image"]) if values.get("image") else None
        history = HistoryEncoderConfig(**values["history"]) if values["history"] else None
        dynamic = DynamicConfig(**values["dynamic"]) if values.get("dynamic") else None
        parts = {"text": text, "image": image, "history": history, "dynamic": dynamic}
        config, sizes = RetrieverConfig(**{**values, **parts}), Sizes(**content["sizes"])
    words = TextEncoder.load(Path(folder) / "text", text) if text else None
    pictures = ImageEncoder.load(Path(folder) / "image", image) if image else None
    model = Retriever(config, sizes, words, pictures)
    load_weights(model, Path(folder) / "model.safetensors")
    return model.eval()


def save_pruner(model: Pruner, folder: Path) -> None:
    """Write config.json (with what its logits mean and what it decides), model.safetensors and, below text/ and
    image/, the encoders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "kind": "pruner",
        "config": asdict(model.config),
        "sizes": asdict(model.sizes),
        "vector_width": model.vector_width,
    }
    content |= {"meaning": {kind: asdict(one) for kind, one in model.meaning.items()}}
    content["decision"] = asdict(model.decision)
    content |= {"others": {name: asdict(one) for name, one in model.other_meaning.items()}}
    content |= {"lexical": True} if model.lexical else {}
    (folder / "config.json").write_text(json.dumps(content, indent=1))
    save_weights(model, folder / "model.safetensors")
    if model.text is not None:
        model.text.save(folder / "text")
    if model.image is not None:
        model.image.save(folder / "image")


def load_pruner(folder: Path) -> Pruner:
    """Read what `save_pruner` wrote, in evaluation mode."""
    content = read_config(folder, "pruner")
    with _described(folder):
        values: dict[str, Any] = content["config"]
        values = {**values, "habits": values.get("habits") or []}  # false in models of an earlier version
        text = TextConfig(**values["text"]) if values["text"] else None
        image = ImageConfig(**values["image"]) if values.get("image") else None
        config, sizes = PrunerConfig(**{**values, "text": text, "image": image}), Sizes(**content["sizes"])
        width, meaning = content["vector_width"], {kind: _meaning(content["meaning"][kind]) for kind in KINDS}
        decision = DecisionConfig(**content["decision"])
        others = {name: _calibration(one) for name, one in content.get("others", {}).items()}
    encoder = TextEncoder.load(Path(folder) / "text", text) if text else None
    pictures = ImageEncoder.load(Path(folder) / "image", image) if image else None
    lexical = content.get("lexical", False)
    model = Pruner(config, sizes, encoder, vector_width=width, lexical=lexical, image=pictures)
    load_weights(model, Path(folder) / "model.safetensors")
    model.meaning, model.decision, model.other_meaning = meaning, decision, others
    return model.eval()


def _meaning(content: dict[str, Any]) -> Meaning:
    known, promises = _calibration(content["calibration"]), content["promises"]
    if promises is None:  # not calibrated
        return Meaning(calibration=known)
    thresholds = tuple((loss, chance) for loss, chance in promises["thresholds"])
    return Meaning(calibration=known, promises=Promises(**{**promises, "thresholds": thresholds}))


def _calibration(content: dict[str, Any]) -> Calibration:
    corners = tuple((logit, chance) for logit, chance in content["corners"])
    return Calibration(scale=content["scale"], shift=content["shift"], corners=corners)


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """config.json of a model folder of this kind and schema."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        expected = "the folder RUN/model of a finished training run"
        raise InputError(f"{folder} is no model folder: it has no config.json. Expected {expected}.")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}); export the model again.") from error
    content = content if isinstance(content, dict) else {}
    if content.get("kind") != kind or content.get("schema") != SCHEMA:
        found = f"kind {content.get('kind')!r}, schema {content.get('schema')!r}"
        raise InputError(
            f"{path} holds {found}; expected kind {kind!r}, schema {SCHEMA}. Point to the run of a {kind}."
        )
    return content


@contextmanager
def _described(folder: Path) -> Generator[None]:
    """Turn a key that config.json lacks or should not have into one sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        path = Path(folder) / "config.json"
        raise InputError(
            f"{path} does not describe a model of this version ({error}); export the model again."
        ) from error


def save_weights(model: nn.Module, path: Path) -> None:
    """All weights but those of the text and image encoders, which lie in folders of their own."""
    save_file({name: weight.contiguous() for name, weight in _own_weights(model).items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load strictly: a missing weight, a surplus one or one of another shape is an error."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); export the model again.") from error
    wanted = _own_weights(model)
    odd = wanted.keys() ^ found.keys()
    odd |= {name for name in wanted.keys() & found.keys() if wanted[name].shape != found[name].shape}
    if odd:
        raise InputError(f"{path} does not fit config.json beside it: {sorted(odd)[:5]}; export the model again.")
    model.load_state_dict(found, strict=False)  # the encoders have theirs from their own folders


def _own_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.state_dict().items() if not name.startswith(("text.", "image."))}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Number of weights, and of those that are trained."""
    weights = list(model.parameters())
    return sum(weight.numel() for weight in weights), sum(weight.numel() for weight in weights if weight.requires_grad)
