"""Trained models for other programs: the text tower for sentence-transformers, or what ONNX can hold of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from recsys.errors import InputError
from recsys.models.checkpoint import load_pruner, load_retriever
from recsys.models.export import export_sentence_transformers
from recsys.models.graphs import Graph, ItemGraph, PrunerGraph, TextGraph
from recsys.models.onnx import OPSET, Session, difference, quantize, write_graph
from recsys.retrieval.embed import TextReader
from recsys.retrieval.runtime import ITEMS, PRUNER, PRUNER_TEXT, TEXT, ExportRecord, GraphRecord
from recsys.shards import folder_hash, publish_folder

PARITY = 1e-4
"""Largest difference from torch that an exported graph may have."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What stage export writes."""

    format: Literal["sentence_transformers", "onnx"] = "sentence_transformers"
    """sentence_transformers: the text tower, which the library loads; onnx: text tower, item tower and pruner, for
    onnxruntime."""
    int8: bool = False
    """Graphs with weights in int8 beside those in float32: a fourth of the size, and faster where the CPU multiplies
    bytes (AVX512-VNNI, AMX) (format onnx)."""

    def __post_init__(self) -> None:
        if self.int8 and self.format != "onnx":
            raise InputError("export.int8 is for ONNX files; set export.format: onnx too.")


def export_text_tower(model_folder: Path, folder: Path, *, overwrite: bool) -> Path:
    """Write the text path of a retriever (items' texts and queries share it) as a sentence-transformers folder.

    Its vectors are the retriever's item vectors, where the tower is text only. One with more sources is refused: its
    text path alone is not what the retriever searches with.
    """
    model = load_retriever(model_folder)
    if model.dynamic is not None:
        raise InputError(
            f"{model_folder} has items that depend on who is looking (model.dynamic), and sentence-transformers cannot "
            "hold them. Train without model.dynamic."
        )
    if not model.text_only or model.text is None or model.config.text is None:
        raise InputError(
            f"{model_folder} is not text only: it has an id vector, categories or numbers, which sentence-transformers "
            "cannot hold. Train with model.id_vector: false and text columns alone."
        )
    _check_free(folder, overwrite)
    words = TextReader.open(model_folder, model, "")
    assert words is not None
    dense = model.items.text if isinstance(model.items.text, nn.Linear) else None
    with publish_folder(folder) as made:
        export_sentence_transformers(
            model.text, words.tokenizer, made, pooling=model.config.text.pooling, max_tokens=model.text.max_tokens,
            dense=dense, normalize=model.config.normalize,
        )  # fmt: skip
    return folder


def export_onnx(
    retriever: Path, pruner: Path | None, folder: Path, *, int8: bool, overwrite: bool
) -> dict[str, GraphRecord]:
    """Write text.onnx, items.onnx, pruner.onnx (what the models have of it) and onnx.json, for `open_onnx`.

    Args:
        retriever, pruner: model folders.
        folder: of the files.
        int8: write NAME.int8.onnx beside each.
        overwrite: replace a folder that is there.

    Raises:
        InputError: a graph differs from torch by more than `PARITY`; nothing is written then.
    """
    _check_free(folder, overwrite)
    weights = {"retriever": folder_hash(retriever)} | ({} if pruner is None else {"pruner": folder_hash(pruner)})
    with publish_folder(folder) as made:
        graphs = {name: _write(graph, made, name, int8=int8) for name, graph in _graphs(retriever, pruner).items()}
        ExportRecord(opset=OPSET, weights=weights, graphs=graphs).write(made)
    return graphs


def _graphs(retriever: Path, pruner: Path | None) -> dict[str, Graph]:
    """All parts of two models, by name. Two text encoders with the same weights are one."""
    first, second = load_retriever(retriever), None if pruner is None else load_pruner(pruner)
    known = None if first.text is None else first.text.content_hash()
    found: dict[str, Graph] = {ITEMS: ItemGraph(first)}
    if first.text is not None:
        found[TEXT] = TextGraph(first.text)
    if second is None:
        return found
    if second.joint is not None:
        found[PRUNER] = PrunerGraph(second)
        if second.text is not None and second.text.content_hash() != known:
            found[PRUNER_TEXT] = TextGraph(second.text)
    elif second.config.split:
        raise InputError(
            f"{pruner} reads its two texts by layers of their own (model.split), which no ONNX file holds. Export the "
            "retriever alone (pruner: null), and serve both with runtime: torch."
        )
    elif second.text is not None:
        found[PRUNER] = TextGraph(second.text, pairs=not second.config.late)
    return found


def _write(graph: Graph, folder: Path, name: str, *, int8: bool) -> GraphRecord:
    """One graph, held against torch."""
    path, small = folder / f"{name}.onnx", folder / f"{name}.int8.onnx"
    write_graph(graph, path)
    session = Session(path)
    found = difference(graph, session)
    if not found <= PARITY:
        raise InputError(
            f"{name}.onnx differs from torch by {found:.1e}, more than {PARITY:.0e}, and nothing was written. Use the "
            "versions in constraints.txt, or runtime: torch."
        )
    if int8:
        quantize(path, small)
    return GraphRecord(
        inputs=session.inputs, outputs=list(graph.outputs), difference=found,
        int8=difference(graph, Session(small)) if int8 else None,
    )  # fmt: skip


def _check_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists. Replace it with --overwrite=true, or name another with --output=DIR.")


def print_export(graphs: dict[str, GraphRecord], folder: Path) -> str:
    """As lines."""
    lines = []
    for name, one in graphs.items():
        size = (folder / f"{name}.onnx").stat().st_size / 1e6
        lines.append(f"{name}.onnx: {size:.1f} MB, differs from torch by {one.difference:.1e} at most")
        if one.int8 is not None:
            size = (folder / f"{name}.int8.onnx").stat().st_size / 1e6
            lines.append(f"{name}.int8.onnx: {size:.1f} MB, by {one.int8:.1e}")
    return "\n".join(lines)
