#!/bin/bash
# Install Intarsia, editable, from the root of the checkout: `make setup`, .ci/run and Dockerfile all run this.
#
#     docker/install.sh [--system] EXTRAS        such as docker/install.sh --system dataprep,training,web,slurm
#
# --system   as root on Debian or Ubuntu: first install Python, git and the C compiler that some libraries need
# Settings   VENV, the environment to make (.venv); PYTHON, the interpreter (python3)
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1-} == --system ]]; then
  shift
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -qy --no-install-recommends python3 python3-dev python3-venv g++ git make ca-certificates
  rm -rf /var/lib/apt/lists/*
fi
VENV=${VENV:-.venv}
"${PYTHON:-python3}" -m venv "$VENV"
# uv reads its own setting for extra wheel folders; hand over what pip was given on this machine.
UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$VENV/bin/python" -m pip config get global.find-links 2>/dev/null || true)}}
export UV_FIND_LINKS
"$VENV/bin/python" -m pip install --quiet --no-cache-dir uv
"$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" -c constraints.txt -e ".[$1]"
