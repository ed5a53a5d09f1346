#!/bin/bash
# Embed a folder of slides on all nodes of a Slurm allocation with Ray: the same command runs on each node, the first
# one becomes the head. Bundle, slides and output have to be at the same paths on every node.
#
#   sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=16 examples/ray_symmetric_run.sh BUNDLE SLIDES OUT
set -euo pipefail
bundle=$1 slides=$2 out=$3
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    edgepath slides "$bundle" "$slides" --out "$out" --ray auto \
    --workers "$((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK / 4))" --threads 4
