#!/bin/bash
# The edits of a list of jobs, divided among the parts of a job array:
#
#     sbatch --array=0-7 [sbatch options] slurm/sample.sh JOBS --model DIR --out DIR [options of `sampling batch`]
#
# Contract   submit from the root of the checkout; the checkout, JOBS, the model and the results are on a file
#            system that all nodes see. The array is 0-LAST without gaps; without --array one job does all rows.
# Result     the same edits with any number of parts. The logs are sample-JOBID.out, one for each part; a part
#            with a row that cannot be done fails after all its other rows are done.
# Resume     submit the same command again: existing edits stay. Slurm restarts a part if its node fails or it is
#            preempted; this script restarts it before the time limit.
# Settings   PYTHON, the interpreter (.venv/bin/python); MAX_RESTARTS, the automatic restarts of a part (20).
#            CONTAINER, an image to run in (docs/slurm.md has CONTAINER_RUNTIME and CONTAINER_MOUNTS).
#SBATCH --job-name=sample
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60          # to this script, a minute before the time limit: restart
#SBATCH --requeue
#SBATCH --open-mode=append          # a restarted part continues the same log
#SBATCH --output=%x-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?error: this is a job script; submit it: sbatch --array=0-7 slurm/sample.sh ...}"
source slurm/part.sh || { echo "error: submit from the root of the checkout; $PWD is not one" >&2; exit 2; }
run_part sampling batch "$@"
