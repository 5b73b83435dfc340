"""What computes the models of a run: torch, in one of several precisions, or onnxruntime from exported files."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar

import torch

from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner, load_retriever
from recsys.models.onnx import Session
from recsys.models.pruner import Pruner
from recsys.models.standins import serve_items, serve_lists, serve_text
from recsys.models.towers import Retriever
from recsys.shards import fingerprint, folder_hash

ONNX = "onnx"
"""Folder of the exported files, below that of a run."""

TEXT, ITEMS, PRUNER, PRUNER_TEXT = "text", "items", "pruner", "pruner_text"
"""Graphs. The last: of a pruner that reads the vectors of texts by an encoder of its own."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How model folders are opened."""

    load_retriever: Callable[[Path], Retriever] = load_retriever
    load_pruner: Callable[[Path], Pruner] = load_pruner
    device: str = "cpu"
    """That models of torch compute on."""
    key: str = ""
    """What else than the model folders the models are made from: a precision, or the hash of files; "" for nothing."""


TORCH = Runtime()

Model = TypeVar("Model", Retriever, Pruner)

Precision = Literal["float32", "bfloat16", "float16"]
"""That encoders of texts and pictures compute in."""


def open_torch(device: str, precision: Precision) -> Runtime:
    """Models of torch whose encoders of texts and pictures have their weights in `precision`; all else, and what the
    encoders give, stays float32.
    """
    if precision == "float32":
        return Runtime(device=device)

    def lowered(load: Callable[[Path], Model], folder: Path) -> Model:
        model = load(folder)
        for encoder in (model.text, model.image):
            if encoder is not None:
                encoder.lower(getattr(torch, precision))
        return model

    return Runtime(
        load_retriever=partial(lowered, load_retriever), load_pruner=partial(lowered, load_pruner), device=device,
        key=precision,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """What is known of an exported graph, NAME.onnx, and of NAME.int8.onnx beside it."""

    inputs: dict[str, list[str | int]]
    """Names, with the size of each axis, or a name where it takes any."""
    outputs: list[str]
    difference: float
    """The largest one from torch, over inputs of several sizes."""
    int8: float | None = None
    """The same of the int8 file; None: there is none."""


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """onnx.json: what a folder of graphs holds."""

    opset: int
    weights: dict[str, str]
    """Hash of each model folder that it was made from: retriever, pruner."""
    graphs: dict[str, GraphRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises InputError if there is none."""
        path = folder / "onnx.json"
        try:
            content = json.loads(path.read_text())
            graphs = {name: GraphRecord(**one) for name, one in content["graphs"].items()}
            return cls(opset=content["opset"], weights=content["weights"], graphs=graphs)
        except (OSError, ValueError, TypeError, KeyError) as error:
            remedy = "write it with infer.py export CONFIG --export.format=onnx"
            raise InputError(f"{path} is not there or cannot be read; {remedy}.") from error

    def write(self, folder: Path) -> None:
        """Into a folder that is being made."""
        (folder / "onnx.json").write_text(json.dumps(asdict(self), indent=1))


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """Exported graphs of a run, in float32 or int8."""

    folder: Path
    record: ExportRecord
    int8: bool

    def session(self, name: str) -> Session:
        """Open one."""
        return Session(self.folder / (f"{name}.int8.onnx" if self.int8 else f"{name}.onnx"))

    def load_retriever(self, folder: Path) -> Retriever:
        """A retriever whose texts and items are computed by the graphs."""
        self._check("retriever", folder)
        model = load_retriever(folder)
        if model.text is not None:
            serve_text(model.text, self.session(TEXT))
        serve_items(model, self.session(ITEMS))
        return model

    def load_pruner(self, folder: Path) -> Pruner:
        """A pruner whose lists, or texts, are computed by the graphs."""
        self._check("pruner", folder)
        model = load_pruner(folder)
        if model.joint is not None:
            serve_lists(model, self.session(PRUNER))
        if model.text is not None:
            own = PRUNER_TEXT if PRUNER_TEXT in self.record.graphs else TEXT
            serve_text(model.text, self.session(PRUNER if model.joint is None else own))
        return model

    def _check(self, what: str, folder: Path) -> None:
        """Refuse graphs of other weights than those of a model folder."""
        found = self.record.weights.get(what)
        if found != folder_hash(folder):
            made = "of no" if found is None else "of another"
            raise InputError(
                f"{self.folder} holds graphs {made} {what} than {folder}. Write them anew: infer.py export CONFIG "
                "--export.format=onnx --overwrite=true"
            )


def open_onnx(folder: Path, *, int8: bool) -> Runtime:
    """The graphs that `export_onnx` wrote to a folder. Raises InputError if they are not there."""
    record = ExportRecord.read(folder)
    if int8 and any(one.int8 is None for one in record.graphs.values()):
        raise InputError(f"{folder} holds no int8 graphs; write them with --export.int8=true --overwrite=true.")
    graphs = Graphs(folder=folder, record=record, int8=int8)
    return Runtime(
        load_retriever=graphs.load_retriever, load_pruner=graphs.load_pruner, key=fingerprint(folder_hash(folder), int8)
    )
