#!/usr/bin/env bash
#SBATCH --job-name=fairweather
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# Train on one node or several under Slurm. Arguments go to train/run.py:
#
#   sbatch --nodes=2 scripts/slurm.sh cdfkd_r101 --data data/packed/daytime_clear_train --teacher runs/teacher --out runs/student
#
# One launcher runs on each node and starts one process a GPU. Two minutes before the time is up Slurm sends SIGTERM. The
# run saves, ends and is queued again; the same command then continues it. When one process dies, its launcher ends, and
# --kill-on-bad-exit ends the launchers of the other nodes. The batch size is that of all GPUs together. --out and --data
# must lie on a file system that all nodes share.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"

if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "slurm: this is a batch script; submit it with: sbatch scripts/slurm.sh RECIPE --data DIR --out runs/NAME" >&2
    exit 2
fi
if [ $# -eq 0 ]; then
    echo "slurm: no recipe given; for example: sbatch scripts/slurm.sh teacher_r101 --data DIR --out runs/teacher" >&2
    exit 2
fi
if [ ! -x .venv/bin/torchrun ] || [ ! -f train/run.py ]; then
    echo "slurm: $PWD has no .venv/bin/torchrun or no train/run.py; submit from the project's folder, after scripts/setup.sh" >&2
    exit 2
fi

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node need different ports
gpus=${SLURM_GPUS_ON_NODE:-1}
cpus=${SLURM_CPUS_PER_TASK:-$gpus}
export OMP_NUM_THREADS=$((cpus < gpus ? 1 : cpus / gpus))
# How long a launcher waits for its processes to save after SIGTERM; torch older than 2.12 always waits 30 seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110

status=0
# Since Slurm 22.05 srun does not inherit --cpus-per-task from sbatch.
srun --kill-on-bad-exit=1 --cpus-per-task="$cpus" .venv/bin/torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="$gpus" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head_node:$port" \
    train/run.py "$@" || status=$?

# Not finished, but saved: queue it again. A mistake or a bug is not repeated.
if [ "$status" -ne 0 ] && [ -z "${SLURM_JOB_END_TIME:-}" ]; then
    echo "slurm: SLURM_JOB_END_TIME is not set, so it is unknown whether time ran out, and the job is not queued again;" \
        "if the run's last line is that it stopped and saved, submit the same command again" >&2
elif [ "$status" -ne 0 ] && [ "$(date +%s)" -gt $((SLURM_JOB_END_TIME - 180)) ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
