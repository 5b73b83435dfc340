"""The command line: train, infer, validate, plan, where, report, compare, ablate, tradeoff, learn, demo.

A fault that the user can mend is one sentence and exit code 2.
"""

import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys import __version__
from recsys.errors import InputError, nearest
from recsys.heap import keep_freed_memory

if TYPE_CHECKING:
    from recsys.config import TextConfig

HELP = """recsys: candidate generation and second selection with pretrained models

  recsys validate CONFIG                     what is in the tables, and every fault
  recsys train    CONFIG [--key=value ...]   train a retriever, a pruner or a text model (mlm); runs/NAME holds all
  recsys infer    STAGE CONFIG [--key=value ...]
                  embed        the catalogue's vectors; only what is new is made
                  index        an index of them, tuned until it finds what is asked for
                  candidates   what the retriever proposes where the answer is known: the pruner learns from it
                  mine         hard negatives of the train queries and users, for negatives.mined
                  teach        logits of the pruner, or of the retriever alone, for train queries: teacher.logits
                  recommend    lists for all users, or for those in --users=FILE
                  search       lists for a queries table
                  explain      what carried each place of the lists that are there, and a sentence for it
                  describe     a description and ad copy of every item, from its row
                  export       the text tower for sentence-transformers, or ONNX files for --runtime=onnx
  recsys plan     CONFIG --gpus=8xV100 [--nodes=2] [--efficiency=0.3] [--try]
                  before sbatch: memory, hours, negatives, data, the line to submit; --try learns one batch by heart
  recsys where    CONFIG [--key=value ...]   the folder of its run, for scripts
  recsys report   RUN [--show_ids]           one self-contained page: RUN/report.html
  recsys compare  RUN RUN ... [--stage=NAME] [--output=FILE]
                  is B better than A, and where? A table and one page: compare.html in the last RUN
  recsys ablate   RUN [--all_items]          what each source is worth to a run of infer, or to a pruner of judgements:
                                             each is hidden in turn
  recsys tradeoff RUN [--tail=SHARE] [--non_head=SHARE] [--coverage=SHARE] [--users=20000]
                  what diverse lists cost: every way of re-ranking at a range of settings, a table and RUN/tradeoff.png;
                  marks the setting that has a share of tail (and unseen), or of all but head items, or a coverage, at
                  the least loss
  recsys learn    RUN IMPRESSIONS            from lists that were shown: how much each place is looked at, and what each
                                             item's clicks say (RUN/learnt.parquet)
  recsys demo     [--size=N] [--language=zh] the whole journey on data that is made on the spot

CONFIG is a YAML file; each of its keys can be overridden, e.g. --optim.epochs=3 --data.root=DIR.
  recsys train CONFIG --help               every key, with its meaning
  recsys train CONFIG --model.text.help    the keys of a part that may be left out
  recsys train CONFIG --print_config       the full config
`python train.py ...` and `python infer.py ...` are the same commands.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 faults found (validate), 2 bad input, 130 stopped."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if given else 2
    if given[0] == "--version":
        print(__version__)
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return _command(given[0])(given[1:])
    except InputError as error:
        print(f"recsys: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, or a file that may not be read, where nobody expected it
        place = f"{error.filename}: " if error.filename else ""
        print(f"recsys: {place}{error.strerror or error}. Check rights and free space, and try again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("recsys: stopped. Parts and caches that were finished are kept and not made again.", file=sys.stderr)
        return 130
    except SystemExit as end:  # the parser's own --help and --print_config
        return end.code if isinstance(end.code, int) else 0


def _command(name: str) -> Callable[[list[str]], int]:
    commands = {"train": _train, "infer": _infer, "validate": _validate, "report": _report, "compare": _compare}
    commands |= {
        "demo": _demo,
        "ablate": _ablate,
        "tradeoff": _tradeoff,
        "learn": _learn,
        "where": _where,
        "plan": _plan,
    }
    if name not in commands:
        raise InputError(f"Unknown command {name!r}.{nearest(name, commands)} Expected one of {', '.join(commands)}.")
    return commands[name]


# Each command imports what it needs when it runs: `recsys --help` is instant, and validation needs no torch.


def _train(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.stopping import Interrupted, request

    request.listen()  # before torch is read, which takes seconds
    keep_freed_memory()
    from recsys.config import parse_run, read_task

    try:
        kind, train = _training(read_task(arguments), arguments[0])
        run = train(parse_run(kind, arguments, program="recsys train"))
    except Interrupted as stop:
        kept = [one for one in arguments if not one.startswith(("--resume", "--overwrite"))]
        print(f"{stop}\nrecsys train {shlex.join(kept)} --resume=auto", file=sys.stderr)
        request.ignore()
        return stop.code
    except BaseException:
        request.forget()
        raise
    request.forget()
    from recsys.training.distributed import first_process

    if first_process():
        _print_results(run)
    return 0


def _training(task: str, config: str) -> tuple[type, Callable[[Any], Path]]:
    """The settings of a task, and what trains it."""
    if task == "retriever":
        from recsys.retrieval.mine import mine_round
        from recsys.training.retriever_run import RetrieverRun, train_retriever

        return RetrieverRun, partial(train_retriever, mine=mine_round)
    if task == "pruner":
        from recsys.training.pruner_run import PrunerRun, train_pruner

        return PrunerRun, train_pruner
    if task == "mlm":
        from recsys.training.mlm_run import MlmRun, train_mlm

        return MlmRun, train_mlm
    hint = nearest(task, ["retriever", "pruner", "mlm"])
    raise InputError(f"{config} has task {task!r}; train takes retriever, pruner or mlm.{hint}")


def _asks_for_help(arguments: list[str]) -> bool:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return True
    return False


def _infer(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.config import parse_run, read_task

    stage, rest = arguments[0], arguments[1:]
    if rest and read_task(rest) != "infer":
        raise InputError(f"{rest[0]} has another task; expected a config with task: infer, which names the runs.")
    from recsys.recommend.run import STAGES, run_stage
    from recsys.recommend.settings import InferRun

    if stage not in STAGES:
        raise InputError(f"Unknown stage {stage!r}.{nearest(stage, STAGES)} Expected one of {', '.join(STAGES)}.")
    if not rest:
        raise InputError(f"Expected a config: recsys infer {stage} CONFIG, e.g. configs/infer/ml1m.yaml")
    config = parse_run(InferRun, rest, program=f"recsys infer {stage}")
    keep_freed_memory()
    print(run_stage(stage, config))
    if stage in ("recommend", "search"):
        _print_results(config.folder)
    return 0


def _validate(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.config import read_model_text, read_part
    from recsys.tables import DataConfig, render, validate

    overrides = [one for one in arguments[1:] if one != "--show_ids"]
    config = read_part(Path(arguments[0]), "data", DataConfig, overrides)
    if config is None:
        raise InputError(f"{arguments[0]} has no `data`; expected a folder of tables and the roles of their columns.")
    report = validate(config, _unknown_share(read_model_text(Path(arguments[0]))), show_ids="--show_ids" in arguments)
    print(render(report))
    return 1 if report.errors else 0


def _unknown_share(text: "TextConfig | None") -> "Callable[[Sequence[str]], float] | None":
    """Share of tokens that the run's own tokenizer does not know, where it has one that is not trained on the data."""
    if text is None or text.from_scratch:
        return None
    from recsys.data.text import load_tokenizer, unknown_share

    tokenizer = load_tokenizer(text, [], Path())
    return lambda texts: unknown_share(tokenizer, texts)


def _report(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.recommend.latency import measure_latency
    from recsys.reports.page import write_page

    unknown = [one for one in arguments[1:] if one != "--show_ids"]
    if unknown:
        hint = nearest(unknown[0], ["--show_ids"])
        raise InputError(f"Unknown option {unknown[0]}.{hint} Expected --show_ids or nothing.")
    run = Path(arguments[0])
    try:
        for name, values in measure_latency(run).items():
            print(f"{name}: p50 {values['p50']:.1f} ms, p99 {values['p99']:.1f} ms")
    except InputError as error:  # figures can be shown where the models or the data are not
        print(f"recsys: latency was not measured. {error}", file=sys.stderr)
    print(write_page(run, show_ids="--show_ids" in arguments))
    return 0


def _compare(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.reports.compare import compare_runs, print_comparison, read_runs
    from recsys.reports.compare_page import write_comparison

    options = _options([one for one in arguments if one.startswith("--")], ("--stage", "--output"))
    runs = read_runs([Path(one) for one in arguments if not one.startswith("--")])
    pairs = compare_runs(runs, options.get("--stage"))
    print(print_comparison(pairs))
    print(write_comparison(pairs, Path(options["--output"]) if "--output" in options else None))
    return 0


def _ablate(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.config import parse_run
    from recsys.recommend.ablate import ablate, write_ablations
    from recsys.recommend.settings import InferRun
    from recsys.reports.ablation import print_ablation, read_ablation
    from recsys.reports.files import read_json

    unknown = [one for one in arguments[1:] if one != "--all_items"]
    if unknown:
        hint = nearest(unknown[0], ["--all_items"])
        raise InputError(f"Unknown option {unknown[0]}.{hint} Expected --all_items or nothing.")
    run = Path(arguments[0])
    if not (run / "infer.yaml").is_file() and (run / "model").is_dir() and len(arguments) == 1:
        from recsys.recommend.judge import ablate_judged, print_judged

        print(print_judged(ablate_judged(run)))
        return 0
    _inference_run(arguments[0])
    found = ablate(parse_run(InferRun, [str(run / "infer.yaml")]), all_items="--all_items" in arguments)
    path = write_ablations(run, found)
    print(print_ablation(read_ablation(read_json(path), str(path))))
    print(path)
    return 0


def _tradeoff(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.config import parse_run
    from recsys.recommend.settings import InferRun
    from recsys.recommend.tradeoff import MOST, draw_tradeoff, write_tradeoff
    from recsys.reports.files import read_json
    from recsys.reports.tradeoff import draw_png, print_tradeoff, read_tradeoff
    from recsys.shards import write_atomic

    run, options = (
        _inference_run(arguments[0]),
        _options(arguments[1:], ("--tail", "--non_head", "--coverage", "--users")),
    )
    most, wanted = _count(options.pop("--users", str(MOST))), _wanted_shares(options)
    path = write_tradeoff(run, draw_tradeoff(parse_run(InferRun, [str(run / "infer.yaml")]), wanted, most))
    prices = read_tradeoff(read_json(path), str(path))
    assert prices is not None
    print(print_tradeoff(prices))
    write_atomic(path.with_suffix(".png"), draw_png(prices))
    print(path.with_suffix(".png"))
    return 0


def _learn(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    if len(arguments) != 2:
        raise InputError("Expected a run of infer and a table: recsys learn RUN IMPRESSIONS")
    from recsys.config import parse_run
    from recsys.data.prepare import prepare
    from recsys.recommend.learn import LEARNT, learn, print_learnt, read_impressions
    from recsys.recommend.loop import ExploreConfig
    from recsys.recommend.settings import InferRun
    from recsys.shards import write_atomic

    run = _inference_run(arguments[0])
    config = parse_run(InferRun, [str(run / "infer.yaml")]).data
    data = prepare(config)
    ids = data.tables.items[config.items.id]
    found = learn(data, ids, read_impressions(Path(arguments[1]), ids), ExploreConfig())
    print(print_learnt(found))
    content = io.BytesIO()
    found.items.write_parquet(content)
    write_atomic(run / LEARNT, content.getvalue())
    print(run / LEARNT)
    return 0


def _inference_run(folder: str) -> Path:
    if not (Path(folder) / "infer.yaml").is_file():
        raise InputError(f"{folder} is no run of infer: it has no infer.yaml. Make one with: infer.py recommend CONFIG")
    return Path(folder)


def _count(value: str) -> int:
    if not value.isdecimal() or not int(value):
        raise InputError(f"--users is {value!r}; expected a number of users from 1.")
    return int(value)


def _wanted_shares(options: dict[str, str]) -> dict[str, float]:
    """Least values of measures: --tail=.3 is tail@10 of .3."""
    found = {}
    for name, value in options.items():
        try:
            found[f"{name.removeprefix('--')}@10"] = float(value)
        except ValueError as error:
            raise InputError(f"{name} is {value!r}; expected a share of the places, such as 0.3.") from error
    return found


def _plan(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.config import parse_run, read_task
    from recsys.training import mlm_run, plan, pruner_run, retriever_run

    own = ("--gpus", "--nodes", "--efficiency")
    arguments = _joined(arguments, own)
    options = _options([one for one in arguments if one.partition("=")[0] in own], own)
    if "--gpus" not in options:
        raise InputError("Expected --gpus=NUMBERxKIND, e.g. recsys plan configs/retriever/ml1m.yaml --gpus=8xV100")
    machines = plan.Machines.parse(
        options["--gpus"], options.get("--nodes", "1"), options.get("--efficiency", str(plan.EFFICIENCY))
    )
    rest = [one for one in arguments if one.partition("=")[0] not in (*own, "--try")]
    task = read_task(rest)
    kind, _ = _training(task, rest[0])
    config: Any = parse_run(kind, rest, program="recsys plan")
    opens = {"retriever": retriever_run, "pruner": pruner_run, "mlm": mlm_run}
    opened = opens[task].open_training(config)
    module: Any = opened[0]
    module.log = module.log_dict = lambda *_, **__: None  # there is no trainer
    print(plan.describe(plan.plan(config, module, opened[1], machines), machines, rest))
    if "--try" in arguments:
        first, last = plan.overfit(module, opened[1])
        print(f"\none batch, learnt by heart: loss {first:.4f} -> {last:.4f}")
        if not last < 0.5 * first:
            raise InputError("A batch cannot be learnt by heart: a rate, a frozen part or the data may be wrong.")
    return 0


def _joined(arguments: list[str], names: Sequence[str]) -> list[str]:
    """`--gpus 8xV100` as `--gpus=8xV100`, for these options."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] in names and not argument.startswith("-"):
            found[-1] = f"{found[-1]}={argument}"
        else:
            found.append(argument)
    return found


def _where(arguments: list[str]) -> int:
    if _asks_for_help(arguments):
        return 0
    from recsys.config import read_place

    print(read_place(arguments))
    return 0


def _options(arguments: list[str], known: Sequence[str]) -> dict[str, str]:
    """--name=value -> value by --name."""
    found = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in known or not value:
            expected = " or ".join(f"{one}=VALUE" for one in known)
            hint = nearest(name, known) if name not in known else ""
            raise InputError(f"Unknown option {argument}.{hint} Expected {expected}.")
        found[name] = value
    return found


def _demo(arguments: list[str]) -> int:
    from recsys.demo import run_demo

    return run_demo(arguments, main)


def _print_results(run: Path) -> None:
    from recsys.reports.cascade import print_cascade
    from recsys.reports.fairness import print_fairness
    from recsys.reports.page import print_results
    from recsys.results import read_results

    results = read_results(run)
    if results["stages"]:
        print(print_results(results))
    if results.get("cascade"):
        print(f"\n{print_cascade(results)}\n")
    if results.get("fairness"):
        print(f"{print_fairness(results)}\n")
    print(run)


if __name__ == "__main__":
    raise SystemExit(main())
