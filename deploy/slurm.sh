#!/bin/bash
# Draw a universe on several nodes of a Slurm cluster, with one Ray worker per GPU.
#
#   sbatch --nodes 4 --gpus-per-node 8 deploy/slurm.sh RUN --seeds 0-99 --out s3://bucket/u.zarr
#
# Give the same command again if the job ends early: it resumes.
#SBATCH --job-name=ablatable
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
set -euo pipefail

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(echo "$nodes" | head -n 1)
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d ' ' -f 1):6379"

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap ray start --head --port=6379 --block &
sleep 20
others=$(echo "$nodes" | tail -n +2 | paste -s -d ,)
if [ -n "$others" ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --nodelist="$others" --overlap \
        ray start --address="$address" --block &
fi
sleep 20

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ablatable universe create "$@" --ray "$address" --device cuda
