"""`recsys demo`: make a shop, validate, train, propose, prune, recommend, report. The same commands as a user's own."""

import shlex
import sys
import time
from pathlib import Path

from recsys.errors import InputError, nearest
from recsys.results import read_results
from recsys.shards import write_atomic

CONFIGS = Path("configs")


def run_demo(arguments: list[str]) -> int:
    """Run the journey below --folder (default runs); --size is the number of items, --seed the shop's."""
    options = {"size": "1000", "seed": "0", "folder": "runs"}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in options or not value:
            raise InputError(f"Unknown option {argument!r}.{nearest(name, options)} Expected --size=N, --seed=N or --folder=DIR.")
        options[name] = value
    if not (CONFIGS / "retriever" / "shop.yaml").is_file():
        raise InputError("configs/retriever/shop.yaml is not here; run the demo from the project's folder.")
    begin = time.perf_counter()
    folder = Path(options["folder"])
    _make_shop(folder / "shop" / "data", _whole(options["size"], "size"), _whole(options["seed"], "seed"))
    done = folder / "shop" / "demo.txt"
    if done.is_file():
        print(f"The demo was run before; remove {folder / 'shop'} to run it again.")
        _say_results(folder / "shop")
    else:
        for command in _journey(folder):
            code = _say_and_run(command)
            if code:
                return code
        write_atomic(done, f"size {options['size']}, seed {options['seed']}\n")
        print(f"\nDemo finished in {time.perf_counter() - begin:.0f} s.")
    print(f"recommendations  {folder / 'shop' / 'recommendations'}\nsearch results   {folder / 'shop' / 'results'}")
    print(f"report           {folder / 'shop' / 'report.html'}")
    return 0


def _whole(value: str, name: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"--{name}={value!r} is no whole number.") from None


def _make_shop(folder: Path, size: int, seed: int) -> None:
    from recsys.data.sources.shop import write_shop

    made_from = f"size {size}, seed {seed}"
    mark = folder.parent / "data.txt"
    if folder.is_dir():
        if not mark.is_file() or mark.read_text() != made_from:
            raise InputError(f"{folder} holds another shop than {made_from}; remove {folder.parent} or give another --folder.")
        return
    write_shop(folder, size=size, seed=seed)
    mark.write_text(made_from)


def _journey(folder: Path) -> list[list[str]]:
    data = [f"--data.root={folder}/shop/data", f"--data.cache={folder}/shop/cache"]
    place = [*data, f"--runs={folder}"]
    models = [f"--retriever={folder}/shop", f"--pruner={folder}/shop_pruner", "--overwrite=true"]
    return [
        ["validate", "configs/retriever/shop.yaml", *data],
        ["train", "configs/retriever/shop.yaml", *place, "--overwrite=true"],
        ["infer", "candidates", "configs/infer/shop.yaml", *place, f"--retriever={folder}/shop", "--overwrite=true"],
        ["train", "configs/pruner/shop.yaml", *place, f"--candidates={folder}/shop/candidates", "--overwrite=true"],
        ["infer", "recommend", "configs/infer/shop.yaml", *place, *models],
        ["infer", "search", "configs/infer/shop.yaml", *place, *models],
        ["report", f"{folder}/shop"],
    ]


def _say_results(run: Path) -> None:
    from recsys.reports.page import print_results

    print(print_results(read_results(run)))


def _say_and_run(command: list[str]) -> int:
    from recsys.cli import main

    print(f"\n$ recsys {shlex.join(command)}", flush=True)
    code = main(command)
    sys.stdout.flush()
    return code
