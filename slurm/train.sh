#!/bin/bash
# Begin or continue one training run on the nodes of a Slurm job, on GPUs or CPUs:
#
#     sbatch [sbatch options] slurm/train.sh CONFIG.yaml data.shards=DIR run=RUN [a.b=c ...]
#     sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 slurm/train.sh CONFIG.yaml ...
#
# Contract   submit from the root of the checkout; the checkout, the shards and RUN are on a file system that all
#            nodes see; one task per GPU. Ranks find each other through Slurm's own variables, and the port is
#            made from the job's id: no hostfile, no ssh.
# Result     RUN/model; exit code 0 once it exists. The log is train-JOBID.out: the plan, the output of rank 0,
#            and at the end the error of the rank that failed first. RUN/logs/rank-N.out has all output of rank N.
# Resume     submit the same command again: it continues from the newest complete checkpoint.
# Restarts   the job restarts automatically after a preemption or the loss of a node; two minutes before the time
#            limit (the run is saved first); and after a rank or one of its loader workers is killed, unless that
#            happens three times without a checkpoint in between. A node on which that happened twice is excluded
#            from then on, if the partition has enough others.
# End        the job ends for good when the run is finished, when a rank fails with an error, and on scancel (the
#            run is saved within the 30 s, or the KillWait, that the cluster grants).
# Settings   PYTHON, the interpreter (.venv/bin/python); MAX_RESTARTS, the number of automatic restarts (50).
#            CONTAINER, an image to run in (docs/slurm.md has CONTAINER_RUNTIME and CONTAINER_MOUNTS).
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120           # to every rank, two minutes before the time limit: save and stop
#SBATCH --requeue
#SBATCH --open-mode=append          # a restarted job continues the same log
#SBATCH --output=%x-%j.out
set -euo pipefail
# No trap on TERM: scancel ends this shell at once, so nothing below restarts the job.

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID-} ]] || fail "this is a job script; submit it: sbatch slurm/train.sh CONFIG.yaml ..."
cd "$SLURM_SUBMIT_DIR"
[[ -f training/loop.py ]] || fail "submit from the root of the checkout; $PWD is not one"
source slurm/container.sh
use_container
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # since Slurm 22.05 srun does not inherit it
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}   # unresolved host names are not errors here
if [[ -n ${CONTAINER-} ]]; then   # which has no scontrol to ask for the first host
  MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
  export MASTER_ADDR
fi
job=$SLURM_JOB_ID restarts=${SLURM_RESTART_COUNT:-0}
# In a sweep the id of the last run is that of the whole array, so it would requeue all runs.
[[ -z ${SLURM_ARRAY_TASK_ID-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
tasks=${SLURM_NTASKS_PER_NODE:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
((gpus == 0 || gpus == tasks)) ||
  fail "$gpus GPUs and $tasks tasks per node; give one task per GPU: --ntasks-per-node=$gpus"

plan=$("${at_once[@]}" "$PYTHON" -m training "$@" --dry-run) || exit  # reports mistakes before any rank starts
run=$("${at_once[@]}" "$PYTHON" -c 'import sys, yaml; print(yaml.safe_load(sys.argv[1])["run"] or "")' "$plan")
[[ -n $run ]] || fail "no run folder given: add run=FOLDER; the same folder again continues the run"
mkdir -p "$run/logs" || fail "run=$run: the folder cannot be created"
newest() { cat "$run/checkpoints/latest" 2>/dev/null || echo "the beginning"; }
echo "train.sh: job $job, restart $restarts, run $run from $(newest)"
echo "train.sh: nodes $SLURM_JOB_NODELIST, tasks per node $tasks, CPUs per task $SRUN_CPUS_PER_TASK," \
  "GPUs per node $gpus, until $(squeue --noheader --jobs "$job" --format %e)"
((restarts)) || echo "$plan"

output=$run/logs/rank-0.out
shown=$(stat -c %s "$output" 2>/dev/null || echo 0)   # bytes that an earlier start has printed
said=$(mktemp)
trap 'rm -f "$said"' EXIT
exec 3> >(tee "$said" >&2)
listener=$!
srun --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/rank-%t.out" "${on_srun[@]}" \
  "${in_task[@]}" "$PYTHON" -m training "$@" 2>&3 3>&- &
runner=$!
tail -c "+$((shown + 1))" -F --pid=$runner "$output" 2>/dev/null 3>&- || true
status=0
wait $runner || status=$?
((status)) || exit 0
exec 3>&-
for _ in {1..50}; do # until all that srun printed is in the file
  kill -0 "$listener" 2>/dev/null || break
  sleep 0.1
done

times() { grep -cxF "$1" "$run/logs/killed"; }
exclude() { # NODE
  local all others
  all=$(squeue --noheader --jobs "$job" --format %x | grep -v null || true) # what the user has excluded, too
  all=${all:+$all,}$1
  others=$(sinfo --noheader --responding --Node --partition="$SLURM_JOB_PARTITION" --format=%N | sort -u |
    grep -cvxFf <(scontrol show hostnames "$all") || true)
  if ((others >= SLURM_JOB_NUM_NODES)); then
    echo "train.sh: ranks were killed twice on $1; it is excluded from now on"
    scontrol update JobId="$job" ExcNodeList="$all" || true
  else
    echo "train.sh: ranks were killed twice on $1; the partition has no other node to take instead"
  fi
}
again() { # WHY [NODE to exclude]
  if ((restarts < ${MAX_RESTARTS:-50})); then
    echo "train.sh: $1; the job starts again"
    trap '' TERM  # a requeue ends this shell, and only after it can the job's nodes be changed
    scontrol requeue "$job" || echo "error: the requeue failed; submit the same command again" >&2
    [[ -z ${2-} ]] || exclude "$2"
  else
    echo "error: $1, and the job was restarted $restarts times; submit the same command again" >&2
  fi
  exit "$status"
}
# srun prints in order of time: "srun: error: node2: task 1: Exited with exit code 1", or "... tasks 0-3: Killed".
# Tasks with 76 lost another rank that ended before them, in whatever order srun prints them.
ends=$(grep -oE '[^ ]+: tasks? [0-9].*' "$said" || true)
first=$(grep -m 1 -v 'exit code 76$' <<<"$ends" || echo "the ranks lost contact with each other")
case $first in
  *"exit code 75") again "saved and stopped before the end" ;;   # EX_TEMPFAIL of sysexits.h
  *"User defined signal 1"*) again "stopped while starting" ;;
  "") exit "$status" ;;                                          # not caused by a rank: srun has printed the error
esac
rank=$(sed -E 's/.*: tasks? ([0-9]+).*/\1/' <<<"$first")
# 137: a process of the rank was killed, such as a loader worker, and the rank ended because of that.
if [[ $first == *"Exited with"* && $first != *"exit code 137" ]]; then
  echo "train.sh: $first; the end of $run/logs/rank-$rank.out:" >&2
  tail -n 30 "$run/logs/rank-$rank.out" >&2
else
  place="job $job, killed after $(newest)"     # the same place every time: no progress
  node=${first%%:*}
  printf '%s\n' "$place" "job $job, killed on $node" >>"$run/logs/killed"
  (($(times "job $job, killed on $node") == 2)) || node=
  (($(times "$place") > 2)) || again "$first" "$node"
  echo "error: $first, three times without a checkpoint in between; submit the same command again" >&2
fi
exit "$status"
