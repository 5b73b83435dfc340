"""Parts of models as ONNX files, and what runs them; the one file that imports onnx and onnxruntime."""

import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.errors import InputError
from recsys.models.graphs import Graph

_NARROW = 16
"""Matrices with a smaller side stay in float32: nothing is gained by them, and what is a score must not be rounded."""
OPSET = 20
"""Version of the operators that the files use."""
_LARGE = 1 << 30
"""Bytes of weights from which on they lie in a file of their own: an ONNX file holds 2 GB at most."""


@contextmanager
def _extra(task: str) -> Generator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(
            f'{task} needs the packages onnx, onnxscript and onnxruntime: pip install "recsys[export]"'
        ) from error


def write_graph(graph: Graph, path: Path) -> None:
    """Write a graph, in evaluation mode, whose named axes take any size."""
    with _extra("Exporting to ONNX"):
        import onnxscript  # noqa: F401  # what torch.onnx writes with

    example = graph.eval().requires_grad_(False).examples()[0]
    axes = [{at: axis for at, axis in enumerate(one.shape) if isinstance(axis, str)} for one in graph.inputs.values()]
    free = [dict.fromkeys(one, torch.export.Dim.DYNAMIC) for one in axes]
    size = sum(weight.numel() * weight.element_size() for weight in graph.parameters())
    with _quiet(), torch.no_grad():
        # strict: the code is read, not only run, so that a length is no constant
        program = torch.export.export(graph, tuple(example.values()), dynamic_shapes=[tuple(free)], strict=True)
        torch.onnx.export(
            program, (), path, input_names=list(example), output_names=list(graph.outputs),
            dynamic_shapes=[tuple(axes)], opset_version=OPSET, external_data=size > _LARGE, verbose=False,
        )  # fmt: skip


def quantize(path: Path, to: Path) -> None:
    """Weights as int8, one scale for each column; what a product is given is scaled as a whole, each time (dynamic).

    Weights take 7 of the 8 bits: a CPU without VNNI adds two products in 16 bits, where those of 8 bits saturate.
    """
    with _extra("Exporting to int8"):
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    model = onnx.load(path)
    weights = {one.name: tuple(one.dims) for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    narrow = [node.name for node in products if min(weights.get(node.input[1], ()), default=0) < _NARROW]
    renamed = [f"{name}_MatMul" for name in narrow]  # of a Gemm, which the quantiser takes apart before it looks
    _part_weights(model)
    del model.graph.value_info[:]  # shapes in between: the quantiser infers them anew
    with _quiet():
        quantize_dynamic(
            model, to, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
            nodes_to_exclude=narrow + renamed,
        )  # fmt: skip


def _part_weights(model: Any) -> None:
    """Give each Gemm weights of its own: the quantiser turns them round in place, once for every Gemm that has them."""
    weights, taken = {one.name: one for one in model.graph.initializer}, set()
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.input[1] in weights:
            if node.input[1] in taken:
                own = model.graph.initializer.add()
                own.CopyFrom(weights[node.input[1]])
                own.name = node.input[1] = f"{own.name}/{node.name}"
            taken.add(node.input[1])


def difference(graph: Graph, session: "Session") -> float:
    """The largest difference between what a graph and its file give for inputs of several sizes; infinite where one is
    infinite or no number and the other is not.
    """
    largest = 0.0
    for example in graph.examples():
        with torch.no_grad():
            wanted = [one.numpy() for one in graph(*example.values())]
        for one, other in zip(wanted, session.run(example), strict=True):
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            gaps = np.abs(np.subtract(one, other, where=~same, out=np.zeros_like(one)))
            largest = max(largest, float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max(initial=0.0)))
    return largest


class Session:
    """An ONNX file in onnxruntime, on as many threads of the CPU as torch has."""

    def __init__(self, path: Path) -> None:
        with _extra("Running from ONNX files"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no common ancestor
            raise InputError(f"{path} is no readable ONNX file ({_first_line(error)}); export it again.") from error
        self.inputs = {one.name: one.shape for one in self.session.get_inputs()}
        self.path = path

    def run(self, tensors: dict[str, Tensor], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """All outputs or some of them; what the graph does not take is left out."""
        given = {name: tensors[name].numpy() for name in self.inputs}
        return [np.asarray(one) for one in self.session.run(outputs, given)]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


@contextmanager
def _quiet() -> Generator[None]:
    """Without the exporter's notes on its own workings, which are for its developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
