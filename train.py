"""python train.py CONFIG [--key=value ...]: the same as `recsys train`."""

import sys

from recsys.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
