# The one place for what a cluster needs before Python starts: modules, the environment, caches. Read by both scripts.
#
# module load python/3.11 cuda/12.6
# export WANDB_MODE=offline HF_HUB_OFFLINE=1      # compute nodes without a network
#
# V100: the default wheels of torch have no kernels for it (sm_70); install torch's cu126 build. It has no bfloat16:
#       trainer.precision auto takes 16-mixed there. A100: bf16-mixed.
BIN=${RECSYS_BIN:-$PWD/.venv/bin}
