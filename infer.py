"""python infer.py STAGE CONFIG [--key=value ...]: the same as `recsys infer`."""

import sys

from recsys.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["infer", *sys.argv[1:]]))
