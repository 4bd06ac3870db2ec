# What slurm/sample.sh and slurm/evaluate.sh share; they source it in the root of the checkout.

fail() { echo "error: $*" >&2; exit 2; }

restart() { # a minute before the time limit
  if ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-20})); then scontrol requeue "$SLURM_JOB_ID"; fi
}

run_part() { # PACKAGE [ARGUMENTS...]: as part SLURM_ARRAY_TASK_ID of the job array
  PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
  [[ -x $PYTHON ]] || fail "there is no $PYTHON; run make setup, or set PYTHON"
  ((${SLURM_ARRAY_TASK_MIN:-0} == 0)) || fail "the array must begin at 0, not at $SLURM_ARRAY_TASK_MIN"
  local shard=${SLURM_ARRAY_TASK_ID:-0}/$((${SLURM_ARRAY_TASK_MAX:-0} + 1)) work status=0
  echo "part $shard: job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}, node $SLURM_JOB_NODELIST"
  export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
  trap restart USR1
  "$PYTHON" -m "$@" --shard "$shard" &
  work=$!
  while kill -0 "$work" 2>/dev/null; do wait "$work" || true; done   # a signal ends `wait` early
  wait "$work" || status=$?
  exit "$status"
}
