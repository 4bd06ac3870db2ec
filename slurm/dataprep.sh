#!/bin/bash
# Data prep over all nodes of a Slurm job:
#
#     sbatch [sbatch options] slurm/dataprep.sh build coco --annotations A.json --images DIR --out OUT [options]
#
# Contract   submit from the root of the checkout; the checkout, the inputs and OUT are on a file system that all
#            nodes see; every node has 1 GB for Ray in addition to its workers (one per CPU, about 0.5 GB each).
# Result     the same bytes as without a cluster. The log is dataprep-JOBID.out; exit code 0 if OUT is complete.
# Resume     submit the same command again: complete shards stay, the rest is built. Slurm restarts the job if a
#            node fails or the job is preempted; this script restarts it before the time limit.
# Settings   PYTHON, the interpreter (.venv/bin/python); MAX_RESTARTS, the number of automatic restarts (20).
#            CONTAINER, an image to run in (docs/slurm.md has CONTAINER_RUNTIME and CONTAINER_MOUNTS).
#SBATCH --job-name=dataprep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60          # to this script, a minute before the time limit: restart
#SBATCH --requeue
#SBATCH --open-mode=append          # a restarted job continues the same log
#SBATCH --output=%x-%j.out
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID-} ]] || fail "this is a job script; submit it: sbatch slurm/dataprep.sh build SOURCE ..."
[[ ${1-} == build ]] || fail "slurm/dataprep.sh runs \`build\`; other commands of dataprep need no cluster"
cd "$SLURM_SUBMIT_DIR"
[[ -f dataprep/workers/pipeline.py ]] || fail "submit from the root of the checkout; $PWD is not one"
source slurm/container.sh
use_container
echo "dataprep.sh: job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}, nodes $SLURM_JOB_NODELIST"

restart() {
  if ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-20})); then scontrol requeue "$SLURM_JOB_ID"; fi
}
trap restart USR1

export PYTHON PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export CPUS=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=1
export SRUN_CPUS_PER_TASK=$CPUS                       # since Slurm 22.05 srun does not inherit it
memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-1024} * CPUS))}
((memory)) || memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)   # --mem=0 is the whole machine
export WORKER_BYTES=$(((memory > 2048 ? memory - 1024 : memory / 2) * 1024 * 1024))   # Ray itself needs the rest
export STORE_BYTES=100000000                          # statistics pass through it, never pictures
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')   # for this job only
export RAY_AUTH_TOKEN
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
host=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }')
# Above the ports of Ray's workers (10002 to 19999), below the ephemeral ports, and different for every job.
export PORT=$((20000 + SLURM_JOB_ID % 12000))
export ADDRESS=${host:-$head}:$PORT

srun --overlap --kill-on-bad-exit=1 --nodes="$SLURM_NNODES" --ntasks-per-node=1 "${on_srun[@]}" \
  "${in_task[@]}" bash slurm/ray.sh \
  >"dataprep-$SLURM_JOB_ID.ray.log" 2>&1 &
ray=$!
until "${at_once[@]}" "$PYTHON" -m ray.scripts.scripts health-check --address "$ADDRESS" >/dev/null 2>&1; do
  kill -0 "$ray" 2>/dev/null || fail "Ray did not start, see dataprep-$SLURM_JOB_ID.ray.log"
  sleep 1
done

"${at_once[@]}" "$PYTHON" -m dataprep "$@" --ray-address "$ADDRESS" &
build=$!
status=0
while kill -0 "$build" 2>/dev/null; do     # `wait` returns early when a signal arrives
  if ! kill -0 "$ray" 2>/dev/null; then    # without its cluster the build would wait forever
    echo "error: Ray has stopped" >&2
    kill "$build" 2>/dev/null || true
  fi
  sleep 1 & wait $! || true
done
wait "$build" || status=$?
kill "$ray" 2>/dev/null || true
wait "$ray" 2>/dev/null || true
log=dataprep-$SLURM_JOB_ID.ray.log
case $status in
  0 | 2) rm -f "$log" ;;                 # a mistake in the command is not in Ray's log
  *) echo "the build ended with exit code $status; Ray's log is $log; submit the same command again" >&2 ;;
esac
exit "$status"
