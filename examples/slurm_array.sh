#!/bin/bash
# Embed a folder of slides with 64 jobs of a Slurm array, each with a part of the slides of its own.
# No job waits for another. Submit it again after a failure: what is there and current is kept.
#
#   sbatch examples/slurm_array.sh BUNDLE SLIDES OUT
#   edgepath slides check OUT --slides SLIDES        # complete?
#
#SBATCH --job-name=edgepath-slides
#SBATCH --array=1-64
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=08:00:00
set -euo pipefail
bundle=$1 slides=$2 out=$3

edgepath slides "$bundle" "$slides" --out "$out" \
    --shard "${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}" --threads "${SLURM_CPUS_PER_TASK}"
