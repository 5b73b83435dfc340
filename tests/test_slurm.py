"""The project's own scripts on a real two-node SLURM, private to this machine."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from recsys.data.sources.shop import write_shop

ROOT = Path(__file__).parents[1]
MISSING = [
    name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name, path="/usr/sbin:/usr/bin")
]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="a private SLURM needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurmctld slurmd munge)"),
]


class Cluster:
    """A SLURM that is up, and a data set and a config for its jobs."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config = folder, config
        self.env = {**os.environ, "SLURM_CONF": str(folder / "lab/etc/slurm.conf"), "SLURM_LAB": str(folder / "lab")}
        self.env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}

    def run(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.env, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    def submit(self, name: str, *options: str, nodes: int = 2) -> str:
        """The id of a job that trains the run `name`."""
        return self.run(
            "sbatch", "--parsable", f"--nodes={nodes}", "--ntasks-per-node=1", "--gres=gpu:1",
            f"--output={self.folder}/{name}.out", "slurm/train.sbatch", str(self.config), f"--name={name}", *options,
        )  # fmt: skip

    def state(self, job: str) -> str:
        found = self.run("scontrol", "show", "job", job)
        return next(word.split("=")[1] for word in found.split() if word.startswith("JobState="))

    def wait(self, job: str, *states: str, seconds: float = 240) -> str:
        end = time.monotonic() + seconds
        while (found := self.state(job)) not in states:
            assert time.monotonic() < end, f"job {job} is {found}, expected {states}:\n{self.logs()}"
            time.sleep(0.2)
        return found

    def wait_for(self, path: Path, lines: int, seconds: float = 120) -> None:
        """Until a file has so many lines."""
        end = time.monotonic() + seconds
        while not path.is_file() or len(path.read_text().splitlines()) < lines:
            assert time.monotonic() < end, f"{path} has no {lines} lines:\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.out"))

    def place(self, name: str) -> Path:
        return self.folder / "runs" / name


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    write_shop(folder / "shop", size=60)
    content = {
        "task": "retriever", "name": "x", "runs": str(folder / "runs"),
        "data": {
            "root": str(folder / "shop"), "cache": str(folder / "cache"), "tables": {"queries": "", "relevance": ""},
            "items": {"text": ["title"], "category": ["category"]}, "history": {"max_items": 12},
            "interactions": {"event": "event", "target_events": ["purchase"]},
        },
        "model": {"width": 16, "history": {"layers": 1, "heads": 2}}, "negatives": {"kind": "batch", "random": 16},
        "loader": {"batch_size": 8}, "optim": {"epochs": 25}, "track": {"every": 1, "wandb": "offline"},
        "trainer": {"accelerator": "cpu", "threads": 1, "check_every": 100},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    made = Cluster(folder, folder / "config.yaml")
    made.run("slurm/lab", "up")
    yield made
    made.run("slurm/lab", "down")


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> Path:
    """The run that nothing interrupts."""
    job = cluster.submit("whole")
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", cluster.logs()
    return cluster.place("whole")


def assert_same(one: Path, other: Path) -> None:
    """Weights to the bit, metrics line by line, one W&B run."""
    assert (other / "DONE").is_file()
    expected, found = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, other)
    )
    assert [name for name, weight in expected.items() if not torch.equal(weight, found[name])] == []
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    ids = {path.name.rpartition("-")[2] for path in (other / "wandb").glob("offline-run-*")}
    assert ids == {(other / "wandb_id").read_text()}


def test_a_job_trains_on_two_nodes_to_its_end(whole: Path) -> None:
    assert json.loads((whole / "results.json").read_text())["stages"]


def test_a_requeued_job_ends_in_the_same_bits(cluster: Cluster, whole: Path) -> None:
    job = cluster.submit("requeued")
    cluster.wait_for(cluster.place("requeued") / "metrics.jsonl", 20)
    cluster.run("scontrol", "requeue", job)
    cluster.wait(job, "COMPLETED", "FAILED")
    assert_same(whole, cluster.place("requeued"))
    assert "Stopped at step" in (cluster.folder / "requeued.out").read_text()


def serving(cluster: Cluster, whole: Path, name: str) -> tuple[str, Path]:
    """A config that serves every user in parts of two, and where its lists will lie."""
    content = yaml.safe_load(cluster.config.read_text())
    served = {"task": "infer", "name": name, "retriever": str(whole), "part": 2, "candidates": 10, "threads": 1}
    config = cluster.folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump({**served, "runs": content["runs"], "data": content["data"]}))
    return str(config), cluster.place(name) / "recommendations"


def written(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("[!.]*") if path.name != "DONE"}


@pytest.fixture(scope="module")
def expected(cluster: Cluster, whole: Path) -> dict[str, bytes]:
    """The lists that one job writes."""
    config, output = serving(cluster, whole, "one")
    job = cluster.run(
        "sbatch", "--parsable", f"--output={cluster.folder}/one.out", "slurm/infer.sbatch", "recommend", config
    )
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", cluster.logs()
    return written(output)


def test_vectors_index_and_lists_are_submitted_in_a_row(
    cluster: Cluster, whole: Path, expected: dict[str, bytes]
) -> None:
    config, output = serving(cluster, whole, "row")
    jobs = cluster.run("env", f"SBATCH_OUTPUT={cluster.folder}/row-%A-%a.out", "slurm/infer.sh", "2", config).split()
    assert len(jobs) == 3
    for task in (1, 2):
        assert cluster.wait(f"{jobs[-1]}_{task}", "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED", cluster.logs()
    users = len(pl.read_parquet(cluster.folder / "shop/users.parquet"))
    assert json.loads((output / "DONE").read_text())["requests"] == users
    assert written(output) == expected


@pytest.mark.slow
def test_an_array_of_which_one_task_is_killed_ends_in_the_same_bytes(
    cluster: Cluster, whole: Path, expected: dict[str, bytes]
) -> None:
    config, output = serving(cluster, whole, "killed")

    def submit() -> str:
        return cluster.run(
            "sbatch", "--parsable", "--array=3-5", f"--output={cluster.folder}/killed-%a.out", "slurm/infer.sbatch",
            "recommend", config,
        )  # fmt: skip

    job, end = submit(), time.monotonic() + 240
    while not list(output.glob("part-*.json")):
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.005)
    cluster.run("scancel", "--signal=KILL", "--full", f"{job}_4")
    states = {task: cluster.wait(f"{job}_{task}", "COMPLETED", "FAILED", "CANCELLED") for task in (3, 4, 5)}
    assert states[4] != "COMPLETED", states
    assert not (output / "DONE").exists()
    again = submit()
    for task in (3, 4, 5):
        assert cluster.wait(f"{again}_{task}", "COMPLETED", "FAILED") == "COMPLETED", cluster.logs()
    assert (output / "DONE").is_file()
    assert written(output) == expected


@pytest.mark.slow
def test_a_job_that_a_higher_partition_pushes_aside_ends_in_the_same_bits(cluster: Cluster, whole: Path) -> None:
    job = cluster.submit("pushed")
    cluster.wait_for(cluster.place("pushed") / "metrics.jsonl", 20)
    other = cluster.run(
        "sbatch", "--parsable", "--nodes=2", "--exclusive", "--partition=high", f"--output={cluster.folder}/high.out",
        "--wrap=sleep 2",
    )  # fmt: skip
    cluster.wait(other, "COMPLETED")
    cluster.wait(job, "COMPLETED", "FAILED")
    assert_same(whole, cluster.place("pushed"))


@pytest.mark.slow
def test_a_signal_during_the_imports_is_not_lost(cluster: Cluster, whole: Path) -> None:
    job = cluster.submit("early")
    cluster.wait(job, "RUNNING")
    time.sleep(2.5)  # Python reads torch
    cluster.run("scancel", "-s", "USR1", job)
    cluster.wait(job, "COMPLETED", "FAILED")
    assert_same(whole, cluster.place("early"))


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled(cluster: Cluster) -> None:
    job = cluster.submit("cancelled")
    cluster.wait_for(cluster.place("cancelled") / "metrics.jsonl", 5)
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    time.sleep(5)
    assert cluster.state(job) == "CANCELLED"


@pytest.mark.slow
def test_a_job_of_which_one_process_crashes_is_not_started_again(cluster: Cluster) -> None:
    job = cluster.submit("crashed")
    cluster.wait_for(cluster.place("crashed") / "metrics.jsonl", 5)
    found = subprocess.run(["pgrep", "-f", "train.py .*--name=crashed"], capture_output=True, text=True, check=True)
    python = [int(pid) for pid in found.stdout.split() if "python" in os.readlink(f"/proc/{pid}/exe")]
    os.kill(python[0], signal.SIGKILL)
    assert cluster.wait(job, "FAILED", "COMPLETED", "PENDING") == "FAILED"
    assert not (cluster.place("crashed") / "DONE").exists()
