#!/usr/bin/env bash
# One `dial` command on several nodes:
#
#   sbatch configs/cluster/slurm.sh fit --config configs/model/... --data configs/data/... --run runs/...
#
# TRAINER names another configuration of the trainer; for models larger than a GPU, whose weights all tasks share:
#
#   TRAINER=configs/trainer/sharded.yaml sbatch --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 configs/cluster/slurm.sh fit ...
#
# Submit from the repository root, after `make install` on a node with a GPU. The folder must be visible on all nodes.
#
#SBATCH --job-name=dial
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --output=runs/slurm-%j.out
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch $0 fit|validate|test|predict ARGUMENTS..." >&2
    exit 2
fi
# In a job Slurm runs a copy of this file from its spool, so the folder is the one that it was submitted from.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/../..}"

# Lightning takes ranks and addresses from Slurm; tasks per node = trainer.devices and nodes = trainer.num_nodes, or
# the ranks wait for each other for ever. Hence both are given here, and not left to the YAML.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
export TOKENIZERS_PARALLELISM=false
export NCCL_ASYNC_ERROR_HANDLING=1
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

srun --kill-on-bad-exit=1 .venv/bin/dial "$@" \
    --trainer "${TRAINER:-configs/trainer/multinode.yaml}" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
    --trainer.devices "${SLURM_NTASKS_PER_NODE:-4}"
