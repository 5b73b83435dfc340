"""Every config of the project loads, and a misspelt key does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from recsys.config import parse_run, read_task
from recsys.errors import InputError
from recsys.recommend.settings import InferRun
from recsys.tables import HistoryConfig
from recsys.training.mlm_run import MlmRun
from recsys.training.pruner_run import PrunerRun
from recsys.training.retriever_run import RetrieverRun

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))
KINDS = {"retriever": RetrieverRun, "pruner": PrunerRun, "mlm": MlmRun, "infer": InferRun}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_config_loads_as_the_task_that_its_folder_is_named_after(path):
    task = read_task([str(path)])
    assert task == path.parent.name
    assert isinstance(parse_run(KINDS[task], [str(path)]), KINDS[task])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_misspelt_key_of_a_config_is_refused_with_the_right_one(path, tmp_path):
    copy = tmp_path / "run.yaml"
    copy.write_text(path.read_text().replace("data:", "dta:", 1))
    with pytest.raises(InputError, match=r"dta.*Did you mean 'data'"):
        parse_run(KINDS[read_task([str(path)])], [str(copy)])


@pytest.mark.parametrize("name", ["ml1m", "shop", "shop_sources"])
def test_the_stages_of_one_journey_agree_on_the_data(name):
    stages = ("retriever", "pruner", "infer")
    runs = {task: parse_run(KINDS[task], [str(ROOT / "configs" / task / f"{name}.yaml")]) for task in stages}
    one, *others = [replace(run.data, history=HistoryConfig()) for run in runs.values()]
    assert all(other == one for other in others)
    folders = {task: f"{run.runs}/{run.name}" for task, run in runs.items()}
    assert (runs["infer"].retriever, runs["infer"].pruner) == (folders["retriever"], folders["pruner"])
    assert runs["pruner"].candidates == f"{folders['infer']}/candidates"
    lengths = {run.data.history.max_items for run in runs.values()}
    assert len(lengths) == 1
