"""Settings that differ, across the trainings that a run stands on."""

import pytest
import yaml

from recsys.errors import InputError
from recsys.reports.differences import find_differences, trainings


def write(path, **content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def make_run(folder, name: str, *, epochs: int, layers: int = 2, items: int = 60) -> None:
    data = {"root": "shop", "cache": f"{name}/cache", "history": {"max_items": items}}
    optim = {"epochs": epochs}
    write(folder / name / "config.yaml", task="retriever", name=name, data=data, optim=optim, model={"layers": layers})
    write(folder / f"{name}_pruner/config.yaml", task="pruner", name=f"{name}_pruner", data=data, candidates=name)
    runs = {"retriever": str(folder / name), "pruner": str(folder / f"{name}_pruner")}
    write(folder / f"{name}_lists/infer.yaml", task="infer", name=name, candidates=50, data=data, **runs)


def test_only_keys_that_differ_are_told_with_dotted_names(tmp_path):
    make_run(tmp_path, "a", epochs=8)
    make_run(tmp_path, "b", epochs=3, layers=1)
    found = [(one.key, one.tasks, one.values) for one in find_differences([tmp_path / "a", tmp_path / "b"])]
    assert found == [("optim.epochs", ["retriever"], ["8", "3"]), ("model.layers", ["retriever"], ["2", "1"])]


def test_lists_stand_on_the_trainings_that_they_name(tmp_path):
    make_run(tmp_path, "a", epochs=8)
    assert trainings(tmp_path / "a_lists") == {"retriever": tmp_path / "a", "pruner": tmp_path / "a_pruner"}
    make_run(tmp_path, "b", epochs=8, items=20)
    found = find_differences([tmp_path / "a_lists", tmp_path / "b_lists"])
    assert [(one.key, one.tasks, one.values) for one in found] == [
        ("data.history.max_items", ["retriever", "pruner", "infer"], ["60", "20"])
    ]


def test_a_key_that_one_run_lacks_is_told_with_a_dash(tmp_path):
    write(tmp_path / "a/config.yaml", task="retriever", model={"text": None})
    write(tmp_path / "b/config.yaml", task="retriever", model={"text": {"mode": "full"}}, tasks=["next_item"])
    found = [(one.key, one.values) for one in find_differences([tmp_path / "a", tmp_path / "b"])]
    assert found == [
        ("model.text", ["null", "-"]),
        ("model.text.mode", ["-", "full"]),
        ("tasks", ["-", '["next_item"]']),
    ]


def test_a_part_that_one_run_lacks_is_one_line(tmp_path):
    make_run(tmp_path, "a", epochs=8)
    make_run(tmp_path, "b", epochs=3)
    found = find_differences([tmp_path / "a", tmp_path / "b_lists"])
    assert [(one.key, one.tasks, one.values) for one in found] == [
        ("pruner", ["pruner"], ["-", "yes"]),
        ("infer", ["infer"], ["-", "yes"]),
        ("optim.epochs", ["retriever"], ["8", "3"]),
    ]


@pytest.mark.parametrize(("content", "message"), [("a: [", "not readable YAML"), ("- 1", "holds no mapping")])
def test_a_broken_config_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InputError, match=rf"config\.yaml.*{message}"):
        find_differences([tmp_path, tmp_path])
