#!/bin/bash
#SBATCH --job-name=opustomo
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300   # five minutes before the end: save and stop
#SBATCH --requeue

# Arguments: STAR file, mask, folder for the results. One process per GPU is started on this node. --load latest starts
# a new run where there is none and goes on with one that was stopped, so that a requeued job needs nothing else.
set -euo pipefail
star=$1 mask=$2 run=$3

dsd train_tomo "$star" -r "$mask" --estpose --zdim 12 -b 8 -n 30 -o "$run" \
    --multigpu --num-gpus "${SLURM_GPUS_ON_NODE:-4}" --load latest &
training=$!
trap 'kill -TERM $training' TERM   # bash hands the signal on
wait $training || wait $training
