#!/bin/bash
#SBATCH --job-name=opustomo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300     # to the processes themselves, five minutes before the end
#SBATCH --requeue

# Arguments: STAR file, mask, folder for the results (on a file system that all nodes see).
# srun starts one process per GPU; they find each other by the two variables.
set -euo pipefail
star=$1 mask=$2 run=$3

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun dsd train_tomo "$star" -r "$mask" --estpose --zdim 12 -b 8 -n 30 -o "$run" --load latest
