#!/usr/bin/env bash
# Submits a whole inference: the catalogue's vectors by an array of tasks, then its index, then the lists by an array.
#
#   slurm/infer.sh 8 configs/infer/ml1m.yaml --threads=8          # SBATCH_PARTITION, SBATCH_GRES, ... as sbatch reads them
#
# Each job waits for the one before to end well. Submitted again after a failure, it makes only what is missing. Everything
# after the number of tasks is for `recsys infer`; STAGE=search answers queries in place of users. Prints the jobs' ids.
set -euo pipefail
[ $# -ge 2 ] || { echo "infer.sh: expected a number of tasks and a config: slurm/infer.sh 8 CONFIG" >&2; exit 2; }
tasks=$1; shift
embed=$(sbatch --parsable --array="1-$tasks" slurm/infer.sbatch embed "$@")
index=$(sbatch --parsable --dependency="afterok:$embed" --kill-on-invalid-dep=yes slurm/infer.sbatch index "$@")
lists=$(sbatch --parsable --dependency="afterok:$index" --kill-on-invalid-dep=yes --array="1-$tasks" slurm/infer.sbatch "${STAGE:-recommend}" "$@")
echo "$embed $index $lists"
