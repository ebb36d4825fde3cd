#!/usr/bin/env bash
# Runs a distillation on this machine, from a fresh clone, with one command.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/local.sh [RECIPE.gin [args...]]

Runs a distillation with RECIPE.gin (default: digits_ipc1.gin) on the CPU, GPUs or TPUs of this machine:
  launch/local.sh
  launch/local.sh cifar10_ipc10.gin --gin.STEPS=20000
The other arguments are passed to `frepo-scale distill`; those after -- as they are.

The command runs in the current directory. A relative RECIPE.gin is searched in it first, then in
the repository's gin/ folder. A relative workdir is relative to the current directory.

The first run creates a Python environment in the repository's .venv (Python 3.11 to 3.13 with its venv
module) and installs the package into it. The first run after a change of pyproject.toml installs again.

With --dry-run among the arguments nothing is changed: `frepo-scale distill --dry-run` prints what it
would do. If it is not installed yet, this script prints the commands that it would run.

environment:
  PYTHON                the interpreter for .venv, tried before those on PATH
  OPENBLAS_NUM_THREADS  default 1: more threads are usually much slower
  GLIBC_TUNABLES        default: huge pages for large blocks of memory
END
}

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=launch/python_env.sh
source "$here/python_env.sh"
# shellcheck source=launch/options.sh
source "$here/options.sh"

dry=''
flags=(-h --help --dry-run) valued=()
set_option() {
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry=yes ;;
  esac
}
read_options "$@"
command=("$venv/bin/frepo-scale" distill "${recipe:-digits_ipc1.gin}" ${arguments[@]+"${arguments[@]}"})

if [[ -n $dry ]] && ! { venv_works && installed base; }; then
  show_env base
  show env "OPENBLAS_NUM_THREADS=$OPENBLAS_NUM_THREADS" "GLIBC_TUNABLES=$GLIBC_TUNABLES" \
    "TF_CPP_MIN_LOG_LEVEL=$TF_CPP_MIN_LOG_LEVEL" "${command[@]}"
  exit 0
fi
ensure_env base
exec "${command[@]}" ${dry:+--dry-run}
