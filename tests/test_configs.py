"""Every config of the project loads, and a misspelt key does not."""

from pathlib import Path

import pytest

from recsys.config import parse_run, read_task
from recsys.errors import InputError
from recsys.recommend.run import InferRun
from recsys.training.pruner_run import PrunerRun
from recsys.training.retriever_run import RetrieverRun

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))
KINDS = {"retriever": RetrieverRun, "pruner": PrunerRun, "infer": InferRun}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_config_loads_as_the_task_that_its_folder_is_named_after(path):
    task = read_task([str(path)])
    assert task == path.parent.name
    assert isinstance(parse_run(KINDS[task], [str(path)]), KINDS[task])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_misspelt_key_of_a_config_is_refused_with_the_right_one(path, tmp_path):
    copy = tmp_path / "run.yaml"
    copy.write_text(path.read_text().replace("data:", "dta:", 1))
    with pytest.raises(InputError, match="dta.*Did you mean 'data'"):
        parse_run(KINDS[read_task([str(path)])], [str(copy)])


@pytest.mark.parametrize("name", ["ml1m", "shop"])
def test_the_stages_of_one_journey_agree_on_the_data(name):
    roles = [parse_run(KINDS[task], [str(ROOT / "configs" / task / f"{name}.yaml")]).data for task in KINDS]
    assert all((one.items, one.users, one.interactions, one.split, one.root) == (
        roles[0].items, roles[0].users, roles[0].interactions, roles[0].split, roles[0].root) for one in roles)  # fmt: skip
