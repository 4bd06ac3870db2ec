# Where the commands of a job script run; the script sources this file in the root of the checkout.
# `fail` is the script's own.
#
# CONTAINER            image in which they run; without it they run on the nodes themselves
# CONTAINER_RUNTIME    pyxis (srun --container-image) or apptainer; by default apptainer for a file *.sif and for
#                      docker://..., library://..., oras://..., and pyxis for everything else
# CONTAINER_MOUNTS     folders that the container sees besides the checkout: /data,/scratch:/mnt
#
# The image brings Python and the libraries; the code is the checkout's, at the same path inside and outside.

# Sets  on_srun   options of an srun that starts tasks
#       in_task   words before the command of a task
#       at_once   words before a command that this script itself runs
#       PYTHON    the interpreter
use_container() {
  on_srun=() in_task=() at_once=()
  if [[ -z ${CONTAINER-} ]]; then
    PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
    [[ -x $PYTHON ]] || fail "$PYTHON does not exist; run make setup, or set PYTHON"
    return
  fi
  PYTHON=${PYTHON:-/opt/venv/bin/python}   # where Dockerfile puts it
  local runtime=${CONTAINER_RUNTIME-} mounts="$PWD:$PWD" folder
  for folder in ${CONTAINER_MOUNTS:+${CONTAINER_MOUNTS//,/ }}; do
    [[ $folder == *:* ]] || folder=$folder:$folder
    [[ -e ${folder%%:*} ]] || fail "CONTAINER_MOUNTS has ${folder%%:*}: the folder does not exist"
    mounts+=,$folder
  done
  if [[ -z $runtime ]]; then
    case $CONTAINER in
      *.sif | docker://* | library://* | oras://*) runtime=apptainer ;;
      *) runtime=pyxis ;;
    esac
  fi
  case $runtime in
    pyxis)
      srun --help 2>&1 | grep -q -e --container-image ||
        fail "CONTAINER=$CONTAINER: srun has no --container-image here (pyxis is not installed); give a file *.sif"
      # The image's own values would win over the job's.
      on_srun=("--container-image=$CONTAINER" "--container-mounts=$mounts" "--container-workdir=$PWD"
        --container-env=PYTHONPATH,OMP_NUM_THREADS)
      at_once=(srun --overlap --nodes=1 --ntasks=1 --ntasks-per-node=1 "${on_srun[@]}")
      export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # since Slurm 22.05 srun does not inherit it
      ;;
    apptainer)
      command -v apptainer >/dev/null || fail "CONTAINER=$CONTAINER: the command apptainer is not found on $HOSTNAME"
      in_task=(apptainer exec --bind "$mounts" --pwd "$PWD")
      [[ ! -e /dev/nvidiactl ]] || in_task+=(--nv)
      in_task+=("$CONTAINER")
      at_once=("${in_task[@]}")
      ;;
    *) fail "CONTAINER_RUNTIME=$runtime is not pyxis or apptainer" ;;
  esac
  echo "container: $CONTAINER with $runtime, folders $mounts"
}
