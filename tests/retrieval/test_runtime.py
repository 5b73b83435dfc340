"""onnxruntime in torch's stead: the same lists, from the same commands, and never of other weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.config import TextConfig
from recsys.data.requests import user_requests
from recsys.data.split import VALID
from recsys.errors import InputError
from recsys.models.checkpoint import save_pruner
from recsys.models.decision import DecisionConfig
from recsys.models.pruner import Pruner, PrunerConfig
from recsys.models.text import TextEncoder
from recsys.models.towers import Sizes
from recsys.recommend.cascade import Cascade
from recsys.recommend.recommender import Recommender
from recsys.recommend.run import run_stage
from recsys.recommend.settings import InferRun
from recsys.retrieval import export
from recsys.retrieval.export import ExportConfig, export_onnx, print_export
from recsys.retrieval.runtime import TORCH, ExportRecord, Runtime, open_onnx, open_torch


def models(journey) -> tuple[Path, Path]:
    return journey.folder / "runs/retriever/model", journey.folder / "runs/pruner/model"


@pytest.fixture(scope="module")
def graphs(journey, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / "onnx"
    export_onnx(*models(journey), folder, int8=True, overwrite=False)
    return folder


def opened(journey, runtime: Runtime) -> Cascade:
    run = journey.folder / "runs"
    config = journey.infer(output=run)
    return Cascade.open(str(run / "retriever"), str(run / "pruner"), config.data, 20, DecisionConfig(), runtime=runtime)


@pytest.fixture(scope="module")
def cascades(journey, graphs) -> dict[str, Cascade]:
    runtimes = {"torch": TORCH, "onnx": open_onnx(graphs, int8=False), "int8": open_onnx(graphs, int8=True)}
    return {name: opened(journey, runtime) for name, runtime in runtimes.items()}


def test_a_cascade_of_graphs_has_the_vectors_lists_and_scores_of_torch(cascades):
    plain, served = cascades["torch"], cascades["onnx"]
    np.testing.assert_allclose(served.items, plain.items, atol=1e-5)
    requests = user_requests(plain.data, VALID)
    (found, logits), (other, others) = (one.judge(requests) for one in (plain, served))
    np.testing.assert_array_equal(other.items, found.items)
    np.testing.assert_allclose(other.scores, found.scores, atol=1e-4)
    np.testing.assert_allclose(others, logits, atol=1e-4)


def test_bfloat16_is_near_is_told_apart_and_leaves_all_but_the_encoders_as_it_is(journey, cascades):
    lowered = opened(journey, open_torch("cpu", "bfloat16"))
    gap = np.abs(lowered.items - cascades["torch"].items)
    assert 0 < gap.max() < 0.3
    weights = {str(weight.dtype) for weight in lowered.retriever.model.users.parameters()}
    assert weights == {"torch.float32"}
    assert lowered.retriever.weights() != cascades["torch"].retriever.weights()


def test_a_precision_is_for_torch_alone(journey):
    with pytest.raises(InputError, match="precision bfloat16 is for runtime torch, and runtime is onnx"):
        replace(journey.infer(output=journey.folder), runtime="onnx", precision="bfloat16")


def test_int8_is_near_and_not_the_same(cascades):
    gap = np.abs(cascades["int8"].items - cascades["torch"].items)
    assert 0 < gap.max() < 0.3


def test_the_fingerprint_tells_what_computed(cascades):
    assert len({str(one.made_from) for one in cascades.values()}) == 3


def test_the_record_says_what_was_written_and_how_far_it_is_from_torch(graphs, journey):
    record = ExportRecord.read(graphs)
    assert set(record.graphs) == {"text", "items", "pruner"}  # the pruner's text encoder is the retriever's own
    assert all(one.difference < 1e-5 < (one.int8 or 0) for one in record.graphs.values())
    assert record.graphs["text"].inputs == {"input_ids": ["texts", "tokens"], "attention_mask": ["texts", "tokens"]}
    files = {f"{name}{kind}.onnx" for name in record.graphs for kind in ("", ".int8")}
    assert {path.name for path in graphs.iterdir()} == files | {"onnx.json"}
    assert "text.int8.onnx" in print_export(record.graphs, graphs)


def test_graphs_of_other_weights_are_refused(graphs, journey, tmp_path):
    shutil.copytree(graphs, tmp_path / "onnx")
    content = json.loads((tmp_path / "onnx/onnx.json").read_text())
    for weights, said in (({**content["weights"], "retriever": "x"}, "of another retriever"), ({}, "of no retriever")):
        (tmp_path / "onnx/onnx.json").write_text(json.dumps({**content, "weights": weights}))
        with pytest.raises(InputError, match=f"{said}.*--export.format=onnx --overwrite=true"):
            open_onnx(tmp_path / "onnx", int8=False).load_retriever(models(journey)[0])


def test_a_graph_that_differs_from_torch_is_not_written(journey, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "difference", lambda graph, session: 2e-4)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/old").write_text("stays")
    with pytest.raises(InputError, match=r"items\.onnx differs from torch by 2\.0e-04, more than 1e-04"):
        export_onnx(models(journey)[0], None, tmp_path / "onnx", int8=False, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx", "old"]


def test_a_split_cross_encoder_is_refused(journey, tmp_path):
    text = TextConfig(model="config:", mode="full", layers=2, width=16, heads=2, max_tokens=16)
    model = PrunerConfig(text=text, split=1)
    encoder = TextEncoder.build(text, vocab_size=50)
    save_pruner(Pruner(model, Sizes(items=9), encoder, vector_width=2), tmp_path / "split")
    with pytest.raises(InputError, match=r"model\.split\), which no ONNX file holds.*runtime: torch"):
        export_onnx(models(journey)[0], tmp_path / "split", tmp_path / "onnx", int8=False, overwrite=False)
    assert not (tmp_path / "onnx").exists()


def test_a_folder_that_is_there_is_not_replaced_unasked(graphs, journey):
    with pytest.raises(InputError, match=r"exists.*--overwrite=true"):
        export_onnx(*models(journey), graphs, int8=False, overwrite=False)


def test_what_is_not_there_says_how_to_write_it(tmp_path, graphs):
    with pytest.raises(InputError, match=r"onnx\.json is not there.*--export\.format=onnx"):
        open_onnx(tmp_path, int8=False)
    shutil.copytree(graphs, tmp_path / "onnx")
    record = ExportRecord.read(graphs)
    plain = {name: replace(one, int8=None) for name, one in record.graphs.items()}
    replace(record, graphs=plain).write(tmp_path / "onnx")
    with pytest.raises(InputError, match=r"no int8 graphs.*--export\.int8=true"):
        open_onnx(tmp_path / "onnx", int8=True)


def test_int8_is_for_onnx_alone():
    with pytest.raises(InputError, match=r"export\.format: onnx"):
        ExportConfig(int8=True)


@pytest.fixture
def run(journey, graphs, tmp_path) -> InferRun:
    """An inference run that has its graphs."""
    shutil.copytree(graphs, tmp_path / "infer/onnx")
    return journey.infer("--runtime=onnx", output=tmp_path)


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


@pytest.mark.parametrize(("stage", "key"), [("recommend", "user_id"), ("search", "query_id")])
def test_the_commands_write_the_same_lists_from_graphs(run, stage, key):
    made = read(run_stage(stage, run))
    plain = read(run_stage(stage, replace(run, runtime="torch", output=f"{run.folder}/plain")))
    assert made.select(key, "rank", "item_id").equals(plain.select(key, "rank", "item_id"))
    np.testing.assert_allclose(made["score"], plain["score"], atol=1e-4)


def test_candidates_from_graphs_are_no_candidates_from_torch(run):
    folder = run_stage("candidates", run)
    plain = run_stage("candidates", replace(run, runtime="torch", output=f"{run.folder}/plain"))
    assert read(folder).select("request", "item").equals(read(plain).select("request", "item"))
    with pytest.raises(InputError, match="made from other inputs"):
        run_stage("candidates", replace(run, runtime="torch"))


def test_single_requests_are_answered_from_graphs_too(run):
    run_stage("recommend", run)
    shop = Recommender.load(run.folder)
    assert shop.cascade.retriever.runtime.key
    assert len(shop.search("red thing")) == 10
