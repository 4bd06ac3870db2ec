# Functions for slurm/sample.sh and slurm/evaluate.sh, which source this file in the root of the checkout.

fail() { echo "error: $*" >&2; exit 2; }

source slurm/container.sh

restart() { # a minute before the time limit
  if ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-20})); then scontrol requeue "$job"; fi
}

run_part() { # PACKAGE [ARGUMENTS...]: runs part SLURM_ARRAY_TASK_ID of a job array, or all of the work
  use_container
  local job=$SLURM_JOB_ID shard=() work status=0
  if [[ -n ${SLURM_ARRAY_TASK_ID-} ]]; then
    # A gap in the array would leave its rows undone.
    ((SLURM_ARRAY_TASK_COUNT == SLURM_ARRAY_TASK_MAX + 1)) || fail "the array must be 0-LAST, without gaps"
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID   # the last part's own id is that of the whole array
    shard=(--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
  fi
  echo "job $job, restart ${SLURM_RESTART_COUNT:-0}, node $SLURM_JOB_NODELIST ${shard[*]}"
  export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
  trap restart USR1
  "${at_once[@]}" "$PYTHON" -m "$@" "${shard[@]}" &
  work=$!
  while kill -0 "$work" 2>/dev/null; do wait "$work" || true; done   # a signal ends `wait` early
  wait "$work" || status=$?
  exit "$status"
}
