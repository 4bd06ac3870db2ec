#!/bin/bash
# A command of `python -m evaluation`; one that makes a bench's edits is divided among the parts of a job array:
#
#     sbatch --array=0-7 [sbatch options] slurm/evaluate.sh cocoee run --bench DIR --model DIR --results DIR
#     sbatch [sbatch options] slurm/evaluate.sh fid DIR DIR
#
# Contract   submitted from the root of the checkout; it and all that is named are on a file system that all
#            nodes see. An array is 0-LAST without gaps, for the commands that know --shard.
# Result     the same figures, whatever the number of parts. The logs are evaluate-JOBID.out, one for each part.
# Resume     submit the same command again: edits that are there stay. Slurm starts a part again by itself when
#            its node fails or it is preempted, and this script does so before the time limit.
# Settings   PYTHON, the interpreter (.venv/bin/python); MAX_RESTARTS, of a part by itself (20).
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60          # to this script, a minute before the time limit: start again
#SBATCH --requeue
#SBATCH --open-mode=append          # a restarted part writes on in the same log
#SBATCH --output=%x-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?error: this is a job script: sbatch --array=0-7 slurm/evaluate.sh ...}"
source slurm/part.sh || { echo "error: submit from the root of the checkout, $PWD is not one" >&2; exit 2; }
run_part evaluation "$@"
