#!/bin/bash
# Edits of a list of jobs, divided among the parts of a job array:
#
#     sbatch --array=0-7 [sbatch options] slurm/sample.sh JOBS --model DIR --out DIR [options of `sampling batch`]
#
# Contract   submitted from the root of the checkout; it, JOBS, the model and the results are on a file system
#            that all nodes see. The array is 0-LAST without gaps; without --array a single job does it all.
# Result     the same edits, whatever the number of parts. The logs are sample-JOBID.out, one for each part; a
#            part with a row that could not be done fails, after all its others are done.
# Resume     submit the same command again: what is there stays. Slurm starts a part again by itself when its
#            node fails or it is preempted, and this script does so before the time limit.
# Settings   PYTHON, the interpreter (.venv/bin/python); MAX_RESTARTS, of a part by itself (20).
#SBATCH --job-name=sample
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60          # to this script, a minute before the time limit: start again
#SBATCH --requeue
#SBATCH --open-mode=append          # a restarted part writes on in the same log
#SBATCH --output=%x-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?error: this is a job script: sbatch --array=0-7 slurm/sample.sh ...}"
source slurm/part.sh || { echo "error: submit from the root of the checkout, $PWD is not one" >&2; exit 2; }
run_part sampling batch "$@"
