"""What further pre-training, mined negatives and a teacher are worth to search on ml1m: each on and off, by seeds.

    python benchmarks/search.py [--seeds 0 1 2] [--arms plain mlm mined taught] [--cascades plain]

Trains configs/retriever/ml1m_search.yaml and configs/pruner/ml1m_search.yaml below runs/search_*, measures each model
once on the valid queries, and prints the mean and the spread over seeds. What is there already is not made again, so
that the work can be taken up. Needs data/ml1m.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

MEASURES = ("ndcg@10", "recall@10", "recall@100")
RETRIEVER, PRUNER, INFER = (f"configs/{kind}/ml1m_search.yaml" for kind in ("retriever", "pruner", "infer"))
MLM = "configs/mlm/ml1m.yaml"
RUNS = Path("runs")


def call(*command: str) -> None:
    """Run one of the project's commands; end with its error."""
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def trained(config: str, name: str, *options: str) -> dict[str, float]:
    """Train below a name and give the valid figures."""
    call("train.py", config, f"--name={name}", *options, "--resume=auto")
    return figures(name)


def done(name: str) -> bool:
    """Whether a training run has ended well."""
    return (RUNS / name / "DONE").is_file()


def inferred(stage: str, retriever: str, made: str, *options: str) -> str:
    """A folder that a stage of infer.py writes below the retriever's run, or has written."""
    folder = RUNS / retriever / made
    call("infer.py", stage, INFER, f"--name={retriever}", f"--retriever={RUNS / retriever}", *options)
    return str(folder)


def figures(name: str) -> dict[str, float]:
    """The valid figures of a run's own model; other stages (BM25, hybrid) may stand beside it."""
    kind = "pruner" if name.endswith("_pruner") else "retriever"
    stages = json.loads((RUNS / name / "results.json").read_text())["stages"]
    return next(stage["metrics"] for stage in stages if stage["name"] == f"{kind}, valid_query")


def cascade(retriever: str, seed: int) -> dict[str, float]:
    """The pruner over a retriever's candidates."""
    if done(f"{retriever}_pruner"):
        return figures(f"{retriever}_pruner")
    candidates = inferred("candidates", retriever, "candidates", "--pruner=null")
    return trained(PRUNER, f"{retriever}_pruner", f"--candidates={candidates}", f"--seed={seed}")


def arm(name: str, seed: int) -> dict[str, float]:
    """The retriever, trained the way that `name` says."""
    plain, own, options = f"search_plain_{seed}", f"search_{name}_{seed}", [f"--seed={seed}"]
    if done(own):
        return figures(own)
    if name in ("mined", "taught"):
        arm("plain", seed)
    if name == "mlm":
        if not done("ml1m_mlm"):
            call("train.py", MLM)
        options.append(f"--model.text.model={RUNS / 'ml1m_mlm' / 'model'}")
    if name == "mined":
        mined = inferred("mine", plain, "mined", "--pruner=null", "--mine.first=3", "--mine.last=50")
        options += ["--negatives.hard=2", f"--negatives.mined={mined}"]
    if name == "taught":
        cascade(plain, seed)
        taught = inferred("teach", plain, "taught", f"--pruner={RUNS / plain}_pruner")
        options += [f"--teacher.logits={taught}"]
    return trained(RETRIEVER, own, *options)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["plain", "mlm", "mined", "taught"])
    parser.add_argument("--cascades", nargs="*", default=["plain"], help="arms that a pruner is trained behind")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in args.seeds:
        for name in args.arms:
            found.setdefault(name, []).append(arm(name, seed))
            if name in args.cascades:
                found.setdefault(f"{name}, pruned", []).append(cascade(f"search_{name}_{seed}", seed))
    print(f"{'mean +- deviation':<20}" + "".join(f"{measure:>18}" for measure in MEASURES) + f"{'seeds':>8}")
    for name, runs in found.items():
        cells = []
        for measure in MEASURES:
            values = [run[measure] for run in runs if measure in run]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):>9.4f} +- {spread:.4f}" if values else f"{'-':>18}")
        print(f"{name:<20}" + "".join(cells) + f"{len(runs):>8}")


if __name__ == "__main__":
    main()
