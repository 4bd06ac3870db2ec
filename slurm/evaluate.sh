#!/bin/bash
# A command of `python -m evaluation`; if it makes a bench's edits, the parts of a job array share them:
#
#     sbatch --array=0-7 [sbatch options] slurm/evaluate.sh cocoee run --bench DIR --model DIR --results DIR
#     sbatch [sbatch options] slurm/evaluate.sh fid DIR DIR
#
# Contract   submit from the root of the checkout; the checkout and all files in the command are on a file system
#            that all nodes see. An array is 0-LAST without gaps, and only for commands with the option --shard.
# Result     the same figures with any number of parts. The logs are evaluate-JOBID.out, one for each part.
# Resume     submit the same command again: existing edits stay. Slurm restarts a part if its node fails or it is
#            preempted; this script restarts it before the time limit.
# Settings   PYTHON, the interpreter (.venv/bin/python); MAX_RESTARTS, the automatic restarts of a part (20).
#            CONTAINER, an image to run in (docs/slurm.md has CONTAINER_RUNTIME and CONTAINER_MOUNTS).
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60          # to this script, a minute before the time limit: restart
#SBATCH --requeue
#SBATCH --open-mode=append          # a restarted part continues the same log
#SBATCH --output=%x-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?error: this is a job script; submit it: sbatch --array=0-7 slurm/evaluate.sh ...}"
source slurm/part.sh || { echo "error: submit from the root of the checkout; $PWD is not one" >&2; exit 2; }
run_part evaluation "$@"
